"""The promises, as the README would say them: what shows each, and what is not covered yet, and why."""

from __future__ import annotations

from typing import NamedTuple


class Promise(NamedTuple):
    """A promise, the tests that show it, and where the showing ends. No tests: it is not there yet."""

    id: str
    words: str
    tests: str
    uncovered: str = ""


PROMISES = [
    Promise(
        "R1",
        "Every acknowledged event is billed exactly once, whatever process is killed at whatever moment",
        "tests/crashes tests/simulation tests/producers/test_kills.py",
        "Power cuts are simulated for the spool, and for the store by cutting its WAL; no machine was switched off.",
    ),
    Promise(
        "R1b",
        "… and at every single call that changes the disk",
        "tests/crashes/test_disk_calls.py",
        "Calls of one process at a time; where threads take turns otherwise than when they were counted, a point may "
        "be another call.",
    ),
    Promise(
        "R2",
        "Rebuilding from the log gives the identical bill",
        "tests/crashes/test_rebuild.py tests/simulation",
        "Invoices do not exist yet: what is compared are the canonical exports.",
    ),
    Promise(
        "R3",
        "A spending cap is never exceeded by more than the stated bound",
        "tests/simulation",
        "The strict mode, with leases, does not exist yet. In the soft mode the bound is what is spent until the gates "
        "have heard, and that time is measured, not limited.",
    ),
    Promise(
        "R4",
        "One bad message never stops a partition",
        "tests/walk/test_malformed.py tests/laws/test_ledger_laws.py",
        "A catalog or key record that nobody can read is passed over and listed nowhere.",
    ),
    Promise(
        "R5",
        "Disk full or failing: nothing acknowledged is lost, one clear error, recovery by itself",
        "tests/crashes",
        "A disk that fails with EIO under the store ends the ledger with 1; whoever supervises it starts it again.",
    ),
    Promise(
        "R6",
        "Broker away: requests keep being served, memory stays bounded, nothing is lost",
        "tests/kafka",
        "Wants a real broker: `make test-kafka`.",
    ),
    Promise(
        "R7",
        "A wedged Kafka client is noticed and replaced",
        "tests/kafka/test_traps.py",
        "Wants a real broker: `make test-kafka`.",
    ),
    Promise(
        "R8",
        "Clocks that differ cannot move money between accounts, or lose it",
        "tests/simulation tests/schemas/test_periods.py",
        "There is no window for late events, since periods are not closed yet: an event counts when it says it "
        "happened.",
    ),
    Promise(
        "R9",
        "A closed invoice never changes; late events appear as a labelled adjustment",
        "",
        "Invoices do not exist yet.",
    ),
    Promise(
        "R10",
        "The same event id sent again, in any partition, by any process, on any day, bills once; the same id with "
        "other content is a visible conflict",
        "tests/simulation tests/consumers/test_dedupe.py",
    ),
    Promise(
        "R11",
        "Webhooks and alerts arrive at least once with a stable id; delivering again is harmless",
        "tests/analytics/test_deliveries.py tests/analytics/test_notify.py tests/simulation",
        "Invoices are not delivered, since there are none.",
    ),
    Promise(
        "R12",
        "Upgrades keep every figure",
        "tests/care/test_upgrades.py tests/crashes/test_disk_calls.py",
        "There is one released format so far, and its fixtures; the steps and the disk calls of a migration of the "
        "store are killed on it. Spool, log and snapshots are still of their first format.",
    ),
    Promise(
        "R13",
        "A damaged store is detected, or the damage is harmless; one command repairs it",
        "tests/care",
    ),
    Promise(
        "R14",
        "Two ledgers can never both write",
        "tests/crashes",
        "The lock is the kernel's: on a network file system it is as good as that one's flock. Two stores that follow "
        "one log are two, and say the same under the same ids.",
    ),
    Promise(
        "R15",
        "A revoked key is refused everywhere within the stated time, also when the log is away",
        "tests/simulation tests/laws/test_keyring_laws.py",
    ),
    Promise(
        "R16",
        "No full key ever reaches disk, log, metric, trace, export or error",
        "tests/producers/test_canary.py tests/simulation",
        "There are no pages for people yet.",
    ),
    Promise(
        "R17",
        "Every invoice line can be explained down to the last event",
        "",
        "Invoices do not exist yet.",
    ),
    Promise("R18", "Money is exact", "tests/schemas tests/vectors tests/test_house.py"),
    Promise(
        "R19",
        "It runs on: memory, threads and files stay as they are, and what falls behind catches up",
        "tests/soak",
        "By the clock: `make soak`. Weeks and months pass in the simulator only.",
    ),
    Promise(
        "R20",
        "SIGTERM drains: whatever the moment, the exit is 0 within ten seconds",
        "tests/crashes",
        "From the moment that the process handles signals. A service under uvicorn ends as uvicorn has it: by the "
        "signal, once it has drained.",
    ),
    Promise(
        "R21",
        "Servers that fork after the client was made just work",
        "tests/crashes tests/producers/test_client.py tests/kafka/test_traps.py",
    ),
    Promise(
        "R22",
        "The system proves its own completeness while it runs",
        "tests/care/test_audit.py",
        "Whoever alters the store, its seals and the file with the totals of the last look together is told only by "
        "what a rebuild shows.",
    ),
    Promise(
        "R23",
        "The tests can be trusted: seeds repeat, and planted bugs are found",
        "tests/simulation",
    ),
]

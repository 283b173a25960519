"""The trial ``care``: ``doortab ledger``, rebuilds, the desk's commands and a rival, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from doortab.__main__ import run as command
from doortab.auditing import Auditor
from doortab.catalogs import newest_catalog
from doortab.exchanging import kept_stores
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.producers.desk import Desk
from doortab.producers.pepper import load_or_create
from doortab.questions import answer
from doortab.rebuilding import export_to, promote, rebuild
from doortab.schemas import topics
from doortab.schemas.errors import NotFound, StoreBusy, TryAgain
from doortab.schemas.log import Entry
from doortab.settings import Settings, load
from doortab.wiring import run
from tests.crashes import flowing
from tests.crashes.forks import told
from tests.crashes.trials import Trial, acknowledge, acknowledged, patient

EVENTS = 40
MAX_CATALOGS = 12


def settings_in(directory: Path) -> Settings:
    """Everything that a ledger does by the clock, it does all the time."""
    flags = {"batch_records": 8, "port": 0, "audit_seconds": 1, "snapshot_seconds": 1, "alert_seconds": 1}
    return load({"data": str(directory / "data"), **flags}, {}).settings


def prepare(directory: Path) -> None:
    """A log with some events in it."""
    flowing.prepare(directory)
    log = open_log(settings_in(directory).log_url)
    for number in range(EVENTS):
        log.append(topics.USAGE, [Entry(number % 4, None, flowing.event("old", f"o{number}", number))])
    log.close()


def keep(directory: Path) -> None:
    """``doortab ledger``."""
    run(settings_in(directory), ledger=True, gate=False, say=lambda _: None)


def build(directory: Path) -> None:
    """Rebuilds and promotes, beside the running ledger or without it."""
    settings = settings_in(directory)
    while True:
        # One that was killed may have left a draft or none, and a ledger may die while it is asked.
        with contextlib.suppress(TryAgain, NotFound):
            rebuild(settings, lambda _: None)
            promote(settings)
            acknowledge(directory, "rebuilt", str(time.time()))


def rule(directory: Path) -> None:
    """Issues keys, revokes every other one, and applies a catalog now and then: each by its command.

    A rebuild puts every catalog in force that there ever was; people do not write one a second.
    """
    for number in itertools.count(len(acknowledged(directory, "ruled"))):
        issued = json.loads(
            said(directory, "keys", "issue", "--account", "a2", "--uncapped", "--reason", "x", "--json")
        )
        acknowledge(directory, "issued", issued["key_id"])
        if number % 2:
            said(directory, "keys", "revoke", issued["key_id"])
            acknowledge(directory, "revoked", issued["key_id"])
        if number % 8 == 0 and number < 8 * MAX_CATALOGS:
            catalog = directory / "catalog.toml"
            catalog.write_text(flowing.CATALOG.replace('amount = "1.00"', f'amount = "{number + 2}.00"'))
            said(directory, "apply", str(catalog))
            acknowledge(directory, "applied", f"{number + 2}")
        acknowledge(directory, "ruled", str(number))
        time.sleep(0.02)


def said(directory: Path, *words: str) -> str:
    """What a command prints. One that should be tried again is."""
    while True:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = command(["--data", str(directory / "data"), *words])
        if code == 0:
            return out.getvalue()
        assert code == TryAgain.exit_code, f"{words}: {code}: {err.getvalue()}"


def rival(directory: Path) -> None:
    """Stops the owner of the store for a moment, and wants the store meanwhile."""
    chance = random.Random()
    settings = settings_in(directory)
    while True:
        time.sleep(chance.uniform(0, 0.5))
        with contextlib.suppress(OSError, ValueError, KeyError, ProcessLookupError):
            owner = int(json.loads(settings.address_path.read_text())["pid"])
            if not is_ledger(owner):
                continue
            os.kill(owner, signal.SIGSTOP)
            if has_store(settings, owner):
                words = told(lambda: steal(settings))
                if is_ledger(owner) and has_store(settings, owner):
                    acknowledge(directory, "rivals", "refused" if f"process {owner}" in words else f"let in: {words}")
            os.kill(owner, signal.SIGCONT)


def is_ledger(process: int) -> bool:
    """Whether that process is one of this trial: its number may be another's by now."""
    return os.getpgid(process) == os.getpgid(0)


def has_store(settings: Settings, process: int) -> bool:
    """Whether the process says that it owns the store, and lives."""
    return settings.store_path.with_suffix(".owner").read_text().strip() == str(process)


def steal(settings: Settings) -> str:
    """What is said to somebody who wants the store."""
    try:
        Ledger(settings).close()
    except StoreBusy as refused:
        return str(refused)
    return "it was open to anybody"


def check(directory: Path) -> dict[str, Any]:
    """The store is whole, and what a rebuild makes; whatever the desk was told stands."""
    settings = settings_in(directory)
    ledger = Ledger(settings)
    ledger.catch_up()
    control = answer(ledger, "status", {})["control"]
    findings = Auditor(ledger).look().findings
    wrong = [f"the audit: {findings}, {control}"] if findings or control["unexplained"] != "0" else []
    exports = export_to(ledger, directory / "exports")
    wrong += desk(ledger, directory)
    ledger.close()
    shadow = Ledger(settings, store_path=directory / "anew.duckdb", publishing=False)
    shadow.catch_up()
    if export_to(shadow, directory / "anew") != exports:
        wrong.append(f"a rebuild says something else: {directory / 'exports'} and {directory / 'anew'}")
    counts = {part: sum(places.values()) for part, places in flowing.logged_by_partition(shadow.log).items()}
    shadow.close()
    if int(control["records"]) != sum(counts.values()):
        wrong.append(f"the log holds {counts} and the store counts {control}")
    rivals = acknowledged(directory, "rivals")
    wrong += [words for words in rivals if words != "refused"]
    done = {kind: len(acknowledged(directory, kind)) for kind in ("issued", "revoked", "applied", "rebuilt")}
    done |= {"kept": len(kept_stores(settings)), "refused": len(rivals)}
    return {"done": done, "lost": 0, "doubled": 0, "wrong": wrong}


def desk(ledger: Ledger, directory: Path) -> list[str]:
    """What the desk was told and is not so."""
    settings = settings_in(directory)
    reading = Desk(ledger.log, load_or_create(settings.pepper_path), actor="trial")
    reading.refresh()
    known = {key.key_id: key for key in reading.list()}
    wrong = [
        f"key {name} was issued and is not there" for name in acknowledged(directory, "issued") if name not in known
    ]
    for name in acknowledged(directory, "revoked"):
        if known[name].status != "revoked":
            wrong.append(f"key {name} was revoked and is {known[name].status}")
    newest, applied = newest_catalog(ledger.log), acknowledged(directory, "applied")
    amounts = [int(float(str(cap.amount))) for cap in newest.caps if cap.subject == "account:a1"] if newest else []
    if applied and (not amounts or amounts[0] < int(applied[-1])):
        wrong.append(f"catalog {applied[-1]} was applied, and {amounts} is in force")
    return wrong


TRIAL = Trial(
    prepare,
    {
        "ledger": (patient(keep), "data/ledger.json"),
        "rebuild": (patient(build), "rebuilt.acked"),
        "desk": (patient(rule), "ruled.acked"),
        "rival": (rival, ""),
    },
    check,
)

if __name__ == "__main__":
    sys.exit("run it as python -m tests.crashes.everyone --trial care")

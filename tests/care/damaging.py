"""Damages a store in every way that disks and people have, and sees what the doctor says and what mends it.

    python -m tests.care.damaging --directory DIR --kind file --cases 20 --seed 1

Every look is a child of its own, for DuckDB may end a process that reads a damaged file. Prints as JSON how each
case came out: ``found`` by the doctor and mended by the command that he prescribes, or ``harmless``, for the store
says the same as before, or what is ``wrong``: a difference that nobody told, or one that stayed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import pandas  # noqa: F401  (what is imported where it is used would cost each child half a second)
import pyarrow.dataset  # noqa: F401

from doortab.__main__ import run
from doortab.applying import publish
from doortab.asking import Local
from doortab.auditing import Auditor
from doortab.doctor import examine
from doortab.ledger import Ledger
from doortab.rebuilding import export_to
from doortab.schemas import catalog
from doortab.settings import Settings
from tests.care.conftest import feed, settings_of
from tests.crashes.forks import done, told
from tests.fixtures.make import CATALOG

Damage = Callable[[Path, random.Random], str]
"""Damages the store in a directory; says how, in words."""


class Template(NamedTuple):
    """A data directory to copy, and what its store must say in the end."""

    data: Path
    says: str


def prepare(directory: Path) -> Template:
    """A store with a life, closed and open: ``data``, and ``data/open`` with what it was before it was closed."""
    data = directory / "data"
    settings = settings_of(data)

    def live() -> None:
        local = Local(settings)
        publish(local.log, catalog.parse(CATALOG))
        local.close()
        for start in range(0, 200, 100):
            feed(settings, directory, range(start, start + 100))
        shutil.copytree(settings.store_path.parent, data / "older")
        feed(settings, directory, range(200, 250))
        ledger = Ledger(settings)
        ledger.store.cursor().execute("SET wal_autocheckpoint = '1GB'")
        feed_log(settings, directory)
        ledger.catch_up()
        Auditor(ledger).look()
        shutil.copytree(settings.store_path.parent, data / "open")
        ledger.close()

    assert done(live) == 0
    return Template(data, told(lambda: whole(settings_of(copied(data, directory / "plain")))))


def feed_log(settings: Settings, place: Path) -> None:
    """More events into the log, from another process than the ledger's."""
    from doortab.log.open import open_log
    from doortab.packing import Packer
    from tests.fixtures.make import event

    log = open_log(settings.log_url)
    packer = Packer(log)
    for number in range(250, 300):
        packer.add(event(number))
        if number % 10 == 9:
            packer.flush()
    packer.flush()
    log.close()


def whole(settings: Settings) -> str:
    """All that the store says once it has caught up, and that nothing is wrong with it."""
    ledger = Ledger(settings)
    try:
        ledger.catch_up()
        findings = [finding.words for finding in Auditor(ledger).look().findings]
        return json.dumps({"exports": export_to(ledger, settings.data / "whole"), "findings": findings})
    finally:
        ledger.close()


def copied(data: Path, to: Path) -> Path:
    """The data directory, under another name."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(data, to)
    return to


# ------------------------------------------------------------------------------------------ the damages


def store_in(data: Path) -> Path:
    return data / "store" / "ledger.duckdb"


def wal_in(data: Path) -> Path:
    return data / "store" / "ledger.duckdb.wal"


def opened(data: Path) -> None:
    """Puts the open store in the place of the closed one: what a kill leaves behind."""
    shutil.rmtree(data / "store")
    shutil.copytree(data / "open", data / "store")


def flip(path: Path, chance: random.Random) -> str:
    """Turns one bit; every other time where something is written."""
    held = bytearray(path.read_bytes())
    at = chance.randrange(len(held))
    if chance.random() < 0.5:
        while not held[at]:
            at = chance.randrange(len(held))
    bit = chance.randrange(8)
    held[at] ^= 1 << bit
    path.write_bytes(held)
    return f"bit {bit} of byte {at:,} of {len(held):,} in {path.name}"


def cut(path: Path, chance: random.Random) -> str:
    """Shortens the file."""
    held = path.read_bytes()
    at = chance.randrange(len(held))
    path.write_bytes(held[:at])
    return f"{path.name} cut at {at:,} of {len(held):,}"


def flip_in_file(data: Path, chance: random.Random) -> str:
    return flip(store_in(data), chance)


def flip_in_wal(data: Path, chance: random.Random) -> str:
    opened(data)
    return flip(wal_in(data), chance)


def cut_file(data: Path, chance: random.Random) -> str:
    return cut(store_in(data), chance)


def cut_wal(data: Path, chance: random.Random) -> str:
    opened(data)
    return cut(wal_in(data), chance)


def garbage(data: Path, chance: random.Random) -> str:
    store_in(data).write_bytes(chance.randbytes(chance.randrange(200_000)))
    return "a file of garbage"


def empty(data: Path, chance: random.Random) -> str:
    store_in(data).write_bytes(b"")
    return "an empty file"


def other_database(data: Path, chance: random.Random) -> str:
    store_in(data).unlink()
    with duckdb.connect(str(store_in(data))) as other:
        other.execute("CREATE TABLE meta AS SELECT 'name' AS name, 'value' AS value")
    return "a DuckDB database of somebody else"


def other_format(data: Path, chance: random.Random) -> str:
    store_in(data).unlink()
    with sqlite3.connect(store_in(data)) as other:
        other.execute("CREATE TABLE meta (name, value)")
    other.close()
    return "an SQLite database"


def wal_gone(data: Path, chance: random.Random) -> str:
    opened(data)
    wal_in(data).unlink()
    return "the WAL is gone"


def store_gone(data: Path, chance: random.Random) -> str:
    opened(data)
    store_in(data).unlink()
    return "the file is gone and its WAL is there"


def all_gone(data: Path, chance: random.Random) -> str:
    shutil.rmtree(data / "store")
    return "nothing is there"


def older(data: Path, chance: random.Random) -> str:
    shutil.rmtree(data / "store")
    shutil.copytree(data / "older", data / "store")
    return "a valid older copy"


def older_file(data: Path, chance: random.Random) -> str:
    opened(data)
    shutil.copy(data / "older" / "ledger.duckdb", store_in(data))
    return "a valid older copy beside the WAL of the newer one"


def strange_wal(data: Path, chance: random.Random) -> str:
    shutil.copy(data / "open" / "ledger.duckdb.wal", wal_in(data))
    return "an older WAL beside the file that has all of it"


def directory(data: Path, chance: random.Random) -> str:
    store_in(data).unlink()
    store_in(data).mkdir()
    return "a directory"


# A seed takes those from three times its number on: four seeds in a row, three cases each, take them all.
ONCE: list[Damage] = [garbage, empty, other_database, other_format, wal_gone, store_gone, all_gone, older, older_file]
ONCE += [strange_wal, directory]
KINDS: dict[str, list[Damage]] = {
    "file": [flip_in_file],
    "wal": [flip_in_wal],
    "cuts": [cut_file, cut_wal],
    "places": ONCE,
}

# ------------------------------------------------------------------------------------------ the looking


def doctor(settings: Settings) -> str:
    """What the doctor finds wrong with the store, as JSON."""
    return json.dumps([one for one in examine(settings) if one["part"] == "store" and one["state"] == "bad"])


def prescribed(findings: list[dict[str, str]]) -> Iterator[list[str]]:
    """The commands that mend it, each once: where there is a choice, the first."""
    commands = [match[1] for one in findings if (match := re.search(r"doortab ([a-z]+( --[a-z]+)?)", one["mends"]))]
    for command in dict.fromkeys(commands):
        yield command.split()


def judge(settings: Settings, template: Template) -> tuple[str, str]:
    """How the case came out, and what there is to say about it."""
    said = told(lambda: doctor(settings))
    if not said.startswith("["):
        return "wrong", f"the doctor does not come back: {said}"
    findings = json.loads(said)
    if not findings:
        found = told(lambda: whole(settings))
        return ("harmless", "") if found == template.says else ("wrong", f"nobody told, and it says {found}")
    if any("mends" not in one for one in findings):
        return "wrong", f"nothing mends {findings}"
    for words in prescribed(findings):
        status = done(lambda words=words: command(settings, words))  # type: ignore[misc]
        if status != (1 if words == ["audit"] else 0):
            return "wrong", f"{findings}: doortab {' '.join(words)} ended with {status}"
    found = told(lambda: whole(settings))
    if found != template.says:
        return "wrong", f"{findings}: mended, and it says {found} and not {template.says}"
    return "found", findings[0]["words"]


def command(settings: Settings, words: list[str]) -> None:
    """Runs a command of doortab and ends as it does; what it prints is not of this program."""
    with contextlib.redirect_stdout(sys.stderr):
        raise SystemExit(run(["--data", str(settings.data), *words]))


def main() -> None:
    """Runs so many cases of a kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    template, chance = prepare(options.directory), random.Random(options.seed)
    outcomes: Counter[str] = Counter()
    wrong, damages = [], KINDS[options.kind]
    for number in range(options.cases):
        data = copied(template.data, options.directory / "case")
        words = damages[(options.seed * 3 + number) % len(damages)](data, chance)
        outcome, why = judge(settings_of(data), template)
        outcomes[outcome] += 1
        if outcome == "wrong":
            wrong.append(f"{number}: {words}: {why}")
    print(json.dumps({"outcomes": outcomes, "wrong": wrong}))


if __name__ == "__main__":
    main()

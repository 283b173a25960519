"""The audit: whether the store is what its commits wrote, holds what the log held, and is the one it was.

One look asks, in one read transaction:

1. the control equation, for each partition: *events read = billed + duplicates + rejected + not billable*;
2. the seals: whether every row of every table is as it was written;
3. the totals of the last look, kept outside of the store: whether what was told then is still told;
4. the log: whether it still holds what comes next, and whether it holds what the store says it read;
5. the trail: whether the store that was opened is the one that was closed.

A finding names table, partition and offsets, stays as long as its cause, and has an id that follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from doortab.analytics import durable, seals
from doortab.analytics.cells import Read
from doortab.analytics.control import Control, controls
from doortab.analytics.reading import columns_of, one_moment
from doortab.analytics.trail import Line

Kind = Literal[
    "unexplained",
    "altered",
    "rewritten",
    "rolled_back",
    "replaced",
    "missing_records",
    "ahead_of_log",
    "moved",
    "unreadable",
]

REPAIRS: Mapping[str, str] = {
    "unexplained": "doortab rebuild",
    "altered": "doortab rebuild",
    "rewritten": "doortab rebuild",
    "replaced": "doortab rebuild; or, if it was meant to be replaced, doortab audit --accept",
    "rolled_back": "what was in it is read again from the log; once you know why, doortab audit --accept",
    "missing_records": "doortab restore a backup that holds them; or, if they are lost, doortab audit --accept",
    "ahead_of_log": "give the ledger the log that it read before, or doortab rebuild for this one",
    "moved": "restart the ledger",
    "unreadable": "doortab rebuild",
}
"""Which command mends it, by kind."""


class Finding(Struct, frozen=True, kw_only=True):
    """Something that is not as it should be. Offsets are from ``first`` until before ``next``, where known."""

    kind: Kind
    words: str
    table: str = "usage"
    partition: int | None = None
    first: int | None = None
    next: int | None = None
    events: int = 0

    def id(self, store: str) -> str:
        """Follows from the cause alone."""
        return f"audit/{store}/{self.kind}/{self.table}/{self.partition}/{self.first}-{self.next}"


Five = tuple[int, int, int, int, int]


class Totals(Struct, frozen=True, kw_only=True):
    """What a look saw: by partition, events and what became of them, until a commit."""

    store: str
    batch: int
    parts: dict[int, Five]


class Audit(Struct, frozen=True, kw_only=True):
    """What one look found. ``unexplained`` counts the events that are not what the log says, at least."""

    at: int
    store: str
    batch: int
    rows: int
    parts: dict[int, dict[str, int]]
    findings: list[Finding]
    unexplained: int


class Offsets(Struct, frozen=True):
    """What the log holds, by partition."""

    begins: dict[int, int]
    ends: dict[int, int]


def look(
    read: Read,
    store: str,
    offsets: Callable[[], Offsets],
    lines: Sequence[Line],
    known: Totals | None,
    now: int,
) -> tuple[Audit, Totals]:
    """One look, and what the next one is to compare with. ``lines`` are the trail's open findings.

    Raises:
        LogUnavailable: the log could not be asked.
    """
    begins = offsets().begins
    with one_moment(read):
        columns = columns_of(read)
        equations = controls(read)
        pieces = seals.altered(read, columns)
        seen = _totals(read, store, None)
        before = _totals(read, store, known.batch) if known is not None and known.store == store else None
        positions = dict(read("SELECT part, max(next) FROM commits WHERE part >= 0 GROUP BY part"))
        rows = read("SELECT count(*) FROM usage")[0][0]
    ends = offsets().ends
    findings = [_of_line(line, part) for line in lines for part in (line.parts or {-1: (0, 0)})]
    findings += [_of_equation(part, one) for part, one in sorted(equations.items()) if one.unexplained]
    findings += [_of_piece(piece) for piece in pieces]
    if known is not None and before is not None:
        findings += _of_totals(known, before)
    findings += _of_log(positions, begins, ends)
    audit = Audit(
        at=now,
        store=store,
        batch=seen.batch,
        rows=rows,
        parts={part: one._asdict() | {"unexplained": one.unexplained} for part, one in sorted(equations.items())},
        findings=findings,
        unexplained=_unexplained(equations, pieces),
    )
    rewritten = any(finding.kind == "rewritten" for finding in findings)
    return audit, known if rewritten and known is not None else seen


def read_totals(path: Path) -> Totals | None:
    """The totals of the last look, or None where there was none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Totals)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_totals(path: Path, totals: Totals) -> None:
    """Keeps them, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(totals))
    durable.sync(draft)
    draft.replace(path)


def _totals(read: Read, store: str, until: int | None) -> Totals:
    where = f"AND batch <= {until}" if until is not None else ""
    batch = read("SELECT coalesce(max(batch), 0) FROM commits")[0][0]
    rows = read(
        "SELECT part, sum(events), sum(billed), sum(not_billable), sum(duplicates), sum(rejected) "
        f"FROM commits WHERE part >= 0 {where} GROUP BY part"
    )
    return Totals(store=store, batch=batch, parts={row[0]: _five(*map(int, row[1:])) for row in rows})


def _five(events: int, billed: int, not_billable: int, duplicates: int, rejected: int) -> Five:
    return events, billed, not_billable, duplicates, rejected


def _unexplained(equations: Mapping[int, Control], pieces: Sequence[seals.Piece]) -> int:
    left = sum(abs(one.unexplained) for one in equations.values())
    # A piece with all its rows and another checksum holds one row at least that says something else.
    return left + sum(piece.table == "usage" and piece.written == piece.there for piece in pieces)


def _of_line(line: Line, part: int) -> Finding:
    first, after = line.parts.get(part, (None, None))
    words = f"the store that was opened is not as it was left: {line.words}"
    partition = part if part >= 0 else None
    return Finding(kind=line.kind, words=words, partition=partition, first=first, next=after)  # type: ignore[arg-type]


def _of_equation(part: int, one: Control) -> Finding:
    counted = f"{one.billed} billed, {one.duplicates} duplicates, {one.rejected} rejected, {one.not_billable} not"
    words = f"{one.records} events were read and {counted} billable are there: {one.unexplained} unexplained"
    return Finding(kind="unexplained", words=words, partition=part, events=abs(one.unexplained))


def _of_piece(piece: seals.Piece) -> Finding:
    if piece.there == piece.written:
        words = f"among {piece.written} rows, one at least was altered"
    else:
        change = "deleted" if piece.there < piece.written else "put in or doubled"
        words = f"{piece.written} rows were written and {piece.there} are there: rows were {change}"
    return Finding(
        kind="altered",
        words=words,
        table=piece.table,
        partition=piece.partition if piece.partition >= 0 else None,
        first=piece.first,
        next=piece.next,
        events=abs(piece.there - piece.written) or 1,
    )


def _of_totals(known: Totals, before: Totals) -> list[Finding]:
    """The commits until the last look must tell now what they told then."""
    changed = [part for part, told in known.parts.items() if before.parts.get(part) != told]
    words = f"until commit {known.batch} the commits tell other totals than at the last audit"
    return [Finding(kind="rewritten", words=words, table="commits", partition=part) for part in changed]


def _of_log(positions: Mapping[int, int], begins: Mapping[int, int], ends: Mapping[int, int]) -> list[Finding]:
    found = []
    for part in sorted({*positions, *ends}):
        at, begin, end = positions.get(part, 0), begins.get(part, 0), ends.get(part, 0)
        if at < begin:
            words = f"the log begins at offset {begin}, and the store holds what was before {at}: the rest is gone"
            found.append(Finding(kind="missing_records", words=words, partition=part, first=at, next=begin))
        if at > end:
            words = f"the store has read until offset {at}, and the log ends at {end}: it is not the log that was read"
            found.append(Finding(kind="ahead_of_log", words=words, partition=part, first=end, next=at))
    return found

"""From events to their columns: as little as possible is done for each event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from doortab.consumers.columns import Columns
from doortab.consumers.dedupe import digests_of
from doortab.schemas import instants
from doortab.schemas.events import MAX_PLAIN, Usage
from doortab.schemas.wire import Decoded

MAX_NAMES = 128
"""So many units and dimensions of a batch become columns; what further ones say stands in ``more``."""

ISO_8601_UTC = pa.timestamp("us", tz="UTC")


def columns_of(decoded: Decoded) -> Columns:
    """The events that were decoded, as columns."""
    events = decoded.events
    data = [event.data for event in events]
    units, dimensions, more = _quantities(data, decoded.plain)
    columns: dict[str, Any] = {
        "digest": pa.array(digests_of(events)),
        "source": _coded([e.source for e in events]),
        "id": pa.array([e.id for e in events], pa.string()),
        "type": _coded([e.type for e in events]),
        "subject": _coded([e.subject for e in events]),
        "time": pa.array(decoded.times, pa.int64()),
        "account": _coded([d.account for d in data]),
        "key": _coded([d.key for d in data]),
        "allowed": pa.array([d.verdict == "allowed" for d in data], pa.bool_()),
        "reason": _coded([d.reason for d in data]),
        "billable": pa.array([d.billable for d in data], pa.bool_()),
        "operation": _coded([d.operation for d in data]),
        "more": pa.array(more, pa.string()) if more else pa.nulls(len(events), pa.string()),
        "rest": pa.array([decoded.rest.get(i) for i in range(len(events))], pa.string())
        if decoded.rest
        else pa.nulls(len(events), pa.string()),
    }
    columns |= _places(decoded)
    columns |= {f"units.{name}": column for name, column in units.items()}
    columns |= {f"dimensions.{name}": column for name, column in dimensions.items()}
    return Columns(pa.table(columns))


def joined(pieces: Sequence[Columns]) -> Columns:
    """The pieces as one."""
    if len(pieces) == 1:
        return pieces[0]
    tables = pa.concat_tables([piece.table for piece in pieces], promote_options="default")
    return Columns(tables.unify_dictionaries().combine_chunks())


def _coded(values: Sequence[str | None]) -> pa.DictionaryArray:
    return pa.array(values, pa.string()).dictionary_encode()


def _places(decoded: Decoded) -> dict[str, pa.Array]:
    """Where each event stands in the log, and when the log received it."""
    spans = decoded.spans
    counts = np.array([len(span.indices) for span in spans], np.int64)
    firsts = np.array([span.first for span in spans], np.int64)

    def repeated(values: list[int]) -> pa.Array:
        return pa.array(np.repeat(np.array(values, np.int64), counts))

    indices = np.arange(len(decoded.events)) - np.repeat(firsts, counts)
    for span in spans:
        if type(span.indices) is not range:  # some of its record were rejected
            indices[span.first : span.first + len(span.indices)] = span.indices
    return {
        "part": repeated([span.partition for span in spans]),
        "off": repeated([span.offset for span in spans]),
        "idx": pa.array(indices),
        "logged": repeated([span.logged for span in spans]),
    }


def _quantities(
    data: Sequence[Usage], plain: bool
) -> tuple[dict[str, pa.Array], dict[str, pa.Array], list[str | None] | None]:
    """The columns of units and dimensions, and for each event what does not fit them; None where all fits."""
    units, dimensions = [d.units for d in data], [d.dimensions for d in data]
    kept_units, unit_names = _names(units)
    kept_dimensions, dimension_names = _names(dimensions)
    fits = plain and len(kept_units) == len(unit_names) and len(kept_dimensions) == len(dimension_names)
    more = None if fits else [more_of(d, set(kept_units), set(kept_dimensions)) for d in data]
    wholes = _turned(units, kept_units, len(unit_names))
    if not plain:
        wholes = {name: [whole(value) for value in values] for name, values in wholes.items()}
    texts = _turned(dimensions, kept_dimensions, len(dimension_names))
    return (
        {name: pa.array(values, pa.int64()) for name, values in wholes.items()},
        {name: _coded(values) for name, values in texts.items()},
        more,
    )


def _names(rows: Sequence[dict[str, Any]]) -> tuple[list[str], set[str]]:
    names: set[str] = set().union(*rows)
    return sorted(names)[:MAX_NAMES], names


def _turned(rows: Sequence[dict[str, Any]], kept: Sequence[str], count: int) -> dict[str, list[Any]]:
    """Mappings as columns. ``count`` is how many names there are; mostly each row has them all."""
    if set(map(len, rows)) == {count}:
        return {name: [row[name] for row in rows] for name in kept}
    return {name: [row.get(name) for row in rows] for name in kept}


def whole(value: int | str | None) -> int | None:
    """The quantity as a whole number that a column can hold, or None."""
    if value is None or isinstance(value, int):
        return value
    digits, _, fraction = value.partition(".")
    number = int(digits)
    return number if number <= MAX_PLAIN and not fraction.strip("0") else None


def more_of(data: Usage, units: set[str], dimensions: set[str]) -> str | None:
    """What of an event does not fit the columns of these units and dimensions."""
    kept_units = {k: str(v) for k, v in data.units.items() if k not in units or whole(v) is None}
    kept_dimensions = {k: v for k, v in data.dimensions.items() if k not in dimensions}
    kept = {name: part for name, part in (("units", kept_units), ("dimensions", kept_dimensions)) if part}
    return msgspec.json.encode(kept, order="deterministic").decode() if kept else None


MANY = 32
_USUAL = b"0000-00-00T00:00:00.000000Z"
_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)


def parse_all(texts: Sequence[str]) -> list[int]:
    """The instants of many texts, as ``instants.parse`` reads them: in their usual form by Arrow, all at once.

    Raises:
        ValueError: as ``instants.parse`` does.
    """
    if len(texts) >= MANY:
        joined = "".join(texts).encode(errors="replace").translate(_AS_ZEROS)
        if joined == _USUAL * len(texts) and set(map(len, texts)) == {len(_USUAL)}:
            try:
                return pa.array(texts, pa.string()).cast(ISO_8601_UTC).cast(pa.int64()).to_numpy().tolist()  # type: ignore[no-any-return]
            except pa.ArrowInvalid:
                pass  # whichever it is, parse says what is wrong with it
    return [instants.parse(text) for text in texts]

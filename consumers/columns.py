"""Events as columns: what a batch of the log's records holds, one row an event, in the order of the log.

The wire makes events, and everything after it works on whole columns; a single event is put together again
only where somebody asks for it (``columns[number]``), which is rare. Columns travel between processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from doortab.consumers.dedupe import Digests
from doortab.schemas.events import Event, Usage
from doortab.schemas.meters import Path

Whole = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]

EVENT = (
    "source",
    "id",
    "type",
    "subject",
    "account",
    "key",
    "allowed",
    "reason",
    "billable",
    "operation",
    "more",
)
NOTHING: dict[str, Any] = {}


class Texts:
    """A column of text: by event a code, which is a place in ``names``, or -1 where there is none."""

    def __init__(self, codes: Codes, names: list[str]) -> None:
        self.codes = codes
        self.names = names

    @classmethod
    def of(cls, column: pa.Array) -> Texts:
        """The texts of an Arrow dictionary."""
        codes = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False)
        return cls(codes, column.dictionary.to_pylist())

    def __getitem__(self, number: int) -> str | None:
        code = self.codes[number]
        return self.names[code] if code >= 0 else None

    def __len__(self) -> int:
        return len(self.codes)

    def arrow(self) -> pa.DictionaryArray:
        """As Arrow has it."""
        return pa.DictionaryArray.from_arrays(
            pa.array(self.codes, mask=self.codes < 0), pa.array(self.names, pa.string())
        )


class Columns:
    """The events of a batch. ``table`` has the usage columns by their names, and ``units.…`` and ``dimensions.…``.

    ``account`` is what the event says, ``billable`` too; quantities that are no whole numbers below 2^63 stand
    in ``more``, what else the data held in ``rest``, both JSON.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._texts: dict[str, Texts] = {}

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, number: int) -> Event:
        """The event of that number."""
        return self.picked([number])[number]

    def picked(self, numbers: Sequence[int]) -> dict[int, Event]:
        """The events of these numbers, put together again. Their times are left out: ``times`` has them."""
        rows = self.table.take(pa.array(numbers, pa.int64()))
        lists = {name: rows.column(name).to_pylist() for name in EVENT}
        units = _rows_of(rows, "units.", list(self.units))
        dimensions = _rows_of(rows, "dimensions.", list(self.dimensions))
        found: dict[int, Event] = {}
        for number, unit, dimension, row in zip(
            numbers, units, dimensions, zip(*lists.values(), strict=True), strict=True
        ):
            source, event_id, kind, subject, account, key, allowed, reason, billable, operation, text = row
            if text is not None:
                more = msgspec.json.decode(text)
                unit, dimension = unit | more.get("units", NOTHING), dimension | more.get("dimensions", NOTHING)
            verdict = "allowed" if allowed else "refused"
            data = Usage(account, key, verdict, reason, billable, operation, unit, dimension)  # type: ignore[arg-type]
            found[number] = Event("1.0", event_id, source, kind, data, subject=subject)
        return found

    def texts(self, name: str) -> Texts:
        """A column of text."""
        found = self._texts.get(name)
        if found is None:
            found = self._texts[name] = Texts.of(_sole(self.table.column(name)))
        return found

    def text_at(self, path: Path, number: int) -> str | None:
        """What the event says at a path of text, a dimension or a field."""
        if path.root == "dimensions":
            name = f"dimensions.{path.name}"
            return self.texts(name)[number] if name in self.table.column_names else None
        if path.name == "verdict":
            return "allowed" if self.allowed[number] else "refused"
        return self.texts(path.name)[number]

    def numbers(self, name: str) -> Whole:
        """A column of whole numbers, none of which is missing."""
        return _sole(self.table.column(name)).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]

    @property
    def digests(self) -> Digests:
        """The digest of each event's (source, id)."""
        return self.numbers("digest")  # type: ignore[return-value]

    @cached_property
    def times(self) -> Whole:
        """When each event happened."""
        return self.numbers("time")

    @cached_property
    def allowed(self) -> npt.NDArray[np.bool_]:
        """Whether each was."""
        return _sole(self.table.column("allowed")).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]

    @cached_property
    def billable(self) -> npt.NDArray[np.bool_]:
        """Whether each is charged: allowed, and not marked otherwise."""
        marked = pc.fill_null(self.table.column("billable"), True)
        return self.allowed & marked.to_numpy()  # type: ignore[no-any-return]

    @cached_property
    def units(self) -> dict[str, pa.Array]:
        """Whole quantities by unit, null where an event has none."""
        return self._rooted("units.")

    @cached_property
    def dimensions(self) -> dict[str, pa.Array]:
        """Texts by dimension, null where an event has none."""
        return self._rooted("dimensions.")

    def _rooted(self, root: str) -> dict[str, pa.Array]:
        names = [name for name in self.table.column_names if name.startswith(root)]
        return {name.removeprefix(root): _sole(self.table.column(name)) for name in names}

    @cached_property
    def has_more(self) -> npt.NDArray[np.bool_]:
        """Whether something of an event stands in ``more``."""
        return pc.is_valid(self.table.column("more")).to_numpy()  # type: ignore[no-any-return]

    @cached_property
    def rests(self) -> dict[int, str]:
        """What else an event's data held, where it held something."""
        column = self.table.column("rest")
        if column.null_count == len(self):
            return {}
        return {number: text for number, text in enumerate(column.to_pylist()) if text is not None}

    def place_of(self, number: int) -> tuple[int, int, int]:
        """Partition, offset and index in the record."""
        part, off, idx = (self.table.column(name)[number].as_py() for name in ("part", "off", "idx"))
        return part, off, idx

    def logged_at(self, number: int) -> int:
        """When the log received it."""
        return int(self.table.column("logged")[number].as_py())

    def attributed(self, accounts: Texts) -> Columns:
        """The same events, each with the account that it is billed to."""
        if accounts is self.texts("account"):
            return self
        place = self.table.column_names.index("account")
        return Columns(self.table.set_column(place, "account", accounts.arrow()))

    def take(self, rows: npt.NDArray[np.bool_]) -> Columns:
        """The rows that are marked."""
        return Columns(self.table.filter(pa.array(rows)).combine_chunks())


def _sole(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _rows_of(table: pa.Table, root: str, names: list[str]) -> list[dict[str, Any]]:
    """By row what it says under the names of a root, without those that it does not have."""
    lists = [table.column(root + name).to_pylist() for name in names]
    if not lists:
        return [{} for _ in range(table.num_rows)]
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in zip(*lists, strict=True)
    ]

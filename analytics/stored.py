"""What the store holds, read back in the words of the schemas."""

from __future__ import annotations

from doortab.analytics.cells import Columns, Read
from doortab.analytics.tables import quoted
from doortab.schemas.batch import Decision, Message, StoredEvent

LATEST_COUNTERS = (
    "SELECT subject, measure, period, start, arg_max(value, batch) AS value, max(batch) AS batch "
    "FROM counters GROUP BY subject, measure, period, start"
)

_DECISION_FIELDS = [name for name in Decision.__struct_fields__ if name != "place"]
_TIMES = {"start", "end", "at", "event_time"}


def events(read: Read, columns: Columns, condition: str) -> list[StoredEvent]:
    """The events of the rows that meet the condition, in the order of the rows."""
    special = list(columns.items())
    names = [quoted(column) for _, column in special]
    plain = "digest, source, id, type, subject, account, key, allowed, reason, billable, operation, more, rest"
    found = []
    for row in read(f"SELECT {', '.join([plain, *names])} FROM usage WHERE {condition} ORDER BY seq"):
        values = [(root, name, value) for ((root, name), _), value in zip(special, row[13:], strict=True)]
        units = {name: value for root, name, value in values if root == "units" and value is not None}
        texts = {name: value for root, name, value in values if root == "dimensions" and value is not None}
        found.append(StoredEvent(*[*row[:11], units, texts, row[11], row[12]]))
    return found


def messages(read: Read) -> list[Message]:
    """The messages that were committed and are not known to be in the log, in the order of their causes."""
    rows = read(
        "SELECT id, topic, key, value FROM outbox WHERE id NOT IN (SELECT id FROM published) ORDER BY batch, id"
    )
    return [Message(*row) for row in rows]


def unreadable(read: Read) -> set[tuple[str, int, int]]:
    """Topic, partition and offset of what was rejected in other topics than usage."""
    return {(t, p, o) for t, p, o in read("SELECT topic, part, off FROM rejected WHERE topic <> 'usage'")}


def decisions(read: Read) -> list[Decision]:
    """Every decision, in the order they were made."""
    fields = [f"epoch_us({quoted(name)})" if name in _TIMES else quoted(name) for name in _DECISION_FIELDS]
    rows = read(f"SELECT {', '.join(fields)}, part, off, idx FROM decisions ORDER BY batch, id")
    return [
        Decision(**dict(zip(_DECISION_FIELDS, row[:-3], strict=True)), place=row[-3:] if row[-3] is not None else None)
        for row in rows
    ]

"""Reports: usage and money of a period, by whatever one asks for, with the control equation under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from doortab.analytics.cells import Columns, Heading, Read, Selection, literal
from doortab.analytics.control import Whole, control
from doortab.analytics.rating import Groups, Rated, rate
from doortab.analytics.reading import columns_of, one_moment
from doortab.analytics.zones import local_bucket
from doortab.schemas import instants, meters, money
from doortab.schemas.errors import UsageError
from doortab.schemas.periods import Period, zone
from doortab.schemas.tariff import Tariff

TIMES = ("hour", "day", "week", "month", "year")
FIELDS = ("account", "key", "operation", "reason", "type", "subject", "source")
METER = "meter"


class Report(NamedTuple):
    """A finished report: ``rows`` and ``total`` as they stand in JSON, money and quantities as text."""

    period: Period
    timezone: str
    by: tuple[str, ...]
    rows: list[dict[str, Any]]
    total: dict[str, Any]
    control: Whole

    def as_json(self) -> dict[str, Any]:
        """The report as the contract has it."""
        period = {
            "from": instants.text(self.period.start),
            "to": instants.text(self.period.end),
            "timezone": self.timezone,
        }
        return {"period": period, "rows": self.rows, "total": self.total, "control": self.control.as_json()}


def report(read: Read, tariff: Tariff, period: Period, by: Sequence[str], timezone: str = "UTC") -> Report:
    """The report of a period by these headings: all of it, the control equation too, of one commit.

    ``by`` takes account, key, operation, reason, type, subject, source; hour, day, week, month, year;
    dimensions.NAME; and meter, which makes a row of each meter.

    Raises:
        UsageError: an unknown heading.
    """
    names = tuple(dict.fromkeys(by))
    with one_moment(read):
        columns = columns_of(read)
        headings = [Heading(name, _sql(name, columns, tariff, timezone)) for name in names if name != METER]
        groups = rate(read, columns, tariff, headings, period)
        whole = control(read)
    times = [name in TIMES for name in names if name != METER]
    shown = sorted(groups.items(), key=lambda item: tuple((v is not None, v) for v in item[0]))
    rows = [row for place, group in shown for row in _rows(names, times, timezone, place, group)]
    return Report(period, timezone, names, rows, _total(groups), whole)


def _sql(name: str, columns: Columns, tariff: Tariff, timezone: str) -> str:
    if name in TIMES:
        zone(timezone)
        return local_bucket(name, timezone)  # type: ignore[arg-type]
    if name in FIELDS:
        return name
    if name.startswith("dimensions.") and name != "dimensions.":
        path = meters.path(name)
        if (path.root, path.name) not in columns:
            # It came after the columns were all given away, or never.
            pointer = "/dimensions/" + path.name.replace("~", "~0").replace("/", "~1")
            return f"json_extract_string(more, {literal(pointer)})"
        return Selection(columns, tariff, []).column(path)
    known = ", ".join([*FIELDS, *TIMES, METER, "dimensions.NAME"])
    raise UsageError(f"cannot report by {name!r}; there is {known}")


def _rows(
    names: Sequence[str], times: Sequence[bool], timezone: str, place: tuple[Any, ...], group: Rated
) -> list[dict[str, Any]]:
    *heads, currency = place
    plain = [name for name in names if name != METER]
    shown = {
        name: _time_text(name, value, timezone) if is_time else value
        for name, value, is_time in zip(plain, heads, times, strict=True)
    }
    if METER not in names:
        return [shown | {"currency": currency} | _figures(group)]
    return [
        shown
        | {
            METER: meter,
            "currency": currency,
            "quantity": money.quantity_text(quantity),
            "amount": money.amount_text(group.amounts.get(meter, 0)),
        }
        for meter, quantity in sorted(group.quantities.items())
    ]


def _time_text(name: str, start: int, timezone: str) -> str:
    local = instants.moment(start).astimezone(zone(timezone))
    formats = {"year": "%Y", "month": "%Y-%m", "week": "%G-W%V", "day": "%Y-%m-%d"}
    return local.strftime(formats[name]) if name in formats else instants.text(start)


def _figures(group: Rated) -> dict[str, Any]:
    return {
        "events": str(group.events),
        "allowed": str(group.allowed),
        "refused": str(group.events - group.allowed),
        "billable": str(group.billable),
        "units": {unit: money.quantity_text(total) for unit, total in sorted(group.units.items())},
        "amount": money.amount_text(group.amount),
    }


def _total(groups: Groups) -> dict[str, Any]:
    """The sum of all groups. Amounts of several currencies are not added up: then ``amounts`` names each."""
    whole = Rated(units={})
    by_currency: dict[str, int] = {}
    for place, group in groups.items():
        whole.events += group.events
        whole.allowed += group.allowed
        whole.billable += group.billable
        for unit, quantity in group.units.items():
            whole.units[unit] = whole.units.get(unit, 0) + quantity
        if place[-1] is not None:
            by_currency[place[-1]] = by_currency.get(place[-1], 0) + group.amount
    figures = _figures(whole)
    if len(by_currency) > 1:
        del figures["amount"]
        amounts = {currency: money.amount_text(amount) for currency, amount in sorted(by_currency.items())}
        return {"currency": None} | figures | {"amounts": amounts}
    currency, amount = next(iter(by_currency.items()), (None, 0))
    return {"currency": currency} | figures | {"amount": money.amount_text(amount)}

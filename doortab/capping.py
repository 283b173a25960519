"""Caps from day one: no key without one, unless somebody says why."""

from __future__ import annotations

from pydantic import ValidationError

from doortab.applying import publish
from doortab.catalogs import newest_catalog
from doortab.schemas.catalog import CapEntry, Catalog
from doortab.schemas.errors import RuleRefused, UsageError
from doortab.schemas.log import Log
from doortab.schemas.tariff import Tariff


def check_capped(log: Log, account: str, *, uncapped: bool, reason: str | None) -> None:
    """Lets a key be issued if a cap of the catalog will bind it, or if somebody says why it needs none.

    Raises:
        RuleRefused: neither.
    """
    if uncapped:
        if not reason:
            raise RuleRefused("--uncapped needs --reason: say why this key may spend without a limit")
        return
    tariff = Tariff(newest_catalog(log) or Catalog())
    if not tariff.caps_of("key", "*") and not tariff.caps_of("account", account):
        raise RuleRefused(
            f"no cap would bind a key of account {account!r}; give it one (--cap 25.00/month), "
            'put one for each into the catalog (subject = "key:*"), or say --uncapped --reason "…"'
        )


def check_currency(log: Log, account: str, currency: str | None) -> None:
    """Lets a cap be set if it is in the currency that the account pays in, or leaves the currency open.

    Raises:
        UsageError: the account pays in another currency, or nothing says yet in which.
    """
    if currency is None:
        return
    plan = Tariff(newest_catalog(log) or Catalog()).plan_of(account)
    if plan is None:
        # A cap is an amount in the currency of the plan, whichever that will be: 500 JPY are not 500 USD.
        raise UsageError(
            f"account {account!r} has no plan that says whether it pays in {currency}; apply a catalog first, "
            "or leave the currency out"
        )
    if plan.currency != currency:
        raise UsageError(f"account {account!r} pays in {plan.currency}; a cap in {currency} would not bind it")


def cap_of(key_id: str, amount: str, period: str) -> CapEntry:
    """The cap of a key's own.

    Raises:
        UsageError: no cap has this amount.
    """
    try:
        return CapEntry.model_validate(
            {"subject": f"key:{key_id}", "amount": amount, "period": period, "origin": "desk"}
        )
    except ValidationError as error:
        words = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"cap {amount}/{period} is not one: {words}") from None


def put_cap(log: Log, entry: CapEntry) -> None:
    """Adds a cap to the catalog in force. It stays there when another catalog is applied."""
    found = newest_catalog(log) or Catalog()
    kept = tuple(cap for cap in found.caps if cap.id != entry.id)
    publish(log, found.model_copy(update={"caps": (*kept, entry)}))

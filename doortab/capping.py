"""Caps from day one: no key without one, unless somebody says why."""

from __future__ import annotations

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
            f"no cap would bind a key of account {account!r}; give it one (--cap 25.00USD/month), "
            'put one for each into the catalog (subject = "key:*"), or say --uncapped --reason "…"'
        )


def check_currency(log: Log, account: str, currency: str | None) -> None:
    """Lets a cap be set if it is in the currency that the account pays in.

    Raises:
        UsageError: the account pays in another currency.
    """
    plan = Tariff(newest_catalog(log) or Catalog()).plan_of(account)
    if currency is not None and plan is not None and plan.currency != currency:
        raise UsageError(f"account {account!r} pays in {plan.currency}; a cap in {currency} would not bind it")


def cap_key(log: Log, key_id: str, amount: str, period: str) -> None:
    """Adds a cap of the key's own to the catalog in force. It stays there when another catalog is applied."""
    found = newest_catalog(log) or Catalog()
    entry = CapEntry.model_validate({"subject": f"key:{key_id}", "amount": amount, "period": period, "origin": "desk"})
    kept = tuple(cap for cap in found.caps if cap.id != entry.id)
    publish(log, found.model_copy(update={"caps": (*kept, entry)}))

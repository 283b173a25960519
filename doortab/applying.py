"""Applying a catalog: checked whole, compared with the one in force, published, and taken up by the ledger."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from doortab.asking import asked
from doortab.catalogs import newest_catalog
from doortab.schemas import catalog, topics
from doortab.schemas.catalog import Catalog
from doortab.schemas.errors import UsageError
from doortab.schemas.log import Entry, Log
from doortab.settings import Settings


def apply(settings: Settings, file: str, dry_run: bool) -> list[str]:
    """Publishes the catalog in the file unless nothing changes; returns what changes, a line each.

    Raises:
        UsageError: the file cannot be read, or says nothing.
        CatalogError: it breaks a rule.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    wanted = catalog.parse(text, file)
    if not tomllib.loads(text):
        # It is what a pipe carries from a command that failed, and would take every cap away.
        raise UsageError(f"{file} says nothing, which would remove the whole catalog; if it shall, write: caps = []")
    with asked(settings) as ledger:
        found = newest_catalog(ledger.log) or Catalog()
        wanted = keep_desk_caps(found, wanted)
        changes = differences(found, wanted)
        if changes and not dry_run:
            publish(ledger.log, wanted)
            ledger.ask("status")
    return changes


def keep_desk_caps(old: Catalog, new: Catalog) -> Catalog:
    """The new catalog with the caps that keys were issued with, unless it has its own for them.

    A file that knows nothing of those keys must not take their limits away.
    """
    named = {cap.id for cap in new.caps}
    kept = tuple(cap for cap in old.caps if cap.origin == "desk" and cap.id not in named)
    return new.model_copy(update={"caps": (*new.caps, *kept)}) if kept else new


def publish(log: Log, wanted: Catalog) -> None:
    """Appends the catalog to the log; it is in force for every usage record that the log receives after it."""
    log.append(topics.CATALOG, [Entry(0, b"catalog", catalog.encode(wanted))])


def differences(old: Catalog, new: Catalog) -> list[str]:
    """What changes, a line each: ``+`` comes, ``-`` goes, ``~`` changes."""
    lines = []
    if old.default_plan != new.default_plan:
        lines.append(f"~ default_plan {old.default_plan} -> {new.default_plan}")
    lines += _compare("meter", {m.name: m for m in old.meters}, {m.name: m for m in new.meters})
    lines += _compare(
        "plan",
        {p.name: p.model_copy(update={"charges": ()}) for p in old.plans},
        {p.name: p.model_copy(update={"charges": ()}) for p in new.plans},
    )
    lines += _compare("charge", _charges(old), _charges(new))
    lines += _compare("account", {a.id: a for a in old.accounts}, {a.id: a for a in new.accounts})
    lines += _compare("cap", {c.id: c for c in old.caps}, {c.id: c for c in new.caps})
    return lines


def _charges(found: Catalog) -> dict[str, Any]:
    return {
        " ".join([plan.name, charge.meter, _where(charge.where), charge.effective_from or "from the beginning"]): charge
        for plan in found.plans
        for charge in plan.charges
    }


def _where(where: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{path}={wanted}" for path, wanted in where.items()) + "}"


def _compare(what: str, old: dict[str, Any], new: dict[str, Any]) -> Iterable[str]:
    for name in old.keys() - new.keys():
        yield f"- {what} {name}"
    for name, value in new.items():
        if name not in old:
            yield f"+ {what} {name}"
        elif old[name] != value:
            yield f"~ {what} {name}: {_short(old[name])} -> {_short(value)}"


def _short(value: Any) -> str:
    shown: dict[str, Any] = value.model_dump(exclude_defaults=True, exclude={"where", "name", "id", "meter"})
    return ", ".join(f"{name}={part}" for name, part in shown.items()) or "{}"

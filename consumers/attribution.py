"""Whose an event is: what it says, else its key's account, else its subject's, else the subject itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from doortab.consumers.columns import Columns, Texts
from doortab.consumers.views import NO_CATALOG, Views
from doortab.schemas.events import UNATTRIBUTED


def accounts_of(columns: Columns, views: Views, adopted: Mapping[int, int]) -> Texts:
    """The account of each event, by what the log knew when it received it. ``adopted`` is the catalog by partition."""
    said = columns.texts("account")
    silent = np.flatnonzero(said.codes < 0)
    if not len(silent):
        return said
    codes, names = said.codes.copy(), list(said.names)
    places = {name: code for code, name in enumerate(names)}
    keys, subjects = columns.texts("key"), columns.texts("subject")
    parts, stamps = columns.numbers("part")[silent].tolist(), columns.numbers("logged")[silent].tolist()
    for number, part, logged in zip(silent.tolist(), parts, stamps, strict=True):
        account = _account(views, adopted.get(part, NO_CATALOG), keys[number], subjects[number], logged // 1000)
        code = places.setdefault(account, len(names))
        if code == len(names):
            names.append(account)
        codes[number] = code
    return Texts(codes, names)


def _account(views: Views, catalog: int, key: str | None, subject: str | None, stamp_ms: int) -> str:
    owner = views.account_of_key(key, stamp_ms) if key is not None else None
    if owner is not None:
        return owner
    if subject is None:
        return UNATTRIBUTED
    return views.tariff(catalog).account_of_subject(subject) or subject

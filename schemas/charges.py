"""Charges: how a quantity becomes money.

A charge model is a total: ``total(quantity)`` is what so much costs from the beginning of a billing
period. What an event costs is the difference it makes to the total, so that the parts of a bill
always add up to the whole, in whatever order they came.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

ZeroUsage = Literal["free", "bill_first_flat"]


class Model(Protocol):
    """How much a quantity costs."""

    @property
    def linear(self) -> int | None:
        """The price of one unit, as a whole number of 10^-12, where the total is just that times the quantity."""
        ...

    def total(self, quantity: int) -> int:
        """What the quantity (of 10^-24) costs from the beginning of a period, as an amount (of 10^-36)."""
        ...


class PerUnit(msgspec.Struct, frozen=True):
    """Every unit costs the same: ``unit``, a price of 10^-12."""

    unit: int

    @property
    def linear(self) -> int | None:
        return self.unit

    def total(self, quantity: int) -> int:
        return quantity * self.unit


class Tier(msgspec.Struct, frozen=True):
    """A band of a graduated price: up to ``up_to`` (inclusive, of 10^-24; None: without end), each unit costs
    ``unit`` (of 10^-12), and touching it costs ``flat`` (of 10^-36)."""

    up_to: int | None
    unit: int = 0
    flat: int = 0


class Graduated(msgspec.Struct, frozen=True):
    """Each band's units at the band's price, as income tax is reckoned.

    Whether the first band's flat fee is due without any use is where systems disagree: ``zero_usage``.
    """

    tiers: tuple[Tier, ...]
    zero_usage: ZeroUsage = "free"

    @property
    def linear(self) -> int | None:
        first = self.tiers[0]
        same = all(tier.unit == first.unit and not tier.flat for tier in self.tiers)
        return first.unit if same else None

    def total(self, quantity: int) -> int:
        if quantity <= 0:
            # Less than nothing is what corrections may leave: it is paid back, and enters no band.
            base = self.tiers[0].flat if self.zero_usage == "bill_first_flat" else 0
            return base + quantity * self.tiers[0].unit
        amount = below = 0
        for tier in self.tiers:
            top = quantity if tier.up_to is None else min(quantity, tier.up_to)
            amount += (top - below) * tier.unit + tier.flat
            below = top
            if below == quantity:
                break
        return amount


AnyModel = PerUnit | Graduated


def marginal(model: Model, before: int, quantity: int) -> int:
    """What ``quantity`` costs when ``before`` was used already, both of 10^-24; an amount of 10^-36."""
    if model.linear is not None:
        return quantity * model.linear
    if not quantity:
        return 0
    # A flat fee that is due without any use stands on an invoice; here the first use brings it along.
    return model.total(before + quantity) - (model.total(before) if before else 0)


def unit_within(model: AnyModel, before: int, quantity: int) -> int | None:
    """The price (of 10^-12) that every unit from ``before`` on costs, or None where it changes on the way."""
    if isinstance(model, PerUnit):
        return model.unit
    below = 0
    for tier in model.tiers:
        if tier.up_to is None or before < tier.up_to:
            # Entering a tier costs its flat fee, once; that is for the event that enters.
            entered = tier.flat and before <= below
            inside = tier.up_to is None or before + quantity <= tier.up_to
            return tier.unit if inside and not entered and quantity >= 0 else None
        below = tier.up_to
    return None

"""Whether a failed check moves the VIP: what a weight makes of two priorities."""

from __future__ import annotations

from dataclasses import dataclass

LEAST, MOST = 1, 254  # what a weight may make of a priority
OWNER = 255


@dataclass(frozen=True)
class Unmoved:
    """`weight` is one that would do."""

    why: str
    weight: int


def moves_nothing(
    weight: int,
    higher: int,
    lower: int,
    *,
    nopreempt: bool = False,
    others: int | None = None,
) -> Unmoved | None:
    """None where a failed check of the host with the higher priority gives the VIP to the other one.

    Without a weight it does: the host is then in FAULT. Equal priorities bridge nothing: nobody gives way to an equal.
    `higher` and `lower` are what the two have without this check, positive weights of others included. `others` is the weight of
    the same check on the other host, where it is another one: a positive one is added there, so that no positive one mends this
    host alone.
    """
    if weight == 0:
        return None
    if nopreempt:
        return Unmoved("with nopreempt the other host does not take the VIP from one that still advertises", 0)
    added = max(0, weight if others is None else others)
    left, other = _within(higher + min(0, weight)), _within(lower + added)
    if left < other:
        return None
    why = f"weight {weight} leaves {left} against {other} of the other host"
    needed = higher - lower + 1
    if 0 < weight == (weight if others is None else others) and lower + needed <= MOST:
        return Unmoved(why, needed)
    if others is None and weight > 0:
        return Unmoved(why, 0)
    needed = max(1, higher - other + 1)
    return Unmoved(why, -needed if higher - needed >= LEAST else 0)


def _within(priority: int) -> int:
    return max(LEAST, min(MOST, priority))

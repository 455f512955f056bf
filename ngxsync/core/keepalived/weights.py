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
    weight: int, higher: int, lower: int, *, nopreempt: bool = False, others: int | None = None
) -> Unmoved | None:
    """None where a failed check of the host with the higher priority gives the VIP to the other one.

    Without a weight it does: the host is then in FAULT. Equal priorities bridge nothing: nobody gives way to an equal.
    `others` is the weight of the same check on the other host, where it is another one: a positive one is added there, so that
    no positive one mends this host alone.
    """
    if weight == 0:
        return None
    if nopreempt:
        return Unmoved("with nopreempt the other host does not take the VIP from one that still advertises", 0)
    if higher == OWNER and weight < 0:
        return Unmoved(f"priority {OWNER} is never lowered", 0)
    gap = higher - lower
    if weight < 0:
        left, other = _within(higher + weight), lower
    else:
        left, other = higher, _within(lower + max(0, weight if others is None else others))
    if left < other:
        return None
    why = f"weight {weight} leaves {left} against {other} of the other host"
    needed = gap + 1
    if weight < 0 or others is not None:
        return Unmoved(why, -needed if higher - needed >= LEAST and higher < OWNER else 0)
    return Unmoved(why, needed if lower + needed <= MOST else 0)


def _within(priority: int) -> int:
    return max(LEAST, min(MOST, priority))

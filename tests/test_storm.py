"""A bounded storm of random edits and faults on a pair of its own: one seed that stays, and one that is new each time."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.pair import Pair, make_pair
from tests.storm import storm

ROUNDS = 12
SEEDS = {
    "the-same-each-time": 3,
    "another-each-time": int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6)),
}


@pytest.fixture
def own_pair() -> Iterator[Pair]:
    """Not the session's: the storm mounts disks and reboots."""
    pair = make_pair()
    yield pair
    pair.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_breaks_no_promise(own_pair: Pair, seed: str) -> None:
    print(f"seed {SEEDS[seed]}: make storm SEED={SEEDS[seed]} ROUNDS={ROUNDS}")
    with storm(own_pair, SEEDS[seed]) as running:
        running.run(ROUNDS)
        totals = running.watched.totals()
    assert totals["pages"] > 0
    assert totals["tests"] > 0
    assert running.counts["checks"]["made"] > ROUNDS / 2

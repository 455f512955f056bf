"""Fixtures of all tests: `pair`, two real hosts in a known state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pair import Pair


@pytest.fixture(scope="session")
def running_pair() -> Iterator[Pair]:
    """The two hosts of this test session, started once."""
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture
def pair(running_pair: Pair) -> Pair:
    """web1 and web2 in the base state: equal trees, nginx running on both, ngxsync configured, no sync yet."""
    running_pair.reset()
    return running_pair

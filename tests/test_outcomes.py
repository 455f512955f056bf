"""What answers and errors come to: one outcome and one exit status a run, however many peers."""

from __future__ import annotations

from typing import Any

import pytest

from ngxsync.core import model
from ngxsync.core.model import PeerResult, Projection, RunResult, Snapshot
from ngxsync.flow.interfaces import Named, Options, Prepared, Validation
from ngxsync.flow.pipeline import Pipeline

NOBODY: Any = None  # no step of these asks a host


def over(*peers: PeerResult) -> RunResult:
    """The result of a run that came to these on its peers."""
    pipeline = Pipeline(NOBODY, NOBODY, {}, NOBODY, random_hex=str)
    prepared = Prepared("00000007-ab", Snapshot({}, Projection(())), Validation(True), Named())
    return pipeline.result(prepared, peers, Options(), 0.0)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("one", "other", "outcome", "status"),
    [
        ((model.IN_SYNC, 0), (model.PENDING, 0), model.PENDING, 0),  # a dry run
        ((model.IN_SYNC, 0), (model.APPLIED, 0), model.APPLIED, 0),
        ((model.IN_SYNC, 0), (model.IN_SYNC, 0), model.IN_SYNC, 0),
        ((model.APPLIED, 0), (model.NOT_PROVEN, 1), model.NOT_PROVEN, 1),
        ((model.UNREACHABLE, 4), (model.HELD, 8), model.HELD, 8),
        ((model.HELD, 8), (model.REFUSED, 5), model.REFUSED, 5),
        ((model.UNDONE, 6), (model.BROKEN, 7), model.BROKEN, 7),
    ],
)
def test_the_worst_peer_names_the_run(
    one: tuple[str, int], other: tuple[str, int], outcome: str, status: int, first: int
) -> None:
    peers = [PeerResult(name, word, exit=exit) for name, (word, exit) in (("web2", one), ("web3", other))]
    run = over(*(peers if first == 0 else peers[::-1]))
    assert (run.outcome, run.exit) == (outcome, status)


def test_a_run_over_no_peer_is_in_sync() -> None:
    assert (over().outcome, over().exit) == (model.IN_SYNC, 0)

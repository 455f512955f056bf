"""A peer's thread with a peer and a pipeline that stand still where a test wants them to."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

from ngxsync.core.model import PeerResult, Projection, Snapshot
from ngxsync.daemon.worker import Task, Worker
from ngxsync.flow.interfaces import Named, Options, Prepared, Validation
from ngxsync.flow.outcomes import Superseded
from tests.host import PATIENCE_S
from tests.hosts import wait_until

PREPARED = Prepared("00000001-aa", Snapshot({}, Projection(())), Validation(True), Named())


class Peer:
    """`knock()` is what happens where it is connected to."""

    def __init__(self, knock: Callable[[], None]) -> None:
        self.config = self
        self.name, self.knock = "web2", knock

    def warm(self, _verb: str) -> None:
        self.knock()


class Pipeline:
    """Every run begins a transaction, and ends well, unless the trees moved on."""

    def run_peer(self, peer: Peer, prepared: Prepared, options: Options) -> PeerResult:
        if options.gate is not None and not options.gate(prepared):
            raise Superseded("the trees changed meanwhile")
        options.brake.pass_by(peer.name)
        return PeerResult(peer.name, "standby", "standby")


class Tally:
    """Of one peer."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def add(self, _result: PeerResult, **_more: Any) -> None:
        self.told.set()

    def leave_out(self, _name: str, **_more: Any) -> None:
        self.told.set()


def worker_of(knock: Callable[[], None]) -> Worker:
    peer: Any = Peer(knock)
    pipeline: Any = Pipeline()
    return Worker(
        peer, pipeline, retry=lambda _name: None, told=lambda: None, jitter=lambda: 0.0, retry_at_least_s=600.0
    )


def run_once(worker: Worker, *, is_settled: bool = True) -> None:
    tally: Any = Tally()
    worker.submit(Task(PREPARED, Options(), 0.0, tally, lambda _prepared: is_settled))
    assert tally.told.wait(PATIENCE_S)


def test_only_a_transaction_is_waited_for_at_the_end() -> None:
    """An earlier run's is over; what knocks at the peer now is given up."""
    knocked, may_go = threading.Event(), threading.Event()

    def knock() -> None:
        knocked.set()
        may_go.wait(PATIENCE_S)

    worker = worker_of(knock)
    worker.start()
    try:
        run_once(worker)
        worker.warm()
        assert knocked.wait(PATIENCE_S)
        worker.stop()
        assert not worker.is_committed
    finally:
        may_go.set()


def test_a_host_without_memory_for_one_more_process_keeps_its_thread() -> None:
    knocked = threading.Event()

    def knock() -> None:
        knocked.set()
        raise OSError(errno.ENOMEM, "Cannot allocate memory")  # as subprocess and tempfile raise it

    worker = worker_of(knock)
    worker.start()
    worker.warm()
    assert knocked.wait(PATIENCE_S)
    run_once(worker)
    assert worker.is_alive()
    worker.stop()
    wait_until(lambda: not worker.is_alive(), "it ends")


def test_a_look_that_a_run_put_off_is_made_though_that_run_was_given_up() -> None:
    """An edit that this host refuses follows it: no run on the peer asks again."""
    worker = worker_of(lambda: None)
    worker._looker.start = lambda: None  # type: ignore[method-assign]
    worker._looker.ask()
    worker.start()
    run_once(worker, is_settled=False)
    assert worker._looker._due is not None
    worker.stop()

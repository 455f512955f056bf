"""The preparing loop with a pipeline of its own: what becomes of workers that wait at the gate."""

from __future__ import annotations

import linecache
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ngxsync.core.config import load_config
from ngxsync.core.errors import Held, MasterInvalid
from ngxsync.core.model import Projection, Snapshot
from ngxsync.daemon.preparing import CHANGE, Preparer
from ngxsync.daemon.worker import Task
from ngxsync.flow.interfaces import Named, Options, Prepared, Validation
from ngxsync.flow.triggers import TriggerQueue
from tests.host import PATIENCE_S
from tests.hosts import wait_until

SYNC = load_config("[peer web2]\nhost = 192.0.2.2\nidentity = /k\n", "c.ini").sync
PREPARED = Prepared("00000001-aa", Snapshot({}, Projection(())), Validation(True), Named())


class Host:
    """A pipeline and its master, on which nothing ever changes; the test of the configuration is what it is made of."""

    def __init__(self, validate: Callable[[], Validation]) -> None:
        self.master, self.validate = self, validate

    def warm(self) -> None: ...

    def work_ahead(self, _tested: Validation) -> Prepared:
        return PREPARED

    def scan(self, _named: Named, *, full: bool) -> Snapshot:
        return PREPARED.snapshot

    def prepare(self, _options: Options) -> Prepared:
        raise MasterInvalid("refused")

    def failed(self, *_about: Any) -> Any:
        raise MasterInvalid("and no record of it")

    def record(self, *_about: Any) -> None: ...


class Peer:
    """A worker that only takes what it is given."""

    def __init__(self) -> None:
        self.tasks: queue.Queue[Task] = queue.Queue()

    def warm(self) -> None: ...

    def look(self) -> None: ...

    def submit(self, task: Task) -> None:
        self.tasks.put(task)

    def overrule(self, *_about: Any) -> None: ...


def refused() -> Validation:
    return Validation(False)


def crashed() -> Validation:
    raise ValueError("what a bug is")


def preparer_of(host: Host, peer: Peer, triggers: TriggerQueue, **more: Any) -> Preparer:
    pipeline: Any = host
    workers: Any = {"web2": peer}
    options = {"learnt": lambda _named: None, "told": lambda: None, "jitter": lambda: 0.0, "retry_at_least_s": 600.0}
    return Preparer(pipeline, workers, triggers, SYNC, **{**options, **more})


@pytest.mark.parametrize(("validate", "may_go"), [(lambda: Validation(True), True), (refused, False), (crashed, False)])
def test_nobody_waits_at_the_gate_for_ever(validate: Callable[[], Validation], may_go: bool) -> None:
    peer, triggers = Peer(), TriggerQueue()
    preparer = preparer_of(Host(validate), peer, triggers)
    preparer.start()
    triggers.put(CHANGE)
    task = peer.tasks.get(timeout=30)
    assert task.settled(task.prepared) is may_go
    preparer.stop()


def test_what_failed_here_is_over_before_anybody_may_go() -> None:
    """Else what a peer's thread tells at its end may still say that this host refuses, and nobody tells it otherwise."""
    peer, triggers = Peer(), TriggerQueue()
    found: queue.Queue[bool] = queue.Queue()
    may_look = threading.Event()

    def learnt(_prepared: Prepared) -> None:
        may_look.wait(PATIENCE_S)
        found.put(task.settled._decided.is_set())

    preparer = preparer_of(Host(lambda: Validation(True)), peer, triggers, learnt=learnt)
    preparer.start()
    triggers.put(CHANGE)
    task = peer.tasks.get(timeout=PATIENCE_S)
    may_look.set()
    assert found.get(timeout=PATIENCE_S) is False
    assert task.settled(task.prepared)
    preparer.stop()


def test_a_retry_that_is_settled_while_it_is_looked_at_ends_nobody() -> None:
    """The main thread looks whether it is due, and a good run is prepared in that instant."""
    peer, triggers = Peer(), TriggerQueue()
    host = Host(lambda: Validation(True))
    is_passed = threading.Event()
    main = threading.current_thread()

    def clock() -> float:
        if threading.current_thread() is main:
            host.prepare = lambda _options: PREPARED  # type: ignore[method-assign]
            triggers.put("check")
            assert is_passed.wait(PATIENCE_S)
        return 0.0

    preparer = preparer_of(host, peer, triggers, clock=clock, learnt=lambda _prepared: is_passed.set())
    preparer.start()
    host.prepare = raising(Held("unsettled"))  # type: ignore[method-assign]
    triggers.put("check")
    wait_until(lambda: preparer._retry_at is not None, "it is to be tried again")
    preparer.check()
    preparer.stop()


def raising(error: Exception) -> Callable[[Options], Prepared]:
    def prepare(_options: Options) -> Prepared:
        raise error

    return prepare


def test_what_was_being_prepared_at_the_end_is_told_of_nobody() -> None:
    """A new configuration was taken: what this one finds is no news, and nobody would say that it is over."""
    peer, triggers = Peer(), TriggerQueue()
    host = Host(lambda: Validation(True))
    begun, may_end, told = threading.Event(), threading.Event(), threading.Event()

    def prepare(_options: Options) -> Prepared:
        begun.set()
        may_end.wait(PATIENCE_S)
        raise MasterInvalid("refused")

    host.prepare = prepare  # type: ignore[method-assign]
    preparer = preparer_of(host, peer, triggers, tell=lambda _result: told.set())
    preparer.start()
    triggers.put("check")
    assert begun.wait(PATIENCE_S)
    preparer.stop()
    may_end.set()
    wait_until(lambda: not preparer.is_alive(), "it ends")
    assert not told.is_set()


def test_the_end_of_a_burst_and_of_the_daemon_may_come_at_once() -> None:
    """`stop` finds somebody at the gate, who is let go before it has a word for them."""
    peer, triggers = Peer(), TriggerQueue()
    seen, may_end = threading.Event(), threading.Event()

    def validate() -> Validation:
        may_end.wait(PATIENCE_S)
        return Validation(True)

    preparer = preparer_of(Host(validate), peer, triggers)
    preparer.start()
    triggers.put(CHANGE)
    peer.tasks.get(timeout=PATIENCE_S)

    def paused(frame: Any, event: str, _argument: object) -> Any:
        """Stands still where `stop` has looked at the gate, until the other thread is done with it."""
        if frame.f_code is not Preparer.stop.__code__:
            return None
        if event == "line" and "decide" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            seen.set()
            may_end.set()
            wait_until(lambda: preparer._ahead is None, "nobody is at the gate any more")
        return paused

    former = sys.gettrace()
    sys.settrace(paused)
    try:
        preparer.stop()
    finally:
        sys.settrace(former)
        may_end.set()
    assert seen.is_set()
    wait_until(lambda: not preparer.is_alive(), "it ends")

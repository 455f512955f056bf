"""The preparing loop with a pipeline of its own: what becomes of workers that wait at the gate."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest

from ngxsync.core.config import load_config
from ngxsync.core.errors import MasterInvalid
from ngxsync.core.model import Projection, Snapshot
from ngxsync.daemon.preparing import CHANGE, Preparer
from ngxsync.daemon.worker import Task
from ngxsync.flow.interfaces import Named, Options, Prepared, Validation
from ngxsync.flow.triggers import TriggerQueue

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

    def submit(self, task: Task) -> None:
        self.tasks.put(task)

    def overrule(self, *_about: Any) -> None: ...


def refused() -> Validation:
    return Validation(False)


def crashed() -> Validation:
    raise ValueError("what a bug is")


@pytest.mark.parametrize(("validate", "may_go"), [(lambda: Validation(True), True), (refused, False), (crashed, False)])
def test_nobody_waits_at_the_gate_for_ever(validate: Callable[[], Validation], may_go: bool) -> None:
    peer, triggers = Peer(), TriggerQueue()
    pipeline: Any = Host(validate)
    workers: Any = {"web2": peer}
    preparer = Preparer(
        pipeline,
        workers,
        triggers,
        SYNC,
        learnt=lambda _named: None,
        told=lambda: None,
        jitter=lambda: 0.0,
        retry_at_least_s=600.0,
    )
    preparer.start()
    triggers.put(CHANGE)
    task = peer.tasks.get(timeout=30)
    assert task.settled(task.prepared) is may_go
    preparer.stop()

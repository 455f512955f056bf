"""One peer's thread: runs what is prepared for it, the newest state only, and tries again what failed.

An outage of any length takes no memory: of what comes meanwhile only the newest is kept, and while the peer does not
answer only its connection is tried.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from ngxsync.core import model
from ngxsync.core.errors import Message, NgxsyncError
from ngxsync.core.look import Look
from ngxsync.core.model import PeerResult, RunResult
from ngxsync.daemon.looking import Looker
from ngxsync.daemon.reports import Tally, is_news, logger, remembered
from ngxsync.flow.brake import Brake
from ngxsync.flow.interfaces import Options, Peer, Prepared
from ngxsync.flow.outcomes import Superseded
from ngxsync.flow.pipeline import Pipeline
from ngxsync.flow.triggers import Backoff

# verbs in the order in which a run calls them
VERBS = ("scan", "stage", "transact")
# failures that time may mend: of this host's disk, of the connection, a refusal, a lock, a bug
TRIED_AGAIN = (2, 4, 5, 9, 70)
# beyond every wait of a run together (rsync alone may take an hour): then it is stuck, not at work
LONGEST_RUN_S = 3 * 3600.0
PROBE_FROM_S, PROBE_TO_S = 1.0, 60.0
RUN_AGAIN_FROM_S = 5.0
# triggers of runs after which others may follow soon: the look waits until it is quiet
OF_EDITS = ("change", "retry")


@dataclass(frozen=True)
class Task:
    """A prepared state for one peer. `settled(prepared)` waits for the end of the burst that this run worked ahead of,
    and says whether this is still the state to apply."""

    prepared: Prepared
    options: Options
    started: float
    tally: Tally
    settled: Callable[[Prepared], bool]


class Worker:
    """`retry(name)` asks for a new run on this peer alone; `told()` follows each result; people are told by `tell(result)`
    and `tell_look(name, look)`. `clock` is monotonic seconds."""

    def __init__(
        self,
        peer: Peer,
        pipeline: Pipeline,
        *,
        retry: Callable[[str], None],
        told: Callable[[], None],
        tell: Callable[[PeerResult], None] = lambda _result: None,
        tell_look: Callable[[str, Look], None] = lambda _name, _look: None,
        jitter: Callable[[], float],
        retry_at_least_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = peer.config.name
        self.latest: PeerResult | None = None
        self._peer, self._pipeline, self._retry, self._told, self._clock = peer, pipeline, retry, told, clock
        self._tell = tell
        self._probes = Backoff(PROBE_FROM_S, PROBE_TO_S, jitter)
        self._runs = Backoff(min(RUN_AGAIN_FROM_S, retry_at_least_s), retry_at_least_s, jitter)
        self._retry_at: float | None = None
        self._task: Task | None = None
        self._overruled: tuple[RunResult, Options] | None = None
        self._is_warming = self._is_stopping = self._is_concluding = False
        self._brake = Brake()
        self._under_way: Task | None = None  # None also once it is given up
        self._looker = Looker(peer, pipeline, clock, tell_look)
        self._busy_since: float | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name=f"peer {self.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._looker.start()

    def submit(self, task: Task) -> None:
        """The newest state; one that still waits is dropped for it."""
        with self._changed:
            dropped, self._task = (task, None) if self._is_stopping else (self._task, task)
            self._overruled = None
            self._changed.notify_all()
        if dropped is not None:
            dropped.tally.leave_out(self.name, started=dropped.started)

    def warm(self) -> None:
        """A run is likely to follow soon: start there what it needs."""
        with self._changed:
            self._is_warming = True
            self._changed.notify_all()

    def overrule(self, result: RunResult, options: Options) -> None:
        """A run that ended on this host: the newest that is known of the peer, though nobody asked it."""
        with self._changed:
            dropped, self._task = self._task, None
            self._overruled = result, options
            self._changed.notify_all()
        if dropped is not None:
            dropped.tally.leave_out(self.name, started=dropped.started)

    def stop(self) -> None:
        """Ends after the transaction under way; a run that has not reached it is given up. Does not wait."""
        with self._changed:
            self._is_stopping = True
            given_up, self._task = [self._task], None
            if not self._brake.pull() and not self._is_concluding:
                given_up.append(self._under_way)
                self._under_way = None
            self._changed.notify_all()
        self._looker.stop()
        for task in filter(None, given_up):  # what was done on other peers is recorded without this one
            task.tally.leave_out(self.name, started=task.started)

    def look(self) -> None:
        """Whether this peer is ready is looked at beside whatever goes on."""
        self._looker.ask(now=True, probe=True)

    @property
    def is_committed(self) -> bool:
        """After `stop`: a transaction is under way, and its answer is still to come or to be written down."""
        return self._thread.is_alive() and self._under_way is not None

    def is_alive(self) -> bool:
        """Its thread runs, and is not stuck in a run beyond all its time limits."""
        busy_since = self._busy_since
        return self._thread.is_alive() and (busy_since is None or self._clock() - busy_since < LONGEST_RUN_S)

    def _loop(self) -> None:
        while True:
            task = self._next()
            if task is None and self._is_stopping:
                return
            self._busy_since = self._clock()
            if task is not None:
                self._run(task)
            elif self._overruled:
                self._note()
            elif self._is_warming:
                self._warm()
            else:
                self._try_again()
            del task  # 10,000 entries are not kept while nothing happens
            self._busy_since = None

    def _next(self) -> Task | None:
        """The next task, or None: something else is to be done."""

        def has_work() -> bool:
            return bool(self._task or self._overruled or self._is_warming or self._is_stopping)

        with self._changed:
            wait_s = None if self._retry_at is None else max(0.0, self._retry_at - self._clock())
            self._changed.wait_for(has_work, wait_s)
            if self._is_warming and not self._is_stopping:
                return None
            task, self._task = self._task, None
            return task

    def _note(self) -> None:
        with self._changed:
            overruled, self._overruled = self._overruled, None
        if overruled is None:
            return
        result, options = overruled
        self.latest = PeerResult(self.name, result.outcome, result.code, result.exit, message=result.message)
        self._pipeline.note_failed(self.name, result, options)
        self._looker.ask()

    def _warm(self) -> None:
        self._is_warming = False
        if self.latest is not None and self.latest.outcome == model.UNREACHABLE:
            return
        with suppress(NgxsyncError, OSError):  # the run itself says so
            for verb in VERBS:
                self._peer.warm(verb)

    def _run(self, task: Task) -> None:
        self._retry_at = None
        with self._changed:
            if not self._is_stopping:
                self._brake, self._under_way = Brake(), task
        if self._under_way is None:
            task.tally.leave_out(self.name, started=task.started)
            return
        try:
            self._run_under_way(task)
        finally:
            with self._changed:
                self._under_way, self._is_concluding = None, False

    def _run_under_way(self, task: Task) -> None:
        self._looker.wait_for_run()
        options = replace(task.options, gate=task.settled, brake=self._brake)
        try:
            result = self._pipeline.run_peer(self._peer, task.prepared, options)
        except Superseded:
            self._looker.go_on()  # where what follows is refused here no run asks again
            task.tally.leave_out(self.name, started=task.started)
            return
        except Exception:  # noqa: BLE001 - the outermost place of this thread; a bug, and the daemon goes on
            logger.exception("a bug of ngxsync: the run on %s ended", self.name)
            message = Message("a bug of ngxsync, see its traceback in the log", self.name, "", "report it")
            result = PeerResult(self.name, model.UNKNOWN, "bug", 70, message=message)
        with self._changed:
            self._is_concluding = self._under_way is not None
        if self._is_concluding:
            self._conclude(task, result)

    def _conclude(self, task: Task, result: PeerResult) -> None:
        found = result if result.snapshot else replace(result, snapshot=task.prepared.snapshot.id)
        previous, self.latest = self.latest, remembered(found)
        self._tell(found)
        self._set_retry(previous, found)
        is_check = task.options.trigger not in OF_EDITS
        is_equal = result.outcome in (model.APPLIED, model.IN_SYNC)
        if result.outcome != model.STANDBY:  # else whether the other one is ready is not this host's question
            self._looker.ask(now=is_check, probe=is_check or result.outcome == model.APPLIED, is_equal=is_equal)
        task.tally.add(result, started=task.started, is_news=is_news(previous, found))
        self._told()

    def _set_retry(self, previous: PeerResult | None, result: PeerResult) -> None:
        if result.exit not in TRIED_AGAIN and result.code != "vip":
            self._probes.reset()
            self._runs.reset()
            return
        if result.outcome == model.UNREACHABLE:
            self._retry_at = self._clock() + self._probes.next_delay()
            return
        if previous is not None and (previous.outcome, previous.snapshot) != (result.outcome, result.snapshot):
            self._runs.reset()
        self._retry_at = self._clock() + self._runs.next_delay()

    def _try_again(self) -> None:
        """An unreachable peer is first knocked at: to scan and test here for nothing at all would be a waste."""
        self._retry_at = None
        if self.latest is not None and self.latest.outcome == model.UNREACHABLE:
            try:
                self._peer.warm("scan")
            except (NgxsyncError, OSError):  # the peer is away, or this host has no room for one more process or file
                self._retry_at = self._clock() + self._probes.next_delay()
                return
        self._retry(self.name)

"""The one loop that prepares runs: waits for triggers, scans and validates once, hands the state to every peer's worker.

While a burst of edits settles, a run works ahead: scan, test, plan and stage touch nothing live. At the end of the burst
the trees are scanned again; only where they are what was tested may the peers go on, else the run begins anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ngxsync.core.config import SyncConfig
from ngxsync.core.errors import Message, NgxsyncError
from ngxsync.core.model import STANDBY, RunResult, Snapshot
from ngxsync.daemon.reloads import RELOAD, SOAKED
from ngxsync.daemon.reports import Tally, log_master, logger
from ngxsync.daemon.roles import ROLE
from ngxsync.daemon.worker import OF_EDITS, RUN_AGAIN_FROM_S, Task, Worker
from ngxsync.flow.interfaces import Options, Prepared, Validation
from ngxsync.flow.pipeline import Pipeline
from ngxsync.flow.triggers import Backoff, Settle, TriggerQueue

CHANGE, SCHEDULE, RETRY, RESUME = "change", "schedule", "retry", "resume"
# of several triggers the first of these names the run
RANKS = (SCHEDULE, "start", "hup", ROLE, RESUME, RELOAD, SOAKED, CHANGE, "check", RETRY)
# quiet for so long, and the file that an editor was writing is likely to be whole
QUIET_S = 0.02
# scan and test of the largest trees end long before
LONGEST_PREPARE_S = 3600.0
# a person's sync may ask a question
LOCK_WAIT_S = 60.0


@dataclass(frozen=True)
class Batch:
    """What several triggers together ask for; `peers` is empty for all of them."""

    trigger: str
    peers: tuple[str, ...] = ()

    def options(self) -> Options:
        return Options(trigger=self.trigger, full=self.trigger == SCHEDULE, peers=self.peers, wait_s=LOCK_WAIT_S)


def for_peer(trigger: str, peer: str) -> str:
    """A trigger that concerns one peer alone, as one word for the queue."""
    return f"{trigger} {peer}"


def make_batch(triggers: Sequence[str]) -> Batch:
    """One run for all of these: for every peer, unless each trigger names its own."""
    words = [trigger.partition(" ") for trigger in triggers]
    peers = dict.fromkeys(peer for _, _, peer in words)
    first = min((kind for kind, _, _ in words), key=RANKS.index)
    return Batch(first, () if "" in peers else tuple(peers))


class Settled:
    """The answer that workers wait for: which state the trees were in when the burst had ended."""

    def __init__(self, is_over: bool = False) -> None:
        self._decided = threading.Event()
        self._snapshot: Snapshot | None = None
        self._is_any = is_over
        if is_over:
            self._decided.set()

    def decide(self, snapshot: Snapshot | None) -> None:
        """None: this run is given up. The first word counts."""
        if not self._decided.is_set():
            self._snapshot = snapshot
            self._decided.set()

    def __call__(self, prepared: Prepared) -> bool:
        self._decided.wait()
        return self._is_any or (self._snapshot is not None and is_same(self._snapshot, prepared.snapshot))


def is_same(one: Snapshot, other: Snapshot) -> bool:
    """Also in what a snapshot id leaves out: times, mounts, what is reported only."""
    return one.manifest == other.manifest and one.roots == other.roots and one.projection == other.projection


class Preparer:
    """`learnt(prepared)` is told what was found here, before each run; `told()` follows what was made known. People are told
    by `tell(result)` of a run that ended here, and by `tell(None)` that one did not."""

    def __init__(
        self,
        pipeline: Pipeline,
        workers: Mapping[str, Worker],
        queue: TriggerQueue,
        sync: SyncConfig,
        *,
        learnt: Callable[[Prepared], None],
        told: Callable[[], None],
        tell: Callable[[RunResult | None], None] = lambda _result: None,
        jitter: Callable[[], float],
        retry_at_least_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: RunResult | None = None  # the latest run, where it ended on this host
        self._pipeline, self._workers, self._queue, self._clock = pipeline, workers, queue, clock
        self._learnt, self._told, self._tell = learnt, told, tell
        self._settle = Settle(sync.settle_s, sync.max_wait_s)
        self._quiet_s = min(QUIET_S, sync.settle_s / 4)
        self._backoff = Backoff(min(RUN_AGAIN_FROM_S, retry_at_least_s), retry_at_least_s, jitter)
        self._retry_at: float | None = None
        self._busy_since: float | None = None
        self._is_stopping = False
        self._ahead: Settled | None = None
        self._tested = Validation(True)
        self._thread = threading.Thread(target=self._loop, name="prepare", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Nothing new begins; what waits for the end of a burst is given up. Does not wait."""
        self._is_stopping = True
        self._queue.put(CHANGE)
        ahead = self._ahead  # which the other thread may take away any time
        if ahead is not None:
            ahead.decide(None)

    def is_alive(self) -> bool:
        busy_since = self._busy_since
        return self._thread.is_alive() and (busy_since is None or self._clock() - busy_since < LONGEST_PREPARE_S)

    def check(self) -> None:
        """Called every few seconds: tries again what failed on this host."""
        retry_at = self._retry_at  # the other thread may settle it meanwhile
        if retry_at is not None and self._clock() >= retry_at:
            self._retry_at = None
            self._queue.put(RETRY)

    def _loop(self) -> None:
        while not self._is_stopping:  # a burst may have taken the word that was to wake this
            triggers = self._queue.wait(None)
            if self._is_stopping:
                return
            self._busy_since = self._clock()
            try:
                self._serve(triggers)
            except Exception:  # noqa: BLE001 - the outermost place of this thread; a bug, and the daemon goes on
                logger.exception("a bug of ngxsync: preparing a run ended")
                self._retry_at = self._clock() + self._backoff.next_delay()
            self._settle.clear()
            self._busy_since = None

    def _serve(self, triggers: tuple[str, ...]) -> None:
        """One run, from its first trigger to the workers."""
        if set(triggers) == {CHANGE}:
            triggers = self._settled(triggers)
        if triggers and not self._is_stopping:
            self._prepare(make_batch(triggers), Settled(is_over=True))

    def _settled(self, triggers: tuple[str, ...]) -> tuple[str, ...]:
        """Waits for the end of the burst. The triggers of the run that is still to be made; () where one worked ahead of
        it, and the trees are as that one found them."""
        batch = dict.fromkeys(triggers)
        self._settle.note(self._clock())
        self._warm()
        ahead = Settled()
        try:
            return self._worked_ahead(ahead, batch)
        finally:
            ahead.decide(None)  # whatever went wrong, no worker waits at the gate for ever
            self._ahead = None

    def _worked_ahead(self, ahead: Settled, batch: dict[str, None]) -> tuple[str, ...]:
        prepared, quiet_s = None, self._quiet_s
        has_tried = False
        while not self._settle.due(self._clock()):
            wait_s = self._settle.wait(self._clock()) or 0.0
            more = self._queue.wait(wait_s if has_tried else min(quiet_s, wait_s))
            if self._is_stopping:
                break
            if more:
                batch.update(dict.fromkeys(more))
                self._settle.note(self._clock())
                if set(more) != {CHANGE}:
                    break
            elif not has_tried:
                has_tried = True
                prepared = self._work_ahead(ahead)
        if prepared is not None and self._decide(ahead, prepared, batch):
            return ()
        return tuple(batch)

    def _warm(self) -> None:
        for worker in self._workers.values():
            worker.warm()
        with suppress(NgxsyncError, OSError):  # the run itself says so
            self._pipeline.master.warm()

    def _work_ahead(self, ahead: Settled) -> Prepared | None:
        """A run whose workers wait at the gate; None where nothing is to be had yet, which is told of nobody.

        The peers scan, stage and rehearse while this host tests: only the gate joins the two.
        """
        options, started = make_batch([CHANGE]).options(), time.time()
        validation: Validation | None = None
        with suppress(NgxsyncError):  # the run that is made anew says so
            prepared = self._pipeline.work_ahead(self._tested)
            self._ahead = ahead
            self._hand_over(prepared, options, started, ahead)
            validation = self._pipeline.master.validate()
        if validation is None or not validation.passed:
            ahead.decide(None)
            return None
        return replace(prepared, validation=validation)

    def _decide(self, ahead: Settled, prepared: Prepared, batch: Mapping[str, None]) -> bool:
        """Opens the gate where the trees are what was tested ahead."""
        found: Snapshot | None = None
        if set(batch) == {CHANGE} and not self._is_stopping:
            with suppress(NgxsyncError):  # the run that is made anew says so
                found = self._pipeline.scan(prepared.named, full=False)
        is_good = found is not None and is_same(found, prepared.snapshot)
        if is_good:
            self._passed(prepared)  # first: whoever passes the gate may tell at once how it is here
        ahead.decide(found if is_good else None)
        return is_good

    def _prepare(self, batch: Batch, settled: Settled) -> None:
        options, started = batch.options(), time.time()
        try:
            prepared = self._pipeline.prepare(options)
        except NgxsyncError as error:
            if not self._is_stopping:  # else a new configuration was taken meanwhile, whose run says how it is
                self._failed(error, options, started)
            return
        if self._is_stopping:
            return
        self._passed(prepared)
        self._hand_over(prepared, options, started, settled)

    def _passed(self, prepared: Prepared) -> None:
        self.failure = None
        self._tell(None)
        self._tested = prepared.validation
        self._retry_at = None
        self._backoff.reset()
        self._learnt(prepared)

    def _hand_over(self, prepared: Prepared, options: Options, started: float, settled: Settled) -> None:
        names = [name for name in self._workers if not options.peers or name in options.peers]
        tally = Tally(self._pipeline, prepared, options, names)
        for name in names:
            self._workers[name].submit(Task(prepared, options, started, tally, settled))

    def _failed(self, error: NgxsyncError, options: Options, started: float) -> None:
        """The run ended here: recorded and told where it is news. What time may mend is tried again."""
        known, result = self.failure, _without_record(error, options, started)
        with suppress(NgxsyncError):  # the disk is full: the error itself says more
            result = self._pipeline.failed(options, error, started)
        self.failure = result
        self._tell(result)
        if options.trigger not in OF_EDITS:
            for worker in self._workers.values():
                worker.look()
        if error.exit_status != 3 and result.outcome != STANDBY:  # the VIP comes with a trigger of its own
            self._retry_at = self._clock() + self._backoff.next_delay()
        if known is not None and (known.code, known.problems, known.message) == (
            result.code,
            result.problems,
            result.message,
        ):
            return
        log_master(result)
        self._pipeline.record(result, options)
        for worker in self._workers.values():
            worker.overrule(result, options)
        self._told()


def _without_record(error: NgxsyncError, options: Options, started: float) -> RunResult:
    message: Message = error.message
    return RunResult("", options.trigger, exit=error.exit_status, code=error.code, message=message, started=started)

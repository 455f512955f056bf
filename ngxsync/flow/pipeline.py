"""The ten steps of DESIGN 3: scan and validate once, then every peer by itself, so that a dead one delays no other.

Manifests say what, triggers only when. Dry run is the same path, ending earlier.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ngxsync.core import model
from ngxsync.core.config import Config, raise_if_unknown
from ngxsync.core.errors import Held, Locked, MasterInvalid, Message, NgxsyncError, SourceChanged
from ngxsync.core.excludes import make_projection
from ngxsync.core.following import Following, Serving
from ngxsync.core.model import PeerResult, Plan, Problem, RunResult, Snapshot, worst_exit
from ngxsync.core.render import json_run
from ngxsync.core.standing import STANDBY, Standing
from ngxsync.flow import outcomes
from ngxsync.flow.following import judge
from ngxsync.flow.interfaces import Comparison, Master, Named, Options, Peer, Prepared, Validation
from ngxsync.flow.peer_run import PeerRun, raise_if_paused

ATTEMPTS = 3  # of scanning anew where master or peer changed while a run was at work
RUNS_KEPT = 500  # whatever they did; and of those that changed something as many as the peers keep
ASK_AGAIN_S = 1.0
LOOK_S = 2.0  # longer than a look at a peer has its lock, far shorter than a run
# what a person is told to type about one peer; the record of a pull that is undone knows which
FOR_ONE = re.compile(r"\bngxsync (?:diff|sync|pull|rollback)\b(?! --peer| --undo)")


class Pipeline:
    """One master and its peers. `memory` is edges/state.py; `random_hex` makes the random part of a run's id."""

    def __init__(
        self, config: Config, master: Master, peers: Mapping[str, Peer], memory: Any, *, random_hex: Callable[[], str]
    ) -> None:
        self.config, self.master, self.peers, self.memory = config, master, dict(peers), memory
        self.random_hex = random_hex

    # steps 2 and 3

    def scan(self, named: Named, *, full: bool) -> Snapshot:
        """The master's trees with the excludes that all peers share."""
        projection = make_projection(self.config, None, named.self_excludes, owners=self.master.owners)
        return self.master.scan(projection, full=full)

    def validate(self) -> tuple[Snapshot, Validation, Named]:
        """A snapshot that is exactly what nginx accepted: scanned again after the test, until both agree. Raises MasterInvalid."""
        for attempt in range(ATTEMPTS):
            named = self.master.named()
            before = self.scan(named, full=False)
            validation = self.master.validate()
            after = self.scan(named, full=False)
            if before.id == after.id or attempt == ATTEMPTS - 1:
                break
        if before.id != after.id:
            hint = "the next quiet moment is used; see what writes there all the time, and exclude it"
            raise Held(
                Message(
                    "the trees changed all the while they were tested", self.master.name, "no peer was changed", hint
                ),
                code="unsettled",
            )
        if not validation.passed:
            raise Refusal(validation, self.master.name)
        return after, validation, named

    def prepare(self, options: Options) -> Prepared:
        """Of trees that no run on this host (a pull) was at work on meanwhile."""
        prepared = self._prepared(options)
        for _ in range(ATTEMPTS - 1):
            if self.settle(options) == prepared.mark:
                break
            prepared = self._prepared(options)
        return prepared

    def _prepared(self, options: Options) -> Prepared:
        mark = self.settle(options)
        standing = self.standing(options)
        run = self.memory.new_run_id(self.random_hex())
        if options.full:
            self.scan(self.master.named(), full=True)
        serving = self._serving()
        snapshot, validation, named = self.validate()
        following = self._following(serving, snapshot, named)
        return Prepared(run, snapshot, validation, named, mark, following, standing)

    def standing(self, options: Options) -> Standing:
        """Only who holds the VIP pushes, or without one whom nobody synced to since it was promoted. Raises Held (standby)."""
        standing = self.master.standing()
        hold = standing.hold(options.force)
        if hold is not None:
            raise hold
        return standing

    def settle(self, options: Options) -> object:
        """Nothing is read of trees that a run on this host itself (a pull) left half done: that is finished or undone first.

        Raises NgxsyncError where it cannot be, or is still at work.
        """
        return None if options.dry_run else self.master.settle(options.wait_s)

    def work_ahead(self, tested: Validation) -> Prepared:
        """Step 2 alone: what peers may compare and stage while `nginx -t` still runs. `tested` is the latest one's verdict.

        The caller tests, scans again, and lets nobody through the gate unless both agree with this.
        """
        mark, serving, standing = self.settle(Options()), self._serving(), self.standing(Options())
        named = self.master.named()
        run, snapshot = self.memory.new_run_id(self.random_hex()), self.scan(named, full=False)
        return Prepared(run, snapshot, tested, named, mark, self._following(serving, snapshot, named), standing)

    def _serving(self) -> Serving | None:
        """What runs here, for peers that follow it. Before the scan: a reload after it may have read what it did not see."""
        return self.master.nginx.serving() if self.config.sync.is_following else None

    def _following(self, serving: Serving | None, snapshot: Snapshot, named: Named) -> Following:
        if serving is None:
            return Following()
        return judge(self.master.nginx, serving, snapshot, named, self.config, self.master.name)

    # all steps

    def chosen(self, options: Options) -> list[Peer]:
        raise_if_unknown(options.peers, self.config, self.peers)
        return [peer for name, peer in self.peers.items() if not options.peers or name in options.peers]

    def run(self, options: Options) -> RunResult:
        """One run over the chosen peers, recorded. Raises ConfigError for options that make no sense; all else is in the result."""
        peers = self.chosen(options)
        started = time.time()
        self._warm_ahead(peers)
        try:
            prepared = self.prepare(options)
        except NgxsyncError as error:
            result = self.failed(options, error, started)
            for peer in peers:
                self.note_failed(peer.config.name, result, options)
            return self.record(result, options)
        with ThreadPoolExecutor(max_workers=max(1, len(peers))) as pool:
            results = tuple(pool.map(lambda peer: self.run_peer(peer, prepared, options), peers))
        return self.record(self.result(prepared, results, options, started), options)

    def failed(self, options: Options, error: NgxsyncError, started: float) -> RunResult:
        """A run that ended before any peer was asked."""
        return failed_run(self.memory.new_run_id(self.random_hex()), options, error, started)

    def note_failed(self, name: str, result: RunResult, options: Options) -> None:
        """What `status` says of a peer from then on, unless a run on it is under way: that one knows more."""
        about = PeerResult(name, result.outcome, result.code, result.exit, message=result.message)
        # a run that has the lock writes the whole record at its end: this word would be lost, or that run's memory; a look is brief
        with suppress(NgxsyncError):
            before = self.memory.load_peer(name).last_run
            with self.memory.lock(name, LOOK_S, run=result.run):
                if self.memory.load_peer(name).last_run == before:
                    self._remember(name, result.run, about, options)

    def _warm_ahead(self, peers: list[Peer]) -> None:
        """Beside scan and test here; a dead one delays no other, nor a refusal."""
        for peer in peers:
            threading.Thread(target=self._warm, args=(peer,), daemon=True).start()

    @staticmethod
    def _warm(peer: Peer) -> None:
        with suppress(NgxsyncError):  # its own run says so
            peer.warm("scan")

    def run_peer(self, peer: Peer, prepared: Prepared, options: Options) -> PeerResult:
        """Steps 4 to 9 on one peer. Of all NgxsyncErrors raises only Superseded."""
        name = peer.config.name
        try:
            with self.memory.lock(name, options.wait_s, run=prepared.run):
                return self._run_locked(peer, prepared, options)
        except outcomes.Superseded:
            raise
        except NgxsyncError as error:
            # nothing was learnt of the peer, and who has the lock may be writing what is remembered of it
            return outcomes.failed(name, error, {}, Plan())

    def _run_locked(self, peer: Peer, prepared: Prepared, options: Options) -> PeerResult:
        name, run = peer.config.name, prepared.run
        timings: Mapping[str, float] = {}
        plan = Plan()
        told: tuple[str, ...] = ()
        try:
            self._raise_if_paused(name, options)
            if self.settle(options) != prepared.mark:  # what was pulled meanwhile is no drift any more
                prepared = self.prepare(options)
            for attempt in range(ATTEMPTS):
                work = self.peer_run(peer, prepared, options)
                timings = work.timings
                try:
                    result = self._once_free(work, options)
                    break
                except (SourceChanged, outcomes.TransactionFailed) as error:
                    again = isinstance(error, SourceChanged) or error.code in outcomes.TRY_AGAIN
                    if not again or attempt == ATTEMPTS - 1:
                        raise
                    told += error.warnings
                    prepared = self.prepare(options)
                finally:
                    plan = work.plan
                    told += tuple(work.edits)
        except outcomes.Superseded:
            raise
        except NgxsyncError as error:
            result = outcomes.failed(name, error, timings, plan)
        result = self.addressed(replace(result, warnings=tuple(dict.fromkeys((*told, *result.warnings)))))
        self._remember(name, run, result, options)  # as recorded, however often it was planned anew
        return result

    def addressed(self, result: PeerResult) -> PeerResult:
        """Where there are several peers, what to do about this one is told with its name: else it would be done to all."""
        if len(self.peers) < 2:
            return result
        result = replace(result, warnings=tuple(for_one(result.name, text) for text in result.warnings))
        if result.message is None:
            return result
        return replace(result, message=replace(result.message, next=for_one(result.name, result.message.next)))

    def peer_run(self, peer: Peer, prepared: Prepared, options: Options) -> PeerRun:
        return PeerRun(self.config, self.master, peer, self.memory, prepared, options)

    @staticmethod
    def _once_free(work: PeerRun, options: Options) -> PeerResult:
        """The run on this peer as soon as no other master's is at work there. Raises Locked after `wait_s`."""
        end = time.monotonic() + options.wait_s
        while True:
            try:
                return work.sync()
            except Locked:
                if time.monotonic() >= end or options.brake.is_abandoned:
                    raise
                time.sleep(min(ASK_AGAIN_S, max(0.0, end - time.monotonic())))

    def _raise_if_paused(self, name: str, options: Options) -> None:
        raise_if_paused(self.memory, name, options)

    def _remember(self, name: str, run: str, result: PeerResult, options: Options) -> None:
        """The status word and the latest run of this peer, for `status`."""
        if options.dry_run or options.brake.is_abandoned:
            return
        with suppress(NgxsyncError):  # the disk is full: the result itself says more than its record could
            self.memory.note_result(name, run, result)

    def compare(self, peer: Peer, options: Options) -> tuple[Comparison, Named]:
        """The plan for one peer without validating: for diff and status."""
        self._warm_ahead([peer])
        named = self.master.named()
        snapshot = self.scan(named, full=options.full)
        prepared = Prepared("compare", snapshot, Validation(True), named)
        return PeerRun(self.config, self.master, peer, self.memory, prepared, options).compare(), named

    def result(
        self, prepared: Prepared, results: tuple[PeerResult, ...], options: Options, started: float
    ) -> RunResult:
        worst = worst_exit([result.exit for result in results])
        decisive = next((r for r in results if r.exit == worst), None)
        # where none failed: applied, or in a dry run pending, if anywhere
        harmless = next((r.outcome for r in results if r.outcome != model.IN_SYNC), model.IN_SYNC)
        return RunResult(
            run=prepared.run,
            trigger=options.trigger,
            snapshot=prepared.snapshot.id,
            exit=worst,
            outcome=decisive.outcome if decisive and worst else harmless,
            code=decisive.code if decisive and worst else "",
            peers=results,
            problems=tuple(p for p in prepared.validation.problems if p.level != "error"),
            started=started,
            duration_s=round(time.time() - started, 3),
        )

    def record(self, result: RunResult, options: Options) -> RunResult:
        """Step 10: runs that did something, or failed; a quiet check leaves no record."""
        if options.dry_run or options.brake.is_abandoned:
            return result
        if result.outcome != model.IN_SYNC or options.by_person:
            try:
                self.memory.record_run(result.run, json_run(options.trigger, result))
                keep = self.config.sync
                self.memory.forget_runs(RUNS_KEPT, keep_runs=keep.keep_runs, keep_for_s=keep.keep_for_s)
            except NgxsyncError as error:
                # the outcome stands, its record is missing
                return replace(result, message=result.message or error.message)
        return result


def for_one(peer: str, text: str) -> str:
    return FOR_ONE.sub(rf"\g<0> --peer {peer}", text)


class Refusal(MasterInvalid):
    """The master's own nginx refuses its configuration; `validation` has every problem as file:line."""

    def __init__(self, validation: Validation, master: str) -> None:
        self.validation = validation
        self.problems: tuple[Problem, ...] = validation.problems
        errors = [problem for problem in validation.problems if problem.level == "error"]
        count = f": {len(errors)} problems" if len(errors) > 1 else ""
        what = f"nginx on {master} does not accept its configuration{count}"
        super().__init__(Message(what, "", "no peer was changed", "mend it; `ngxsync validate` tries it again"))


def failed_run(run: str, options: Options, error: NgxsyncError, started: float) -> RunResult:
    """A run that ended before any peer was asked."""
    outcome = {3: model.REFUSED, 7: model.BROKEN, 8: model.HELD}.get(error.exit_status, model.UNKNOWN)
    outcome = model.STANDBY if error.code == STANDBY else outcome
    return RunResult(
        run=run,
        trigger=options.trigger,
        exit=error.exit_status,
        outcome=outcome,
        code=error.code,
        problems=getattr(error, "problems", ()),
        message=error.message,
        started=started,
        duration_s=round(time.time() - started, 3),
    )

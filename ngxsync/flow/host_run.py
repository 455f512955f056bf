"""Steps 4 to 9 on one host, a peer or in a pull this one: from its scan to the answer of its transaction, and what is remembered of it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from ngxsync.core import model
from ngxsync.core.config import Config
from ngxsync.core.errors import AgentFailed, Held, Locked, Message, NgxsyncError, PeerUnreachable, TransferFailed
from ngxsync.core.excludes import make_projection
from ngxsync.core.guards import Hold
from ngxsync.core.memory import Quarantined
from ngxsync.core.model import PeerResult, Plan, Snapshot
from ngxsync.core.plan import paths_to_send
from ngxsync.flow import outcomes, requests
from ngxsync.flow.comparison import FIRST_CONTACT, compare, snapshot_for
from ngxsync.flow.decisions import holds_of, is_done, past_holds, reload_needed, undone_rollback, worth_saying
from ngxsync.flow.interfaces import Comparison, Host, Master, Options, Prepared
from ngxsync.flow.parity import before_first_sync

SCAN_S = 120.0
STAGE_S = 600.0  # copies of whole trees on a slow disk
ASK_S = 20.0
ASK_EVERY_S = 1.0
CHANGING = ("stage", "transact", "recover")  # verbs that a run comes to when nothing holds it


class HostRun(ABC):
    """One run on one host. Everything is raised or returned; the caller turns what is raised into a result."""

    def __init__(
        self, config: Config, master: Master, peer: Host, memory: Any, prepared: Prepared, options: Options
    ) -> None:
        self.config, self.master, self.peer, self.memory = config, master, peer, memory
        self.prepared, self.options = prepared, options
        self.name = peer.config.name
        self.timings: dict[str, float] = {}
        self.bytes_sent = 0
        self.record = memory.load_peer(self.name)
        implied = prepared.named.self_excludes
        for tree, patterns in implied.items():
            self.record = self.record.with_self_excludes(tree, patterns)
        self._project()
        self.plan = Plan()
        self.unlike: tuple[str, ...] = ()  # how the hosts differ, where this is the first contact
        self.left: list[str] = []  # what differs and stays so, since a person went past the hold for it

    def _project(self) -> None:
        owners = self.master.owners and self.record.has_root_there(self.peer.config.user)
        self.projection = make_projection(self.config, self.peer.config, self.record.self_excludes, owners=owners)
        self.snapshot: Snapshot = snapshot_for(self.prepared.snapshot, self.projection)

    def _learns(self, is_root: bool | None) -> bool:
        """Whether owners count, or no longer, now that the scan said who works there: then it is asked anew."""
        before, self.record = self.projection, replace(self.record, is_root=is_root)
        self._project()
        return self.projection != before

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        if self.options.progress is not None:
            self.options.progress(self.name, step, 0, 0)
        try:
            yield
        finally:
            self.timings[step] = round(self.timings.get(step, 0.0) + time.monotonic() - started, 4)

    # step 4

    def compare(self, *, may_recover: bool = True, may_learn: bool = True) -> Comparison:
        """Scan the peer and plan. What an earlier run left open there is settled first."""
        base = self.memory.load_accepted(self.name, self.record.generation, self.snapshot.manifest)
        request = requests.scan_request(
            self.config, self.peer.config, self.snapshot, self.record, base is not None, full=self.options.full
        )
        with self.timed("scan"):
            answer = self._call("scan", request, SCAN_S)
        if may_learn and self._learns(answer["uid"] == 0 if "uid" in answer else None):
            return self.compare(may_recover=may_recover, may_learn=False)
        if answer["journal"] is not None and not self.options.dry_run:
            if not may_recover:
                raise outcomes.still_open(self.peer.config)
            self._recover()
            return self.compare(may_recover=False)
        self.record = replace(self.record, broken="")
        pushing = self.prepared.standing
        compared = compare(self.config, self.peer.config, self.snapshot, self.record, base, answer, pushing)
        self.plan = compared.plan
        if base is None and compared.base is not None and not self.options.dry_run:
            self.memory.save_accepted(self.name, self.record.generation, compared.base)
        return compared

    def _recover(self) -> None:
        """Finish or undo what is open there. Where that has failed, only a person's run tries it again (exit 7)."""
        if self.record.broken and not self.options.by_person:
            raise outcomes.StillBroken(self.name, self.record.broken)
        request = requests.common(self.config, self.peer.config, self.projection)
        self._call("recover", {**request, "wait_s": min(60.0, self.options.wait_s)}, SCAN_S)

    def _call(
        self, verb: str, request: dict[str, Any], timeout_s: float, go: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        # what is held at the first contact is as if nobody had come; a later agent is put where one of ours was
        may_install = verb in CHANGING or self.record.generation is not None
        install = may_install and self.options.install and not self.options.dry_run
        try:
            answer = self.peer.call(verb, request, timeout_s=timeout_s, install=install, go=go)
        except PeerUnreachable as error:
            raise outcomes.with_state(error, verb, self.name, self.record.open_run) from error
        is_verdict = verb == "transact" and "outcome" in answer
        if not answer["ok"] and answer["code"] == model.BROKEN and not is_verdict:
            # what an earlier run left there could not be put right, whichever verb met it
            message = outcomes.message_of(answer, self.peer.config)
            self.record = replace(self.record, broken=message.what)
            self.memory.save_peer(self.record)
            raise outcomes.Broken(message)
        if not answer["ok"] and not is_verdict and (verb != "transact" or answer["code"] == "locked"):
            raise outcomes.failed_call(answer, self.peer.config)
        return answer

    def holds(self, compared: Comparison) -> tuple[Hold, ...]:
        force, by_person = self.options.force, self.options.by_person
        following = self.prepared.following
        return holds_of(compared, self.config, self.master.name, force, by_person=by_person, following=following)

    def raise_if_unconfirmed(self, compared: Comparison) -> None:
        """A person's first sync shows what it would delete and asks."""
        deletions = [change for change in compared.plan.changes if change.kind == "deleted"]
        if compared.standing != FIRST_CONTACT or compared.is_empty or not deletions or self.options.confirm is None:
            return
        if not self.options.confirm(self.name, compared.plan):
            what = f"the first sync would delete {len(deletions)} path{'s' * (len(deletions) != 1)} on {self.name}, and nobody said yes"
            hint = "look at `ngxsync diff`; `ngxsync sync --yes` does it"
            raise Held(Message(what, self.name, f"{self.name} unchanged", hint), code=FIRST_CONTACT)

    # steps 5 to 9

    def sync(self) -> PeerResult:
        """The whole run on this peer. Raises NgxsyncError; what the peer itself decided is in the result."""
        self.settle_open_run()
        compared = self.compare()
        self.unlike = before_first_sync(self, compared, self._call)
        holds = self.holds(compared)
        if holds:
            self._pass_gate()
            raise outcomes.held(holds, self.unlike)
        whole, compared = compared.plan.changes, past_holds(compared, self.options.force)
        done = set(compared.plan.changes)
        self.plan, self.left = compared.plan, [change.path for change in whole if change not in done]
        self.raise_if_unconfirmed(compared)
        if is_done(compared):
            self._pass_gate()
            return self._remember_equal(compared)
        if self.options.dry_run:
            outcome = model.PENDING if compared.plan else model.IN_SYNC
            return self.result(outcome, compared, warnings=undone_rollback(compared))
        self._raise_if_given_up(compared)
        self.stage(compared)
        answer = self.transact(compared)
        return self.concluded(compared, answer)

    def _go(self) -> None:
        """The last moment at which this run may still be given up."""
        self._pass_gate()
        self.options.brake.pass_by(self.name)

    def _pass_gate(self) -> None:
        """Raises Superseded where the trees moved on while this run worked ahead."""
        gate = self.options.gate
        if gate is None:
            return
        with self.timed("settle"):
            if not gate(self.prepared):
                raise outcomes.Superseded(Message("the trees changed meanwhile", self.name))

    def _raise_if_given_up(self, compared: Comparison) -> None:
        """Quarantine (after 6) and back-off (after 5) bind automatic runs only."""
        snapshot = compared.snapshot.id
        if self.options.by_person:
            return
        why = self.record.quarantine and self.record.why_quarantined(snapshot, compared.peer_id)
        if why and self.options.trigger != "schedule":
            raise outcomes.Quarantine(self.name, snapshot, why)
        refused = self.record.refused
        if refused and refused.snapshot == snapshot and self.options.trigger == "change":
            raise outcomes.StillRefused(self.name, snapshot, refused.why)

    def stage(self, compared: Comparison) -> None:
        """Step 5: exactly the planned files, into this run's stage."""
        names = paths_to_send(compared.plan)
        if not compared.plan:
            return
        trees = list(self.projection.roots)
        request = {
            **requests.common(self.config, self.peer.config, self.projection),
            "run": self.prepared.run,
            "trees": trees,
            "written_by": self.master.name,
        }
        with self.timed("stage"):
            stages: dict[str, str] = self._call("stage", request, ASK_S)["stages"]
            try:
                self.send(names, stages)
            except TransferFailed as error:
                if error.code == "no-room":  # nginx there has logs to write; asked for anew, a stage is empty
                    with suppress(NgxsyncError):
                        self._call("stage", request, ASK_S)
                raise

    @abstractmethod
    def send(self, names: Collection[str], stages: Mapping[str, str]) -> None:
        """The content of these files, into the stages of their trees; what it cost is added to `bytes_sent`."""

    def _progress(self) -> Callable[[int, int], None] | None:
        progress = self.options.progress
        return None if progress is None else lambda done, total: progress(self.name, "stage", done, total)

    def transact(self, compared: Comparison) -> dict[str, Any]:
        """Steps 6 to 9, on the peer alone; after a cut connection it is asked, never assumed."""
        run, test_s = self.prepared.run, self.prepared.validation.seconds
        request = requests.transact_request(
            self.config,
            self.peer.config,
            compared,
            run=run,
            written_by=self.master.name,
            generation=self.record.generation,
            reload=reload_needed(compared, self.config, self.prepared.named),
            force=self.options.force,
            test_s=test_s,
        )
        request.update(self.marks(compared))
        self._note_open(run)
        timeout_s = requests.transact_timeout_s(self.config, self.peer.config, test_s)
        with self.timed("transact"):
            try:
                answer = self._call("transact", request, timeout_s, self._go)
            except (outcomes.Superseded, Held, Locked, TransferFailed):
                self._note_open("")  # given up before it began
                raise
            except (PeerUnreachable, AgentFailed) as error:
                if isinstance(error, PeerUnreachable) and error.code != "cut":
                    self._note_open("")  # it never got there
                    raise
                return self.ask_for(run, error)
            if answer["code"] == "died":
                return self.ask_for(run, outcomes.died(answer, self.peer.config))
            return answer

    def marks(self, _compared: Comparison) -> dict[str, Any]:
        """What else the peer's accepted record shall say of this run: a rollback's."""
        return {}

    def _note_open(self, run: str) -> None:
        """Durably, before the peer is asked: whatever dies, the next contact asks for this run's answer."""
        self.record = replace(self.record, open_run=run)
        self.memory.save_peer(self.record)

    def ask_for(self, run: str, cause: NgxsyncError) -> dict[str, Any]:
        """The answer of a run that ended without one here; what it left open is put right. Raises `cause` where there is none."""
        request = {**requests.common(self.config, self.peer.config, self.projection), "run": run}
        end = time.monotonic() + requests.transact_timeout_s(
            self.config, self.peer.config, self.prepared.validation.seconds
        )
        while True:
            try:
                answer = self._call("show", request, ASK_S)
            except (PeerUnreachable, AgentFailed) as error:
                raise cause from error  # that nobody answers now says nothing about what was begun
            if answer["state"] == "done":
                return dict(answer["answer"])
            if answer["state"] == "unknown":
                raise cause
            if answer["state"] == "open":
                self._recover()
            if time.monotonic() > end:
                raise PeerUnreachable(outcomes.still_running(run, self.peer.config), code="cut") from cause
            time.sleep(ASK_EVERY_S)

    def settle_open_run(self) -> None:
        """A run whose answer never came: its generation, if it was accepted, is this master's own."""
        run = self.record.open_run
        if not run or self.options.dry_run:
            return
        request = {**requests.common(self.config, self.peer.config, self.projection), "run": run}
        answer = self._call("show", request, ASK_S)
        if answer["state"] in ("open", "running"):
            self._recover()
            answer = self._call("show", request, ASK_S)
        self.record = replace(self.record.with_answer(answer["answer"] or {}), open_run="")
        self.memory.save_peer(self.record)

    # step 10, the master's memory

    def concluded(self, compared: Comparison, answer: Mapping[str, Any]) -> PeerResult:
        result = outcomes.result_of(self, compared, answer)
        if answer["ok"]:
            result = replace(result, warnings=(*self.unlike, *result.warnings, *self._worth_saying(compared)))
        record = replace(self.record, open_run="")
        if answer["ok"]:
            self.memory.save_accepted(self.name, str(answer["generation"]), compared.snapshot.manifest)
            record = replace(
                record.with_answer(answer),
                master_roots=dict(compared.snapshot.roots),
                peer_roots=dict(compared.peer.roots),
                refused=None,
                quarantine=(),
                tenure=self.prepared.standing.tenure,
                peer_tenure=compared.last_tenure,
            )
        elif result.outcome == model.REFUSED:
            why = str(result.problems[0]) if result.problems else "nginx refused it"
            record = record.with_refusal(compared.snapshot.id, why, time.time())
        elif result.outcome in (model.UNDONE, model.BROKEN):
            why = result.message.what if result.message else result.outcome
            entry = Quarantined(compared.snapshot.id, why, compared.now, compared.peer_id)
            record = replace(record, quarantine=(entry,), broken=why if result.outcome == model.BROKEN else "")
        self.record = record
        self.memory.save_peer(record)
        return result

    def _worth_saying(self, compared: Comparison) -> Iterator[str]:
        return worth_saying(compared, self.prepared, self.name, self.left)

    def _remember_equal(self, compared: Comparison) -> PeerResult:
        roots = {"master_roots": dict(compared.snapshot.roots), "peer_roots": dict(compared.peer.roots)}
        self.record = replace(self.record, refused=None, quarantine=(), pulled={}, **roots)
        if not self.options.dry_run:
            self.memory.save_peer(self.record)
        return self.result(model.IN_SYNC, compared)

    def result(self, outcome: str, compared: Comparison, **more: Any) -> PeerResult:
        accepted = (compared.accepted or {}).get("id", "")
        return PeerResult(
            name=self.name,
            outcome=outcome,
            snapshot=compared.snapshot.id,
            accepted=more.pop("accepted", accepted),
            changes=compared.plan.changes,
            bytes_sent=self.bytes_sent,
            timings=dict(self.timings),
            run=self.prepared.run,
            **more,
        )

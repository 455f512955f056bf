"""A rollback: the ordinary run with an old snapshot as its goal and the peer's store as its source (DESIGN 6, TRANSACTION).

This host's nginx is not asked: its configuration may be just what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ngxsync.agent import manifest as manifests
from ngxsync.agent.manifest import Manifest, snapshot_id
from ngxsync.core import model
from ngxsync.core.errors import AgentFailed, Held, Message, NgxsyncError
from ngxsync.core.guards import Hold
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import PeerResult, Plan, Projection, RunResult
from ngxsync.core.plan import paths_to_send
from ngxsync.core.rollback import (
    Kept,
    contents_taken_back,
    has_sound_excludes,
    manifest_with,
    of_this_command,
    rolled_back_hold,
    snapshot_before,
    still_here,
    whole_manifest,
)
from ngxsync.core.wording import listed, one_line, render_moment
from ngxsync.flow import requests
from ngxsync.flow.comparison import covered_by, replanned
from ngxsync.flow.host_run import SCAN_S, STAGE_S
from ngxsync.flow.interfaces import Comparison, Options, Peer, Prepared, Validation
from ngxsync.flow.peer_run import PeerRun
from ngxsync.flow.pipeline import Pipeline

REMEMBERED = (model.APPLIED, model.NOT_PROVEN, model.BROKEN, model.UNREACHABLE)
Confirm = Callable[[str, str, Plan], bool]


class NoSuchRun(NgxsyncError):
    """What was asked for is not there: no such run or path, or nothing before."""

    exit_status = 2
    code = "unknown-run"


class NotKept(NgxsyncError):
    """The peer's store lacks what the rollback needs, and this host has it neither."""

    exit_status = 4
    code = "not-kept"


@dataclass(frozen=True)
class Goal:
    """`run` is a run's id, the number that it begins with, or "" for the snapshot before; `paths` bring back single files.

    `confirm(peer, what, plan)` is a person's answer; None asks nobody. `there` is what peers call that run, where it is known.
    """

    run: str = ""
    paths: tuple[str, ...] = ()
    confirm: Confirm | None = None
    there: Mapping[str, str] = field(default_factory=dict)


class Rollback(Pipeline):
    """The pipeline with another goal: no test of this host's configuration, and the hold in the memory of each peer after it."""

    def __init__(self, pipeline: Pipeline, goal: Goal) -> None:
        super().__init__(
            pipeline.config, pipeline.master, pipeline.peers, pipeline.memory, random_hex=pipeline.random_hex
        )
        self.goal = goal
        self.works: dict[str, RollbackRun] = {}

    def prepare(self, options: Options) -> Prepared:
        mark, standing, named = self.settle(options), self.standing(options), self.master.named()
        run = self.memory.new_run_id(self.random_hex())
        return Prepared(run, self.scan(named, full=options.full), Validation(True), named, mark, standing=standing)

    def peer_run(self, peer: Peer, prepared: Prepared, options: Options) -> PeerRun:
        work = RollbackRun(self.config, self.master, peer, self.memory, prepared, options)
        work.goal = replace(self.goal, run=self.goal.there.get(peer.config.name, self.goal.run))
        self.works[peer.config.name] = work
        return work

    def run_peer(self, peer: Peer, prepared: Prepared, options: Options) -> PeerResult:
        result = super().run_peer(peer, prepared, options)
        message = result.message
        if message is None or not result.exit:
            return result
        return replace(result, message=of_this_command(message))

    def failed(self, options: Options, error: NgxsyncError, started: float) -> RunResult:
        result = super().failed(options, error, started)
        return replace(result, message=of_this_command(result.message)) if result.message else result

    def result(
        self, prepared: Prepared, results: tuple[PeerResult, ...], options: Options, started: float
    ) -> RunResult:
        reached = {peer.snapshot for peer in results}
        return replace(
            super().result(prepared, results, options, started), snapshot=reached.pop() if len(reached) == 1 else ""
        )

    def _remember(self, name: str, run: str, result: PeerResult, options: Options) -> None:
        """What failed says nothing of the peer; what was rolled back is held, or pending."""
        if options.dry_run or result.outcome not in REMEMBERED:
            return
        super()._remember(name, run, result, options)
        work = self.works[name]
        if result.outcome == model.APPLIED and work.planned != work.snapshot.manifest:
            word = model.HELD if work.hold else model.PENDING
            message = self.addressed(replace(result, message=work.hold.message)).message if work.hold else None
            with suppress(NgxsyncError):  # the disk is full: the result itself says more than its record could
                record = self.memory.load_peer(name)
                self.memory.save_peer(replace(record, word=word, since=record.last_run_at, message=message))


class RollbackRun(PeerRun):
    """One peer, back to a snapshot that it accepted, or single files of it."""

    goal = Goal()
    what = ""  # it goes back to, for people
    restores = ""
    planned: Manifest | None = None
    still_here: tuple[str, ...] = ()  # what was taken back, and this host still has
    hold: Hold | None = None  # for automatic runs from now on

    def compare(self, **again: bool) -> Comparison:
        """The peer as it is against what it shall be."""
        compared = super().compare(**again)
        if compared.snapshot is not self.snapshot:
            return compared  # asked anew, and planned there
        self.plan = Plan()  # what a sync would do was not asked
        if self.goal.paths:
            found = self._with_paths(compared)
        else:
            found = self._with_snapshot(compared)
        self.planned, self.plan = found.snapshot.manifest, found.plan
        return found

    def _ask(self, **request: Any) -> dict[str, Any]:
        common = requests.common(self.config, self.peer.config, self.projection)
        try:
            return self._call("history", {**common, **request}, SCAN_S)
        except AgentFailed as error:
            if error.code in ("unknown-run", "swept"):
                raise self._none(error.message.what, error.code) from error
            raise

    def _none(self, what: str, code: str = "unknown-run") -> NoSuchRun:
        hint = "`ngxsync history` lists the runs, `ngxsync history RUN` what one replaced"
        if code == "nothing-before":
            hint += ", `ngxsync rollback RUN --path PATH` brings that back"
        return NoSuchRun(Message(what, self.name, f"{self.name} unchanged", hint), code=code)

    # a whole snapshot

    def _with_snapshot(self, compared: Comparison) -> Comparison:
        kept = [_kept_from(each) for each in self._ask()["snapshots"]]
        for target in self._targets(kept, compared.accepted or {}):
            found = self._back_at(target, compared)
            if found.plan or self.goal.run:
                when = render_moment(target.at)
                self.what = (
                    f"the snapshot of run {target.run}, accepted {when} from {one_line(target.written_by) or '?'}"
                )
                self.restores = target.run
                return found
        raise self._none(f"{self.name} keeps no other snapshot from before the one that it has", "nothing-before")

    def _targets(self, kept: Sequence[Kept], accepted: Mapping[str, Any]) -> Iterator[Kept]:
        """The snapshot that was asked for; or those before, one after the other, since one may differ in its excludes alone."""
        if self.goal.run:
            yield kept[self._chosen([each.run for each in kept], "snapshot")]
            return
        latest = max((each.sequence for each in kept), default=0) + 1
        current: Kept | None = next(
            (each for each in kept if each.run == accepted.get("run")),
            Kept(accepted.get("run", ""), latest, accepted.get("id", ""), restores=accepted.get("restores", "")),
        )
        while current is not None and (current := snapshot_before(current, kept)):
            yield current

    def _chosen(self, runs: Sequence[str], kind: str) -> int:
        """The place of the run that the person named. Raises NoSuchRun where it is none, or several."""
        wanted = self.goal.run
        number = int(wanted) if wanted.isdecimal() else None
        found = [
            place for place, run in enumerate(runs) if wanted == run or (number is not None and number == _number(run))
        ]
        if not found:
            raise self._none(f"no {kind} of run {wanted} is kept there")
        if len(found) > 1:
            raise self._none(f"several runs begin with {wanted}: {listed([runs[place] for place in found])}")
        return found[0]

    def _back_at(self, target: Kept, compared: Comparison) -> Comparison:
        old, then = self._snapshot_of(target.run, target.id)
        planned = whole_manifest(old, then, compared.peer.manifest, self.projection)
        return replanned(self.config, compared, replace(self.snapshot, manifest=planned))

    def _snapshot_of(self, run: str, wanted: str) -> tuple[Manifest, Projection]:
        """Raises AgentFailed where it is not what its id says."""
        answer = self._ask(run=run, manifest=True)
        manifest = manifests.from_json(answer["manifest"])
        if snapshot_id(manifest, answer["projection"]) != wanted or not has_sound_excludes(answer["projection"]):
            what = f"the snapshot of run {run} there is not what its id says"
            raise AgentFailed(Message(what, self.name, f"{self.name} unchanged", "choose another one"), code="answer")
        return manifest, _projection_from(answer["projection"])

    # single files

    def _with_paths(self, compared: Comparison) -> Comparison:
        """Only these paths: whatever else differs on the peer stays so, and stays drift."""
        runs = self._ask()["runs"]
        run = runs[self._chosen(runs, "record")]
        answer = self._ask(run=run)
        replaced = {path: entry for path, entry, _kept in answer["edits"]}
        replaced.update({path: before for path, before, _after, _kept in answer["changes"] if before is not None})
        entries = manifests.from_json(replaced)
        live, accepted = compared.peer.manifest, self._accepted(compared)
        planned, unknown = manifest_with(accepted, live, entries, self.goal.paths)
        if unknown:
            raise self._none(f"run {run} replaced and deleted nothing there: {listed(unknown)}", "unknown-path")
        covered = covered_by({"projection": self.projection.as_json()})
        outside = [path for path in planned if planned[path] != accepted.get(path) and not covered(path)]
        if outside:
            raise self._none(f"left out of every sync today: {listed(outside)}", "unknown-path")
        found = replanned(self.config, compared, replace(self.snapshot, manifest=planned))
        asked = {path for path in {*planned, *accepted} if planned.get(path) != accepted.get(path)}
        asked |= {path for path in entries if any(manifests.is_below(path, each) for each in self.goal.paths)}
        self.what = f"what run {run} replaced: {listed(self.goal.paths)}"
        return replace(found, plan=Plan(tuple(change for change in found.plan.changes if change.path in asked)))

    def _accepted(self, compared: Comparison) -> Manifest:
        """What the peer accepted last, whoever wrote it; what is live there where nothing was."""
        if compared.base is not None:
            return compared.base
        if compared.accepted is None:
            return compared.peer.manifest
        return self._snapshot_of(compared.accepted["run"], compared.accepted["id"])[0]

    # the run

    def raise_if_unconfirmed(self, compared: Comparison) -> None:
        confirm = self.goal.confirm
        if confirm is None or not compared.plan or self.options.dry_run:
            return
        if not confirm(self.name, self.what, compared.plan):
            hint = "look with `ngxsync rollback --dry-run`; `ngxsync rollback --yes` does it"
            raise Held(
                Message("a rollback is asked for, and nobody said yes", self.name, f"{self.name} unchanged", hint),
                code="unconfirmed",
            )

    def stage(self, compared: Comparison) -> None:
        """From the peer's own store; what is not kept there comes from here, where it is still the same. Raises NotKept."""
        if not compared.plan:
            return
        planned = compared.snapshot.manifest
        request = {
            **requests.common(self.config, self.peer.config, self.projection),
            "run": self.prepared.run,
            "trees": list(self.projection.roots),
            "restore": {path: planned[path].content for path in paths_to_send(compared.plan)},
        }
        with self.timed("stage"):
            answer = self._call("stage", request, STAGE_S)
            own = self.snapshot.manifest
            lost = [path for path in answer["missing"] if path not in own or own[path].content != planned[path].content]
            if lost:
                what = f"its old content is not kept on {self.name} (any more): {listed(lost)}"
                hint = "bring back other files with `ngxsync rollback RUN --path PATH`, or choose another run"
                raise NotKept(Message(what, self.name, f"{self.name} unchanged", hint))
            self.send(answer["missing"], answer["stages"])

    def marks(self, compared: Comparison) -> dict[str, Any]:
        taken_back = contents_taken_back(compared.plan.changes, compared.snapshot.manifest, compared.accepted)
        marks = {"kind": "rollback", "restores": self.restores, "taken_back": taken_back}
        accepted = {**marks, "run": self.prepared.run, "at": compared.now}
        covered = covered_by({"projection": self.projection.as_json()})
        self.still_here = still_here(accepted, self.snapshot.manifest, covered)
        self.hold = rolled_back_hold(accepted, self.snapshot, covered, self.name)
        # the files that an old configuration loads are not known here
        return {**marks, "reload": bool(compared.plan) or not (compared.accepted or {}).get("proven")}

    def concluded(self, compared: Comparison, answer: Mapping[str, Any]) -> PeerResult:
        before = self.record
        result = super().concluded(compared, answer)
        if not answer["ok"]:
            self._keep_verdicts(before)
        return result

    def _remember_equal(self, compared: Comparison) -> PeerResult:
        before = self.record
        result = super()._remember_equal(compared)
        self._keep_verdicts(before)
        return result

    def _keep_verdicts(self, before: PeerRecord) -> None:
        """Where nothing was rolled back, nothing is said of what this host has."""
        self.record = replace(self.record, refused=before.refused, quarantine=before.quarantine)
        if not self.options.dry_run:
            self.memory.save_peer(self.record)

    def _worth_saying(self, _compared: Comparison) -> Iterator[str]:
        return iter(())

    def result(self, outcome: str, compared: Comparison, **more: Any) -> PeerResult:
        more["message"] = more.get("message") or self._told(outcome)
        return super().result(outcome, compared, **{**more, "warnings": more.get("warnings", ())})

    def _told(self, outcome: str) -> Message | None:
        if outcome == model.IN_SYNC:
            return Message(f"{self.name} has {self.what} already", state=f"{self.name} unchanged")
        verb = "bring back" if self.goal.paths else "go back to"
        if outcome == model.PENDING:
            return Message(f"would {verb} {self.what}", self.name, f"{self.name} unchanged")
        if outcome != model.APPLIED:
            return None
        did = "brought back" if self.goal.paths else "went back to"
        if self.hold is None:
            state = "nothing holds the next automatic run: what was taken back is not here any more"
            return Message(f"{did} {self.what}", self.name, state)
        state = f"automatic runs on {self.name} are held, since this host still has what was taken back: {listed(self.still_here)}"
        return Message(f"{did} {self.what}", self.name, state, self.hold.message.next)


def _number(run: str) -> int | None:
    digits = run.partition("-")[0]
    return int(digits) if digits.isdecimal() else None


def _kept_from(answer: Mapping[str, Any]) -> Kept:
    names = ("run", "sequence", "id", "at", "written_by", "restores")
    return Kept(**{name: answer[name] for name in names})


def _projection_from(data: Mapping[str, Any]) -> Projection:
    trees = ((tree["path"], tuple((regex, out) for regex, out in tree["exclude"])) for tree in data["trees"])
    return Projection(tuple(trees), bool(data["owners"]))

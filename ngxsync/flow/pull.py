"""A pull: edits that were made on a peer, taken into this host's own trees by the same transaction, here (DESIGN 6, TRANSACTION).

Two runs with one lock: the peer is compared as for a sync, what was edited there is chosen and turned round; then this host is
the one that receives. Its nginx is not asked before: its configuration may be just what the pull mends; the rehearsal decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ngxsync.agent.manifest import Entry, is_below
from ngxsync.core import model
from ngxsync.core.errors import Held, Message
from ngxsync.core.guards import Hold
from ngxsync.core.model import Change, PeerResult, Plan, RunResult
from ngxsync.core.plan import BY_MASTER, CONFLICT, DRIFT, FIRST_CONTACT, in_safe_order
from ngxsync.core.pull import Choice, choose
from ngxsync.core.rollback import still_here
from ngxsync.core.wording import listed
from ngxsync.flow.comparison import covered_by
from ngxsync.flow.interfaces import Comparison, Options, Peer, Prepared, Validation
from ngxsync.flow.own_run import OwnRun
from ngxsync.flow.peer_run import PeerRun
from ngxsync.flow.pipeline import Pipeline

Confirm = Callable[[str, Plan], bool]


@dataclass(frozen=True)
class Goal:
    """What is pulled: below `paths`, or all; `take` names the side where both changed. `confirm(peer, plan)` is a person's answer.

    `undo` is the run that an undo takes back instead.
    """

    paths: tuple[str, ...] = ()
    take: str = ""
    confirm: Confirm | None = None
    undo: str = ""


class Pull(Pipeline):
    """The pipeline with this host as its goal. A pause stands for runs that change the peer: this is none."""

    def __init__(self, pipeline: Pipeline, goal: Goal, kind: type[PullRun]) -> None:
        super().__init__(
            pipeline.config, pipeline.master, pipeline.peers, pipeline.memory, random_hex=pipeline.random_hex
        )
        self.goal, self.kind = goal, kind

    def prepare(self, options: Options) -> Prepared:
        mark, named = self.settle(options), self.master.named()
        run = self.memory.new_run_id(self.random_hex())
        return Prepared(run, self.scan(named, full=options.full), Validation(True), named, mark)

    def peer_run(self, peer: Peer, prepared: Prepared, options: Options) -> PeerRun:
        work = self.kind(self.config, self.master, peer, self.memory, prepared, options)
        work.goal = self.goal
        return work

    def run_peer(self, peer: Peer, prepared: Prepared, options: Options) -> PeerResult:
        """The holds and failures of a sync, whose next step is here this command; a run is told by the id that is recorded."""
        result = super().run_peer(peer, prepared, options)
        message = result.message
        if message is None:
            return result
        hint = message.next.replace(f"--undo {result.run}`", f"--undo {prepared.run}`")
        if result.exit:
            hint = hint.replace("`ngxsync sync`", "`ngxsync pull`").replace(
                "ngxsync sync --force", "ngxsync pull --force"
            )
            hint = hint.replace("it is tried again", "`ngxsync pull` tries it again")
        where = message.where.replace(f"{peer.config.user}@{self.master.name}", self.master.name)
        return super().addressed(replace(result, message=replace(message, where=where, next=hint)))

    def addressed(self, result: PeerResult) -> PeerResult:
        """Not before the words are those of a pull."""
        return result

    def note_failed(self, name: str, result: RunResult, options: Options) -> None:
        """What failed here says nothing of the peer."""

    def _raise_if_paused(self, name: str, options: Options) -> None: ...

    def _remember(self, name: str, run: str, result: PeerResult, options: Options) -> None: ...


class PullRun(PeerRun):
    """One peer's edits."""

    goal = Goal()

    def sync(self) -> PeerResult:
        self.settle_open_run()
        compared = self.compare()
        self.plan = Plan()  # what a sync would do was not asked
        here, there = compared.snapshot.manifest, compared.peer.manifest
        choice = choose(self._edited(compared), here, there, limits=self.goal.paths, take=self.goal.take)
        self._raise_if_disputed(choice, compared)
        if not choice.changes:
            return self._nothing(choice, compared)
        own = OwnRun(self, choice, compared.peer.roots, self.goal.confirm)
        result = self.result_of(own)
        if choice.left:
            told = f"left as it is here (it differs on {self.name}): {listed(choice.left)}"
            result = replace(result, warnings=(*result.warnings, told))
        return result

    def result_of(self, own: OwnRun) -> PeerResult:
        """Of this host's half, under the name of the peer. What is raised leaves the plan here too."""
        try:
            result = own.sync()
        finally:
            self.plan, self.bytes_sent = own.labelled(own.plan), own.bytes_sent
            self.timings.update(own.timings)
        if result.outcome in (model.APPLIED, model.NOT_PROVEN):
            self.record = replace(self.record, pulled=self.agreed(own.choice))
            self.memory.save_peer(self.record)
        message = self.told(result) or result.message
        return replace(result, name=self.name, changes=self.plan.changes, accepted="", message=message)

    def agreed(self, choice: Choice) -> Mapping[str, Entry | None]:
        """What both hosts had since that peer accepted from here: a peer's edit that is taken back later is one more edit of its own."""
        return {**self.record.pulled, **{path: change.after for path, change in choice.changes.items()}}

    def told(self, result: PeerResult) -> Message | None:
        """What is said of it here; None: as it says itself."""
        master, message = self.master.name, result.message
        if result.code == "nginx-down" and message is not None:
            return replace(message, next=f"start nginx on {master}: it then runs them")
        back = f"only if that was a mistake: `ngxsync pull --undo {result.run}` brings back what was here"
        if result.outcome == model.APPLIED:
            return Message(f"taken from {self.name}", master, f"{master} has it; the next sync finds both equal", back)
        if result.outcome == model.PENDING:
            return Message(f"would be taken from {self.name}", master, f"{master} unchanged")
        return None

    def _edited(self, compared: Comparison) -> tuple[Change, ...]:
        """What a sync looks at, whatever the peer says that it has.

        Where paths are named, what a rollback brought back there counts as edited there too: this host still has what was bad.
        """
        back = self._rolled_back(compared) if self.goal.paths else ()
        found = [change for change in compared.plan.changes if self._is_covered(change.path)]
        return tuple(replace(c, cause=DRIFT) if c.path in back and c.cause == BY_MASTER else c for c in found)

    def _rolled_back(self, compared: Comparison) -> frozenset[str]:
        return frozenset(still_here(compared.accepted, compared.snapshot.manifest, self._is_covered))

    @cached_property
    def _is_covered(self) -> Callable[[str], bool]:
        return covered_by({"projection": self.projection.as_json()})

    def _raise_if_disputed(self, choice: Choice, compared: Comparison) -> None:
        """Raises Held: conflict, or first-contact where this host and the peer never agreed."""
        wrong = [*choice.disputed, *choice.blocked]
        if not wrong:
            return
        self.plan = Plan(tuple(in_safe_order([*choice.changes.values(), *choice.disputed], self.config.nginx.conf)))
        hold = self._disputed(choice, compared) if choice.disputed else self._blocked(choice.blocked)
        raise Held(hold.message, code=hold.code)

    def _disputed(self, choice: Choice, compared: Comparison) -> Hold:
        master, peer = self.master.name, self.name
        paths = {cause: [c.path for c in choice.disputed if c.cause == cause] for cause in (CONFLICT, FIRST_CONTACT)}
        look = f"look with `ngxsync diff --peer {peer}`; `ngxsync pull"
        if paths[CONFLICT]:
            what = f"changed on {master} and on {peer} since they were equal: {listed(paths[CONFLICT])}"
            hint = f"{look} --take peer` takes what {peer} has, `--take master` leaves these as they are here"
            return Hold(CONFLICT, Message(what, peer, f"{master} unchanged", hint))
        wrote = (compared.accepted or {}).get("written_by", "")
        why = f"{wrote} wrote there last" if wrote not in ("", master) else "nothing says which side changed"
        what = (
            f"{master} and {peer} have no accepted snapshot of this in common ({why}): {listed(paths[FIRST_CONTACT])}"
        )
        hint = f"{look} PATH` takes what it names, `--take peer` all that {peer} has"
        return Hold(FIRST_CONTACT, Message(what, peer, f"{master} unchanged", hint))

    def _blocked(self, changes: Collection[Change]) -> Hold:
        what = f"in the way here stands what {self.name} never had: {listed([c.path for c in changes])}"
        hint = "move it away on this host, or name other PATHS"
        return Hold(CONFLICT, Message(what, self.master.name, f"{self.master.name} unchanged", hint))

    def _nothing(self, choice: Choice, compared: Comparison) -> PeerResult:
        limits = self.goal.paths
        rest = [c for c in compared.plan.changes if not limits or any(is_below(c.path, each) for each in limits)]
        where = f" below {listed(limits)}" if limits else ""
        what = f"nothing was edited on {self.name}{where} since it was made like {self.master.name}"
        if choice.left:
            what = f"nothing else was edited on {self.name}{where}; left as it is here: {listed(choice.left)}"
        elif rest:
            what += f"; what differs was changed here: {listed([c.path for c in rest])}"
        hint = "`ngxsync pull PATH` takes what a rollback brought back there" if self._rolled_back(compared) else ""
        message = Message(what, state=f"{self.master.name} unchanged", next=hint)
        return self.result(model.PENDING if rest else model.IN_SYNC, replace(compared, plan=Plan()), message=message)

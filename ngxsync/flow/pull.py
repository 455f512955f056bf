"""A pull: edits that were made on a peer, taken into this host's own trees by the same transaction, here (DESIGN 6, TRANSACTION).

Two runs with one lock: the peer is compared as for a sync, what was edited there is chosen and turned round; then this host is
the one that receives. Its nginx is not asked before: its configuration may be just what the pull mends; the rehearsal decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ngxsync.agent.manifest import is_below
from ngxsync.core import model
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import Held, Message, SourceChanged
from ngxsync.core.guards import Hold
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import Change, PeerResult, Plan, RunResult, Snapshot
from ngxsync.core.plan import CONFLICT, FIRST_CONTACT, in_safe_order, needs_reload
from ngxsync.core.pull import Choice, choose
from ngxsync.core.wording import listed
from ngxsync.flow.decisions import holds_of
from ngxsync.flow.interfaces import Comparison, Master, Options, Peer, Prepared, Validation
from ngxsync.flow.peer_run import PeerRun
from ngxsync.flow.pipeline import Pipeline
from ngxsync.flow.receiving import Source

Confirm = Callable[[str, Plan], bool]


@dataclass(frozen=True)
class Goal:
    """What is pulled: below `paths`, or all; `take` names the side where both changed. `confirm(peer, plan)` is a person's answer."""

    paths: tuple[str, ...] = ()
    take: str = ""
    confirm: Confirm | None = None


class Pull(Pipeline):
    """The pipeline with this host as its goal. A pause stands for runs that change the peer: this is none."""

    def __init__(self, pipeline: Pipeline, goal: Goal) -> None:
        super().__init__(
            pipeline.config, pipeline.master, pipeline.peers, pipeline.memory, random_hex=pipeline.random_hex
        )
        self.goal = goal

    def prepare(self, options: Options) -> Prepared:
        mark, named = self.settle(options), self.master.named()
        run = self.memory.new_run_id(self.random_hex())
        return Prepared(run, self.scan(named, full=options.full), Validation(True), named, mark)

    def peer_run(self, peer: Peer, prepared: Prepared, options: Options) -> PeerRun:
        work = PullRun(self.config, self.master, peer, self.memory, prepared, options)
        work.goal = self.goal
        return work

    def run_peer(self, peer: Peer, prepared: Prepared, options: Options) -> PeerResult:
        """The holds and failures of a sync, whose next step is here this command."""
        result = super().run_peer(peer, prepared, options)
        message = result.message
        if message is None or not result.exit:
            return result
        hint = message.next.replace("`ngxsync sync`", "`ngxsync pull`").replace(
            "ngxsync sync --force", "ngxsync pull --force"
        )
        return replace(result, message=replace(message, next=hint))

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
        choice = choose(compared.plan.changes, here, there, limits=self.goal.paths, take=self.goal.take)
        self._raise_if_disputed(choice, compared)
        if not choice.changes:
            return self._nothing(choice, compared)
        own = OwnRun(self, choice, compared)
        try:
            result = own.sync()
        finally:
            self.plan, self.bytes_sent = own.labelled(own.plan), own.bytes_sent
            self.timings.update(own.timings)
        return self._told(result, choice)

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
        message = Message(what, state=f"{self.master.name} unchanged")
        return self.result(model.PENDING if rest else model.IN_SYNC, replace(compared, plan=Plan()), message=message)

    def _told(self, result: PeerResult, choice: Choice) -> PeerResult:
        master, message = self.master.name, result.message
        if result.outcome == model.NOT_PROVEN and message is not None:
            hint = f"start nginx on {master}: it then runs them"
            message = replace(message, next=hint) if result.code == "nginx-down" else message
        elif result.outcome == model.APPLIED:
            message = Message(
                f"taken from {self.name} into {master}", "", f"{master} has them; the next sync finds both equal"
            )
        elif result.outcome == model.PENDING:
            message = Message(f"would take this from {self.name} into {master}", "", f"{master} unchanged")
        warnings = result.warnings
        if choice.left:
            warnings += (f"left as it is here (it differs on {self.name}): {listed(choice.left)}",)
        return replace(
            result, name=self.name, changes=self.plan.changes, accepted="", message=message, warnings=warnings
        )


class Forgetful:
    """In place of the memory of a peer: what this host itself accepted, its own agent keeps."""

    def __init__(self, record: PeerRecord) -> None:
        self.record = record

    def load_peer(self, _name: str) -> PeerRecord:
        return self.record

    def save_peer(self, record: PeerRecord) -> None:
        self.record = record

    def load_accepted(self, _name: str, _generation: str | None) -> None: ...

    def save_accepted(self, *_about: Any) -> None: ...


class OwnRun(PeerRun):
    """This host as the one that receives: its own agent, the chosen changes as the plan, the peer as the source of the content."""

    must_reload = True

    def __init__(self, pull: PullRun, choice: Choice, compared: Comparison) -> None:
        self.pull, self.choice = pull, choice
        self.planned = Snapshot(choice.planned, pull.projection, roots=compared.peer.roots)
        config, master, record = pull.config, pull.master, pull.record
        known = PeerRecord(master.name, master_roots=record.peer_roots, peer_roots=record.master_roots)
        receiver = master.receiver(own_config(config, master, pull.peer.config))
        super().__init__(config, master, receiver, Forgetful(known), pull.prepared, pull.options)
        self.name, self.receiver = master.name, receiver

    def _project(self) -> None:
        self.projection, self.snapshot = self.planned.projection, self.planned

    def labelled(self, plan: Plan) -> Plan:
        """With the causes of the choice: of this host's own scan alone nobody knows any."""
        known = self.choice.changes
        return Plan(
            tuple(
                replace(c, cause=known[c.path].cause, base=known[c.path].base) for c in plan.changes if c.path in known
            )
        )

    def compare(self, **again: bool) -> Comparison:
        """Raises SourceChanged where more would change than was chosen: somebody edits here at this moment."""
        compared = super().compare(**again)
        others = [change.path for change in compared.plan.changes if change.path not in self.choice.changes]
        if others:
            what = f"edited here meanwhile: {listed(others)}"
            raise SourceChanged(Message(what, self.name, f"{self.name} unchanged", "`ngxsync pull` tries again"))
        return compared

    def holds(self, compared: Comparison) -> tuple[Hold, ...]:
        """Those of a sync, the other way round."""
        peer = self.pull.name
        found = holds_of(compared, self.config, peer, self.options.force, by_person=True)
        texts = [hold.message.what.replace(" here, and ", f" on {peer}, and ") for hold in found]
        return tuple(replace(h, message=replace(h.message, what=what)) for h, what in zip(found, texts, strict=True))

    def raise_if_unconfirmed(self, compared: Comparison) -> None:
        confirm = self.pull.goal.confirm
        if confirm is None or not compared.plan or self.options.dry_run:
            return
        if not confirm(self.pull.name, self.labelled(compared.plan)):
            what, hint = (
                "a pull is asked for, and nobody said yes",
                "look with `ngxsync pull --dry-run`; `ngxsync pull --yes` does it",
            )
            raise Held(Message(what, self.name, f"{self.name} unchanged", hint), code="unconfirmed")

    def send(self, names: Collection[str], stages: Mapping[str, str]) -> None:
        source = Source(self.config, self.pull.peer, self.projection, self.receiver, self._progress())
        manifest = self.snapshot.manifest
        try:
            source.fetch({name: manifest[name] for name in names}, stages)
        finally:
            self.bytes_sent += source.bytes_fetched

    def marks(self, compared: Comparison) -> dict[str, Any]:
        """The generation is the one that is there: a person on the host itself is nobody's other master (TRANSACTION, who may write)."""
        named, nginx = self.prepared.named, self.config.nginx
        loaded = [c.path for c in compared.plan.changes if named.loads(c.path)]
        self.must_reload = needs_reload(compared.plan, nginx.content, loaded, nginx.reload_when == "always")
        generation = (compared.accepted or {}).get("generation")
        return {"kind": "pull", "reload": self.must_reload, "first_contact": True, "generation": generation}

    def concluded(self, compared: Comparison, answer: Mapping[str, Any]) -> PeerResult:
        if answer["code"] == "generation":
            what = "another host wrote here meanwhile"
            raise SourceChanged(Message(what, self.name, f"{self.name} unchanged", "`ngxsync pull` tries again"))
        if answer["ok"] and answer["code"] == model.NOT_PROVEN and not self.must_reload:
            answer = {**answer, "outcome": model.APPLIED, "code": ""}  # nothing was to be proven
        return super().concluded(compared, answer)

    def _worth_saying(self, _compared: Comparison) -> Iterator[str]:
        if self.left:
            yield f"left as it is here, for it cannot be done: {listed(self.left)}"


def own_config(config: Config, master: Master, peer: PeerConfig) -> PeerConfig:
    """This host as a peer: [nginx] without what a [peer] overrides."""
    nginx = config.nginx
    return replace(
        peer,
        name=master.name,
        host=master.name,
        state_dir=str(config.state_dir),
        probe="",
        reload=nginx.reload,
        prove_timeout_s=nginx.prove_timeout_s,
        rehearse=nginx.rehearse,
    )

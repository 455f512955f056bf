"""A run on this host itself, as the one that receives: its own agent, the plan that a pull chose (DESIGN 6, TRANSACTION)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ngxsync.core import model
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import Held, Message, NgxsyncError, SourceChanged
from ngxsync.core.guards import Hold
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import PeerResult, Plan, Snapshot
from ngxsync.core.plan import needs_reload, paths_to_send
from ngxsync.core.pull import Choice
from ngxsync.core.wording import listed
from ngxsync.flow import requests
from ngxsync.flow.decisions import holds_of
from ngxsync.flow.host_run import ASK_S, STAGE_S, HostRun
from ngxsync.flow.interfaces import Comparison, Master
from ngxsync.flow.receiving import Source
from ngxsync.flow.rollback import NotKept


class Forgetful:
    """In place of the memory of a peer: what this host itself accepted, its own agent keeps."""

    def __init__(self, record: PeerRecord) -> None:
        self.record = record

    def load_peer(self, _name: str) -> PeerRecord:
        return self.record

    def save_peer(self, record: PeerRecord) -> None:
        self.record = record

    def load_accepted(self, _name: str, _generation: str | None, _like: object) -> None: ...

    def save_accepted(self, *_about: Any) -> None: ...


class OwnRun(HostRun):
    """`run` is the pull's half that speaks with the peer, `roots` are the peer's. `confirm(peer, plan)` is a person's answer."""

    must_reload = True

    def __init__(
        self, run: HostRun, choice: Choice, roots: Mapping[str, Any], confirm: Callable[[str, Plan], bool] | None
    ) -> None:
        self.pull, self.choice, self.confirm = run, choice, confirm
        self.planned = Snapshot(choice.planned, run.projection, roots=roots)
        record = run.record
        known = PeerRecord(run.master.name, master_roots=record.peer_roots, peer_roots=record.master_roots)
        self.receiver = run.master.receiver(own_config(run.config, run.master, run.peer.config))
        super().__init__(run.config, run.master, self.receiver, Forgetful(known), run.prepared, run.options)

    def _project(self) -> None:
        self.projection, self.snapshot = self.planned.projection, self.planned

    def _call(
        self, verb: str, request: dict[str, Any], timeout_s: float, go: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """A person on the host itself may change it while it serves (TRANSACTION, who may write)."""
        return super()._call(verb, {**request, "vips": []}, timeout_s, go)

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
        confirm = self.confirm
        if confirm is None or not compared.plan or self.options.dry_run:
            return
        if not confirm(self.pull.name, self.labelled(compared.plan)):
            what = "a pull is asked for, and nobody said yes"
            hint = "look with `ngxsync pull --dry-run`; `ngxsync pull --yes` does it"
            raise Held(Message(what, self.name, f"{self.name} unchanged", hint), code="unconfirmed")

    def stage(self, compared: Comparison) -> None:
        """What came of a fetch that failed does not lie about here: a stage that is asked for anew is empty."""
        try:
            super().stage(compared)
        except NgxsyncError:
            request = requests.common(self.config, self.peer.config, self.projection)
            with suppress(NgxsyncError):
                trees = list(self.projection.roots)
                self._call("stage", {**request, "run": self.prepared.run, "trees": trees}, ASK_S)
            raise

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


class OwnRestore(OwnRun):
    """Its content is what this host's own store keeps."""

    def stage(self, compared: Comparison) -> None:
        """Raises NotKept."""
        planned = compared.snapshot.manifest
        request = {
            **requests.common(self.config, self.peer.config, self.projection),
            "run": self.prepared.run,
            "trees": list(self.projection.roots),
            "written_by": self.master.name,
            "restore": {path: planned[path].content for path in paths_to_send(compared.plan)},
        }
        with self.timed("stage"):
            missing = self._call("stage", request, STAGE_S)["missing"]
        if missing:
            what = f"what stood here before is not kept (any more): {listed(missing)}"
            hint = "name other PATHS; `keep_runs` and `keep_for` say how long it is kept"
            raise NotKept(Message(what, self.name, f"{self.name} unchanged", hint))

"""A run on a peer: rsync takes the content there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ngxsync.core.config import Config
from ngxsync.core.errors import Held, Message, SourceChanged
from ngxsync.core.guards import Hold
from ngxsync.core.model import PeerResult
from ngxsync.core.plan import with_received
from ngxsync.core.standing import PROMOTED
from ngxsync.flow import outcomes
from ngxsync.flow.comparison import GENERATION, YOURS, covered_by
from ngxsync.flow.host_run import HostRun
from ngxsync.flow.interfaces import Comparison, Master, Options, Peer, Prepared

SEEN = "seen"  # in place of the name of the peer's tenure, which it never has


def raise_if_paused(memory: Any, name: str, options: Options) -> None:
    """Raises Held (paused)."""
    pause = memory.active_pause(name)
    if pause is None or options.dry_run or "paused" in options.force:
        return
    what = f"paused by {pause.who}: {pause.reason}"
    hint = "`ngxsync resume` ends it; `ngxsync sync --force paused` goes past it once"
    raise Held(Message(what, name, f"{name} unchanged", hint), code="paused")


class PeerRun(HostRun):
    def __init__(
        self, config: Config, master: Master, peer: Peer, memory: Any, prepared: Prepared, options: Options
    ) -> None:
        self._sends = peer.send
        self.edits: list[str] = []  # where edits are kept that the undo of an earlier run met, for people
        self._unknown = ""  # a run of this host's whose answer never came, and of which nothing is known there, yet
        super().__init__(config, master, peer, memory, prepared, options)

    def send(self, names: Collection[str], stages: Mapping[str, str]) -> None:
        for tree, stage in stages.items():
            below = [name[len(tree) + 1 :] for name in names if name.startswith(tree + "/")]
            if below:
                self.bytes_sent += self._sends(Path(tree), below, stage, self._progress())

    def _call(self, verb: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        """What undid that run may have been a boot there, which told nobody of the edits that it met."""
        answer = super()._call(verb, *arguments, **options)
        undone = answer.get("answer") if verb == "show" else answer if verb == "recover" else None
        self.edits += outcomes.edited_warnings(undone or {})
        return answer

    def settle_open_run(self) -> None:
        """It may have waited for a lock there while it was asked for, and begin later."""
        before = self.record
        super().settle_open_run()
        is_known = self.options.dry_run or self.record.generation != before.generation
        self._unknown = "" if is_known else before.open_run

    def _settle_late(self) -> None:
        self._note_open(self._unknown)
        self.settle_open_run()
        self._unknown = ""

    def transact(self, compared: Comparison) -> dict[str, Any]:
        """Raises SourceChanged where a run of this host's own began there after it was asked for."""
        answer = super().transact(compared)
        if answer["code"] == GENERATION and self._unknown:
            self._settle_late()
            what = "an earlier run of this host had not begun there when it was asked for"
            raise SourceChanged(Message(what, self.name, f"{self.name} unchanged", "it is tried again"))
        return answer

    def compare(self, **again: bool) -> Comparison:
        """What another host brought here since that peer accepted, or was pulled from there, is no edit of this host's."""
        compared = super().compare(**again)
        if self._unknown and (compared.accepted or {}).get("run") == self._unknown:
            self._settle_late()
            compared = super().compare(**again)
        if compared.standing != YOURS or not compared.plan or compared.snapshot is not self.snapshot:
            return compared  # a rollback's has another goal
        plan, pulled = compared.plan, self.record.pulled
        received = self.master.received(self.record.received)
        if received is not None and received.projection["owners"] == self.projection.owners:
            plan = with_received(plan, received.manifest, covered_by({"projection": received.projection}))
        if pulled:
            plan = with_received(plan, {path: entry for path, entry in pulled.items() if entry}, pulled.__contains__)
        self.plan = plan
        return replace(compared, plan=plan)

    def concluded(self, compared: Comparison, answer: Mapping[str, Any]) -> PeerResult:
        result = super().concluded(compared, answer)
        if answer["ok"]:
            received = self.master.received(self.record.received)
            run = received.run if received is not None else self.record.received
            if run != self.record.received or self.record.pulled:  # else it is kept already
                self.record = replace(self.record, received=run, pulled={})
                self.memory.save_peer(self.record)
        return result

    def holds(self, compared: Comparison) -> tuple[Hold, ...]:
        """Equal trees alone turn no direction: not that of a host that a person promoted, nor any that the records say."""
        self._note_carried(compared)
        found, accepted = super().holds(compared), compared.accepted or {}
        is_chosen = self.options.by_person or self.options.trigger == PROMOTED
        if found or is_chosen or not compared.adopt:
            return found
        if accepted.get("kind") == PROMOTED and not self.prepared.standing.vips:
            return (outcomes.generation_hold(compared, self.name),)
        if self.prepared.standing.takes_over or accepted.get("written_by") == self.master.name:
            return ()
        return (outcomes.undirected_hold(compared, self.name, self.master.name),)

    def _note_carried(self, compared: Comparison) -> None:
        """That it serves is remembered here too: where neither its daemon nor a notify runs, it notes nothing of that itself."""
        if compared.carried and self.record.peer_tenure != SEEN and not self.options.dry_run:
            self.record = replace(self.record, peer_tenure=SEEN)
            self.memory.save_peer(self.record)

    def _go(self) -> None:
        """The VIP may have gone while this run worked; and come back: then what was drift must be looked at anew."""
        self._pass_gate()  # first: it waits, and what is asked below is to be true after that
        standing = self.master.standing()
        hold = standing.hold(self.options.force)
        if hold is not None:
            raise hold
        if standing.tenure != self.prepared.standing.tenure:
            what = "the VIP was away for a moment while this run worked"
            raise SourceChanged(Message(what, self.master.name, f"{self.name} unchanged", "it is tried again"))
        raise_if_paused(self.memory, self.name, self.options)  # by a person, while it was looked at and sent
        super()._go()

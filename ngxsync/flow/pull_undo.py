"""The undo of a pull: what it replaced or deleted on this host, from this host's own store, by the same transaction. No peer is asked."""

from __future__ import annotations

from collections.abc import Mapping

from ngxsync.agent.manifest import Entry, entry_from_json
from ngxsync.core import model
from ngxsync.core.errors import AgentFailed, Held, Message
from ngxsync.core.model import PeerResult, Plan
from ngxsync.core.plan import CONFLICT, in_safe_order
from ngxsync.core.pull import Choice, put_back
from ngxsync.core.wording import listed
from ngxsync.flow import requests
from ngxsync.flow.comparison import covered_by
from ngxsync.flow.host_run import SCAN_S
from ngxsync.flow.own_run import OwnRestore, own_config
from ngxsync.flow.pull import PullRun
from ngxsync.flow.rollback import NoSuchRun


class UndoRun(PullRun):
    """The goal's `undo` is the run's id on this host."""

    def sync(self) -> PeerResult:
        limits, is_forced = self.goal.paths, CONFLICT in self.options.force
        choice = put_back(self._replaced(), self.snapshot.manifest, limits=limits, is_forced=is_forced)
        self._raise_if_edited(choice)
        return self.result_of(OwnRestore(self, choice, self.record.peer_roots, self.goal.confirm))

    def agreed(self, choice: Choice) -> Mapping[str, Entry | None]:
        return {path: entry for path, entry in self.record.pulled.items() if path not in choice.changes}

    def _replaced(self) -> list[tuple[str, Entry | None, Entry | None]]:
        """Of all that the run put here: (path, before, after). Raises NoSuchRun."""
        run, own = self.goal.undo, own_config(self.config, self.master, self.peer.config)
        request = {**requests.common(self.config, own, self.projection), "run": run}
        answer = self.master.receiver(own).call("history", request, timeout_s=SCAN_S)
        if not answer["ok"]:
            state, hint = f"{self.master.name} unchanged", "`ngxsync history` lists the runs"
            if answer["code"] == "unknown-run":
                raise NoSuchRun(Message(f"nothing of run {run} is kept here", self.master.name, state, hint))
            raise AgentFailed(Message(**answer["message"]), code=str(answer["code"]))
        covered = covered_by({"projection": self.projection.as_json()})
        return [
            (path, *(None if fields is None else entry_from_json(fields) for fields in (before, after)))
            for path, before, after, _kept in answer["changes"]
            if covered(path)
        ]

    def _raise_if_edited(self, choice: Choice) -> None:
        wrong = [*choice.disputed, *choice.blocked]
        if wrong:
            master = self.master.name
            self.plan = Plan(tuple(in_safe_order(choice.changes.values(), self.config.nginx.conf)))
            what = f"edited here since run {self.goal.undo}: {listed([c.path for c in wrong])}"
            hint = "name other PATHS; `--force conflict` puts back these too, keeping what is there"
            raise Held(Message(what, master, f"{master} unchanged", hint), code=CONFLICT)
        if not choice.changes:
            what = f"all that run {self.goal.undo} replaced here is as it was before it"
            raise NoSuchRun(Message(what, self.master.name, f"{self.master.name} unchanged"), code="nothing-before")

    def told(self, result: PeerResult) -> Message | None:
        master = self.master.name
        if result.outcome == model.APPLIED:
            state = f"for the next sync it is an edit of this host: it goes to {self.name} too"
            hint = f"only if that was a mistake: `ngxsync pull --undo {result.run}` takes it again"
            return Message(f"as before the pull of run {self.goal.undo}", master, state, hint)
        if result.outcome == model.PENDING:
            return Message(f"would be as before the pull of run {self.goal.undo}", master, f"{master} unchanged")
        return super().told(result)

"""Steps 6 to 9 on the peer, as one transaction that needs nobody once begun (TRANSACTION).

Order on disk: prepared files and syncfs; journal; exchanges; syncfs and *applied*; *signalled*; proof; accepted; journal removed.
"""

import contextlib
import os
import time
from typing import Any, Callable, Dict, List, Optional

from . import folders, journal, stage
from .answers import Failure
from .captures import keep_after, keep_before
from .errorlog import LogMark, log_paths, mark_logs
from .exchange import Exchange, Ids, NotEmpty, PeerChanged, raise_if_other
from .failures import HALF, PUT_BACK, UNCHANGED
from .manifest import Manifest
from .nginx import Nginx, is_alive, nginx_or_failure
from .proof import Proof, Reload
from .recovery import IDLE_S, broken, not_restored, reload_old, undo
from .rehearsal import rehearse, timeout_s
from .request import (
    Accepted,
    claims_equal,
    make_items,
    planned_manifest,
    raise_if_adopts_more,
    raise_if_carried,
    raise_if_not_equal,
    raise_if_not_yours,
    raise_if_promoted,
    raise_if_unknown_owner,
    received_run,
    who_syncs,
)
from .room import raise_if_full
from .scan import SPECIAL, Unstable
from .store import LOCK_WAIT_S, Busy, Store
from .survey import OWN_FOLDER, Names
from .sweep import keep_of

Answer = Dict[str, Any]


class Transaction:
    """One run. Whatever is raised before the journal is begun leaves nothing; after it, `_undo` decides the answer."""

    def __init__(self, request: Dict[str, Any], store: Store, agent: str, wait_for_go: Callable[[], None]) -> None:
        self.request, self.store, self.agent, self.wait_for_go = request, store, agent, wait_for_go
        self.settings = request["nginx"]
        self.projection = request["projection"]
        self.trees: List[str] = [tree["path"] for tree in self.projection["trees"]]
        self.warnings: List[str] = []
        self.timings: Dict[str, float] = {}
        self.edited: List[str] = []
        self.planned: Manifest = {}
        self.is_settled = True  # False where the journal must stay open: something is left to do
        self.state = UNCHANGED  # of the live tree where it fails, for people
        self.keep = keep_of(request)
        self.replaced = ""  # the run that was accepted before this one; `base` its manifest, where the master knows it
        self.base: Manifest = {}
        self.expected_bytes = 0  # what the store will take once this run is accepted
        self.must_reload = False  # True where nginx may run something else than the trees hold

    def run(self) -> Answer:
        accepted = self.store.accepted()
        self.replaced = accepted["run"] if accepted else ""
        raise_if_not_yours(self.request, accepted)
        if accepted is None:
            raise_if_promoted(self.request, self.store)
        self.base = self.store.accepted_manifest(accepted) if self.request["base"] == "accepted" else {}
        self.planned = planned_manifest(self.request, self.base)
        raise_if_adopts_more(self.request)
        nginx = self._timed("which", self._which)
        names = Names(self.projection["owners"])
        items = make_items(self.request["changes"], self.trees, names)
        self.expected_bytes = self._timed("room", lambda: raise_if_full(self.store, self.keep, items))
        if claims_equal(self.request, items):
            raise_if_not_equal(self.request, self.store, self.planned)
        with Exchange(self.request["run"], items, names, Ids()) as exchange:
            if items:
                self._timed("prepare", lambda: self._prepare(exchange))
                refused = self._timed("rehearse", lambda: self._rehearse(exchange, nginx))
                if refused is not None:
                    return self._answer(False, "refused", "refused", problems=refused["problems"])
                self._timed("keep", lambda: keep_before(self.store, exchange))
            exchange.sync_file_systems()
            self._timed("wait", self.wait_for_go)
            return self._commit(exchange, nginx, accepted)

    def clean(self) -> None:
        """Nothing of this run stays in the trees, unless an open journal still needs it."""
        if journal.read(self.store.journal) is None:
            for tree in self.trees:
                folders.remove_run_folder(tree, self.request["run"])

    def _timed(self, step: str, work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            return work()
        finally:
            self.timings[step] = self.timings.get(step, 0.0) + time.monotonic() - started

    def _answer(self, ok: bool, outcome: str, code: str = "", **more: Any) -> Answer:
        return dict(
            more, ok=ok, outcome=outcome, code=code, timings=self.timings, warnings=self.warnings, id=self.request["id"]
        )

    def _which(self) -> Nginx:
        nginx = nginx_or_failure(self.settings)
        if nginx.problem:
            raise Failure("which-nginx", nginx.problem, next="end the other nginx or the upgrade, then sync again")
        if nginx.single:
            text = "nginx (process %d) runs with master_process off: it can be started anew, but not reloaded"
            self.warnings.append(text % nginx.single)
        return nginx

    def _now(self, nginx: Nginx) -> Nginx:
        """It may have been started, or started anew, while this run waited."""
        is_as_it_was = nginx.single if nginx.running is None else is_alive(nginx.running)
        return nginx if is_as_it_was else self._which()

    # before the journal: nothing live is touched

    def _prepare(self, exchange: Exchange) -> None:
        raise_if_unknown_owner(exchange)
        known = self.store.known().marks
        exchange.items = [self._compared(exchange, item, known) for item in exchange.items]
        folder_of = {}
        for tree in self.trees:
            folder_of[tree] = "%s/%s/%s/%s" % (tree, OWN_FOLDER, exchange.run, folders.STAGE)
            for home in sorted({item.home for item in exchange.items if item.tree == tree}):
                folders.make_run_folder(home, tree, exchange.run, [folders.PREP])
        self.warnings += stage.prepare(exchange, folder_of)

    @staticmethod
    def _compared(exchange: Exchange, item: journal.Item, known: Dict[str, str]) -> journal.Item:
        """The item with exactly what is there as its before. Raises PeerChanged, NotEmpty."""
        try:
            with exchange.live(item) as (folder, name):
                found = exchange.look(name, folder, known.get(item.path))
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except Unstable:
            raise PeerChanged(item.path)
        if found is not None and found.kind == SPECIAL:
            raise NotEmpty(item.path)
        raise_if_other(item, found)
        return item if found is None else item._replace(before=list(found))

    def _rehearse(self, exchange: Exchange, nginx: Nginx) -> Optional[Answer]:
        """None where nginx accepts live + stage (or where only applying can tell), else what it says."""
        if self.settings["rehearse"] == "live":
            return None
        try:
            result = rehearse(nginx, stage.view_actions(exchange), timeout_s(self.settings))
        except Failure:
            if nginx.running is None or is_alive(nginx.running):
                raise
            return self._rehearse(exchange, self._which())  # it died this moment, its namespaces and program with it
        return None if result["passed"] else result

    # from here on the journal is open

    def _commit(self, exchange: Exchange, nginx: Nginx, accepted: Accepted) -> Answer:
        header = {
            "run": exchange.run,
            "agent": self.agent,
            "nginx": self.settings,
            "projection": self.projection,
            "at": time.time(),
        }
        with self.store.lock("mixed", exchange.run, LOCK_WAIT_S):
            nginx = self._now(nginx)  # nobody starts it from here on: that would need this lock
            old_logs = log_paths(nginx.conf, nginx)
            raise_if_carried(self.request)
            journal.begin(self.store.journal, header, exchange.items)
            try:
                self._timed("apply", lambda: self._apply(exchange))
            except Exception:
                answer = self._put_back(exchange, nginx, None)
                if answer["outcome"] == "broken":
                    return answer
                raise
        return self._concluded(exchange, nginx, accepted, old_logs)

    def _concluded(self, exchange: Exchange, nginx: Nginx, accepted: Accepted, old_logs: Any) -> Answer:
        proof: Optional[Proof] = None
        try:
            if self.settings["rehearse"] == "live":
                self._test_live(nginx)
            proof = self._timed("prove", lambda: self._reload(nginx, old_logs))
            if proof is None or proof.outcome == "proven":
                return self._accept(exchange, nginx, accepted, proof)
        except Exception:
            answer = self._undo(exchange, nginx, proof)
            if answer["outcome"] == "broken":
                return answer
            raise
        return self._undo(exchange, nginx, proof)

    def _apply(self, exchange: Exchange) -> None:
        exchange.apply()
        exchange.sync_file_systems()
        journal.note_phase(self.store.journal, journal.APPLIED, is_durable=False)  # the next phase takes it along
        self.warnings += ["%s stays: it holds excluded or special entries" % path for path in exchange.kept]
        if exchange.linked:
            self.warnings.append("renameat2 is missing here: an edit in the instant of replacing could have been lost")

    def _test_live(self, nginx: Nginx) -> None:
        result = rehearse(nginx, None, timeout_s(self.settings))
        if not result["passed"]:
            raise Failure(
                "refused",
                "nginx refused the configuration after it was applied",
                problems=result["problems"],
                outcome="refused",
            )

    def _reload(self, nginx: Nginx, old_logs: Any) -> Optional[Proof]:
        """None where nothing is to be reloaded."""
        if nginx.running is None or not (self.request["reload"] or self.must_reload):
            return None
        new_paths, new_unreadable = log_paths(nginx.conf, nginx)
        marks: List[LogMark] = mark_logs(old_logs[0] + new_paths)
        for value in sorted(set(old_logs[1] + new_unreadable)):
            self.warnings.append("error_log %s cannot be read back: the proof stands on the processes alone" % value)
        reload = Reload(
            nginx.running, marks, self.settings["prove_timeout_s"], self.settings["reload"], self.settings["probe"]
        )
        return reload.run(lambda: journal.note_phase(self.store.journal, journal.SIGNALLED))

    def _accept(self, exchange: Exchange, nginx: Nginx, accepted: Accepted, proof: Optional[Proof]) -> Answer:
        was_proven = accepted is not None and bool(accepted["proven"])
        proven = nginx.running is not None and (proof is not None or was_proven)
        record = {
            "generation": os.urandom(8).hex(),
            "id": self.request["id"],
            "projection": self.projection,
            "written_by": self.request["written_by"],
            "run": exchange.run,
            "kind": self.request.get("kind", "sync"),
            "at": time.time(),
            "proven": proven,
            "settings": self.settings,  # `status` finds nginx by them while no master asks
        }
        record.update((key, self.request[key]) for key in ("restores", "taken_back") if key in self.request)
        if record["kind"] == "pull":
            by = record["written_by"]
            record.update(synced_by=who_syncs(accepted), synced_run=received_run(accepted, by))
        try:
            self._timed("accept", lambda: self.store.accept(record, self.planned))
        except OSError:
            if (self.store.accepted() or {}).get("run") != exchange.run:
                raise
        self._keep_replaced(exchange)
        outcome = ("applied" if exchange.items else "in-sync") if proven else "not-proven"
        is_down = nginx.running is None and not nginx.single
        code = "" if proven else "nginx-down" if is_down else "not-proven"
        return self._answer(
            True,
            outcome,
            code,
            generation=record["generation"],
            proven=proven,
            reloaded=proof is not None,
            problems=[],
            at=record["at"],
        )

    def _keep_replaced(self, exchange: Exchange) -> None:
        """The run is accepted whatever happens here; the journal stays open until all that it replaced is kept."""
        try:
            self.warnings += keep_after(self.store, exchange)
        except OSError as error:
            self.is_settled = False
            self.warnings.append("what was replaced is not wholly recorded yet (%s); the next run does it" % error)

    def _undo(self, exchange: Exchange, nginx: Nginx, proof: Optional[Proof]) -> Answer:
        with contextlib.ExitStack() as held:
            try:
                self.store.prepare()
                held.enter_context(self.store.lock("mixed", exchange.run, IDLE_S))
            except Busy as busy:
                self.is_settled = False
                answer = self._answer(False, "undone", "undone")
                why = "could not put back: process %s holds the lock" % busy.holder.get("pid")
                return dict(broken(answer, why), restored=False)
            except OSError:
                pass  # the state directory is lost: nobody can wait for this lock, and the old files must come back
            return self._put_back(exchange, nginx, proof)

    def _put_back(self, exchange: Exchange, nginx: Nginx, proof: Optional[Proof]) -> Answer:
        """Outcome undone, or broken where it could not be put back, or nginx does not prove to run the old again."""
        self.is_settled, self.state = False, HALF
        work = undo(self.store, exchange)
        self.edited = work.edited
        reason = proof.reason if proof else ""
        answer = self._answer(
            False, "undone", "undone", edited=work.edited, reason=reason, lines=proof.lines if proof else []
        )
        answer["message"] = {"what": reason, "where": "", "state": PUT_BACK, "next": ""}
        if work.failed:
            return not_restored(answer, work)
        there = self._there(nginx)
        is_another = there.running is not None and there.running != nginx.running
        if is_another or self._signalled(proof):
            again = self._timed("undo", lambda: reload_old(there, self.settings))
            if again.outcome != "proven":
                return broken(
                    answer,
                    "%s; the old files are back, but nginx did not prove to run them: %s" % (reason, again.reason),
                )
        self.is_settled, self.state = True, PUT_BACK
        return answer

    def _there(self, nginx: Nginx) -> Nginx:
        """The one that runs now: it may have died, and been started with what we had applied."""
        try:
            return self._now(nginx)
        except Failure:
            return nginx

    def _signalled(self, proof: Optional[Proof]) -> bool:
        """After a refusal that bore no worker nginx never left the old configuration: no signal then."""
        if proof is not None:
            return proof.outcome != "refused" or proof.bore_worker
        opened = journal.read(self.store.journal)
        return opened is not None and opened.phase == journal.SIGNALLED

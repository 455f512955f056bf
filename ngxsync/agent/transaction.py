"""Steps 6 to 9 on the peer, as one transaction that needs nobody once begun (TRANSACTION).

Order on disk: prepared files and syncfs; journal; exchanges; syncfs and *applied*; *signalled*; proof; accepted; journal removed.
"""

import os
import time
from typing import Any, Callable, Dict, List, Optional

from . import journal, stage
from .answers import Failure
from .exchange import Exchange, Ids, NotEmpty, PeerChanged
from .manifest import Manifest, is_same
from .nginx import Nginx, nginx_or_failure
from .proof import LogMark, Proof, Reload, log_paths, mark_logs
from .recovery import broken, finish, recover, reload_old, undo
from .rehearsal import rehearse, timeout_s
from .request import Accepted, make_items, planned_manifest, raise_if_not_equal, raise_if_not_yours
from .scan import Names
from .store import Busy, Store

LOCK_WAIT_S = 5.0

Answer = Dict[str, Any]


def transact(request: Dict[str, Any], store: Store, agent: str) -> Answer:
    """The answer of one run (docs/architecture.md), kept as runs/RUN.json before it is given."""
    store.prepare()
    try:
        with store.lock("transaction", request["run"], LOCK_WAIT_S):
            known = store.answer(request["run"])
            if known is not None:
                return known
            recover(store)
            answer = _answered(request, store, agent)
            answer.update(run=request["run"], sequence=store.next_sequence())
            store.keep_answer(request["run"], answer)
            return answer
    except Busy as busy:
        raise busy_failure(busy)


def busy_failure(busy: Busy) -> Failure:
    since = busy.holder.get("since")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since)) if since else "a moment ago"
    return Failure(
        "locked", "process %s is at work here since %s" % (busy.holder.get("pid", "?"), when), next="wait until it ends"
    )


def _answered(request: Dict[str, Any], store: Store, agent: str) -> Answer:
    transaction = Transaction(request, store, agent)
    try:
        return transaction.run()
    except Failure as failure:
        return dict({"outcome": "held"}, **failure.answer())
    except PeerChanged as error:
        what = "%s is not what it was when the plan was made" % error.path
        return Failure("peer-changed", what, where=error.path, next="it is planned anew").answer()
    except stage.StageDiffers as error:
        what = "%s did not arrive as planned: it changed on the master meanwhile" % error
        return Failure("stage-differs", what, next="it is scanned and sent again").answer()
    except NotEmpty as error:
        what = "%s would become something else, but still holds excluded or special entries" % error.path
        hint = "move them away on this host, then sync again"
        return dict(Failure("type-change", what, next=hint).answer(), outcome="held")
    except OSError as error:
        what = "%s: %s" % (error.filename or store.root, error.strerror or error)
        return Failure("disk", what, next="see the space, rights and health of this host's file systems").answer()
    finally:
        transaction.clean()


class Transaction:
    """One run. Whatever is raised before the journal is begun leaves nothing; after it, `_undo` decides the answer."""

    def __init__(self, request: Dict[str, Any], store: Store, agent: str) -> None:
        self.request, self.store, self.agent = request, store, agent
        self.settings = request["nginx"]
        self.projection = request["projection"]
        self.trees: List[str] = [tree["path"] for tree in self.projection["trees"]]
        self.warnings: List[str] = []
        self.timings: Dict[str, float] = {}
        self.planned: Manifest = {}

    def run(self) -> Answer:
        accepted = self.store.accepted()
        raise_if_not_yours(self.request, accepted)
        self.planned = planned_manifest(self.request, self.store, accepted)
        nginx = self._timed("which", self._which)
        items = make_items(self.request["changes"], self.trees)
        if not items:
            raise_if_not_equal(self.request, self.store, self.planned)
        with Exchange(self.request["run"], items, Names(self.projection["owners"]), Ids()) as exchange:
            if items:
                self._timed("prepare", lambda: self._prepare(exchange))
                refused = self._timed("rehearse", lambda: self._rehearse(exchange, nginx))
                if refused is not None:
                    return self._answer(False, "refused", "refused", problems=refused["problems"])
            return self._commit(exchange, nginx, accepted)

    def clean(self) -> None:
        """Nothing of this run stays in the trees, unless an open journal still needs it."""
        if journal.read(self.store.journal) is None:
            for tree in self.trees:
                stage.remove_run_folder(tree, self.request["run"])

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
        return nginx

    # before the journal: nothing live is touched

    def _prepare(self, exchange: Exchange) -> None:
        known = self.store.cache()
        for item in exchange.items:
            found = self._live_entry(exchange, item, known)
            if not is_same(found, exchange.optional(item.before)):
                raise PeerChanged(item.path, found)
        for tree in self.trees:
            for home in sorted({item.home for item in exchange.items if item.tree == tree}):
                stage.make_run_folder(home, tree, exchange.run, [stage.PREP])
        try:
            self.warnings += stage.prepare(exchange, self.request.get("stages", {}))
        except KeyError as error:
            raise Failure(
                "missing-user", "this host has no user or group %s" % error, next="create it here, or exclude the path"
            )

    @staticmethod
    def _live_entry(exchange: Exchange, item: journal.Item, known: Dict[str, Any]) -> Any:
        try:
            with exchange.live(item) as (folder, name):
                return exchange.look(name, folder, known.get(item.path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _rehearse(self, exchange: Exchange, nginx: Nginx) -> Optional[Answer]:
        """None where nginx accepts live + stage (or where only applying can tell), else what it says."""
        if self.settings["rehearse"] == "live":
            return None
        result = rehearse(nginx, stage.view_actions(exchange), timeout_s(self.settings))
        return None if result["passed"] else result

    # from here on the journal is open

    def _commit(self, exchange: Exchange, nginx: Nginx, accepted: Accepted) -> Answer:
        exchange.sync_file_systems()
        old_logs = log_paths(nginx.conf, nginx)
        header = {
            "run": exchange.run,
            "agent": self.agent,
            "nginx": self.settings,
            "projection": self.projection,
            "at": time.time(),
        }
        journal.begin(self.store.journal, header, exchange.items)
        proof: Optional[Proof] = None
        try:
            self._timed("apply", lambda: self._apply(exchange))
            if self.settings["rehearse"] == "live":
                self._test_live(nginx)
            proof = self._timed("prove", lambda: self._reload(nginx, old_logs))
            if proof is None or proof.outcome == "proven":
                return self._accept(exchange, nginx, accepted, proof)
        except (PeerChanged, NotEmpty, Failure, OSError):
            answer = self._undo(exchange, nginx, proof)
            if answer["outcome"] == "broken":
                return answer
            raise
        return self._undo(exchange, nginx, proof)

    def _apply(self, exchange: Exchange) -> None:
        with self.store.lock("mixed", exchange.run, LOCK_WAIT_S):
            exchange.apply()
        exchange.sync_file_systems()
        journal.note_phase(self.store.journal, journal.APPLIED)
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
        if nginx.running is None or not self.request["reload"]:
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
        }
        self._timed("accept", lambda: self.store.accept(record, self.planned))
        self.warnings += finish(self.store, exchange)["warnings"]
        journal.end(self.store.journal)
        outcome = ("applied" if exchange.items else "in-sync") if proven else "not-proven"
        code = "" if proven else "nginx-down" if nginx.running is None else "not-proven"
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

    def _undo(self, exchange: Exchange, nginx: Nginx, proof: Optional[Proof]) -> Answer:
        """Outcome undone, or broken where it could not be put back, or nginx does not prove to run the old again."""
        with self.store.lock("mixed", exchange.run, LOCK_WAIT_S):
            work = undo(self.store, exchange)
        reason = proof.reason if proof else ""
        answer = self._answer(
            False, "undone", "undone", edited=work.edited, reason=reason, lines=proof.lines if proof else []
        )
        answer["message"] = {"what": reason, "where": "", "state": "its old files are back", "next": ""}
        if work.failed:
            return broken(answer, "could not put back: %s" % "; ".join(work.failed))
        if self._signalled(proof):
            again = self._timed("undo", lambda: reload_old(nginx, self.settings))
            if again.outcome != "proven":
                return broken(
                    answer,
                    "%s; the old files are back, but nginx did not prove to run them: %s" % (reason, again.reason),
                )
        journal.end(self.store.journal)
        return answer

    def _signalled(self, proof: Optional[Proof]) -> bool:
        """After a refusal that bore no worker nginx never left the old configuration: no signal then."""
        if proof is not None:
            return proof.outcome != "refused" or proof.bore_worker
        opened = journal.read(self.store.journal)
        return opened is not None and opened.phase == journal.SIGNALLED

"""Finish or undo what a crash left open: safe at any time, twice, and without the master (TRANSACTION, recovery)."""

import subprocess
from typing import Any, Dict, Optional

from . import folders, journal
from .captures import Edits, keep_after
from .errorlog import log_paths, mark_logs
from .exchange import Exchange, Ids
from .journal import Journal
from .nginx import Nginx, find_nginx, is_alive
from .proof import DIED, Proof, Reload, send, wait_idle
from .store import Damaged, Store
from .survey import Names
from .undo import Undo

IDLE_S = 30.0
BUSY_S = 0.5  # it may be burying a worker, after which it needs no second signal
SHOWN = 5


def recover(store: Store) -> Optional[Dict[str, Any]]:
    """Called under the transaction lock. None where nothing was open; else the answer that ends the interrupted run.

    `restored` is False where files could not be put back. Raises journal.Damaged, store.Damaged, OSError, Busy.
    """
    opened = journal.read(store.journal)
    if opened is None:
        return None
    accepted = store.accepted()
    run = opened.header["run"]
    with Exchange(run, opened.items, Names(opened.header["projection"]["owners"]), Ids()) as exchange:
        if accepted is not None and accepted["run"] == run:
            answer = finish(store, exchange, accepted, opened.phase)
        else:
            with store.lock("mixed", run, IDLE_S):
                answer = _undo_after_crash(store, exchange, opened)
    answer.update(run=run, recovered_from=opened.phase, sequence=store.next_sequence(answer["warnings"]))
    known = store.answer(run)
    if known is None or known.get("outcome") == "broken":
        store.keep_answer(run, answer)
    if answer["outcome"] != "broken":
        close(store, opened)
    return answer


def close(store: Store, opened: Journal) -> None:
    journal.end(store.journal)
    for tree in opened.header["projection"]["trees"]:
        folders.remove_run_folder(tree["path"], opened.header["run"])


def finish(store: Store, exchange: Exchange, accepted: Dict[str, Any], phase: str) -> Dict[str, Any]:
    """The run was accepted: what it replaced is kept. The answer that its master waits for, generation included."""
    warnings = keep_after(store, exchange)
    proven = bool(accepted["proven"])
    return {
        "ok": True,
        "outcome": "applied" if proven else "not-proven",
        "code": "" if proven else "not-proven",
        "generation": accepted["generation"],
        "id": accepted["id"],
        "at": accepted["at"],
        "proven": proven,
        "reloaded": phase == journal.SIGNALLED,
        "problems": [],
        "result": "finished",
        "restored": True,
        "warnings": warnings,
    }


def undo(store: Store, exchange: Exchange) -> Undo:
    """Put back all items; edits made meanwhile are kept in the store."""
    edits = Edits(store, exchange.run)
    work = Undo(exchange, edits.keep)
    work.run()
    try:
        edits.write()
    except (OSError, Damaged) as error:
        work.failed.append("edits could not be kept: %s" % error)
    return work


def _undo_after_crash(store: Store, exchange: Exchange, opened: Journal) -> Dict[str, Any]:
    work = undo(store, exchange)
    answer = {
        "ok": True,
        "outcome": "undone",
        "code": "recovered",
        "result": "undone",
        "restored": not work.failed,
        "edited": work.edited,
        "problems": [],
        "warnings": [],
    }
    if work.failed:
        return not_restored(answer, work)
    try:
        nginx = find_nginx(opened.header["nginx"])
    except (OSError, ValueError, subprocess.SubprocessError):
        return answer  # no nginx here: nothing runs what was applied
    if nginx.running is not None:
        # in whatever phase: it may have been started, or told to reload, after the crash
        proof = reload_old(nginx, opened.header["nginx"])
        if proof.outcome != "proven":
            return broken(answer, "the old files are back, but nginx did not prove to run them: %s" % proof.reason)
    return answer


def not_restored(answer: Dict[str, Any], work: Undo) -> Dict[str, Any]:
    more = ", and %d more" % (len(work.failed) - SHOWN) if len(work.failed) > SHOWN else ""
    return dict(broken(answer, "could not put back: %s%s" % ("; ".join(work.failed[:SHOWN]), more)), restored=False)


def broken(answer: Dict[str, Any], why: str) -> Dict[str, Any]:
    message = {
        "what": why,
        "where": "",
        "state": "the live tree or the running nginx may differ from what was accepted",
        "next": "mend the cause, then run `ngxsync-agent recover` here, or `ngxsync sync` on the master",
    }
    return dict(answer, ok=False, outcome="broken", code="broken", result="broken", message=message)


def reload_old(nginx: Nginx, settings: Dict[str, Any]) -> Proof:
    """After an undo: wait until nothing is being read, then have nginx read the old configuration, and prove it.

    Where it stays busy it is signalled before that too: should it wake after all waiting, it reads what was put back.
    """
    running = nginx.running
    if running is None:
        return Proof("died", DIED, [], False, 0.0)
    wait_s = settings.get("idle_timeout_s", max(IDLE_S, 2 * settings["prove_timeout_s"]))
    if not wait_idle(running, BUSY_S):
        send(running.pid, settings["reload"], wait_s)
    if not wait_idle(running, wait_s):
        if not is_alive(running):
            return Proof("died", DIED, [], True, 0.0)
        return Proof("timeout", "its main process did not become idle within %.0f s" % wait_s, [], True, wait_s)
    marks = mark_logs(log_paths(nginx.conf, nginx)[0])
    return Reload(running, marks, settings["prove_timeout_s"], settings["reload"], "").run(lambda: None)

"""The verbs that work on nginx: transact and recover on the peer, validate and which on the master."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict

from . import journal, recovery, run, unit
from .answers import Abandoned, Failure, guarded
from .failures import failure_of
from .nginx import nginx_or_failure
from .rehearsal import rehearse, timeout_s
from .request import raise_if_malformed
from .store import Busy, Damaged, Store
from .sweep import keep_of, sweep

RECOVER_WAIT_S = 60.0
GO = b"go"
GO_S = 60.0  # a burst of edits that goes on for longer is planned anew

Answer = Dict[str, Any]


def own_hash() -> str:
    """The name of the folder that this code was installed as; "" where it runs as the package ngxsync."""
    folder = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    return os.path.basename(folder) if os.path.exists(os.path.join(folder, "__main__.py")) else ""


def transact(request: Answer) -> Answer:
    """Steps 6 to 9. With `wait_for_go` all that touches nothing live is done ahead, and a line "go" begins the rest."""
    raise_if_malformed(request)
    if not request.get("wait_for_go"):
        return detached(lambda: _transact(request, run.at_once))
    reading, writing = os.pipe()

    def work() -> Answer:
        os.close(writing)
        return _transact(request, lambda: _wait_for_go(reading))

    return detached(work, lambda answer: _pass_go_on(writing, answer))


def _wait_for_go(reading: int) -> None:
    """Raises Abandoned where the caller gives the run up, is gone, or says nothing for too long."""
    if not select.select([reading], [], [], GO_S)[0] or os.read(reading, 16).strip() != GO:
        raise Abandoned()


def _pass_go_on(writing: int, answer: int) -> None:
    """Until the word comes, or the work has ended without it: a caller whose host has vanished never says anything."""
    os.set_blocking(0, False)
    with os.fdopen(writing, "wb", 0) as stream, contextlib.suppress(BrokenPipeError):
        if not sys.stdin.buffer.peek(1):  # type: ignore[union-attr]
            select.select([0, answer], [], [])
        stream.write(sys.stdin.buffer.readline(16) or b"")


def _transact(request: Answer, wait_for_go: Callable[[], None]) -> Answer:
    store = Store(request["state_dir"])
    other = _agent_of_journal(store, request["state_dir"])
    if other:
        _hand_over(other, {"state_dir": request["state_dir"]})
    return run.transact(request, store, own_hash(), wait_for_go)


def recover(request: Answer) -> Answer:
    store = Store(request["state_dir"])
    if not os.path.isdir(store.root):
        return {"ok": True, "recovered": None}
    other = _agent_of_journal(store, request["state_dir"])
    return _hand_over(other, request) if other else detached(lambda: _recover(store, request))


def _recover(store: Store, request: Answer) -> Answer:
    try:
        with store.lock("transaction", "recover", float(request.get("wait_s", RECOVER_WAIT_S))):
            opened = journal.read(store.journal)
            answer = recovery.recover(store)
            warnings = sweep(store, keep_of(request), time.time(), thorough=True)
    except (Busy, Damaged, journal.Damaged, OSError) as error:
        raise failure_of(error, store)
    answer = dict(answer, recovered=answer["run"]) if opened and answer else {"ok": True, "recovered": None}
    return dict(answer, warnings=answer.get("warnings", []) + warnings) if warnings else answer


def _agent_of_journal(store: Store, state_dir: str) -> str:
    """The agent folder that the journal names, where it is another one and still there: who wrote it can read it."""
    try:
        header = journal.read_header(store.journal)
    except (journal.Damaged, OSError):
        return ""  # whoever reads it next says so
    name = str((header or {}).get("agent", ""))
    folder = os.path.join(state_dir, "agent", name)
    return folder if name not in ("", own_hash()) and "/" not in name and os.path.isdir(folder) else ""


def _hand_over(folder: str, request: Answer) -> Answer:
    argv = [sys.executable, "-I", "-S", folder, "recover"]
    done = subprocess.run(argv, input=json.dumps(request).encode("ascii"), stdout=subprocess.PIPE)
    try:
        return dict(json.loads(done.stdout.decode("ascii").splitlines()[-1]))
    except (ValueError, IndexError):
        raise Failure(
            "died",
            "the agent that began an interrupted run could not recover it",
            where=folder,
            state="the live tree may be half old, half new",
            next="look at the journal of this host; remove that folder to recover by the installed agent",
        )


def validate(request: Answer) -> Answer:
    """nginx -t in a private view of this host, nothing laid over it (`rehearse = live`: in none): step 3 on the master."""
    settings = request["nginx"]
    nginx = nginx_or_failure(settings)
    result = rehearse(nginx, None if settings["rehearse"] == "live" else [], timeout_s(settings))
    return dict(result, ok=True, binary=nginx.build.binary, prefix=nginx.prefix, conf=nginx.conf)


def which(request: Answer) -> Answer:
    """Where this host's nginx reads its configuration."""
    nginx = nginx_or_failure(request["nginx"])
    return {"ok": True, "binary": nginx.build.binary, "prefix": nginx.prefix, "conf": nginx.conf}


def detached(work: Callable[[], Answer], meanwhile: Callable[[int], None] = lambda _answer: None) -> Answer:
    """Run in a session of its own, so that neither SIGHUP nor a cut connection ends it; wait for the answer and pass it on.

    `meanwhile` is given the descriptor that the answer comes from.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)  # else, with the caller gone, a long answer would wait for ever
        _in_own_session(work, writing)
    os.close(writing)
    meanwhile(reading)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    if not text:
        raise Failure(
            "died",
            "the transaction's process ended without an answer",
            state="unknown until it is recovered",
            next="`ngxsync-agent recover` here, or the next run, finishes or undoes what it began",
        )
    return dict(json.loads(text.decode("ascii")))


def _in_own_session(work: Callable[[], Answer], writing: int) -> None:
    try:
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        bound = unit.leave_login()
        answer = guarded(work)
        if bound:
            answer.setdefault("warnings", []).append(bound)
        with os.fdopen(writing, "wb") as stream:
            stream.write(json.dumps(answer).encode("ascii"))
    except BrokenPipeError:
        pass  # nobody listens any more; the answer is in runs/
    finally:
        os._exit(0)

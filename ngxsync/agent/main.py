"""The agent's verbs: one JSON request on standard input, one JSON object as the last line of standard output."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from typing import Any, Callable, Dict, List

from . import inspection, journal, unit
from .answers import Abandoned, Failure
from .facts import facts
from .manifest import PROTOCOL, is_clean
from .nginx import nginx_or_failure
from .recovery import recover, sweep
from .rehearsal import rehearse, timeout_s
from .request import raise_if_malformed
from .run import LOCK_WAIT_S, at_once, failure_of, settle_earlier, transact
from .scan import OWN_FOLDER
from .stage import STAGE, make_run_folder
from .store import RUN_NAME, Busy, Damaged, Store

BY_HAND = ("status", "recover")
RECOVER_WAIT_S = 60.0
GO = b"go"
GO_S = 60.0  # a burst of edits that goes on for longer is planned anew
LARGEST = 256 << 20  # bytes of a request: a manifest of a million entries

Answer = Dict[str, Any]


def own_hash() -> str:
    """The name of the folder that this code was installed as; "" where it runs as the package ngxsync."""
    folder = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    return os.path.basename(folder) if os.path.exists(os.path.join(folder, "__main__.py")) else ""


def verb_transact(request: Answer) -> Answer:
    """Steps 6 to 9. With `wait_for_go` all that touches nothing live is done ahead, and a line "go" begins the rest."""
    raise_if_malformed(request)
    if not request.get("wait_for_go"):
        return detached(lambda: _transact(request, at_once))
    reading, writing = os.pipe()

    def work() -> Answer:
        os.close(writing)
        return _transact(request, lambda: _wait_for_go(reading))

    return detached(work, lambda: _pass_go_on(writing))


def _wait_for_go(reading: int) -> None:
    """Raises Abandoned where the caller gives the run up, is gone, or says nothing for too long."""
    if not select.select([reading], [], [], GO_S)[0] or os.read(reading, 16).strip() != GO:
        raise Abandoned()


def _pass_go_on(writing: int) -> None:
    with os.fdopen(writing, "wb", 0) as stream, contextlib.suppress(BrokenPipeError):
        stream.write(sys.stdin.buffer.readline(16))


def _transact(request: Answer, wait_for_go: Callable[[], None]) -> Answer:
    store = Store(request["state_dir"])
    other = _agent_of_journal(store, request["state_dir"])
    if other:
        _hand_over(other, {"state_dir": request["state_dir"]})
    return transact(request, store, own_hash(), wait_for_go)


def verb_recover(request: Answer) -> Answer:
    store = Store(request["state_dir"])
    if not os.path.isdir(store.root):
        return {"ok": True, "recovered": None}
    other = _agent_of_journal(store, request["state_dir"])
    return _hand_over(other, request) if other else detached(lambda: _recover(store, request))


def _recover(store: Store, request: Answer) -> Answer:
    try:
        with store.lock("transaction", "recover", float(request.get("wait_s", RECOVER_WAIT_S))):
            opened = journal.read(store.journal)
            answer = recover(store)
    except (Busy, Damaged, journal.Damaged, OSError) as error:
        raise failure_of(error, store)
    return dict(answer, recovered=answer["run"]) if opened and answer else {"ok": True, "recovered": None}


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


def verb_stage(request: Answer) -> Answer:
    """Make the stage folders of a run; a tree that is absent is made, empty, so that it can hold one."""
    store, run, trees = Store(request["state_dir"]), request["run"], request["trees"]
    if not RUN_NAME.match(run) or not all(is_clean(tree) for tree in trees):
        raise Failure("agent", "not a run, or not trees: %r, %r" % (run, trees))
    try:
        store.prepare()
        with store.lock("transaction", run, LOCK_WAIT_S):
            settle_earlier(store)
            sweep(store, trees)
            for tree in trees:
                _make_tree(tree)
                make_run_folder(tree, tree, run, [STAGE])
    except (Busy, Damaged, journal.Damaged, OSError) as error:
        raise failure_of(error, store)
    return {"ok": True, "stages": {tree: "%s/%s/%s/%s" % (tree, OWN_FOLDER, run, STAGE) for tree in trees}}


def _make_tree(tree: str) -> None:
    """A tree that is absent is made for others to read; the plan then gives it its mode and owner."""
    before = os.umask(0o022)
    try:
        os.makedirs(tree, mode=0o755, exist_ok=True)
    finally:
        os.umask(before)


def verb_validate(request: Answer) -> Answer:
    """nginx -t in a private view of this host, nothing laid over it (`rehearse = live`: in none): step 3 on the master."""
    settings = request["nginx"]
    nginx = nginx_or_failure(settings)
    result = rehearse(nginx, None if settings["rehearse"] == "live" else [], timeout_s(settings))
    return dict(result, ok=True, binary=nginx.build.binary, prefix=nginx.prefix, conf=nginx.conf)


def verb_which(request: Answer) -> Answer:
    """Where this host's nginx reads its configuration."""
    nginx = nginx_or_failure(request["nginx"])
    return {"ok": True, "binary": nginx.build.binary, "prefix": nginx.prefix, "conf": nginx.conf}


VERBS: Dict[str, Callable[[Answer], Answer]] = {
    "hello": inspection.hello,
    "scan": inspection.scan_trees,
    "stage": verb_stage,
    "show": inspection.show,
    "facts": facts,
    "transact": verb_transact,
    "validate": verb_validate,
    "which": verb_which,
    "recover": verb_recover,
    "undo": verb_recover,
    "status": inspection.status,
}


def detached(work: Callable[[], Answer], meanwhile: Callable[[], None] = at_once) -> Answer:
    """Run in a session of its own, so that neither SIGHUP nor a cut connection ends it; wait for the answer and pass it on."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)  # else, with the caller gone, a long answer would wait for ever
        _in_own_session(work, writing)
    os.close(writing)
    meanwhile()
    with os.fdopen(reading, "rb") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    if not text:
        raise Failure(
            "died", "the transaction's process ended without an answer", state="unknown until it is recovered"
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


def guarded(work: Callable[[], Answer]) -> Answer:
    """Failures are answers; anything else is a bug and says where."""
    try:
        return work()
    except Failure as failure:
        return failure.answer()
    except Exception as error:  # noqa: BLE001 - one of the two outermost places
        where = traceback.format_exc(limit=-4)
        return {
            "ok": False,
            "code": "bug",
            "message": {"what": repr(error), "where": where, "state": "unknown", "next": "report it"},
        }


def main(argv: List[str]) -> int:
    """`VERB` with a request on standard input; `status` and `recover` also by hand, without one."""
    os.umask(0o077)
    verb = argv[0] if argv else "status"
    if verb not in VERBS:
        sys.stderr.write("usage: ngxsync-agent status | recover\n")
        return 2
    text = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.readline(LARGEST + 1)
    if len(text) <= LARGEST and not text.strip() and verb in BY_HAND:
        return inspection.by_hand(verb, lambda request: answered(verb, request))
    sys.stdout.write(json.dumps(guarded(lambda: _answer(verb, text))) + "\n")
    sys.stdout.flush()
    return 0


def _answer(verb: str, text: bytes) -> Answer:
    """The whole request is read before anything starts: a cut one is no JSON, and nothing is done."""
    try:
        request = json.loads(text.decode("utf-8")) if len(text) <= LARGEST else None
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise Failure("agent", "the request is no JSON object of at most %d bytes" % LARGEST, next="sync again")
    if request.get("protocol", PROTOCOL) != PROTOCOL:
        raise Failure("protocol", "protocol %s is spoken here, %s was asked" % (PROTOCOL, request["protocol"]))
    return answered(verb, request)


def answered(verb: str, request: Answer) -> Answer:
    """One verb's answer. Raises Failure, also for records that cannot be read."""
    try:
        return VERBS[verb](request)
    except (Busy, Damaged, journal.Damaged) as error:
        raise failure_of(error, Store(request["state_dir"]))

"""The agent's verbs: one JSON request on standard input, one JSON object as the last line of standard output."""

import json
import os
import signal
import subprocess
import sys
import traceback
from typing import Any, Callable, Dict, List

from . import inspection, journal
from .answers import Failure
from .facts import facts
from .manifest import PROTOCOL
from .nginx import nginx_or_failure
from .recovery import recover, sweep
from .rehearsal import rehearse, timeout_s
from .stage import STAGE, make_run_folder
from .store import RUN_NAME, Busy, Store
from .transaction import busy_failure, transact

Answer = Dict[str, Any]


def own_hash() -> str:
    """The name of the folder that this code was installed as; "" where it runs as the package ngxsync."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.path.basename(folder) if os.path.exists(os.path.join(folder, "__main__.py")) else ""


def verb_transact(request: Answer) -> Answer:
    return detached(lambda: transact(request, Store(request["state_dir"]), own_hash()))


def verb_recover(request: Answer) -> Answer:
    store = Store(request["state_dir"])
    if not os.path.isdir(store.root):
        return {"ok": True, "recovered": None}
    other = _other_agent(request["state_dir"], journal.read(store.journal))
    return _hand_over(other, request) if other else detached(lambda: _recover(store, request))


def _recover(store: Store, request: Answer) -> Answer:
    try:
        with store.lock("transaction", "recover", float(request.get("wait_s", 60))):
            opened = journal.read(store.journal)
            answer = recover(store)
            return (
                {"ok": True, "recovered": None}
                if opened is None
                else dict(answer or {}, recovered=opened.header["run"])
            )
    except Busy as busy:
        raise busy_failure(busy)


def _other_agent(state_dir: str, opened: Any) -> str:
    """The agent folder that the journal names, where it is another one and still there: who wrote it can read it."""
    if opened is None or not own_hash() or opened.header["agent"] in ("", own_hash()):
        return ""
    folder = os.path.join(state_dir, "agent", opened.header["agent"])
    return folder if os.path.isdir(folder) else ""


def _hand_over(folder: str, request: Answer) -> Answer:
    argv = [sys.executable, "-I", "-S", folder, "recover"]
    done = subprocess.run(argv, input=json.dumps(request).encode("ascii"), stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout.decode("ascii").splitlines()[-1]))


def verb_stage(request: Answer) -> Answer:
    """Make the stage folders of a run; a tree that is absent is made, empty, so that it can hold one."""
    store = Store(request["state_dir"])
    store.prepare()
    run = request["run"]
    if not RUN_NAME.match(run):
        raise Failure("agent", "not a run: %r" % run)
    with store.lock("transaction", run, 5.0):
        recover(store)
        sweep(store, request["trees"])
    for tree in request["trees"]:
        os.makedirs(tree, mode=0o755, exist_ok=True)
        make_run_folder(tree, tree, run, [STAGE])
    return {"ok": True, "stages": {tree: "%s/.ngxsync/%s/%s" % (tree, run, STAGE) for tree in request["trees"]}}


def verb_validate(request: Answer) -> Answer:
    """nginx -t in a private view of this host, nothing laid over it: step 3 on the master."""
    nginx = nginx_or_failure(request["nginx"])
    result = rehearse(nginx, [], timeout_s(request["nginx"]))
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


def detached(work: Callable[[], Answer]) -> Answer:
    """Run in a session of its own, so that neither SIGHUP nor a cut connection ends it; wait for the answer and pass it on."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _in_own_session(work, writing)
    os.close(writing)
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
        answer = guarded(work)
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
    text = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read().decode("utf-8")
    if not text.strip():
        return inspection.by_hand(verb, VERBS[verb])
    request = json.loads(text)
    if request.get("protocol", PROTOCOL) != PROTOCOL:
        answer = Failure(
            "protocol", "protocol %s is spoken here, %s was asked" % (PROTOCOL, request.get("protocol"))
        ).answer()
    else:
        answer = guarded(lambda: VERBS[verb](request))
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0

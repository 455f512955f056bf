"""The agent as a program: one JSON request on standard input, one JSON object as the last line of standard output."""

import gc
import importlib
import json
import os
import signal
import sys
from typing import Any, Callable, Dict, List

from . import journal
from .answers import Failure, guarded
from .asked import raise_if_odd
from .failures import failure_of
from .manifest import PROTOCOL, RELEASE, SPEAKS
from .store import Busy, Damaged, Store

BY_HAND = ("status", "recover")
ENTRIES = {"check-nginx": ("liveness", "check"), "notify": ("notice", "main")}  # keepalived's, with arguments
READING = ("hello", "scan", "show", "facts", "probe", "history", "status", "vrrp")  # verbs that change nothing
READING_S = 600  # longer than any caller waits for one of these
WAIT_S = 60  # for more of a request to come, or of an answer to go; the master keeps an interpreter warm for less
CHUNK = 1 << 16
LARGEST = 256 << 20  # bytes of a request: a manifest of a million entries

Answer = Dict[str, Any]

# verb -> its module and function; imported only when it is called, since a run waits for each of them
VERBS = {
    "hello": ("trees", "hello"),
    "scan": ("trees", "scan_trees"),
    "stage": ("trees", "make_stage"),
    "show": ("inspection", "show"),
    "facts": ("facts", "facts"),
    "probe": ("probes", "probe"),
    "history": ("history", "history"),
    "transact": ("verbs", "transact"),
    "validate": ("verbs", "validate"),
    "which": ("verbs", "which"),
    "recover": ("verbs", "recover"),
    "status": ("status", "status"),
    "install": ("door", "install"),
    "uninstall": ("removal", "uninstall"),
    "promote": ("promotion", "promote"),
    "vrrp": ("vrrpfacts", "vrrp"),
}


def as_it_is(request: Answer) -> Answer:
    return request


def work_of(verb: str) -> Callable[[Answer], Answer]:
    module, name = VERBS[verb]
    work: Callable[[Answer], Answer] = getattr(importlib.import_module("." + module, __package__), name)
    return work


def main(argv: List[str]) -> int:
    """`VERB` with a request on standard input; `status` and `recover` also by hand; for keepalived what has no request."""
    os.umask(0o077)
    gc.disable()  # this process ends with its answer: a search for cycles in a manifest takes longer than to read it
    verb = argv[0] if argv else "status"
    if verb == "gate":
        from . import gate

        return gate.main("".join(argv[1:2]))
    if verb in ENTRIES:
        module, name = ENTRIES[verb]
        return int(getattr(importlib.import_module("." + module, __package__), name)(argv[1:]))
    if verb in ("-h", "--help"):
        from . import inspection

        sys.stdout.write(inspection.HELP)
        return 0
    if verb not in VERBS:
        sys.stderr.write("usage: ngxsync-agent status | recover [--json]\n")
        return 2
    work_of(verb)  # one that is lost or cut off is no answer: then the master puts the agent there anew
    as_json = verb in BY_HAND and argv[1:] == ["--json"]
    text = b"" if as_json else read_request()
    if len(text) <= LARGEST and not text.strip() and verb in BY_HAND:
        from . import inspection

        return inspection.by_hand(verb, lambda request: answered(verb, request), as_json)
    if verb in READING:
        signal.alarm(READING_S)  # a regex of a request may never end, and its caller is gone long before
    say(guarded(lambda: answered_text(verb, text)))
    return 0


def read_request() -> bytes:
    """The one line of standard input; b"" where there is none, or a terminal.

    Where nothing comes for WAIT_S this process ends by SIGALRM: a caller whose host has vanished never says so.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return b""
    text = bytearray()
    while len(text) <= LARGEST and not text.endswith(b"\n"):
        signal.alarm(WAIT_S)
        part = sys.stdin.buffer.peek(1)  # type: ignore[union-attr]
        if not part:
            break
        text += sys.stdin.buffer.read(part.find(b"\n") + 1 or len(part))
    signal.alarm(0)
    return bytes(text)


def say(answer: Answer) -> None:
    """On a line of its own, whatever the login shell wrote before. A caller that takes nothing for WAIT_S is gone, as above."""
    text = ("\n" + json.dumps(answer) + "\n").encode("ascii")
    os.set_blocking(1, True)  # sshd may give one socket for input and output
    for start in range(0, len(text), CHUNK):
        signal.alarm(WAIT_S)
        sys.stdout.buffer.write(text[start : start + CHUNK])
        sys.stdout.buffer.flush()
    signal.alarm(0)


def answered_text(verb: str, text: bytes, check: Callable[[Answer], Answer] = as_it_is) -> Answer:
    """The whole request is read before anything starts: a cut one is no JSON, and nothing is done.

    `check` gives the request that is answered in its place, or raises Failure.
    """
    try:
        request = json.loads(text.decode("utf-8")) if len(text) <= LARGEST else None
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise Failure("agent", "the request is no JSON object of at most %d bytes" % LARGEST, next="sync again")
    asked = request.get("protocol", PROTOCOL)
    if asked not in SPEAKS:
        what = "protocols %s are spoken here, %s was asked" % (", ".join(map(str, SPEAKS)), asked)
        raise Failure("protocol", what, speaks=list(SPEAKS), release=RELEASE)
    return answered(verb, check(request))


def answered(verb: str, request: Answer) -> Answer:
    """One verb's answer. Raises Failure, also for records that cannot be read."""
    raise_if_odd(verb, request)
    try:
        return work_of(verb)(request)
    except (Busy, Damaged, journal.Damaged) as error:
        raise failure_of(error, Store(request["state_dir"]))

"""What the gate lets through: values in, a decision out. Nothing here runs, reads or writes anything.

A client says two things: a command (SSH_ORIGINAL_COMMAND, any bytes) and then, for an agent call, a JSON request (any value).
Of the command only the verb, or the place in the open stage, is used; of the request only the fields that are named here.
Excludes are regexes of the client's: one that never ends costs its own session's time, and gives nothing away.
"""

import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Union

from .manifest import is_clean, tree_of
from .staged import Staged
from .store import RUN_NAME

VERBS = ("hello", "scan", "stage", "show", "facts", "probe", "transact", "recover", "status", "history", "vrrp")

LONGEST = 8192  # bytes of a command: a path has 4096 at most
TIMES = ("prove_timeout_s", "test_timeout_s", "idle_timeout_s")  # of `nginx`
LONGEST_S = 3600.0  # of any time-out that a client may ask for
TIMEOUT_S = 30  # of rsync, where it names none

# as shlex.join writes a word; the words' meaning is ours alone
_WORD = rb"(?:[A-Za-z0-9_@%+=:,./-]|'[^'\0\r\n]*'|\"'\")+"
_CALL = re.compile(rb"env LC_ALL=C\.UTF-8 " + _WORD + rb" -I -S " + _WORD + rb" ([a-z]+)\Z")
# what rsync makes of the options in edges/rsync.py, whichever its release
_RSYNC_FLAGS = re.compile(rb"-[WIR]{3}e[0-9.]*\.[A-Za-z]*\Z")
_RSYNC_OPTION = re.compile(rb"--(?:timeout=[0-9]{1,3}|stats|no-implied-dirs)\Z")
_PLACE = re.compile(rb"([0-9A-Za-z][0-9A-Za-z_-]{0,63})/([0-9]{1,3})/\Z")

Call = NamedTuple("Call", [("verb", str)])
Receive = NamedTuple("Receive", [("run", str), ("tree", str), ("folder", str), ("timeout_s", int)])
Refusal = NamedTuple("Refusal", [("why", str)])
Decision = Union[Call, Receive, Refusal]


class Refused(Exception):
    """A request asks for something that is not in the policy; the text says what, however much that was."""

    def __init__(self, text: str) -> None:
        super(Refused, self).__init__(text[:500])


def ask(command: Optional[bytes], staged: Staged) -> Decision:
    """What is done for this command: one of our verbs, rsync into the open stage, or nothing."""
    if command is None:
        return Refusal("no command: this key opens no shell")
    if len(command) > LONGEST:
        return Refusal("a command of %d bytes" % len(command))
    called = _CALL.match(command)
    if called:
        verb = called.group(1).decode("ascii")
        return Call(verb) if verb in VERBS else Refusal("no verb of this key: %s" % verb[:40])
    if command.startswith(b"rsync "):
        return _receive(command.split(b" "), staged)
    return Refusal("neither a call of the agent nor a transfer into the open stage")


def _receive(words: List[bytes], staged: Staged) -> Decision:
    is_ours = (
        len(words) >= 5
        and words[1] == b"--server"
        and _RSYNC_FLAGS.match(words[2]) is not None
        and all(_RSYNC_OPTION.match(word) for word in words[3:-2])
        and words[-2] == b"."
    )
    place = _PLACE.match(words[-1])
    if not is_ours or place is None:
        return Refusal("rsync may only receive, with our options, into the open stage")
    run, number = place.group(1).decode("ascii"), int(place.group(2))
    if staged is None or staged["run"] != run:
        return Refusal("run %s has no open stage here" % run)
    if number >= len(staged["stages"]):
        return Refusal("run %s has no stage %d here" % (run, number))
    tree, folder = staged["stages"][number]
    return Receive(run, tree, folder, _timeout_s(words[3:-2]))


def _timeout_s(options: List[bytes]) -> int:
    """How long the client's rsync waits for a byte; it sends one itself in half of that."""
    said = [int(word.partition(b"=")[2]) for word in options if word.startswith(b"--timeout=")]
    return max(said + [0]) or TIMEOUT_S


def checked(verb: str, request: Dict[str, Any], policy: Dict[str, Any]) -> Dict[str, Any]:
    """The request's known fields, each found to be in the policy. Raises Refused.

    `policy`: state_dir, trees, nginx, keep. What is run, opened or asked was named at `peer install`, never by a request.
    """
    for name in _needed(verb, request):
        if name not in request:
            raise Refused("a request of %s without %s" % (verb, name))
    try:
        return {name: FIELDS[name](request[name], policy) for name in request if name in FIELDS}
    except RecursionError:
        raise Refused("a request that is nested too deeply")


def _needed(verb: str, request: Dict[str, Any]) -> List[str]:
    if verb == "show":
        return ["state_dir"] + (["run"] if "run" in request else ["paths", "nginx", "projection"])
    needed = {"scan": ["projection"], "stage": ["run", "trees"], "facts": ["nginx", "projection"], "probe": ["nginx"]}
    needed["transact"] = ["run", "nginx", "projection"]
    return [] if verb == "hello" else ["state_dir"] + needed.get(verb, [])


def _free(value: Any, _policy: Dict[str, Any]) -> Any:
    """It names nothing that is opened or run: a count, a hash, or what the verb checks against the (checked) trees."""
    return value


def _state_dir(value: Any, policy: Dict[str, Any]) -> Any:
    if value != policy["state_dir"]:
        raise Refused("another state folder: %r" % (value,))
    return value


def _run(value: Any, _policy: Dict[str, Any]) -> Any:
    if not isinstance(value, str) or not RUN_NAME.match(value):
        raise Refused("not a run: %r" % (value,))
    return value


def _seconds(value: Any, _policy: Dict[str, Any]) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LONGEST_S:
        raise Refused("not a time-out of at most %d s: %r" % (LONGEST_S, value))
    return value


def _trees(value: Any, policy: Dict[str, Any]) -> Any:
    if not isinstance(value, list) or not all(isinstance(tree, str) and tree in policy["trees"] for tree in value):
        raise Refused("not the trees of this peer: %r" % (value,))
    return value


def _paths(value: Any, policy: Dict[str, Any]) -> Any:
    paths = value if isinstance(value, list) else [None]
    for path in paths:
        if not isinstance(path, str) or not is_clean(path) or tree_of(path, policy["trees"]) is None:
            raise Refused("outside the trees of this peer: %r" % (path,))
    return value


def _path(value: Any, policy: Dict[str, Any]) -> Any:
    return _paths([value], policy)[0]


def _restore(value: Any, policy: Dict[str, Any]) -> Any:
    """{path: sha256}: which old contents of the trees a stage is filled with."""
    if not isinstance(value, dict):
        raise Refused("not old contents: %r" % (value,))
    _paths(list(value), policy)
    return value


# the options of config.ini, for people
KEPT_BY = {"runs": "keep_runs", "for_s": "keep_for in seconds", "size": "keep_size in bytes"}


def _keep(value: Any, policy: Dict[str, Any]) -> Any:
    """How much old content stays: no less than was installed, or a thief's first run could make this host forget."""
    for name, installed in policy.get("keep", {}).items():
        asked = value.get(name) if isinstance(value, dict) else None
        if isinstance(asked, bool) or not isinstance(asked, (int, float)) or not asked >= installed:
            words = (KEPT_BY.get(name, name), asked, installed)
            raise Refused("to keep less than was installed: %s: %r, %r was installed" % words)
    return value


def _projection(value: Any, policy: Dict[str, Any]) -> Any:
    trees = value.get("trees") if isinstance(value, dict) else None
    if not isinstance(trees, list) or not all(isinstance(tree, dict) for tree in trees):
        raise Refused("not a projection: %r" % (value,))
    _trees([tree.get("path") for tree in trees], policy)
    return value


def _nginx(value: Any, policy: Dict[str, Any]) -> Any:
    if not isinstance(value, dict):
        raise Refused("not settings of nginx: %r" % (value,))
    for name, installed in policy["nginx"].items():
        if value.get(name) != installed:
            raise Refused("another nginx %s: %r, %r was installed" % (name, value.get(name), installed))
    times = {name: _seconds(value[name], policy) for name in TIMES if name in value}
    return dict(policy["nginx"], **times)


FIELDS: Dict[str, Callable[[Any, Dict[str, Any]], Any]] = {
    "state_dir": _state_dir,
    "run": _run,
    "trees": _trees,
    "paths": _paths,
    "path": _path,
    "restore": _restore,
    "projection": _projection,
    "nginx": _nginx,
    "wait_s": _seconds,
    "keep": _keep,
}
FREE = (
    "protocol full generation want_base users groups written_by first_contact adopt seen force changes base delta id reload"
    " wait_for_go vips manifest kind restores taken_back pull offset rehearse salt partners"
)
FIELDS.update(dict.fromkeys(FREE.split(), _free))

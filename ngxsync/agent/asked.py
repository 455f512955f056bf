"""What a request of any verb may hold, as a table: whatever else is sent ends as a Failure before anything is done.

Types, ranges and the form of paths; whether a path lies in the trees, or a plan makes sense, is for the verbs to say.
"""

import ipaddress
import math
import os
import re
from typing import Any, Callable, Dict, List

from .answers import Failure
from .manifest import is_clean
from .store import RUN_NAME

LONGEST_S = 24 * 3600.0
LONGEST_PATH = 4096  # bytes, of Linux
LONGEST_REGEX = 65536

NEEDED = {
    "scan": ["state_dir", "projection"],
    "stage": ["state_dir", "run", "trees"],
    "show": ["state_dir"],
    "facts": ["state_dir", "projection", "nginx"],
    "probe": ["state_dir", "nginx"],
    "history": ["state_dir"],
    "transact": ["state_dir", "run", "projection", "nginx", "changes", "delta", "id", "base", "written_by"],
    "recover": ["state_dir"],
    "status": ["state_dir"],
    "validate": ["nginx"],
    "which": ["nginx"],
    "promote": ["state_dir", "written_by"],
    "vrrp": ["salt"],
}


def raise_if_odd(verb: str, request: Dict[str, Any]) -> None:
    """Raises Failure (agent), naming the field."""
    if verb not in NEEDED:
        return
    needed = list(NEEDED[verb])
    if verb == "show" and "run" not in request:
        needed += ["paths", "projection", "nginx"]
    if verb == "history" and "run" in request:
        needed += ["projection"]
    missing = [name for name in needed if name not in request]
    odd = [name for name in request if name in FIELDS and not _fits(FIELDS[name], request[name])]
    if missing or odd:
        told = "it has no %s" % missing[0] if missing else "%s is %.200r" % (odd[0], request[odd[0]])
        what = "the request of %s makes no sense: %s" % (verb, told)
        raise Failure("agent", what, next="see that both sides run the same release")


def _fits(check: Callable[[Any], bool], value: Any) -> bool:
    try:
        return check(value)
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError, OverflowError):
        return False


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _is_path(value: Any) -> bool:
    """As a file system may have it: also its bytes, which need not be UTF-8."""
    return isinstance(value, str) and is_clean(value) and len(os.fsencode(value)) < LONGEST_PATH


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _paths(value: Any) -> bool:
    return isinstance(value, list) and all(_is_path(item) and item != "/" for item in value)


def _by_path(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_path(path) for path in value)


def _run(value: Any) -> bool:
    return isinstance(value, str) and RUN_NAME.match(value) is not None


def _seconds(value: Any) -> bool:
    return not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= LONGEST_S


def _changes(value: Any) -> bool:
    return isinstance(value, list) and all(_is_path(change["path"]) for change in value)


def _projection(value: Any) -> bool:
    trees: List[str] = [tree["path"] for tree in value["trees"]]
    rules = [rule for tree in value["trees"] for rule in tree["exclude"]]
    return (
        isinstance(value["owners"], bool) and bool(trees) and _paths(trees) and all(_is_rule(*rule) for rule in rules)
    )


def _is_rule(regex: str, excluded: bool) -> bool:
    """One that cannot be compiled is re.error, a ValueError or Exception of its own."""
    if not isinstance(excluded, bool) or len(regex) > LONGEST_REGEX:
        return False
    try:
        re.compile(regex)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _is_address(value: str) -> bool:
    ipaddress.ip_address(value)
    return True


def _nginx(value: Any) -> bool:
    names = ("root", "conf", "binary", "reload", "rehearse", "probe")
    times = [value[name] for name in ("prove_timeout_s", "test_timeout_s", "idle_timeout_s") if name in value]
    return all(isinstance(value[name], str) and "\0" not in value[name] for name in names) and all(map(_seconds, times))


def _keep(value: Any) -> bool:
    """Null is without a limit; the least is one run, one byte."""
    if value is None:
        return True
    asked = [value[name] for name in ("runs", "size", "for_s")]
    return (
        all(not isinstance(each, bool) and math.isfinite(each) and each > 0 for each in asked) and min(asked[:2]) >= 1
    )


FIELDS: Dict[str, Callable[[Any], bool]] = {
    "state_dir": _is_path,
    "run": _run,
    "trees": lambda value: bool(value) and _paths(value),
    "paths": _paths,
    "path": _is_path,
    "restore": lambda value: _by_path(value) and all(isinstance(item, str) for item in value.values()),
    "changes": _changes,
    "delta": _by_path,
    "taken_back": _by_path,
    "id": _text,
    "rehearse": lambda value: isinstance(value, bool),
    "base": lambda value: value in ("accepted", "none"),
    "projection": _projection,
    "nginx": _nginx,
    "users": _texts,
    "groups": _texts,
    "force": _texts,
    "written_by": _text,
    "generation": lambda value: value is None or isinstance(value, str),
    "seen": lambda value: value is None or isinstance(value, str),
    "wait_s": _seconds,
    "keep": _keep,
    "pull": lambda value: isinstance(value, bool),
    "salt": lambda value: _text(value) and re.match(r"[0-9a-f]{16,64}\Z", value) is not None,
    "partners": lambda value: _texts(value) and len(value) < 64 and all(_is_address(each) for each in value),
    "vips": lambda value: _texts(value) and all(len(each) < 64 for each in value),
    "offset": lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63,
}

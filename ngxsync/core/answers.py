"""What an answer of a peer's agent must look like before anything of it is believed: one table, pure.

A peer may be broken, of another release, or lie. Every answer of Peer.call passes `checked`: types and ranges, paths inside the
trees that were asked about and nowhere else, and no claim but about what was asked (its run, its id, its stage folders).
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from ngxsync.agent.manifest import DIR, FILE, LINK, entry_from_json, is_clean, tree_of
from ngxsync.core.errors import AgentFailed, Message
from ngxsync.core.wording import safe_name

Shape = Any  # a predicate; {key: shape} of the keys that must be there; [shape] of each item
Asked = Mapping[str, Any]

OWN_FOLDER = ".ngxsync"
LONGEST_PATH, LONGEST_NAME = 4096, 255  # bytes, of Linux
LATEST_S = 253_402_214_400.0  # the year 9999 in every time zone
HEX = re.compile(r"[0-9a-f]{64}\Z")
CODE = re.compile(r"[a-z][a-z-]{0,40}\Z")
RUN = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}\Z")
UNCHANGED = ("hello", "scan", "show", "facts", "status", "history")  # verbs that change nothing there


def checked(verb: str, asked: Asked, answer: Any, peer: str, where: str) -> dict[str, Any]:
    """The answer itself. Raises AgentFailed (code answer) where it is none to this request."""
    try:
        wrong = misfit(answer, shape_of(verb, asked, answer))
    except RecursionError:
        wrong = "it is nested too deeply"
    if not wrong:
        return dict(answer)
    what = f"the agent's answer to `{verb}` makes no sense: {wrong}"
    state = f"{peer} unchanged" if verb in UNCHANGED else "what it began there is not known; the next run asks"
    hint = f"see what answers in place of the agent on {peer}; `ngxsync sync` tries again"
    raise AgentFailed(Message(what, where, state, hint), code="answer")


def shape_of(verb: str, asked: Asked, answer: Any) -> Shape:
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        return {**FAILURE, **(VERDICT if verb == "transact" else {})}
    if verb == "transact":
        return _finished(asked, answer)
    if verb == "show":
        return _shown_run(asked) if "run" in asked else _shown_files(asked)
    table = {"hello": _hello, "scan": _scan, "stage": _stage, "recover": _recover, "facts": _facts, "history": _history}
    return table[verb](asked) if verb in table else {"ok": flag}


def misfit(value: Any, shape: Shape, place: str = "") -> str:
    """Which part does not fit, "" where all does."""
    if callable(shape):
        return "" if shape(value) else f"{place or 'it'} is {safe_name(repr(value)[:60])}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} is no list"
        return next(filter(None, (misfit(item, shape[0], f"{place}[{i}]") for i, item in enumerate(value))), "")
    if not isinstance(value, dict):
        return f"{place or 'it'} is no object"
    missing = next((key for key in shape if key not in value and not isinstance(shape[key], Maybe)), None)
    if missing is not None:
        return f"{place + '.' if place else ''}{missing} is missing"
    inside = ((key, f"{place}.{key}" if place else key) for key in shape if key in value)
    return next(filter(None, (misfit(value[key], shape[key], there) for key, there in inside)), "")


class Maybe:
    """A key that may be missing."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def __call__(self, value: Any) -> bool:
        return not misfit(value, self.shape)


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LATEST_S and math.isfinite(value)


def moment(value: Any) -> bool:
    return bool(number(value) and value >= 0)


def digest(value: Any) -> bool:
    return text(value) and HEX.match(value) is not None


def run_name(value: Any) -> bool:
    return text(value) and RUN.match(value) is not None


def code(value: Any) -> bool:
    return text(value) and CODE.match(value) is not None


def name(value: Any) -> bool:
    """What may be a file's name or a link's target."""
    try:
        return text(value) and "\0" not in value and len(value.encode("utf-8", "surrogateescape")) < LONGEST_PATH
    except UnicodeEncodeError:
        return False


def path(value: Any) -> bool:
    return name(value) and is_clean(value)


def entry(value: Any) -> bool:
    """Of a manifest, as its kind has it."""
    try:
        found = entry_from_json(value)
    except (TypeError, ValueError):
        return False
    if any(type(part) is bool for part in value) or not 0 <= found.mode <= 0o7777 or abs(found.mtime_ns) >= 2**95:
        return False
    fits = {FILE: digest(found.content), DIR: found.content == "", LINK: found.content != "" and name(found.content)}
    return fits[found.kind] and count(found.size) and name(found.owner) and name(found.group)


def equal(wanted: Any) -> Callable[[Any], bool]:
    return lambda value: type(value) is type(wanted) and value == wanted


def one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: value in words if text(value) else False


def nullable(shape: Shape) -> Callable[[Any], bool]:
    return lambda value: value is None or not misfit(value, shape)


def mapping(key: Callable[[Any], bool], shape: Shape) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(key(k) and not misfit(v, shape) for k, v in value.items())


def row(*shapes: Shape) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != len(shapes):
            return False
        return not any(misfit(part, shape) for part, shape in zip(value, shapes, strict=True))

    return fits


def below(trees: list[str]) -> Callable[[Any], bool]:
    """A path in one of the trees, and in no folder of ours."""

    def fits(value: Any) -> bool:
        tree = tree_of(value, trees) if path(value) else None
        if tree is None:
            return False
        return all(part != OWN_FOLDER and len(part) <= LONGEST_NAME for part in value[len(tree) :].split("/"))

    return fits


MESSAGE = {"what": text, "where": text, "state": text, "next": text}
FAILURE = {"ok": equal(False), "code": code, "message": MESSAGE}
PROBLEM = {"text": text, "file": text, "line": count, "level": one_of("error", "warning")}
JOURNAL = {"run": text, "phase": text, "since": nullable(moment)}
RULE = row(text, flag)
ACCEPTED = {
    "generation": text,
    "id": digest,
    "projection": {"trees": [{"path": path, "exclude": [RULE]}], "owners": flag},
    "written_by": text,
    "run": run_name,
    "at": moment,
    "proven": flag,
    "kind": Maybe(one_of("sync", "rollback")),
    "restores": Maybe(lambda value: value == "" or run_name(value)),
    "taken_back": Maybe(mapping(path, [nullable(entry)])),
}
KEPT = {
    "run": run_name,
    "sequence": count,
    "id": digest,
    "at": moment,
    "proven": flag,
    "written_by": text,
    "kind": text,
    "restores": lambda value: value == "" or run_name(value),
}
TOLD = {
    "problems": Maybe([PROBLEM]),
    **dict.fromkeys(("lines", "edited", "warnings"), Maybe([text])),
    "timings": Maybe(mapping(text, number)),
    "reason": Maybe(text),
}
# a transaction that accepted nothing; a verdict of nginx needs no message of the agent's
VERDICT = {
    **TOLD,
    "message": Maybe(MESSAGE),
    "outcome": Maybe(one_of("refused", "undone", "broken", "held", "failed")),
}


def _trees(asked: Asked) -> list[str]:
    return [tree["path"] for tree in asked["projection"]["trees"]]


def _hello(_asked: Asked) -> Shape:
    told = {"protocol": count, "host": text, "boot_id": text, "uid": count, "python": text, "now": moment}
    return {**told, "user": Maybe(text), "release": Maybe(text), "speaks": Maybe([count])}


def _scan(asked: Asked) -> Shape:
    trees = _trees(asked)
    wanted = [f"user {user}" for user in asked.get("users", ())] + [f"group {each}" for each in asked.get("groups", ())]
    inside = below(trees)
    place = {"real": path, "dev": count, "ino": count, "fsid": Maybe(text), "mounts": [text]}
    return {
        "id": digest,
        "now": moment,
        "empty": flag,
        "base": one_of("accepted", "none") if asked.get("generation") else equal("none"),
        "changed": mapping(inside, nullable(entry)),
        "specials": [inside],
        "kept_apart": [inside],
        "unread": [text],
        "roots": mapping(one_of(*trees), place),
        "accepted": nullable(ACCEPTED),
        "journal": nullable(JOURNAL),
        "missing_users": [one_of(*wanted)],
        "uid": Maybe(count),  # from protocol 2 on
        "base_manifest": nullable(mapping(path, entry)) if asked.get("want_base") else equal(None),
    }


def _stage(asked: Asked) -> Shape:
    """rsync writes where this says: nowhere but in this run's own folders. Behind a gate they are numbered by their trees."""
    numbers = {tree: number for number, tree in enumerate(sorted(asked["trees"]))}
    stages = {
        tree: one_of(f"{tree}/{OWN_FOLDER}/{asked['run']}/stage", f"{asked['run']}/{numbers[tree]}/")
        for tree in asked["trees"]
    }
    return {"stages": stages, **({"missing": [one_of(*asked["restore"])]} if "restore" in asked else {})}


def _history(asked: Asked) -> Shape:
    if "run" not in asked:
        return {"accepted": nullable(ACCEPTED), "snapshots": [KEPT], "runs": [run_name]}
    if asked.get("manifest"):
        return {"id": digest, "manifest": mapping(path, entry), "projection": ACCEPTED["projection"]}
    if "path" in asked:
        file = nullable({"text": nullable(_is_base64), "size": count, "sha256": text, "secret": flag, "kept": flag})
        return {"before": nullable(entry), "after": nullable(entry), "old": file, "new": file}
    changed = row(path, nullable(entry), nullable(entry), flag)  # the last: whether the old content is kept
    return {"changes": [changed], "edits": [row(path, entry, flag)]}


def _finished(asked: Asked, answer: Asked) -> Shape:
    """Applied, proven or not: the very state that was asked for."""
    is_proven = answer.get("outcome") != "not-proven"
    same = {key: equal(asked[key]) for key in ("run", "id") if key in asked}
    return {
        **TOLD,
        "outcome": one_of("applied", "in-sync", "not-proven"),
        "code": lambda value: value == "" or code(value),
        "run": run_name,
        "id": digest,
        "generation": lambda value: text(value) and bool(value),
        "at": moment,
        "proven": equal(is_proven),
        "reloaded": flag,
        **same,
    }


def _shown_run(asked: Asked) -> Shape:
    return {
        "run": equal(asked["run"]),
        "state": one_of("unknown", "open", "running", "done"),
        "answer": lambda value: value is None or _is_kept(asked, value),
    }


def _is_kept(asked: Asked, answer: Any) -> bool:
    """The answer of that run, or what undoing it after a crash came to."""
    about = {"run": asked["run"]}
    if isinstance(answer, dict) and answer.get("code") == "recovered":
        return not misfit(answer, {**TOLD, "run": equal(asked["run"]), "outcome": equal("undone"), "ok": flag})
    return not misfit(answer, shape_of("transact", about, answer))


def _shown_files(asked: Asked) -> Shape:
    file = {"text": nullable(_is_base64), "size": count, "sha256": text, "secret": flag}
    return {"files": lambda value: mapping(text, file)(value) and set(value) == set(asked["paths"])}


def _is_base64(value: Any) -> bool:
    try:
        return text(value) and base64.b64decode(value, validate=True) is not None
    except ValueError:
        return False


def _recover(_asked: Asked) -> Shape:
    return {"recovered": nullable(run_name), "result": Maybe(one_of("finished", "undone")), "edited": Maybe([text])}


def _facts(asked: Asked) -> Shape:
    room = {"exists": flag, "folder": flag, "real": text, "free": nullable(count), "writable": flag}
    room["free_inodes"] = nullable(count)
    outside = {"path": text, "role": text, "exists": flag, "sha256": text}
    nginx = {
        **dict.fromkeys(("binary", "version", "build", "conf", "prefix", "problem"), text),
        "args": [text],
        "pid": count,
        "conf_exists": flag,
        "outside": [outside],
        "open_keys": Maybe([text]),
    }
    tried = {"passed": flag, "problems": [PROBLEM]}
    return {
        **dict.fromkeys(("nonlocal_bind", "nonlocal_bind6", "selinux", "recovery_unit", "rsync"), text),
        "hello": _hello(asked),
        "nginx": lambda value: _either(value, "found", nginx, {"why": text}),
        "addresses": [text],
        "trees": dict.fromkeys(_trees(asked), room),
        "state": room,
        "journal": nullable(JOURNAL),
        "lock": nullable({"run": Maybe(text)}),
        "accepted": nullable(ACCEPTED),
        "missing_users": [text],
        "rehearsal": lambda value: _either(value, "possible", tried, {"why": text}),
    }


def _either(value: Any, key: str, if_true: Shape, if_false: Shape) -> bool:
    return not misfit(value, {key: flag}) and not misfit(value, if_true if value[key] else if_false)

"""What an answer of a peer's agent must look like before anything of it is believed: one table, pure.

A peer may be broken, of another release, or lie. Every answer of Peer.call passes `checked`: types and ranges, paths inside the
trees that were asked about and nowhere else, and no claim but about what was asked (its run, its id, its stage folders).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from ngxsync.core.errors import AgentFailed, Message
from ngxsync.core.shapes import (
    OWN_FOLDER,
    Maybe,
    Shape,
    below,
    code,
    count,
    digest,
    entry,
    equal,
    flag,
    mapping,
    misfit,
    moment,
    nullable,
    number,
    one_of,
    path,
    row,
    run_name,
    text,
)

Asked = Mapping[str, Any]

UNCHANGED = ("hello", "scan", "show", "facts", "probe", "status", "history", "vrrp")  # verbs that change nothing there


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
    return TABLE[verb](asked) if verb in TABLE else {"ok": flag}


MESSAGE = {"what": text, "where": text, "state": text, "next": text}
FAILURE = {"ok": equal(False), "code": code, "message": MESSAGE}
PROBLEM = {"text": text, "file": text, "line": count, "level": one_of("error", "warning")}
JOURNAL = {"run": text, "phase": text, "since": nullable(moment)}
RULE = row(text, flag)
RUNNING = {
    "state": one_of("running", "stale", "down", "unknown"),
    "pid": count,
    **dict.fromkeys(("since", "loaded", "changed", "draining_since"), nullable(moment)),
    **dict.fromkeys(("file", "why", "start", "refused"), text),
    "draining": count,
    "binary_replaced": flag,
    "needs_restart": flag,
}
# keys of protocol 3
LEANT_ON = {
    **dict.fromkeys(("directive", "file", "reader", "blocked", "link_leaves"), text),
    **dict.fromkeys(("readable", "inside", "carried"), flag),
    **dict.fromkeys(("line", "size"), count),
}
CERTIFICATE = {
    **dict.fromkeys(("certificate", "key", "file", "why"), text),
    "line": count,
    "matches": nullable(flag),
    "not_after": nullable(number),
    "fingerprint": lambda value: value == "" or digest(value),
}
LIMITS = {
    "nofile": Maybe([lambda value: type(value) is int]),
    "worker_rlimit_nofile": Maybe(text),
    "worker_connections": Maybe(text),
}
# keys of protocol 4
VRRP = {
    "carried": [text],
    "tenure": text,
    "since": nullable(number),
    "told": nullable({"role": one_of("master", "backup", "fault", "stop"), "since": moment}),
    "keepalived": count,
}
ACCEPTED = {
    "generation": text,
    "id": digest,
    "projection": {"trees": [{"path": path, "exclude": [RULE]}], "owners": flag},
    "written_by": text,
    "run": run_name,
    "at": moment,
    "proven": flag,
    "kind": Maybe(one_of("sync", "rollback", "pull", "promote")),
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
        "carried": Maybe([one_of(*asked.get("vips", ()))]),  # from protocol 4 on
        "last_tenure": Maybe(text),
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
    facts = {} if asked.get("pull") else {"size": count, "sha256": text, "secret": flag}
    is_file = mapping(text, {"text": nullable(_is_base64), **facts})
    return {"files": lambda value: is_file(value) and set(value) == set(asked["paths"])}


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
    outside.update({key: Maybe(shape) for key, shape in LEANT_ON.items()})
    nginx = {
        **dict.fromkeys(("binary", "version", "build", "conf", "prefix", "problem"), text),
        "args": [text],
        "pid": count,
        "conf_exists": flag,
        "outside": [outside],
        "open_keys": Maybe([text]),
        "certificates": Maybe([CERTIFICATE]),
        "unresolved": Maybe([row(text, text, count)]),
        "openssl": Maybe(text),
        "modules": Maybe([text]),
    }
    tried = {"passed": flag, "problems": [PROBLEM]}
    return {
        **dict.fromkeys(("nonlocal_bind", "nonlocal_bind6", "selinux", "recovery_unit", "rsync"), text),
        "hello": _hello(asked),
        "nginx": lambda value: _either(value, "found", nginx, {"why": text}),
        "running": Maybe(RUNNING),
        "limits": Maybe(LIMITS),
        "sysctls": Maybe(mapping(text, text)),
        "timers": Maybe([text]),
        "addresses": [text],
        "recovery_result": Maybe(text),
        "trees": dict.fromkeys(_trees(asked), room),
        "state": room,
        "journal": nullable(JOURNAL),
        "lock": nullable({"run": Maybe(text)}),
        "accepted": nullable(ACCEPTED),
        "missing_users": [text],
        "config": Maybe(nullable(mapping(text, text))),
        "vrrp": Maybe(nullable(VRRP)) if asked.get("vips") else Maybe(equal(None)),
        "rehearsal": lambda value: _is_rehearsal(asked, value, tried),
    }


def _is_rehearsal(asked: Asked, value: Any, tried: Shape) -> bool:
    """None where it was not asked for; an older agent tries it all the same."""
    if value is None:
        return asked.get("rehearse", True) is False
    return _either(value, "possible", tried, {"why": text})


def _probe(_asked: Asked) -> Shape:
    asked = {"names": [text], "listen": text, "port": count, "tls": flag, "status": count, "error": text}
    asked["certificate"] = lambda value: value == "" or digest(value)
    return {"probes": [asked], "unprobed": [row(text, text)], "left": count, "why": text}


def _vrrp(_asked: Asked) -> Shape:
    fault = row(code, text, text)
    script = {**dict.fromkeys(("file", "keyword", "command", "path", "user"), text), "line": count, "faults": [fault]}
    drop: dict[str, Shape] = {**dict.fromkeys(("interface", "place", "rule", "mend"), text), "protocol": Maybe(count)}
    return {
        **dict.fromkeys(("host", "version", "file", "why"), text),
        "uid": count,
        "running": nullable({"pid": count, "args": [text]}),
        "statements": [lambda value: _is_statement(value)],
        "problems": [row(text, count, text)],
        **{key: [text] for key in ("complaints", "interfaces", "addresses")},
        "down": Maybe([text]),  # an earlier agent does not tell, nor which protocol is dropped
        "carried": [row(text, text)],
        "scripts": [script],
        "firewall": {"why": text, "drops": [{**drop, "family": count, "direction": one_of("in", "out")}]},
    }


def _is_statement(value: Any) -> bool:
    """[file, line, words], one word at least."""
    return row(text, count, lambda words: bool(words) and not misfit(words, [text]))(value)


def _either(value: Any, key: str, if_true: Shape, if_false: Shape) -> bool:
    return not misfit(value, {key: flag}) and not misfit(value, if_true if value[key] else if_false)


TABLE = {
    "hello": _hello,
    "scan": _scan,
    "stage": _stage,
    "recover": _recover,
    "facts": _facts,
    "probe": _probe,
    "history": _history,
    "vrrp": _vrrp,
}

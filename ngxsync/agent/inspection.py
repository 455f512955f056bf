"""The verbs that change nothing: hello, scan, show, status."""

import base64
import os
import platform
import socket
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional

from . import journal, unit
from .answers import Failure
from .directives import named_files, read_all
from .manifest import PROTOCOL, delta, is_clean, snapshot_id, to_json, tree_of
from .nginx import find_nginx
from .paths import Anchor
from .recovery import describe
from .scan import Names, entry_at, scan
from .store import Store

Answer = Dict[str, Any]

SHOW_LIMIT = 4 << 20


def hello(_request: Answer) -> Answer:
    return {
        "ok": True,
        "protocol": PROTOCOL,
        "host": socket.gethostname(),
        "boot_id": first_line("/proc/sys/kernel/random/boot_id"),
        "uid": os.geteuid(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "now": time.time(),
    }


def scan_trees(request: Answer) -> Answer:
    """The live trees against the accepted manifest, where the caller has the same one (by generation); else against nothing."""
    store = Store(request["state_dir"])
    accepted = store.accepted()
    full = bool(request.get("full"))
    try:
        found = scan(request["projection"], None if full else store.cache(), store.root)
    except OSError as error:
        raise Failure("scan", "%s: %s" % (error.filename, error.strerror), next="see that the agent's user may read it")
    if os.path.isdir(store.root):
        store.keep_cache(found.cache)
    same = accepted is not None and accepted["generation"] == request.get("generation")
    base = store.accepted_manifest(accepted) if same else {}
    changed = delta(base, found.manifest)
    # a master that lost its copy (its connection was cut, then it died) asks for what it accepted itself
    copy = to_json(store.accepted_manifest(accepted)) if request.get("want_base") and accepted is not None else None
    return {
        "base_manifest": copy,
        "ok": True,
        "id": snapshot_id(found.manifest, request["projection"]),
        "now": time.time(),
        "empty": all(path in found.roots for path in found.manifest),
        "base": "accepted" if same else "none",
        "changed": {path: None if entry is None else list(entry) for path, entry in changed.items()},
        "specials": found.specials,
        "kept_apart": found.kept_apart,
        "unread": found.unread,
        "roots": found.roots,
        "accepted": accepted,
        "journal": describe(store.journal),
        "missing_users": missing_names(request.get("users", []), request.get("groups", [])),
    }


def missing_names(users: List[str], groups: List[str]) -> List[str]:
    import grp
    import pwd

    known_users, known_groups = {u.pw_name for u in pwd.getpwall()}, {g.gr_name for g in grp.getgrall()}
    missing = ["user " + name for name in users if not name.startswith("#") and name not in known_users]
    return missing + ["group " + name for name in groups if not name.startswith("#") and name not in known_groups]


def show(request: Answer) -> Answer:
    """The answer of a run, or the bytes of live files inside the trees (secrets by size and hash only)."""
    if "run" in request:
        return _show_run(Store(request["state_dir"]), request["run"])
    trees = [tree["path"] for tree in request["projection"]["trees"]]
    secrets = _named_secrets(request["nginx"])
    return {"ok": True, "files": {path: _show_file(path, trees, secrets) for path in request["paths"]}}


def _show_run(store: Store, run: str) -> Answer:
    answer = store.answer(run)
    if answer is not None:
        return {"ok": True, "run": run, "state": "done", "answer": answer}
    holder = store.holder("transaction") or {}
    opened = journal.read(store.journal)
    if holder.get("run") == run:
        return {"ok": True, "run": run, "state": "running", "answer": None}
    state = "open" if opened is not None and opened.header["run"] == run else "unknown"
    return {"ok": True, "run": run, "state": state, "answer": None}


def _show_file(path: str, trees: List[str], secrets: List[str]) -> Answer:
    tree = tree_of(path, trees)
    if tree is None or not is_clean(path):
        raise Failure("agent", "outside the trees: %r" % path)
    try:
        with Anchor.at(tree) as anchor, anchor.parent(path) as (folder, name):
            entry = entry_at(name, folder, Names(False))
            if entry is None or entry.kind != "file":
                return {"text": None, "size": 0, "sha256": "", "secret": False}
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            with os.fdopen(fd, "rb") as stream:
                content = stream.read(SHOW_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {"text": None, "size": 0, "sha256": "", "secret": False}
    secret = b"PRIVATE KEY" in content or path in secrets
    hidden = secret or len(content) > SHOW_LIMIT
    text = None if hidden else base64.b64encode(content).decode("ascii")
    return {"text": text, "size": entry.size, "sha256": entry.content, "secret": secret}


def _named_secrets(settings: Dict[str, Any]) -> List[str]:
    """Files that this host's own configuration names as keys or passwords."""
    try:
        nginx = find_nginx(settings)
        directives = read_all(nginx.conf, nginx.prefix)
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    named = named_files(directives, os.path.dirname(nginx.conf), nginx.prefix)
    return [item.path for item in named if item.role in ("key", "auth")]


def first_line(path: str) -> str:
    try:
        with open(path) as stream:
            return stream.readline().strip()
    except OSError:
        return ""


def status(request: Answer) -> Answer:
    """What the peer knows by itself: accepted, open journal, nginx running or not, the latest run."""
    store = Store(request["state_dir"])
    return {
        "ok": True,
        "host": socket.gethostname(),
        "accepted": store.accepted(),
        "journal": describe(store.journal),
        "last": latest(store),
        "recovery_unit": unit.state(request["state_dir"]),
    }


def latest(store: Store) -> Optional[Answer]:
    """The answer with the highest sequence number."""
    try:
        names = os.listdir(store.path("runs"))
    except OSError:
        return None
    answers = [
        store.answer(name[: -len(".json")]) for name in names if name.endswith(".json") and ".changes." not in name
    ]
    found = [answer for answer in answers if answer is not None]
    return max(found, key=lambda answer: answer.get("sequence", 0)) if found else None


def by_hand(verb: str, work: Callable[[Answer], Answer]) -> int:
    """`ngxsync-agent status` and `recover`, for the person who logs in on the backup."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    request = {"state_dir": os.path.dirname(os.path.dirname(folder))}
    try:
        answer = work(request)
    except Failure as failure:
        answer = failure.answer()
    lines = _status_lines(answer) if verb == "status" and answer["ok"] else _recover_lines(answer)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if answer["ok"] else 7 if answer["code"] == "broken" else 1


def _status_lines(answer: Answer) -> List[str]:
    accepted, opened, last = answer["accepted"], answer["journal"], answer["last"]
    lines = ["%s as a peer of ngxsync" % answer["host"]]
    if accepted is None:
        lines.append("accepted: nothing yet")
    else:
        proven = "proven" if accepted["proven"] else "not proven: nginx did not run it when it was applied"
        text = "accepted: %s from %s at %s, run %s (%s)"
        lines.append(
            text % (accepted["id"][:12], accepted["written_by"], _when(accepted["at"]), accepted["run"], proven)
        )
    if opened is None:
        lines.append("unfinished: nothing")
    elif not opened["run"]:
        lines.append("unfinished: its journal is damaged; `ngxsync-agent recover` says what to do")
    else:
        lines.append(
            "unfinished: run %s (%s); `ngxsync-agent recover` finishes or undoes it" % (opened["run"], opened["phase"])
        )
    if last is not None:
        lines.append("latest run: %s %s" % (last.get("run", "?"), last.get("outcome") or last.get("code")))
        lines += ["  " + problem["text"] for problem in last.get("problems", [])[:5]]
    lines.append("recovery at boot: %s" % answer["recovery_unit"])
    return lines


def _recover_lines(answer: Answer) -> List[str]:
    if answer["ok"]:
        done = (
            "nothing was open"
            if answer.get("recovered") is None
            else "run %s: %s" % (answer["recovered"], answer["result"])
        )
        return ["recover: " + done] + ["edited since, kept in the store: " + path for path in answer.get("edited", [])]
    message = answer["message"]
    return ["recover: %s" % message["what"], "  now: %s" % message["state"], "  next: %s" % message["next"]]


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))

"""The verbs that every run calls first: hello, scan, stage. What they import is little, since it is waited for."""

import os
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

from . import addresses, journal, memo, role, staged
from .answers import Failure
from .failures import failure_of
from .folders import STAGE, make_run_folder, remove_run_folder
from .manifest import PROTOCOL, RELEASE, SPEAKS, is_clean, to_json
from .scan import kept_apart, scanned
from .store import LOCK_WAIT_S, RUN_NAME, Busy, Damaged, Store
from .survey import OWN_FOLDER, Survey, is_as_before, survey

Answer = Dict[str, Any]


def hello(_request: Answer) -> Answer:
    return {
        "ok": True,
        "protocol": PROTOCOL,
        "speaks": list(SPEAKS),
        "release": RELEASE,
        "host": os.uname().nodename,
        "boot_id": first_line("/proc/sys/kernel/random/boot_id"),
        "uid": os.geteuid(),
        "user": own_user(),
        "python": "%d.%d.%d" % sys.version_info[:3],
        "executable": sys.executable,
        "now": time.time(),
    }


def own_user() -> str:
    """Who logged in: also where the agent was then started by sudo."""
    import pwd

    if os.geteuid() == 0 and os.environ.get("SUDO_USER"):
        return os.environ["SUDO_USER"]
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "#%d" % os.geteuid()


def scan_trees(request: Answer) -> Answer:
    """The live trees against the accepted manifest, where the caller has the same one (by generation); else against nothing."""
    store = Store(request["state_dir"])
    accepted = store.accepted()
    if accepted is not None and accepted.get("kind") == "pull" and request.get("protocol", PROTOCOL) < 3:
        accepted = dict(accepted, kind="sync")  # a master of then knows no other word for it
    if accepted is not None and accepted.get("kind") == "promote" and request.get("protocol", PROTOCOL) < 4:
        accepted = dict(accepted, kind="sync")
    same = accepted is not None and accepted["generation"] == request.get("generation")
    try:
        seen, found = _found(store, request, accepted if same else None)
    except OSError as error:
        raise Failure("scan", "%s: %s" % (error.filename, error.strerror), next="see that the agent's user may read it")
    # a master that lost its copy (its connection was cut, then it died) asks for what it accepted itself
    copy = to_json(store.accepted_manifest(accepted)) if request.get("want_base") and accepted is not None else None
    return {
        "base_manifest": copy,
        "ok": True,
        "uid": os.geteuid(),
        "id": found.id,
        "now": time.time(),
        "empty": found.empty,
        "base": "accepted" if same else "none",
        "changed": found.changed,
        "specials": found.specials,
        "kept_apart": kept_apart(seen),
        "unread": sorted(seen.unread),
        "roots": seen.roots,
        "accepted": accepted if accepted is not None else _promoted(store, request),
        "journal": journal.describe(store.journal),
        "missing_users": missing_names(request.get("users", []), request.get("groups", [])),
        "carried": carried(request),
        "last_tenure": role.last_tenure(request["state_dir"]) if request.get("vips") else "",
    }


def _promoted(store: Store, request: Answer) -> Optional[Answer]:
    if request.get("protocol", PROTOCOL) < 4 or not os.path.exists(store.path("promoted.json")):
        return None
    from .promotion import marked  # seldom there

    return marked(store, request["projection"])


def carried(request: Answer) -> List[str]:
    """Those of the request's VIPs that this host has now."""
    vips = request.get("vips") or []
    return sorted({each.address for each in addresses.held(vips)}) if vips else []


def _found(store: Store, request: Answer, base: Optional[Answer]) -> Tuple[Survey, memo.Found]:
    """What the trees are against the accepted record `base`. Where all is as at the latest scan, that one's answer."""
    projection, full = request["projection"], bool(request.get("full"))
    latest = memo.NONE if full else memo.read(store)
    seen = survey(projection, store.root, latest.seal)
    if latest.found is not None and latest.key == memo.key_of(store, base) and is_as_before(seen, latest.seal):
        return seen, latest.found
    known = None if full else store.known()
    scan = scanned(seen, known)
    if os.path.isdir(store.root) and scan.known != known:
        store.keep_known(scan.known)
    found = memo.compared(store, scan, projection, base)
    if scan.seal is not None:
        memo.keep(store, scan.seal, base, found)
    return seen, found


def missing_names(users: List[str], groups: List[str]) -> List[str]:
    import grp
    import pwd

    known_users, known_groups = {u.pw_name for u in pwd.getpwall()}, {g.gr_name for g in grp.getgrall()}
    missing = ["user " + name for name in users if not name.startswith("#") and name not in known_users]
    return missing + ["group " + name for name in groups if not name.startswith("#") and name not in known_groups]


def first_line(path: str) -> str:
    try:
        with open(path) as stream:
            return stream.readline().strip()
    except OSError:
        return ""


def make_stage(request: Answer) -> Answer:
    """Make the stage folders of a run; a tree that is absent is made, empty, so that it can hold one.

    `restore` {path: sha256} fills it from the store; `missing` are those whose content is not kept.
    """
    store, run, trees = Store(request["state_dir"]), request["run"], request["trees"]
    if not RUN_NAME.match(run) or not all(is_clean(tree) for tree in trees):
        raise Failure("agent", "not a run, or not trees: %r, %r" % (run, trees))
    by = str(request.get("written_by", ""))
    stages = {tree: "%s/%s/%s/%s" % (tree, OWN_FOLDER, run, STAGE) for tree in trees}
    try:
        store.prepare()
        with store.lock("transaction", run, LOCK_WAIT_S, by):
            staged.raise_if_in_use(store, run, by)
            _settle_earlier(store)
            for tree in trees:
                remove_run_folder(tree, None)  # stages of runs that never began
            for tree in trees:
                _make_tree(tree)
                make_run_folder(tree, tree, run, [STAGE])
            staged.register(store, run, stages, by)
            missing = _restore(store, run, stages, request["restore"]) if "restore" in request else []
    except (Busy, Damaged, journal.Damaged, OSError) as error:
        raise failure_of(error, store)
    return {"ok": True, "stages": stages, "missing": missing}


def _restore(store: Store, run: str, stages: Dict[str, str], wanted: Dict[str, str]) -> List[str]:
    """A rollback's: no sync imports it. What found no room takes none."""
    from .restore import restore

    try:
        return restore(store, stages, wanted)
    except OSError:
        for tree in stages:
            remove_run_folder(tree, run)
        raise


def _settle_earlier(store: Store) -> None:
    """Seldom anything: only then is what can finish or undo a run imported. Raises Failure (broken), the journal still open."""
    if os.path.exists(store.journal):
        from .recovery import recover

        answer = recover(store)
        if answer is not None and answer["outcome"] == "broken":
            raise Failure("broken", **{part: answer["message"][part] for part in ("what", "where", "state", "next")})


def _make_tree(tree: str) -> None:
    """A tree that is absent is made for others to read; the plan then gives it its mode and owner."""
    before = os.umask(0o022)
    try:
        os.makedirs(tree, mode=0o755, exist_ok=True)
    finally:
        os.umask(before)

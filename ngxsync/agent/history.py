"""The verb `history`: the accepted snapshots that are kept, what each run replaced or deleted, and its old contents."""

import os
import re
import stat
from typing import Any, Dict, Iterator, List, Optional

from .answers import Failure
from .inspection import SHOW_LIMIT, named_secrets, show_file, shown
from .manifest import DIR, FILE, LINK, Entry, entry_from_json, snapshot_id, to_json
from .store import RUN_NAME, Damaged, Store
from .survey import Names

Answer = Dict[str, Any]
PASSWORD = re.compile(
    rb"[^:\s]+:(\$[\w-]+\$|\{[\w-]+\}|[./0-9A-Za-z]{13}(:|\Z))"
)  # user:hash, as in auth_basic_user_file
KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIR, stat.S_IFLNK: LINK}


def history(request: Answer) -> Answer:
    """{} the snapshots, by sequence number; {run} what it replaced; {run, path} old and new content; {run, manifest} its snapshot."""
    store = Store(request["state_dir"])
    if "run" not in request:
        return {"ok": True, "accepted": store.accepted(), "snapshots": snapshots(store), "runs": _runs(store)}
    run = request["run"]
    if not isinstance(run, str) or not RUN_NAME.match(run):
        raise Failure("agent", "not a run: %r" % (run,))
    if request.get("manifest"):
        return _snapshot(store, run)
    changes = [_change(store, *row) for row in store.read("runs/%s.changes.json" % run) or []]
    names = Names(request["projection"]["owners"])
    edits = [edit for row in store.read("runs/%s.edits.json" % run) or [] for edit in _edit(store, names, *row)]
    if not changes and not edits and store.answer(run) is None:
        raise _unknown(run)
    if "path" in request:
        return _contents(store, request, changes, edits)
    return {"ok": True, "run": run, "changes": changes, "edits": edits}


def _unknown(run: str) -> Failure:
    what = "%s keeps nothing of run %s" % (os.uname().nodename, run)
    return Failure("unknown-run", what, next="`ngxsync history` lists the runs")


def _runs(store: Store) -> List[str]:
    """All runs whose answer is kept, in order."""
    return [answer["run"] for answer in sorted(store.answers(), key=_sequence) if "run" in answer]


def _sequence(answer: Answer) -> int:
    return int(answer.get("sequence", 0))


def snapshots(store: Store) -> List[Answer]:
    """Those whose manifest is kept, by sequence number. Of a run of an earlier release what it recorded is all that is told."""
    accepted = store.accepted()
    return [
        _told(store, answer, accepted) for answer in sorted(store.answers(), key=_sequence) if _is_kept(store, answer)
    ]


def _is_kept(store: Store, answer: Answer) -> bool:
    return bool(answer.get("generation")) and os.path.exists(store.path("manifests", answer.get("run", "") + ".json"))


def _told(store: Store, answer: Answer, accepted: Optional[Answer]) -> Answer:
    run = answer["run"]
    record = _record(store, run, accepted)
    return {
        "run": run,
        "sequence": _sequence(answer),
        "id": answer["id"],
        "at": answer["at"],
        "proven": bool(answer["proven"]),
        "written_by": record.get("written_by", ""),
        "kind": record.get("kind", "sync"),
        "restores": record.get("restores", ""),
    }


def _record(store: Store, run: str, accepted: Optional[Answer]) -> Answer:
    """What was recorded when it was accepted; earlier releases kept only the latest one."""
    found = store.read("runs/%s.accepted.json" % run)
    if found is None and accepted is not None and accepted["run"] == run:
        return accepted
    return dict(found or {})


def _snapshot(store: Store, run: str) -> Answer:
    """Manifest and projection, verified by the id that names both."""
    accepted, answer = store.accepted(), store.answer(run)
    if answer is None or not _is_kept(store, answer):
        raise Failure("swept", "the snapshot of run %s is not kept here (any more)" % run, next="`ngxsync history`")
    try:
        manifest = store.accepted_manifest({"run": run})
    except Damaged as error:
        hint = "choose another one; single files come back with `ngxsync rollback %s --path PATH`" % run
        raise Failure("swept", "the snapshot of run %s is damaged" % run, where=str(error), next=hint)
    record = _record(store, run, accepted)
    for projection in (record.get("projection"), (accepted or {}).get("projection")):
        if projection is not None and snapshot_id(manifest, projection) == answer["id"]:
            return {"ok": True, "run": run, "id": answer["id"], "manifest": to_json(manifest), "projection": projection}
    what = "the snapshot of run %s is damaged, or an earlier release accepted it with other excludes" % run
    raise Failure(
        "swept", what, where=store.path("manifests", run + ".json"), next="`ngxsync history` lists the others"
    )


def _change(store: Store, path: str, before: Any, after: Any, kept: Any) -> List[Any]:
    """[path, before, after, whether the old content is kept]; before is what the store has, where it was still written to."""
    if before is None or before[0] != FILE:
        return [path, before, after, before is not None]
    sha256 = kept or before[6]
    size = before[5]
    has_blob = store.has_blob(sha256, size if sha256 == before[6] else None)
    if has_blob and sha256 != before[6]:
        size = os.stat(store.blob(sha256)).st_size
    is_still_there = after is not None and after[6] == sha256
    return [path, before[:5] + [size, sha256], after, has_blob or is_still_there]


def _edit(
    store: Store, names: Names, path: str, mode: int, uid: int, gid: int, mtime_ns: int, content: str
) -> Iterator[Any]:
    """[path, entry, whether it is kept] of an edit that an undo found in its way; none of a socket, device or pipe."""
    kind = KINDS.get(stat.S_IFMT(mode))
    if kind is None:
        return
    size = 0
    is_kept = kind != FILE or store.has_blob(content)
    if kind == FILE and is_kept:
        size = os.stat(store.blob(content)).st_size
    owner, group = names.of(os.stat_result((mode, 0, 0, 0, uid, gid, 0, 0, 0, 0)))
    permissions = 0o777 if kind == LINK else stat.S_IMODE(mode)
    yield [path, list(Entry(kind, permissions, owner, group, 0 if kind == DIR else mtime_ns, size, content)), is_kept]


def _contents(store: Store, request: Answer, changes: List[Any], edits: List[Any]) -> Answer:
    """What the run found at a path and what it put there, as far as it is kept or still live."""
    path = request["path"]
    found = [row[1:3] for row in changes if row[0] == path] + [[row[1], None] for row in edits if row[0] == path]
    if not found:
        what = "run %s replaced and deleted nothing of that name" % request["run"]
        raise Failure("unknown-path", what, where=path, next="`ngxsync history %s` lists what it did" % request["run"])
    before, after = (None if fields is None else entry_from_json(fields) for fields in found[0])
    trees = [tree["path"] for tree in request["projection"]["trees"]]
    secrets = named_secrets(request["nginx"])
    live = show_file(path, trees, secrets)
    old, new = (_content(store, entry, path, secrets, live) for entry in (before, after))
    return {"ok": True, "before": found[0][0], "after": found[0][1], "old": old, "new": new}


def _content(store: Store, entry: Optional[Entry], path: str, secrets: List[str], live: Answer) -> Optional[Answer]:
    """As `show` answers; None for what is no file, "text" null where it is secret, large, or not kept."""
    if entry is None or entry.kind != FILE:
        return None
    if live["sha256"] == entry.content:
        return dict(live, kept=True)
    if not store.has_blob(entry.content):
        return {"text": None, "size": entry.size, "sha256": entry.content, "secret": False, "kept": False}
    with open(store.blob(entry.content), "rb") as stream:
        content = stream.read(SHOW_LIMIT + 1)
    return dict(shown(content, entry, os.path.realpath(path) in secrets or _has_passwords(content)), kept=True)


def _has_passwords(content: bytes) -> bool:
    """The configuration that named an old password file may be gone with it, so each is known by its lines too."""
    lines = [line for line in content.splitlines() if line.strip() and not line.startswith(b"#")]
    return any(PASSWORD.match(line) for line in lines)

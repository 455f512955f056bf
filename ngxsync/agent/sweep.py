"""Mark and sweep of STATE/peer: what no kept run names any more goes (TRANSACTION, records). Under the transaction lock.

What is kept is a suffix of the sequence: the way back to an older snapshot goes through each run since. A run that may go
loses first what it replaced (its changes, edits, manifest), then its answer, and blobs go last: wherever this is killed,
no record is left that names a blob which is gone, and the next sweep takes what is left over.
"""

import contextlib
import json
import os
import re
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from . import journal
from .clock import latest_now
from .store import BLOB_NAME, Damaged, Store, fsync_folder

SHORT_S, LONG_S = 0.25, 10.0  # somebody waits for the run that sweeps; where the store is full, for the sweep
UNFINISHED = "unswept"  # a file, there while a sweep is not through: the next one goes on
ANSWERS = 100  # of runs that replaced nothing (refused, held, failed): kept for people, and for a master that asks late
FUTURE = "%s is dated in the future: what it and all later runs replaced is kept until then, or until you `touch` it"
TEMPORARY = re.compile(r"(?:new|.*\.json|journal)\.([0-9]+)(?:\.tmp)?\Z")

# how much is kept: the latest runs that were accepted, all that are younger, and the most that it may take, in bytes
Keep = NamedTuple("Keep", [("runs", int), ("for_s", float), ("size", int)])

Run = NamedTuple(
    "Run",
    [
        ("name", str),
        ("sequence", int),
        ("at", float),  # seconds since the epoch, by a clock that may have been wrong
        ("is_accepted", bool),
        ("holds", bool),  # True where it names old contents, or a snapshot to go back to
    ],
)


def keep_of(request: Dict[str, Any]) -> Optional[Keep]:
    """None where the request does not say: then nothing is swept, and there is no limit. Raises ValueError, TypeError, KeyError."""
    asked = request.get("keep")
    if asked is None:
        return None
    keep = Keep(int(asked["runs"]), float(asked["for_s"]), int(asked["size"]))
    if not (keep.runs >= 1 and keep.for_s > 0 and keep.size > 0):
        raise ValueError("keep %r" % (asked,))
    return keep


def kept_runs(runs: List[Run], keep: Keep, now: float, needed: Set[str], restored: str = "") -> Set[str]:
    """The names of the runs to keep: what is needed, the latest that were accepted, the young, and all that came after the first
    of these; of those that hold nothing the latest ANSWERS.

    Latest is by sequence, never by clock; while the peer has what run `restored` had accepted (a rollback brought it back), counted
    from that one back: the next rollback goes on from there. A run from the future is young: the clock was wrong, then or now.
    """
    holding = sorted((run for run in runs if run.holds), key=lambda run: run.sequence)
    live = next((run.sequence for run in holding if run.name == restored), None)
    latest = [run for run in holding if run.is_accepted and (live is None or run.sequence <= live)][-keep.runs :]
    young = [run for run in holding if now - run.at < keep.for_s]
    protected = latest + young + [run for run in holding if run.name in needed]
    first = min((run.sequence for run in protected), default=None)
    since = {run.name for run in holding if first is not None and run.sequence >= first}
    others = sorted((run for run in runs if not run.holds), key=lambda run: run.sequence)[-ANSWERS:]
    return since | {run.name for run in others} | needed


class Records:
    """What lies in runs/ and manifests/, by run: the paths of its answer, of what else is told of it, and of its manifest."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.answers: Dict[str, str] = {}
        self.parts: Dict[str, List[str]] = {}  # RUN.changes.json, RUN.edits.json, RUN.accepted.json
        self.manifests: Dict[str, str] = {}
        for name in os.listdir(store.path("runs")):
            run, _, rest = name.partition(".")
            if rest == "json":
                self.answers[run] = store.path("runs", name)
            elif rest.endswith(".json"):
                self.parts.setdefault(run, []).append(store.path("runs", name))
        for name in os.listdir(store.path("manifests")):
            run, _, rest = name.partition(".")
            if rest == "json":
                self.manifests[run] = store.path("manifests", name)

    def is_little(self, keep: Keep, now: float) -> bool:
        """True where names and times alone show that (next to) nothing may go: most runs end here."""
        if os.path.exists(self.store.path(UNFINISHED)) or len(set(self.answers) - set(self.parts)) > ANSWERS:
            return False
        old = [run for run in self.parts if now - _written(self.answers.get(run)) >= keep.for_s]
        # where there are many, one at a time is not worth reading them all
        return len(self.parts) <= keep.runs or len(old) <= len(self.parts) // 32

    def runs(self, warnings: List[str]) -> List[Run]:
        """Those whose answer says what they were."""
        found = []
        for name in sorted(set(self.answers) | set(self.parts)):
            try:
                answer = self.store.answer(name) or {}
                is_accepted = bool(answer["ok"]) and "generation" in answer
                sequence = int(answer["sequence"])
            except (Damaged, KeyError, TypeError, ValueError):
                path = self.store.path("runs", name)
                warnings.append(
                    "%s.json is damaged or lost: what that run replaced stays until you remove %s.*" % (path, path)
                )
                continue
            holds = is_accepted or any(not path.endswith(".accepted.json") for path in self.parts.get(name, []))
            found.append(Run(name, sequence, _written(self.answers[name]), is_accepted, holds))
        return found


def _written(path: Optional[str]) -> float:
    """When, by this host's clock; for what is gone: long ago."""
    try:
        return os.stat(path).st_mtime if path else 0.0
    except FileNotFoundError:
        return 0.0


def sweep(
    store: Store, keep: Optional[Keep], now: float, thorough: bool = False, limit_s: Optional[float] = None
) -> List[str]:
    """Remove what need not be kept; returns warnings. Never raises: what cannot be swept now is swept later.

    `thorough`: also where no run may go, for what crashes left in the store. After `limit_s` the rest is left to the next sweep.
    """
    warnings: List[str] = []
    end = time.monotonic() + ((LONG_S if thorough else SHORT_S) if limit_s is None else limit_s)
    try:
        _remove_temporaries(store)
        if keep is not None:
            records = Records(store)
            if thorough or not records.is_little(keep, latest_now(store, now)):
                _sweep(records, keep, now, end, warnings)
    except (OSError, Damaged, journal.Damaged) as error:
        warnings.append("old contents could not be swept: %s" % error)
    return warnings


def _sweep(records: Records, keep: Keep, now: float, end: float, warnings: List[str]) -> None:
    store = records.store
    opened, accepted = journal.read(store.journal), store.accepted()
    needed = {str(record["run"]) for record in (accepted, opened.header if opened else None) if record}
    runs = records.runs(warnings)
    unknown = (set(records.answers) | set(records.parts)) - {run.name for run in runs}
    kept = kept_runs(runs, keep, latest_now(store, now), needed, (accepted or {}).get("restores", "")) | unknown
    ordered = sorted(runs, key=lambda run: run.sequence)
    gone = [run.name for run in ordered if run.name not in kept]
    first = next((run for run in ordered if run.holds and run.name in kept), None)
    if first is not None and first.at > now:
        warnings.append(FUTURE % records.answers[first.name])
    snapshots = {run.name for run in runs if run.is_accepted} | needed | unknown
    lost = [path for run, path in sorted(records.manifests.items()) if run not in snapshots and run not in gone]

    with contextlib.suppress(OSError):  # on a full disk it is most wanted that the sweep goes on
        os.close(os.open(store.path(UNFINISHED), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    parts = [(run, _existing(records.manifests.get(run)) + records.parts.get(run, [])) for run in gone]
    removed = _remove_runs(parts, end)
    _remove_durably(lost)
    _remove_durably([records.answers[run] for run in removed])
    marked = _marked(records, kept.union(gone).difference(removed), warnings)
    if marked is None:
        return
    named = [item.before[6] for item in opened.items if item.before] if opened else []
    if _remove_blobs(store, marked.union(named), end) and len(removed) == len(gone):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(store.path(UNFINISHED))


def _existing(path: Optional[str]) -> List[str]:
    return [] if path is None else [path]


def _remove_runs(parts: List[Tuple[str, List[str]]], end: float) -> List[str]:
    """Those of these runs whose records are gone, durably: from the first on, as many as there is time for, at least one."""
    removed: List[str] = []
    paths: List[str] = []
    for run, of_run in parts:
        if removed and time.monotonic() > end:
            break
        paths += of_run
        removed.append(run)
        for path in of_run:
            os.unlink(path)
    _sync_folders(paths)
    return removed


def _remove_durably(paths: List[str]) -> None:
    for path in paths:
        os.unlink(path)
    _sync_folders(paths)


def _sync_folders(paths: List[str]) -> None:
    for folder in sorted({os.path.dirname(path) for path in paths}):
        fsync_folder(folder)


def _marked(records: Records, kept: Set[str], warnings: List[str]) -> Optional[Set[str]]:
    """The blobs that kept runs name; None where that cannot be known."""
    marked: Set[str] = set()
    is_known = True
    for run in sorted(kept):
        for path in records.parts.get(run, []):
            try:
                record = json.loads(_content(path))
                if path.endswith(".changes.json"):
                    record = [
                        row[:2] + row[3:] for row in record
                    ]  # not what it put there, which is live or replaced since
                marked.update(_blobs_in(record))
            except (ValueError, TypeError):
                is_known = False
                warnings.append("%s is damaged: no old content is swept until you remove it" % path)
    return marked if is_known else None


def _content(path: str) -> str:
    with open(path, "rb") as stream:
        return stream.read().decode("ascii")


def _blobs_in(value: Any) -> Iterator[str]:
    """Whatever may name a blob, wherever it stands: to keep one too many costs space, one too few an old content."""
    if isinstance(value, str):
        if BLOB_NAME.match(value):
            yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _blobs_in(part)


def _remove_blobs(store: Store, marked: Set[str], end: float) -> bool:
    """True where none is left that is not marked: there was time for all."""
    for folder in os.listdir(store.path("blobs")):
        if len(folder) == 2:
            for name in os.listdir(store.path("blobs", folder)):
                if BLOB_NAME.match(name) and name not in marked:
                    os.unlink(store.path("blobs", folder, name))
                    if time.monotonic() > end:
                        return False
    return True


def _remove_temporaries(store: Store) -> None:
    """What a killed process was writing."""
    for folder in ("", "runs", "manifests", "blobs"):
        for name in os.listdir(store.path(folder)):
            found = TEMPORARY.match(name)
            if found and not _is_alive(int(found.group(1))):
                os.unlink(store.path(folder, name))


def _is_alive(pid: int) -> bool:
    return pid != os.getpid() and os.path.exists("/proc/%d" % pid)

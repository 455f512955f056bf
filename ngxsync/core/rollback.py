"""Going back: which snapshot comes before, what a peer shall hold then, and for how long a rollback holds automatic runs. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ngxsync.agent.manifest import DIR, Entry, Manifest, entry_from_json, is_below, is_same
from ngxsync.core.errors import Message
from ngxsync.core.excludes import narrow
from ngxsync.core.guards import Hold
from ngxsync.core.model import Change, Projection, Snapshot
from ngxsync.core.plan import FIRST_CONTACT, parents
from ngxsync.core.wording import listed, render_moment

ROLLED_BACK = "rolled-back"
TakenBack = dict[str, list[Entry | None]]


@dataclass(frozen=True)
class Kept:
    """An accepted snapshot that a peer keeps. `restores` is the run whose snapshot a rollback brought back, "" for any other."""

    run: str
    sequence: int
    id: str
    at: float = 0.0
    written_by: str = ""
    restores: str = ""


def origin(kept: Kept, snapshots: Iterable[Kept]) -> Kept:
    """A rollback counts as the run that it restores. Where that is not kept any more, the last one on the way to it."""
    by_run = {each.run: each for each in snapshots}
    while kept.restores in by_run and by_run[kept.restores].sequence < kept.sequence:
        kept = by_run[kept.restores]
    return kept


def snapshot_before(current: Kept, snapshots: Sequence[Kept]) -> Kept | None:
    """The other snapshot that was accepted before the current one, by sequence number; None where none is kept.

    Each answer is older than the last one: called again it goes one further back, never to and fro.
    """
    here = origin(current, snapshots)
    if here.restores:
        return None  # what it restored was swept, and so was all that is older
    earlier = sorted((each for each in snapshots if each.sequence < here.sequence), key=lambda each: -each.sequence)
    found = (origin(each, snapshots) for each in earlier)
    return next((each for each in found if each.id not in (here.id, current.id)), None)


def whole_manifest(target: Manifest, then: Projection, live: Manifest, now: Projection) -> Manifest:
    """What a peer with these live trees shall hold to be as it was at `target`, accepted under the projection `then`.

    What that one did not look at, or today's does not, is left as it is: a tree added later is not emptied.
    """
    known = narrow(live, then)
    left = {path: entry for path, entry in live.items() if path not in known}
    planned = {**narrow(_with_owners(target, then, live, now), now), **left}
    for path in left:
        for above in parents(path):
            if above in live and (above not in planned or planned[above].kind != DIR):
                planned[above] = live[above]  # what is left keeps its directories
    return planned


def _with_owners(target: Manifest, then: Projection, live: Manifest, now: Projection) -> Manifest:
    """Where owners count on one side only: none, or those that are there."""
    if then.owners == now.owners:
        return target
    if not now.owners:
        return {path: entry._replace(owner="", group="") for path, entry in target.items()}
    owned = {path: live.get(path) for path in target}
    return {
        path: entry._replace(owner=there.owner if there else "root", group=there.group if there else "root")
        for (path, entry), there in zip(target.items(), owned.values(), strict=True)
    }


def manifest_with(
    accepted: Manifest, live: Manifest, replaced: Mapping[str, Entry], chosen: Sequence[str]
) -> tuple[Manifest, tuple[str, ...]]:
    """(the accepted manifest with what a run replaced at or below the `chosen` paths, the paths of which nothing is known).

    `replaced` maps each path that the run replaced or deleted to what was there. Directories that are gone come along.
    """
    back = {path: entry for path, entry in replaced.items() if any(is_below(path, each) for each in chosen)}
    unknown = tuple(each for each in chosen if not any(is_below(path, each) for path in back))
    planned = dict(accepted)
    for path in sorted(back):
        there = planned.get(path)
        if there is not None and there.kind == DIR != back[path].kind:
            planned = {other: entry for other, entry in planned.items() if not other.startswith(path + "/")}
        planned[path] = back[path]
        for above in parents(path):
            now = planned.get(above, live.get(above))
            if above in replaced and (now is None or now.kind != DIR):
                planned[above] = replaced[above]
    return planned, unknown


def contents_taken_back(
    changes: Iterable[Change], planned: Manifest, accepted: Mapping[str, Any] | None
) -> dict[str, list[list[Any] | None]]:
    """{path: what it was taken back from} for the accepted record of a rollback; successive rollbacks add up.

    That is what was live, and what was accepted there; null is absence. What the rollback itself brings is none of it.
    """
    found: TakenBack = taken_back_of(accepted)
    for change in changes:
        if not is_same(change.before, change.after):
            known = found.setdefault(change.path, [])
            agreed = [change.base] if change.base is not None or change.cause != FIRST_CONTACT else []
            known += [entry for entry in (change.before, *agreed) if not _is_among(entry, known)]
    left = {path: [entry for entry in known if not is_same(entry, planned.get(path))] for path, known in found.items()}
    return {path: [list(entry) if entry else None for entry in known] for path, known in left.items() if known}


def taken_back_of(accepted: Mapping[str, Any] | None) -> TakenBack:
    """Of the peer's accepted record; empty where that is no rollback's."""
    known: Mapping[str, list[list[Any] | None]] = (accepted or {}).get("taken_back") or {}
    return {path: [entry_from_json(entry) if entry else None for entry in entries] for path, entries in known.items()}


def _is_among(entry: Entry | None, known: Iterable[Entry | None]) -> bool:
    return any(is_same(entry, other) for other in known)


def still_here(accepted: Mapping[str, Any] | None, master: Manifest, covered: Callable[[str], bool]) -> tuple[str, ...]:
    """The paths that a rollback took back and that still have on the master what they were taken back from.

    `covered(path)` says whether a sync looks at the path at all: what it leaves out brings nothing back.
    """
    taken_back = taken_back_of(accepted)
    return tuple(path for path in sorted(taken_back) if covered(path) and _is_among(master.get(path), taken_back[path]))


def rolled_back_hold(
    accepted: Mapping[str, Any] | None, master: Snapshot, covered: Callable[[str], bool], peer: str
) -> Hold | None:
    """Why an automatic run is held after a rollback, None where nothing of it would come back."""
    paths = still_here(accepted, master.manifest, covered)
    if accepted is None or not paths:
        return None
    to = f" to the snapshot of run {accepted['restores']}" if accepted.get("restores") else ""
    what = (
        f"rolled back{to} by run {accepted['run']}, {render_moment(float(accepted['at']))}, "
        f"and this host still has what was taken back: {listed(paths)}"
    )
    mend = "mend it here" if len(paths) == 1 else f"mend these {len(paths)} paths here"
    hint = f"{mend}, then it is synced by itself; or `ngxsync sync`, which undoes the rollback"
    return Hold(ROLLED_BACK, Message(what, peer, f"{peer} unchanged", hint))


def has_sound_excludes(projection: Mapping[str, Any]) -> bool:
    """Whether each exclude of a recorded projection is a regular expression; a peer that lies may say anything."""
    try:
        for tree in projection["trees"]:
            for regex, _ in tree["exclude"]:
                re.compile(regex)
    except (re.error, TypeError, ValueError, RecursionError):
        return False
    return True


def of_this_command(message: Message) -> Message:
    """Of a hold or failure of a sync, whose next step is here `ngxsync rollback`."""
    hint = message.next.replace("ngxsync sync", "ngxsync rollback").replace(
        "ngxsync diff", "ngxsync rollback --dry-run"
    )
    return replace(message, next=hint.replace("it is tried again", "`ngxsync rollback` tries it again"))

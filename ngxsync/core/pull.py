"""What a pull takes: of a peer's differences those that were made there, turned round. Pure.

What was changed on this host alone (pending) is never touched. What both changed (a conflict), and at a first contact what
nobody ever agreed on, is taken only where a person says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from ngxsync.agent.manifest import DIR, Entry, Manifest, is_below, is_same
from ngxsync.core.model import Change
from ngxsync.core.plan import BY_MASTER, CONFLICT, DRIFT, FIRST_CONTACT, kind_of, parents

MASTER, PEER = "master", "peer"  # of --take
DISPUTED = (CONFLICT, FIRST_CONTACT)


@dataclass(frozen=True)
class Choice:
    """`planned` is what this host shall be; `changes` lead there, by path, before and after as this host sees them.

    `disputed` are those that need a person's word (their causes say which), `blocked` those in whose way stands what only this
    host has, `left` the paths that stay as they are here since a person said so.
    """

    planned: Manifest
    changes: Mapping[str, Change]
    disputed: tuple[Change, ...] = ()
    blocked: tuple[Change, ...] = ()
    left: tuple[str, ...] = ()


def choose(
    changes: Collection[Change], here: Manifest, there: Manifest, *, limits: Collection[str] = (), take: str = ""
) -> Choice:
    """`changes` are what would make the peer (`there`) like this host (`here`); `limits` the paths that a person named."""
    within = [c for c in changes if not limits or any(is_below(c.path, limit) for limit in limits)]
    moved = [turned(c) for c in within if c.cause in (DRIFT, *DISPUTED)]
    # at a first contact a path that was named is the choice
    taken = {DRIFT} | ({FIRST_CONTACT} if limits and not take else set()) | (set(DISPUTED) if take == PEER else set())
    picked = {c.path: c for c in moved if c.cause in taken}
    others = tuple(c for c in moved if c.cause not in taken)
    if others and take != MASTER:
        return Choice(dict(here), picked, others)
    return _chosen(picked, here, there, tuple(c.path for c in others))


def put_back(
    replaced: Iterable[tuple[str, Entry | None, Entry | None]],
    here: Manifest,
    *,
    limits: Collection[str] = (),
    is_forced: bool = False,
) -> Choice:
    """The undo of a pull that `replaced` (path, before, after). What was edited here since is disputed, unless `is_forced`."""
    known = {path: (old, new) for path, old, new in replaced}
    changes = [
        Change(path, kind, here.get(path), old, new, BY_MASTER if is_same(here.get(path), new) else CONFLICT)
        for path, (old, new) in known.items()
        if not limits or any(is_below(path, limit) for limit in limits)
        if (kind := kind_of(here.get(path), old)) and not is_same(here.get(path), old)
    ]
    disputed = tuple(c for c in changes if c.cause == CONFLICT)
    picked = {c.path: c for c in changes}
    if disputed and not is_forced:
        return Choice(dict(here), picked, disputed)
    return _chosen(picked, here, {path: old for path, (old, _) in known.items() if old is not None})


def _chosen(picked: Mapping[str, Change], here: Manifest, there: Manifest, left: tuple[str, ...] = ()) -> Choice:
    planned, blocked = _planned(picked, here, there)
    made = {
        path: picked.get(path) or _needed(path, here, there)
        for path in picked.keys() | _folders_for(picked, here, there)
        if kind_of(here.get(path), planned.get(path))
    }
    return Choice(planned, made, (), tuple(blocked), left)


def turned(change: Change) -> Change:
    """The same difference as seen from the host that receives: before is what is here, after what the peer has."""
    return replace(change, kind=kind_of(change.after, change.before), before=change.after, after=change.before)


def _needed(path: str, here: Manifest, there: Manifest) -> Change:
    """A directory that only a file below it needs: the choice of that file is its own."""
    return Change(path, kind_of(here.get(path), there[path]), here.get(path), there[path], None, DRIFT)


def _planned(picked: Mapping[str, Change], here: Manifest, there: Manifest) -> tuple[Manifest, list[Change]]:
    """What this host becomes, and the changes in whose way something stands."""
    planned = dict(here)
    for path, change in picked.items():
        _put(planned, path, change.after)
    for path in _folders_for(picked, here, there):
        planned.setdefault(path, there[path])
    ending = [c for c in picked.values() if c.before is not None and c.before.kind == DIR and not _is_dir(c.after)]
    full = {above for path in planned for above in parents(path)}
    blocked = []
    for change in sorted(ending, key=lambda c: -c.path.count("/")):
        if change.path in full and change.after is None:  # it stays for what only this host has
            planned[change.path] = here[change.path]
            full.update(parents(change.path))
        elif change.path in full:
            blocked.append(change)
    return planned, [*blocked, *_without_folder(picked.values(), planned)]


def _put(manifest: Manifest, path: str, entry: Entry | None) -> None:
    if entry is None:
        manifest.pop(path, None)
    else:
        manifest[path] = entry


def _folders_for(picked: Mapping[str, Change], here: Manifest, there: Manifest) -> set[str]:
    """The peer's directories above what is taken, where this host has nothing of the name."""
    above = {parent for path, change in picked.items() if change.after is not None for parent in parents(path)}
    return {path for path in above if path in there and path not in here and there[path].kind == DIR}


def _without_folder(changes: Iterable[Change], planned: Manifest) -> list[Change]:
    """What would stand below something that is no directory here."""
    taken = (change for change in changes if change.after is not None)
    return [c for c in taken if any(path in planned and not _is_dir(planned[path]) for path in parents(c.path))]


def _is_dir(entry: Entry | None) -> bool:
    return entry is not None and entry.kind == DIR

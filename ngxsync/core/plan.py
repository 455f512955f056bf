"""Plans: what makes a peer equal to the master, why, and in which order (DESIGN 2 and 5; TRANSACTION, "Apply").

All paths are absolute. Nothing here reads a disk: manifests in, a `Plan` out.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace

from ngxsync.agent.manifest import DIR, FILE, LINK, Entry, Manifest, is_below, is_same
from ngxsync.core.model import Change, Plan

CREATED, DELETED, TYPE, CONTENT, LINKED, OWNER, MODE, MTIME = (
    "created",
    "deleted",
    "type",
    "content",
    "link",
    "owner",
    "mode",
    "mtime",
)
BY_MASTER, DRIFT, CONFLICT, FIRST_CONTACT = "pending", "drift", "conflict", "first-contact"

CAUSES = (BY_MASTER, DRIFT, CONFLICT, FIRST_CONTACT)
NEW_BYTES = frozenset({CREATED, TYPE, CONTENT})


def make_plan(
    master: Manifest, peer: Manifest, base: Manifest | None, covered: Callable[[str], bool], *, main_conf: str = ""
) -> Plan:
    """The changes that make `peer` equal to `master`, each with its cause, in the safe order.

    `base` is the accepted manifest, None where there is none; `covered(path)` says whether the projection of the
    accepted record looked at that path at all. `main_conf` (absolute) is replaced last. Where both sides are equal
    there is no change, whatever the base says: the accepted record's delta covers that.
    """
    if master == peer:
        return Plan()  # 100,000 entries that are the same objects are compared in no time
    differing = [path for path in master.keys() | peer.keys() if peer.get(path) != master.get(path)]
    changes = [
        _change(path, peer.get(path), master.get(path), base, covered)
        for path in differing
        if kind_of(peer.get(path), master.get(path))
    ]
    return Plan(tuple(in_safe_order(changes, main_conf)))


def kind_of(before: Entry | None, after: Entry | None) -> str:
    """The most serious difference of two entries, "" where they are equal. Directories have no mtime that counts."""
    if before == after:
        return ""
    if before is None:
        return CREATED
    if after is None:
        return DELETED
    if before.kind != after.kind:
        return TYPE
    if before.content != after.content:
        return LINKED if after.kind == LINK else CONTENT
    if (before.owner, before.group) != (after.owner, after.group):
        return OWNER
    if before.mode != after.mode:
        return MODE
    return MTIME if before.mtime_ns != after.mtime_ns and after.kind != DIR else ""


def cause_of(before: Entry | None, after: Entry | None, base: Entry | None) -> str:
    """Who moved away from the accepted entry. A difference in mtime alone is pending (DESIGN 6), whoever touched it."""
    if is_same(before, after) or is_same(before, base):
        return BY_MASTER
    return DRIFT if is_same(after, base) else CONFLICT


def with_received(plan: Plan, received: Manifest, covered: Callable[[str], bool]) -> Plan:
    """The plan where the peer had synced `received` to this host since it accepted from here last: what this host has as it
    was brought then is none of its own edits, whatever the older base says. `covered` as in make_plan, of that record."""
    changes = (
        replace(change, cause=cause_of(change.before, change.after, received.get(change.path)))
        if change.cause == BY_MASTER and covered(change.path)
        else change
        for change in plan.changes
    )
    return Plan(tuple(changes))


def _change(
    path: str, before: Entry | None, after: Entry | None, base: Manifest | None, covered: Callable[[str], bool]
) -> Change:
    kind = kind_of(before, after)
    if base is None or not covered(path):
        # nobody ever agreed on this path: harmless only where nothing of the peer's own is lost
        cause = BY_MASTER if kind in (CREATED, MTIME) else FIRST_CONTACT
        return Change(path, kind, before, after, None, cause)
    accepted = base.get(path)
    return Change(path, kind, before, after, accepted, cause_of(before, after, accepted))


def in_safe_order(changes: Collection[Change], main_conf: str = "") -> list[Change]:
    """An order in which each step is possible and nothing is missed by what still names it.

    First what stands below a directory that becomes something else, deepest first; then everything that is new or
    changes, top-down, the main configuration file last (it names the others); then all other deletions, deepest first.
    """
    ending = {c.path for c in changes if c.kind == TYPE and c.before is not None and c.before.kind == DIR}

    def rank(change: Change) -> tuple[int, int, str]:
        depth = change.path.count("/")
        if change.kind == DELETED:
            below = bool(ending) and any(parent in ending for parent in parents(change.path))
            return (0 if below else 3, -depth, change.path)
        last = change.path == main_conf and change.after is not None and change.after.kind != DIR
        return (2 if last else 1, depth, change.path)

    return sorted(changes, key=rank)


def parents(path: str) -> Iterator[str]:
    """The directories above an absolute path, nearest first, without "/"."""
    above = posixpath.dirname(path)
    while above != "/":
        yield above
        above = posixpath.dirname(above)


def is_quiet(change: Change) -> bool:
    """True for a change of mtime alone: sent, but neither drift nor a reason to reload (DESIGN 5)."""
    return change.kind == MTIME


def causes_of(changes: Iterable[Change]) -> dict[str, int]:
    """How many have which cause, in the order of CAUSES; only those that there are."""
    counted = Counter(change.cause for change in changes)
    return {cause: counted[cause] for cause in CAUSES if counted[cause]}


def is_content(path: str, content: tuple[str, ...]) -> bool:
    """True where the path lies below one of the absolute `content` directories, whose files are only served."""
    return any(is_below(path, folder) for folder in content)


def needs_reload(plan: Plan, content: tuple[str, ...], loaded: Collection[str], always: bool) -> bool:
    """Whether nginx must read its configuration again (TRANSACTION, "Reload and prove": reload_when).

    `content` are absolute directories; `loaded` are the absolute paths that the configuration names and nginx loads
    (certificates, keys, lua, geo files, modules), wherever they lie. A change of mtime alone never needs a reload.
    """
    return any(not is_quiet(c) and (always or _concerns_nginx(c, content, loaded)) for c in plan.changes)


def _concerns_nginx(change: Change, content: tuple[str, ...], loaded: Collection[str]) -> bool:
    if not is_content(change.path, content) or change.path in loaded:
        return True
    # a directory or link on the way to a loaded file: what nginx would read behind it is another file now
    return change.kind in (TYPE, LINKED, CREATED, DELETED) and any(is_below(path, change.path) for path in loaded)


def restart_needed(plan: Plan, binary: str, modules: Collection[str]) -> bool:
    """True where nginx's binary or a module file gets new content: SIGHUP does not load those."""
    return any(
        change.kind in NEW_BYTES | {LINKED} and (change.path == binary or change.path in modules)
        for change in plan.changes
    )


def paths_to_send(plan: Plan) -> tuple[str, ...]:
    """The regular files whose bytes must travel; directories, links and attributes are made from the plan itself."""
    return tuple(
        change.path
        for change in plan.changes
        if change.kind in NEW_BYTES and change.after is not None and change.after.kind == FILE
    )

"""Reasons to hold a run before the peer changes, each with a code that `ngxsync sync --force CODE` overrides.

Pure: a plan, both snapshots' facts and the settings in, holds out (DESIGN 5 "Guards", DESIGN 6 exit status 8).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ngxsync.agent.manifest import DIR, Manifest, is_below
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.model import Change, Plan, Snapshot
from ngxsync.core.plan import CONFLICT, CREATED, DELETED, DRIFT, FIRST_CONTACT, TYPE, is_content, is_quiet
from ngxsync.core.wording import listed, safe_name

# DESIGN 6: any code of exit status 8, but vip, rehearse, which-nginx and store; each from the release on that holds for it
FORCEABLE = (
    "first-contact",
    "generation",
    "drift",
    "conflict",
    "paused",
    "rolled-back",
    "standby",
    "follow",
    "soak",
    "type-change",
    "missing-user",
    "emptied-root",
    "replaced-root",
    "main-file",
    "max-delete",
    "device",
    "mounts",
)
NEVER_FORCED = ("vip", "rehearse", "which-nginx", "store")

FEWEST_DELETIONS = 5  # below this number max_delete does not hold
Roots = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Hold:
    """One reason to stop before the peer changes. `code` is what --force takes."""

    code: str
    message: Message


@dataclass(frozen=True)
class PeerFacts:
    """What the guards know of a peer: `roots` as in Snapshot.roots, `specials` and `missing_users` from its scan.

    `kept_apart` are excluded paths inside directories that are entries: like specials, they keep their directory there.
    `recorded_master` and `recorded_peer` are the roots of both hosts at the last accepted run; empty where none was.
    """

    name: str
    manifest: Manifest
    roots: Roots = field(default_factory=dict)
    specials: tuple[str, ...] = ()
    kept_apart: tuple[str, ...] = ()
    missing_users: tuple[str, ...] = ()
    recorded_master: Roots = field(default_factory=dict)
    recorded_peer: Roots = field(default_factory=dict)


@dataclass(frozen=True)
class GuardSettings:
    """`content` (directories) and `main_conf` are absolute; `max_delete_pct` is None where switched off."""

    content: tuple[str, ...]
    main_conf: str
    max_delete_pct: float | None = 30.0
    on_drift: str = "heal"  # or "hold"
    why_not_healed: str = ""  # whatever on_drift says
    master_name: str = "master"


def check_guards(plan: Plan, master: Snapshot, peer: PeerFacts, settings: GuardSettings) -> tuple[Hold, ...]:
    """All reasons to hold this plan, none where it is empty: what changes nothing endangers nothing."""
    if not plan:
        return ()
    found: list[Iterable[Hold]] = [
        _emptied_roots(master, peer),
        _changed_roots(settings.master_name, master.roots, peer.recorded_master, peer.name),
        _changed_roots(peer.name, peer.roots, peer.recorded_peer, peer.name),
        _main_file(plan, peer, settings),
        _max_delete(plan, peer, settings),
        _drift(plan, peer, settings),
        _first_contact(plan, master, peer),
        _type_change(plan, peer),
        _missing_users(peer),
    ]
    return tuple(hold for holds in found for hold in holds)


def apply_force(holds: Iterable[Hold], force: Collection[str]) -> tuple[Hold, ...]:
    """The holds that remain. Raises ConfigError where a code is none that a person may override."""
    raise_if_unforceable(force)
    return tuple(hold for hold in holds if hold.code not in force)


def raise_if_unforceable(force: Collection[str]) -> None:
    """Only whole, known codes: an abbreviation could come to mean another guard with the next release."""
    for code in force:
        if code in FORCEABLE:
            continue
        near = difflib.get_close_matches(code, FORCEABLE, n=1)
        hint = f"did you mean --force {near[0]}?" if near else f"the codes are: {', '.join(FORCEABLE)}"
        if not code.isalpha() and any(part in FORCEABLE for part in code.replace(",", " ").split()):
            hint = "give --force once for each reason"
        if code in NEVER_FORCED:
            what, hint = f"{code} cannot be overridden", "mend its cause; the message of the held run names it"
        else:
            what = f"unknown reason {code!r}"
        raise ConfigError(Message(what, "--force", "nothing changed", hint))


def _hold(code: str, what: str, where: str, peer: str, advice: str = "") -> Hold:
    override = f"ngxsync sync --force {code}"
    return Hold(code, Message(what, where, f"{peer} unchanged", f"{advice}{override}"))


def _emptied_roots(master: Snapshot, peer: PeerFacts) -> Iterator[Hold]:
    for root in master.projection.roots:
        here = _count_below(master.manifest, root)
        there = _count_below(peer.manifest, root)
        vanished = root in peer.manifest and root not in master.manifest
        if vanished or (there and not here):
            what = f"the tree is {'gone' if vanished else 'empty'} here, and {peer.name} has {there} entries in it"
            yield _hold("emptied-root", what, safe_name(root), peer.name, "if it is meant to be empty: ")


def _count_below(manifest: Manifest, root: str) -> int:
    return sum(1 for path in manifest if path != root and is_below(path, root))


def _changed_roots(host: str, roots: Roots, recorded: Roots, peer: str) -> Iterator[Hold]:
    """replaced-root, device, mounts: a tree that is not the place which it was at the last accepted run."""
    for root in sorted(roots.keys() & recorded.keys()):
        now, then = roots[root], recorded[root]
        where = f"{host}:{safe_name(root)}"
        if now.get("real") != then.get("real"):
            real, was = (safe_name(str(facts.get("real"))) for facts in (now, then))
            what = f"the tree now leads to {real}, at the last run to {was}"
            yield _hold("replaced-root", what, where, peer, "if that is meant: ")
        elif _is_other_device(now, then):
            what = "the tree is on another device than at the last run: is a disk not mounted?"
            yield _hold("device", what, where, peer, "mount it, or if that is meant: ")
        elif now.get("ino") != then.get("ino"):
            what = "the tree is another directory than at the last run, under the same name"
            yield _hold("replaced-root", what, where, peer, "if that is meant: ")
        mounts, before = set(now.get("mounts", ())), set(then.get("mounts", ()))
        if mounts != before:
            yield _hold("mounts", _mounts_text(mounts - before, before - mounts), where, peer, "if that is meant: ")


def _is_other_device(now: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
    """By its number, which may change at a boot, unless the file system says by its own id that it is the same."""
    return now.get("dev") != then.get("dev") and (not now.get("fsid") or now.get("fsid") != then.get("fsid"))


def _mounts_text(new: set[str], gone: set[str]) -> str:
    parts = [f"{word}: {listed(sorted(paths))}" for word, paths in (("new", new), ("gone", gone)) if paths]
    return f"other mounts below the tree than at the last run ({'; '.join(parts)})"


def _main_file(plan: Plan, peer: PeerFacts, settings: GuardSettings) -> Iterator[Hold]:
    if any(c.path == settings.main_conf and c.kind == DELETED for c in plan.changes):
        what = "the main configuration file would be deleted"
        yield _hold("main-file", what, f"{peer.name}:{safe_name(settings.main_conf)}", peer.name, "if that is meant: ")


def _max_delete(plan: Plan, peer: PeerFacts, settings: GuardSettings) -> Iterator[Hold]:
    limit = settings.max_delete_pct
    if limit is None:
        return
    deleted = [c.path for c in plan.changes if c.kind == DELETED]
    parts = (False, "outside content"), (True, f"in {listed(settings.content)}")
    for inside, part in parts:
        gone = [path for path in deleted if is_content(path, settings.content) is inside]
        there = sum(1 for path in peer.manifest if is_content(path, settings.content) is inside)
        if len(gone) >= FEWEST_DELETIONS and len(gone) * 100 > limit * there:
            what = f"{len(gone)} of {there} entries {part} would be deleted, more than max_delete = {limit:g}%"
            yield _hold("max-delete", what, f"{peer.name}:{listed(gone)}", peer.name, "look with ngxsync diff, then ")


def _drift(plan: Plan, peer: PeerFacts, settings: GuardSettings) -> Iterator[Hold]:
    """With on_drift = heal both are put right, saved first; a conflict is treated as drift (TRANSACTION)."""
    why = settings.why_not_healed or ("on_drift = hold" if settings.on_drift == "hold" else "")
    if not why:
        return
    texts = {DRIFT: f"changed on {peer.name} since the last run", CONFLICT: "changed on both hosts since the last run"}
    for cause, text in texts.items():
        paths = [c.path for c in plan.changes if c.cause == cause and not is_quiet(c)]
        if paths:
            what = f"{len(paths)} {_plural(paths, 'path')} {text} ({why})"
            advice = f"look with ngxsync diff; to have it here too: ngxsync pull; to overwrite it on {peer.name}, where it is kept: "
            yield _hold(cause, what, f"{peer.name}:{listed(paths)}", peer.name, advice)


def _first_contact(plan: Plan, master: Snapshot, peer: PeerFacts) -> Iterator[Hold]:
    """An empty tree holds nothing of the peer's own, whatever its root directory's mode and owner (DESIGN 5)."""
    empty = {root for root in master.projection.roots if not _count_below(peer.manifest, root)}
    paths = [c.path for c in plan.changes if c.cause == FIRST_CONTACT and c.path not in empty]
    if paths:
        what = f"{len(paths)} {_plural(paths, 'path')} on {peer.name} never came from here and would be replaced"
        advice = f"look with ngxsync diff --peer {peer.name}; if this host's content shall win: "
        yield _hold(FIRST_CONTACT, what, f"{peer.name}:{listed(paths)}", peer.name, advice)


def _type_change(plan: Plan, peer: PeerFacts) -> Iterator[Hold]:
    """A directory that cannot give way, or a socket, device or pipe that stands where an entry should be."""
    for change in plan.changes:
        blockers = blockers_of(change, peer)
        if blockers:
            what = f"what stands there cannot give way to a {_kind(change)}: {listed(blockers)} is left alone by a sync"
            advice = f"move it away on {peer.name}, or leave it and sync all else: "
            yield _hold("type-change", what, f"{peer.name}:{safe_name(change.path)}", peer.name, advice)


def blockers_of(change: Change, peer: PeerFacts) -> list[str]:
    """What no sync touches on the peer, and stands in this change's way."""
    if change.kind == CREATED:
        return [path for path in peer.specials if path == change.path]
    if change.kind == TYPE and change.before is not None and change.before.kind == DIR:
        return [path for path in peer.specials + peer.kept_apart if is_below(path, change.path)]
    return []


def _kind(change: Change) -> str:
    words = {"file": "file", "dir": "directory", "link": "link"}
    return words[change.after.kind] if change.after is not None else "nothing"


def _missing_users(peer: PeerFacts) -> Iterator[Hold]:
    if peer.missing_users:
        names = ", ".join(safe_name(name) for name in peer.missing_users)
        what = f"{peer.name} has no user or group of the name: {names}"
        advice = "create them there, or do without these owners: "
        yield _hold("missing-user", what, peer.name, peer.name, advice)


def _plural(items: Collection[object], word: str) -> str:
    return word if len(items) == 1 else f"{word}s"

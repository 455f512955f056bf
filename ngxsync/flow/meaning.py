"""`diff` by meaning: both hosts' whole nginx configurations in memory, compared; only what differs is fetched and parsed twice.

The peer's is this host's with the peer's own changed files in it. What lies outside the trees is taken to be the same there.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ngxsync.agent import directives
from ngxsync.agent.manifest import FILE, LINK, Manifest, is_below
from ngxsync.core.meaning import TEXT, Finding, about_files, compare_trees
from ngxsync.core.model import Change, Plan
from ngxsync.core.nginxtree import Expansion, Node, Parsed, TooLarge, items_of
from ngxsync.core.plan import is_quiet
from ngxsync.flow.contents import Content, is_shown

LINKS = 40  # as many as the kernel follows


class Disk(Protocol):
    """This host's files."""

    def read(self, path: str) -> Content | None: ...

    def real_path(self, path: str) -> str: ...

    def glob(self, pattern: str) -> list[str]: ...


Fetch = Callable[[Iterable[Change]], Mapping[str, Content]]  # what the peer has, by path
Parse = Callable[[bytes], Parsed]


@dataclass(frozen=True)
class Parts:
    """What a comparison by meaning needs of the edges."""

    conf: str  # the main configuration file, as this host's nginx has it
    trees: tuple[str, ...]
    disk: Disk
    parse: Parse
    fetch: Fetch


def find_meaning(parts: Parts, master: Manifest, peer: Manifest, plan: Plan) -> list[Finding]:
    """What the plan would change of the peer's nginx configuration. Raises NgxsyncError where the peer cannot be asked."""
    try:
        return _find(parts, master, peer, plan)
    except (TooLarge, RecursionError):
        place = (parts.conf, 1)
        return [Finding(TEXT, parts.conf, before_at=place, after_at=place, note="its includes go on and on")]


def _find(parts: Parts, master: Manifest, peer: Manifest, plan: Plan) -> list[Finding]:
    changed = {change.path: change for change in plan.changes if not is_quiet(change)}
    files = _Files(parts, changed)
    own = _Side(files, master, own=True)
    after = Expansion(parts.conf, own, files.known)
    while True:
        theirs = _Side(files, peer, own=False)
        before = Expansion(parts.conf, theirs, files.known)
        if not theirs.missing:
            break
        files.fetch(theirs.missing)
    old, new = ({path: parsed for path, parsed in found.files.items() if path in changed} for found in (before, after))
    differing = {p for p in old.keys() | new.keys() if p not in old or p not in new or old[p] is not new[p]}
    findings = compare_trees(before.nodes, after.nodes)
    return about_files(
        findings,
        {path: parsed for path, parsed in old.items() if path in differing},
        {path: parsed for path, parsed in new.items() if path in differing},
    )


class _Files:
    """What was read and parsed in this comparison, by content: no content is parsed twice."""

    def __init__(self, parts: Parts, changed: Mapping[str, Change]) -> None:
        self.parts, self._changed = parts, changed
        self._roots = {parts.disk.real_path(tree): tree for tree in parts.trees}
        self.known: dict[tuple[str, int], tuple[Node, ...]] = {}
        self._parsed: dict[tuple[str, bool], Parsed] = {}
        self._outside: dict[str, Parsed | None] = {}

    def inside(self, path: str, sha256: str, *, own: bool) -> Parsed | None:
        """A file of the trees; None where its content is still to be fetched."""
        key = (sha256, path in self._changed)
        if key not in self._parsed:
            if not own and path in self._changed:
                return None
            self._parsed[key] = self._parse(self.parts.disk.read(path), is_changed=key[1])
        return self._parsed[key]

    def as_in_trees(self, path: str) -> str:
        """A path outside the trees as this host has it: what leads into a tree by another way is that tree's."""
        real = self.parts.disk.real_path(path)
        root = next((root for root in self._roots if is_below(real, root)), None)
        return real if root is None else self._roots[root] + real[len(root) :]

    def outside(self, path: str) -> Parsed | None:
        if path not in self._outside:
            content = self.parts.disk.read(path)
            self._outside[path] = None if content is None else self._parse(content, is_changed=False)
        return self._outside[path]

    def fetch(self, wanted: Mapping[str, str]) -> None:
        """Path to sha256 of what only the peer has."""
        found = self.parts.fetch(change for path in wanted if is_shown(change := self._changed[path]))
        for path, sha256 in wanted.items():
            self._parsed[sha256, True] = self._parse(found.get(path), is_changed=True)

    def _parse(self, content: Content | None, *, is_changed: bool) -> Parsed:
        """Our own lexer is enough for what is the same on both hosts: only what stands in it, and what it includes, is asked."""
        if content is not None and content.is_secret:
            return Parsed(problem="it is a secret")
        if content is None or content.data is None:
            return Parsed(problem="it is too large, or gone meanwhile")
        return self.parts.parse(content.data) if is_changed else Parsed(items_of(directives.parse(content.data, "")))


class _Side:
    """core.nginxtree.Source: one host's files as its manifest has them."""

    def __init__(self, files: _Files, manifest: Manifest, *, own: bool) -> None:
        self._files, self._manifest, self._own = files, manifest, own
        self.missing: dict[str, str] = {}
        self._folders: dict[str, list[str]] = {}

    def parsed(self, path: str) -> tuple[str, Parsed] | None:
        real = self._real(path)
        entry = self._manifest.get(real)
        if entry is None:
            if self._is_inside(real):
                return None
            found = self._files.outside(real)
            return None if found is None else (real, found)
        if entry.kind != FILE:
            return None
        parsed = self._files.inside(real, entry.content, own=self._own)
        if parsed is None:
            self.missing[real] = entry.content
            return None
        return real, parsed

    def included(self, pattern: str) -> list[str]:
        start = pattern[: min(pattern.find(mark) for mark in "*?[" if mark in pattern)]
        if not self._is_inside(self._real(posixpath.dirname(start))):
            return sorted(self._files.parts.disk.glob(pattern))
        found = [""]
        for part in pattern.split("/")[1:]:
            if any(mark in part for mark in "*?["):
                found = [f"{path}/{name}" for path in found for name in self._matching(self._real(path), part)]
            else:
                found = [f"{path}/{part}" for path in found]
        return sorted(path for path in found if self._real(path) in self._manifest)

    def _matching(self, folder: str, pattern: str) -> list[str]:
        hidden = pattern.startswith(".")
        names = self._names().get(folder, ())
        return [name for name in names if name.startswith(".") == hidden and fnmatch.fnmatchcase(name, pattern)]

    def _names(self) -> dict[str, list[str]]:
        if not self._folders:
            for path in self._manifest:
                folder, name = posixpath.split(path)
                self._folders.setdefault(folder, []).append(name)
        return self._folders

    def _is_inside(self, path: str) -> bool:
        return any(is_below(path, tree) for tree in self._files.parts.trees)

    def _real(self, path: str) -> str:
        """Links followed as this side has them; a way to the trees from outside as this host has it."""
        found, left = self._in_manifest(path)
        if not self._is_inside(found) and left:
            found, _ = self._in_manifest(self._files.as_in_trees(found))
        return found

    def _in_manifest(self, path: str) -> tuple[str, int]:
        left = LINKS
        parts, found = path.split("/")[1:], ""
        while parts and left:
            step = f"{found}/{parts.pop(0)}"
            entry = self._manifest.get(step)
            if entry is not None and entry.kind == LINK:
                left -= 1
                target = posixpath.normpath(posixpath.join(found or "/", entry.content))
                parts, found = [*target.split("/")[1:], *parts], ""
            else:
                found = step
        return found or "/", left

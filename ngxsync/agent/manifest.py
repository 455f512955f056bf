"""Entries, manifests and snapshot ids: the same code on master and peer, so both sides agree on what equal means.

A manifest is a dict of absolute path -> Entry. Paths are str with surrogateescape, so a name that is not UTF-8 survives JSON.
"""

import hashlib
import json
import posixpath
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

# Of requests and answers; raised in each release that adds to them or changes their meaning. Recorded exchanges of the
# ones before are kept in tests/exchanges. Agent and master speak this one and the two before.
PROTOCOL = 3
SPEAKS = tuple(range(max(1, PROTOCOL - 2), PROTOCOL + 1))
RELEASE = "0.1.0"  # ngxsync.__version__, which the agent cannot import

FILE, DIR, LINK = "file", "dir", "link"

Entry = NamedTuple(
    "Entry",
    [
        ("kind", str),  # "file", "dir" or "link"
        ("mode", int),  # permission bits, 0o7777 at most; 0o777 for links
        ("owner", str),  # a name, "#1000" where the host has none for the id, "" where owners do not count
        ("group", str),  # likewise
        ("mtime_ns", int),  # 0 for directories: theirs are not compared
        ("size", int),  # bytes, 0 unless a file
        ("content", str),  # sha256 in hex of a file, target of a link, "" of a directory
    ],
)
Manifest = Dict[str, Entry]


def content_key(entry: Entry) -> Tuple[str, int, str, str, str]:
    """What makes two entries equal: everything but mtime (and size, which content decides)."""
    return (entry.kind, entry.mode, entry.owner, entry.group, entry.content)


def is_same(a: Optional[Entry], b: Optional[Entry]) -> bool:
    """True where both are absent, or equal in all but mtime."""
    if a is None or b is None:
        return a is b
    return content_key(a) == content_key(b)


def snapshot_id(manifest: Manifest, projection: Dict[str, Any]) -> str:
    """Hash (sha256, hex) of the manifest's content and of the projection: equal ids mean equal trees."""
    digest = hashlib.sha256(json.dumps(projection, sort_keys=True).encode("ascii"))
    for path in sorted(manifest):
        line = json.dumps([path, list(content_key(manifest[path]))])
        digest.update(line.encode("ascii") + b"\n")
    return digest.hexdigest()


def to_json(manifest: Manifest) -> Dict[str, List[Any]]:
    return {path: list(entry) for path, entry in manifest.items()}


def from_json(data: Dict[str, List[Any]]) -> Manifest:
    """Raises ValueError, KeyError or TypeError where the data is none of ours."""
    return {path: entry_from_json(fields) for path, fields in data.items()}


def entry_from_json(fields: List[Any]) -> Entry:
    kind, mode, owner, group, mtime_ns, size, content = fields
    if kind not in (FILE, DIR, LINK) or not all(isinstance(v, int) for v in (mode, mtime_ns, size)):
        raise ValueError("not an entry: %r" % (fields,))
    if mode & ~0o7777 or not all(isinstance(v, str) for v in (owner, group, content)):
        raise ValueError("not an entry: %r" % (fields,))
    return Entry(kind, mode, owner, group, mtime_ns, size, content)


def delta(old: Manifest, new: Manifest) -> Dict[str, Optional[Entry]]:
    """What to write over old to get new, mtimes included; None deletes. `patched(old, delta(old, new)) == new`."""
    changed: Dict[str, Optional[Entry]] = {path: entry for path, entry in new.items() if old.get(path) != entry}
    changed.update({path: None for path in old if path not in new})
    return changed


def delta_from_json(data: Dict[str, Any]) -> Dict[str, Optional[Entry]]:
    """Raises ValueError, TypeError or AttributeError where it is none."""
    return {path: None if fields is None else entry_from_json(fields) for path, fields in data.items()}


def patched(old: Manifest, changed: Dict[str, Optional[Entry]]) -> Manifest:
    result = dict(old)
    for path, entry in changed.items():
        if entry is None:
            result.pop(path, None)
        else:
            result[path] = entry
    return result


def shared(manifest: Manifest, like: Manifest) -> Manifest:
    """The same manifest, of the objects of another one where they are equal: two that are kept take the room of one."""
    if manifest == like:
        return like
    return {path: like[path] if like.get(path) == entry else entry for path, entry in manifest.items()}


def is_below(path: str, folder: str) -> bool:
    """True where path is folder itself or lies below it; both absolute and normalised."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def tree_of(path: str, trees: List[str]) -> Optional[str]:
    """The tree that holds this path, or None."""
    for tree in trees:
        if is_below(path, tree):
            return tree
    return None


def is_clean(path: str) -> bool:
    """True for an absolute path without "..", "." or empty parts: the only form that a request may use."""
    return path.startswith("/") and "\0" not in path and posixpath.normpath(path) == path and not path.startswith("//")

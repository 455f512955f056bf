"""Entries, manifests and snapshot ids: the same code on master and peer, so both sides agree on what equal means.

A manifest is a dict of absolute path -> Entry. Paths are str with surrogateescape, so a name that is not UTF-8 survives JSON.
"""

import hashlib
import json
import json.encoder
import posixpath
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

# Of requests and answers; raised in each release that adds to them or changes their meaning. Recorded exchanges of the
# ones before are kept in tests/exchanges. Agent and master speak this one and the two before.
PROTOCOL = 4
SPEAKS = tuple(range(max(1, PROTOCOL - 2), PROTOCOL + 1))
RELEASE = "0.1.0"  # ngxsync.__version__, which the agent cannot import

_quoted = json.encoder.encode_basestring_ascii
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
    lines = [_line(path, manifest[path]) for path in sorted(manifest)]
    digest.update("".join(lines).encode("ascii"))
    return digest.hexdigest()


def _line(path: str, entry: Entry) -> str:
    """As json.dumps([path, list(content_key(entry))]) has it, in a third of its time."""
    names = '"%s", %d, %s, %s' % (entry.kind, entry.mode, _quoted(entry.owner), _quoted(entry.group))
    return "[%s, [%s, %s]]\n" % (_quoted(path), names, _quoted(entry.content))


def to_json(manifest: Manifest) -> Dict[str, List[Any]]:
    return {path: list(entry) for path, entry in manifest.items()}


def from_json(data: Dict[str, List[Any]], like: Optional[Manifest] = None) -> Manifest:
    """Raises ValueError, KeyError or TypeError where the data is none of ours.

    Of the objects of `like` where they are equal: two manifests that are kept take the room of one, and are read in less time.
    """
    ours = like or {}
    manifest = {
        path: ours[path] if ours.get(path) == tuple(fields) else entry_from_json(fields)
        for path, fields in data.items()
    }
    return ours if manifest == ours else manifest


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

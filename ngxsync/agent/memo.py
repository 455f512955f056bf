"""What the latest scan was answered with, kept beside its cache: an unchanged tree is neither hashed nor compared again.

Right for one manifest, one projection and one accepted generation, by a digest of them all and of where this code lies (its
folder is named by its content).
"""

import hashlib
import json
import os
from typing import Any, Dict, List, NamedTuple, Optional

from .known import write_quietly
from .manifest import Manifest, delta, snapshot_id
from .store import Damaged, Store, encoded

LARGEST = 1000  # paths that differ: more are found out anew
NAME = "scan.json"

Found = NamedTuple("Found", [("id", str), ("changed", Dict[str, Any])])


def compared(store: Store, manifest: Manifest, projection: Dict[str, Any], base: Optional[Dict[str, Any]]) -> Found:
    """The snapshot id, and what differs from the accepted record `base` (None: from nothing). Raises Damaged, of its manifest."""
    key = _key(manifest, projection, base, store.manifest_stamp(base))
    known = _read(store, key)
    if known is not None:
        return known
    changed = delta(store.accepted_manifest(base), manifest)
    entries = {path: None if entry is None else list(entry) for path, entry in changed.items()}
    found = Found(snapshot_id(manifest, projection), entries)
    if len(entries) <= LARGEST and os.path.isdir(store.root):
        write_quietly(store.path(NAME), encoded({"key": key, "id": found.id, "changed": entries}))
    return found


def _key(manifest: Manifest, projection: Dict[str, Any], base: Optional[Dict[str, Any]], stamp: List[int]) -> str:
    """`stamp` is of the accepted manifest's own file: one that is lost or damaged has to be met."""
    generation = None if base is None else base["generation"]
    digest = hashlib.sha256(json.dumps([os.path.abspath(__file__), projection, generation, stamp]).encode("ascii"))
    # no path, name or target holds the NUL that ends each field
    lines: List[str] = ["%s\0%s\0%d\0%s\0%s\0%d\0%d\0%s\0" % ((path,) + entry) for path, entry in manifest.items()]
    digest.update("".join(lines).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read(store: Store, key: str) -> Optional[Found]:
    try:
        data = store.read(NAME)
        if data and data["key"] == key and isinstance(data["id"], str) and isinstance(data["changed"], dict):
            return Found(data["id"], data["changed"])
    except (Damaged, OSError, TypeError, KeyError):
        pass  # only speed is lost
    return None

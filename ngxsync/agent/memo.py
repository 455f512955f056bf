"""What the latest scan was answered with, kept beside its cache: of an unchanged tree no entry is made again, nor compared.

Right for the trees of one seal, and for one accepted record and this very code, by a key of both.
"""

import hashlib
import json
import os
from typing import Any, Dict, List, NamedTuple, Optional

from .known import write_quietly
from .manifest import delta, snapshot_id
from .scan import Scan
from .store import Damaged, Store, encoded
from .survey import Seal

LARGEST = 1000  # paths that differ: more are found out anew
NAME = "scan.json"

Found = NamedTuple("Found", [("id", str), ("changed", Dict[str, Any]), ("empty", bool), ("specials", List[str])])
Memo = NamedTuple("Memo", [("key", str), ("seal", Optional[Seal]), ("found", Optional[Found])])
NONE = Memo("", None, None)


def key_of(store: Store, base: Optional[Dict[str, Any]]) -> str:
    """Of the accepted record that is compared with, of its manifest's own file (a lost or damaged one has to be met), and of
    where this code lies (its folder is named by its content)."""
    parts = [os.path.abspath(__file__), None if base is None else base["generation"], store.manifest_stamp(base)]
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def compared(store: Store, found: Scan, projection: Dict[str, Any], base: Optional[Dict[str, Any]]) -> Found:
    """The snapshot id, and what differs from the accepted record `base` (None: from nothing). Raises Damaged, of its manifest."""
    manifest = found.manifest
    changed = delta(store.accepted_manifest(base), manifest)
    entries = {path: None if entry is None else list(entry) for path, entry in changed.items()}
    is_empty = all(path in found.roots for path in manifest)
    return Found(snapshot_id(manifest, projection), entries, is_empty, found.specials)


def keep(store: Store, seal: Seal, base: Optional[Dict[str, Any]], found: Found) -> None:
    if len(found.changed) <= LARGEST and os.path.isdir(store.root):
        memo = {"key": key_of(store, base), "seal": list(seal), "found": list(found)}
        write_quietly(store.path(NAME), encoded(memo))


def read(store: Store) -> Memo:
    try:
        data = store.read(NAME) or {}
        rules, hidden, digest = data["seal"]
        seal = Seal(rules, {folder: [str(name) for name in names] for folder, names in hidden.items()}, digest)
        found = Found(*data["found"])
        if isinstance(found.id, str) and isinstance(found.changed, dict) and isinstance(found.specials, list):
            return Memo(data["key"], seal, found)
    except (Damaged, OSError, TypeError, KeyError, ValueError, AttributeError, RecursionError):
        pass  # only speed is lost
    return NONE

"""The stage of a rollback, from the store: each file a copy, verified while it is made, never a link to a blob (TRANSACTION, records)."""

import contextlib
import hashlib
import os
from typing import Dict, List

from .answers import Failure
from .manifest import is_clean, tree_of
from .paths import Anchor
from .store import BLOB_NAME, Store


def restore(store: Store, stages: Dict[str, str], wanted: Dict[str, str]) -> List[str]:
    """Put old contents {path: sha256} into the stage of each path's tree. Returns the paths whose content is not kept, or damaged.

    Called under the transaction lock. Raises OSError (no room), Failure for what no plan of ours would name.
    """
    missing = []
    for path, sha256 in sorted(wanted.items()):
        tree = tree_of(path, list(stages))
        if tree is None or path == tree or not is_clean(path) or not BLOB_NAME.match(sha256):
            raise Failure("agent", "nothing to restore: %r as %r" % (path, sha256))
        with Anchor.at(tree) as anchor:
            staged = stages[tree] + path[len(tree) :]
            make_folders(anchor, stages[tree], path[len(tree) + 1 :].split("/")[:-1])
            with anchor.parent(staged) as (folder, name):
                if not _copied(store.blob(sha256), sha256, name, folder):
                    missing.append(path)
    return missing


def make_folders(anchor: Anchor, stage: str, parts: List[str]) -> None:
    for depth in range(len(parts)):
        path = "/".join([stage] + parts[: depth + 1])
        with anchor.parent(path) as (folder, name), contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=folder)


def _copied(blob: str, sha256: str, name: str, folder: int) -> bool:
    """False, and nothing is left, where there is no such blob or its bytes are others."""
    try:
        reading = os.open(blob, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    digest = hashlib.sha256()
    with os.fdopen(reading, "rb") as reader:
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        with os.fdopen(writing, "wb") as writer:
            for block in iter(lambda: reader.read(1 << 20), b""):
                digest.update(block)
                writer.write(block)
    if digest.hexdigest() == sha256:
        return True
    os.unlink(name, dir_fd=folder)
    return False

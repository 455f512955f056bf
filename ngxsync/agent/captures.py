"""What a run replaces, kept in the store: before it is replaced, and again after, by what it holds then (TRANSACTION, records).

Kept first, so that a full disk stops a run while nothing is changed; looked at again, since somebody may have had it open.
"""

import os
import stat
from typing import Any, List

from .exchange import Exchange, PeerChanged, names_in
from .journal import Item
from .manifest import FILE
from .paths import is_being_written
from .scan import Unstable, hash_file
from .store import Store


def replaced_files(exchange: Exchange) -> List[Item]:
    return [
        item
        for item in exchange.items
        if item.action in ("exchange", "delete") and item.before is not None and item.before[0] == FILE
    ]


def keep_before(store: Store, exchange: Exchange) -> None:
    """Durable when this returns. Raises PeerChanged where a file is not what the plan says, OSError (no room)."""
    items = replaced_files(exchange)
    for item in items:
        size, expected = (item.before or [])[5:7]
        if not store.has_blob(expected, size):
            try:
                with exchange.live(item) as (folder, name):
                    kept = store.keep_blob(name, folder)
            except (FileNotFoundError, NotADirectoryError):
                raise PeerChanged(item.path)
            if kept != expected:
                raise PeerChanged(item.path)
    if items:
        store.sync_blobs()


def keep_after(store: Store, exchange: Exchange) -> List[str]:
    """Once accepted: the record of what was replaced, by what the captured files hold now. Returns warnings. Raises OSError."""
    warnings: List[str] = []
    kept = {item.path: _kept(store, exchange, item, warnings) for item in replaced_files(exchange)}
    record = [[item.path, item.before, item.after, kept.get(item.path)] for item in exchange.items]
    store.sync_blobs()
    store.write(os.path.join("runs", exchange.run + ".changes.json"), record)
    return warnings


def _kept(store: Store, exchange: Exchange, item: Item, warnings: List[str]) -> Any:
    before = (item.before or [])[6]
    try:
        prep, name = exchange.prep(item), str(item.number)
        try:
            kept = hash_file(name, prep)[0]
        except Unstable:
            kept = ""
        if is_being_written(name, prep):
            warnings.append(
                "%s: a process still writes to what was replaced; what it writes from now on is lost" % item.path
            )
    except FileNotFoundError:
        return before if store.has_blob(before) else None
    if kept != before:
        kept = store.keep_blob(name, prep)
        warnings.append("%s was written to while it was replaced: what was written is kept" % item.path)
    return kept


class Edits:
    """Edits that an undo finds in its way: kept as blobs, and named in runs/RUN.edits.json."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self.record: List[List[Any]] = []

    def keep(self, path: str, name: str, folder: int) -> None:
        """Of a directory everything below it. Raises OSError."""
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        content = ""
        if stat.S_ISREG(info.st_mode):
            content = self.store.keep_blob(name, folder)
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(name, dir_fd=folder)
        elif stat.S_ISDIR(info.st_mode):
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                for below in sorted(names_in(".", fd)):
                    self.keep(path + "/" + below, below, fd)
            finally:
                os.close(fd)
        self.record.append([path, info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, content])

    def write(self) -> None:
        """Durable when this returns."""
        if self.record:
            self.store.sync_blobs()
            name = os.path.join("runs", self.run + ".edits.json")
            self.store.write(name, (self.store.read(name) or []) + self.record)

"""Put back exactly what was there, after a refusal or after a crash (TRANSACTION, order on disk and recovery).

For each path: what we put there goes; what was there before stays; anything else was edited since: it is kept in the store,
reported, and the old entry put back. Inode numbers tell which is which, content where a file system has no lasting numbers;
so an undo that was itself interrupted is done again without harm.
"""

import errno
import os
import stat
from typing import Any, Callable, List, Optional

from . import renames
from .exchange import Exchange, entry_of
from .journal import Item
from .manifest import Entry, is_same
from .scan import Unstable, entry_at
from .xattrs import read_xattrs

Keep = Callable[[str, str, int], None]  # keep(path, name, folder): copy an edit into the store
ATTEMPTS = 100  # each fails only where somebody replaces the entry at that very instant


class Undo:
    """Undo of one exchange. `edited` and `failed` tell what a person must know afterwards."""

    def __init__(self, exchange: Exchange, keep: Keep) -> None:
        self.exchange, self.keep = exchange, keep
        self.edited: List[str] = []
        self.failed: List[str] = []

    def run(self) -> None:
        """All items in reverse order, durable at the end. A path that cannot be put back is told in `failed`; the others still are."""
        for item in reversed(self.exchange.items):
            try:
                with self.exchange.live(item) as (folder, name):
                    if item.action != "attributes":
                        renames.settle(self.exchange.prep(item), str(item.number), folder, name)
                    getattr(self, "_" + item.action)(item, folder, name)
            except (FileNotFoundError, NotADirectoryError) as error:
                # where its directory is not there (yet), nothing of ours is in it, unless something was captured from it
                if not self._is_untouched(item):
                    self._fail(item, error)
            except (OSError, KeyError, Unstable) as error:
                self._fail(item, error)
        try:
            self.exchange.sync_file_systems()
        except OSError as error:
            self.failed.append("%s" % error)

    def _fail(self, item: Item, error: Exception) -> None:
        self.failed.append("%s: %s" % (item.path, getattr(error, "strerror", None) or error))

    def _is_untouched(self, item: Item) -> bool:
        try:
            return item.action not in ("exchange", "delete") or self._inode(item) in (0, item.prepared_inode)
        except OSError:
            return False

    def _inode(self, item: Item) -> int:
        return renames.inode(str(item.number), self.exchange.prep(item))

    def _is_prepared(self, item: Item) -> bool:
        """Whether what lies in our folder is still, or again, what we prepared."""
        if self._inode(item) == item.prepared_inode:
            return True
        try:
            found = entry_at(str(item.number), self.exchange.prep(item), self.exchange.names)
        except Unstable:
            return False  # somebody writes to it: it was live
        return found is not None and is_same(found, entry_of(item.after))

    def _exchange(self, item: Item, folder: int, name: str) -> None:
        if self._is_prepared(item):
            return  # never exchanged, or put back before
        if renames.inode(name, folder) != item.live_inode:
            self._bring_back(item, folder, name)
        self._note_edit(item)

    def _delete(self, item: Item, folder: int, name: str) -> None:
        if not self._inode(item):
            return  # never deleted, or put back before
        if renames.inode(name, folder) != item.live_inode:
            self._bring_back(item, folder, name)
        self._note_edit(item)

    def _bring_back(self, item: Item, folder: int, name: str) -> None:
        """The captured entry is live again; what was live meanwhile then lies in our folder."""
        prep, captured = self.exchange.prep(item), str(item.number)
        if not self._inode(item):
            raise OSError(errno.ENOENT, "what was captured is gone")
        for _ in range(ATTEMPTS):
            try:
                renames.exchange(prep, captured, folder, name)
                return
            except FileNotFoundError:
                pass
            try:
                renames.create(prep, captured, folder, name)
                if item.after is not None:
                    self.edited.append(item.path)  # somebody deleted what we had put there
                return
            except FileExistsError:
                continue
        raise OSError(errno.EBUSY, "somebody keeps replacing it")

    def _create(self, item: Item, folder: int, name: str) -> None:
        if not self._inode(item):
            try:
                os.rename(name, str(item.number), src_dir_fd=folder, dst_dir_fd=self.exchange.prep(item))
            except FileNotFoundError:
                self.edited.append(item.path)  # somebody deleted it
                return
        self._note_edit(item)

    def _mkdir(self, item: Item, folder: int, name: str) -> None:
        if self._inode(item):
            return  # never made
        try:
            os.rmdir(name, dir_fd=folder)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            self._create(item, folder, name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self.edited.append(item.path)  # somebody put something into it since: it stays

    def _rmdir(self, item: Item, folder: int, name: str) -> None:
        """Its like lies ready in our folder, so that this needs no room and a crash leaves no half of it."""
        prep, fresh = self.exchange.prep(item), str(item.number)
        if not _is_folder(name, folder):
            if not self._inode(item):  # a journal of a release that made none
                os.mkdir(fresh, 0o700, dir_fd=prep)
            self.exchange.set_entry_attributes(fresh, prep, self.exchange.entry(item.before), item.xattrs)
            self._bring_back(item, folder, name)
        if self._inode(item) and not _is_folder(fresh, prep):
            self._note_edit(item)  # what somebody put in its place

    def _attributes(self, item: Item, folder: int, name: str) -> None:
        before, after = self.exchange.entry(item.before), self.exchange.entry(item.after)
        live = self.exchange.look(name, folder)
        if live is None or live.kind != before.kind or live.content != before.content:
            self.edited.append(item.path)  # its content was never ours: the edit stays, its time too
            if live is None or live.kind != before.kind:
                return
            before = before._replace(mtime_ns=live.mtime_ns)
        elif not is_same(live, before) and not is_same(live, after) and renames.inode(name, folder) != item.live_inode:
            self.edited.append(item.path)
        if live != before or read_xattrs(name, folder) != item.xattrs:
            self.exchange.set_entry_attributes(name, folder, before, item.xattrs)

    def _note_edit(self, item: Item) -> None:
        """What lies in our folder now and is not what we prepared: somebody's work."""
        found = self._found(item)
        if found is None or (item.after is not None and is_same(found, entry_of(item.after))):
            return
        self.edited.append(item.path)
        self.keep(item.path, str(item.number), self.exchange.prep(item))

    def _found(self, item: Item) -> Optional[Entry]:
        prep, name = self.exchange.prep(item), str(item.number)
        try:
            return entry_at(name, prep, self.exchange.names)
        except Unstable:
            info: Any = os.stat(name, dir_fd=prep, follow_symlinks=False)
            return Entry("file", info.st_mode & 0o7777, "", "", info.st_mtime_ns, info.st_size, "still written to")


def _is_folder(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False

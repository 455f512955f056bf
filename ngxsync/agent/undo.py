"""Put back exactly what was there, after a refusal or after a crash (TRANSACTION, order on disk and recovery).

For each path: what we put there goes; what was there before stays; anything else was edited since: it is kept in the store,
reported, and the old content put back. What decides is whether the prepared entry still lies in its folder: then nothing happened.
"""

import errno
import os
from typing import Callable, List, Optional

from .exchange import Exchange, entry_of
from .journal import Item
from .manifest import DIR, Entry, is_same
from .paths import set_attributes
from .scan import entry_at
from .xattrs import put_xattrs

Keep = Callable[[str, str, int], None]  # keep(path, name, folder): copy an edit into the store


class Undo:
    """Undo of one exchange. `edited` and `failed` tell what a person must know afterwards."""

    def __init__(self, exchange: Exchange, keep: Keep) -> None:
        self.exchange, self.keep = exchange, keep
        self.edited: List[str] = []
        self.failed: List[str] = []

    def run(self) -> None:
        """All items in reverse order. A path that cannot be put back is told in `failed`; the others still are."""
        for item in reversed(self.exchange.items):
            try:
                getattr(self, "_" + item.action)(item)
            except OSError as error:
                self.failed.append("%s: %s" % (item.path, error.strerror or error))

    def _prepared(self, item: Item) -> Optional[Entry]:
        prep = self.exchange.prep(item)
        old = "%d.old" % item.number
        if entry_at(old, prep, self.exchange.names) is not None:  # a crash between link and rename
            os.rename(old, str(item.number), src_dir_fd=prep, dst_dir_fd=prep)
        return entry_at(str(item.number), prep, self.exchange.names)

    def _exchange(self, item: Item) -> None:
        captured = self._prepared(item)
        if is_same(captured, entry_of(item.after)):
            return  # never exchanged
        if captured is None:
            raise OSError(errno.ENOENT, "the captured content is gone")
        with self.exchange.live(item) as (folder, name):
            live = entry_at(name, folder, self.exchange.names)
            self._note_edit(item, live, folder, name)
            if live is None:
                self._rename_back(item, folder, name)
            else:
                self.exchange.swap(item, folder, name)

    def _create(self, item: Item) -> None:
        if self._prepared(item) is not None:
            return  # never created
        with self.exchange.live(item) as (folder, name):
            live = entry_at(name, folder, self.exchange.names)
            if live is not None:
                self._note_edit(item, live, folder, name)
                if live.kind == DIR:
                    self._remove_folder(item, folder, name)
                else:
                    os.rename(name, str(item.number), src_dir_fd=folder, dst_dir_fd=self.exchange.prep(item))

    def _mkdir(self, item: Item) -> None:
        if self._prepared(item) is not None:
            return
        with self.exchange.live(item) as (folder, name):
            self._remove_folder(item, folder, name)

    def _remove_folder(self, item: Item, folder: int, name: str) -> None:
        try:
            os.rmdir(name, dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            self.edited.append(item.path)  # somebody put something into it since: it stays

    def _delete(self, item: Item) -> None:
        captured = self._prepared(item)
        if captured is None:
            return  # never deleted
        with self.exchange.live(item) as (folder, name):
            live = entry_at(name, folder, self.exchange.names)
            if live is None:
                self._rename_back(item, folder, name)
            else:
                self._note_edit(item, live, folder, name)
                self.exchange.swap(item, folder, name)

    def _rename_back(self, item: Item, folder: int, name: str) -> None:
        os.rename(str(item.number), name, src_dir_fd=self.exchange.prep(item), dst_dir_fd=folder)

    def _rmdir(self, item: Item) -> None:
        before = entry_of(item.before)
        assert before is not None
        with self.exchange.live(item) as (folder, name):
            if entry_at(name, folder, self.exchange.names) is not None:
                return
            os.mkdir(name, 0o700, dir_fd=folder)
            put_xattrs(name, folder, item.xattrs)
            ids = self.exchange.ids
            set_attributes(name, folder, before.mode, ids.user(before.owner), ids.group(before.group))

    def _attributes(self, item: Item) -> None:
        with self.exchange.live(item) as (folder, name):
            live = self.exchange.look(name, folder)
            before, after = entry_of(item.before), entry_of(item.after)
            if live is None or before is None or after is None:
                self.edited.append(item.path)
                return
            if (live.kind, live.content) != (after.kind, after.content):
                self.edited.append(item.path)
                if live.kind != before.kind:
                    return
            if live != before:
                self.exchange.set_entry_attributes(name, folder, before)

    def _note_edit(self, item: Item, live: Optional[Entry], folder: int, name: str) -> None:
        if is_same(live, entry_of(item.after)):
            return
        self.edited.append(item.path)
        if live is not None and live.kind == "file":
            self.keep(item.path, name, folder)

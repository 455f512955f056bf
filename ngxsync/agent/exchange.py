"""Apply and undo: each path exchanged atomically with what was planned to be there (TRANSACTION, apply).

What is captured is what was there at that instant. Captured and prepared entries lie in HOME/.ngxsync/RUN/prep/NUMBER, where HOME
is the tree or the mount below it, so that rename works. Where a captured entry is not the plan's before, undo puts it back.
"""

import contextlib
import errno
import os
import stat
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import kernel, renames
from .journal import Item
from .manifest import DIR, Entry, entry_from_json, is_same
from .paths import Anchor, set_mode, set_owner
from .scan import Unstable, entry_at
from .survey import OWN_FOLDER, Names
from .xattrs import put_xattrs, read_xattrs


class PeerChanged(Exception):
    """A path is not what the plan says was there: the peer changed meanwhile; it is planned anew."""

    def __init__(self, path: str) -> None:
        super(PeerChanged, self).__init__(path)
        self.path = path


class StageDiffers(Exception):
    """A staged or prepared file is missing or is not what the plan says: the master changed, or somebody tampered."""


class NotEmpty(Exception):
    """A directory that was to become something else still holds excluded or special entries."""

    def __init__(self, path: str) -> None:
        super(NotEmpty, self).__init__(path)
        self.path = path


def action_of(before: Optional[Entry], after: Optional[Entry]) -> str:
    if before is None:
        return "mkdir" if after is not None and after.kind == DIR else "create"
    if after is None:
        return "rmdir" if before.kind == DIR else "delete"
    same = before.kind == after.kind and before.content == after.content
    return "attributes" if same else "exchange"


def entry_of(fields: Optional[List[Any]]) -> Optional[Entry]:
    return None if fields is None else entry_from_json(fields)


class Exchange:
    """One run's work on the live trees. `ids` maps owner and group names to numbers."""

    def __init__(self, run: str, items: List[Item], names: Names, ids: "Ids") -> None:
        self.run, self.items, self.names, self.ids = run, items, names, ids
        self.linked = False  # True where renameat2 is missing: the record says so
        self.kept: List[str] = []  # directories that stayed since they hold excluded entries
        self.verified: Dict[int, Tuple[int, int]] = {}  # number -> times of the prepared entry when it was as planned
        self._stack = contextlib.ExitStack()
        self._anchors: Dict[str, Anchor] = {}
        self._preps: Dict[str, int] = {}

    def __enter__(self) -> "Exchange":
        return self

    def __exit__(self, *_error: Any) -> None:
        self._stack.close()

    def anchor(self, tree: str) -> Anchor:
        if tree not in self._anchors:
            self._anchors[tree] = self._stack.enter_context(Anchor.at(tree))
        return self._anchors[tree]

    def prep(self, item: Item) -> int:
        """Descriptor of the folder with this item's prepared or captured entry."""
        if item.home not in self._preps:
            folder = item.home + "/" + OWN_FOLDER + "/" + self.run + "/prep"
            self._preps[item.home] = self._stack.enter_context(self.anchor(item.tree).folder(folder))
        return self._preps[item.home]

    @contextlib.contextmanager
    def live(self, item: Item) -> Iterator[Tuple[int, str]]:
        """(descriptor of the path's directory, name). The tree itself is its own "." """
        if item.path == item.tree:
            yield self.anchor(item.tree).fd, "."
            return
        with self.anchor(item.tree).parent(item.path) as place:
            yield place

    @staticmethod
    def entry(fields: Optional[List[Any]]) -> Entry:
        """An entry that the item's action says is there. Raises ValueError where it is not."""
        if fields is None:
            raise ValueError("an entry is missing")
        return entry_from_json(fields)

    def look(self, name: str, folder: int, known: Optional[str] = None) -> Optional[Entry]:
        """The live entry of a name; "." is the folder itself."""
        return root_entry(folder, self.names) if name == "." else entry_at(name, folder, self.names, known)

    def sync_file_systems(self) -> None:
        """All that was prepared or exchanged is on disk when this returns."""
        folders = {os.fstat(fd).st_dev: fd for fd in {self.prep(item) for item in self.items}}
        for fd in folders.values():
            kernel.syncfs(fd)

    # apply

    def apply(self) -> None:
        """All items in order. Raises PeerChanged, NotEmpty or OSError; the caller then undoes, which puts back what was captured."""
        for item in self.items:
            try:
                with self.live(item) as (folder, name):
                    getattr(self, "_" + item.action)(item, folder, name)
            except (FileNotFoundError, NotADirectoryError, FileExistsError, Unstable):
                raise PeerChanged(item.path)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise PeerChanged(item.path)
                raise

    def note_verified(self, item: Item) -> None:
        self.verified[item.number] = self._times(item)

    def _times(self, item: Item) -> Tuple[int, int]:
        info = os.stat(str(item.number), dir_fd=self.prep(item), follow_symlinks=False)
        return info.st_mtime_ns, info.st_ctime_ns

    def _raise_if_touched(self, item: Item) -> None:
        """What was tested is what goes live: no write, be it in place, goes by without a new ctime."""
        if self._times(item) != self.verified[item.number]:
            raise StageDiffers(item.path)

    def _exchange(self, item: Item, folder: int, name: str) -> None:
        self._raise_if_touched(item)

        def check(captured: str, place: int) -> None:
            raise_if_other(item, entry_at(captured, place, self.names))

        self.linked |= renames.exchange(self.prep(item), str(item.number), folder, name, check)
        check(str(item.number), self.prep(item))
        if item.before is not None and item.before[0] == DIR and names_in(str(item.number), self.prep(item)):
            raise NotEmpty(item.path)

    def _create(self, item: Item, folder: int, name: str) -> None:
        self._raise_if_touched(item)
        self.linked |= renames.create(self.prep(item), str(item.number), folder, name)

    _mkdir = _create

    def _delete(self, item: Item, folder: int, name: str) -> None:
        os.rename(name, str(item.number), src_dir_fd=folder, dst_dir_fd=self.prep(item))
        raise_if_other(item, entry_at(str(item.number), self.prep(item), self.names))

    def _rmdir(self, item: Item, folder: int, name: str) -> None:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                raise
            self.kept.append(item.path)

    def _attributes(self, item: Item, folder: int, name: str) -> None:
        raise_if_other(item, self.look(name, folder))
        self.set_entry_attributes(name, folder, self.entry(item.after), item.xattrs)

    def set_entry_attributes(
        self, name: str, folder: int, entry: Entry, xattrs: Optional[Dict[str, str]] = None
    ) -> List[str]:
        """Owner first (it takes setuid bits and capabilities away), then extended attributes (an ACL changes the mode), mode, mtime.

        Returns the extended attributes that were refused. Raises OSError, and KeyError for an unknown owner.
        """
        set_owner(name, folder, self.ids.user(entry.owner), self.ids.group(entry.group))
        present = read_xattrs(name, folder)
        refused = put_xattrs(name, folder, {k: v for k, v in (xattrs or {}).items() if present.get(k) != v})
        set_mode(name, folder, entry.mode)
        if entry.kind != DIR:
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)
        return refused


def raise_if_other(item: Item, found: Optional[Entry]) -> None:
    """Raises PeerChanged where what was found is not the plan's before."""
    if not is_same(found, entry_of(item.before)):
        raise PeerChanged(item.path)


class Ids:
    """Names to numbers, the reverse of scan.Names: "" leaves an id as it is, "#7" is 7. Raises KeyError for an unknown name."""

    def user(self, name: str) -> int:
        import pwd

        return -1 if not name else int(name[1:]) if name.startswith("#") else pwd.getpwnam(name).pw_uid

    def group(self, name: str) -> int:
        import grp

        return -1 if not name else int(name[1:]) if name.startswith("#") else grp.getgrnam(name).gr_gid


def names_in(name: str, folder: int) -> List[str]:
    """What an entry that is a directory holds."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def root_entry(folder: int, names: Names) -> Entry:
    info = os.fstat(folder)
    owner, group = names.of(info)
    return Entry(DIR, stat.S_IMODE(info.st_mode), owner, group, 0, 0, "")

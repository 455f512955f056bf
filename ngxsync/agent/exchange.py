"""Apply and undo: each path exchanged atomically with what was planned to be there (TRANSACTION, apply).

What is captured is what was there at that instant. Captured and prepared entries lie in HOME/.ngxsync/RUN/prep/NUMBER, where HOME
is the tree or the mount below it, so that rename works.
"""

import contextlib
import errno
import os
import stat
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import kernel
from .journal import Item
from .manifest import DIR, Entry, entry_from_json, is_same
from .paths import Anchor, set_attributes
from .scan import OWN_FOLDER, Names, entry_at


class PeerChanged(Exception):
    """A path is not what the plan says was there: the peer changed meanwhile; it is planned anew."""

    def __init__(self, path: str, found: Optional[Entry]) -> None:
        super(PeerChanged, self).__init__(path)
        self.path, self.found = path, found


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

    def optional(self, fields: Optional[List[Any]]) -> Optional[Entry]:
        return entry_of(fields)

    def look(self, name: str, folder: int, known: Any = None) -> Optional[Entry]:
        """The live entry of a name; "." is the folder itself."""
        return root_entry(folder, self.names) if name == "." else entry_at(name, folder, self.names, known)

    def sync_file_systems(self) -> None:
        """All that was prepared or exchanged is on disk when this returns."""
        for fd in {self.prep(item) for item in self.items}:
            kernel.syncfs(fd)

    # apply

    def apply(self) -> None:
        """All items in order. Raises PeerChanged or NotEmpty, or OSError; the caller then undoes."""
        for item in self.items:
            with self.live(item) as (folder, name):
                getattr(self, "_" + item.action)(item, folder, name)

    def _exchange(self, item: Item, folder: int, name: str) -> None:
        self.swap(item, folder, name)
        self._expect(item, entry_at(str(item.number), self.prep(item), self.names), folder, name)

    def swap(self, item: Item, folder: int, name: str) -> None:
        prepared = str(item.number)
        try:
            kernel.renameat2(self.prep(item), prepared, folder, name, kernel.RENAME_EXCHANGE)
        except FileNotFoundError:
            raise PeerChanged(item.path, None)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EINVAL):
                raise
            self._link_and_rename(item, folder, name)

    def _link_and_rename(self, item: Item, folder: int, name: str) -> None:
        """Without renameat2: an edit that falls between the two calls is lost, so the record says that this was used."""
        self.linked = True
        prep, prepared = self.prep(item), str(item.number)
        os.link(name, prepared + ".old", src_dir_fd=folder, dst_dir_fd=prep, follow_symlinks=False)
        os.rename(prepared, name, src_dir_fd=prep, dst_dir_fd=folder)
        os.rename(prepared + ".old", prepared, src_dir_fd=prep, dst_dir_fd=prep)

    def _expect(self, item: Item, captured: Optional[Entry], folder: int, name: str) -> None:
        """What was captured must be the plan's before; else it goes back at once."""
        before = entry_of(item.before)
        if captured is not None and captured.kind == DIR and before is not None and before.kind == DIR:
            if _holds_something(str(item.number), self.prep(item)):
                self.swap(item, folder, name)
                raise NotEmpty(item.path)
        if not is_same(captured, before):
            self.swap(item, folder, name)
            raise PeerChanged(item.path, captured)

    def _create(self, item: Item, folder: int, name: str) -> None:
        try:
            kernel.renameat2(self.prep(item), str(item.number), folder, name, kernel.RENAME_NOREPLACE)
        except FileExistsError:
            raise PeerChanged(item.path, entry_at(name, folder, self.names))
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EINVAL):
                raise
            self.linked = True
            self._create_by_link(item, folder, name)

    def _create_by_link(self, item: Item, folder: int, name: str) -> None:
        prep, prepared = self.prep(item), str(item.number)
        if item.action == "mkdir":
            os.mkdir(name, dir_fd=folder)
            os.rename(prepared, name, src_dir_fd=prep, dst_dir_fd=folder)
            return
        os.link(prepared, name, src_dir_fd=prep, dst_dir_fd=folder, follow_symlinks=False)
        os.unlink(prepared, dir_fd=prep)

    _mkdir = _create

    def _delete(self, item: Item, folder: int, name: str) -> None:
        prep = self.prep(item)
        try:
            os.rename(name, str(item.number), src_dir_fd=folder, dst_dir_fd=prep)
        except FileNotFoundError:
            raise PeerChanged(item.path, None)
        captured = entry_at(str(item.number), prep, self.names)
        if not is_same(captured, entry_of(item.before)):
            _put_back(prep, str(item.number), folder, name)
            raise PeerChanged(item.path, captured)

    def _rmdir(self, item: Item, folder: int, name: str) -> None:
        try:
            os.rmdir(name, dir_fd=folder)
        except FileNotFoundError:
            raise PeerChanged(item.path, None)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                raise
            self.kept.append(item.path)

    def _attributes(self, item: Item, folder: int, name: str) -> None:
        found = self.look(name, folder)
        if not is_same(found, entry_of(item.before)):
            raise PeerChanged(item.path, found)
        self.set_entry_attributes(name, folder, self.entry(item.after))

    @staticmethod
    def entry(fields: Optional[List[Any]]) -> Entry:
        """An entry that the item's action says is there. Raises ValueError where it is not."""
        if fields is None:
            raise ValueError("an entry is missing")
        return entry_from_json(fields)

    def set_entry_attributes(self, name: str, folder: int, entry: Entry) -> None:
        set_attributes(name, folder, entry.mode, self.ids.user(entry.owner), self.ids.group(entry.group))
        if entry.kind != DIR:
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)


class Ids:
    """Names to numbers, the reverse of scan.Names: "" leaves an id as it is, "#7" is 7. Raises KeyError for an unknown name."""

    def user(self, name: str) -> int:
        import pwd

        return -1 if not name else int(name[1:]) if name.startswith("#") else pwd.getpwnam(name).pw_uid

    def group(self, name: str) -> int:
        import grp

        return -1 if not name else int(name[1:]) if name.startswith("#") else grp.getgrnam(name).gr_gid


def _holds_something(name: str, folder: int) -> bool:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        return bool(os.listdir(fd))
    finally:
        os.close(fd)


def root_entry(folder: int, names: Names) -> Entry:
    info = os.fstat(folder)
    owner, group = names.of(info)
    return Entry(DIR, stat.S_IMODE(info.st_mode), owner, group, 0, 0, "")


def _put_back(prep: int, captured: str, folder: int, name: str) -> None:
    try:
        kernel.renameat2(prep, captured, folder, name, kernel.RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        os.rename(captured, name, src_dir_fd=prep, dst_dir_fd=folder)

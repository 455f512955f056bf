"""What stat alone says of trees: every name with the mark that it is known by, and one seal over all of them.

Two surveys of the same seal saw the same trees: what the scan of the first one found needs to be neither read nor made again.
Excludes are applied here and in scan.py, nowhere else. Directories are asked of them each time; of the files those that the
scan before found excluded are known by name, and no edit of theirs counts.
"""

import grp
import hashlib
import json
import os
import pwd
import re
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .known import MARK, STAT, boot_id, rules_digest

OWN_FOLDER = ".ngxsync"

# what follows the name of an entry that is no regular file: "/MODE UID GID", "@MTIME@MODE UID GID@TARGET", or one of these
DIR_MARK, LINK_MARK, SPECIAL_MARK, HIDDEN_MARK, HIDDEN_DIR_MARK = "/", "@", "s", "-", "-/"

Folder = NamedTuple(
    "Folder",
    [
        ("path", str),  # as a manifest has it
        ("real", str),
        ("rows", List[str]),  # name, mark, name, mark: a flat list takes half the room of pairs
    ],
)
Tree = NamedTuple(
    "Tree", [("path", str), ("mark", str), ("rules", "Rules"), ("now_ns", int), ("folders", List[Folder])]
)
Survey = NamedTuple(
    "Survey",
    [
        ("projection", Dict[str, Any]),
        ("rules", str),  # digest of the excludes
        ("trees", List[Tree]),
        ("roots", Dict[str, Any]),  # tree -> {"real", "dev", "ino", "fsid", "mounts"}
        ("owners", Dict[Tuple[int, int], Tuple[str, str]]),  # the names of each (uid, gid)
        ("hidden", Dict[str, List[str]]),  # folder -> names that are excluded there, directories' with a slash
        ("unread", List[str]),  # "path: reason"
    ],
)
Seal = NamedTuple("Seal", [("rules", str), ("hidden", Dict[str, List[str]]), ("digest", str)])


class Names:
    """User and group names by id, each looked up once; "#ID" where the host has no name."""

    def __init__(self, count: bool) -> None:
        self._count = count
        self._users: Dict[int, str] = {}
        self._groups: Dict[int, str] = {}

    def of(self, info: os.stat_result) -> Tuple[str, str]:
        return self.of_ids(info.st_uid, info.st_gid)

    def of_ids(self, uid: int, gid: int) -> Tuple[str, str]:
        if not self._count:
            return "", ""
        if uid not in self._users:
            self._users[uid] = _name(lambda i: pwd.getpwuid(i).pw_name, uid)
        if gid not in self._groups:
            self._groups[gid] = _name(lambda i: grp.getgrgid(i).gr_name, gid)
        return self._users[uid], self._groups[gid]


def _name(look_up: Callable[[int], str], number: int) -> str:
    try:
        return look_up(number)
    except KeyError:
        return "#%d" % number


class Rules:
    """The compiled excludes of one tree; the last rule that matches decides."""

    def __init__(self, rules: List[Any]) -> None:
        # two alternations answer the common case (nothing matches) in one look
        self._any = re.compile("|".join("(?:%s)" % regex for regex, _ in rules) or r"(?!)")
        self._rules = [(re.compile(regex), bool(excluded)) for regex, excluded in rules]

    def excludes(self, relative: str, is_dir: bool) -> bool:
        name = relative + "/" if is_dir else relative
        if not self._any.match(name):
            return False
        for regex, excluded in reversed(self._rules):
            if regex.match(name):
                return bool(excluded)
        return False


def file_system_clock(folder: str) -> int:
    """Now, in ns, as the file system that holds this folder tells it; 0 (nothing is old enough to keep) where it cannot be asked."""
    if not folder:
        return 0
    name = ".clock.%d" % os.getpid()
    try:
        # whoever owns the tree could have put a link there
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return _written_at(name, place)
        finally:
            os.close(place)
    except OSError:
        return 0


def _written_at(name: str, place: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=place)
    try:
        os.unlink(name, dir_fd=place)
        os.write(fd, b".")
        return os.fstat(fd).st_ctime_ns
    finally:
        os.close(fd)


def mounts_below(root: str) -> List[str]:
    """Mount points strictly below root, as this process sees them."""
    found = set()
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            point = os.fsdecode(unescape_mount(line.split()[4]))
            if point.startswith(root.rstrip("/") + "/"):
                found.add(point)
    return sorted(found)


def unescape_mount(field: bytes) -> bytes:
    """mountinfo writes space, tab, newline and backslash as octal."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match.group(1), 8)]), field)


def survey(projection: Dict[str, Any], clock_folder: Optional[str] = None, before: Optional[Seal] = None) -> Survey:
    """All trees of a projection, in the order of their names; `before` is the seal of an earlier scan.

    Raises OSError where a root exists and cannot be read. A root that is absent gives no tree and no record in `roots`.
    """
    rules = rules_digest(projection)
    hidden = before.hidden if before is not None and before.rules == rules else {}
    seen = Survey(projection, rules, [], {}, {}, {}, [])
    for tree in projection["trees"]:
        _add_tree(seen, tree, clock_folder, hidden)
    names = Names(projection["owners"])
    seen.owners.update({ids: names.of_ids(*ids) for ids in seen.owners})
    return seen


def seal_of(seen: Survey) -> Seal:
    """Over all that a scan tells and all that it goes by; of this boot, since a power cut may take bytes back and leave the times."""
    owners = sorted([*ids, *names] for ids, names in seen.owners.items())
    marks = [[tree.path, tree.mark] for tree in seen.trees]
    head = json.dumps([boot_id(), seen.projection, seen.roots, owners, marks], sort_keys=True)
    digest = hashlib.sha256(head.encode("ascii"))
    for tree in seen.trees:
        for folder in tree.folders:
            # no path, name or target holds the NUL that ends each field, and none is empty: two of them begin a folder
            fields = "\0".join(["", folder.path] + folder.rows + [""])
            digest.update(fields.encode("utf-8", "surrogateescape"))
    return Seal(seen.rules, seen.hidden, digest.hexdigest())


def is_as_before(seen: Survey, before: Optional[Seal]) -> bool:
    """Whether the scan that gave this seal found what is there now."""
    return before is not None and not seen.unread and seal_of(seen).digest == before.digest


def _file_system_id(path: str) -> str:
    """The file system's own, which ext4 and btrfs keep where device numbers change at boot; "" where there is none (Python 3.6)."""
    number = getattr(os.statvfs(path), "f_fsid", 0)
    return "%x" % number if number else ""


def _add_tree(seen: Survey, tree: Dict[str, Any], clock_folder: Optional[str], hidden: Dict[str, List[str]]) -> None:
    root = tree["path"]
    real = os.path.realpath(root)
    try:
        info = os.stat(real)
    except FileNotFoundError:
        return
    own = os.path.join(real, OWN_FOLDER)
    is_own = os.path.isdir(own) and not os.path.islink(own)
    now_ns = file_system_clock(own if is_own else os.path.realpath(clock_folder) if clock_folder else "")
    seen.roots[root] = {
        "real": real,
        "dev": info.st_dev,
        "ino": info.st_ino,
        "fsid": _file_system_id(real),
        "mounts": [os.path.relpath(point, real) for point in mounts_below(real)],
    }
    seen.owners[info.st_uid, info.st_gid] = "", ""
    walk = _Walk(Tree(root, DIR_MARK + _attributes(info), Rules(tree["exclude"]), now_ns, []), seen, hidden)
    seen.trees.append(walk.tree)
    walk.run(real)


def _attributes(info: os.stat_result) -> str:
    return "%d %d %d" % (info.st_mode, info.st_uid, info.st_gid)


class _Walk:
    """One tree; a class only because its functions share these values."""

    def __init__(self, tree: Tree, seen: Survey, hidden: Dict[str, List[str]]) -> None:
        self.tree, self.seen, self.hidden = tree, seen, hidden

    def run(self, real: str) -> None:
        folders = [Folder(self.tree.path, real, [])]
        while folders:
            folder = folders.pop()
            try:
                below = self._folder(folder)
            except OSError as error:
                if folder.path == self.tree.path:
                    raise
                if not isinstance(error, FileNotFoundError):
                    self.seen.unread.append("%s: %s" % (folder.path, error.strerror))
                continue
            self.tree.folders.append(folder)
            folders += [Folder(folder.path + "/" + name, folder.real + "/" + name, []) for name in reversed(below)]

    def _folder(self, folder: Folder) -> List[str]:
        # a file is looked at by its name in the open folder: the kernel need not find the folder once more for each
        place = os.open(folder.real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            names = sorted(os.listdir(place))
            return self._rows(folder, place, [name for name in names if name != OWN_FOLDER])
        finally:
            os.close(place)

    def _rows(self, folder: Folder, place: int, names: List[str]) -> List[str]:
        """Fills its rows and gives the directories that are to be entered. Nearly all of a scan of unchanged trees is this loop."""
        rows, owners, below = folder.rows, self.seen.owners, []
        hidden = frozenset(self.hidden.get(folder.path, ()))
        for name in names:
            try:
                info = os.stat(name, dir_fd=place, follow_symlinks=False)
                fields = STAT(info)
                if S_ISREG(info.st_mode):
                    mark = HIDDEN_MARK if name in hidden else MARK % fields
                else:
                    mark = self._other(folder, place, name, info)
            except FileNotFoundError:
                continue  # gone between listing and reading: as if it had never been listed
            except OSError as error:
                self.seen.unread.append("%s/%s: %s" % (folder.path, name, error.strerror))
                continue
            if fields[6:] not in owners:
                owners[fields[6:]] = "", ""
            rows += name, mark
            if mark[0] == DIR_MARK:
                below.append(name)
        self._hide(folder)
        return below

    def _other(self, folder: Folder, place: int, name: str, info: os.stat_result) -> str:
        """The mark of what is no regular file."""
        is_dir = S_ISDIR(info.st_mode)
        if self.tree.rules.excludes(relative_to(self.tree, folder, name), is_dir):
            return HIDDEN_DIR_MARK if is_dir else HIDDEN_MARK
        if is_dir:
            return DIR_MARK + _attributes(info)
        if S_ISLNK(info.st_mode):
            return LINK_MARK.join(["", str(info.st_mtime_ns), _attributes(info), os.readlink(name, dir_fd=place)])
        return SPECIAL_MARK

    def _hide(self, folder: Folder) -> None:
        marks = folder.rows[1::2]
        if HIDDEN_MARK in marks or HIDDEN_DIR_MARK in marks:
            pairs = zip(folder.rows[::2], marks)
            self.seen.hidden[folder.path] = [name + mark[1:] for name, mark in pairs if mark[0] == HIDDEN_MARK]


def relative_to(tree: Tree, folder: Folder, name: str) -> str:
    return (folder.path + "/" + name)[len(tree.path) + 1 :]

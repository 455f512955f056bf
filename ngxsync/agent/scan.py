"""Reads trees into manifests: the same code on master and peer. Excludes are applied here and nowhere else.

File hashes are kept by (device, inode, size, mtime, ctime): an unchanged file costs one lstat. Entries whose ctime is within
2 s of the file system's own clock are used but not kept, since older kernels give ctime one tick (DESIGN 3, step 2).
Where the excludes are those of the scan before, a file that is as it was then is not asked of them again.
"""

import errno
import grp
import hashlib
import os
import pwd
import re
import stat
from operator import attrgetter
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from .known import SHA, Known, content_of, mark_of, nothing, rules_digest
from .manifest import DIR, FILE, LINK, Entry, Manifest

OWN_FOLDER = ".ngxsync"
SPECIAL = "special"  # the kind of sockets, devices and pipes, in no manifest
FRESH_NS = 2 * 10**9
ATTEMPTS = 5

Signature = Tuple[int, int, int, int, int]

Scan = NamedTuple(
    "Scan",
    [
        ("manifest", Manifest),
        ("specials", List[str]),  # sockets, devices, pipes: reported and left alone
        ("roots", Dict[str, Any]),  # tree -> {"real", "dev", "ino", "mounts"}
        ("known", Known),  # its files, but for those that are too young
        ("unread", List[str]),  # "path: reason" of what could not be read
        ("kept_apart", List[str]),  # for each directory that holds excluded entries one of them
    ],
)


class Unstable(Exception):
    """A file went on changing while it was read; somebody is writing it now."""


def signature(info: os.stat_result) -> Signature:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


class Names:
    """User and group names by id, each looked up once; "#ID" where the host has no name."""

    def __init__(self, count: bool) -> None:
        self._count = count
        self._users: Dict[int, str] = {}
        self._groups: Dict[int, str] = {}

    def of(self, info: os.stat_result) -> Tuple[str, str]:
        if not self._count:
            return "", ""
        if info.st_uid not in self._users:
            self._users[info.st_uid] = _name(lambda i: pwd.getpwuid(i).pw_name, info.st_uid)
        if info.st_gid not in self._groups:
            self._groups[info.st_gid] = _name(lambda i: grp.getgrgid(i).gr_name, info.st_gid)
        return self._users[info.st_uid], self._groups[info.st_gid]


def _name(look_up: Callable[[int], str], number: int) -> str:
    try:
        return look_up(number)
    except KeyError:
        return "#%d" % number


def hash_fd(fd: int) -> str:
    digest = hashlib.sha256()
    while True:
        block = os.read(fd, 1 << 20)
        if not block:
            return digest.hexdigest()
        digest.update(block)


def hash_file(name: str, dir_fd: Optional[int] = None) -> Tuple[str, os.stat_result]:
    """(sha256, stat) of a regular file that was the same before and after reading.

    Raises Unstable where it would not keep still, OSError where it cannot be read or is no regular file.
    """
    for _ in range(ATTEMPTS):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", name)
            content = hash_fd(fd)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if signature(before) == signature(after):
            return content, after
    raise Unstable(name)


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


def scan(
    projection: Dict[str, Any],
    known: Optional[Known] = None,
    clock_folder: Optional[str] = None,
    earlier: Optional[Manifest] = None,
) -> Scan:
    """Scan all trees of a projection; `known` is what an earlier scan gave, None reads every file.

    Entries that equal those of the manifest `earlier` are the same objects: who keeps both has them once.
    Raises OSError where a root exists and cannot be read. A root that is absent gives no entries and no record in `roots`.
    """
    known = nothing() if known is None else known
    result = Scan({}, [], {}, Known(rules_digest(projection), {}), [], [])
    names = Names(projection["owners"])
    for tree in projection["trees"]:
        _Walk(tree["path"], Rules(tree["exclude"]), names, known, result, clock_folder, earlier or {}).run()
    return result


def _file_system_id(path: str) -> str:
    """The file system's own, which ext4 and btrfs keep where device numbers change at boot; "" where there is none (Python 3.6)."""
    number = getattr(os.statvfs(path), "f_fsid", 0)
    return "%x" % number if number else ""


_name_of = attrgetter("name")


class _Walk:
    """One tree; a class only because the recursion shares its values."""

    def __init__(
        self,
        root: str,
        rules: Rules,
        names: Names,
        known: Known,
        result: Scan,
        clock_folder: Optional[str],
        earlier: Manifest,
    ) -> None:
        self.root, self.rules, self.names, self.known, self.result = root, rules, names, known.marks, result
        self.are_let_in = known.rules == result.known.rules
        self.clock_folder, self.earlier = clock_folder, earlier
        self.top = root + "/"
        self.now_ns = 0
        self.apart: Set[str] = set()

    def run(self) -> None:
        real = os.path.realpath(self.root)
        try:
            info = os.stat(real)
        except FileNotFoundError:
            return
        own = os.path.join(real, OWN_FOLDER)
        is_own = os.path.isdir(own) and not os.path.islink(own)
        self.now_ns = file_system_clock(
            own if is_own else os.path.realpath(self.clock_folder) if self.clock_folder else ""
        )
        self.result.roots[self.root] = {
            "real": real,
            "dev": info.st_dev,
            "ino": info.st_ino,
            "fsid": _file_system_id(real),
            "mounts": [os.path.relpath(point, real) for point in mounts_below(real)],
        }
        self._take(self.root, make_entry(DIR, info, "", self.names))
        self._folder(real, "")

    def _folder(self, real: str, relative: str) -> None:
        try:
            with os.scandir(real) as found:
                items = sorted(found, key=_name_of)
        except OSError as error:
            if not relative:
                raise
            if not isinstance(error, FileNotFoundError):
                self.result.unread.append("%s: %s" % (self._shown(relative), error.strerror))
            return
        for item in items:
            if item.name != OWN_FOLDER:
                self._item(item, relative + "/" + item.name if relative else item.name)

    def _item(self, item: Any, relative: str) -> None:
        try:
            info = item.stat(follow_symlinks=False)
            if stat.S_ISREG(info.st_mode) and self._is_as_before(relative, info):
                return
            is_dir = stat.S_ISDIR(info.st_mode)
            if self.rules.excludes(relative, is_dir):
                self._keep_apart(relative)
                return
            if is_dir:
                self._take(self._shown(relative), make_entry(DIR, info, "", self.names))
                self._folder(item.path, relative)
            elif stat.S_ISREG(info.st_mode):
                self._file(item.path, relative, info)
            elif stat.S_ISLNK(info.st_mode):
                self._take(self._shown(relative), make_entry(LINK, info, os.readlink(item.path), self.names))
            else:
                self.result.specials.append(self._shown(relative))
        except Unstable:
            self.result.unread.append("%s: it is being written" % self._shown(relative))
        except FileNotFoundError:
            return  # gone between listing and reading: as if it had never been listed
        except OSError as error:
            self.result.unread.append("%s: %s" % (self._shown(relative), error.strerror or error))

    def _keep_apart(self, relative: str) -> None:
        """One for each directory says enough: thousands of logs would only make the answer long."""
        folder = os.path.dirname(relative)
        if folder not in self.apart:
            self.apart.add(folder)
            self.result.kept_apart.append(self._shown(relative))

    def _is_as_before(self, relative: str, info: os.stat_result) -> bool:
        """Takes a file that is known under these very excludes, and says so: most files, so this is what a scan costs."""
        path = self.top + relative
        mark = self.known.get(path)
        if mark is None or mark[:-SHA] != mark_of(info) or not self.are_let_in:
            return False
        if self.now_ns - info.st_ctime_ns > FRESH_NS:
            self.result.known.marks[path] = mark
        self._take(path, make_entry(FILE, info, mark[-SHA:], self.names))
        return True

    def _file(self, real: str, relative: str, info: os.stat_result) -> None:
        path = self._shown(relative)
        content = content_of(self.known.get(path), info)
        if not content:
            content, info = hash_file(real)
        if self.now_ns - info.st_ctime_ns > FRESH_NS:
            self.result.known.marks[path] = mark_of(info) + content
        self._take(path, make_entry(FILE, info, content, self.names))

    def _take(self, path: str, entry: Entry) -> None:
        before = self.earlier.get(path)
        self.result.manifest[path] = before if before == entry and before is not None else entry

    def _shown(self, relative: str) -> str:
        return self.top + relative


def make_entry(kind: str, info: os.stat_result, content: str, names: Names) -> Entry:
    owner, group = names.of(info)
    mode = 0o777 if kind == LINK else stat.S_IMODE(info.st_mode)
    mtime = 0 if kind == DIR else info.st_mtime_ns
    return Entry(kind, mode, owner, group, mtime, info.st_size if kind == FILE else 0, content)


def entry_at(name: str, dir_fd: int, names: Names, known: Optional[str] = None) -> Optional[Entry]:
    """The live entry of one name in an open directory; None where there is none. Special files have kind SPECIAL.

    `known` is what a scan knows the file by: where that still holds, it is not read again.
    """
    try:
        info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(info.st_mode):
        return make_entry(DIR, info, "", names)
    if stat.S_ISLNK(info.st_mode):
        return make_entry(LINK, info, os.readlink(name, dir_fd=dir_fd), names)
    if not stat.S_ISREG(info.st_mode):
        return make_entry(SPECIAL, info, "", names)
    content = content_of(known, info)
    if not content:
        content, info = hash_file(name, dir_fd)
    return make_entry(FILE, info, content, names)

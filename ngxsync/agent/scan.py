"""Reads trees into manifests: the same code on master and peer. What stat says of them is survey.py's.

File hashes are kept by (device, inode, size, mtime, ctime): an unchanged file costs one lstat. Entries whose ctime is within
2 s of the file system's own clock are used but not kept, since older kernels give ctime one tick (DESIGN 3, step 2).
Where the excludes are those of the scan before, a file that is as it was then is not asked of them again.
"""

import errno
import hashlib
import os
import stat
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .known import SHA, Known, content_of, mark_of, nothing
from .manifest import DIR, FILE, LINK, Entry, Manifest
from .survey import (
    DIR_MARK,
    HIDDEN_MARK,
    LINK_MARK,
    SPECIAL_MARK,
    Folder,
    Names,
    Seal,
    Survey,
    Tree,
    relative_to,
    seal_of,
    survey,
)

SPECIAL = "special"  # the kind of sockets, devices and pipes, in no manifest
FRESH_NS = 2 * 10**9
ATTEMPTS = 5

Signature = Tuple[int, int, int, int, int]

Scan = NamedTuple(
    "Scan",
    [
        ("manifest", Manifest),
        ("specials", List[str]),  # sockets, devices, pipes: reported and left alone
        ("roots", Dict[str, Any]),  # tree -> {"real", "dev", "ino", "fsid", "mounts"}
        ("known", Known),  # its files, but for those that are too young
        ("unread", List[str]),  # "path: reason" of what could not be read
        ("kept_apart", List[str]),  # for each directory that holds excluded entries one of them
        ("seal", Optional[Seal]),  # None where some file was too young, or not as the survey saw it
    ],
)


class Unstable(Exception):
    """A file went on changing while it was read; somebody is writing it now."""


def signature(info: os.stat_result) -> Signature:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


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


def scan(
    projection: Dict[str, Any],
    known: Optional[Known] = None,
    clock_folder: Optional[str] = None,
    earlier: Optional[Manifest] = None,
    before: Optional[Seal] = None,
) -> Scan:
    """Survey and scan in one."""
    return scanned(survey(projection, clock_folder, before), known, earlier)


def scanned(seen: Survey, known: Optional[Known] = None, earlier: Optional[Manifest] = None) -> Scan:
    """The manifest of what a survey saw; `known` is what an earlier scan gave, None reads every file.

    Entries that equal those of the manifest `earlier` are the same objects: who keeps both has them once.
    """
    work = _Work(seen, nothing() if known is None else known, earlier or {})
    for tree in seen.trees:
        work.take(tree.path, Entry(DIR, *work.attributes(tree.mark[1:]), mtime_ns=0, size=0, content=""))
        for folder in tree.folders:
            work.folder(tree, folder)
    return Scan(
        work.manifest,
        sorted(work.specials),
        seen.roots,
        work.known,
        sorted(seen.unread),
        kept_apart(seen),
        None if seen.unread or work.is_unsure else seal_of(seen),
    )


def kept_apart(seen: Survey) -> List[str]:
    """One for each directory says enough: thousands of logs would only make the answer long."""
    return sorted("%s/%s" % (folder, min(names).rstrip("/")) for folder, names in seen.hidden.items())


class _Work:
    """What is made of one survey; its rows of files that turn out to be excluded are marked so."""

    def __init__(self, seen: Survey, known: Known, earlier: Manifest) -> None:
        self.seen, self.marks, self.earlier = seen, known.marks, earlier
        self.let_in = known.marks if known.rules == seen.rules else {}
        self.known = Known(seen.rules, {})
        self.names = Names(seen.projection["owners"])
        self.manifest: Manifest = {}
        self.specials: List[str] = []
        self.is_unsure = False
        self._attributes: Dict[str, Tuple[int, str, str]] = {}

    def folder(self, tree: Tree, folder: Folder) -> None:
        rows, let_in = folder.rows, self.let_in
        for place in range(0, len(rows), 2):
            path, mark = folder.path + "/" + rows[place], rows[place + 1]
            known = let_in.get(path)
            if known is not None and known[:-SHA] == mark:
                self._file(tree, path, known)  # most of them
            elif mark[0] == DIR_MARK:
                self.take(path, Entry(DIR, *self.attributes(mark[1:]), mtime_ns=0, size=0, content=""))
            elif mark[0] == LINK_MARK:
                mtime_ns, attributes, target = mark[1:].split(LINK_MARK, 2)
                _, owner, group = self.attributes(attributes)
                self.take(path, Entry(LINK, 0o777, owner, group, int(mtime_ns), 0, target))
            elif mark == SPECIAL_MARK:
                self.specials.append(path)
            elif mark[0] != HIDDEN_MARK:
                self._unknown(tree, folder, place, path)

    def _unknown(self, tree: Tree, folder: Folder, place: int, path: str) -> None:
        """A file that was not known under these excludes, or not as it is now."""
        name, mark = folder.rows[place : place + 2]
        if tree.rules.excludes(relative_to(tree, folder, name), False):
            folder.rows[place + 1] = HIDDEN_MARK
            self.seen.hidden.setdefault(folder.path, []).append(name)
            return
        try:
            self._file(tree, path, self._as_known(folder.real + "/" + name, path, mark))
        except Unstable:
            self.seen.unread.append("%s: it is being written" % path)
        except FileNotFoundError:
            self.is_unsure = True  # gone between listing and reading: as if it had never been listed
        except OSError as error:
            self.seen.unread.append("%s: %s" % (path, error.strerror or error))

    def _as_known(self, real: str, path: str, mark: str) -> str:
        known = self.marks.get(path)
        if known is not None and known[:-SHA] == mark:
            return known
        content, info = hash_file(real)
        if mark_of(info) != mark:
            self.is_unsure = True
            self.seen.owners[info.st_uid, info.st_gid] = self.names.of(info)
        return mark_of(info) + content

    def _file(self, tree: Tree, path: str, known: str) -> None:
        _, _, size, mtime_ns, ctime_ns, attributes = known[:-SHA].split(" ", 5)
        if tree.now_ns - int(ctime_ns) > FRESH_NS:
            self.known.marks[path] = known
        else:
            self.is_unsure = True
        mode, owner, group = self._attributes.get(attributes) or self.attributes(attributes)
        self.take(path, Entry(FILE, mode, owner, group, int(mtime_ns), int(size), known[-SHA:]))

    def attributes(self, text: str) -> Tuple[int, str, str]:
        """Mode, owner and group: most entries share them with others."""
        if text not in self._attributes:
            mode, uid, gid = map(int, text.split())
            self._attributes[text] = (stat.S_IMODE(mode),) + self.seen.owners[uid, gid]
        return self._attributes[text]

    def take(self, path: str, entry: Entry) -> None:
        before = self.earlier.get(path)
        self.manifest[path] = before if before == entry and before is not None else entry


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

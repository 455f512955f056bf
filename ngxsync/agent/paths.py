"""Path work through directory descriptors, opened component by component without following links (TRANSACTION, rehearse).

A directory that becomes a symlink between plan and apply would otherwise turn a planned deletion on the link's target.
"""

import contextlib
import errno
import fcntl
import os
import signal
import stat
from typing import Iterator, List, Tuple

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Anchor:
    """An open directory from which paths are walked; `base` is the path as requests name it."""

    def __init__(self, base: str, fd: int) -> None:
        self.base = base.rstrip("/")
        self.fd = fd

    @classmethod
    @contextlib.contextmanager
    def at(cls, base: str) -> Iterator["Anchor"]:
        """Open a tree's root: its path is followed once, links included (TRANSACTION, apply: roots)."""
        fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield cls(base, fd)
        finally:
            os.close(fd)

    @classmethod
    def root(cls) -> "contextlib.AbstractContextManager[Anchor]":
        return cls.at("/")

    def parts(self, path: str) -> List[str]:
        """The components of path below the base. Raises ValueError where it is not below, or climbs."""
        if not (path + "/").startswith(self.base + "/"):
            raise ValueError("%r is not below %r" % (path, self.base))
        parts = [part for part in path[len(self.base) :].split("/") if part]
        if any(part in (".", "..") or "\0" in part for part in parts):
            raise ValueError("not a clean path: %r" % path)
        return parts

    @contextlib.contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """A descriptor of the directory at path. NotADirectoryError or ELOOP where a component is none, FileNotFoundError."""
        fd = os.dup(self.fd)
        try:
            for part in self.parts(path):
                below = os.open(part, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[Tuple[int, str]]:
        """(descriptor of path's directory, path's last component)."""
        name = path.rstrip("/").rsplit("/", 1)[1]
        self.parts(path)
        with self.folder(path.rstrip("/").rsplit("/", 1)[0] or "/") as fd:
            yield fd, name


@contextlib.contextmanager
def pinned(name: str, folder: int) -> Iterator[Tuple[os.stat_result, str]]:
    """(stat of an entry, a path to that very inode): no rename in between can turn what is done to it on another."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield os.fstat(fd), "/proc/self/fd/%d" % fd
    finally:
        os.close(fd)


def set_owner(name: str, folder: int, uid: int, gid: int) -> None:
    """-1 leaves an id as it is. Takes setuid bits and capabilities away, so it comes before those."""
    with pinned(name, folder) as (info, path):
        if uid not in (-1, info.st_uid) or gid not in (-1, info.st_gid):
            os.chown(path, uid, gid)


def set_mode(name: str, folder: int, mode: int) -> None:
    """A link has no mode of its own."""
    with pinned(name, folder) as (info, path):
        if not stat.S_ISLNK(info.st_mode) and stat.S_IMODE(info.st_mode) != mode:
            os.chmod(path, mode)


def set_attributes(name: str, folder: int, mode: int, uid: int, gid: int) -> None:
    """Owner first, since chown clears setuid bits."""
    set_owner(name, folder, uid, gid)
    set_mode(name, folder, mode)


def is_being_written(name: str, folder: int) -> bool:
    """Whether a process has the file open for writing: then the kernel gives no lease on it. False where it cannot be told."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    previous = signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent to the holder of a lease when somebody opens the file
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, previous)
    return False


def remove_tree(name: str, dir_fd: int) -> None:
    """Remove one of our own folders; follows no link. Nothing happens where it is absent."""
    try:
        info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    fd = os.open(name, _FOLDER, dir_fd=dir_fd)
    try:
        for item in os.listdir(fd):
            remove_tree(item, fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)

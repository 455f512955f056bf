"""Path work through directory descriptors, opened component by component without following links (TRANSACTION, rehearse).

A directory that becomes a symlink between plan and apply would otherwise turn a planned deletion on the link's target.
"""

import contextlib
import os
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


def set_attributes(name: str, folder: int, mode: int, uid: int, gid: int) -> None:
    """Owner first, since chown clears setuid bits; -1 leaves an id as it is. A link has no mode of its own."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        info = os.fstat(fd)
        if uid not in (-1, info.st_uid) or gid not in (-1, info.st_gid):
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISLNK(info.st_mode) and stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            os.chmod("/proc/self/fd/%d" % fd, mode)
    finally:
        os.close(fd)


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

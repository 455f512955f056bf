"""The mounts of a private view: an overlay of / and of every other writable mount, upper layers on one tmpfs.

Called inside a mount namespace of one's own. Lower layers are named through /proc/self/fd, so no path needs escaping and none can
be swapped in between.
"""

import errno
import os
import shutil
import stat
from typing import Dict, List, NamedTuple, Tuple

from . import kernel
from .survey import unescape_mount

BOUND = ("/proc", "/sys", "/dev")
# any directory will do: it is covered after all that the view is made of has been opened
PLACES = ("/tmp", "/run", "/mnt", "/var")
COPIED = 1 << 20  # a single file that nginx could write to is copied up to this size (bytes), else it is read-only
# what a file system does not offer, or must not be a layer
_NO_LAYER = (errno.EINVAL, errno.EOPNOTSUPP, errno.ELOOP, errno.EPERM)
# flags of statvfs are those of mount, but for this one
_RELATIME, _MS_RELATIME = 4096, 1 << 21
_KEPT = kernel.MS_NOSUID | kernel.MS_NODEV | 8 | 1024 | 2048  # ... noexec, noatime, nodiratime

Mount = NamedTuple("Mount", [("path", str), ("number", int), ("writable", bool), ("kind", str)])


def build() -> str:
    """The mount that becomes the root of the view. Raises OSError."""
    fds, mounts = _places()
    place = next(path for path in PLACES if os.path.isdir(path))
    beneath = os.open(place, os.O_PATH | os.O_CLOEXEC)
    kernel.mount(b"none", os.fsencode(place), b"tmpfs", kernel.MS_NOSUID, b"mode=0755")
    root = os.path.join(place, "root")
    os.mkdir(root)
    # a mount in any case: where / can be no layer, a directory stands in for it
    kernel.mount(os.fsencode(root), os.fsencode(root), b"", kernel.MS_BIND)
    building = _Building(place, beneath, sorted(mounts))
    for path in sorted(fds, key=lambda p: p.split("/") if p != "/" else []):
        target = root if path == "/" else root + path
        _provide(fds[path], target)
        if path in BOUND:
            building.bind(fds[path], target)
        elif not (_stays_bound(mounts[path]) or _is_nameless(fds[path])):
            building.cover(path, fds[path], target, mounts[path].writable)
    for path in BOUND:
        if path not in mounts and os.path.isdir(path):
            kernel.mount(os.fsencode(path), os.fsencode(root + path), b"", kernel.MS_BIND | kernel.MS_REC)
    return root


def parse_mounts(table: bytes) -> List[Mount]:
    """/proc/self/mountinfo, in its order: a later mount covers an earlier one at the same place."""
    result = []
    for line in table.splitlines():
        fields = line.split()
        kind = fields[fields.index(b"-") + 1].decode("ascii", "replace")
        path = os.fsdecode(unescape_mount(fields[4]))
        result.append(Mount(path, int(fields[0]), b"rw" in fields[5].split(b","), kind))
    return result


def _mount_number(fd: int) -> int:
    with open("/proc/self/fdinfo/%d" % fd) as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    return -1


def _places() -> Tuple[Dict[str, int], Dict[str, Mount]]:
    """Open descriptors of all visible mounts, before anything is covered: path -> fd, path -> mount."""
    with open("/proc/self/mountinfo", "rb") as table:
        mounts = parse_mounts(table.read())
    fds: Dict[str, int] = {}
    visible: Dict[str, Mount] = {}
    for item in mounts:
        try:
            fd = os.open(item.path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # hidden below another mount, or out of reach for nginx too
        if _mount_number(fd) != item.number:
            os.close(fd)
            continue
        fds[item.path], visible[item.path] = fd, item
    return fds, visible


def _provide(fd: int, target: str) -> None:
    """A mount point, where a stand-in for an unreadable directory left none."""
    if os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _stays_bound(mounted: Mount) -> bool:
    """Mounts that came along with /proc, /sys and /dev, except memory that a test could write to."""
    return _is_in_bound(mounted.path) and mounted.kind != "tmpfs"


def _is_nameless(fd: int) -> bool:
    """A deleted file, as systemd-nspawn mounts on /proc/kmsg: nothing can be mounted over it."""
    return os.fstat(fd).st_nlink == 0


def _is_in_bound(path: str) -> bool:
    return any(path.startswith(bound + "/") for bound in BOUND)


def _is_user_namespace() -> bool:
    with open("/proc/self/uid_map") as stream:
        return stream.read().split() != ["0", "0", "4294967295"]


class _Building:
    """Overlays below one tmpfs at `place`; `beneath` is the directory that it covers, `mounts` are all mount points of the host."""

    def __init__(self, place: str, beneath: int, mounts: List[str]) -> None:
        self.place, self.beneath, self.mounts = place, beneath, mounts
        self.is_user_namespace = _is_user_namespace()
        self.number = 0

    def cover(self, path: str, fd: int, target: str, writable: bool) -> None:
        """An overlay where it can be written; where that is impossible (a file, a strange file system) it is bound read-only."""
        if stat.S_ISDIR(os.fstat(fd).st_mode) and (writable or path == "/"):
            try:
                return self.overlay(fd, target)
            except OSError as error:
                if error.errno not in _NO_LAYER:
                    raise
            # below /sys and the like, the mounts that it holds came along when those were bound
            if self.is_user_namespace and self._has_mounts(path) and not _is_in_bound(path):
                return self.stand_in(path, fd, target)
        return self.bind_read_only(fd, target)

    def _has_mounts(self, path: str) -> bool:
        return any(mount.startswith(path.rstrip("/") + "/") for mount in self.mounts)

    def stand_in(self, path: str, fd: int, target: str) -> None:
        """In a user namespace a directory with mounts below it can be no layer: its entries are covered one by one."""
        try:
            names = sorted(os.listdir("/proc/self/fd/%d" % fd))
        except PermissionError:
            return  # nginx, as the same user, cannot list it either
        for name in names:
            below = path.rstrip("/") + "/" + name
            try:
                entry = os.open("/proc/self/fd/%d/%s" % (fd, name), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue  # just removed
            try:
                self._stand_in_for(below, entry, target + "/" + name)
            finally:
                os.close(entry)

    def _stand_in_for(self, path: str, fd: int, place: str) -> None:
        mode = os.fstat(fd).st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink("", dir_fd=fd), place)
        elif stat.S_ISDIR(mode):
            os.mkdir(place, stat.S_IMODE(mode))
            if path not in self.mounts:
                self.cover(path, self.beneath if path == self.place else fd, place, True)
        elif stat.S_ISREG(mode):
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if path not in self.mounts:
                self._stand_in_for_file(fd, place)

    def _stand_in_for_file(self, fd: int, place: str) -> None:
        source = "/proc/self/fd/%d" % fd
        if os.access(source, os.R_OK | os.W_OK) and os.fstat(fd).st_size <= COPIED:
            shutil.copyfile(source, place)
            os.chmod(place, stat.S_IMODE(os.fstat(fd).st_mode))
        else:
            self.bind_read_only(fd, place)

    def bind(self, fd: int, target: str) -> None:
        kernel.mount(b"/proc/self/fd/%d" % fd, os.fsencode(target), b"", kernel.MS_BIND | kernel.MS_REC)

    def bind_read_only(self, fd: int, target: str) -> None:
        """With the other flags as they are: those of a mount from outside may not be dropped in a user namespace."""
        self.bind(fd, target)
        now = os.statvfs(target).f_flag
        flags = now & _KEPT | (_MS_RELATIME if now & _RELATIME else 0)
        kernel.mount(b"none", os.fsencode(target), b"", kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | flags)

    def overlay(self, fd: int, target: str) -> None:
        upper, work = (os.path.join(self.place, "%s%d" % (name, self.number)) for name in ("upper", "work"))
        self.number += 1
        os.mkdir(upper)
        os.mkdir(work)
        top = os.fstat(fd)
        try:
            os.chown(upper, top.st_uid, top.st_gid)
        except OSError:
            if not self.is_user_namespace:
                raise  # else an id that has no name here
        os.chmod(upper, stat.S_IMODE(top.st_mode))
        data = "lowerdir=/proc/self/fd/%d,upperdir=%s,workdir=%s" % (fd, upper, work)
        data += ",userxattr" if self.is_user_namespace else ""
        kernel.mount(b"overlay", os.fsencode(target), b"overlay", 0, data.encode("ascii"))

"""A private view of the whole machine in which `nginx -t` may do what it likes (TRANSACTION, rehearse).

A mount namespace with an overlay of / and of every other writable mount, upper layers on one tmpfs; chroot; the plan replayed in it;
then the test. Nothing outside changes: what `nginx -t` creates and chowns is in memory. The plan is replayed rather than laid over
as a layer, since the stage lies inside the tree and the kernel refuses layers of which one holds the other.
Lower layers are named through /proc/self/fd, so no path needs escaping and none can be swapped in between.
"""

import errno
import os
import select
import signal
import stat
import time
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Tuple

from . import kernel
from .replay import replay
from .scan import unescape_mount

BOUND = ("/proc", "/sys", "/dev")

Test = NamedTuple(
    "Test",
    [
        ("program", str),  # what is executed
        ("argv", List[str]),
        ("mount_point", str),  # an existing empty directory, covered inside the view only
        ("actions", List[List[Any]]),  # the plan, by real paths, in order: see replay.py
        ("namespaces_of", Optional[int]),  # pid of the running nginx
        ("timeout_s", float),
    ],
)

Verdict = NamedTuple("Verdict", [("status", int), ("output", str), ("timed_out", bool), ("seconds", float)])
Mount = NamedTuple("Mount", [("path", str), ("number", int), ("writable", bool), ("kind", str)])


class ViewImpossible(Exception):
    """No private view can be made here; the text says which step failed and why."""


def run_in_view(test: Test) -> Verdict:
    """Run the test in its view. Raises ViewImpossible; a test that outlasts timeout_s is killed with all its children."""
    started = time.monotonic()
    ways = [False, True] if os.geteuid() == 0 else [True]
    for own_user_namespace in ways:
        try:
            status, output, timed_out = _fork(test, own_user_namespace)
            return Verdict(status, output, timed_out, time.monotonic() - started)
        except ViewImpossible as error:
            last = error
    raise last


def _fork(test: Test, own_user_namespace: bool) -> Tuple[int, str, bool]:
    output_read, output_write = os.pipe()
    failure_read, failure_write = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _child(test, own_user_namespace, parent, output_write, failure_write)
    os.close(output_write)
    os.close(failure_write)
    try:
        output, timed_out = _collect(child, output_read, test.timeout_s)
        status = os.waitpid(child, 0)[1]
        failure = os.read(failure_read, 65536)
    finally:
        os.close(output_read)
        os.close(failure_read)
    if failure:
        raise ViewImpossible(failure.decode("utf-8", "replace"))
    return status, output.decode("utf-8", "surrogateescape"), timed_out


def _collect(child: int, output: int, timeout_s: float) -> Tuple[bytes, bool]:
    """Read until the test's end closes the pipe, or kill its whole session at the time-out."""
    end = time.monotonic() + timeout_s
    text = b""
    while True:
        left = end - time.monotonic()
        if left <= 0 or not select.select([output], [], [], left)[0]:
            _kill_group(child)
            return text, True
        block = os.read(output, 65536)
        if not block:
            return text, False
        text = (text + block)[-1000000:]


def _kill_group(child: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
        except OSError:
            pass


def _child(test: Test, own_user_namespace: bool, parent: int, output: int, failure: int) -> NoReturn:
    step = ["start"]
    try:
        os.setsid()
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        _enter(test, own_user_namespace, step)
        step[0] = "start " + test.program
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.set_inheritable(failure, False)
        os.execve(test.program, test.argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever happened
        os.write(failure, ("%s: %s" % (step[0], error)).encode("utf-8", "replace")[:4096])
    os._exit(1)


def _enter(test: Test, own_user_namespace: bool, step: List[str]) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if test.namespaces_of is not None:
        step[0] = "enter the namespaces of nginx"
        _join(test.namespaces_of)
    step[0] = "make namespaces"
    kernel.unshare(kernel.CLONE_NEWNS | (kernel.CLONE_NEWUSER if own_user_namespace else 0))
    if own_user_namespace:
        _map_ids(0, uid, 0, gid)
    kernel.mount(b"none", b"/", b"", kernel.MS_REC | kernel.MS_PRIVATE)
    step[0] = "build the view"
    root = _build(test, b"userxattr" if own_user_namespace else b"")
    os.chroot(root)
    os.chdir("/")
    step[0] = "replay the plan in the view"
    replay(test.actions)
    if own_user_namespace:
        step[0] = "go back to the own user"
        kernel.unshare(kernel.CLONE_NEWUSER)
        _map_ids(uid, 0, gid, 0)


def _join(pid: int) -> None:
    for name, kind in (("net", kernel.CLONE_NEWNET), ("mnt", kernel.CLONE_NEWNS)):
        if os.readlink("/proc/%d/ns/%s" % (pid, name)) != os.readlink("/proc/self/ns/" + name):
            fd = os.open("/proc/%d/ns/%s" % (pid, name), os.O_RDONLY | os.O_CLOEXEC)
            kernel.setns(fd, kind)
            os.close(fd)


def _map_ids(inside_uid: int, outside_uid: int, inside_gid: int, outside_gid: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", "%d %d 1" % (inside_uid, outside_uid)),
        ("gid_map", "%d %d 1" % (inside_gid, outside_gid)),
    ):
        with open("/proc/self/" + name, "w") as stream:
            stream.write(text)


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


def _places(test: Test) -> Tuple[Dict[str, int], Dict[str, Mount]]:
    """Open file descriptors of all that the view is made of, before anything is covered: path -> fd, path -> mount."""
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


def _build(test: Test, options: bytes) -> str:
    fds, visible = _places(test)
    kernel.mount(b"none", os.fsencode(test.mount_point), b"tmpfs", kernel.MS_NOSUID, b"mode=0755")
    root = os.path.join(test.mount_point, "root")
    os.mkdir(root)
    building = _Building(test.mount_point, options, sorted(visible))
    for path in sorted(fds, key=lambda p: p.split("/") if p != "/" else []):
        target = root if path == "/" else root + path
        mounted = visible[path]
        if path in BOUND:
            building.bind(fds[path], target)
        elif not _stays_bound(mounted, test.mount_point):
            building.cover(path, fds[path], target, mounted.writable)
    for path in BOUND:
        if path not in visible and os.path.isdir(path):
            kernel.mount(os.fsencode(path), os.fsencode(root + path), b"", kernel.MS_BIND | kernel.MS_REC)
    return root


def _stays_bound(mounted: Mount, mount_point: str) -> bool:
    """Mounts that came along with /proc, /sys and /dev, except memory that a test could write to."""
    below_bound = any(mounted.path.startswith(path + "/") for path in BOUND)
    return (below_bound and mounted.kind != "tmpfs") or mounted.path == mount_point


class _Building:
    """Overlays below one mount point; `options` are those of a user namespace, `mounts` all mount points of the host."""

    def __init__(self, mount_point: str, options: bytes, mounts: List[str]) -> None:
        self.mount_point, self.options, self.mounts = mount_point, options, mounts
        self.number = 0

    def cover(self, path: str, fd: int, target: str, writable: bool) -> None:
        """An overlay where it can be written; where that is impossible (a file, a strange file system) it is bound read-only."""
        if stat.S_ISDIR(os.fstat(fd).st_mode) and (writable or path == "/"):
            try:
                return self.overlay(fd, target)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ELOOP, errno.EPERM):
                    raise
            if self.options and self._has_mounts(path):
                return self.stand_in(path, target)
        self.bind(fd, target)
        try:
            flags = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY
            kernel.mount(b"none", os.fsencode(target), b"", flags)
        except OSError:
            if writable:
                raise
        return None

    def _has_mounts(self, path: str) -> bool:
        return any(mount.startswith(path.rstrip("/") + "/") for mount in self.mounts)

    def stand_in(self, path: str, target: str) -> None:
        """In a user namespace a directory with mounts below it can be no layer: its entries are covered one by one."""
        for item in sorted(os.scandir(path), key=lambda found: found.name):
            place = target + "/" + item.name
            if item.is_symlink():
                os.symlink(os.readlink(item.path), place)
            elif item.is_dir():
                os.mkdir(place, stat.S_IMODE(item.stat().st_mode))
                if item.path not in self.mounts:
                    fd = os.open(item.path, os.O_PATH | os.O_CLOEXEC)
                    self.cover(item.path, fd, place, True)
            elif item.is_file():
                os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                if item.path not in self.mounts:
                    self.bind(os.open(item.path, os.O_PATH | os.O_CLOEXEC), place)

    def bind(self, fd: int, target: str) -> None:
        kernel.mount(b"/proc/self/fd/%d" % fd, os.fsencode(target), b"", kernel.MS_BIND | kernel.MS_REC)

    def overlay(self, fd: int, target: str) -> None:
        upper, work = (os.path.join(self.mount_point, "%s%d" % (name, self.number)) for name in ("upper", "work"))
        self.number += 1
        os.mkdir(upper)
        os.mkdir(work)
        top = os.fstat(fd)
        if not self.options:
            os.chown(upper, top.st_uid, top.st_gid)
        os.chmod(upper, stat.S_IMODE(top.st_mode))
        data = b"lowerdir=/proc/self/fd/%d,upperdir=%s,workdir=%s" % (fd, _escaped(upper), _escaped(work))
        kernel.mount(
            b"overlay", os.fsencode(target), b"overlay", 0, data + (b"," + self.options if self.options else b"")
        )


def _escaped(path: str) -> bytes:
    """In overlay's options a comma ends a value, a colon a layer."""
    text = os.fsencode(path)
    for special in (b"\\", b":", b","):
        text = text.replace(special, b"\\" + special)
    return text

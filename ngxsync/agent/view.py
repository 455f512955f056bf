"""A private view of the whole machine in which `nginx -t` may do what it likes (TRANSACTION, rehearse).

A mount namespace in which all that can be written is covered (see overlay.py); the plan replayed in it; then the test. Nothing
outside changes: what `nginx -t` creates and chowns is in memory. The plan is replayed rather than laid over as a layer, since
the stage lies inside the tree and the kernel refuses layers of which one holds the other.
"""

import json
import os
import select
import signal
import time
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Tuple, Union

from . import kernel, overlay
from .replay import replay

Test = NamedTuple(
    "Test",
    [
        ("program", str),  # what is executed
        ("argv", List[str]),
        (
            "actions",
            Optional[List[List[Any]]],
        ),  # the plan, by real paths, in order: see replay.py; None: no view, but live
        ("like", Optional[int]),  # pid of the running nginx: its namespaces and its limit of open files are used
        ("timeout_s", float),
    ],
)

Verdict = NamedTuple("Verdict", [("status", int), ("output", str), ("timed_out", bool), ("seconds", float)])

REPLAY = "replay the plan in the view"


class ViewImpossible(Exception):
    """No private view can be made here: which step failed, why, and for the replay at which path."""

    def __init__(self, step: str, reason: str, number: int, path: str) -> None:
        super(ViewImpossible, self).__init__("%s: %s" % (step, reason))
        self.step, self.number, self.path = step, number, path


def run_in_view(test: Test) -> Verdict:
    """Run the test in its view. Raises ViewImpossible; a test that outlasts timeout_s is killed with all its children."""
    started = time.monotonic()
    output_read, output_write = os.pipe()
    failure_read, failure_write = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _child(test, parent, output_write, failure_write)
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
        raise ViewImpossible(**json.loads(failure.decode("ascii")))
    return Verdict(status, output.decode("utf-8", "surrogateescape"), timed_out, time.monotonic() - started)


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


def _child(test: Test, parent: int, output: int, failure: int) -> NoReturn:
    step = ["start"]
    try:
        os.setsid()
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        step[0] = "start " + test.program
        program = _opened(test.program)
        _enter(test, step)
        step[0] = "start " + test.program
        os.umask(0o022)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execve(program, test.argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever happened
        os.write(failure, json.dumps(_told(step[0], error)).encode("ascii")[:65536])
    os._exit(1)


def _opened(program: str) -> Union[str, int]:
    """A running process's file is opened before the view: a user namespace may not look into a process outside."""
    return os.open(program, os.O_PATH | os.O_CLOEXEC) if program.startswith("/proc/") else program


def _told(step: str, error: BaseException) -> Dict[str, Any]:
    if not isinstance(error, OSError):
        return {"step": step, "reason": repr(error)[:1000], "number": 0, "path": ""}
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    reason = "%s%s" % (error.strerror or error, ": " + path if path else "")
    return {"step": step, "reason": reason[:5000], "number": error.errno or 0, "path": path}


def _enter(test: Test, step: List[str]) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if test.like is not None:
        step[0] = "enter the namespaces of nginx"
        _raise_limit(test.like)
        _join(test.like)
    if test.actions is None:
        return
    step[0] = "make namespaces"
    kernel.unshare(kernel.CLONE_NEWNS | (kernel.CLONE_NEWUSER if uid else 0))
    if uid:
        _map_ids(0, uid, 0, gid)
    kernel.mount(b"none", b"/", b"", kernel.MS_REC | kernel.MS_PRIVATE)
    step[0] = "build the view"
    os.chdir(overlay.build())
    # moved, not only chrooted: who is in a chroot may make no further user namespace
    kernel.mount(b".", b"/", b"", kernel.MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    step[0] = REPLAY
    replay(test.actions)
    if uid:
        step[0] = "go back to the own user"  # else nginx believes that it is root, and chowns
        kernel.unshare(kernel.CLONE_NEWUSER)
        _map_ids(uid, 0, gid, 0)


def _raise_limit(pid: int) -> None:
    """As many open files as the running nginx may have: a configuration of many logs opens each."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _join(pid: int) -> None:
    """The network first: behind the mounts of nginx another /proc may lie."""
    for name, kind in (("net", kernel.CLONE_NEWNET), ("mnt", kernel.CLONE_NEWNS)):
        try:
            is_ours = os.readlink("/proc/%d/ns/%s" % (pid, name)) == os.readlink("/proc/self/ns/" + name)
        except PermissionError:
            continue  # another user's nginx: the own namespaces are the likeliest
        if not is_ours:
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

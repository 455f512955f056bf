"""`ngxsync` commands of the tests by fork: one interpreter for each process of pytest has imported all that they do, and each command is a
fork of it that enters its host as nsenter(1) does. Commands by the thousand would spend most of their time on imports.

What a command is besides that (its arguments, environment, exit status, what it writes and starts) is the same as of
`python -m ngxsync`; what needs more than its end (signals, a terminal, an environment of its own) is started as that.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

from tests.host import ENVIRONMENT
from tests.hosts import PROJECT

NAMESPACES = ("mnt", "uts", "net", "pid")
PR_SET_PDEATHSIG = 1
STREAMS = ("stdin", "stdout", "stderr")
NEEDED = ("fabric", "crossplane", "tests.resident")


class Forked:
    """A function of ours that runs in the namespaces of process `inside`, as a Popen of nsenter's: `kill` ends both."""

    def __init__(
        self, call: str, argv: Sequence[str], env: Mapping[str, str], inside: int, streams: tuple[int, int, int]
    ) -> None:
        """`call` is MODULE:FUNCTION. `streams` are standard input, output and error: numbers of open files, which are left open here."""
        self.args = [call, *argv]
        self.returncode: int | None = None
        self._ended, ending = os.pipe()
        self._told = b""  # the number of who waits for the command, in a line; then its exit status
        request = {"call": call, "argv": list(argv), "env": dict(env), "inside": inside}
        try:
            socket.send_fds(_zygote(), [json.dumps(request).encode()], [*streams, ending])
        finally:
            os.close(ending)
        self.pid = self._line(0, 30.0)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0.0)
        return None

    def wait(self, timeout_s: float) -> int:
        """Its exit status, negative for a signal. Raises TimeoutExpired."""
        if self.returncode is None:
            self.returncode = self._line(1, timeout_s)
            os.close(self._ended)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # the command dies with it

    def _line(self, number: int, timeout_s: float) -> int:
        end = time.monotonic() + timeout_s
        while self._told.count(b"\n") <= number:
            if not select.select([self._ended], [], [], max(0.0, end - time.monotonic()))[0]:
                raise subprocess.TimeoutExpired(self.args, timeout_s)
            part = os.read(self._ended, 64)
            self._told += part or b"%d\n" % -signal.SIGKILL  # who waits was killed, and the command with it
        return int(self._told.split()[number])


def run_forked(
    argv: Sequence[str], env: Mapping[str, str], inside: int, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """`python -m ngxsync ARGV` in the namespaces of process `inside`, to its end. Raises TimeoutExpired, and kills it then."""
    files = [os.open("/dev/null", os.O_RDONLY), *(os.memfd_create(name) for name in ("stdout", "stderr"))]
    try:
        process = Forked("ngxsync.__main__:main", argv, env, inside, (files[0], files[1], files[2]))
        try:
            returncode = process.wait(timeout_s)
        finally:
            process.kill()
        out, err = (os.pread(file, os.fstat(file).st_size, 0).decode() for file in files[1:])
    finally:
        for file in files:
            os.close(file)
    return subprocess.CompletedProcess([sys.executable, "-m", "ngxsync", *argv], returncode, out, err)


@cache
def _zygote() -> socket.socket:
    """Ends with this process, whose end of the socket closes then."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-c", f"from tests.forked import main; main({theirs.fileno()})"],
            cwd=PROJECT,
            env={**ENVIRONMENT, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # a Ctrl-C for pytest is none for it
        )
    return ours


# in the process that is forked


def main(number: int) -> None:
    """Forks for each request, for ever; in a fork that has become the command it returns, and Python ends as ever."""
    _import_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who waits
    with socket.socket(fileno=number) as requests:
        while True:
            request, fds, _, _ = socket.recv_fds(requests, 1 << 20, 4)
            if not request:
                os._exit(0)
            if os.fork() == 0:
                break
            for fd in fds:
                os.close(fd)
    *streams, ending = fds
    _become(json.loads(request), *streams, ending=ending)


def _import_all() -> None:
    import ngxsync

    for module in pkgutil.walk_packages(ngxsync.__path__, "ngxsync."):
        if not module.name.endswith(("__main__", ".boot")):
            import_module(module.name)
    for name in NEEDED:
        import_module(name)


def _become(asked: dict[str, Any], *streams: int, ending: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.write(ending, b"%d\n" % os.getpid())
    _enter(asked["inside"])
    child = os.fork()  # a process is in the new pid namespace from its birth only
    if child:
        for number in (0, 1, 2, *streams):
            os.close(number)
        _, status = os.waitpid(child, 0)
        os.write(ending, b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.close(ending)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for fd, name in zip(streams, STREAMS, strict=True):
        _take_place(fd, name)
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = ["ngxsync", *asked["argv"]]
    sys.path[0] = os.getcwd()
    module, name = asked["call"].split(":")
    getattr(import_module(module), name)()


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    opened = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
    for number in opened:
        if libc.setns(number, 0):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(number)


def _take_place(fd: int, name: str) -> None:
    """Of a standard stream, as Python makes it."""
    old = getattr(sys, name)
    number = STREAMS.index(name)
    os.dup2(fd, number)
    os.close(fd)
    binary = open(number, "rb" if name == "stdin" else "wb", closefd=False)  # noqa: SIM115 - until the end
    stream = io.TextIOWrapper(binary, old.encoding, old.errors, line_buffering=name == "stderr")
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)

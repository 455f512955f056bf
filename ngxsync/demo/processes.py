"""What the demo starts, watches and ends; each known by its pid and its start."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ngxsync.core.errors import Message, NgxsyncError

PATIENCE_S = 30.0
GRACE_S = 10.0

Value = TypeVar("Value")


class DemoFailed(NgxsyncError):
    """The demo could not do, or did not see, what it tells."""

    exit_status = 1
    code = "demo"


@dataclass(frozen=True)
class Process:
    """One of ours, by pid and start (clock ticks since boot): a pid alone may be somebody else's by now."""

    pid: int
    start: int
    ends_by: int = signal.SIGTERM

    @classmethod
    def of(cls, pid: int, ends_by: int = signal.SIGTERM) -> Process:
        return cls(pid, _state(pid)[1], ends_by)

    def is_alive(self) -> bool:
        """False also for one that has ended and was not waited for yet."""
        state, start = _state(self.pid)
        return start == self.start and state not in ("Z", "")

    def end(self) -> None:
        """Asks it to end, and makes it after 10 s; it has ended when this returns."""
        for number in (self.ends_by, signal.SIGKILL):
            end = time.monotonic() + GRACE_S
            if self.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(self.pid, number)
            while self.is_alive() and time.monotonic() < end:
                time.sleep(0.005)


def end_processes(processes: Sequence[Process]) -> None:
    """The latest first: each works with those that were there before it."""
    for process in reversed(processes):
        process.end()


def children_of(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def title_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _state(pid: int) -> tuple[str, int]:
    """Its state's letter and its start, fields 3 and 22 of proc(5)'s stat; ("", 0) where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])


def wait_for(look: Callable[[], Value], what: str, timeout_s: float = PATIENCE_S) -> Value:
    """The first true value. Raises DemoFailed that says what was waited for."""
    end = time.monotonic() + timeout_s
    while not (value := look()):
        if time.monotonic() > end:
            raise DemoFailed(Message(f"waited {timeout_s:g}s in vain: {what}"))
        time.sleep(0.005)
    return value


def fetch(url: str) -> str:
    """What answers there, without the last line break; "" where nothing does. It asks no proxy and follows no redirect."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=2)
    try:
        connection.request("GET", "/" + path, headers={"Connection": "close"})
        return connection.getresponse().read().decode("utf-8", "replace").rstrip("\n")
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def is_sshd(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()

"""How a run is stopped in a step of DESIGN 3: by strace, at one system call of the process that does the step, until released.

The process waits in the kernel before that call; all others go on. Whatever is injected meanwhile meets it there.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.host import PATIENCE_S, Host, wait_until
from tests.pair import ROOT, Pair
from tests.resident import STATE

LOG = "/srv/stop.log"
FOR_EVER_US = 600_000_000
RSYNC_RENAMES = "rename of rsync"  # the call differs by its release


@dataclass(frozen=True)
class Step:
    """`calls` of whoever works on that host for a run: the first (`when`: which) that names `path` is where it stops."""

    number: int
    name: str
    on_master: bool
    calls: str
    path: str = ""
    when: int = 1
    stands: str = ""  # where it stands then, for people


PEER = f"{STATE}/peer"
SETTLE = Step(1, "settle", True, "", stands="the daemon waits for the end of a burst, the peer for its word to begin")
STEPS = (
    SETTLE,
    Step(2, "scan", True, "openat", f"{ROOT}/html/a.html", stands="the master is about to read the edited file"),
    Step(3, "validate", True, "execveat", stands="in the private view on the master, before `nginx -t` begins"),
    Step(4, "plan", False, "openat", f"{ROOT}/html", stands="in the middle of the peer's scan"),
    Step(5, "stage", False, RSYNC_RENAMES, when=2, stands="rsync has put one file into the stage, not yet the next"),
    Step(6, "rehearse", False, "execveat", stands="in the private view on the peer, before `nginx -t` begins"),
    Step(7, "apply", False, "renameat2", when=2, stands="one path is exchanged, the next is not"),
    Step(8, "prove", False, "fsync", f"{PEER}/journal", stands="all is exchanged, nginx is about to be signalled"),
    Step(9, "accept", False, "fsync", f"{PEER}/manifests", stands="proven, the accepted record is about to be written"),
    Step(
        10,
        "record",
        True,
        "fsync",
        f"{STATE}/master/peers",
        2,
        stands="the master has the answer and begins to keep it",
    ),
)
BY_NAME = {step.name: step for step in STEPS}


@cache
def rsync_rename() -> str:
    """The system call by which this machine's rsync puts a file in its place: `rename` up to 3.2, `renameat` later."""
    with TemporaryDirectory() as folder:
        source, log = Path(folder, "source"), Path(folder, "log")
        source.write_text("a")
        trace = ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=?rename,renameat,renameat2"]
        subprocess.run([*trace, "rsync", str(source), str(Path(folder, "target"))], check=True)
        return log.read_text().split("(")[0].split()[-1]


@contextmanager
def stopped_at(pair: Pair, step: Step, master_pid: int) -> Iterator[Stop]:
    """From now on a run of the process `master_pid` (as web1 numbers it) stops there."""
    host = pair.web1 if step.on_master else pair.web2

    def works() -> list[int]:
        if step.on_master:
            return [master_pid]
        # rsync is a child of sshd's; the agent, which is there already, renames as well
        begins = "sshd" if step.calls == RSYNC_RENAMES else ""
        return [pid for pid, line in host.commands().items() if line.startswith(begins) and not is_own(line)]

    stop = Stop(host, step, works)
    try:
        yield stop
    finally:
        stop.release()


def is_own(line: str) -> bool:
    """A process that works on web2 for itself: nginx, and in a pair that moves its VIP keepalived, what it calls, and a daemon."""
    by_keepalived = "check-nginx" in line or " notify " in line
    return line.startswith(("nginx:", "keepalived", "strace")) or line.endswith("-m ngxsync run") or by_keepalived


class Stop:
    def __init__(self, host: Host, step: Step, works: Callable[[], list[int]]) -> None:
        """`works` lists the processes that may come to do the step."""
        self.host, self.step = host, step
        while True:
            pids = works()
            self._attach(pids)
            if all(pid in pids or self._is_traced(pid) for pid in works()):
                break
            self.release()  # one was born between the list and the tracer

    def _attach(self, pids: list[int]) -> None:
        step = self.step
        path = ["-P", step.path] if step.path else []
        calls = rsync_rename() if step.calls == RSYNC_RENAMES else step.calls
        inject = f"inject={calls}:delay_enter={FOR_EVER_US}:when={step.when}"
        targets = [word for pid in pids for word in ("-p", str(pid))]
        self.host.path(LOG).unlink(missing_ok=True)
        what = ["-e", "signal=none", "-e", f"trace={calls}", "-e", inject]
        self._strace = self.host.popen(["strace", "-f", "-qq", "-o", LOG, *path, *what, *targets])
        wait_until(lambda: all(self._is_traced(pid) for pid in pids), f"strace holds {pids}")

    def _is_traced(self, pid: int) -> bool:
        status = self.host.path(f"/proc/{pid}/status")
        return not status.exists() or "TracerPid:\t0\n" not in status.read_text()

    def wait(self, timeout_s: float = PATIENCE_S) -> None:
        """Until the step is reached."""
        log = self.host.path(LOG)

        def is_reached() -> bool:
            calls = log.read_text().splitlines() if log.exists() else []
            return len(calls) >= self.step.when and any(") = " not in call for call in calls)

        wait_until(is_reached, f"step {self.step.name} is reached", timeout_s)

    def release(self) -> None:
        """The process goes on, if it is still there; twice is once."""
        if self._strace.poll() is None:
            self.host.signal_to(self._strace, signal.SIGTERM)
        try:
            self._strace.wait(2)
        except subprocess.TimeoutExpired:  # it lost its way when what it held was killed
            self.host.signal_to(self._strace, signal.SIGKILL)
            self._strace.wait(45)

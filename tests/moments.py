"""A run of the agent that is stopped at an exact place: it has just done one system call, and does nothing more."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from ngxsync.agent import journal
from tests.agent import STATE
from tests.hosts import Host, wait_until

JOURNAL = f"{STATE}/peer/journal"
LOG = "/tmp/strace.log"

# the system call that is the last one (an unlink is not done any more), the file that it is about, the how manyth; then
# what the disk says: phase of the journal, whether the run is accepted, whether its answer is kept
MOMENTS = {
    "journal-written": ("fsync", f"{STATE}/peer", 1, ("open", False, False)),
    "first-exchange": ("renameat2", "", 1, ("open", False, False)),
    "between-exchanges": ("renameat2", "", 5, ("open", False, False)),
    "applied": ("write", JOURNAL, 1, ("applied", False, False)),
    "signalled": ("write", JOURNAL, 2, ("signalled", False, False)),
    "nginx-reloads": ("kill", "", 1, ("signalled", False, False)),
    "accepted": ("fsync", f"{STATE}/peer", 2, ("signalled", True, False)),
    "answered": ("unlink", JOURNAL, 1, ("signalled", True, True)),
}


def is_accepted_by(moment: str) -> bool:
    return MOMENTS[moment][3][1]


def stop_at(moment: str, host: Host, agent: Sequence[str], request: dict[str, Any]) -> subprocess.Popen[str]:
    """The process of that transaction, stopped; what lies on the disk is as MOMENTS has it."""
    call, path, number, found = MOMENTS[moment]
    host.path(LOG).unlink(missing_ok=True)
    process = host.popen([*strace_argv(call, path, number), *agent], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    wait_until_stopped(host)
    assert _on_disk(host, request["run"]) == found
    return process


def strace_argv(call: str, path: str, number: int) -> list[str]:
    """In front of a command; `path` "" is any."""
    only = ["-P", path] if path else []
    undone = ":error=EIO" if call == "unlink" else ""
    inject = f"inject={call}{undone}:signal=STOP:when={number}"
    return ["/usr/bin/strace", "-f", "-qq", "-o", LOG, *only, "-e", f"trace={call}", "-e", inject, "--"]


def wait_until_stopped(host: Host) -> None:
    log = host.path(LOG)
    wait_until(lambda: log.exists() and "stopped by SIGSTOP" in log.read_text(), "the agent is stopped")


def let_go_on(host: Host, process: subprocess.Popen[str]) -> None:
    """Without its tracer, to its end."""
    for signal, word in (("-KILL", "strace"), ("-CONT", " transact")):
        found = [str(pid) for pid, line in host.commands().items() if word in line]
        host.run(["kill", signal, *found], check=False)  # the tracer itself has both words, and may be gone meanwhile
    with process:
        process.wait(45)


def kill_run(host: Host) -> None:
    """With its tracer; what it left open stays so."""
    left = [str(pid) for pid, line in host.commands().items() if " transact" in line]
    host.run(["kill", "-KILL", *left], check=False)


def _on_disk(host: Host, run: str) -> tuple[str, bool, bool]:
    """(phase, accepted or not, answered or not)."""
    opened = journal.describe(str(host.path(JOURNAL)))
    assert opened is not None
    assert opened["run"] == run
    accepted = json.loads(host.path(f"{STATE}/peer/accepted.json").read_text())
    return opened["phase"], accepted["run"] == run, host.path(f"{STATE}/peer/runs/{run}.json").exists()

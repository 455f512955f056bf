"""Runs the command of `on_event`: the shell's, one event as one JSON object on its standard input, for a bounded time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ngxsync.core.errors import tail

LONGEST_S = 30.0
POLL_S = 0.05
MOST_SAID = 1 << 20  # bytes of errors, which lie in memory
SHOWN = 20_000
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "SHELL": "/bin/sh",
    "LC_ALL": "C.UTF-8",
}


def _ended(process: subprocess.Popen[bytes], said: int, timeout_s: float) -> str:
    """ "" where it ended by itself, else why it was ended."""
    end, why = time.monotonic() + timeout_s, ""
    while not why:
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(POLL_S, max(0.0, end - time.monotonic())))
            return ""
        if os.fstat(said).st_size > MOST_SAID:
            why = f"it wrote more than {MOST_SAID >> 20} MB of errors, and was ended"
        elif time.monotonic() >= end:
            why = f"it did not end within {timeout_s:g} s, and was ended"
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return why


def run_command(command: str, event: Mapping[str, Any], timeout_s: float = LONGEST_S) -> str:
    """Why it failed, "" where it did not. What it started and left behind is ended with it, when its time is over.

    Input and output are no pipes: a command that does not read, or whose children go on, holds nobody up.
    """
    given, said = os.memfd_create("event"), os.memfd_create("said")
    try:
        os.write(given, json.dumps(event).encode("ascii") + b"\n")
        os.lseek(given, 0, os.SEEK_SET)
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        why = _ended(process, said, timeout_s)
        if why:
            return why
        status = process.returncode
        text = tail(os.pread(said, SHOWN, max(0, os.fstat(said).st_size - SHOWN)))
        how = f"exit status {status}" if status >= 0 else f"ended by signal {-status}"
        return f"{how}{': ' + text if text else ''}" if status else ""
    except OSError as error:
        return f"it cannot be run: {error.strerror}"
    finally:
        os.close(given)
        os.close(said)

"""`ngxsync run`: the daemon."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from ngxsync.cli.group import command
from ngxsync.cli.options import config_option
from ngxsync.core.errors import StateError

UNSTARTED = 4  # not 2, after which systemd leaves it alone: a full disk passes


@command(
    "run",
    example="systemctl start ngxsync   # its ExecStart is: ngxsync run",
    statuses=(0, UNSTARTED, 9),
    means={
        0: "ended by SIGTERM or Ctrl-C",
        UNSTARTED: "its state directory cannot be read or written; systemd tries again",
        9: "another daemon works with this state directory",
    },
)
@config_option
def run(config: Path) -> int:
    """Keep the peers like this host from now on, in the foreground; systemd starts it.

    It looks when a file changes, every `check_every` and at `schedule`. SIGHUP reads the configuration again and keeps
    the old one where the new one is wrong. SIGTERM ends it, after the answer of a transaction that is under way.
    """
    from ngxsync.daemon.service import run_daemon

    gc.freeze()  # what was imported stays; __main__ switched the search for cycles off, which is for short commands
    gc.enable()
    os.umask(0o077)  # as its unit has it: what the daemon keeps is nobody else's, however it was started
    try:
        return run_daemon(config)
    except StateError as error:
        error.exit_status = UNSTARTED
        raise

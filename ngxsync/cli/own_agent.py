"""The agent of this host in this process's place: what keepalived calls needs no config.ini, and no library."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

STATE = "/var/lib/ngxsync"
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from ngxsync.agent.main import main; sys.exit(main(sys.argv[1:]))"
)


def become_agent(words: Sequence[str], state_dir: str = STATE) -> NoReturn:
    """The installed one, else that of this very package."""
    current = os.path.join(state_dir, "agent", "current")
    is_there = os.path.exists(os.path.join(current, "__main__.py"))
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    agent = [current] if is_there else ["-c", PROGRAM, package]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-I", "-S", *agent, *words])

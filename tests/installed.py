"""The agent as it is installed on a host, called as keepalived calls it."""

from __future__ import annotations

import subprocess
from typing import Any

from ngxsync.edges.bundle import Bundle
from tests.hosts import Host

STATE = "/var/lib/ngxsync"
AGENT = "/usr/local/sbin/ngxsync-agent"
PYTHON = "/usr/bin/python3"


def install_agent(host: Host, state_dir: str = STATE) -> None:
    """As the first sync does."""
    words, begin = Bundle.of_package().boot(state_dir, "hello", install=True)
    done = host.run([PYTHON, "-I", "-S", *words], input=begin.decode() + "{}\n")
    assert '"ok": true' in done.stdout, done.stderr


def check_nginx(host: Host, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return host.run([AGENT, "check-nginx", *arguments], check=False, **options)


def notify(host: Host, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return host.run([AGENT, "notify", *arguments], check=False, **options)

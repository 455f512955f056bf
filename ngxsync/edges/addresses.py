"""Which hosts of the configuration are this one: one file serves both of a pair."""

from __future__ import annotations

import subprocess

from ngxsync.core.config import Config, PeerConfig


def others(config: Config) -> list[PeerConfig]:
    """The peers that are not this host: the one whose `host` is an address here is itself."""
    own = own_addresses()
    return [peer for peer in config.peers if peer.host not in own or _is_loopback(peer.host)]


def own_addresses() -> set[str]:
    """The addresses of this host's interfaces."""
    try:
        output = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return set()
    return {line.split()[3].partition("/")[0] for line in output.splitlines() if len(line.split()) > 3}


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost")

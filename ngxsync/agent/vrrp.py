"""What this host is in VRRP, as it is found: the VIPs that it carries, since when, and whether its keepalived lives."""

import os
import time
from typing import Any, Dict, List

from . import addresses, role

Answer = Dict[str, Any]

PID_FILES = ("/run/keepalived.pid", "/var/run/keepalived.pid")


def state(vips: List[str], state_dir: str) -> Answer:
    """`carried`, `tenure` ("" unless it carries all), `since` it does, `told` (keepalived's latest word, or null), `keepalived` (pid or 0).

    Raises OSError where the kernel does not list the addresses.
    """
    carried = addresses.held(vips)
    tenure = addresses.tenure_of(vips, carried)
    noted = role.read(state_dir)
    return {
        "carried": sorted({each.address for each in carried}),
        "tenure": tenure,
        "since": addresses.since(carried, time.time()) if tenure else None,
        "told": {"role": noted["role"], "since": noted["since"]} if noted else None,
        "keepalived": keepalived_pid(),
    }


def keepalived_pid() -> int:
    """Its main process by its pid file, else by its name; 0 where none runs. That of a container is in another network."""
    for path in PID_FILES:
        try:
            with open(path) as stream:
                pid = int(stream.read().strip() or "0")
        except (OSError, ValueError):
            continue
        if pid > 0 and _name(pid) == "keepalived":
            return pid
    found = [int(name) for name in os.listdir("/proc") if name.isdigit() and _name(int(name)) == "keepalived"]
    here = _network("self")
    return min((pid for pid in found if _network(str(pid)) in (here, "")), default=0)


def _network(pid: str) -> str:
    """ "" where it is not told: to others than root, or it has ended."""
    try:
        return os.readlink("/proc/%s/ns/net" % pid)
    except OSError:
        return ""


def _name(pid: int) -> str:
    try:
        with open("/proc/%d/comm" % pid) as stream:
            return stream.read().strip()
    except OSError:
        return ""

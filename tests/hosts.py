"""Several hosts on one network, made and ended together, with nothing left behind even where a test run was killed."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.host import PRIVATE, Host, wait_until

__all__ = ["DISK", "PREFIX", "PROJECT", "Host", "close_hosts", "make_hosts", "wait_until"]

PROJECT = Path(__file__).resolve().parent.parent
DISK = Path("/var/tmp")
PREFIX = "ngxsync-test-"


def make_hosts(count: int) -> list[Host]:
    """Hosts web1, web2, ... at 192.0.2.1, .2, ..., connected; they end by `close_hosts`, or with this process."""
    if os.geteuid() != 0:
        raise AssertionError("the tests make network namespaces and mounts: run them as root")
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=DISK))
    folder.chmod(0o755)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    hosts: list[Host] = []
    shown = _not_on_root()
    atexit.register(close_hosts, hosts)
    for number in range(1, count + 1):
        hosts.append(Host(f"web{number}", f"192.0.2.{number}", folder / f"web{number}", shown))
    _connect(hosts)
    names = "".join(f"{host.address} {host.name}\n" for host in hosts)
    for host in hosts:
        host.path("/etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")
        host.reset_network()
    return hosts


def close_hosts(hosts: list[Host]) -> None:
    """Ends the hosts and removes what they left on disk; a second call does nothing."""
    for host in hosts:
        host.kill()
    for folder in {host.folder.parent for host in hosts}:
        shutil.rmtree(folder)
    hosts.clear()


def _connect(hosts: Sequence[Host]) -> None:
    """Two hosts by a cable. More by a bridge, in the network of the first, where it has no address of its own."""

    def in_network(host: Host, *command: str) -> None:
        subprocess.run(["nsenter", "--target", str(host.pid), "--net", "ip", "link", *command], check=True)

    first, *others = hosts
    if len(others) == 1:
        in_network(first, "add", "name", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(others[0].pid))


def _not_on_root() -> list[str]:
    """The folders of this checkout and of its Python that an overlay of / does not show."""
    device = os.stat("/").st_dev
    hidden = (*PRIVATE, "/srv")
    folders = (str(PROJECT), sys.prefix, sys.base_prefix)
    return [f for f in folders if os.stat(f).st_dev != device or any(Path(f).is_relative_to(h) for h in hidden)]


def _sweep() -> None:
    """Removes what a killed test run left on disk: its folder's lock is free. One just being made has a minute."""
    for folder in DISK.glob(f"{PREFIX}*"):
        try:
            is_young = time.time() - folder.stat().st_mtime < 60
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_young:
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)

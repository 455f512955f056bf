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
from contextlib import ExitStack
from pathlib import Path

from tests.host import PRIVATE, Host, wait_until

__all__ = ["DISK", "PREFIX", "PROJECT", "Host", "close_hosts", "make_hosts", "wait_until"]

PROJECT = Path(__file__).resolve().parent.parent
DISK = Path("/var/tmp")
PREFIX = "ngxsync-test-"

# what ends the hosts of one `make_hosts`, by their folder
_OPENED: dict[Path, ExitStack] = {}


def make_hosts(count: int, *, kinds: Sequence[type[Host]] = ()) -> list[Host]:
    """Hosts web1, web2, ... at 192.0.2.1, .2, ..., connected; they end by `close_hosts`, or with this process.

    `kinds` are their classes in order, Host where it ends.
    """
    if os.geteuid() != 0:
        raise AssertionError("the tests make network namespaces and mounts: run them as root")
    _sweep()
    opened = ExitStack()
    atexit.register(opened.close)
    folder = _make_folder(opened)
    shown = _not_on_root()
    hosts: list[Host] = []
    for number in range(1, count + 1):
        kind = kinds[number - 1] if number <= len(kinds) else Host
        hosts.append(kind(f"web{number}", f"192.0.2.{number}", folder / f"web{number}", shown))
        opened.callback(hosts[-1].kill)
    _connect(hosts, opened)
    names = "".join(f"{host.address} {host.name}\n" for host in hosts)
    for host in hosts:
        host.path("/etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")
        host.reset_network()
    _OPENED[folder] = opened
    return hosts


def close_hosts(hosts: Sequence[Host]) -> None:
    """Ends all hosts of one `make_hosts` and removes what they left on disk; a second call does nothing."""
    opened = _OPENED.pop(hosts[0].folder.parent, None)
    if opened:
        opened.close()
        atexit.unregister(opened.close)


def _make_folder(opened: ExitStack) -> Path:
    """The hosts' folder on disk, locked as long as this process uses it."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=DISK))
    folder.chmod(0o755)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    opened.callback(os.close, lock)
    opened.callback(shutil.rmtree, folder)
    return folder


def _connect(hosts: Sequence[Host], opened: ExitStack) -> None:
    """Two hosts by one cable; more by a bridge that has a network of its own, so that any host may die alone."""
    if len(hosts) == 2:
        _cable(hosts[0].pid, "eth0", hosts[1].pid, "eth0")
    elif len(hosts) > 2:
        switch = opened.enter_context(subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE))
        root_network = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{switch.pid}/ns/net") != root_network, "the bridge has its network")
        _link(switch.pid, "add", "name", "bridge0", "type", "bridge")
        _link(switch.pid, "set", "bridge0", "up")
        for host in hosts:
            _cable(switch.pid, host.name, host.pid, "eth0")
            _link(switch.pid, "set", host.name, "master", "bridge0", "up")


def _cable(pid: int, name: str, other_pid: int, other_name: str) -> None:
    _link(pid, "add", "name", name, "type", "veth", "peer", "name", other_name, "netns", str(other_pid))


def _link(pid: int, *command: str) -> None:
    """`ip link` in the network of that process, but with this machine's /proc, where process numbers are ours."""
    subprocess.run(["nsenter", "--target", str(pid), "--net", "ip", "link", *command], check=True)


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

"""The storm's faults: a weight, and what to do to the pair for a short while; each has ended when its function returns."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tests import faults
from tests.hosts import Host, wait_until
from tests.pair import Pair
from tests.watched import Watched

STATE = faults.STATE


class Field:
    """Where the faults happen. `port` is one that the peer's fault takes and the master's edit asks for; `mounted` keeps
    the edits on the peer apart from its reboots, which unmount its disk."""

    watched: Watched

    def __init__(self, pair: Pair, tell: Callable[[str], None]) -> None:
        self.pair, self.peer, self.tell = pair, pair.web2, tell
        self.disk = faults.Disk(pair.web2, "192M")
        self.port = 7001
        self.mounted = threading.Lock()

    def close(self) -> None:
        faults.thaw(self.peer)

    def wait_for_journal(self) -> bool:
        """Until a transaction is open on the peer; False where none came soon."""
        journal = self.peer.path(f"{STATE}/peer/journal")
        with suppress(AssertionError):
            wait_until(journal.exists, "a transaction is open", 1.5, 0.0005)
        return journal.exists()


def outer_agents(host: Host) -> list[int]:
    """The agents of this host by the numbers that this process sees, so that a signal takes no time."""
    namespace, found = os.readlink(f"/proc/{host.pid}/ns/pid"), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (folder / "cmdline").read_bytes()
            if f"{STATE}/agent/".encode() in line and os.readlink(folder / "ns/pid") == namespace:
                found.append(int(folder.name))
    return found


def agent_killed(field: Field, chance: random.Random) -> None:
    """At once, or at a moment of a transaction: in the window or in the proof."""
    moment, delay = chance.choice(("now", "window", "later")), chance.uniform(0, 0.3)
    if moment == "now":
        faults.kill_agents(field.peer)
        return
    journal, pids = field.peer.path(f"{STATE}/peer/journal"), outer_agents(field.peer)
    end = time.monotonic() + 1.5
    while time.monotonic() < end and not journal.exists():
        pids = outer_agents(field.peer)
        until = time.monotonic() + 0.02
        while time.monotonic() < until and not journal.exists():
            time.sleep(0.0002)
    if moment == "window":
        time.sleep(chance.uniform(0, 0.008))
    else:
        time.sleep(delay)
    phase = _phase(journal)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    field.tell(f"agents {pids} killed, phase {phase}")


def _phase(journal: Path) -> str:
    try:
        return (re.findall(rb'"phase":"(\w+)"', journal.read_bytes()) or [b"open"])[-1].decode()
    except OSError:
        return "none"


def daemon_killed(field: Field, chance: random.Random) -> None:
    if chance.random() < 0.5:
        field.wait_for_journal()
    time.sleep(chance.uniform(0, 0.2))
    field.watched.kill_daemon()


def cut(field: Field, chance: random.Random) -> None:
    if chance.random() < 0.5:
        field.wait_for_journal()
    faults.cut(field.peer)


def frozen(field: Field, chance: random.Random) -> None:
    with faults.frozen(field.peer):
        time.sleep(chance.uniform(0.2, 1.5))


def disk_full(field: Field, chance: random.Random) -> None:
    with field.disk.full():
        time.sleep(chance.uniform(0.2, 1.0))


def read_only(field: Field, chance: random.Random) -> None:
    """The disk fails; the host is rebooted."""
    with field.watched.excusing():
        field.disk.make_read_only()
        time.sleep(chance.uniform(0.1, 0.5))
        with field.mounted:
            faults.reboot(field.peer, field.disk)
    field.watched.start_reader()


def rebooted(field: Field, chance: random.Random) -> None:
    if chance.random() < 0.7:
        field.wait_for_journal()
        time.sleep(chance.uniform(0, 0.02))
    with field.watched.excusing():
        faults.reboot(field.peer)
    field.watched.start_reader()


def state_gone(field: Field, _chance: random.Random) -> None:
    faults.take_state_away(field.peer)
    field.peer.run(["rm", "-rf", faults.GONE])


def nginx_killed(field: Field, chance: random.Random) -> None:
    """And started again, as a person or systemd does: after what is open was recovered (TRANSACTION)."""
    if chance.random() < 0.5:
        field.wait_for_journal()
    with field.watched.excusing():
        faults.kill_nginx_main(field.peer)
        time.sleep(chance.uniform(0, 0.5))
        field.peer.run([faults.AGENT, "recover"], check=False)
        faults.start_nginx(field.peer)


def port_taken(field: Field, chance: random.Random) -> None:
    with faults.taken_port(field.peer, field.port) as is_taken:
        field.tell(f"port {field.port} is {'taken' if is_taken else 'in use by nginx already'}")
        time.sleep(chance.uniform(0.5, 3.0))


def clock_jumped(field: Field, chance: random.Random) -> None:
    """For what is run over ssh from now on, an hour or a year to or fro."""
    clock = faults.Clock(field.peer)
    clock.jump(chance.choice((-3600, 3600, -31_536_000, 31_536_000)))
    faults.sshd_with(field.peer, clock)
    faults.cut(field.peer)
    time.sleep(chance.uniform(0.3, 1.0))
    faults.kill(field.peer, [field.peer.sshd_pid()])
    field.peer.start_sshd()
    faults.cut(field.peer)
    clock.jump(0)


def tampered(field: Field, _chance: random.Random) -> None:
    stages = field.peer.path("/usr/local/nginx/.ngxsync")
    with suppress(AssertionError):
        wait_until(lambda: list(stages.glob("*/stage/**/*")), "something is staged", 1.5, 0.001)
    with suppress(OSError):
        faults.tamper(field.peer)


def recovered(field: Field, chance: random.Random) -> None:
    """A person on the peer, at any time and twice."""
    if chance.random() < 0.7:
        field.wait_for_journal()
    for _ in range(2):
        field.peer.run([faults.AGENT, "recover"], check=False)


FAULTS: Mapping[str, tuple[int, Callable[[Field, random.Random], None]]] = {
    "none": (26, lambda field, chance: None),
    "agent-killed": (10, agent_killed),
    "daemon-killed": (4, daemon_killed),
    "cut": (5, cut),
    "frozen": (3, frozen),
    "disk-full": (4, disk_full),
    "read-only": (2, read_only),
    "rebooted": (3, rebooted),
    "state-gone": (1, state_gone),
    "nginx-killed": (3, nginx_killed),
    "port-taken": (4, port_taken),
    "clock-jumped": (2, clock_jumped),
    "tampered": (3, tampered),
    "recovered": (2, recovered),
}

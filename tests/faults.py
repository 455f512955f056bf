"""The faults that a pair meets, each a real one: what ends by itself is a context manager, what a blow does is a function.

Those that last are lifted at the end of their `with`, and may be begun in one place and lifted in another by an ExitStack.
Nothing outside the host's own namespaces is touched.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.host import Host, wait_until
from tests.pair import ROOT

STATE = "/var/lib/ngxsync"
AGENT = "/usr/local/sbin/ngxsync-agent"
DISK = "/mnt/disk"
IMAGE = "/srv/disk.img"
GONE = "/srv/state-gone"
LOCAL = "/srv/local"  # a configuration that is to hang includes LOCAL/*.conf, outside all trees
SOURCE = Path(__file__).with_name("clock.c")
BOOT_ID = "/proc/sys/kernel/random/boot_id"

# processes


def agents(host: Host) -> list[int]:
    """What works for a run on this host: the agent's processes, warm ones included, and the rsync that receives."""
    return [pid for pid, line in host.commands().items() if f"{STATE}/agent/" in line or "rsync --server" in line]


def kill(host: Host, pids: list[int]) -> None:
    """SIGKILL, and wait for their end. Who traces them ends with them, after them: it would hold what is dead."""
    if pids:
        tracers = [pid for pid, line in host.commands().items() if line.startswith("strace ")]
        ending = [*(pid for pid in pids if pid not in tracers), *tracers]
        host.run(["kill", "-KILL", *map(str, ending)], check=False)
        wait_until(lambda: not set(pids) & set(host.commands()), f"{host.name}: {pids} ended")


def kill_agents(host: Host) -> int:
    """How many there were."""
    pids = agents(host)
    kill(host, pids)
    return len(pids)


def kill_nginx_main(host: Host) -> None:
    """The main process dies; systemd then ends what is left of its unit."""
    while pids := host.nginx_pids():  # until none is left: a main process may fork while it is looked for
        main = host.nginx_main()
        kill(host, [main] if main else pids)


def reboot(host: Host, disk: Disk | None = None) -> None:
    """Everything is killed, /run is emptied, the boot id changes; then as the units do: recover, nginx, sshd."""
    while host.commands():  # until none is left: some fork while they are looked for
        kill(host, list(host.commands()))
    host.run(["sh", "-c", "rm -rf /run/* && mkdir -p /run/sshd /run/lock"])
    _change_boot_id(host)
    if disk is not None:
        disk.mount_again()
    if os.path.lexists(host.path(AGENT)):
        host.run([AGENT, "recover"], check=False, timeout=120)
    start_nginx(host)
    host.start_sshd()


def start_nginx(host: Host) -> None:
    """As its unit does, whatever pid file an earlier one left."""
    host.run(["/usr/sbin/nginx", "-p", ROOT, "-c", "conf/nginx.conf"])
    wait_until(host.nginx_workers, f"{host.name}: nginx has workers")


def _change_boot_id(host: Host) -> None:
    host.path("/etc/boot_id").write_text(f"{uuid.uuid4()}\n")
    if host.path(BOOT_ID).read_text() != host.path("/etc/boot_id").read_text():
        host.run(["mount", "--bind", "/etc/boot_id", BOOT_ID])


# the connection


def cut(host: Host) -> int:
    """Ends every ssh session on this host, as a firewall with resets or a crash of sshd does; how many there were."""
    listening = host.sshd_pid()
    sessions = [pid for pid, line in host.commands().items() if line.startswith("sshd") and pid != listening]
    kill(host, sessions)
    return len(sessions)


FREEZE = """
nft add table inet frozen
nft add chain inet frozen in '{ type filter hook input priority 0; policy drop; }'
nft add chain inet frozen out '{ type filter hook output priority 0; policy drop; }'
nft add rule inet frozen in iif lo accept
nft add rule inet frozen out oif lo accept
"""


@contextmanager
def frozen(host: Host) -> Iterator[None]:
    """Every packet from and to this host is dropped, none is refused or reset."""
    host.run(["sh", "-ec", FREEZE])
    try:
        yield
    finally:
        thaw(host)


def thaw(host: Host) -> None:
    host.run(["nft", "delete", "table", "inet", "frozen"], check=False)


# the disk


class Disk:
    """A small ext4 of its own, on a loop device, that holds the host's tree and its state directory."""

    def __init__(self, host: Host, size: str = "48M") -> None:
        """nginx is stopped and started for it. Who empties or ends the host ends the mounts too."""
        self.host = host
        host.stop_nginx()
        make = f"""
            truncate -s {size} {IMAGE}
            mkfs.ext4 -q -m 0 {IMAGE}
            mkdir -p {DISK}
            mount -o loop,errors=remount-ro {IMAGE} {DISK}
            cp -a {ROOT} {DISK}/tree
            cp -a {STATE} {DISK}/state
            mount --bind {DISK}/tree {ROOT}
            mount --bind {DISK}/state {STATE}
            sync -f {DISK}
        """
        host.run(["sh", "-ec", make])
        start_nginx(host)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is free."""
        self.fill()
        try:
            yield
        finally:
            self.clear()

    def fill(self) -> None:
        with self.host.path(f"{DISK}/filler").open("ab", buffering=0) as filler:
            for size in (1 << 20, 1 << 10, 1 << 10, 1 << 10):
                with suppress(OSError):
                    while filler.write(bytes(size)):
                        pass
                os.fsync(filler.fileno())  # frees what was set aside for it too generously

    def clear(self) -> None:
        self.host.path(f"{DISK}/filler").unlink(missing_ok=True)
        self.host.run(["sync", "-f", DISK])  # only then its blocks are free

    def make_read_only(self) -> None:
        """As ext4 does by itself when its disk fails (errors=remount-ro): at once, open files or not. Ends by a reboot."""
        self.host.run(["mount", "-o", "remount,abort", DISK])

    def mount_again(self) -> None:
        """After all processes have ended: what was not on the disk is lost, the journal of the file system is replayed."""
        again = f"""
            device=$(findmnt --noheadings --output SOURCE {DISK})
            exec 3<$device  # keeps the number of the loop device, as a real disk keeps its own
            umount {ROOT} && umount {STATE} && umount {DISK}
            mount -o errors=remount-ro $device {DISK}
            mount --bind {DISK}/tree {ROOT}
            mount --bind {DISK}/state {STATE}
        """
        self.host.run(["sh", "-ec", again])


def take_state_away(host: Host) -> None:
    """All of the state directory is gone, open files stay open; a test may look at the copy in GONE."""
    copy = f"rm -rf {GONE}; cp -a {STATE} {GONE} 2>/dev/null || true"
    remove = f'until rm -rf {STATE}/* 2>/dev/null && [ -z "$(ls -A {STATE})" ]; do :; done'
    host.run(["sh", "-c", f"{copy}; {remove}"])


def tamper(host: Host) -> list[Path]:
    """Every staged and every prepared file, of whichever run, gets other bytes, written in place; which they were."""
    runs = host.path(f"{ROOT}/.ngxsync")
    found = [*runs.glob("*/stage/**/*"), *runs.glob("*/prep/*")]
    files = [file for file in found if file.is_file() and not file.is_symlink()]
    for file in files:
        with file.open("r+b") as stream:
            stream.write(b"# tampered with\n")
            stream.truncate()
    return files


# nginx


@contextmanager
def hanging_test(host: Host) -> Iterator[None]:
    """Whoever reads the configuration from now on waits for ever: nginx -t, and the main process when it is to reload."""
    fifo = host.path(f"{LOCAL}/hang.conf")
    os.mkfifo(fifo)
    try:
        yield
    finally:
        with suppress(OSError):
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))  # who waits reads the end of an empty file
        fifo.unlink(missing_ok=True)


@contextmanager
def taken_port(host: Host, port: int) -> Iterator[bool]:
    """Another process listens there: nginx -t passes, the reload is refused. False where the port is not free."""
    with host.socket() as listening:
        try:
            listening.bind(("0.0.0.0", port))
            listening.listen()
            is_taken = True
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            is_taken = False
        yield is_taken
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


# the clock


class Clock:
    """The wall clock of the processes that are started with `environment`; time that only goes on (monotonic) stays true."""

    def __init__(self, host: Host) -> None:
        self._file = host.path("/srv/clock")
        self.jump(0)
        library = host.path("/srv/clock.so")
        subprocess.run(["tcc", "-shared", "-nostdlib", "-o", library, SOURCE], check=True)
        self.environment = {"LD_PRELOAD": "/srv/clock.so", "CLOCK_FILE": "/srv/clock"}

    def jump(self, seconds: int) -> None:
        """So far from the true time, from now on."""
        self._file.write_text(f"{seconds}\n")


def sshd_with(host: Host, clock: Clock) -> None:
    """From now on what is run over ssh on this host has this clock; host.start_sshd() after a kill ends that."""
    kill(host, [host.sshd_pid()])
    words = " ".join(f"{name}={value}" for name, value in clock.environment.items())
    host.run(["/usr/sbin/sshd", "-f", "/etc/ssh/test_sshd_config", "-o", f"SetEnv={words}"])
    wait_until(host.sshd_pid, f"{host.name}: sshd wrote its pid file")

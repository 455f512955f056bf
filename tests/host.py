"""A real host for the tests: its own network, host name, processes and root.

It is one `unshare` of four namespaces. Its root is an overlay of this machine's (upper layer on tmpfs), entered by
pivot_root, so that whoever joins the namespaces sees that root. What ngxsync writes lies on this machine's disk, since
extended attributes and exchanges have to be the real ones: /usr/local/nginx, /var/lib/ngxsync and /srv. Process 1 of a
host ends when its standard input does, however the tests end, and the kernel then ends everything in it.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tests.forked import Forked

    Entered = Forked | subprocess.Popen[str]

ON_DISK = ("/usr/local/nginx", "/var/lib/ngxsync", "/srv")
PRIVATE = ("/run", "/tmp")
EMPTIED = ("/etc/ngxsync", "/root/.ssh", "/var/log/nginx")
FOLDERS = {"ON_DISK": ON_DISK, "PRIVATE": PRIVATE, "EMPTIED": EMPTIED}
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LC_ALL": "C",
    "TERM": "dumb",
}

SETUP = Path(__file__).with_name("host.sh")

NGINX = ("/usr/sbin/nginx", "-p", "/usr/local/nginx", "-c", "conf/nginx.conf")

SSHD_CONFIG = """
Port 22
HostKey /etc/ssh/test_host_key
PidFile /run/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxStartups 100
Subsystem sftp internal-sftp
"""


Value = TypeVar("Value")


# how long a test waits for what comes by itself: longer than a busy machine takes, shorter than the ticks that mend what was missed
PATIENCE_S = 45.0


def wait_until(
    predicate: Callable[[], Value], what: str, timeout_s: float = PATIENCE_S, every_s: float = 0.01
) -> Value:
    """The predicate's first true value; AssertionError that names `what` and the last value after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s:g} s in vain: {what} (last seen: {value!r})")
        time.sleep(every_s)


class Host:
    """One running host. `address` is its IPv4 address, `pid` its process 1 as this process sees it."""

    def __init__(self, name: str, address: str, folder: Path, shown: Sequence[str] = ()) -> None:
        self.name, self.address, self.folder = name, address, folder
        for below in ("scratch", "disk"):
            (folder / below).mkdir(parents=True)
        unshare = (
            "unshare",
            "--mount",
            "--uts",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
        )
        self.process = subprocess.Popen(
            [*unshare, "sh", str(SETUP), name, str(folder), *shown],
            env={**ENVIRONMENT, **{name: " ".join(paths) for name, paths in FOLDERS.items()}},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.pid = int(self.process.stdout.readline() or 0)
        if self.process.stdout.readline() != "up\n":
            self.kill()
            raise AssertionError(f"{name} did not start; the reason is on standard error")
        self.mounts = self._mounts()
        self._emptied_for = "its start"

    def path(self, path: str | Path) -> Path:
        """Where this process reads and writes the host's file. An absolute link in it would lead into this machine."""
        return Path(f"/proc/{self.pid}/root{path}")

    # processes

    def popen(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Starts a command in the host. The Popen is nsenter's: `signal_to` signals the command, kill() ends both."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--net", "--pid", "--"]
        options.setdefault("text", True)
        return subprocess.Popen(
            [*enter, "setpriv", "--pdeathsig", "KILL", *argv], env={**ENVIRONMENT, **(env or {})}, **options
        )

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float = 60.0,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, output captured as text; AssertionError with it where it fails and `check`."""
        pipes = {"stdin": subprocess.PIPE if input is not None else subprocess.DEVNULL}
        with self.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **{**pipes, **options}) as process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            command = " ".join(map(str, argv))
            raise AssertionError(f"{self.name}: {command} exited {process.returncode}\n{out}{err}")
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def signal_to(self, process: Entered, number: int) -> None:
        """Signals the command that `popen` started, not the nsenter around it; one that has ended is left alone."""
        with suppress(ProcessLookupError):
            os.kill(self._command_pid(process), number)

    def pid_inside(self, process: Entered) -> int:
        """The process number of a `popen` as the host itself sees it."""
        status = Path(f"/proc/{self._command_pid(process)}/status").read_text()
        return int(re.findall(r"^NSpid:.*\s(\d+)$", status, re.MULTILINE)[0])

    def _command_pid(self, process: Entered) -> int:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def found() -> list[str]:
            if process.poll() is not None:
                raise ProcessLookupError(process.pid)
            return children.read_text().split()

        return int(wait_until(found, f"{self.name}: nsenter has its child")[0])

    def commands(self) -> dict[int, str]:
        """All processes of the host but process 1 and dead ones: number in the host to command line (or title)."""
        found = {}
        for folder in self.path("/proc").iterdir():
            if folder.name.isdigit() and folder.name != "1":
                try:
                    line = (folder / "cmdline").read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if line:  # empty where it is dead and only not yet waited for
                    found[int(folder.name)] = line.replace(b"\0", b" ").decode().strip()
        return found

    # nginx and sshd

    def start_nginx(self) -> None:
        """Starts Debian's nginx over /usr/local/nginx and waits for its pid file."""
        self.run(NGINX)
        pid_file = self.path("/usr/local/nginx/logs/nginx.pid")
        wait_until(lambda: pid_file.exists() and pid_file.read_text().strip(), f"{self.name}: nginx wrote its pid file")

    def stop_nginx(self) -> None:
        self._kill_all(self.nginx_pids())

    def nginx_main(self) -> int | None:
        """The process number, in the host, of the nginx main process."""
        return next((pid for pid, title in self.commands().items() if title.startswith("nginx: master process")), None)

    def nginx_workers(self) -> list[int]:
        """Workers that are not shutting down."""
        return [pid for pid, title in self.commands().items() if title == "nginx: worker process"]

    def nginx_pids(self) -> list[int]:
        return [pid for pid, title in self.commands().items() if title.startswith("nginx:")]

    def error_log(self) -> str:
        log = self.path("/usr/local/nginx/logs/error.log")
        return log.read_text() if log.exists() else ""

    def reload_count(self) -> int:
        """How often nginx took a SIGHUP, by its error log (which the base configuration keeps at level notice)."""
        return len(re.findall(r"#\d+: reconfiguring$", self.error_log(), re.MULTILINE))

    def start_sshd(self) -> str:
        """Starts sshd, makes its host key where there is none, and returns the public host key."""
        key = self.path("/etc/ssh/test_host_key")
        if not key.exists():
            self.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "/etc/ssh/test_host_key"])
            self.path("/etc/ssh/test_sshd_config").write_text(SSHD_CONFIG)
        self.run(["/usr/sbin/sshd", "-f", "/etc/ssh/test_sshd_config"])
        wait_until(self.sshd_pid, f"{self.name}: sshd wrote its pid file")
        return key.with_suffix(".pub").read_text().strip()

    def sshd_pid(self) -> int:
        """The listening sshd, as the host numbers it; 0 where none runs."""
        file = self.path("/run/sshd.pid")
        pid = int(file.read_text() or 0) if file.exists() else 0
        return pid if "sshd" in self.commands().get(pid, "") else 0

    def kill_all_but_sshd(self) -> None:
        """Ends everything but process 1 and the listening sshd, and waits for the end."""
        self._kill_all([pid for pid in self.commands() if pid != self.sshd_pid()])

    def _kill_all(self, pids: Sequence[int]) -> None:
        if pids:
            self.run(["kill", "-KILL", *map(str, pids)], check=False)
            wait_until(lambda: not set(pids) & set(self.commands()), f"{self.name}: {pids} ended")

    # network

    def socket(self) -> socket.socket:
        """A TCP socket that lives in the host's network: for a long request, or to hold a port."""
        return _in_network_of(self.pid, socket.socket)

    def get(self, path: str, host: str = "localhost", port: int = 80, address: str = "127.0.0.1") -> tuple[int, str]:
        """(status, body) of a request made in the host's own network. OSError where nobody answers."""
        connection = http.client.HTTPConnection(address, port, timeout=5)
        connection.sock = self.socket()
        try:
            connection.sock.settimeout(5)
            connection.sock.connect((address, port))
            connection.request("GET", path, headers={"Host": host, "Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def vanish_from(self, other: Host) -> None:
        """From now on nothing that `other` sends is answered, as if this host had lost its power."""
        self.run(["ip", "route", "replace", "blackhole", f"{other.address}/32"])

    def return_to(self, other: Host) -> None:
        self.run(["ip", "route", "del", "blackhole", f"{other.address}/32"])

    def reset_network(self) -> None:
        """Only its own address and route, as at the start."""
        commands = (
            "ip route flush type blackhole; ip addr flush dev eth0; ip addr add {0}/24 dev eth0; ip link set eth0 up"
        )
        self.run(["sh", "-c", commands.format(self.address)])

    # state

    def empty(self) -> None:
        """Ends all processes but sshd, unmounts what a test mounted, empties what ngxsync and nginx write."""
        self.kill_all_but_sshd()
        for number, point in reversed(self._mounts().items()):
            if number not in self.mounts:
                self.run(["umount", "-l", point])
        lost = [point for number, point in self.mounts.items() if number not in self._mounts()]
        assert not lost, f"{self.name} has lost {lost}, since {self._emptied_for}"
        self._emptied_for = os.environ.get("PYTEST_CURRENT_TEST", "")
        keep = {"/run/sshd", "/run/sshd.pid", "/run/lock"}
        for point in self._mounts().values():
            keep |= {point, *map(str, Path(point).parents)}
        for folder in (*ON_DISK, *EMPTIED, *PRIVATE, "/etc/systemd/system"):
            for name in os.listdir(self.path(folder)):
                if f"{folder}/{name}" not in keep:
                    _remove(self.path(f"{folder}/{name}"))
        for folder in ON_DISK:
            os.chown(self.path(folder), 0, 0)
            self.path(folder).chmod(0o700 if folder == "/var/lib/ngxsync" else 0o755)
        for path in ("/usr/local/sbin/ngxsync-agent", "/etc/keepalived/keepalived.conf"):
            self.path(path).unlink(missing_ok=True)

    def unmount(self, point: str) -> None:
        """The uppermost file system there, once; it may be busy for an instant longer than its last process is seen.

        What umount(8) says is not asked: it may fail after the file system is gone, and the next call would take what lay below.
        """
        before = self._mounts()

        def is_gone() -> bool:
            return self.run(["umount", point], check=False).returncode == 0 or self._mounts() != before

        wait_until(is_gone, f"{self.name}: {point} is unmounted")

    def _mounts(self) -> dict[str, str]:
        """{id of a mount: where it is}, in the order in which they were made."""
        lines = Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        return {fields[0]: _unescaped(fields[4]) for fields in map(str.split, lines)}

    def kill(self) -> None:
        """Ends the host at once; the kernel takes its processes, mounts and network with it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def _in_network_of(pid: int, make: Callable[[], Value]) -> Value:
    """Calls `make` in a thread that has joined the network of `pid`: a socket stays where it was made."""
    made: list[Value] = []

    def join_and_make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{pid}/ns/net") as network:
            if libc.setns(network.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(make())

    thread = threading.Thread(target=join_and_make)
    thread.start()
    thread.join()
    return made[0]


def _unescaped(point: str) -> str:
    """The kernel writes a space or a backslash of a mount point in octal."""
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), point)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()

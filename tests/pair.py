"""The pair that the integration tests work on: web1 pushes, web2 (and web3 ...) receive, all in one known state."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.forked import run_forked
from tests.host import ENVIRONMENT, PATIENCE_S
from tests.hosts import PROJECT, Host, close_hosts, make_hosts, wait_until

ROOT = "/usr/local/nginx"
LONG_AGO_NS = 1_700_000_000 * 10**9

NGINX_CONF = """\
user www-data;
worker_processes 2;
pid logs/nginx.pid;
error_log logs/error.log notice;

events {
    worker_connections 256;
}

http {
    include mime.types;
    default_type application/octet-stream;
    access_log logs/access.log;
    include vhosts/*.conf;
}
"""

DEFAULT_VHOST = """\
server {
    listen 80 default_server;
    server_name _;
    root html;
    location = /hostname {
        return 200 "$hostname\\n";
    }
}
"""

# path below ROOT to text; the folders are made as needed, and logs/ stays empty
BASE_TREE = {
    "conf/nginx.conf": NGINX_CONF,
    "conf/mime.types": "types {\n    text/html html;\n    text/plain txt;\n}\n",
    "conf/vhosts/default.conf": DEFAULT_VHOST,
    "html/index.html": "<h1>It works</h1>\n",
}

KEPT = "synced.tar"
SYNCED = {
    "web1": ["var/lib/ngxsync"],
    "web2": ["var/lib/ngxsync", "usr/local/sbin/ngxsync-agent", "etc/systemd/system", "usr/local/nginx/.ngxsync"],
}
NOTIFY_SOCKET = "/run/ngxsync-test-notify"


class Daemon:
    """`ngxsync run` on the master; once it has ended, `process.returncode` is its exit status."""

    def __init__(self, host: Host, process: subprocess.Popen[str], output: Path, notified: socket.socket) -> None:
        self.host, self.process, self._output, self._notified = host, process, output, notified
        self._messages: list[str] = []

    def log(self) -> str:
        """Standard output and standard error so far."""
        return self._output.read_text()

    def messages(self) -> list[str]:
        """What it told systemd so far, e.g. "READY=1"; one line is one entry."""
        while True:
            try:
                self._messages += self._notified.recv(65536).decode().splitlines()
            except BlockingIOError:
                return self._messages

    def signal(self, number: int) -> None:
        self.host.signal_to(self.process, number)

    def wait_for(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        """Until its log has this text."""
        try:
            wait_until(lambda: text in self.log(), f"the log says {text!r}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def wait_until_ready(self, timeout_s: float = PATIENCE_S) -> None:
        def is_ready_or_ended() -> bool:
            return "READY=1" in self.messages() or self.process.poll() is not None

        try:
            wait_until(is_ready_or_ended, "the daemon says READY=1", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None
        if "READY=1" not in self.messages():
            raise AssertionError(f"the daemon ended with {self.process.returncode} before READY=1\n{self.log()}")

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM, and wait; AssertionError with the log where it does not end."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"the daemon did not end within {timeout_s:g} s of SIGTERM\n{self.log()}") from None


class Pair:
    """web1 and its peers; `reset` brings every host back to the base state in well under a second."""

    def __init__(self, count: int = 2, *, kinds: Sequence[type[Host]] = ()) -> None:
        self.hosts = make_hosts(count, kinds=kinds)
        self.master, *self.peers = self.hosts
        self.peer = self.peers[0]
        self.has_kept = False
        self._host_keys = {host.name: host.start_sshd() for host in self.hosts}
        with tempfile.TemporaryDirectory() as folder:
            key = Path(folder, "key")
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", key], check=True)
            self._private_key, self._public_key = key.read_text(), key.with_suffix(".pub").read_text()

    @property
    def web1(self) -> Host:
        return self.hosts[0]

    @property
    def web2(self) -> Host:
        return self.hosts[1]

    @property
    def web3(self) -> Host:
        return self.hosts[2]

    def reset(self) -> None:
        """Equal base trees, nginx and sshd running on all, no state, web1's key on the others, a minimal config.ini."""
        for host in self.hosts:
            host.empty()
            host.reset_network()
            if not host.sshd_pid():
                host.start_sshd()
            write_tree(host, ROOT, BASE_TREE)
            self.authorise(host)
            host.start_nginx()
        for host in self.hosts:
            _wait_for_workers(host)
        self.write_config()

    def authorise(self, host: Host) -> None:
        if host is not self.master:
            _write_private(host.path("/root/.ssh/authorized_keys"), self._public_key)
            return
        _write_private(host.path("/etc/ngxsync/id_ed25519"), self._private_key)
        known = (f"{peer.address},{peer.name} {self._host_keys[peer.name]}\n" for peer in self.peers)
        host.path("/etc/ngxsync/known_hosts").write_text("".join(known))

    def write_config(self, *, peer: str = "", sync: str = "", nginx: str = "", more: str = "") -> None:
        """Writes config.ini with these lines added to its sections (`peer` to every peer's), and `more` at the end."""
        text = f"[nginx]\nroot = {ROOT}\n{nginx}\n\n[sync]\n{sync}\n"
        for host in self.peers:
            text += f"\n[peer {host.name}]\nhost = {host.address}\nidentity = /etc/ngxsync/id_ed25519\n{peer}\n"
        self.master.path("/etc/ngxsync/config.ini").write_text(text + more)

    def ngxsync(self, *arguments: str, host: Host | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs `ngxsync ARGUMENTS` on web1 (or another host); exit status, output and errors are the result's."""
        host = host or self.master
        if not options.keys() - {"timeout"}:
            env = {**ENVIRONMENT, "PYTHONPATH": str(PROJECT)}
            return run_forked(arguments, env, host.pid, options.get("timeout", 60.0))
        options.setdefault("check", False)
        return host.run(_ngxsync_argv(*arguments), **_with_project(options))

    def popen_ngxsync(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return self.master.popen(_ngxsync_argv(*arguments), **_with_project(options))

    @contextmanager
    def daemon(self, *arguments: str) -> Iterator[Daemon]:
        """`ngxsync run` on web1 from READY=1 until a SIGTERM at the end."""
        with self.service(_ngxsync_argv("run", *arguments)) as daemon:
            yield daemon

    @contextmanager
    def service(self, argv: Sequence[str]) -> Iterator[Daemon]:
        """A command on web1, run as systemd runs a unit with Type=notify."""
        output = self.master.folder / "service.log"
        socket_path = self.master.path(NOTIFY_SOCKET)
        socket_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, output.open("w") as stream:
            notified.bind(str(socket_path))
            notified.setblocking(False)
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": stream}
            options = _with_project({"env": {"NOTIFY_SOCKET": NOTIFY_SOCKET}, **streams})
            daemon = Daemon(self.master, self.master.popen(argv, **options), output, notified)
            try:
                daemon.wait_until_ready()
                yield daemon
            finally:
                daemon.stop()

    def keep_synced(self) -> None:
        """What the first run over the base state left on both hosts, for `bring_synced`."""
        for host, paths in SYNCED.items():
            argv = ["tar", "--create", "--file", f"/opt/{KEPT}", "--directory", "/", "--ignore-failed-read", *paths]
            getattr(self, host).run(argv)
        self.has_kept = True

    def bring_synced(self) -> None:
        """From the base state to that after its first run, without making it again: nginx on web2 is reloaded as by that one."""
        for host in SYNCED:
            getattr(self, host).run(["tar", "--extract", "--file", f"/opt/{KEPT}", "--directory", "/", "--same-owner"])
        before = self.web2.nginx_workers()
        self.web2.run(["kill", "-HUP", str(self.web2.nginx_main())])
        wait_until(lambda: not set(before) & set(self.web2.nginx_workers()), "nginx on web2 is reloaded")
        _wait_for_workers(self.web2)

    def close(self) -> None:
        close_hosts(self.hosts)


def make_pair(count: int = 2) -> Pair:
    """A pair of its own in the base state, for a test that changes more than `reset` mends; end it with `close`."""
    pair = Pair(count)
    pair.reset()
    return pair


def write_tree(host: Host, root: str, files: Mapping[str, str]) -> None:
    """Writes files (path below root to text), mode 0644, with an old mtime, equal on every host; makes logs/."""
    for name, text in files.items():
        file = host.path(f"{root}/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)
        os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))
    host.path(f"{root}/logs").mkdir(exist_ok=True)


def manifest_of(
    host: Host, path: str = ROOT, *, without: tuple[str, ...] = ("logs", ".ngxsync")
) -> dict[str, tuple[Any, ...]]:
    """{path below the tree: (type, mode, uid, gid, mtime_ns, sha256 or target)}, read by the tests' own code.

    `without` are names left out wherever they occur. Directories have mtime 0: theirs is not compared. "." is the tree.
    """
    top = host.path(path)
    found = {".": _fields(top)}
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name not in without]
        for name in (*folders, *files):
            if name not in without:
                entry = Path(folder, name)
                found[str(entry.relative_to(top))] = _fields(entry)
    return found


def _fields(entry: Path) -> tuple[Any, ...]:
    status = entry.lstat()
    kind, content = stat.filemode(status.st_mode)[0], ""
    if kind == "l":
        content = os.readlink(entry)
    elif kind == "-":
        content = hashlib.sha256(entry.read_bytes()).hexdigest()
    mtime_ns = 0 if kind == "d" else status.st_mtime_ns
    return kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, mtime_ns, content


def snapshot_inodes(host: Host, *paths: str) -> dict[str, tuple[int, ...]]:
    """{path: (inode, mode, uid, gid, ctime_ns)} of all at and below these paths: what a rehearsal may not change.

    A directory has no inode here: over an overlay it is another one after the kernel forgot it, and its ctime says as much.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in paths:
        top = host.path(path)
        entries = [top, *(Path(folder, name) for folder, folders, files in os.walk(top) for name in (*folders, *files))]
        for entry in entries:
            status = entry.lstat()
            inside = str(Path(path) / entry.relative_to(top))
            inode = 0 if stat.S_ISDIR(status.st_mode) else status.st_ino
            found[inside] = (inode, status.st_mode, status.st_uid, status.st_gid, status.st_ctime_ns)
    return found


def _wait_for_workers(host: Host) -> None:
    """They come after the pid file, one by one; NGINX_CONF has two."""
    wait_until(lambda: len(host.nginx_workers()) == 2, f"{host.name}: both workers run")


def _write_private(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o600)


def _ngxsync_argv(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ngxsync", *arguments]


def _with_project(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "env": {"PYTHONPATH": str(PROJECT), **options.get("env", {})}}

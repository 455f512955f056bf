"""A real sshd on loopback for tests: its own keys, configuration and port in a folder; as root or as a normal user."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import time
from pathlib import Path

from ngxsync.core.ssh import LinkSettings
from tests.host import PATIENCE_S

SSHD = "/usr/sbin/sshd"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True)
    return path


class Sshd:
    """`with Sshd(folder) as sshd:` listens; sshd.settings(...) reaches it with the right keys."""

    def __init__(self, folder: Path, *, extra: str = "", environment: str = "") -> None:
        """`extra` is added to sshd_config; `environment` is NAME=VALUE ... for what is run."""
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port = 0
        self.identity = make_key(folder / "id")
        self.host_key = make_key(folder / "host_key")
        self.known_hosts = folder / "known_hosts"
        self._extra, self._environment = extra, environment
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        public = Path(f"{self.identity}.pub").read_text()
        (self.folder / "authorized_keys").write_text(public)
        for _ in range(5):  # somebody else may take the port between asking for it and using it
            self.port = self.port or free_port()
            self.trust_host_key()
            (self.folder / "sshd_config").write_text(self._config())
            self._process = subprocess.Popen(
                [SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "log")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if self._is_up():
                return
            self.port = 0
        raise RuntimeError(f"sshd did not start: {(self.folder / 'log').read_text()}")

    def _config(self) -> str:
        return f"""ListenAddress 127.0.0.1
Port {self.port}
HostKey {self.host_key}
AuthorizedKeysFile {self.folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv SHLVL=5 {self._environment}
{self._extra}
"""

    def _is_up(self) -> bool:
        assert self._process
        deadline = time.monotonic() + PATIENCE_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return True
            except OSError:
                time.sleep(0.01)
        return False

    def trust_host_key(self) -> None:
        """Writes the known_hosts that the settings name."""
        kind, key = Path(f"{self.host_key}.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def settings(self, **changed: object) -> LinkSettings:
        values: dict[str, object] = {
            "name": "web2",
            "host": "127.0.0.1",
            "port": self.port,
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "identity": self.identity,
            "known_hosts": self.known_hosts,
            "connect_timeout_s": 2.0,
            "state_dir": str(self.folder / "state"),
        }
        return LinkSettings(**{**values, **changed})  # type: ignore[arg-type]

    def sessions(self) -> list[int]:
        """The processes of all connections, sshd's own and what runs in them."""
        assert self._process
        return descendants(self._process.pid)

    def signal_sessions(self, number: signal.Signals) -> None:
        for pid in self.sessions():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def freeze(self) -> None:
        """The connections stay up and nothing answers: a peer that hangs."""
        self.signal_sessions(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal_sessions(signal.SIGCONT)

    def cut(self) -> None:
        """Ends every connection in the middle of whatever it does."""
        self.signal_sessions(signal.SIGKILL)

    def stop(self) -> None:
        if self._process is None:
            return
        self.cut()
        self._process.terminate()
        self._process.wait(45)
        self._process = None


def descendants(pid: int) -> list[int]:
    """All processes below this one."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]

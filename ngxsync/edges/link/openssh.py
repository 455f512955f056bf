"""OpenSSH's side of a link: its configuration file, and the connection that it keeps open for rsync (ControlMaster)."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from ngxsync.core.errors import PeerUnreachable, tail
from ngxsync.core.ssh import PEER_ALIAS, LinkSettings, render_ssh_config, unreachable
from ngxsync.edges.link.folder import SOCKET, PrivateFolder, is_listening

# what ssh writes at LogLevel ERROR, and our code for it
COMPLAINTS = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "host-key-changed"),
    ("Host key verification failed", "host-key-unknown"),
    ("UNPROTECTED PRIVATE KEY FILE", "identity-open"),
    ("Permission denied (", "auth"),
    ("Connection refused", "refused"),
    ("Could not resolve hostname", "name"),
    ("timed out during banner exchange", "silent"),
    ("Connection timed out", "timeout"),
)


class OpenSsh:
    """`ssh -F` with our file; the kept connection ends by itself an hour after its last use, should we be killed."""

    def __init__(self, settings: LinkSettings, runtime_dir: Path) -> None:
        """Writes the file into a private folder below runtime_dir; raises ConfigError for what it cannot hold."""
        self._settings = settings
        self._lock = threading.Lock()
        self._folder = PrivateFolder(runtime_dir)
        self.config_file, self._control = self._folder.path / "config", self._folder.path / SOCKET
        try:
            text = render_ssh_config(settings, self.config_file, self._control)
            self.config_file.touch(mode=0o600)
            self.config_file.write_text(text, encoding="utf-8")
        except BaseException:
            self._folder.remove()
            raise

    @property
    def shell(self) -> str:
        """What `rsync -e` needs."""
        return f"ssh -F {shlex.quote(str(self.config_file))}"

    def ensure_master(self) -> None:
        """Opens the kept connection if it is not there. Raises PeerUnreachable.

        A connect to its socket says so 50 times faster than `ssh -O check`.
        """
        with self._lock:
            if not is_listening(self._control):
                self.run(["-f", "-N", "-M", PEER_ALIAS])

    def run(self, arguments: list[str], stdin: bytes = b"") -> bytes:
        """Runs ssh to its end, given `stdin`; its standard output. Raises PeerUnreachable with what it complained of."""
        argv = ["ssh", "-F", str(self.config_file), *arguments]
        # files, not pipes: a connection that goes to the background would keep them open
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            given.write(stdin)
            given.seek(0)
            try:
                status = subprocess.run(
                    argv,
                    cwd="/",  # what stays in the background must not keep a mount busy
                    stdin=given,
                    stdout=stdout,
                    stderr=stderr,
                    timeout=3 * self._settings.connect_timeout_s,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise unreachable(self._settings, "silent") from error
            stdout.seek(0)
            stderr.seek(0)
            if status:
                raise self._complaint(status, stderr.read().decode("utf-8", "replace"))
            return stdout.read()

    def _complaint(self, status: int, text: str) -> PeerUnreachable:
        """The same code as the other stack has for the same cause.

        ssh drops what the jump host's ssh writes (as it does wherever a connection may be kept), so what it says itself
        is about the peer.
        """
        for words, code in COMPLAINTS:
            if words in text:
                return unreachable(self._settings, code)
        code = "jump" if self._settings.jump else "unreachable"
        return unreachable(self._settings, code, tail(text) or f"ssh ended with {status}")

    def close(self) -> None:
        """Ends the kept connection and removes the files; may be called twice."""
        with self._lock:
            if is_listening(self._control):
                with suppress(PeerUnreachable):
                    self.run(["-O", "exit", PEER_ALIAS])
            self._folder.remove()

"""One open connection by fabric and paramiko, which nothing else imports; every wait has an end."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import paramiko
from fabric import Config, Connection
from paramiko.hostkeys import InvalidHostKey
from paramiko.ssh_exception import SSHException

from ngxsync.core.errors import AgentFailed, Message, PeerUnreachable, tail
from ngxsync.core.ssh import LinkSettings, is_public_key, jump_argv, unreachable

# what paramiko would log are tracebacks of what we report as one of our errors
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)

# what a connection raises that is gone
CONNECTION_ERRORS = (SSHException, OSError, EOFError)
ANSWER_LIMIT = 256 * 1024 * 1024
CHUNK = 1 << 16
LOOK_UP_S = 1.0  # how often an idle connection looks up; paramiko's 0.1 s is most of what an idle daemon costs
NOISE_LINES = 100  # that may follow an answer
Channel = paramiko.Channel


@dataclass(frozen=True)
class Outcome:
    """What a command on the peer left; `status` is -1 where it did not end by itself."""

    stdout: bytes
    stderr: bytes
    status: int

    @cached_property
    def answer(self) -> dict[str, Any] | None:
        """The last line that is a JSON object with `ok`; a noisy .bashrc may have written before it, its EXIT trap after it."""
        for line in reversed(self.stdout.rstrip().rsplit(b"\n", NOISE_LINES)):
            if line.startswith(b"{"):
                with suppress(ValueError, RecursionError):
                    value = json.loads(line)
                    if isinstance(value.get("ok"), bool):
                        return dict(value)
        return None


class Wire:
    """One open fabric connection, by way of the jump host where there is one."""

    def __init__(self, settings: LinkSettings, config_file: Path) -> None:
        """Connects and logs in; raises PeerUnreachable."""
        self._settings = settings
        self._jump: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._fabric: Connection | None = None
        self._sock: socket.socket | None = None
        try:
            self._open(config_file)
        except (*CONNECTION_ERRORS, InvalidHostKey, ValueError) as error:
            self._complaints.seek(0)
            said = tail(self._complaints.read())
            self.close()
            raise translated(error, settings, said) from error
        except BaseException:
            self.close()
            raise

    def _open(self, config_file: Path) -> None:
        settings, timeout = self._settings, self._settings.connect_timeout_s
        key = load_key(settings)
        options = {
            "pkey": key,
            "look_for_keys": False,
            "allow_agent": False,
            "timeout": timeout,
            "banner_timeout": timeout,
            "auth_timeout": timeout,
            "channel_timeout": timeout,
        }
        # lazy: none of fabric's own files, nor ~/.ssh/config
        config = Config(lazy=True, overrides={"load_ssh_configs": False})
        self._fabric = Connection(
            settings.host, settings.user, settings.port, config=config, gateway=False, connect_kwargs=options
        )
        # fabric's default accepts any host key
        self._fabric.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            self._fabric.client.load_system_host_keys(str(settings.known_hosts))
        except (ValueError, SSHException) as error:  # base64 that is no key
            raise unreachable(settings, "known-hosts", tail(str(error))) from error
        # after all that may be wrong here: nobody else would close it
        self._sock = self._hop(config_file) if settings.jump else self._socket()
        self._fabric.connect_kwargs["sock"] = self._sock
        self._fabric.open()
        self._sock.settimeout(LOOK_UP_S)
        self._fabric.transport.set_keepalive(settings.silence_s // 3)

    def _socket(self) -> socket.socket:
        """Without delay (40 ms on each call otherwise), and given up soon when the peer is gone."""
        settings = self._settings
        sock = socket.create_connection((settings.host, settings.port), timeout=settings.connect_timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, settings.silence_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, settings.silence_s * 1000)
        return sock

    def _hop(self, config_file: Path) -> socket.socket:
        """A socket whose other end is OpenSSH on the way through the jump host, whose key is checked as strictly."""
        ours, theirs = socket.socketpair()
        with theirs:
            argv = jump_argv(config_file, self._settings.host, self._settings.port)
            self._jump = subprocess.Popen(
                argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._complaints, start_new_session=True
            )
        return ours

    @property
    def is_open(self) -> bool:
        return bool(self._fabric and self._fabric.transport and self._fabric.transport.is_active())

    def channel(self, command: str) -> Channel:
        """Starts a command. Raises SSHException, OSError or EOFError where the connection is gone."""
        if not self._fabric or not self._fabric.transport:
            raise EOFError
        with closed_after(self, self._settings.connect_timeout_s):
            channel: Channel = self._fabric.transport.open_session()
            channel.exec_command(command)
            return channel

    def close(self) -> None:
        """Ends all that uses it, at once; what waits on one of its channels wakes up."""
        if self._fabric is not None:
            with suppress(
                *CONNECTION_ERRORS,
            ):
                self._fabric.client.close()
        if self._sock is not None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # its thread need not look up to see it
        if self._jump is not None:
            self._jump.kill()
            self._jump.wait()
        self._complaints.close()


class Clock:
    """Says whether the time was up, and then closes what was waited for."""

    def __init__(self, subject: Wire | Channel) -> None:
        self.is_over = False
        self._subject = subject

    def strike(self) -> None:
        self.is_over = True
        self._subject.close()


@contextmanager
def closed_after(subject: Wire | Channel, seconds: float) -> Iterator[Clock]:
    """Closes the subject when the time is up: the one way to end every wait inside paramiko, its sends included."""
    clock = Clock(subject)
    timer = threading.Timer(seconds, clock.strike)
    timer.daemon = True
    timer.start()
    try:
        yield clock
    finally:
        timer.cancel()


def send(channel: paramiko.Channel, data: bytes, *, is_whole: bool = True) -> None:
    """All of it and, where that is whole, the end of input; a receiver that went away is told by what read() finds."""
    with suppress(*CONNECTION_ERRORS):
        for start in range(0, len(data), CHUNK):
            channel.sendall(data[start : start + CHUNK])
        if is_whole:
            channel.shutdown_write()


def read(channel: Channel) -> Outcome:
    """Both outputs to their ends (of stderr only the last part is kept) and the exit status. Raises AgentFailed."""
    channel.settimeout(0.2)
    parts: list[bytes] = []
    size, stderr = 0, b""
    while True:
        part = None
        with suppress(TimeoutError):
            part = channel.recv(CHUNK)
        # unread, it would fill the window that both share, and the agent would wait for ever
        while channel.recv_stderr_ready():
            stderr = (stderr + channel.recv_stderr(CHUNK))[-CHUNK:]
        if part == b"":
            break
        parts.append(part or b"")
        size += len(parts[-1])
        if size > ANSWER_LIMIT:
            raise AgentFailed(
                Message("the agent's answer is larger than 256 MB, its limit", next="are the trees that large?")
            )
    with suppress(TimeoutError):
        while part := channel.recv_stderr(CHUNK):
            stderr = (stderr + part)[-CHUNK:]
    return Outcome(b"".join(parts), stderr, channel.recv_exit_status())


def load_key(settings: LinkSettings) -> paramiko.PKey:
    """The private key. Raises PeerUnreachable where it is missing, not one, locked, or open to others (as ssh does)."""
    try:
        with settings.identity.open("rb") as file:
            if is_public_key(file.read(256)):  # before its mode, which is right for it
                raise unreachable(settings, "identity-public")
        if settings.identity.stat().st_mode & 0o077:
            raise unreachable(settings, "identity-open")
        return paramiko.PKey.from_path(settings.identity)
    except (paramiko.PasswordRequiredException, TypeError) as error:  # which one depends on the key's format
        raise unreachable(settings, "identity-locked") from error
    except OSError as error:
        raise unreachable(settings, "identity", error.strerror or tail(str(error))) from error
    except (ValueError, SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise unreachable(settings, "identity", tail(str(error))) from error


def translated(error: Exception, settings: LinkSettings, said: str) -> PeerUnreachable:
    """The error for people; `said` is what the jump host's ssh wrote."""
    detail = said or tail(str(error))
    if isinstance(error, paramiko.BadHostKeyException):
        return unreachable(settings, "host-key-changed", f"it shows {fingerprint(error.key)}")
    if isinstance(error, paramiko.AuthenticationException):
        return unreachable(settings, "auth")
    if isinstance(error, ConnectionRefusedError):
        return unreachable(settings, "refused")
    if isinstance(error, socket.gaierror):
        return unreachable(settings, "name", detail)
    if isinstance(error, OSError) and error.filename == str(settings.known_hosts):
        return unreachable(settings, "known-hosts", error.strerror or detail)
    if isinstance(error, InvalidHostKey):
        return unreachable(settings, "known-hosts", f"paramiko cannot read the line: {tail(error.line)}")
    if isinstance(error, TimeoutError):
        return unreachable(settings, "timeout")
    if "not found in known_hosts" in str(error):
        return unreachable(settings, "host-key-unknown")
    if settings.jump:
        return unreachable(settings, "jump", detail)
    if "banner" in str(error) or "No existing session" in str(error):
        return unreachable(settings, "silent")
    return unreachable(settings, "unreachable", detail or type(error).__name__)


def fingerprint(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"

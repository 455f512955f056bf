"""An administrator's own way to a peer: plain OpenSSH with all that is theirs (configuration, agent, keys, passwords).

Only the peer's host key is ours to say: the one that is pinned for it, and no other.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ngxsync.core.errors import AgentFailed, Message, PeerUnreachable, tail
from ngxsync.core.ssh import LinkSettings, unreachable
from ngxsync.edges.link import PROBE, AgentBundle
from ngxsync.edges.link.openssh import COMPLAINTS
from ngxsync.edges.link.wire import Outcome

TYPING_S = 120.0  # for a person who is asked for a password or a passphrase


@dataclass(frozen=True)
class Rights:
    """Which Python the login has, and what makes it root: "" where it is, "sudo -n" where that works, None where nothing does."""

    python: str
    uid: int
    prefix: str | None


class Login:
    """`settings.user` logs in; `identity` is a key to be used alone, None: what ssh itself would use. To be closed.

    `caller` is whose ssh it is, "" for this process's user.
    """

    def __init__(self, settings: LinkSettings, identity: Path | None, *, may_ask: bool, caller: str = "") -> None:
        self.settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="ngxsync-", dir="/tmp"))  # its socket's name has to be short
        if caller:
            shutil.chown(self._folder, caller)
        # without a login shell or a session: only the user changes, and what ssh takes from the environment stays
        before = ["runuser", "-u", caller, "--"] if caller else []
        self._argv = before + _argv(settings, identity, self._folder / "own", may_ask=may_ask)
        self._extra_s = TYPING_S if may_ask else 0.0

    def rights(self) -> Rights:
        """Raises PeerUnreachable, AgentFailed where there is no Python."""
        outcome = self.run(f"env LC_ALL=C sh -c {shlex.quote('id -u; ' + PROBE)}", b"", timeout_s=30.0)
        lines = outcome.stdout.decode("utf-8", "replace").split("\n")[-3:-1]
        if outcome.status or len(lines) < 2 or not lines[0].isdigit() or not lines[1].startswith("/"):
            raise self._no_rights(outcome)
        uid = int(lines[0])
        prefix: str | None = ""
        if uid:
            prefix = None if self.run("sudo -n true", b"", timeout_s=30.0).status else "sudo -n "
        return Rights(lines[1], uid, prefix)

    def _no_rights(self, outcome: Outcome) -> AgentFailed:
        name, said = self.settings.name, tail(outcome.stderr) or tail(outcome.stdout, lines=1) or "it said nothing"
        code, what, hint = "shell", f"the login runs no command: {said}", "log in as another user: --as USER"
        if b"ngxsync: refused" in outcome.stderr:
            what, hint = (
                "this key is restricted: it installs nothing",
                "your own access: --identity FILE, or without it",
            )
        elif outcome.status == 127:
            code, what, hint = "python", f"{name} has no Python 3.6 or newer", "install python3 there"
        return AgentFailed(Message(what, self.settings.where, f"{name} unchanged", hint), code=code)

    def call(
        self, rights: Rights, bundle: AgentBundle, verb: str, request: dict[str, Any], *, install: bool
    ) -> dict[str, Any]:
        """One call of our agent, put there with `install`, else run from a temporary folder. Raises NgxsyncError."""
        arguments, before = bundle.boot(self.settings.state_dir, verb, install=install)
        command = shlex.join(["env", "LC_ALL=C.UTF-8", rights.python, "-I", "-S", *arguments])
        payload = before + json.dumps(request).encode("ascii") + b"\n"
        outcome = self.run((rights.prefix or "") + command, payload, timeout_s=120.0)
        if outcome.answer is None:
            said = tail(outcome.stderr) or tail(outcome.stdout) or "it said nothing"
            what = f"`{verb}` ended with status {outcome.status} instead of an answer: {said}"
            hint = f"mend that on {self.settings.name}; the same command again goes on where it stopped"
            raise AgentFailed(Message(what, self.settings.where, "what it had done stays done", hint))
        return outcome.answer

    def run(self, command: str, data: bytes, *, timeout_s: float) -> Outcome:
        """Runs one command there to its end. Raises PeerUnreachable."""
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            stdin.write(data)
            stdin.seek(0)
            # files, not pipes: the connection that is kept in the background would hold them open
            try:
                status = subprocess.run(
                    [*self._argv, command],
                    stdin=stdin,
                    stdout=out,
                    stderr=err,
                    timeout=timeout_s + self._extra_s,
                    env={**os.environ, "LC_ALL": "C"},
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise unreachable(self.settings, "silent") from error
            out.seek(0)
            err.seek(0)
            outcome = Outcome(out.read(), err.read(), status)
        if status == 255:
            raise self._complaint(outcome.stderr.decode("utf-8", "replace"))
        return outcome

    def _complaint(self, text: str) -> PeerUnreachable:
        code = next((code for words, code in COMPLAINTS if words in text), "unreachable")
        error = unreachable(self.settings, code, tail(text, lines=1))
        if code == "auth":
            what = f"{self.settings.name} does not let you in as {self.settings.user}: {tail(text, lines=1)}"
            hint = "this needs your own access: --as USER, --identity FILE, ssh-agent, or a terminal for a password"
            error = PeerUnreachable(Message(what, error.message.where, error.message.state, hint), code=code)
        return error

    def close(self) -> None:
        """Ends the kept connection; may be called twice."""
        with suppress(OSError, subprocess.SubprocessError):
            argv = [*self._argv[:-2], "-O", "exit", *self._argv[-2:]]
            subprocess.run(argv, capture_output=True, timeout=10, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)


def _argv(settings: LinkSettings, identity: Path | None, socket: Path, *, may_ask: bool) -> list[str]:
    """Up to the host; what is to be run follows. What is given here wins over every configuration file."""
    known = str(settings.known_hosts).replace("%", "%%")
    options = {
        "UserKnownHostsFile": f'"{known}"',
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": settings.known_hosts_name,
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "CheckHostIP": "no",
        "ControlMaster": "auto",
        "ControlPath": str(socket),
        "ControlPersist": "60",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "RequestTTY": "no",
        "RemoteCommand": "none",
        "ConnectTimeout": str(max(1, int(settings.connect_timeout_s))),
        "ServerAliveInterval": str(settings.silence_s // 3),
        "ServerAliveCountMax": "3",
        "LogLevel": "ERROR",
        "BatchMode": "no" if may_ask else "yes",
        **({"IdentitiesOnly": "yes", "IdentityAgent": "none"} if identity else {}),
        **({"ProxyJump": settings.jump} if settings.jump else {}),
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    words += ["-i", str(identity)] if identity else []
    return ["ssh", *words, "-p", str(settings.port), "-l", settings.user, "--", settings.host]

"""What a peer's key is let do there, tried by both stacks: a call of the agent, and a command that it must not run."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from ngxsync.core.errors import AgentFailed, Message, PeerUnreachable, tail
from ngxsync.core.ssh import PEER_ALIAS, LinkSettings, unreachable
from ngxsync.edges.link import AgentBundle, Link, Way
from ngxsync.edges.link.openssh import COMPLAINTS
from ngxsync.edges.link.wire import Outcome


class ByKey:
    """Connections of their own, with the configured key alone. To be closed."""

    def __init__(self, settings: LinkSettings, runtime: Path, bundle: AgentBundle) -> None:
        self.settings = settings
        self._bundle = bundle
        self._link = Link(settings, runtime, bundle)

    def hello(self, request: dict[str, Any], *, timeout_s: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answers by fabric and by OpenSSH. Raises PeerUnreachable, AgentFailed."""
        ours = self._link.call("hello", request, timeout_s=timeout_s)
        command = Way().command([self._bundle.folder(self.settings.state_dir), "hello"])
        outcome = self._by_openssh(command, json.dumps(request).encode("ascii") + b"\n", timeout_s)
        if outcome.answer is None:
            said = tail(outcome.stderr) or tail(outcome.stdout) or "it said nothing"
            what = f"by OpenSSH the agent ended with status {outcome.status} instead of an answer: {said}"
            raise AgentFailed(Message(what, self.settings.where, "what was installed stays", "see that message"))
        return ours, outcome.answer

    def says(self, command: str, *, timeout_s: float) -> str:
        """What a shell command writes there, "" where it is refused. Raises PeerUnreachable."""
        return self._by_openssh(command, b"", timeout_s).stdout.decode("utf-8", "replace")

    def close(self) -> None:
        self._link.close()

    def _by_openssh(self, command: str, data: bytes, timeout_s: float) -> Outcome:
        argv = [*shlex.split(self._link.rsync_shell()), "-o", "ControlPath=none", PEER_ALIAS, command]
        try:
            done = subprocess.run(argv, input=data, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise unreachable(self.settings, "silent") from error
        if done.returncode == 255:
            raise self._complaint(done.stderr.decode("utf-8", "replace"))
        return Outcome(done.stdout, done.stderr, done.returncode)

    def _complaint(self, text: str) -> PeerUnreachable:
        code = next((code for words, code in COMPLAINTS if words in text), "unreachable")
        return unreachable(self.settings, code, tail(text, lines=1))

"""One peer's two connections with one set of ssh settings: fabric carries the agent's calls, OpenSSH carries rsync.

Both check host keys strictly, use our key alone and never ask for anything.
"""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ngxsync.agent.manifest import PROTOCOL
from ngxsync.core import gate
from ngxsync.core.errors import AgentFailed, Message, PeerUnreachable, tail
from ngxsync.core.ssh import CUT, PEER_ALIAS, LinkSettings, unreachable
from ngxsync.edges.link.openssh import OpenSsh
from ngxsync.edges.link.wire import CONNECTION_ERRORS, Channel, Outcome, Wire, closed_after, read, send, translated

__all__ = ["Link", "LinkSettings"]

CALLS_AT_ONCE = 5  # sshd allows 10 sessions on a connection (MaxSessions), and channels kept warm count
WARM_S = 45.0  # the agent waits a little longer (agent/main.py)
RECEIVER = "ngxsync_agent/receiver.py"
FIRST_PYTHON = "/usr/bin/python3"
PYTHONS = [FIRST_PYTHON, "python3", *(f"python3.{minor}" for minor in range(13, 5, -1)), "/usr/libexec/platform-python"]
PROBE = (
    f"for p in {' '.join(PYTHONS)}; do command -v $p >/dev/null 2>&1 && $p -I -S -c "
    '"import sys; sys.version_info < (3, 6) and sys.exit(1); print(sys.executable)" 2>/dev/null '
    "&& exit 0; done; exit 127"
)
HELLO_S = 20.0
# 126, 127: what env and a shell say of a program that is not there; the agent says 127 for a Python that is too old
NO_PYTHON = (126, 127)
# what Python says of an agent whose files are empty, cut off or not all there: a whole one always answers
DAMAGED = (0, 1)


class AgentBundle(Protocol):
    """What a link needs of edges.bundle."""

    def folder(self, state_dir: str) -> str: ...

    def boot(self, state_dir: str, verb: str, *, install: bool) -> tuple[list[str], bytes]: ...


@dataclass(frozen=True)
class Way:
    """How the agent is started, as far as we know the peer: the usual Python, and our agent there, until told otherwise."""

    python: str = FIRST_PYTHON
    is_probed: bool = False
    is_absent: bool = False  # no agent with our hash

    def command(self, arguments: list[str]) -> str:
        """Plain words, since the login shell may be any.

        C.UTF-8: English, and Python 3.6 reads file names as every later one does (in C it takes them for ASCII).
        """
        return shlex.join(["env", "LC_ALL=C.UTF-8", self.python, "-I", "-S", *arguments])


class Link:
    """One peer. Safe to use from several threads; opens by itself, and again on the next call after a drop."""

    def __init__(self, settings: LinkSettings, runtime_dir: Path, bundle: AgentBundle) -> None:
        """Writes ssh's configuration into a private folder below runtime_dir; connects to nothing yet."""
        self.settings = settings
        self.alias = PEER_ALIAS
        self._bundle = bundle
        self._openssh = OpenSsh(settings, runtime_dir)
        self._lock, self._warm_lock = threading.Lock(), threading.Lock()  # the first is held while it connects
        self._slots = threading.BoundedSemaphore(CALLS_AT_ONCE)
        self._wire: Wire | None = None
        self._failure: tuple[float, PeerUnreachable | None] = 0.0, None
        self._is_closed = False
        self._warm: dict[str, tuple[Wire, Channel, threading.Timer]] = {}
        self._way = Way()
        self._protocol = PROTOCOL  # the highest that both sides speak, as far as we know

    def call(
        self,
        verb: str,
        request: dict[str, Any],
        *,
        timeout_s: float,
        install: bool = False,
        go: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """One call of the agent; its answer, {"ok": false, ...} included.

        `go` is for a request that waits: it is called once that is sent, and "go" follows when it returns; where it
        raises, the connection of this call is closed and the agent gives the run up.
        `install` leaves an agent there that is missing; without it a missing one runs from a temporary folder.
        An agent of another release is asked again in the highest protocol that both speak.
        Raises PeerUnreachable: with code "cut" where the agent may have got the request, else nothing was begun.
        Raises AgentFailed where what came is no answer, where the gate refused it (code "gate"), and where no protocol is
        common to both (code "protocol").
        """
        answer = self._asked(verb, request, timeout_s, install, go)
        while not answer["ok"] and answer.get("code") == "protocol":
            number = gate.common_protocol(answer, self.settings.name, self.settings.where)
            if number == self._protocol:
                return answer
            self._protocol = number
            answer = self._asked(verb, request, timeout_s, install, go)
        if not answer["ok"] and answer.get("code") == "gate":
            raise self._refused(str((answer.get("message") or {}).get("what")))
        return answer

    def _asked(
        self, verb: str, request: dict[str, Any], timeout_s: float, install: bool, go: Callable[[], None] | None
    ) -> dict[str, Any]:
        spoken = {"protocol": self._protocol} if "protocol" in request else {}
        payload = json.dumps({**request, **spoken}).encode("ascii") + b"\n"
        with self._slots:
            way = self._way
            outcome = self._exchange(way, verb, payload, timeout_s, install, go)
            tried = {way}
            while (better := self._better(way, outcome)) and better not in tried:
                way = self._way = better
                tried.add(way)
                outcome = self._exchange(way, verb, payload, timeout_s, install, go)
        answer = outcome.answer
        if answer is None:
            raise self._no_answer(verb, outcome)
        if install:
            self._way = replace(way, is_absent=False)
        return answer

    def warm(self, verb: str) -> None:
        """Starts the interpreter for the next call of `verb`, if none is waiting; it ends by itself when none comes.

        Raises PeerUnreachable. Does nothing where the agent is known to be missing.
        """
        with self._warm_lock:
            if self._way.is_absent or verb in self._warm:
                return
        wire, channel = self._start(self._way.command([self._bundle.folder(self.settings.state_dir), verb]))
        timer = threading.Timer(WARM_S, self._drop_warm, [verb])
        timer.daemon = True
        with self._warm_lock:
            spare = self._warm.get(verb)
            if spare is None:
                self._warm[verb] = (wire, channel, timer)
                timer.start()
        if spare is not None:
            channel.close()

    def whoami_both(self) -> tuple[str, str]:
        """ "user@host boot-id" as fabric and as OpenSSH see it: equal where both reach one host as one user.

        Both ask the agent: behind a gate nothing else answers. Raises PeerUnreachable, AgentFailed.
        """
        ours = self.call("hello", {"protocol": PROTOCOL}, timeout_s=HELLO_S)
        arguments, before = self._arguments(self._way, "hello", install=False)
        payload = before + json.dumps({"protocol": self._protocol}).encode("ascii") + b"\n"
        text = self._openssh.run([PEER_ALIAS, self._way.command(arguments)], stdin=payload)
        theirs = Outcome(text, b"", 0)
        if theirs.answer is None:
            raise self._no_answer("hello", theirs)
        return self._whoami(ours), self._whoami(theirs.answer)

    def _whoami(self, hello: dict[str, Any]) -> str:
        """For a message: printable, whatever the peer says."""
        parts = [tail(str(hello.get(key)), lines=1) for key in ("user", "host", "boot_id")]
        return "{}@{} {}".format(*parts)

    def rsync_shell(self) -> str:
        """What `rsync -e` needs; the peer's name in it is `alias`."""
        return self._openssh.shell

    def receiver(self) -> str:
        """What is started on the peer in place of rsync: rsync, ended with its connection. Our agent is there already."""
        program = f"{self._bundle.folder(self.settings.state_dir)}/{RECEIVER}"
        return self._way.command([program, str(self.settings.transfer_silence_s), "rsync"])

    def ensure_master(self) -> None:
        """Opens OpenSSH's kept connection if it is not there. Raises PeerUnreachable."""
        self._openssh.ensure_master()

    def close(self) -> None:
        """Ends both connections and removes the files; may be called twice."""
        for verb in list(self._warm):
            self._drop_warm(verb)
        self._is_closed = True
        # where another thread is just connecting it ends that by itself: nobody waits for a dead peer
        if self._lock.acquire(blocking=False):
            wire, self._wire = self._wire, None
            self._lock.release()
            if wire is not None:
                wire.close()
        self._openssh.close()

    def _exchange(
        self, way: Way, verb: str, payload: bytes, timeout_s: float, install: bool, go: Callable[[], None] | None
    ) -> Outcome:
        """Sends one request and reads until the other side is done, or raises PeerUnreachable with code "cut"."""
        arguments, before = self._arguments(way, verb, install=install)
        payload = before + payload
        ready = None if way.is_absent else self._take_warm(verb)
        wire, channel = ready or self._start(way.command(arguments))
        with closed_after(wire, timeout_s) as clock, channel:
            if go is not None:
                send(channel, payload, is_whole=False)
                go()
                payload = b"go\n"
            send(channel, payload)
            outcome = read(channel)
        if outcome.answer is None and outcome.status == -1:
            said = f"none within {timeout_s:g} s" if clock.is_over else "" if not wire.is_open else "ended by a signal"
            raise unreachable(self.settings, CUT, said)
        return outcome

    def _arguments(self, way: Way, verb: str, *, install: bool) -> tuple[list[str], bytes]:
        """(what the interpreter is given, what comes before the request)."""
        state_dir = self.settings.state_dir
        if way.is_absent:
            return self._bundle.boot(state_dir, verb, install=install)
        return [self._bundle.folder(state_dir), verb], b""

    def _start(self, command: str) -> tuple[Wire, Channel]:
        """A running command on an open connection; a connection that turns out to be dead is opened again once."""
        while True:
            kept, wire = self._wire, self._open()
            try:
                return wire, wire.channel(command)
            except CONNECTION_ERRORS as error:
                wire.close()
                if wire is not kept:
                    raise translated(error, self.settings, "") from error

    def _open(self) -> Wire:
        """Who waited here while another's attempt failed, which may take connect_timeout, shares its failure."""
        came = time.monotonic()
        with self._lock:
            if self._wire is None or not self._wire.is_open:
                if self._wire is not None:
                    self._wire.close()
                self._wire = None
                failed_at, failure = self._failure
                if failure is not None and failed_at > came:
                    raise PeerUnreachable(failure.message, code=failure.code)
                try:
                    wire = Wire(self.settings, self._openssh.config_file)
                except PeerUnreachable as error:
                    self._failure = time.monotonic(), error
                    raise
                self._wire = wire
            wire = self._wire
        if self._is_closed:  # after the lock, for which `close` does not wait
            wire.close()
            raise unreachable(self.settings, "unreachable", "closed meanwhile")
        return wire

    def _take_warm(self, verb: str) -> tuple[Wire, Channel] | None:
        """The interpreter that waits for this verb, if it is still there."""
        with self._warm_lock:
            wire, channel, timer = self._warm.pop(verb, (None, None, None))
        if wire is None or channel is None or timer is None:
            return None
        timer.cancel()
        if wire.is_open and not channel.closed and not channel.eof_received and not channel.exit_status_ready():
            return wire, channel
        channel.close()
        return None

    def _drop_warm(self, verb: str) -> None:
        ready = self._take_warm(verb)
        if ready is not None:
            ready[1].close()

    def _better(self, way: Way, outcome: Outcome) -> Way | None:
        """Another way to try, where the call failed before the agent started."""
        if outcome.answer is not None:
            return None
        if why := gate.refusal_in(outcome.stderr):
            if way.is_absent:  # the gate came meanwhile, and an agent with it
                return replace(way, is_absent=False)
            raise self._refused(why)
        if outcome.status in NO_PYTHON and not way.is_probed:
            return replace(way, python=self._probe(), is_probed=True)
        missing = b"can't open file" in outcome.stderr or b"can't find '__main__'" in outcome.stderr
        # asked twice, a transaction gives the answer that it gave, or the one that undoing it gave
        return replace(way, is_absent=True) if (missing or outcome.status in DAMAGED) and not way.is_absent else None

    def _probe(self) -> str:
        """The first Python from 3.6 on that the peer has. Raises AgentFailed."""
        _, channel = self._start(f"env LC_ALL=C sh -c {shlex.quote(PROBE)}")
        with closed_after(channel, self.settings.connect_timeout_s), channel:
            outcome = read(channel)
        found = tail(outcome.stdout, lines=1)
        if outcome.status == 0 and found.startswith("/"):
            return found
        what = f"{self.settings.name} has no Python 3.6 or newer"
        message = Message(what, self.settings.where, f"{self.settings.name} unchanged", "install python3 there")
        raise AgentFailed(message, code="python")

    def _refused(self, why: str) -> AgentFailed:
        return gate.refused(why, self.settings.name, self.settings.where)

    def _no_answer(self, verb: str, outcome: Outcome) -> AgentFailed:
        if why := gate.refusal_in(outcome.stderr):
            return self._refused(why)
        name, said = self.settings.name, tail(outcome.stderr) or tail(outcome.stdout) or "it said nothing"
        if outcome.stdout.strip() and not outcome.stderr.strip():
            what = f"the login shell on {name} answers `{verb}` in place of the agent: {said}"
            hint = f"look on {name} at ~/.bashrc and at the login shell of {self.settings.user}: it must print nothing"
            raise AgentFailed(Message(what, self.settings.where, f"{name} unchanged", hint), code="noisy-shell")
        what = f"the agent on {name} ended with status {outcome.status} instead of an answer to `{verb}`: {said}"
        state = "what it had begun, the next contact finishes or undoes"
        is_gone = "can't open file" in said  # a restricted key cannot bring it
        hint = f"ngxsync peer install {name}" if is_gone else f"look on {name}: journalctl -e, df -h, free"
        return AgentFailed(Message(what, self.settings.where, state, hint))

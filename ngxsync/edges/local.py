"""The agent's code on the master: scans with a kept hash cache, and `nginx -t` in a private view (DESIGN 3, steps 2 and 3)."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO

import ngxsync
from ngxsync.agent import addresses, binary, nginx, scan
from ngxsync.agent.known import Known, nothing, read_known, write_known
from ngxsync.agent.manifest import PROTOCOL
from ngxsync.agent.paths import Anchor
from ngxsync.agent.restore import make_folders
from ngxsync.agent.survey import Seal, is_as_before, survey
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import AgentFailed, Held, Locked, Message, NgxsyncError, TransferFailed
from ngxsync.core.model import Problem, Projection, Snapshot

KNOWN = "hash-cache.json"
VALIDATE_S = 120.0
RESOLVE_S = 2.0
RECOVER_S = 120.0
Start = Callable[[str], tuple[Sequence[str], bytes]]  # verb -> argv, and what standard input begins with
BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from ngxsync.agent.main import main; sys.exit(main(sys.argv[1:]))"
)


class ScanFailed(NgxsyncError):
    """A tree of the master cannot be read whole: what is missing would be deleted on the peer."""

    exit_status = 4
    code = "scan"


class HalfApplied(NgxsyncError):
    """A run that changed this host's own trees was interrupted, and cannot be put right: what is there is no state to send."""

    exit_status = 7
    code = "broken"


class LocalHost:
    """This host's trees and nginx. `settings` are the `nginx` part of a request to the agent; `state_dir` is its own."""

    def __init__(self, name: str, settings: Mapping[str, Any], state_dir: Path) -> None:
        self.name = name
        self.settings = dict(settings)
        self.state_dir = state_dir
        self.owners = os.geteuid() == 0
        self._known: Known | None = None  # None before the first scan
        self._unsaved = 0  # files of it that are not on disk yet
        self._latest: Snapshot | None = None
        self._seal: Seal | None = None  # of the latest, where it has one
        self._lock = threading.Lock()
        self._spare: subprocess.Popen[bytes] | None = None

    def scan(self, projection: Projection, *, full: bool) -> Snapshot:
        """A snapshot of the live trees; `full` reads every file. Raises ScanFailed."""
        with self._lock:
            try:
                return self._scan(projection, full=full)
            except OSError as error:
                raise self._unreadable(f"{error.filename}: {error.strerror}") from error

    def _scan(self, projection: Projection, *, full: bool) -> Snapshot:
        """The same object as before where nothing changed: its id is known."""
        clock = str(self.state_dir) if self.state_dir.is_dir() else None
        before = None if full else self._seal
        seen = survey(projection.as_json(), clock, before)
        if self._latest is not None and is_as_before(seen, before):
            return self._latest
        if self._known is None:
            self._known = read_known(str(self._file))
        earlier = self._latest.manifest if self._latest else {}
        found = scan.scanned(seen, None if full else self._known, earlier)
        self._keep(found.known)
        if found.unread:
            raise self._unreadable("; ".join(found.unread[:5]))
        snapshot = Snapshot(found.manifest, projection, tuple(found.specials), found.roots)
        if snapshot != self._latest:
            self._latest = snapshot
        self._seal = found.seal
        return self._latest

    @property
    def _file(self) -> Path:
        return self.state_dir / "master" / KNOWN

    def _keep(self, found: Known) -> None:
        """On disk too, for the commands beside a daemon and for its next start: unless so little changed that it is soon read again."""
        before = self._known if self._known is not None else nothing()
        if found != before:
            self._unsaved += sum(before.marks.get(path) != mark for path, mark in found.marks.items())
            self._known = found
        if self._unsaved * 20 > len(found.marks) and self._file.parent.is_dir():
            write_known(str(self._file), found)
            self._unsaved = 0

    def _unreadable(self, what: str) -> ScanFailed:
        hint = "see that ngxsync may read it, or exclude it; the next run tries again"
        return ScanFailed(Message(what, self.name, "no peer was changed", hint))

    def warm(self) -> None:
        """Start the interpreter for the next validation: it waits for its request."""
        with self._lock:
            if self._spare is None or self._spare.poll() is not None:
                self._spare = _started(_package_argv("validate"))

    def call(
        self,
        verb: str,
        request: Mapping[str, Any],
        *,
        timeout_s: float = VALIDATE_S,
        start: Start | None = None,
    ) -> dict[str, Any]:
        """One call of the agent's code on this host. Raises AgentFailed where it gives no answer.

        `start(verb)` is another way to the agent than this package: its argv, and what its standard input begins with. It works in a
        session of its own: Ctrl-C here is not for it.
        """
        text = json.dumps({"protocol": PROTOCOL, "state_dir": str(self.state_dir), "nginx": self.settings, **request})
        asked = text.encode("ascii") + (b"\ngo\n" if verb == "transact" else b"\n")
        spare = self._take() if verb == "validate" else None
        output, errors = _answer(spare, asked, timeout_s) if spare is not None else (b"", b"")
        if spare is None or spare.returncode == -signal.SIGALRM:  # its time to wait was over in this very moment
            argv, begin = (_package_argv(verb), b"") if start is None else start(verb)
            process = _started(argv, start_new_session=start is not None)
            output, errors = _answer(process, begin + asked, timeout_s)
        lines = output.splitlines()
        if not lines:
            said = errors.decode("utf-8", "replace").strip()[-500:]
            what = f"the agent gave no answer on this host: {said or 'it was stopped'}"
            raise AgentFailed(Message(what, self.name, "no peer was changed"), code="died")
        return dict(json.loads(lines[-1]))

    def _take(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            spare, self._spare = self._spare, None
        return spare if spare is not None and spare.poll() is None else None

    def settle(self, wait_s: float) -> tuple[int, int]:
        """What a run on these very trees left open here (a pull, or a push of the other host) is finished or undone.

        The mark of the latest such run: another one after each. Raises Locked where one is still at work after `wait_s`, HalfApplied.
        """
        peer = self.state_dir / "peer"
        if os.path.exists(peer / "journal"):
            answer = self.call("recover", {"wait_s": wait_s}, timeout_s=wait_s + RECOVER_S)
            if not answer["ok"]:
                raise _unsettled(answer, self.name)
        try:
            found = (peer / "sequence.json").stat()
        except OSError:
            return 0, 0
        return found.st_ino, found.st_mtime_ns

    def nginx_test(self) -> dict[str, Any]:
        """The agent's validate answer: {passed, problems, seconds, binary, prefix, conf}, or {"found": False, "why"} without an nginx.

        Raises Held (rehearse) where no private view can be made here.
        """
        answer = self.call("validate", {})
        if answer["ok"]:
            return answer
        message = Message(**answer["message"])
        if answer["code"] == "which-nginx":
            return {"found": False, "why": message.what}
        if answer["code"] == "rehearse":
            raise Held(Message(message.what, self.name, "no peer was changed", message.next), code="rehearse")
        raise NgxsyncError(message, code=str(answer["code"]))

    def close(self) -> None:
        """End a warmed interpreter that was never used."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.kill()
            spare.communicate()


class OwnHost:
    """flow.interfaces.Receiver: this host's trees as a peer's, for a run that changes them.

    `install` puts the agent into `folder`, as on a peer: so this host too recovers at boot, and by hand.
    """

    def __init__(self, local: LocalHost, config: PeerConfig, folder: str, install: Start) -> None:
        self.config = config
        self._local, self._folder, self._install = local, folder, install

    def call(
        self,
        verb: str,
        request: dict[str, Any],
        *,
        timeout_s: float,
        install: bool = False,
        go: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """As a peer's. Raises AgentFailed (died) where there is no answer."""
        if go is not None:
            go()
        start = self._install if install and verb == "stage" else self._installed
        return self._local.call(verb, request, timeout_s=timeout_s, start=start)

    def _installed(self, verb: str) -> tuple[Sequence[str], bytes]:
        is_there = os.path.exists(os.path.join(self._folder, "__main__.py"))
        return ([sys.executable, "-I", "-S", self._folder, verb] if is_there else _package_argv(verb)), b""

    def warm(self, verb: str) -> None:
        """Nothing to connect to."""

    @contextmanager
    def staged(self, tree: str, stage: str, name: str) -> Iterator[BinaryIO]:
        """A file in the stage, 0600, by no link of anybody's. Raises TransferFailed (no-room where the disk is full)."""
        path = f"{stage}/{name}"
        try:
            with Anchor.at(tree) as anchor:
                make_folders(anchor, stage, name.split("/")[:-1])
                with anchor.parent(path) as (folder, last):
                    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                    descriptor = os.open(last, flags, 0o600, dir_fd=folder)
            with open(descriptor, "wb") as file:
                yield file
        except OSError as error:
            code = "no-room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "transfer"
            where, state = f"{self._local.name}:{path}", f"{self._local.name} unchanged"
            raise TransferFailed(
                Message(str(error.strerror), where, state, "see the disk of this host"), code=code
            ) from error


def _unsettled(answer: Mapping[str, Any], name: str) -> NgxsyncError:
    message = Message(**answer["message"])
    if answer["code"] == "locked":
        return Locked(replace(message, where=name, state="no peer was changed"))
    return HalfApplied(replace(message, where=message.where or name))


def _package_argv(verb: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", BOOT, str(Path(ngxsync.__file__).parent.parent), verb]


def _started(argv: Sequence[str], *, start_new_session: bool = False) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        argv, stdin=pipe, stdout=pipe, stderr=pipe, env={"LC_ALL": "C"}, start_new_session=start_new_session
    )


def _answer(process: subprocess.Popen[bytes], asked: bytes, timeout_s: float) -> tuple[bytes, bytes]:
    """Both its outputs; what takes longer is ended."""
    try:
        return process.communicate(asked, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


def problems_from(answer: Mapping[str, Any]) -> tuple[Problem, ...]:
    """The agent's problems as values."""
    return tuple(Problem(p["text"], p["file"], p["line"], p["level"]) for p in answer.get("problems", ()))


def read_nginx(root: str) -> tuple[str, str, str]:
    """(binary, prefix, main configuration file) as `nginx -V` has them compiled in; empty where none can be run."""
    try:
        build = binary.read_build(binary.find_binary({"binary": "auto", "root": root}))
    except (OSError, subprocess.SubprocessError):
        return "", "", ""
    return build.binary, build.prefix, os.path.join(build.prefix, build.conf_path)


def read_running_nginx() -> tuple[str, str, str]:
    """As `read_nginx`, of the nginx that runs here with what it was started with; empty where none runs, or several."""
    return nginx.find_running() or ("", "", "")


def others(config: Config) -> list[PeerConfig]:
    """The peers that are not this host: one file serves both of a pair, and the one whose `host` is this one is itself.

    An own address in `host` is this host, except a loopback one: that is a trial's peer, behind a port of its own. A name is
    what it resolves to; where that is nothing, or loopback (Debian's 127.0.1.1), this host is known by its names.
    """
    hosts = {peer.host for peer in config.peers}
    names = {host for host in hosts if not _is_address(host)}
    here = socket.gethostname().lower()
    found = resolve({*hosts, here} if names else hosts, RESOLVE_S)
    own_names = {here, found[here].canonical if names else here} - {"localhost"}
    own = set(addresses.own_addresses())

    def is_this_host(host: str) -> bool:
        outside = {address for address in found[host].addresses if not ip_address(address).is_loopback}
        return bool(outside & own) if outside else host.lower() in own_names

    return [peer for peer in config.peers if not is_this_host(peer.host)]


def _is_address(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


@dataclass(frozen=True)
class Resolved:
    """What a name stands for: nothing where nobody knows it, or nobody says so in time."""

    addresses: frozenset[str] = frozenset()
    canonical: str = ""


def resolve(names: Collection[str], timeout_s: float) -> dict[str, Resolved]:
    """All at once, in threads that nobody waits for: with its servers away the resolver alone takes half a minute."""
    found: dict[str, Resolved] = {}

    def ask(name: str) -> None:
        with suppress(OSError, UnicodeError):
            answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
            texts = frozenset(str(answer[4][0]).partition("%")[0] for answer in answers)
            found[name] = Resolved(texts, answers[0][3].lower())

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in names]
    end = time.monotonic() + timeout_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return {name: found.get(name, Resolved()) for name in names}

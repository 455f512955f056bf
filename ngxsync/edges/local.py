"""The agent's code on the master: scans with a kept hash cache, and `nginx -t` in a private view (DESIGN 3, steps 2 and 3)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ngxsync
from ngxsync.agent import addresses, binary, nginx, scan
from ngxsync.agent.manifest import PROTOCOL, Manifest
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import Held, Message, NgxsyncError
from ngxsync.core.model import Problem, Projection, Snapshot

VALIDATE_S = 120.0
RESOLVE_S = 2.0
BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from ngxsync.agent.main import main; sys.exit(main(sys.argv[1:]))"
)


class ScanFailed(NgxsyncError):
    """A tree of the master cannot be read whole: what is missing would be deleted on the peer."""

    exit_status = 4
    code = "scan"


class LocalHost:
    """This host's trees and nginx. `settings` are the `nginx` part of a request to the agent; `state_dir` is its own."""

    def __init__(self, name: str, settings: Mapping[str, Any], state_dir: Path) -> None:
        self.name = name
        self.settings = dict(settings)
        self.state_dir = state_dir
        self.owners = os.geteuid() == 0
        self._cache: scan.Cache = {}
        self._manifest: Manifest = {}
        self._lock = threading.Lock()
        self._spare: subprocess.Popen[bytes] | None = None

    def scan(self, projection: Projection, *, full: bool) -> Snapshot:
        """A snapshot of the live trees; `full` reads every file. Raises ScanFailed."""
        clock = str(self.state_dir) if self.state_dir.is_dir() else None
        with self._lock:
            try:
                found = scan.scan(projection.as_json(), None if full else self._cache, clock)
            except OSError as error:
                raise self._unreadable(f"{error.filename}: {error.strerror}") from error
            except scan.Unstable as error:
                raise self._unreadable(f"{error}: it changed all the while it was read") from error
            _share(found.cache, self._cache)
            _share(found.manifest, self._manifest)
            self._cache, self._manifest = found.cache, found.manifest
        if found.unread:
            raise self._unreadable("; ".join(found.unread[:5]))
        return Snapshot(found.manifest, projection, tuple(found.specials), found.roots)

    def _unreadable(self, what: str) -> ScanFailed:
        hint = "see that ngxsync may read it, or exclude it; the next run tries again"
        return ScanFailed(Message(what, self.name, "no peer was changed", hint))

    def warm(self) -> None:
        """Start the interpreter for the next validation: it waits for its request."""
        with self._lock:
            if self._spare is None or self._spare.poll() is not None:
                self._spare = self._start()

    def call(self, verb: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """One call of the agent's code on this host. Raises NgxsyncError where it gives no answer."""
        process = self._take() if verb == "validate" else self._start(verb)
        text = json.dumps(
            {"protocol": PROTOCOL, "state_dir": str(self.state_dir), "nginx": self.settings, **request}
        ).encode("ascii")
        try:
            output, errors = process.communicate(text, timeout=VALIDATE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
        lines = output.splitlines()
        if not lines:
            said = errors.decode("utf-8", "replace").strip()[-500:]
            raise NgxsyncError(
                Message(
                    f"the agent gave no answer on this host: {said or 'it was stopped'}",
                    self.name,
                    "no peer was changed",
                )
            )
        return dict(json.loads(lines[-1]))

    def _start(self, verb: str = "validate") -> subprocess.Popen[bytes]:
        package = str(Path(ngxsync.__file__).parent.parent)
        argv = [sys.executable, "-I", "-S", "-c", BOOT, package, verb]
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"LC_ALL": "C"}
        )

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            spare, self._spare = self._spare, None
        return spare if spare is not None and spare.poll() is None else self._start()

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


def _share(new: dict[str, Any], old: Mapping[str, Any]) -> None:
    """Equal values of two scans become one object: a daemon that scans for months stays as small as one that began."""
    for path, value in new.items():
        known = old.get(path)
        if known == value:
            new[path] = known


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

"""Puts the parts together for the entries: configuration in, a pipeline with its edges out. Everything heavy is imported here, late."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ngxsync.agent.directives import loads, self_excludes
from ngxsync.core.answers import checked
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import ConfigError, Message, NgxsyncError
from ngxsync.core.excludes import literal_pattern, with_own_excludes
from ngxsync.core.ssh import LinkSettings
from ngxsync.core.standing import Received, Standing
from ngxsync.edges.bundle import Bundle
from ngxsync.edges.local import LocalHost, OwnHost, others, problems_from
from ngxsync.edges.serving import RunningNginx
from ngxsync.edges.state import MasterState
from ngxsync.edges.vip import Direction
from ngxsync.flow.interfaces import Named, Validation
from ngxsync.flow.pipeline import Pipeline
from ngxsync.flow.requests import nginx_settings

RUNTIME = Path("/run/ngxsync")
COMMAND = "ngxsync-agent"
CONF_CACHE = "conf-cache.json"


class MasterHost:
    """flow.interfaces.Master: the local host's agent code, with crossplane beside it."""

    def __init__(self, config: Config, state_dir: Path, bundle: Bundle, *, is_shared: bool) -> None:
        self.config, self.bundle = config, bundle
        self.local = LocalHost(socket.gethostname(), nginx_settings(config, None), state_dir)
        self.name, self.owners = self.local.name, self.local.owners
        self.nginx = RunningNginx(self.local.settings, state_dir / "master" / "running.json")
        self.direction = Direction(config, self.name, is_shared=is_shared)
        self._places: tuple[Path, Path] | None = None
        self._reader: Any = None
        self.payloads: dict[bytes, list[dict[str, Any]]] | None = None  # set: what crossplane read here is kept in it

    def scan(self, projection: Any, *, full: bool) -> Any:
        return self.local.scan(projection, full=full)

    def warm(self) -> None:
        self.local.warm()

    def ask(self, verb: str, request: Mapping[str, Any]) -> dict[str, Any]:
        return self.local.call(verb, request)

    def settle(self, wait_s: float) -> object:
        return self.local.settle(wait_s)

    def standing(self) -> Standing:
        return self.direction.standing()

    def received(self, known: str) -> Received | None:
        return self.direction.received(known)

    def receiver(self, config: PeerConfig) -> OwnHost:
        return OwnHost(
            self.local,
            config,
            self.bundle.folder(config.state_dir),
            lambda verb: self._installing(config.state_dir, verb),
        )

    def _installing(self, state_dir: str, verb: str) -> tuple[list[str], bytes]:
        words, begin = self.bundle.boot(state_dir, verb, install=True)
        return [sys.executable, "-I", "-S", *words], begin

    def install_agent(self) -> None:
        """The agent of this release on this host, as on a peer: keepalived calls it here too. Raises NgxsyncError."""
        state_dir = str(self.local.state_dir)
        agents, folder = os.path.join(state_dir, "agent"), self.bundle.folder(state_dir)
        is_current = os.path.realpath(f"{agents}/current") == os.path.realpath(folder)
        if not is_current or not os.path.exists(f"{agents}/{COMMAND}"):
            self.local.call("hello", {}, start=lambda verb: self._installing(state_dir, verb))

    def places(self) -> tuple[Path, Path]:
        """(main configuration file, prefix) as this host's nginx has them; as configured where none can be run."""
        places = self._places  # another thread's test may find no nginx meanwhile
        if places is None:
            answer = self.local.call("which", {})
            conf, prefix = (
                (answer["conf"], answer["prefix"]) if answer["ok"] else (self.config.nginx.conf, self.config.nginx.root)
            )
            self._places = places = Path(conf), Path(prefix)
        return places

    def named(self) -> Named:
        from ngxsync.edges.nginxconf import ConfReader

        if self._reader is None:
            self._reader = ConfReader(self.local.state_dir / "master" / CONF_CACHE, payloads=self.payloads)
        files = self._reader.named_files(*self.places())
        own = {
            tree: tuple(literal_pattern(path) for path in paths)
            for tree, paths in self_excludes(files, self.config.sync.trees).items()
        }
        secrets = frozenset(item.path for item in files if item.role in ("key", "auth"))
        return Named(files, loads(files), secrets, own)

    def validate(self) -> Validation:
        """nginx decides, crossplane explains; where no nginx can be run, crossplane's verdict counts (DESIGN 5)."""
        from ngxsync.edges.nginxconf import explain, with_hints

        answer = self.local.nginx_test()
        if answer.get("found") is False:
            self._places = None
            problems = explain(*self.places())
            passed = not any(problem.level == "error" for problem in problems)
            return Validation(passed, problems, 0.0, "crossplane")
        self._places = places = Path(answer["conf"]), Path(answer["prefix"])
        problems = problems_from(answer)
        if not answer["passed"]:
            known = {(problem.file, problem.line) for problem in problems}
            more = [p for p in explain(*places) if (p.file, p.line) not in known]
            problems = (*with_hints(problems), *more)
        return Validation(bool(answer["passed"]), problems, float(answer["seconds"]), "nginx", str(answer["binary"]))


class PeerHost:
    """flow.interfaces.Peer: one link, and rsync over its ssh settings."""

    def __init__(self, config: PeerConfig, runtime: Path, bundle: Bundle) -> None:
        from ngxsync.edges.link import Link

        self.config = config
        self.link = Link(link_settings(config), runtime, bundle)

    def call(
        self,
        verb: str,
        request: dict[str, Any],
        *,
        timeout_s: float,
        install: bool = False,
        go: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """As the link's, and the answer is checked: what a peer says is not believed unseen."""
        answer = self.link.call(verb, request, timeout_s=timeout_s, install=install, go=go)
        return checked(verb, request, answer, self.config.name, f"{self.config.user}@{self.config.host}")

    def warm(self, verb: str) -> None:
        self.link.warm(verb)
        if verb == "stage":
            self.link.ensure_master()

    def send(self, tree: Path, names: Iterable[str], stage: str, progress: Callable[[int, int], None] | None) -> int:
        from ngxsync.edges import rsync

        self.link.ensure_master()
        where = f"{self.config.user}@{self.config.host}"
        dest = f"{self.link.alias}:{stage}"
        sent = rsync.send(
            self.link.rsync_shell(),
            tree,
            names,
            dest,
            timeout_s=3600.0,
            receiver=self.link.receiver(),
            silence_s=self.link.settings.transfer_silence_s,
            where=where,
            progress=progress,
        )
        return sent.bytes_sent


class Assembly:
    """Everything that one configuration needs; `close` ends its connections and processes. `config` is as this host has it."""

    def __init__(self, config: Config, runtime: Path | None = None) -> None:
        peers = others(config)
        own = [peer for peer in config.peers if peer not in peers]
        raise_if_kept_apart(config, own)
        self.config = config = with_own_excludes(config, own)
        self.state = MasterState(config.state_dir / "master", time.time)
        bundle = Bundle.of_package()
        # at a boot its address may not be there yet
        self.is_shared = len(peers) < len(config.peers) or socket.gethostname() in {peer.name for peer in peers}
        self.master = MasterHost(config, config.state_dir, bundle, is_shared=self.is_shared)
        self.runtime = runtime or runtime_folder()
        self.peers = {peer.name: PeerHost(peer, self.runtime, bundle) for peer in peers}
        self.pipeline = Pipeline(config, self.master, self.peers, self.state, random_hex=lambda: os.urandom(4).hex())

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        for peer in self.peers.values():
            peer.link.close()
        self.master.local.close()


def open_assembly(config: Config) -> Assembly:
    """To be closed. Raises ConfigError where there is no peer but this host itself."""
    assembly = Assembly(config)
    if not assembly.peers:
        assembly.close()
        hint = "add a [peer NAME] for the other host of the pair"
        raise ConfigError(Message("every peer in it is this host itself", config.file, "nothing changed", hint))
    return assembly


def raise_if_kept_apart(config: Config, own: Iterable[PeerConfig]) -> None:
    """What another host wrote here, and when this one held the VIP, is looked for where it is kept. Raises ConfigError."""
    for peer in own:
        if peer.state_dir != str(config.state_dir):
            what = f"[peer {peer.name}] is this host, and its state_dir {peer.state_dir} is not that of [ngxsync]: {config.state_dir}"
            raise ConfigError(Message(what, config.file, "nothing changed", "give this host the same in both"))


def link_settings(peer: PeerConfig) -> LinkSettings:
    return LinkSettings(
        name=peer.name,
        host=peer.host,
        port=peer.port,
        user=peer.user,
        identity=peer.identity,
        known_hosts=peer.known_hosts,
        jump=peer.jump or None,
        connect_timeout_s=peer.connect_timeout_s,
        state_dir=peer.state_dir,
    )


def runtime_folder() -> Path:
    """Where sockets and generated files live: systemd's RUNTIME_DIRECTORY, /run/ngxsync, or the user's own."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    own = (
        Path(given)
        if given
        else RUNTIME
        if os.geteuid() == 0
        else Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/ngxsync-{os.geteuid()}")
    )
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NgxsyncError(f"{own} cannot be made: {error.strerror}", code="state") from error
    return own

"""config.ini as values: all its problems at once, nothing ignored, nothing replaced by its default (DESIGN 6, 9)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from ngxsync.agent.manifest import is_below
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.inifile import IniFile, Section, parse_ini
from ngxsync.core.options import PEER, SECTIONS, Option
from ngxsync.core.pairoptions import MailConfig, VrrpConfig, make_mail, make_vrrp

Problems = list[tuple[int, str]]  # (line, "[section] option: what is wrong, what is allowed")


@dataclass(frozen=True)
class NginxConfig:
    """`conf` and `content` are absolute, `reload` is "SIGHUP" or a command; PeerConfig has what a peer overrides.

    `prove_timeout_s` None: the longer of 10 s and 5 times the measured `nginx -t`.
    """

    root: str
    binary: str  # "auto" or a path
    conf: str
    reload: str
    reload_when: str  # "auto" or "always"
    content: tuple[str, ...]
    prove_timeout_s: float | None
    rehearse: str  # "overlay" or "live"


@dataclass(frozen=True)
class SyncConfig:
    """None where an option says `no`: `check_every_s`, `schedule`, `max_delete_pct`."""

    trees: tuple[str, ...]
    exclude: tuple[str, ...]  # as configured, see core.excludes
    on_change: bool
    settle_s: float
    max_wait_s: float
    check_every_s: float | None
    schedule: str | None  # five fields
    max_delete_pct: float | None
    on_drift: str  # "heal" or "hold"
    follow: str  # "saved" or "running"
    soak_s: float
    keep_runs: int
    keep_for_s: float
    keep_size_bytes: int

    @property
    def is_following(self) -> bool:
        """The peers follow what this host's nginx runs, not what is saved: a soak means that it does."""
        return self.follow == "running" or self.soak_s > 0


@dataclass(frozen=True)
class PeerConfig:
    """One host of the pair, overrides resolved. `identity` and `known_hosts` are here, `state_dir` is on the peer.

    `jump` (host, user@host or user@host:port) and `probe` (a URL) are "" where there is none.
    """

    name: str
    host: str
    port: int
    user: str
    identity: Path
    known_hosts: Path
    jump: str
    state_dir: str
    exclude: tuple[str, ...]
    connect_timeout_s: float
    probe: str
    reload: str
    prove_timeout_s: float | None
    rehearse: str
    interface: str = ""  # that carries the VIP there
    priority: int = 0  # of VRRP, 0: not set


@dataclass(frozen=True)
class Config:
    nginx: NginxConfig
    sync: SyncConfig
    peers: tuple[PeerConfig, ...]
    state_dir: Path
    log_format: str  # "text" or "json"
    file: str
    vrrp: VrrpConfig = field(default_factory=VrrpConfig)
    mail: MailConfig = field(default_factory=MailConfig)
    on_event: str = ""  # a command of the shell, "" for none


def load_config(text: str, file: str) -> Config:
    """The configuration that this text of `file` says.

    Raises ConfigError, whose message's `what` has one line for each problem, in the order of the file.
    """
    ini = parse_ini(text)
    problems: Problems = list(ini.complaints)
    values = {
        name: _read_section(name, options, ini.sections.get(name), problems) for name, options in SECTIONS.items()
    }
    peers = dict(_read_peers(ini, problems))
    problems += _unknown_sections(ini)
    if not peers and not any(_is_peer(name) for name in ini.sections):
        problems.append(
            (text.count("\n") + 1, "[peer NAME]: it is missing, allowed are one or more, each a host of the pair")
        )
    problems += _contradictions(ini, values, peers)
    if problems:
        raise _config_error(problems, file)
    return _make_config(values, peers, file)


def raise_if_unknown(peers: Iterable[str], config: Config, others: Iterable[str] | None = None) -> None:
    """Raises ConfigError, with the nearest name, where one of `peers` is not configured or, not being of `others`, is this host."""
    configured = [peer.name for peer in config.peers]
    known = configured if others is None else list(others)
    for name in peers:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"the peers are: {', '.join(known)}"
            what = f"no such peer: {name}{' is this host itself' if name in configured else ''}"
            raise ConfigError(Message(what, config.file, "nothing changed", hint), code="unknown-peer")


def _read_section(name: str, options: dict[str, Option], section: Section | None, problems: Problems) -> dict[str, Any]:
    """Every option's value, defaults included; None where there is neither, or where it is a problem."""
    given = section.values if section else {}
    values: dict[str, Any] = {}
    for option, known in options.items():
        values[option] = known.read(known.default) if known.default is not None else None
        if option in given and section:
            try:
                values[option] = _read_value(known, given[option])
            except ValueError as error:
                values[option] = None
                problems.append((section.lines[option], f"[{name}] {option}: {error}"))
        elif known.required and section:
            problems.append((section.line, f"[{name}] {option}: it is missing, and required"))
    if section:
        for option in given.keys() - options.keys():
            problems.append((section.lines[option], f"[{name}] {option}: {_unknown_option(option, list(options))}"))
    return values


def _read_value(known: Option, text: str) -> Any:
    text = text.strip()
    if not text:
        raise ValueError("it is empty, allowed is a value, or to leave the option out")
    try:
        return known.read(text)
    except ValueError as error:
        if re.search(r"\s[#;]", text):
            raise ValueError(f"{error} (a comment needs a line of its own)") from None
        raise


def _read_peers(ini: IniFile, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, section in ini.sections.items():
        if not _is_peer(name):
            continue
        peer = name.removeprefix("peer").strip()
        if not re.fullmatch(r"peer [A-Za-z0-9][A-Za-z0-9._-]*", name):
            wrong = "it has no name" if not peer else f"{peer!r} is no name"
            problems.append(
                (section.line, f"[{name}]: {wrong}, allowed is [peer NAME] with letters, digits, '.', '_', '-'")
            )
        yield name, _read_section(name, PEER, section, problems)


def _is_peer(section: str) -> bool:
    return section.split()[:1] == ["peer"]


def _unknown_sections(ini: IniFile) -> Iterator[tuple[int, str]]:
    for name, section in ini.sections.items():
        if name not in SECTIONS and not _is_peer(name):
            yield section.line, f"[{name}]: {_unknown('section', name, [*SECTIONS, 'peer NAME'])}"


def _unknown_option(name: str, known: list[str]) -> str:
    """An option that is right elsewhere is named with its section, rather than one of this section that is little like it."""
    homes = {option: section for section, options in SECTIONS.items() for option in options if option not in known}
    near = get_close_matches(name.lower(), homes, 1, 0.8)
    if near and not get_close_matches(name.lower(), known, 1, 0.8):
        return f"unknown option here, did you mean {near[0]} in [{homes[near[0]]}]?"
    return _unknown("option", name, known)


def _unknown(kind: str, name: str, known: list[str]) -> str:
    near = get_close_matches(name.lower(), known, 1, 0.5)
    return f"unknown {kind}, " + (f"did you mean {near[0]}?" if near else f"allowed are {', '.join(known)}")


def _contradictions(
    ini: IniFile, values: dict[str, dict[str, Any]], peers: dict[str, Any]
) -> Iterator[tuple[int, str]]:
    """What each value allows and several together do not. Values that are a problem of their own are None."""
    nginx, sync, own = values["nginx"], values["sync"], values["ngxsync"]
    if sync["settle"] and sync["max_wait"] and sync["settle"] > sync["max_wait"]:
        option = "settle" if _line(ini, "sync", "settle") else "max_wait"
        yield _line(ini, "sync", option), f"[sync] {option}: settle is longer than max_wait, allowed is at most that"
    trees = _trees(nginx, sync)
    if trees and _line(ini, "nginx", "content"):
        for path in _below_root(nginx, nginx["content"] or ()):
            if not any(is_below(path, tree) for tree in trees):
                said = f"[nginx] content: {path} lies in no tree, allowed are paths in {' or '.join(trees)}"
                yield _line(ini, "nginx", "content"), said
    private = [("ngxsync", "state_dir", own["state_dir"])]
    private += [(name, "password_file", values[name]["password_file"]) for name in ("vrrp", "mail")]
    private += [(name, option, peer[option]) for name, peer in peers.items() for option in ("identity", "state_dir")]
    for section, option, path in private:
        tree = next((tree for tree in trees if path and is_below(path, tree)), None)
        if tree:
            line = _line(ini, section, option) or _line(ini, "sync", "trees") or _line(ini, "nginx", "root")
            yield line, f"[{section}] {option}: {path} lies in the tree {tree}, allowed is a path that is not sent"
    yield from _without_vip(ini)
    yield from _duplicate_hosts(ini, peers)
    moving = {str(ip_interface(vip).ip) for vip in values["vrrp"]["vip"] or ()}
    for name, peer in peers.items():
        if peer["host"] in moving:
            said = f"{peer['host']} is the VIP, which moves, allowed is an address that stays on this host"
            yield _line(ini, name, "host"), f"[{name}] host: {said}"


def _without_vip(ini: IniFile) -> Iterator[tuple[int, str]]:
    section = ini.sections.get("vrrp")
    given = section.values if section else {}
    changed = [
        option for option, known in SECTIONS["vrrp"].items() if given.get(option, known.default) != known.default
    ]
    if section and changed and "vip" not in given:
        yield section.line, f"[vrrp] vip: it is missing, and {changed[0]} means nothing without it"


def _duplicate_hosts(ini: IniFile, peers: dict[str, dict[str, Any]]) -> Iterator[tuple[int, str]]:
    seen: dict[tuple[str, int], str] = {}
    for name, peer in peers.items():
        if peer["host"] and peer["port"]:
            address = (peer["host"].lower(), peer["port"])
            if address in seen:
                said = f"{peer['host']} is the host of [{seen[address]}] too, allowed is each host and port once"
                yield _line(ini, name, "host"), f"[{name}] host: {said}"
            seen.setdefault(address, name)


def _line(ini: IniFile, section: str, option: str) -> int:
    """0 where the file does not set it."""
    return ini.sections[section].lines.get(option, 0) if section in ini.sections else 0


def _trees(nginx: dict[str, Any], sync: dict[str, Any]) -> tuple[str, ...]:
    return sync["trees"] or ((nginx["root"],) if nginx["root"] else ())


def _below_root(nginx: dict[str, Any], paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(posixpath.join(nginx["root"], path) for path in paths)


def _config_error(problems: Problems, file: str) -> ConfigError:
    lines = [f"{file}:{line}: {text}" for line, text in sorted(problems)]
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    state = "nothing was started and nothing changed"
    return ConfigError(Message("\n".join([f"{count} in the configuration", *lines]), file, state, "mend these lines"))


def _make_config(values: dict[str, dict[str, Any]], peers: dict[str, dict[str, Any]], file: str) -> Config:
    nginx, sync, own = values["nginx"], values["sync"], values["ngxsync"]
    nginx_config = NginxConfig(
        root=nginx["root"],
        binary=nginx["binary"],
        conf=posixpath.join(nginx["root"], nginx["conf"]),
        reload=nginx["reload"],
        reload_when=nginx["reload_when"],
        content=_below_root(nginx, nginx["content"]),
        prove_timeout_s=nginx["prove_timeout"],
        rehearse=nginx["rehearse"],
    )
    sync_config = SyncConfig(
        trees=_trees(nginx, sync),
        exclude=sync["exclude"] or (),
        on_change=sync["on_change"],
        settle_s=sync["settle"],
        max_wait_s=sync["max_wait"],
        check_every_s=sync["check_every"],
        schedule=sync["schedule"],
        max_delete_pct=sync["max_delete"],
        on_drift=sync["on_drift"],
        follow=sync["follow"],
        soak_s=sync["soak"],
        keep_runs=sync["keep_runs"],
        keep_for_s=sync["keep_for"],
        keep_size_bytes=sync["keep_size"],
    )
    made = tuple(_make_peer(name.split()[1], peer, nginx_config, own["state_dir"]) for name, peer in peers.items())
    return Config(
        nginx_config,
        sync_config,
        made,
        Path(own["state_dir"]),
        own["log_format"],
        file,
        make_vrrp(values["vrrp"]),
        make_mail(values["mail"]),
        own["on_event"] or "",
    )


def _make_peer(name: str, peer: dict[str, Any], nginx: NginxConfig, state_dir: str) -> PeerConfig:
    return PeerConfig(
        name=name,
        host=peer["host"],
        port=peer["port"],
        user=peer["user"],
        identity=Path(peer["identity"]),
        known_hosts=Path(peer["known_hosts"]),
        jump=peer["jump"] or "",
        state_dir=peer["state_dir"] or state_dir,
        exclude=peer["exclude"] or (),
        connect_timeout_s=peer["connect_timeout"],
        probe=peer["probe"] or "",
        reload=peer["reload"] or nginx.reload,
        prove_timeout_s=peer["prove_timeout"] or nginx.prove_timeout_s,
        rehearse=peer["rehearse"] or nginx.rehearse,
        interface=peer["interface"] or "",
        priority=peer["priority"] or 0,
    )

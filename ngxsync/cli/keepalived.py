"""`ngxsync keepalived render` and `keepalived check`: what the pair's keepalived.conf should say, and whether it does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ngxsync.cli.group import STATUSES, Commands, command
from ngxsync.cli.options import (
    config_option,
    json_option,
    open_assembly,
    peer_option,
    print_json,
    raise_if_unknown_peers,
    say,
)
from ngxsync.core.config import Config, PeerConfig, raise_if_unknown
from ngxsync.core.errors import ConfigError, Message
from ngxsync.edges.configfile import read_config

if TYPE_CHECKING:
    from ngxsync.assembly import Assembly
    from ngxsync.core.keepalived.finding import Finding
    from ngxsync.core.keepalived.settings import Wanted
    from ngxsync.core.keepalived.side import Side

CONF = Path("/etc/keepalived/keepalived.conf")
RENDER_EXAMPLE = """\
ngxsync keepalived render web1 > /etc/keepalived/keepalived.conf
ngxsync keepalived render --dir /root/pair && scp /root/pair/web2.conf web2:/etc/keepalived/keepalived.conf"""

CHECK_MEANS = {
    0: "nothing was found",
    1: "something was found",
    4: "a peer is unreachable, or its agent knows no such question",
}


@command("render", example=RENDER_EXAMPLE, statuses=(0,), means={0: "written, warnings allowed"})
@click.argument("name", required=False, metavar="[NAME]")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write NAME.conf for each host into this directory, for root alone: the password is in it.",
)
@config_option
def render(name: str | None, folder: Path | None, config: Path) -> int:
    """Write keepalived.conf for a host of the pair, from [vrrp] and its [peer NAME].

    Without a NAME for this host. The check of nginx (ngxsync-agent check-nginx) and the notification (notify) are in
    it, and keepalived's script security is on. On each host it belongs into /etc/keepalived/keepalived.conf, mode 600;
    there `keepalived --config-test` tries it, and `systemctl reload keepalived` takes it.
    """
    from ngxsync.core.keepalived.conftext import render_conf
    from ngxsync.core.keepalived.settings import raise_if_incomplete, warnings_of

    if name and folder:
        raise click.UsageError("NAME and --dir do not go together: --dir writes a file for each host")
    settings = read_config(config)
    wanted = _wanted(settings)
    raise_if_incomplete(wanted)
    hosts = list(settings.peers) if folder else [_host(settings, name)]
    texts = {peer.name: render_conf(wanted, peer) for peer in hosts}
    for warning in warnings_of(wanted):
        say(f"warning: {warning}")
    if folder:
        _write(folder, texts)
    else:
        click.echo(texts[hosts[0].name], nl=False)
    _note_missing_agent(settings)
    return 0


@command("check", example="ngxsync keepalived check", statuses=(0, 1, 4), means=CHECK_MEANS)
@config_option
@peer_option("Only against this peer.")
@json_option
def check(config: Path, peers: tuple[str, ...], as_json: bool) -> int:
    """Would the failover work? Read keepalived.conf of both hosts, and what is true there, and say what would break it.

    Each finding with its host, file and line, the reason, and the line that mends it: what differs that must be equal,
    priorities and weights that move nothing, scripts that keepalived cannot or will not run, a firewall that drops
    VRRP, addresses and interfaces that are not there, who holds the VIP now. The file is the one that the running
    keepalived was started with, includes too. Nothing is changed; passwords are compared, and never shown.
    """
    from ngxsync.core.checkup import render_checks
    from ngxsync.core.keepalived import verdict

    settings = read_config(config)
    raise_if_unknown_peers(peers, settings)
    with open_assembly(settings) as assembly:
        raise_if_unknown(peers, settings, assembly.peers)
        names = [name for name in assembly.peers if not peers or name in peers]
        sides, findings = findings_of(assembly, names)
    if as_json:
        print_json(verdict.as_json(sides, findings, names))
    else:
        click.echo("\n".join([*render_checks(verdict.as_checks(sides, findings)), verdict.summary(sides, findings)]))
    return int(bool(findings))


def findings_of(assembly: Assembly, names: Sequence[str]) -> tuple[list[Side], list[Finding]]:
    """Of this host and those peers."""
    from ngxsync.flow.keepalived import check_keepalived

    own = [peer.name for peer in assembly.config.peers if peer.name not in assembly.peers]
    here = own[0] if len(own) == 1 else assembly.master.name
    asked = [assembly.peers[name] for name in names]
    return check_keepalived(assembly.config, here, assembly.master.local, asked, os.urandom(16).hex())


keepalived = Commands(
    "keepalived",
    [render, check],
    help="keepalived.conf of both hosts: write it from config.ini, and say what would break the failover.",
)
render.short_help = "Write keepalived.conf for a host of the pair."
check.short_help = "Say what in it, and on both hosts, would break the failover."
keepalived.example = "ngxsync keepalived render web1\nngxsync keepalived check"
keepalived.statuses = {**{status: STATUSES[status] for status in (0, 2, 70, 130)}, **CHECK_MEANS}


def _wanted(settings: Config) -> Wanted:
    from ngxsync.core.keepalived.settings import Wanted
    from ngxsync.edges.local import RESOLVE_S, resolve
    from ngxsync.edges.secretfile import read_secret

    file = settings.vrrp.password_file
    password = read_secret(file, "[vrrp] password_file") if file else ""
    addresses: dict[str, tuple[str, ...]] = {}
    if settings.vrrp.unicast:
        found = resolve({peer.host for peer in settings.peers}, RESOLVE_S)
        addresses = {peer.name: tuple(found[peer.host].addresses) for peer in settings.peers}
    return Wanted(settings, password, addresses)


def _host(settings: Config, name: str | None) -> PeerConfig:
    """The one that was asked for, or this one. Raises ConfigError."""
    from ngxsync.edges.local import others

    if name:
        raise_if_unknown_peers([name], settings)
        return next(peer for peer in settings.peers if peer.name == name)
    other = others(settings)
    own = [peer for peer in settings.peers if peer not in other]
    if len(own) != 1:
        told = f"{len(own)} of them are" if own else "none of them is"
        what = f"which host is meant? of the [peer NAME] {told} this one"
        hint = f"ngxsync keepalived render NAME, of {', '.join(peer.name for peer in settings.peers)}"
        raise ConfigError(Message(what, settings.file, "nothing was written", hint))
    return own[0]


def _write(folder: Path, texts: dict[str, str]) -> None:
    from ngxsync.edges.configfile import write_private

    for name, text in texts.items():
        write_private(folder / f"{name}.conf", text)
        say(f"{folder / f'{name}.conf'}: for /etc/keepalived/keepalived.conf of {name}")


def _note_missing_agent(settings: Config) -> None:
    """Script security refuses a script that is not there: then keepalived runs without its check."""
    from ngxsync.core.keepalived.conftext import agent_command
    from ngxsync.edges.local import others

    other = others(settings)
    for peer in settings.peers:
        path = agent_command(peer)
        if peer not in other and not os.path.lexists(path):
            say(
                f"note: {path} is not on this host yet, and keepalived would run without its check: `ngxsync run` (the "
                f"daemon) puts it there, or `ngxsync peer install {peer.name}` on the other host"
            )

"""`ngxsync check`: can this pair work?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ngxsync.agent.manifest import is_below
from ngxsync.cli.group import command
from ngxsync.cli.options import config_option, json_option, peer_option, print_json, raise_if_unknown_peers
from ngxsync.core.checkup import (
    WARNING,
    Check,
    check_of_message,
    has_failed,
    json_checks,
    render_checks,
    render_summary,
)
from ngxsync.core.config import raise_if_unknown
from ngxsync.core.errors import ConfigError, NgxsyncError
from ngxsync.edges.configfile import DEFAULT_FILE, read_config

if TYPE_CHECKING:
    from ngxsync.assembly import Assembly

EXAMPLE = "ngxsync check --peer web2"
MEANS = {0: "the pair can work (warnings allowed)", 1: "a check failed"}


@command("check", example=EXAMPLE, statuses=(0, 1), means=MEANS)
@config_option
@peer_option("Only this peer.")
@json_option
def check(config: Path, peers: tuple[str, ...], as_json: bool) -> int:
    """Can this pair work? Named checks on both hosts, each with a hint.

    Nothing is changed on a peer: what asks there runs from a temporary folder, which is removed after.
    """
    from ngxsync.assembly import Assembly

    settings = read_config(config)
    raise_if_unknown_peers(peers, settings)
    with Assembly(settings) as assembly:
        raise_if_unknown(peers, settings, assembly.peers)
        names = [name for name in assembly.peers if not peers or name in peers]
        checks = [
            *run_checks(assembly, names),
            *old_lines(assembly, names),
            *who_is_told(assembly),
            *keepalived_line(assembly, names),
        ]
    if as_json:
        print_json(json_checks(checks, names))
    else:
        click.echo("\n".join([*render_checks(checks), render_summary(checks)]))
    return int(has_failed(checks))


def run_checks(assembly: Assembly, names: Sequence[str]) -> list[Check]:
    """Those of this host, then those of each peer."""
    from ngxsync.edges.keys import read_key
    from ngxsync.flow.checks import CheckedPeer, check_master, check_peer

    records = {name: assembly.state.load_peer(name) for name in names}  # first: who may not read them can check nothing
    config, master = assembly.config, assembly.master
    shares_config = assembly.is_shared and config.file == str(DEFAULT_FILE)
    view = check_master(config, master, master.local, shares_config=shares_config)
    checks = list(view.checks)
    for name, record in records.items():
        peer = assembly.peers[name]
        key = read_key(peer.config.identity)
        checks += check_peer(assembly.config, CheckedPeer(peer, peer.link, record, key.problem), view)
    return checks


def who_is_told(assembly: Assembly) -> list[Check]:
    """Whether mail can go at all, as far as this host's files say: `ngxsync notify --test` tries it."""
    from ngxsync.core.judge_mail import judge_mail
    from ngxsync.edges.secretfile import read_secret

    mail = assembly.config.mail
    problem = None
    if mail.password_file is not None:
        try:
            read_secret(mail.password_file, "[mail] password_file")
        except ConfigError as error:
            problem = error.message
    return list(judge_mail(assembly.master.name, mail, problem))


def keepalived_line(assembly: Assembly, names: Sequence[str]) -> list[Check]:
    """What `keepalived check` finds, as one line; none where this host knows of no keepalived."""
    from ngxsync.cli.keepalived import CONF, findings_of
    from ngxsync.core.keepalived.verdict import one_check

    has_vip = bool(assembly.config.vrrp.vips)
    if not has_vip and not CONF.exists():
        return []
    try:
        _, findings = findings_of(assembly, names)
    except NgxsyncError as error:
        return [check_of_message(assembly.master.name, "keepalived", error.message, WARNING)]
    return [one_check(assembly.master.name, findings, is_ours=has_vip)]


def old_lines(assembly: Assembly, names: Sequence[str]) -> list[Check]:
    """Lines of crontabs here that still copy these trees to one of these peers, untested and past everybody's gate."""
    from ngxsync.core.crontab import find_rsync_lines, parse_crontab_line
    from ngxsync.edges.crontabs import read_crontabs

    trees = assembly.config.sync.trees
    hosts = {text for name in names for text in (name, assembly.peers[name].config.host)}
    found = []
    for crontab in read_crontabs():
        for line in find_rsync_lines(crontab.text):
            try:
                job = parse_crontab_line(line, user=crontab.user)
            except ConfigError:
                continue  # what it does is not known to be ours
            if job.host in hosts and any(is_below(a, b) or is_below(b, a) for a in trees for b in job.trees):
                hint = f"take it out of {crontab.place}: it copies what nobody has tested"
                found.append(Check(assembly.master.name, "crontab", WARNING, f"rsync still runs: {line}", hint))
    return found

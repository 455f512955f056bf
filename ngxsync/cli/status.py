"""`ngxsync status`: from this host's memory alone, without network or lock, and without importing anything heavy."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click

from ngxsync.cli.group import command
from ngxsync.cli.options import config_option, json_option, open_state, print_json
from ngxsync.core import outbox
from ngxsync.core.carrying import Carrying
from ngxsync.core.config import Config
from ngxsync.core.cronfields import next_minute
from ngxsync.core.errors import MasterInvalid, Message
from ngxsync.core.look import Look
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import (
    IN_SYNC,
    NGINX_DOWN,
    PAUSED,
    REFUSED,
    STALE_RUNNING,
    STANDBY,
    UNKNOWN,
    PeerStatus,
    Problem,
    StatusReport,
)
from ngxsync.core.render import json_status, render_status, worst_first
from ngxsync.daemon.instance import Instance, running_instance
from ngxsync.edges.configfile import read_config
from ngxsync.edges.local import others
from ngxsync.edges.spool import OUTBOX, Spool
from ngxsync.edges.state import MasterState
from ngxsync.edges.vip import own_vrrp

# DESIGN 6: what a status word stands for as an exit status; all others 1
EXITS = {
    "in-sync": 0,
    "unreachable": 4,
    "undone": 6,
    "broken": 7,
    "held": 8,
    "paused": 8,
    "standby": 8,
    "awaiting-first-sync": 8,
}
FIRST_SYNC = "ngxsync sync on the host that holds the VIP; before keepalived is set up: ngxsync sync --force standby"


@command(
    "status",
    example="ngxsync status\nngxsync status --exit-code --json",
    statuses=(0, 1, 3, 4, 5, 6, 7, 8),
    means={
        0: "it could answer; with --exit-code: all are in sync. The others only with --exit-code:",
        1: "pending, drifted, conflict, not-proven, stale-running, nginx-down or unknown",
        4: "unreachable",
        6: "undone",
        7: "broken",
        8: "held, paused, standby or awaiting-first-sync",
    },
)
@config_option
@click.option("--exit-code", is_flag=True, help="Exit with the worst peer's status instead of 0.")
@json_option
def status(config: Path, exit_code: bool, as_json: bool) -> int:
    """What each peer runs, as the latest run left it, and what to do; the worst first.

    It asks nobody: `ngxsync diff` looks at the peers themselves. "accepted" is the snapshot (the state of all files)
    that the peer last applied, "proven" that its nginx was seen to run it.
    """
    configuration = read_config(config)
    report = make_report(configuration, open_state(configuration))
    if as_json:
        print_json(json_status(report))
    else:
        print(render_status(report))
    ranked = worst_first(report.peers)
    return ranked[0].exit if exit_code and ranked else 0


def make_report(config: Config, state: MasterState) -> StatusReport:
    """What this host remembers. Raises StateError where the disk does not let it read."""
    records = [state.load_peer(peer.name) for peer in others(config)]
    peers = tuple(peer_status(state, record) for record in records)
    nearly_full = (f"{record.name}: {record.store}" for record in records if record.store)
    daemon = running_instance(config.state_dir)
    now = state.now()
    host = socket.gethostname()
    told = mail_notes(config, is_tended=daemon is not None)
    notes = (daemon_note(daemon), *unread_note(config, daemon), *own_notes(host, peers), *told, *nearly_full)
    fires = next_fires(config, now) if daemon else ()
    vrrp = both_in_vrrp(config, host, peers, now)
    if vrrp and not vrrp[0].vips and config.vrrp.require_vip:
        peers = tuple(replace(peer, next=FIRST_SYNC) if peer.word == UNKNOWN else peer for peer in peers)
    return StatusReport(host, now, peers, fires, notes, vrrp)


def both_in_vrrp(config: Config, host: str, peers: Iterable[PeerStatus], now: float) -> tuple[Carrying, ...]:
    """This host as it is now, the others as the latest look found them; nothing where no VIP is configured."""
    if not config.vrrp.vips:
        return ()
    found = [own_vrrp(config, host, now)]
    found += [each for peer in peers if peer.look for each in peer.look.vrrp if each.host == peer.name]
    return tuple(each for each in found if each is not None)


def peer_status(state: MasterState, record: PeerRecord) -> PeerStatus:
    pause = state.active_pause(record.name)
    found = PeerStatus(
        name=record.name,
        word=record.word,
        since=record.since,
        accepted=record.accepted,
        accepted_at=record.accepted_at,
        proven=record.proven,
        last_run=record.last_run,
        last_run_at=record.last_run_at,
        last_outcome=record.last_outcome,
        exit=record.last_exit if record.word == REFUSED else EXITS.get(record.word, 1),
        pause=pause,
        message=with_problems(record, state),
        look=latest_look(record),
    )
    found = with_nginx(found)
    if record.word == PAUSED:  # what that run met: whether a pause is in force, the pauses know
        found = replace(found, word=UNKNOWN, since=None, exit=EXITS.get(UNKNOWN, 1), message=None)
    if pause is None or found.exit in (6, 7):  # a pause hides nothing that is worse
        return found
    return replace(found, word=PAUSED, since=pause.since, exit=EXITS[PAUSED])


def latest_look(record: PeerRecord) -> Look | None:
    """What was found of the peer as it is now, as far as this host knows: None where something was accepted there since."""
    look = record.look
    return look if look is not None and look.generation in ("", record.generation) else None


def with_nginx(found: PeerStatus) -> PeerStatus:
    """The files are right there, and its nginx runs something older, or not at all."""
    nginx = found.look.nginx.get(found.name) if found.look else None
    word = {"stale": STALE_RUNNING, "down": NGINX_DOWN}.get(nginx.state) if nginx else None
    if nginx is None or nginx.reason is None or word is None or found.word != IN_SYNC:
        return found
    message = Message(nginx.reason.what, found.name, "its files are right", nginx.reason.next)
    return replace(found, word=word, since=nginx.since, exit=EXITS.get(word, 1), message=message)


def own_notes(host: str, peers: Iterable[PeerStatus]) -> Iterator[str]:
    """What was found of the nginx of this host by the latest look."""
    looks = (peer.look for peer in peers if peer.look and peer.word != STANDBY)  # who stands by does not look
    latest = max(looks, key=lambda look: look.at, default=None)
    nginx = latest.nginx.get(host) if latest else None
    if nginx is not None and nginx.reason is not None:
        yield f"{host}: {nginx.reason.what}; next: {nginx.reason.next}"


def mail_notes(config: Config, *, is_tended: bool) -> list[str]:
    """Whether anybody is told of what happens, and what waits to be."""
    spool = Spool(config.state_dir)
    return outbox.notes(
        outbox.outbox_from_json(spool.read(OUTBOX)),
        is_addressed=bool(config.mail.to),
        is_called=bool(config.on_event),
        unread=len(spool.names()),
        is_tended=is_tended,
    )


def with_problems(record: PeerRecord, state: MasterState) -> Message | None:
    """The message of the latest run; where this host's nginx refused, with file:line of what it refused."""
    if record.message is None or record.last_exit != MasterInvalid.exit_status:
        return record.message
    run = state.load_run(record.last_run) or {}
    problems = [Problem(p["text"], p["file"], p["line"]) for p in run.get("problems", ()) if p["level"] == "error"]
    return replace(record.message, what="\n".join([record.message.what, *map(str, problems)]))


def next_fires(config: Config, now: float) -> tuple[tuple[str, float], ...]:
    """The daemon's schedule; what is checked every few minutes has no time that would help anybody."""
    if config.sync.schedule is None:
        return ()
    fire = next_minute(config.sync.schedule, datetime.fromtimestamp(now))
    return (("full comparison by schedule", fire.timestamp()),)


def unread_note(config: Config, daemon: Instance | None) -> Iterator[str]:
    """Until it is told, the daemon knows of no new peer, and of none that was taken out."""
    if daemon and not daemon.works_with(config):
        hint = "systemctl reload ngxsync" if os.path.isdir("/run/systemd/system") else f"kill -HUP {daemon.pid}"
        yield f"the daemon works with an earlier {config.file}: it takes what was changed there with: {hint}"


def daemon_note(daemon: Instance | None) -> str:
    if daemon:
        return f"the daemon runs (process {daemon.pid})"
    hint = "systemctl start ngxsync" if os.path.isdir("/run/systemd/system") else "ngxsync run"
    return f"the daemon does not run: nothing is synced by itself; start it with: {hint}"

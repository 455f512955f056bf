"""`ngxsync status`: from this host's memory alone, without network or lock, and without importing anything heavy."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ngxsync.cli.group import command
from ngxsync.cli.options import config_option, json_option, open_state, print_json
from ngxsync.core.config import Config
from ngxsync.core.errors import Message
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import PAUSED, PeerStatus, StatusReport
from ngxsync.core.render import json_status, render_status, worst_first
from ngxsync.edges.addresses import others
from ngxsync.edges.configfile import read_config
from ngxsync.edges.state import MasterState

# DESIGN 6: what a status word stands for as an exit status; a refusal by the host that refused, all others 1
EXITS = {
    "in-sync": 0,
    "refused": 5,
    "unreachable": 4,
    "undone": 6,
    "broken": 7,
    "held": 8,
    "paused": 8,
    "standby": 8,
    "awaiting-first-sync": 8,
}


@command(
    "status",
    example="ngxsync status\nngxsync status --exit-code --json",
    statuses=(0, 1, 3, 4, 5, 6, 7, 8),
    means={
        0: "it could answer; with --exit-code: all are in sync. The others only with --exit-code:",
        1: "pending, drifted, conflict, not-proven, nginx-down or unknown",
        4: "unreachable",
        6: "undone",
        7: "broken",
        8: "held, paused or awaiting-first-sync",
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
    master_run = latest_own_failure(state)
    peers = tuple(peer_status(state, state.load_peer(peer.name), master_run) for peer in others(config))
    daemon = read_daemon(config.state_dir / "master" / "daemon.json")
    return StatusReport(socket.gethostname(), state.now(), peers, next_fires(daemon), notes(daemon))


def latest_own_failure(state: MasterState) -> Mapping[str, Any]:
    """The newest recorded run, if it ended on this host before any peer was asked (exit 3 and the like); else {}."""
    newest = next(iter(state.history(1)), {})
    return newest if newest.get("exit") and newest.get("peers") == [] else {}


def peer_status(state: MasterState, record: PeerRecord, master_run: Mapping[str, Any]) -> PeerStatus:
    word = record.word
    found = PeerStatus(
        name=record.name,
        word=word,
        since=record.since,
        accepted=record.accepted,
        accepted_at=record.accepted_at,
        proven=record.proven,
        last_run=record.last_run,
        last_run_at=record.last_run_at,
        last_outcome=record.last_outcome,
        exit=EXITS.get(word, 1),
        message=record.message,
    )
    if master_run and str(master_run["run"]) > record.last_run:
        found = replace(
            found,
            word=str(master_run["outcome"]),
            since=master_run.get("started"),
            last_run=str(master_run["run"]),
            last_run_at=master_run.get("started"),
            last_outcome=str(master_run["outcome"]),
            exit=int(master_run["exit"]),
            message=master_message(master_run),
        )
    pause = state.active_pause(record.name)
    if pause is None:
        return found
    # what the latest run found keeps its place below the word: a pause mends nothing
    is_worse = found.exit in (6, 7)
    return replace(found, pause=pause) if is_worse else replace(found, pause=pause, word=PAUSED, exit=EXITS[PAUSED])


def master_message(run: Mapping[str, Any]) -> Message | None:
    parts = run.get("message")
    if not isinstance(parts, dict):
        return None
    problems = [f"{p['file']}:{p['line']}: {p['text']}" for p in run.get("problems", ()) if p.get("level") == "error"]
    what = "\n".join([str(parts.get("what", "")), *problems])
    return Message(what, *(str(parts.get(name, "")) for name in ("where", "state", "next")))


def read_daemon(file: Path) -> dict[str, Any]:
    """What the running daemon wrote about itself; {} where none runs."""
    try:
        daemon = json.loads(file.read_bytes())
        stat = Path(f"/proc/{int(daemon['pid'])}/stat").read_text()
        # field 22 is the time of its start: a number that was given to another process since is not the daemon
        is_alive = int(stat.rpartition(")")[2].split()[19]) == int(daemon["start_ticks"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}
    return daemon if is_alive else {}


def next_fires(daemon: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """When the daemon's clock fires next, by its own word."""
    fires = daemon.get("next_fires")
    if not isinstance(fires, dict):
        return ()
    known = [(str(what), float(when)) for what, when in fires.items() if isinstance(when, int | float)]
    return tuple(sorted(known, key=lambda fire: fire[1]))


def notes(daemon: Mapping[str, Any]) -> tuple[str, ...]:
    if daemon:
        return (f"the daemon runs (process {daemon['pid']})",)
    hint = "systemctl start ngxsync" if os.path.isdir("/run/systemd/system") else "ngxsync run"
    return (f"the daemon does not run: nothing is synced by itself; start it with: {hint}",)

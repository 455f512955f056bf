"""`ngxsync pause` and `resume`: a person's switch over automatic runs (DESIGN 2)."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

import click

from ngxsync.cli.group import command
from ngxsync.cli.options import (
    Duration,
    config_option,
    json_option,
    open_state,
    peer_option,
    print_json,
    raise_if_unknown_peers,
)
from ngxsync.core.errors import Held, Message
from ngxsync.core.model import PAUSED, UNKNOWN, Pause
from ngxsync.core.render import SCHEMA, json_pause
from ngxsync.core.wording import one_line, render_time
from ngxsync.edges.configfile import read_config
from ngxsync.edges.state import ALL


@command(
    "pause",
    example='ngxsync pause --for 2h "nginx is upgraded on web2"',
    statuses=(0,),
    means={0: "no automatic run changes these peers until the pause ends"},
)
@click.argument("reason")
@click.option("--for", "for_s", type=Duration(), metavar="2h", help="How long; without it until `ngxsync resume`.")
@peer_option("Only this peer.")
@config_option
@json_option
def pause(reason: str, for_s: float | None, peers: tuple[str, ...], config: Path, as_json: bool) -> int:
    """No automatic run changes any peer, for a time or until `ngxsync resume`; REASON is shown by `ngxsync status`.

    It survives restarts. diff, status and validate go on working; `ngxsync sync` needs --force paused.
    """
    if not reason.strip():
        raise click.BadParameter("it is empty, allowed is a text that tells others why", param_hint="'REASON'")
    configuration = read_config(config)
    raise_if_unknown_peers(peers, configuration)
    state = open_state(configuration)
    made = [state.pause(peer, who(), reason, for_s) for peer in peers or (ALL,)]
    if as_json:
        print_json(_answer("pause", PAUSED, made))
    for each in made if not as_json else ():
        until = f"until {render_time(each.until, state.now())}" if each.until is not None else "until ngxsync resume"
        print(f"{_name(each.peer)}: paused {until}: {one_line(reason)}")
    return 0


@command(
    "resume",
    example="ngxsync resume",
    statuses=(0, 8),
    means={0: "no pause is left", 8: "the peer is still paused, since all peers are"},
)
@peer_option("Only this peer's pause; without it all pauses.")
@config_option
@json_option
def resume(peers: tuple[str, ...], config: Path, as_json: bool) -> int:
    """End a pause: automatic runs go on, beginning with what was saved meanwhile."""
    configuration = read_config(config)
    raise_if_unknown_peers(peers, configuration)
    state = open_state(configuration)
    ended = [pause for peer in peers or (ALL,) for pause in state.resume(peer)]
    for peer in peers:
        left = state.active_pause(peer)
        if left:
            what = f"still paused, with all peers, by {left.who}: {left.reason}"
            raise Held(
                Message(what, peer, "automatic runs stay off", "`ngxsync resume` ends every pause"), code="paused"
            )
    if as_json:
        print_json(_answer("resume", UNKNOWN, ended))
    else:
        lines = [
            f"{_name(each.peer)}: resumed; it was paused by {one_line(each.who)}: {one_line(each.reason)}"
            for each in ended
        ]
        print("\n".join(lines or ["nothing was paused"]))
    return 0


def who() -> str:
    """The person behind sudo, else the user."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a number without a name
        return f"user {os.getuid()}"


def _name(peer: str) -> str:
    return peer or "all peers"


def _answer(command_name: str, outcome: str, pauses: list[Pause]) -> dict[str, Any]:
    """The contract of DESIGN 6; the name of all peers is ""."""
    nothing = {"code": "", "exit": 0, "snapshot": "", "accepted": "", "changes": []}
    return {
        "schema": SCHEMA,
        "command": command_name,
        "run": "",
        "outcome": outcome,
        "code": "",
        "exit": 0,
        "peers": [{"name": each.peer, "outcome": outcome, **nothing, "pause": json_pause(each)} for each in pauses],
        "message": None,
    }

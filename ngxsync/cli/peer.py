"""`ngxsync peer install` and `peer remove`: a restricted key for a peer, and all of it away again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ngxsync.cli.group import STATUSES, Commands, command
from ngxsync.cli.options import config_option, json_option, open_state, print_json, raise_if_unknown_peers, say
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.wording import safe_name
from ngxsync.edges.configfile import read_config

if TYPE_CHECKING:
    from ngxsync.cli.doors import Order, Work

Function = TypeVar("Function", bound=Callable[..., Any])


def access_options(function: Function) -> Function:
    as_user = click.option(
        "--as",
        "user",
        default="",
        metavar="USER",
        help="Log in as this user: root, or one with sudo.  [default: [peer] user]",
    )
    identity = click.option(
        "--identity",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="Log in with this key alone.  [default: as plain ssh does]",
    )
    yes = click.option("--yes", is_flag=True, help="Do not ask. A host key that nobody knows is never taken so.")
    dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
    return as_user(identity(yes(dry_run(config_option(json_option(function))))))


@command(
    "install",
    example="ngxsync peer install\nngxsync peer install web2 --as admin --identity ~/.ssh/id_ed25519",
    statuses=(0, 1, 4, 8),
    means={
        0: "the key works and gives no shell",
        1: "the key still gives a shell, or it works in part",
        4: "the peer is unreachable, or something stood in the way there",
        8: "not confirmed; nothing changed",
    },
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@access_options
def install(names: tuple[str, ...], config: Path, as_json: bool, **options: Any) -> int:
    """Put the agent on a peer, and let this host's key call it, fill a stage, and do nothing else there.

    Without a NAME on every peer. It logs in by your own ssh (your keys, agent, configuration, password), shows what it
    would do, and asks. The key named by `identity` is made if it is missing; its line goes into the authorized_keys of
    [peer] user. Again, it brings agent and policy up to this release and configuration.
    """
    from ngxsync.cli import doors

    configuration = read_config(config)
    works = [
        doors.run(work, order, doors.install(configuration))
        for work, order in _works(configuration, names, as_json, options)
    ]
    return _end("peer install", works, as_json=as_json, is_trial=bool(options["dry_run"]))


@command(
    "remove",
    example="ngxsync peer remove web2 --dry-run\nngxsync peer remove web2 --purge",
    statuses=(0, 1, 4, 8, 9),
    means={
        0: "nothing of it is left there, but what was said to stay",
        1: "something came back while it was removed",
        4: "the peer is unreachable, or something stood in the way there",
        8: "not confirmed, or a run is open there; nothing changed",
        9: "a run of this host is at work there",
    },
)
@click.argument("name")
@click.option(
    "--purge", is_flag=True, help="Also what runs replaced there, the accepted record, and what is known of it here."
)
@access_options
def remove(name: str, purge: bool, config: Path, as_json: bool, **options: Any) -> int:
    """Take from a peer the key's line, its policy, the sudo rule, the agent and its unit.

    Trees, nginx and other keys stay as they are, and what another master's key needs stays too. It logs in by your own
    ssh, shows what it would remove, and asks. config.ini keeps its [peer NAME].
    """
    from ngxsync.cli import doors

    configuration = read_config(config)
    raise_if_taken_out(name, configuration)
    steps = doors.remove(configuration, open_state(configuration))
    works = [
        doors.run(work, order, steps)
        for work, order in _works(configuration, [name], as_json, {**options, "purge": purge})
    ]
    if not as_json and not options["dry_run"] and not any(work.error for work in works):
        say(f"[peer {name}] stays in {config}: take it out, or `ngxsync peer install {name}` lets it in again")
    return _end("peer remove", works, as_json=as_json, is_trial=bool(options["dry_run"]))


def raise_if_taken_out(name: str, configuration: Config) -> None:
    """It says how to get there. The nearest name would be that of a host which is to stay. Raises ConfigError."""
    names = [each.name for each in configuration.peers]
    if name not in names:
        what = f"there is no [peer {safe_name(name)}] in it, which says how to get there"
        hint = f"if it was taken out already, put it back until this is done; the peers are: {', '.join(names)}"
        raise ConfigError(Message(what, configuration.file, "nothing changed", hint), code="unknown-peer")


peer = Commands(
    "peer",
    [install, remove],
    help="A peer's door: let this host's key do there what ngxsync needs and nothing else, or take all of that away.",
)
install.short_help, remove.short_help = "Let this host's key in, for ngxsync alone.", "Take all of that away again."
peer.example = "ngxsync peer install web2\nngxsync peer remove web2 --purge"
peer.statuses = {
    **{status: STATUSES[status] for status in (0, 2, 70)},
    1: "the key is not restricted, or something came back",
    4: "a peer is unreachable, or something stood in the way there",
    8: "not confirmed, or a run is open there",
    9: "a run of this host is at work there",
    130: "interrupted; what was done is said, and stays",
}


def _works(
    configuration: Config, names: Sequence[str], as_json: bool, options: dict[str, Any]
) -> list[tuple[Work, Order]]:
    from ngxsync.cli.doors import Order, Work

    has_person = sys.stdin.isatty() and sys.stderr.isatty() and not as_json
    order = Order(**options, ask=_ask if has_person else None, tell=say if not as_json else _silent)
    return [(Work(peer), order) for peer in _peers(configuration, names)]


def _peers(configuration: Config, names: Sequence[str]) -> list[PeerConfig]:
    from ngxsync.core.config import raise_if_unknown
    from ngxsync.edges.local import others

    raise_if_unknown_peers(names, configuration)
    known = others(configuration)
    raise_if_unknown(names, configuration, [each.name for each in known])
    return [each for each in known if not names or each.name in names]


def _ask(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _silent(_text: str) -> None:
    """With --json only the answer is said."""


def _end(name: str, works: Sequence[Work], *, as_json: bool, is_trial: bool) -> int:
    from ngxsync.cli.doors import render_steps
    from ngxsync.core.render import json_message, render_message

    exits = [work.error.exit_status if work.error else 0 for work in works]
    status = next((each for each in (130, 70, 2, 8, 9, 4, 1) if each in exits), 0)
    if as_json:
        peers = [
            {
                "name": work.peer.name,
                "outcome": "failed" if work.error else "planned" if is_trial else "done",
                "code": work.error.code if work.error else "",
                "exit": code,
                "snapshot": "",
                "accepted": "",
                "changes": [],
                "steps": [vars(step) for step in work.steps],
                "message": json_message(work.error.message if work.error else None),
            }
            for work, code in zip(works, exits, strict=True)
        ]
        first = next((work.error for work in works if work.error), None)
        outcome = "failed" if first else "planned" if is_trial else "done"
        code = first.code if first else ""
        message = json_message(first.message if first else None)
        head = {"schema": 1, "command": name, "run": "", "outcome": outcome, "code": code, "exit": status}
        print_json({**head, "peers": peers, "problems": [], "message": message})
        return status
    for work in works:
        is_told = work.error is not None and work.error.code == "unconfirmed"  # by the question
        if not is_told and (work.steps or not work.error):
            print(render_steps(work))
        if work.error:
            say(f"{work.peer.name}: {render_message(work.error.message)}")
    if is_trial:
        print("nothing was changed: a dry run")
    return status

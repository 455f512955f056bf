"""`ngxsync pull`: edits that were made on a peer, taken back to this host; by a person."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ngxsync.cli.byhand import run_options, says_yes, tell_run
from ngxsync.cli.group import command
from ngxsync.cli.history import find_run
from ngxsync.cli.options import config_option, json_option, limit_from, open_assembly, raise_if_unknown_peers
from ngxsync.core.config import raise_if_unknown
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.guards import raise_if_unforceable
from ngxsync.core.model import Plan, RunResult
from ngxsync.core.pull import MASTER, PEER
from ngxsync.core.render import render_plan
from ngxsync.edges.configfile import read_config

if TYPE_CHECKING:
    from ngxsync.assembly import Assembly
    from ngxsync.cli.foreground import Foreground
    from ngxsync.flow.pull import Confirm

SHOWN = ("conflict", "first-contact")  # codes of a hold of which a person wants to see the paths


@command(
    "pull",
    example="ngxsync pull --dry-run\nngxsync pull\nngxsync pull /usr/local/nginx/conf/vhosts --peer web2\n"
    "ngxsync pull --take peer\nngxsync pull --undo 12",
    statuses=(0, 1, 4, 5, 6, 7, 8, 9),
    means={
        0: "done, or nothing was edited there; with --dry-run: nothing stands in the way",
        1: "applied here, but not proven, since nginx does not run here",
        4: "the peer is unreachable, or what it has did not come over whole; nothing was changed here",
        5: "the nginx of this host refused what the peer has; nothing was changed here",
        6: "applied here, not proven, and undone: this host runs what it ran before",
        8: "held, or nobody said yes; the code in brackets says why, e.g. conflict, first-contact",
    },
)
@click.argument("paths", nargs=-1)
@click.option("--peer", metavar="NAME", help="The peer; needed where there are several.")
@click.option(
    "--take",
    type=click.Choice([MASTER, PEER]),
    help="Where both hosts changed a path: leave it as it is here (master), or take what the peer has.",
)
@click.option("--undo", "undone", metavar="RUN", help="Put back what this pull replaced here.")
@run_options
@config_option
@json_option
def pull(
    paths: tuple[str, ...],
    peer: str | None,
    take: str | None,
    undone: str | None,
    dry_run: bool,
    yes: bool,
    force: tuple[str, ...],
    wait_s: float,
    config: Path,
    as_json: bool,
) -> int:
    """Take what was edited on a peer since it was made like this host back to this host: all of it, or what PATHS name.

    It is tested here, applied, reloaded and proven like a sync on a peer, or put back; private keys come too. What was
    changed on this host alone stays. What both changed is shown and refused, unless --take names a side. Where the two
    hosts never agreed on anything (no accepted snapshot, the state of all files), PATHS or --take peer are needed.

    The peer is not changed: the next sync finds both equal there, and sends what else was changed here.

    With --undo RUN (a pull's id, or the number that it begins with) what that pull replaced or deleted here comes back, from
    what this host keeps of it; no peer is asked. PATHS limit it. What was edited here since is shown and refused.
    """
    raise_if_unforceable(force)
    if undone and take:
        raise click.UsageError("--take is for a pull, --undo takes one back")
    configuration = read_config(config)
    raise_if_unknown_peers((peer,) if peer else (), configuration)
    from ngxsync.cli.foreground import Foreground
    from ngxsync.flow.brake import Brake
    from ngxsync.flow.interfaces import Options
    from ngxsync.flow.pull import Goal, Pull, PullRun
    from ngxsync.flow.pull_undo import UndoRun

    foreground: Foreground[RunResult] = Foreground(brake := Brake())
    with ExitStack() as opened:
        assembly = opened.enter_context(open_assembly(configuration))
        there, run = _pulled(assembly, undone) if undone else (peer, "")
        one = (_the_peer(assembly, there),)
        options = Options("pull", by_person=True, force=force, dry_run=dry_run, wait_s=wait_s, peers=one, brake=brake)
        here = assembly.master.name
        confirm = None if yes or dry_run else _confirm(foreground, here)
        goal = Goal(tuple(limit_from(path, configuration) for path in paths), take or "", confirm, run)
        work = Pull(assembly.pipeline, goal, UndoRun if run else PullRun)
        result = foreground.run(lambda: work.run(options))
    tell_run("pull", result, as_json=as_json, dry_run=dry_run, shown=SHOWN, title=lambda peer: f"{peer.name} -> {here}")
    return result.exit


def _pulled(assembly: Assembly, run: str) -> tuple[str, str]:
    """(its peer, its id on this host) of a recorded pull. Raises ConfigError where the run is none."""
    record = find_run(assembly.state, run)
    if record.get("trigger") != "pull" or not record.get("peers"):
        hint = "`ngxsync history` lists the runs; `ngxsync rollback` brings back what a sync replaced"
        what = f"run {record['run']} is no pull"
        raise ConfigError(Message(what, "--undo", "nothing changed", hint), code="unknown-run")
    peer = record["peers"][0]
    return str(peer["name"]), str(peer.get("run") or record["run"])


def _the_peer(assembly: Assembly, peer: str | None) -> str:
    """The one that was named, or the only one. Raises ConfigError."""
    if peer:
        raise_if_unknown([peer], assembly.config, assembly.peers)
        return peer
    if len(assembly.peers) > 1:
        names = ", ".join(assembly.peers)
        raise ConfigError(
            Message(f"which peer? There are {names}", "--peer", "nothing changed", "ngxsync pull --peer NAME")
        )
    return next(iter(assembly.peers))


def _confirm(foreground: Foreground[RunResult], here: str) -> Confirm:
    def ask(peer: str, plan: Plan) -> bool:
        told = render_plan(plan, f"{peer} -> {here}")
        return says_yes(told, "Do this on this host, keeping what is replaced?")

    return lambda peer, plan: foreground.ask(lambda: ask(peer, plan))

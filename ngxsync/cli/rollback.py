"""`ngxsync rollback`: an earlier snapshot, or single files, from a peer's own store; by a person."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ngxsync.cli.byhand import run_options, says_yes, tell_run
from ngxsync.cli.group import command
from ngxsync.cli.history import find_run
from ngxsync.cli.options import (
    config_option,
    json_option,
    limit_from,
    open_assembly,
    peer_option,
    raise_if_unknown_peers,
)
from ngxsync.cli.replaced import runs_there
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.guards import raise_if_unforceable
from ngxsync.core.model import Plan, RunResult
from ngxsync.core.render import render_plan
from ngxsync.edges.configfile import read_config
from ngxsync.edges.state import MasterState

if TYPE_CHECKING:
    from ngxsync.cli.foreground import Foreground
    from ngxsync.flow.rollback import Confirm


@command(
    "rollback",
    example="ngxsync rollback --dry-run\nngxsync rollback\nngxsync rollback 12\n"
    "ngxsync rollback 12 --path /usr/local/nginx/conf/nginx.conf --peer web2",
    statuses=(0, 1, 4, 5, 6, 7, 8, 9),
    means={
        0: "done: every peer went back, and its nginx runs it; with --dry-run: nothing stands in the way",
        1: "went back, but not proven, since nginx does not run there",
        2: "usage or configuration of ngxsync, no such run, or nothing to go back to",
        4: "a peer is unreachable, or its store does not have the old content any more",
        5: "the peer's nginx refused the old configuration; its live tree was not changed",
        8: "held, or nobody said yes; the code in brackets says why",
    },
)
@click.argument("run", required=False)
@click.option(
    "--path", "paths", multiple=True, metavar="PATH", help="Only what RUN replaced there. May be given again."
)
@peer_option("Only this peer.")
@run_options
@config_option
@json_option
def rollback(
    run: str | None,
    paths: tuple[str, ...],
    peers: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    force: tuple[str, ...],
    wait_s: float,
    config: Path,
    as_json: bool,
) -> int:
    """Take the peers back to the snapshot (the state of all files) accepted before the one that they have; called again one further.

    With RUN (its id, or the number that it begins with) to the snapshot of that run. With --path only to what RUN replaced or
    deleted there, edits made on the peer included. The old content comes from the peer's own store; it is tested there,
    applied, reloaded and proven like a sync, or put back. This host's own files are not touched.

    Afterwards automatic runs on that peer are held while this host still has what was taken back: mend it here, or
    run `ngxsync sync` to send it again.
    """
    raise_if_unforceable(force)
    if paths and not run:
        raise click.UsageError("--path needs RUN: `ngxsync history` lists the runs")
    configuration = read_config(config)
    raise_if_unknown_peers(peers, configuration)
    wanted = tuple(limit_from(path, configuration, "'--path'") for path in paths)
    from ngxsync.cli.foreground import Foreground
    from ngxsync.flow.brake import Brake
    from ngxsync.flow.interfaces import Options
    from ngxsync.flow.rollback import Goal, Rollback

    brake = Brake()
    foreground: Foreground[RunResult] = Foreground(brake)
    with ExitStack() as opened:
        assembly = opened.enter_context(open_assembly(configuration))
        options = Options(
            "rollback", by_person=True, force=force, dry_run=dry_run, wait_s=wait_s, peers=peers, brake=brake
        )
        goal = Goal(
            run or "", wanted, None if yes or dry_run else _confirm(foreground), _runs_there(assembly.state, run)
        )
        work = Rollback(assembly.pipeline, goal)
        result = foreground.run(lambda: work.run(options))
    tell_run("rollback", result, as_json=as_json, dry_run=dry_run)
    return result.exit


def _runs_there(state: MasterState, run: str | None) -> dict[str, str]:
    """What each peer calls a run of this host's history; of others the peers know. Raises ConfigError for a pull."""
    try:
        record = find_run(state, run) if run else {}
    except ConfigError:
        return {}
    if record.get("trigger") == "pull":
        hint = f"`ngxsync pull --undo {run}` brings back what it replaced here"
        what = f"run {record['run']} is a pull: it changed this host and no peer"
        raise ConfigError(Message(what, "", "nothing changed", hint), code="unknown-run")
    return runs_there(record)


def _confirm(foreground: Foreground[RunResult]) -> Confirm:
    def ask(peer: str, what: str, plan: Plan) -> bool:
        told = f"{peer} back to {what}\n{render_plan(plan, peer)}"
        return says_yes(told, f"Do this on {peer}, keeping there what is replaced?")

    return lambda peer, what, plan: foreground.ask(lambda: ask(peer, what, plan))

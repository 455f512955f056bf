"""`ngxsync sync`: one run, now, by a person."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ngxsync.cli.group import command
from ngxsync.cli.options import (
    Duration,
    config_option,
    json_option,
    open_assembly,
    peer_option,
    print_json,
    raise_if_unknown_peers,
    say,
)
from ngxsync.core.guards import raise_if_unforceable
from ngxsync.core.model import Plan, RunResult
from ngxsync.core.render import json_run, render_plan, render_run
from ngxsync.edges.configfile import read_config

if TYPE_CHECKING:
    from ngxsync.cli.foreground import Foreground
    from ngxsync.cli.progress import RunProgress


@command(
    "sync",
    example="ngxsync sync --dry-run\nngxsync sync --peer web2 --force max-delete",
    statuses=(0, 1, 3, 4, 5, 6, 7, 8, 9),
    means={
        0: "done: every peer is like this host, and its nginx runs it; with --dry-run: nothing stands in the way",
        1: "applied, but not proven, since nginx does not run there",
        8: "held; the code in brackets says why, e.g. first-contact, drift, paused, max-delete",
    },
)
@config_option
@click.option("--dry-run", is_flag=True, help="Test here, compare, show what would be done; change nothing.")
@peer_option("Only this peer.")
@click.option("--force", multiple=True, metavar="CODE", help="Go past a hold with this code. May be given again.")
@click.option(
    "--wait", "wait_s", type=Duration(zero=True), default=60.0, metavar="60s", help="How long to wait for another run."
)
@click.option("--yes", is_flag=True, help="Do not ask before a first sync that deletes.")
@json_option
def sync(
    config: Path, dry_run: bool, peers: tuple[str, ...], force: tuple[str, ...], wait_s: float, yes: bool, as_json: bool
) -> int:
    """Make the peers like this host, now: test here, send, test there, apply, reload, prove, or put back.

    What a peer had before is kept there. The very first sync with a peer shows what it would delete there, and asks.
    A snapshot (the state of all files) that was applied and undone before is tried again.

    Ctrl-C ends it at once as long as nothing has begun on a peer; later it waits for the peer's answer, since the peer
    finishes or undoes by itself.
    """
    raise_if_unforceable(force)
    configuration = read_config(config)
    raise_if_unknown_peers(peers, configuration)
    from ngxsync.cli.foreground import Foreground
    from ngxsync.flow.brake import Brake
    from ngxsync.flow.interfaces import Options

    brake = Brake()
    foreground: Foreground[RunResult] = Foreground(brake)
    with ExitStack() as opened:
        assembly = opened.enter_context(open_assembly(configuration))
        shown = opened.enter_context(ExitStack())
        progress = shown.enter_context(_progress()) if sys.stderr.isatty() and not as_json else None
        options = Options(
            by_person=True,
            force=force,
            dry_run=dry_run,
            wait_s=wait_s,
            peers=peers,
            confirm=None if yes or dry_run else _confirm(foreground, progress),
            progress=progress.show if progress else None,
            brake=brake,
        )
        result = foreground.run(lambda: assembly.pipeline.run(options))
        shown.close()
        _tell(result, as_json=as_json, dry_run=dry_run)
        if not dry_run:
            from ngxsync.flow.readiness import look_after

            look_after(assembly.pipeline, result)
    return result.exit


def _tell(result: RunResult, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json(json_run("sync", result))
        return
    # what a person has to look at is not lost where the output goes to /dev/null, as in a crontab
    lines = [*_plans(result, dry_run), render_run(result), *(["nothing was changed: a dry run"] if dry_run else [])]
    print("\n".join(lines), file=sys.stderr if result.exit else sys.stdout, flush=True)


def _progress() -> RunProgress:
    from ngxsync.cli.progress import RunProgress

    return RunProgress()


def _plans(result: RunResult, dry_run: bool) -> list[str]:
    return [render_plan(Plan(peer.changes), peer.name) for peer in result.peers if dry_run and peer.changes]


def _confirm(foreground: Foreground[RunResult], progress: RunProgress | None) -> Callable[[str, Plan], bool]:
    """Shows the plan; asks where there is a person to answer, else the answer is no."""

    def ask(peer: str, plan: Plan) -> bool:
        if progress:
            progress.pause()
        say(f"This is the first sync with a peer that has content.\n{render_plan(plan, peer)}")
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        print(
            f"Make {peer} like this host, keeping there what is replaced? [y/N]: ", end="", file=sys.stderr, flush=True
        )
        # not by click: it makes one thing of Ctrl-C and the end of input, and only the latter is a no
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return lambda peer, plan: foreground.ask(lambda: ask(peer, plan))

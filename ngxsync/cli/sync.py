"""`ngxsync sync`: one run, now, by a person."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ngxsync.cli.byhand import run_options, says_yes, tell_run
from ngxsync.cli.group import command
from ngxsync.cli.options import config_option, json_option, open_assembly, peer_option, raise_if_unknown_peers
from ngxsync.core.guards import raise_if_unforceable
from ngxsync.core.model import Plan, RunResult
from ngxsync.core.render import render_plan
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
@peer_option("Only this peer.")
@run_options
@config_option
@json_option
def sync(
    peers: tuple[str, ...], dry_run: bool, yes: bool, force: tuple[str, ...], wait_s: float, config: Path, as_json: bool
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
        tell_run("sync", result, as_json=as_json, dry_run=dry_run)
        if not dry_run:
            from ngxsync.flow.readiness import look_after

            look_after(assembly.pipeline, result)
    return result.exit


def _progress() -> RunProgress:
    from ngxsync.cli.progress import RunProgress

    return RunProgress()


def _confirm(foreground: Foreground[RunResult], progress: RunProgress | None) -> Callable[[str, Plan], bool]:
    def ask(peer: str, plan: Plan) -> bool:
        if progress:
            progress.pause()
        told = f"This is the first sync with a peer that has content.\n{render_plan(plan, peer)}"
        return says_yes(told, f"Make {peer} like this host, keeping there what is replaced?")

    return lambda peer, plan: foreground.ask(lambda: ask(peer, plan))

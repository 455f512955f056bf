"""What sync, pull and rollback share: a run that a person begins, confirms and is told of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from ngxsync.cli.options import Duration, print_json, say
from ngxsync.core.model import PeerResult, Plan, RunResult
from ngxsync.core.render import json_run, render_plan, render_run

Function = TypeVar("Function", bound=Callable[..., Any])


def run_options(function: Function) -> Function:
    """--dry-run, --yes, --force and --wait, as `dry_run`, `yes`, `force` and `wait_s`."""
    wait = "How long to wait for another run."
    options = (
        click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option(
            "--force", multiple=True, metavar="CODE", help="Go past a hold with this code. May be given again."
        ),
        click.option("--wait", "wait_s", type=Duration(zero=True), default=60.0, metavar="60s", help=wait),
    )
    for option in reversed(options):
        function = option(function)
    return function


def says_yes(told: str, question: str) -> bool:
    """Shows it, and asks where there is a person to answer; else the answer is no."""
    say(told)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    # not by click: it makes one thing of Ctrl-C and the end of input, and only the latter is a no
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def tell_run(
    command: str,
    result: RunResult,
    *,
    as_json: bool,
    dry_run: bool,
    shown: Iterable[str] = (),
    title: Callable[[PeerResult], str] = lambda peer: peer.name,
) -> None:
    """The result, and before it the changes on peers where it is a dry run, or ended with one of the codes in `shown`."""
    if as_json:
        print_json(json_run(command, result))
        return
    peers = [peer for peer in result.peers if peer.changes and (dry_run or peer.code in shown)]
    lines = [*(render_plan(Plan(peer.changes), title(peer)) for peer in peers), render_run(result)]
    if dry_run:
        lines.append("nothing was changed: a dry run")
    # what a person has to look at is not lost where the output goes to /dev/null, as in a crontab
    print("\n".join(lines), file=sys.stderr if result.exit else sys.stdout, flush=True)

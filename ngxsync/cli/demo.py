"""`ngxsync demo`: see it all on this one machine."""

from __future__ import annotations

from pathlib import Path

import click

from ngxsync.cli.group import command


@command(
    "demo",
    example="ngxsync demo\nngxsync demo --keep",
    statuses=(0, 1),
    means={0: "every act did what it says", 1: "one did not, or something is missing here; the message says what"},
)
@click.option("--keep", is_flag=True, help="Leave both web servers and the daemon up, and print how to play with them.")
@click.option(
    "--stop", type=click.Path(path_type=Path), metavar="FOLDER", help="End a demo that was kept; it printed its folder."
)
def demo(keep: bool, stop: Path | None) -> int:
    """Two web servers on this machine, kept alike before your eyes.

    It starts two nginx and an sshd on free loopback ports, works with the files of one new folder below /tmp, and ends and
    removes all of it. Nothing outside that folder is changed: not /usr/local, not /etc, not this machine's own nginx.
    It needs no root. The backup lives in namespaces of its own, since both have their files at one path.
    """
    if keep and stop:
        raise click.UsageError("--keep and --stop are two different calls.")
    if stop:
        from ngxsync.demo.machines import stop_kept

        stop_kept(stop)
        click.echo(f"Every process of it has ended, {stop} is removed.")
        return 0
    from ngxsync.demo import play

    play(click.echo, keep=keep)
    return 0

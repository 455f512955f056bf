"""The commands by name, each imported only when it is called, and how their help ends: an example, the exit statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module

import click

from ngxsync import __version__
from ngxsync.cli.overview import OVERVIEW

# name: module (each has a click command of the command's own name, with _ for -)
COMMANDS = {
    "init": "ngxsync.cli.init",
    "check": "ngxsync.cli.check",
    "demo": "ngxsync.cli.demo",
    "status": "ngxsync.cli.status",
    "ready": "ngxsync.cli.ready",
    "diff": "ngxsync.cli.diff",
    "validate": "ngxsync.cli.validate",
    "history": "ngxsync.cli.history",
    "sync": "ngxsync.cli.sync",
    "rollback": "ngxsync.cli.rollback",
    "pull": "ngxsync.cli.pull",
    "promote": "ngxsync.cli.promote",
    "pause": "ngxsync.cli.pause",
    "resume": "ngxsync.cli.pause",
    "peer": "ngxsync.cli.peer",
    "keepalived": "ngxsync.cli.keepalived",
    "run": "ngxsync.cli.run",
    "check-nginx": "ngxsync.cli.check_nginx",
    "notify": "ngxsync.cli.notify",
}

# DESIGN 6; a command says with `means` where one of them means something narrower
STATUSES = {
    0: "done",
    1: "differs, or a check failed, or applied but not proven",
    2: "usage or configuration of ngxsync",
    3: "the nginx configuration of this host is invalid; no peer's live tree was touched",
    4: "a peer is unreachable, or the transfer failed",
    5: "a peer's nginx refused the configuration; its live tree was not changed",
    6: "applied, not proven, and undone: the peer runs what it ran before",
    7: "the undo itself failed: a person is needed, and the message says what to do",
    8: "held; the code says why",
    9: "another run held the lock for longer than --wait",
    70: "a bug, with its traceback",
    130: "interrupted before anything changed",
}


class Command(click.Command):
    """A command whose help ends with an example and its exit statuses, word for word."""

    example = ""
    statuses: dict[int, str]

    def format_epilog(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        with formatter.section("Exit statuses"):
            formatter.write_dl([(str(status), text) for status, text in sorted(self.statuses.items())])


class Commands(Command, click.Group):
    """A command that is made of others, each with a help of its own."""


def command(
    name: str, *, example: str, statuses: Iterable[int], means: dict[int, str] | None = None
) -> Callable[[Callable[..., int]], Command]:
    """Makes a function that returns an exit status a command. 2, 70 and 130 are among the statuses of each."""

    def made(function: Callable[..., int]) -> Command:
        result = click.command(name, cls=Command)(function)
        result.example = example
        meanings = {**STATUSES, **(means or {})}
        result.statuses = {status: meanings[status] for status in {*statuses, 2, 70, 130}}
        return result

    return made


class LazyGroup(click.Group):
    """Imports a command's module when it is called; its own help is the overview."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found = getattr(import_module(COMMANDS[name]), name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=context)
        return super().resolve_command(context, args)

    def get_help(self, _context: click.Context) -> str:
        return OVERVIEW.rstrip("\n")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="ngxsync %(version)s")
def ngxsync() -> None:
    """The program: see cli/overview.py."""

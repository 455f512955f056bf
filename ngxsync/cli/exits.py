"""What a command ends with: the one place that maps errors to messages and exit statuses (DESIGN 6)."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, NoReturn

import click

from ngxsync.cli.group import COMMANDS, ngxsync
from ngxsync.cli.options import print_json
from ngxsync.core.errors import ConfigError, Message, NgxsyncError
from ngxsync.core.model import HELD, REFUSED, UNKNOWN
from ngxsync.core.render import SCHEMA, json_message, json_problem, render_message, render_problems

INTERRUPTED = 130
COMPLETE = "_NGXSYNC_COMPLETE"  # how a shell asks for completions
CLOSED_PIPE = 141  # what a shell says of a program that SIGPIPE ended


class UsageError(ConfigError):
    code = "usage"


def run(arguments: list[str]) -> NoReturn:
    """Runs one command and ends the process with its exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    status = status_of(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = CLOSED_PIPE
    except OSError as error:
        status = unwritten(error)
    if status in (INTERRUPTED, CLOSED_PIPE):
        # threads that wait for a lock or a peer would hold the process back, and have nothing left to do
        os._exit(status)
    sys.exit(status)


def status_of(arguments: list[str]) -> int:
    """The exit status, after everything that is to be said was said."""
    try:
        return called(arguments)
    except click.exceptions.Exit as asked:
        return asked.exit_code
    except click.UsageError as error:
        return told(arguments, UsageError(usage_message(error, command_in(arguments))))
    except click.ClickException as error:
        return told(arguments, UsageError(error.format_message()))
    except NgxsyncError as error:
        return told(arguments, error)
    except (KeyboardInterrupt, click.Abort):
        return told(arguments, Interrupted())
    except BrokenPipeError:
        return CLOSED_PIPE
    except Exception as error:  # noqa: BLE001 - one of the two outermost places: anything else is a bug
        if isinstance(error, OSError) and is_output_lost():
            return unwritten(error)
        traceback.print_exc()
        what = f"a bug: {type(error).__name__}: {error}"
        hint = "report it, with the traceback"
        return told(arguments, NgxsyncError(Message(what, "", "what was begun on a peer ends there by itself", hint)))


def is_output_lost() -> bool:
    """Nothing more can be written to standard output: a full disk is behind it."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def unwritten(error: OSError) -> int:
    """Says on standard error why the answer is missing; the status is that of a full disk elsewhere on this host."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what is left in the old one would be tried again at the end
    what = f"standard output cannot be written: {error.strerror}"
    state = "what the command did stays done, its answer is lost"
    message = Message(what, "", state, "make room there; `ngxsync history` has what was done")
    print(f"ngxsync: {render_message(message)}", file=sys.stderr)
    return ConfigError.exit_status


def called(arguments: list[str]) -> int:
    if COMPLETE in os.environ:
        ngxsync.main(arguments, prog_name="ngxsync", complete_var=COMPLETE)
    # not by click's main: it has its own mind about Ctrl-C and closed pipes
    with ngxsync.make_context("ngxsync", list(arguments)) as context:
        return int(ngxsync.invoke(context) or 0)


class Interrupted(NgxsyncError):
    exit_status = INTERRUPTED
    code = "interrupted"

    def __init__(self) -> None:
        super().__init__(Message("interrupted", "", "nothing changed"))


def usage_message(error: click.UsageError, command: str) -> Message:
    path = f"ngxsync {command}".strip()
    return Message(error.format_message(), path, "nothing changed", f"{path} --help")


def command_in(arguments: list[str]) -> str:
    """The command that was asked for, "" where it is none of ours."""
    return next((word for word in arguments if word in COMMANDS), "")


def told(arguments: list[str], error: NgxsyncError) -> int:
    """Says it, as text on standard error or as JSON on standard output, and gives its exit status.

    To a monitoring system all of it is one line, UNKNOWN: by 2 it would take a typo for a host that is not ready.
    """
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--nagios" in options and command_in(arguments) == "ready":
        from ngxsync.core import verdict

        print(verdict.nagios_line(verdict.UNKNOWN, str(error.message)))
        return verdict.UNKNOWN
    if "--json" in options:
        print_json(json_failure(command_in(options), error))
    else:
        name = "" if error.message.where else "ngxsync: "
        lines = [*render_problems(getattr(error, "problems", ())), name + render_message(error.message)]
        print("\n".join(lines), file=sys.stderr)
    return error.exit_status


def json_failure(command: str, error: NgxsyncError) -> dict[str, Any]:
    """The contract of DESIGN 6 for a command that ended before it had an answer."""
    return {
        "schema": SCHEMA,
        "command": command,
        "run": "",
        "outcome": {3: REFUSED, 8: HELD}.get(error.exit_status, UNKNOWN),
        "code": error.code,
        "exit": error.exit_status,
        "peers": [],
        "problems": [json_problem(problem) for problem in getattr(error, "problems", ())],
        "message": json_message(error.message),
    }

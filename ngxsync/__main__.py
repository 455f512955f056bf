"""The program `ngxsync`. What asks for no command is answered before anything is imported: it takes no longer than Python."""

import os
import sys

from ngxsync import __version__
from ngxsync.cli.overview import OVERVIEW


def main() -> None:
    arguments = sys.argv[1:]
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end
    if sys.stdout is None:  # the next file or connection would be taken for it
        told = "ngxsync: standard output is closed"
        print(f"{told}\n  now: nothing was started and nothing changed\n  next: use >/dev/null", file=sys.stderr)
        sys.exit(2)
    if arguments in (["--help"], ["-h"]):
        print(OVERVIEW, end="")
    elif arguments == ["--version"]:
        print(f"ngxsync {__version__}")
    elif not arguments and "_NGXSYNC_COMPLETE" not in os.environ:  # how a shell asks for completions
        print(OVERVIEW, end="", file=sys.stderr)
        sys.exit(2)
    elif is_for_agent(arguments):
        from ngxsync.cli.own_agent import become_agent

        become_agent(arguments)
    else:
        import gc

        gc.disable()  # a command ends with its answer: a search for cycles only makes it late
        try:
            from ngxsync.cli.exits import run
        except KeyboardInterrupt:  # while the libraries are read; from then on `run` knows what to say of it
            print("ngxsync: interrupted\n  now: nothing changed", file=sys.stderr)
            sys.exit(130)
        run(arguments)


def is_for_agent(arguments: list[str]) -> bool:
    """What keepalived calls: it is the agent's, and as light as that."""
    ours = {"check-nginx": ("-h", "--help"), "notify": ("-h", "--help", "--test", "--flush", "--config")}
    words = ours.get("".join(arguments[:1]))
    return words is not None and not set(arguments) & set(words) and arguments != ["notify"]


if __name__ == "__main__":
    main()

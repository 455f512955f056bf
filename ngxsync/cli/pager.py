"""Where a long report goes: a pager in front of a person, as git has it, else standard output byte for byte."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from ngxsync.cli.difference import for_terminal

PAGER = "less"
LESS = "FRX"  # ends by itself where all fits, shows colours, leaves the text on the screen

Write = Callable[[str], None]


def pager_of(environment: Mapping[str, str], which: Callable[[str], str | None] = shutil.which) -> str:
    """The command that a person has chosen, or less; "" where there is none, or it is none."""
    chosen = environment.get("PAGER", PAGER if which(PAGER) else "").strip()
    return "" if chosen == "cat" else chosen


@contextmanager
def paged(*, wanted: bool = True) -> Iterator[Write]:
    """Writes text; on a terminal to the pager, whose end is no error. Nothing is started before the first text."""
    command = pager_of(os.environ) if wanted and is_terminal() else ""
    if not command:
        yield _write
        return
    pager = _Pager(command)
    try:
        yield pager.write
    finally:
        pager.close()


def is_terminal() -> bool:
    return sys.stdout.isatty()


def is_coloured() -> bool:
    return is_terminal() and not os.environ.get("NO_COLOR")


def write_text(text: str, write: Write | None = None) -> None:
    """Unified text: on a terminal harmless and in colours, else as it is."""
    shown = text if not is_terminal() else "".join(f"{line}\n" for line in for_terminal(text, colours=is_coloured()))
    (write or _write)(shown)


def _write(text: str) -> None:
    """Byte for byte, so that patch(1) gets what is in the files."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


class _Pager:
    def __init__(self, command: str) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, text: str) -> None:
        """Raises Left where the person has seen enough."""
        if not text:
            return
        if self._process is None:
            sys.stdout.flush()
            environment = {"LESS": LESS, **os.environ}
            self._process = subprocess.Popen(self._command, shell=True, stdin=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode("utf-8", "backslashreplace"))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Left from None

    def close(self) -> None:
        """Wait until the person has read it; Ctrl-C is the pager's meanwhile."""
        if self._process is None:
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with suppress(BrokenPipeError):
                self._process.communicate()
        finally:
            signal.signal(signal.SIGINT, before)


class Left(Exception):
    """The pager was ended before all was written."""

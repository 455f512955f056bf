"""A person's commands one after the other in one process on web1: what each says and ends with, without a start of Python for each."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from tests.hosts import PROJECT
from tests.pair import Pair


class Console:
    """`ngxsync ARGUMENTS` as often as wanted; each opens its connections anew, as the program does."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ngxsync(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        status, out, err = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, out, err)


@contextmanager
def console(pair: Pair) -> Iterator[Console]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = pair.master.popen([sys.executable, "-m", "tests.console"], env={"PYTHONPATH": str(PROJECT)}, **pipes)
    with process:
        yield Console(process)
        assert process.stdin is not None
        process.stdin.close()


def serve() -> None:
    """One line of arguments in, one line of status, output and errors out."""
    from ngxsync.cli.exits import status_of

    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = status_of(json.loads(line))
        print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)


if __name__ == "__main__":
    serve()

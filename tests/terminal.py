"""A person at a terminal: a command run on a pseudo-terminal, what it shows, and what is typed."""

from __future__ import annotations

import codecs
import os
import pty
import signal
import subprocess
import time
from types import TracebackType

from tests.host import PATIENCE_S
from tests.pair import Pair


class Terminal:
    """`ngxsync ARGUMENTS` on web1 with all three streams on a terminal. Use as a context manager."""

    def __init__(self, pair: Pair, *arguments: str, **environment: str) -> None:
        self._pair = pair
        self._master, slave = pty.openpty()
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.process: subprocess.Popen[str] = pair.popen_ngxsync(
            *arguments, env={"TERM": "xterm", **environment}, **streams
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character
        self.shown = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self._pair.master.signal_to(self.process, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C sends."""
        self._pair.master.signal_to(self.process, signal.SIGINT)

    def shown_so_far(self) -> str:
        return self._read()

    def wait_for(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        """Until the terminal has shown this text."""
        end = time.monotonic() + timeout_s
        while text not in self._read():
            assert time.monotonic() < end, f"never shown: {text!r}\n{self.shown}"
            assert self.process.poll() is None or text in self._read(), f"ended without: {text!r}\n{self.shown}"
            time.sleep(0.01)

    def end(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit status; `shown` has all that was shown."""
        end = time.monotonic() + timeout_s
        while self.process.poll() is None:
            self._read()
            assert time.monotonic() < end, f"it did not end\n{self.shown}"
            time.sleep(0.01)
        self._read()
        return self.process.returncode

    def _read(self) -> str:
        while True:
            try:
                found = os.read(self._master, 65536)
            except OSError:  # nothing there now, or nobody has the other end any more
                return self.shown
            if not found:
                return self.shown
            self.shown += self._decoder.decode(found).replace("\r\n", "\n")

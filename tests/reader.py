"""The reader on the peer: `nginx -t` of the live tree and a client's requests, in a loop, while somebody syncs.

Writes one JSON object a line for each failure, and every second how much it did; it ends with its input.
A refusal says whether it fell into the window in which files are being replaced: journal and mixed lock, as they were
before and after the test.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.edits import STAMPS
from tests.observation import STATE, TEST

TEST_EVERY_S, ASK_EVERY_S, TELL_EVERY_S = 0.05, 0.01, 1.0
STORE = Path(STATE, "peer")


class Window(NamedTuple):
    """`phase` is "" without a journal; `items` how many paths it names."""

    phase: str
    items: int
    mixed_ns: int
    is_held: bool


def look() -> Window:
    phase, items = "", 0
    try:
        lines = (STORE / "journal").read_bytes().split(b"\n")
        items, phase = len(json.loads(lines[0])["items"]), "open"
        for line in filter(None, lines[1:]):
            phase = json.loads(line)["phase"]
    except (OSError, ValueError):
        pass
    return Window(phase, items, *_mixed())


def _mixed() -> tuple[int, bool]:
    try:
        descriptor = os.open(STORE / "mixed.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0, False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_mtime_ns, False
    except OSError:
        return os.fstat(descriptor).st_mtime_ns, True
    finally:
        os.close(descriptor)


class Reader:
    """Two threads and their totals."""

    def __init__(self) -> None:
        self.totals = {"tests": 0, "pages": 0}
        self.is_over = threading.Event()
        self._output = threading.Lock()

    def tell(self, what: str, **more: Any) -> None:
        with self._output:
            print(json.dumps({"what": what, "at": time.monotonic(), **more}), flush=True)

    def tell_totals(self) -> None:
        """Those since it told them last: nothing is lost where it is killed."""
        told, self.totals = self.totals, {"tests": 0, "pages": 0}
        self.tell("totals", **told)

    def test(self) -> None:
        """As an administrator or keepalived would: what is live, now."""
        while not self.is_over.wait(TEST_EVERY_S):
            before, began = look(), time.monotonic()
            done = subprocess.run(TEST, capture_output=True, text=True)
            after = look()
            self.totals["tests"] += 1
            if done.returncode:
                in_window = before != after or before.is_held or before.phase == "open"
                items = max(before.items, after.items)
                self.tell("test", began=began, in_window=in_window, items=items, text=done.stderr)

    def ask(self) -> None:
        number = 0
        while not self.is_over.wait(ASK_EVERY_S):
            number += 1
            stamp, began = STAMPS[number % len(STAMPS)], time.monotonic()
            problem = _problem_of(stamp)
            self.totals["pages"] += 1
            if problem:
                self.tell("page", began=began, page=stamp, text=problem)


def _problem_of(stamp: str) -> str:
    name, path = ("localhost", "/stamp.html") if stamp.endswith(".html") else (Path(stamp).stem, "/")
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": name, "Connection": "close"})
        response = connection.getresponse()
        body = response.read().decode()
        return "" if response.status == 200 and body.startswith("generation ") else f"{response.status}: {body}"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def main() -> None:
    reader = Reader()
    threads = [threading.Thread(target=work) for work in (reader.test, reader.ask)]
    for thread in threads:
        thread.start()
    while not select.select([sys.stdin], [], [], TELL_EVERY_S)[0]:
        reader.tell_totals()
    reader.is_over.set()
    for thread in threads:
        thread.join()
    reader.tell_totals()


if __name__ == "__main__":
    main()

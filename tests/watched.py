"""What runs through the whole storm: the daemon on the master, the reader on the peer; and what they said."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests import faults
from tests.hosts import PROJECT
from tests.pair import Daemon, Pair

TAIL = 60


# nginx lists the files of an include first and opens them after: who deletes one in between, by whatever means, is met
GONE_BETWEEN = re.compile(r'open\(\) "[^"]+\.conf" failed \(2: ')


class Watched:
    """`excused` are the times (monotonic) in which a fault itself stopped nginx: nobody can be served then."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.excused: list[tuple[float, float]] = []
        self.sums: Counter[str] = Counter()
        self._daemon: Daemon | None = None
        self._stack = ExitStack()
        self._reader: subprocess.Popen[str] | None = None
        self._output = pair.web2.folder / "reader.log"
        self._output.write_text("")
        self._read = 0
        self._logs: list[str] = []

    # the daemon

    def start(self) -> None:
        """The daemon, unless it runs; the reader too."""
        if self._daemon is None or self._daemon.process.poll() is not None:
            self.stop_daemon()
            self._daemon = self._stack.enter_context(self.pair.daemon())
        self.start_reader()

    def stop_daemon(self) -> None:
        """As `systemctl stop` does. AssertionError where it was gone already for a reason of its own."""
        if self._daemon is not None:
            daemon, self._daemon = self._daemon, None
            is_killed = daemon.process.poll() == -signal.SIGKILL
            self._stack.close()
            self._logs.append(daemon.log())
            del self._logs[:-4]
            if daemon.process.returncode != 0 and not is_killed:
                raise AssertionError(f"the daemon ended with {daemon.process.returncode}\n{daemon.log()}")

    def kill_daemon(self) -> None:
        """And as its unit does (KillMode, Restart): what is left of it is ended, and it is started again."""
        if self._daemon is not None:
            self._daemon.signal(signal.SIGKILL)
            self._daemon.process.wait()
        web1 = self.pair.web1
        faults.kill(web1, [pid for pid, line in web1.commands().items() if line.startswith(("ssh ", "ssh:", "rsync "))])
        self.start()

    def status(self) -> str:
        done = self.pair.ngxsync("status", "--json")
        return str(json.loads(done.stdout)["peers"][0]["outcome"]) if done.returncode == 0 else done.stderr

    # the reader

    def start_reader(self) -> None:
        if self._reader is None or self._reader.poll() is not None:
            with self._output.open("a") as output:
                command = [sys.executable, "-m", "tests.reader"]
                streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": output, "stderr": output}
                self._reader = self.pair.web2.popen(command, env={"PYTHONPATH": str(PROJECT)}, **streams)

    def _stop_reader(self) -> None:
        if self._reader is not None and self._reader.stdin is not None:
            self._reader.stdin.close()
            self._reader.wait(45)
            self._reader = None

    @contextmanager
    def excusing(self) -> Iterator[None]:
        """nginx is down in here."""
        began = time.monotonic() - 0.05
        try:
            yield
        finally:
            self.excused.append((began, time.monotonic() + 0.05))

    def complaints(self) -> list[str]:
        """What the reader met since it was asked last, and should not have met."""
        wrong = []
        lines = self._output.read_text().splitlines(keepends=True)
        for line in lines[self._read :]:
            if not line.endswith("\n"):
                break
            self._read += 1
            found = json.loads(line) if line.startswith("{") else {"what": "failed", "text": line}
            if found["what"] == "totals":
                self.sums.update({name: found[name] for name in ("tests", "pages")})
            elif "began" in found and self._is_excused(found["began"], found["at"]):
                self.sums["excused"] += 1
            elif found.get("in_window") and found["items"] != 1:
                self.sums["refused_in_window"] += 1
            elif found.get("in_window") and GONE_BETWEEN.search(found["text"]):
                self.sums["gone_between"] += 1
            else:
                wrong.append(f"the reader on the peer met: {found}")
        return wrong

    def _is_excused(self, began: float, at: float) -> bool:
        return any(start <= at and began <= end for start, end in self.excused)

    def totals(self) -> dict[str, int]:
        """All the reader's work; it ends."""
        self._stop_reader()
        assert not self.complaints()
        return dict(self.sums)

    # the end

    def tail(self) -> str:
        """The daemon's last lines, and the answers of the last runs on the peer."""
        logs = [*self._logs, self._daemon.log() if self._daemon is not None else ""]
        lines = "".join(logs).splitlines()[-TAIL:]
        return "the daemon's last lines:\n  " + "\n  ".join(lines)

    def close(self) -> None:
        self._stop_reader()
        self.stop_daemon()


def by_person(pair: Pair) -> str:
    """`ngxsync sync --yes`, past every hold: the codes that had to be forced, "" for none. AssertionError where it fails."""
    forced: list[str] = []
    for _ in range(8):
        words = [word for code in forced for word in ("--force", code)]
        done = pair.ngxsync("sync", "--yes", "--json", *words)
        result = json.loads(done.stdout) if done.stdout else {}
        codes = {result.get("code"), *(peer.get("code") for peer in result.get("peers", ()))} - {"", None, *forced}
        if done.returncode == 0:
            return " ".join(forced)
        if done.returncode == 8:
            forced += sorted(str(code) for code in codes)
        elif done.returncode not in (4, 9):  # this machine is slow, or the daemon is at work: once more
            break
    raise AssertionError(f"sync by a person exited {done.returncode}\n{done.stdout}{done.stderr}")

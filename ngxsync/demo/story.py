"""The demo's acts: each does something to a web server, and goes on only where what it tells is what it saw."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from click import style

from ngxsync.core.errors import Message
from ngxsync.core.wording import human_duration
from ngxsync.demo import layout as texts
from ngxsync.demo.machines import Machines
from ngxsync.demo.processes import DemoFailed, fetch, wait_for
from ngxsync.edges.state import MasterState

PROGRAM = (sys.executable, "-P", "-m", "ngxsync")
COMMAND_S = 60.0


class Story:
    """`play` tells it, a line at a time to `say`; `program` is how `ngxsync` is called, by default as this very one."""

    def __init__(self, machines: Machines, say: Callable[[str], None], program: Sequence[str] = PROGRAM) -> None:
        self.machines, self.say, self.program = machines, say, program
        self.layout = machines.layout
        self._state = MasterState(self.layout.state / "master", time.time)
        self._act = 0
        self._latest_run = ""
        self._logged = 0  # bytes of the daemon's log that were told

    def play(self) -> None:
        """Raises DemoFailed where an act did not do what it tells."""
        for act in (self.first_sync, self.edit, self.typo, self.only_web1, self.drift):
            act()

    # the acts

    def first_sync(self) -> None:
        self._title("The first sync: web2 has last night's page, and lacks a vhost of web1")
        self._expect("/", texts.OLD_PAGE)
        took_s = self._sync_or_do_without_view()
        self._expect("/", texts.NEW_PAGE)
        self._good(f"web2 serves today's page, {human_duration(took_s)} after the command was given")
        self._note("from here on nobody gives a command: the daemon watches web1 (ngxsync run)")
        self._start_daemon()

    def edit(self) -> None:
        self._title("An edit on web1: the shop answers /hello")
        saved = self._save(texts.SHOP, texts.HELLO)
        wait_for(lambda: "hello" in fetch(f"{self.layout.web2}/hello"), "web2 serves the edit")
        served_s = time.monotonic() - saved
        self._wait_for_run("applied", 0)
        proven_s = time.monotonic() - saved
        after = f"web2 served it {human_duration(served_s)} after it was saved, and it was proven after"
        self._good(f"{after} {human_duration(proven_s)}")

    def typo(self) -> None:
        self._title("A typo on web1")
        saved = self._save(texts.SHOP, texts.TYPO)
        run = self._wait_for_run("refused", 3)
        self._good(f"{human_duration(time.monotonic() - saved)}: refused by web1's own nginx, at {self._place(run)}")
        self._expect("/hello", texts.HELLO_TEXT)
        self._note("web2 was not asked, and serves on")

    def only_web1(self) -> None:
        self._title("An edit that works on web1 only: it includes a file that web2 does not have")
        saved = self._save(texts.SHOP, texts.HELLO, texts.ONLY_WEB1)
        run = self._wait_for_run("refused", 5)
        self._good(f"{human_duration(time.monotonic() - saved)}: refused by web2's nginx, at {self._place(run)}")
        self._expect("/hello", texts.HELLO_TEXT)
        kept = (self.layout.backup_tree / texts.SHOP).read_text()
        self._check(kept == texts.vhost("shop", texts.HELLO), f"{texts.SHOP} of web2 is as it was")
        self._note("it was tried there beside the live files, which are as they were; web2 serves on")
        self._save(texts.SHOP, texts.HELLO, "# mended")
        self._wait_for_run("applied", 0)
        self._good("mended on web1, and equal again")

    def drift(self) -> None:
        self._title("Somebody edits web2 by hand")
        file = self.layout.backup_tree / texts.SHOP
        edited = texts.vhost("shop", texts.DRIFT)
        file.write_text(edited)
        self._note(f"web2 {texts.SHOP}: {texts.DRIFT}")
        self._command("diff", status=1)
        self._note("the daemon would find it within 10m (check_every); we do not wait, and save the edit from nothing")
        self._command("sync")
        self._check(file.read_text() == (self.layout.tree / texts.SHOP).read_text(), "web2 is healed")
        self._expect("/hello", texts.HELLO_TEXT)
        blob = self._kept(edited)
        self._good("healed; what was there before is kept on web2:")
        self._note(str(blob))
        self._command("diff", status=0)

    # what the acts are made of

    def _sync_or_do_without_view(self) -> float:
        """The first sync's seconds. Where no private view can be made here, once more with `rehearse = live`, and said so."""
        started = time.monotonic()
        if self._command("sync", "--yes", or_status=8):
            self._check(self._new_run()["code"] == "rehearse", "only a view is missing")
            self._note("here nginx -t can have no private view of the machine: `rehearse = live` tests after applying")
            self.layout.config.write_text(texts.config_ini(replace(self.layout, rehearse="live")))
            started = time.monotonic()
            self._command("sync", "--yes")
        return time.monotonic() - started

    def _start_daemon(self) -> None:
        address = self.layout.runtime / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(address))
            manager.setblocking(False)
            argv = [*self.program, "run", "--config", str(self.layout.config)]
            child = self.machines.spawn(argv, self.layout.daemon_log, self._environment(NOTIFY_SOCKET=str(address)))
            wait_for(lambda: child.poll() is not None or "READY=1" in _received(manager), "the daemon is ready")
        self._tell_log()
        self._check(child.poll() is None, "the daemon runs")
        self._latest_run = self._newest()["run"]

    def _environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "RUNTIME_DIRECTORY": str(self.layout.runtime), **more}

    def _command(self, name: str, *options: str, status: int = 0, or_status: int | None = None) -> int:
        """Runs one of ours, shows it and what it said, and gives its exit status, which is one of the two."""
        argv = [name, "--config", str(self.layout.config), *options]
        self.say(f"  $ ngxsync {' '.join([name, *options])}")
        done = subprocess.run(
            [*self.program, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment(),
            text=True,
            errors="replace",
            start_new_session=True,
            timeout=COMMAND_S,
        )
        self._quote(done.stdout)
        self._check(
            done.returncode in (status, or_status), f"ngxsync {name} exits with {status}, not {done.returncode}"
        )
        return done.returncode

    def _save(self, name: str, *lines: str) -> float:
        """An administrator's edit on web1; the moment of it."""
        self._note(f"web1 {name}: {' '.join(lines)}")
        (self.layout.tree / name).write_text(texts.vhost("shop", *lines))
        return time.monotonic()

    def _newest(self) -> dict[str, Any]:
        return next(iter(self._state.history(1)), {"run": ""})

    def _new_run(self) -> dict[str, Any]:
        newest = self._newest()
        return newest if newest["run"] != self._latest_run else {}

    def _wait_for_run(self, outcome: str, exit_status: int) -> dict[str, Any]:
        """The next run that the daemon records, which has to have this outcome; its log lines are told."""
        run = wait_for(self._new_run, f"the daemon records a run: {outcome}")
        self._latest_run = run["run"]
        self._tell_log()
        found = (run["outcome"], run["exit"])
        self._check(
            found == (outcome, exit_status), f"the run is {outcome} ({exit_status}), not {found[0]} ({found[1]})"
        )
        return run

    def _place(self, run: dict[str, Any]) -> str:
        """file:line of a refusal."""
        problems = [problem for part in (run, *run["peers"]) for problem in part.get("problems", ()) if problem["line"]]
        self._check(bool(problems), "the refusal names file and line")
        return f"{problems[0]['file']}:{problems[0]['line']}"

    def _kept(self, text: str) -> Path:
        """Where web2 keeps this content."""
        content = text.encode()
        blobs = (self.layout.peer_state / "peer" / "blobs").rglob(hashlib.sha256(content).hexdigest())
        found = next((blob for blob in blobs if blob.read_bytes() == content), None)
        if found is None:
            raise DemoFailed(Message("what somebody wrote on web2 is not kept there", str(self.layout.peer_state)))
        return found

    def _expect(self, path: str, text: str) -> None:
        found = fetch(self.layout.web2 + path)
        self._check(found == text, f"web2 serves {text!r} at {path}, not {found!r}")

    def _check(self, is_so: bool, what: str) -> None:
        if not is_so:
            raise DemoFailed(Message(f"this should be so and is not: {what}", f"act {self._act}"))

    # how it is told

    def _title(self, text: str) -> None:
        self._act += 1
        self.say("")
        self.say(style(f"{self._act}. {text}", bold=True))

    def _note(self, text: str) -> None:
        self.say(f"  {text}")

    def _good(self, text: str) -> None:
        self.say("  " + style(text, fg="green"))

    def _quote(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            self.say(style(f"  | {line}".rstrip(), dim=True))

    def _tell_log(self) -> None:
        text = self.layout.daemon_log.read_text(errors="replace")
        self._quote(text[self._logged :])
        self._logged = len(text)


def _received(manager: socket.socket) -> str:
    try:
        return manager.recv(65536).decode(errors="replace")
    except BlockingIOError:
        return ""

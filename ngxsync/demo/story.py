"""The demo's acts: each does something to a web server, and goes on only where what it tells is what it saw."""

from __future__ import annotations

import hashlib
import os
import re
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
        self._daemon: subprocess.Popen[bytes]
        self._latest_run = ""
        self._logged = 0  # characters of the daemon's log that were told

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
        self._latest_run = self._newest()["run"]
        self._start_daemon()
        self._tell_log()

    def edit(self) -> None:
        self._title("An edit on web1: the shop answers /hello")
        saved = self._save(texts.SHOP, texts.HELLO)
        self.machines.reload_web1()  # as ever; what follows happens by itself
        wait_for(lambda: fetch(f"{self.layout.web2}/hello") == texts.HELLO_TEXT, "web2 serves the edit")
        served_s = time.monotonic() - saved
        self._wait_for_run("applied", 0)
        proven_s = time.monotonic() - saved
        after = f"web2 served it {human_duration(served_s)} after it was saved, and it was proven after"
        self._good(f"{after} {human_duration(proven_s)}")
        wait_for(lambda: fetch(f"{self.layout.web1}/hello") == texts.HELLO_TEXT, "web1 serves the edit")

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
        self._title(
            "Somebody edits web2 by hand; the daemon is stopped meanwhile, since it would heal it at its next look"
        )
        self.machines.end(self._daemon)
        file = self.layout.backup_tree / texts.SHOP
        edited = texts.vhost("shop", texts.DRIFT)
        file.write_text(edited)
        self._note(f"web2 {texts.SHOP}: {texts.DRIFT}")
        self._command("diff", status=1)
        self._note("the daemon is started again (ngxsync run)")
        self._start_daemon()
        self._wait_for_run("applied", 0)
        self._check(file.read_text() == (self.layout.tree / texts.SHOP).read_text(), "web2 has what web1 has")
        self._expect("/hello", texts.HELLO_TEXT)
        blob = self._kept(edited)
        self._good("healed; what somebody wrote was saved first, and is kept on web2:")
        self._note(str(blob))
        self._command("diff", status=0)

    # what the acts are made of

    def _sync_or_do_without_view(self) -> float:
        """The first sync's seconds. Where no private view can be made here, once more with `rehearse = live`, and said so."""
        started = time.monotonic()
        if self._command("sync", "--yes", or_status=8):
            self._check(self._newest()["code"] == "rehearse", "only a view is missing")
            self._note("here nginx -t can have no private view of the machine: `rehearse = live` tests after applying")
            self.layout.config.write_text(texts.config_ini(replace(self.layout, rehearse="live")))
            started = time.monotonic()
            self._command("sync", "--yes")
        return time.monotonic() - started

    def _start_daemon(self) -> None:
        """It is ready, and has looked at web2 once, when this returns."""
        looked = self._state.load_peer("web2").last_run
        address = self.layout.runtime / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(address))
            manager.setblocking(False)
            argv = [*self.program, "run", "--config", str(self.layout.config)]
            child = self.machines.spawn(argv, self.layout.daemon_log, self._environment(NOTIFY_SOCKET=str(address)))
            wait_for(lambda: child.poll() is not None or "READY=1" in _received(manager), "the daemon is ready")
        self._check(child.poll() is None, "the daemon runs")
        wait_for(lambda: self._state.load_peer("web2").last_run != looked, "the daemon has looked at web2")
        self._daemon = child

    def _environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "RUNTIME_DIRECTORY": str(self.layout.runtime), **more}

    def _command(self, name: str, *options: str, status: int = 0, or_status: int | None = None) -> int:
        """Runs one of ours, shows it and what it said, and gives its exit status, which is one of the two."""
        argv = [name, "--config", str(self.layout.config), *options]
        self.say(f"  $ ngxsync {' '.join([name, *options])}")
        done = self._run([*self.program, *argv])
        self._quote(done.stdout)
        found = f"ngxsync {name} exits with {done.returncode}"
        self._check(done.returncode in (status, or_status), f"{status} is due, and {found}")
        return done.returncode

    def _run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """In a session of its own: Ctrl-C is the demo's."""
        try:
            return subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                text=True,
                errors="replace",
                start_new_session=True,
                timeout=COMMAND_S,
            )
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(Message(f"{' '.join(argv)} did not end within {COMMAND_S:g}s")) from error

    def _save(self, name: str, *lines: str) -> float:
        """An administrator's edit on web1; the moment of it."""
        self._note(f"web1 {name}: {' '.join(lines)}")
        (self.layout.tree / name).write_text(texts.vhost("shop", *lines))
        return time.monotonic()

    def _newest(self) -> dict[str, Any]:
        """The latest recorded run; one that is being written, or none, is no run yet."""
        none = {"run": "", "outcome": "", "code": "", "exit": 0, "peers": []}
        return {**none, **next(iter(self._state.history(1)), {})}

    def _wait_for_run(self, outcome: str, exit_status: int) -> dict[str, Any]:
        """The next run of this outcome that the daemon records; its log lines are told."""

        def look() -> dict[str, Any]:
            newest = self._newest()
            is_it = (newest["outcome"], newest["exit"]) == (outcome, exit_status)
            return newest if newest["run"] != self._latest_run and is_it else {}

        run = wait_for(look, f"the daemon records a run that ends {outcome} ({exit_status})")
        self._latest_run = run["run"]
        self._tell_log()
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
        self._check(found == text, f"web2 serves {text!r} at {path} is due, and it is {found!r}")

    def _check(self, is_so: bool, expected: str) -> None:
        if not is_so:
            raise DemoFailed(Message(f"not as it should be: {expected}", f"act {self._act}"))

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
        """What the daemon has logged since, without the times."""
        text = self.layout.daemon_log.read_text(errors="replace")
        self._quote(re.sub(r"^\d\S+ ", "", text[self._logged :], flags=re.MULTILINE))
        self._logged = len(text)


def _received(manager: socket.socket) -> str:
    try:
        return manager.recv(65536).decode(errors="replace")
    except BlockingIOError:
        return ""

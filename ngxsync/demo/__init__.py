"""Two web servers on one machine, kept alike before your eyes: everything real, everything below one folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from click import style

from ngxsync.core.wording import human_duration
from ngxsync.demo.machines import Machines
from ngxsync.demo.processes import DemoFailed
from ngxsync.demo.story import Story

Say = Callable[[str], None]
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def play(say: Say, *, keep: bool) -> None:
    """The whole demo. Raises DemoFailed or KeyboardInterrupt; nothing is left behind, unless all went well and `keep` is given."""
    started = time.monotonic()
    is_kept = False
    with _interrupted_by(ENDING):
        machines = Machines()
        try:
            machines.start()
            _introduce(machines, say, time.monotonic() - started)
            Story(machines, say).play()
            if keep:
                machines.keep()
                is_kept = True
        except DemoFailed:
            _quote_logs(machines, say)
            raise
        finally:
            if not is_kept:
                with _ignored(ENDING):
                    machines.stop()
    say("")
    if is_kept:
        _tell_how_to_play(machines, say)
    else:
        took = human_duration(time.monotonic() - started)
        say(style(f"That was all, in {took}: every process has ended, {machines.layout.folder} is removed.", bold=True))


def _introduce(machines: Machines, say: Say, took_s: float) -> None:
    layout = machines.layout
    say(f"Two web servers on this machine, up in {human_duration(took_s)}; all that is theirs is in {layout.folder}")
    say(f"  web1  the master  {layout.web1}/  (in messages by this machine's name, {socket.gethostname()})")
    say(f"  web2  the backup  {layout.web2}/  reached by ssh, port {layout.ports[2]}")


def _quote_logs(machines: Machines, say: Say) -> None:
    """What the programs said last, since their folder is removed."""
    layout = machines.layout
    errors = "logs/error.log"
    for log in (layout.daemon_log, layout.backup / "web2.log", layout.tree / errors, layout.backup_tree / errors):
        if log.exists():
            say(f"\n{log.relative_to(layout.folder)}:")
            for line in log.read_text(errors="replace").splitlines()[-8:]:
                say(f"  | {line}")


def _tell_how_to_play(machines: Machines, say: Say) -> None:
    layout, program = machines.layout, _program()
    for line in (
        style("Both go on, and the daemon with them. For instance:", bold=True),
        f"  edit     {layout.tree}/conf/vhosts/shop.conf  (web1)",
        f"           {layout.backup_tree}/conf/vhosts/shop.conf  (web2)",
        f"  look     curl {layout.web2}/hello",
        f"  reload   kill -HUP $(cat {layout.tree}/logs/nginx.pid)  (web1's own nginx: ngxsync reloads web2's only)",
        f"  follow   tail -f {layout.daemon_log}",
        *(f"  {name:<7}  {program} {name} --config {layout.config}" for name in ("status", "diff", "history", "sync")),
        f"  stop     {program} demo --stop {layout.folder}",
    ):
        say(line)


def _program() -> str:
    """How this program was called, to be typed again."""
    called = sys.argv[0]
    is_in_path = shutil.which("ngxsync") == os.path.abspath(called)
    return called if os.path.basename(called) == "ngxsync" and not is_in_path else "ngxsync"


@contextmanager
def _interrupted_by(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    with _handled(signals, interrupt):
        yield


@contextmanager
def _ignored(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """What is ended is ended wholly: a second Ctrl-C does not come in between."""
    with _handled(signals, signal.SIG_IGN):
        yield


@contextmanager
def _handled(
    signals: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], NoReturn] | signal.Handlers
) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)

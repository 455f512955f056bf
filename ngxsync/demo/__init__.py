"""Two web servers on one machine, kept alike before your eyes: everything real, everything below one folder."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from click import style

from ngxsync.core.wording import human_duration
from ngxsync.demo.machines import Machines
from ngxsync.demo.story import Story


def play(say: Callable[[str], None], *, keep: bool) -> None:
    """The whole demo. Raises DemoFailed; nothing is left behind in any case, unless it went well and is to be kept."""
    started = time.monotonic()
    with _ended_in_order():
        machines = Machines()
        is_kept = False
        try:
            machines.start()
            say(f"Two web servers on this machine, up in {human_duration(time.monotonic() - started)}:")
            say(f"  web1  the master  {machines.layout.web1}/")
            say(f"  web2  the backup  {machines.layout.web2}/  reached by ssh, port {machines.layout.ports[2]}")
            Story(machines, say).play()
            if keep:
                machines.keep()
                is_kept = True
        finally:
            if not is_kept:
                _undisturbed()
                machines.stop()
    say("")
    if is_kept:
        _tell_how_to_play(machines, say)
    else:
        took = human_duration(time.monotonic() - started)
        say(style(f"That was all, in {took}; every process has ended, {machines.layout.folder} is removed.", bold=True))


def _tell_how_to_play(machines: Machines, say: Callable[[str], None]) -> None:
    layout = machines.layout
    for line in (
        style("Both go on, and the daemon with them. For instance:", bold=True),
        f"  edit       {layout.tree}/conf/vhosts/*.conf    (web1; web2's are in {layout.backup_tree})",
        f"  look       curl {layout.web2}/hello",
        f"  follow     tail -f {layout.daemon_log}",
        *(f"  {name:<9}  ngxsync {name} --config {layout.config}" for name in ("status", "diff", "history", "sync")),
        f"  stop       ngxsync demo --stop {layout.folder}",
    ):
        say(line)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _undisturbed() -> None:
    """What is ended is ended wholly: a second Ctrl-C does not come in between."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

"""The daemon as a service: signals, what the service manager is told, one configuration after another."""

from __future__ import annotations

import logging
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ngxsync.core.config import Config
from ngxsync.core.errors import NgxsyncError
from ngxsync.core.wording import one_line
from ngxsync.daemon.crew import Crew
from ngxsync.daemon.instance import note_config, only_instance, take_no_word
from ngxsync.edges import service
from ngxsync.edges.configfile import read_config

logger = logging.getLogger("ngxsync.daemon")

TICK_S = 5.0
WAITING_TICK_S = 0.05
# within TimeoutStopSec of the unit (3min); the peer's transaction ends by itself in any case
STOP_S = 170.0
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Signals:
    """Signals as values: no handler of ours interrupts anything, and children inherit nothing."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        self._pending: list[int] = []

    def wait(self, timeout_s: float) -> int:
        """The next signal, in the order in which they came; 0 where none came in time."""
        if not self._pending and select.select([self._receiver], [], [], timeout_s)[0]:
            self._pending += self._receiver.recv(4096)
        return self._pending.pop(0) if self._pending else 0


@contextmanager
def caught_signals() -> Iterator[Signals]:
    """SIGTERM, SIGINT, SIGHUP and SIGUSR1 arrive here instead of ending the process. In the main thread only."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    former = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)  # first: no signal that is caught is lost
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in HANDLED}
    try:
        yield Signals(receiver)
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in before.items():
            signal.signal(number, handler)
        receiver.close()
        sender.close()


def run_daemon(file: Path) -> int:
    """Until SIGTERM or SIGINT. Raises ConfigError, StateError, or Locked where another daemon is at work."""
    config = read_config(file)
    service.setup_logging(config.log_format)
    service.keep_memory_small()
    with caught_signals() as signals, ExitStack() as owned:
        owned.enter_context(only_instance(config.state_dir, time.time()))
        return Daemon(config, file, signals, owned).run()


class Daemon:
    """`owned` holds the lock of the state directory, and of another that a new configuration names."""

    def __init__(self, config: Config, file: Path, signals: Signals, owned: ExitStack) -> None:
        self._file, self._signals, self._owned = file, signals, owned
        self._owned_dirs = {config.state_dir}
        self._tick_s = min(TICK_S, service.watchdog_interval_s() or TICK_S)
        self._remark = ""
        self._status = service.StatusLine(lambda: self._remark + self._crew.status())
        self._crew = Crew(config, self._status.tell)
        self._note(config)

    def run(self) -> int:
        self._crew.start("start")
        logger.info("started: %s", one_line(self._description()))
        self._status.ready()
        try:
            while (number := self._signals.wait(self._tick_s)) not in (signal.SIGTERM, signal.SIGINT):
                if number == signal.SIGHUP:
                    self._reload()
                elif number == signal.SIGUSR1:  # keepalived's word was taken by the agent's notify
                    self._crew.wake()
                self._beat()
        finally:
            service.stopping("stopping")
            self._crew.mailer.end()
            self._end(self._crew)
            for state_dir in self._owned_dirs:
                take_no_word(state_dir)
            self._crew.mailer.finish()
        logger.info("stopped")
        return 0

    def _description(self) -> str:
        sync = self._crew.config.sync
        when = [
            "on change" if sync.on_change else "",
            f"every {sync.check_every_s:g}s" if sync.check_every_s else "",
            f"at {sync.schedule}" if sync.schedule else "",
        ]
        return f"{', '.join(sync.trees)} -> {', '.join(self._crew.workers)}; {', '.join(filter(None, when)) or 'once'}"

    def _beat(self) -> None:
        if self._crew.check():
            service.watchdog()

    def _reload(self) -> None:
        """Reads the configuration again; where it is wrong, the old one stays, and the log and STATUS say why."""
        service.reloading()
        try:
            config = read_config(self._file)
            self._own(config.state_dir)
            crew = Crew(config, self._status.tell)
        except NgxsyncError as error:
            text = one_line(error.message.in_one_line)
            logger.error("the new configuration was not taken, the old one stays: %s", text)
            self._remark = f"the new configuration was not taken: {text}; "
        else:
            service.setup_logging(config.log_format)
            former, self._crew, self._remark = self._crew, crew, ""
            self._note(config)
            self._end(former)
            self._crew.start("hup")
            logger.info("configuration taken: %s", one_line(self._description()))
        self._status.ready()

    @staticmethod
    def _note(config: Config) -> None:
        """For `status`, which says where the file was changed since; on a full disk it says so too often."""
        with suppress(NgxsyncError):
            note_config(config)

    def _own(self, state_dir: Path) -> None:
        if state_dir not in self._owned_dirs:
            self._owned.enter_context(only_instance(state_dir, time.time()))
            self._owned_dirs.add(state_dir)

    def _end(self, crew: Crew) -> None:
        """Waits for the answers of transactions under way; everything else is given up."""
        crew.stop()
        end = time.monotonic() + STOP_S
        last_told = 0.0
        while crew.is_committed() and time.monotonic() < end:
            if time.monotonic() - last_told > self._tick_s:
                last_told = time.monotonic()
                service.watchdog()
            time.sleep(WAITING_TICK_S)
        crew.close()

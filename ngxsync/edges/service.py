"""What a service tells its manager and its log: sd_notify(3), and lines that journald, a person or a machine reads."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

from ngxsync.core.wording import escaped

# syslog's priorities for journald, sd-daemon(3)
PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
SEND_TIMEOUT_S = 1.0
M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8  # malloc.h


def sd_notify(**fields: str | int) -> bool:
    """Sends KEY=VALUE lines to the service manager in one datagram; True where it took them.

    Without a manager (NOTIFY_SOCKET is not set) it does nothing. A manager that cannot be reached is no error here: it
    decides by what it does not hear.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    lines = "\n".join(f"{key}={escaped(str(value))}" for key, value in fields.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(SEND_TIMEOUT_S)
            channel.connect(address)  # else a full queue looks writable, and waiting for it burns a core
            channel.send(lines.encode())
    except OSError:
        return False
    return True


def ready(status: str) -> bool:
    """Started, or done with reloading."""
    return sd_notify(READY=1, STATUS=status)


def status(text: str) -> bool:
    """One line for `systemctl status`."""
    return sd_notify(STATUS=text)


class StatusLine:
    """What `systemctl status` shows of a service with several threads. `text` gives the line as it is now.

    One at a time asks for it and sends it, so that what was true earlier is never told later.
    """

    def __init__(self, text: Callable[[], str]) -> None:
        self._text, self._told = text, ""
        self._telling = threading.Lock()

    def tell(self) -> None:
        """From any thread; only what is new is sent."""
        with self._telling:
            text = self._text()
            if text != self._told and status(text):
                self._told = text

    def ready(self) -> None:
        """Started, or done with reloading."""
        with self._telling:
            self._told = self._text()
            ready(self._told)


def reloading() -> bool:
    """The configuration is read again; `ready` must follow. The clock's value is what systemd 253 and newer ask for."""
    return sd_notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)


def stopping(status: str) -> bool:
    return sd_notify(STOPPING=1, STATUS=status)


def watchdog() -> bool:
    """Alive: to be sent every `watchdog_interval_s`, and only while it is true."""
    return sd_notify(WATCHDOG=1)


def watchdog_interval_s() -> float | None:
    """Half of the manager's patience (WATCHDOG_USEC), or None where it watches no process, or another one."""
    limit = os.environ.get("WATCHDOG_USEC", "")
    watched = os.environ.get("WATCHDOG_PID", "")
    if not limit.isdecimal() or int(limit) == 0 or watched not in ("", str(os.getpid())):
        return None
    return int(limit) / 2_000_000


def is_journal(stream: TextIO) -> bool:
    """True where the stream goes to journald directly: JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


class TextFormatter(logging.Formatter):
    """Lines for people. Each line of a journal's record carries its priority, or journald would take the rest of a
    traceback as plain information; elsewhere each record carries its time. A record's later lines are indented, so that
    no message can look like two."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = _text(record).split("\n")
        lines = [escaped(first), *(_indented(escaped(line)) for line in rest)]
        if self._journal:
            return "\n".join(_priority(record) + line for line in lines)
        at = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        return "\n".join([f"{at} {record.levelname.lower()}: {lines[0]}", *lines[1:]])


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, message, error (a traceback) and what the call gave as
    `extra={"fields": {...}}`. In the journal with its priority before it, which journald takes off."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        entry = dict(getattr(record, "fields", {}))
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry.update(time=at, level=record.levelname.lower(), logger=record.name, message=record.getMessage())
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return (_priority(record) if self._journal else "") + json.dumps(entry, default=str)


def keep_memory_small() -> None:
    """One heap for all threads, given back to the system as soon as its end is free: 5 of 80 MB over 10,000 files.

    mallopt(3) of glibc; another C library does as it does.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_TRIM_THRESHOLD, 128 * 1024)


def setup_logging(log_format: str, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Sends the log of this process to `stream` [standard error]; `log_format` is text or json. Replaces earlier ones.

    Libraries speak only from warnings on: their information is about their own works.
    """
    formatters: Mapping[str, type[TextFormatter] | type[JsonFormatter]] = {"text": TextFormatter, "json": JsonFormatter}
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatters[log_format](journal=is_journal(target)))
    root = logging.getLogger()
    former, root.handlers = root.handlers, [handler]  # at once: another thread's line finds the one or the other
    root.setLevel(logging.WARNING)
    for each in former:
        each.close()
    logging.getLogger("ngxsync").setLevel(level)


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text


def _indented(line: str) -> str:
    return line if line.startswith("  ") else "  " + line


def _priority(record: logging.LogRecord) -> str:
    level = max((known for known in PRIORITIES if known <= record.levelno), default=logging.DEBUG)
    return f"<{PRIORITIES[level]}>"

"""One daemon for one state directory: STATE/master/daemon.lock keeps the second out, daemon.json says who the first is.

Standard library only: `status` asks here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from ngxsync.core.config import Config
from ngxsync.core.errors import Locked, Message, StateError
from ngxsync.core.wording import disk_message

NOTE = "daemon.json"


@dataclass(frozen=True)
class Instance:
    """A running daemon. `since` is epoch seconds; `start_ticks` tells its process from a later one of the same number.

    `config` is the digest of the configuration that it works with, "" where it does not say so.
    """

    pid: int
    since: float
    start_ticks: int
    config: str = ""

    def works_with(self, config: Config) -> bool:
        return self.config in ("", digest_of(config))


def digest_of(config: Config) -> str:
    """Of what it says, wherever it lies; comments do not count."""
    return hashlib.sha256(repr(replace(config, file="")).encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def only_instance(state_dir: Path, now: float) -> Iterator[None]:
    """This process is the daemon of this state directory until the end. Raises Locked (naming the other) or StateError."""
    folder = state_dir / "master"
    lock, note = folder / "daemon.lock", folder / NOTE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateError(disk_message(lock, "lock", error)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(_other(state_dir, lock), code="daemon") from None
        _write(note, Instance(os.getpid(), now, start_ticks(os.getpid())))
        try:
            yield
        finally:
            take_no_word(state_dir)
    finally:
        os.close(descriptor)


def take_no_word(state_dir: Path) -> None:
    """This daemon ends: who has something to tell relies on it no more, though nobody else may be the daemon yet."""
    with suppress(OSError):
        (state_dir / "master" / NOTE).unlink(missing_ok=True)


def running_instance(state_dir: Path) -> Instance | None:
    """The daemon that works with this state directory now, None where none does."""
    try:
        found = Instance(**json.loads((state_dir / "master" / NOTE).read_bytes()))
        is_running = start_ticks(found.pid) == found.start_ticks
    except (OSError, ValueError, TypeError, IndexError):
        return None
    return found if is_running else None


def note_config(config: Config) -> None:
    """This daemon works with this configuration from now on. Raises StateError."""
    found = running_instance(config.state_dir)
    if found is not None:
        _write(config.state_dir / "master" / NOTE, replace(found, config=digest_of(config)))


def start_ticks(pid: int) -> int:
    """When a process began, in clock ticks since boot, proc(5). Raises OSError where there is none."""
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19])


def _write(note: Path, instance: Instance) -> None:
    temporary = note.with_name(f".{note.name}.{instance.pid}")
    try:
        temporary.write_text(json.dumps(asdict(instance)))
        temporary.rename(note)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StateError(disk_message(note, "write", error)) from error


def _other(state_dir: Path, lock: Path) -> Message:
    found = running_instance(state_dir)
    since = f", since {datetime.fromtimestamp(found.since):%Y-%m-%d %H:%M:%S}" if found else ""
    who = f"process {found.pid}{since}" if found else "an unknown process"
    advice = "leave it to that one, or stop it first: systemctl stop ngxsync"
    return Message(f"another daemon is at work: {who}", str(lock), "that one goes on, nothing was started", advice)

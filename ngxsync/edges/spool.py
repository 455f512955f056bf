"""STATE/spool on disk: events that nobody has looked at yet, and what is remembered of telling them.

    new/*.json    one event each, left by the agent or by the daemon (agent/spool.py)
    open.json     what lasts (core/troubles.py)
    outbox.json   what waits to be told (core/outbox.py)
    lock          held by who tells: the daemon, or `ngxsync notify --flush`

Standard library only: `status` reads here.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ngxsync.agent import spool, store

OPEN, OUTBOX = "open.json", "outbox.json"
UNFINISHED_S = 3600.0


class Spool:
    """Methods raise OSError where the disk does not let them, unless they say otherwise."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / "spool"
        self._new = Path(spool.folder(str(state_dir)))

    def leave(self, event: Mapping[str, Any]) -> str:
        """For whoever tells. Its name."""
        return os.path.basename(spool.leave(str(self._state_dir), dict(event)))

    def mark(self) -> int:
        """Another number whenever something was left; 0 where nothing ever was. Costs one stat, and raises nothing."""
        try:
            return self._new.stat().st_mtime_ns
        except OSError:
            return 0

    def names(self) -> list[str]:
        """Those of all events that were left, the oldest first. Raises nothing."""
        try:
            return sorted(name for name in os.listdir(self._new) if name.endswith(".json") and name[0] != ".")
        except OSError:
            return []

    def read_event(self, name: str) -> Any:
        """What was left under this name, None where it is no JSON or too large to be ours."""
        # a fifo in its place must not keep us waiting
        descriptor = os.open(self._new / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(ValueError, RecursionError), open(descriptor, "rb") as file:
            text = file.read(spool.LARGEST + 1)
            return json.loads(text) if len(text) <= spool.LARGEST else None
        return None

    def sweep(self, now: float) -> None:
        """Removes what writers that were killed left unfinished long ago."""
        with suppress(OSError):
            for entry in os.scandir(self._new):
                if entry.name.startswith(".") and now - entry.stat().st_mtime > UNFINISHED_S:
                    os.unlink(entry.path)

    def forget(self, names: Collection[str]) -> None:
        """They are told, or noted elsewhere."""
        for name in names:
            (self._new / name).unlink(missing_ok=True)

    def read(self, name: str) -> Any:
        """The value that was kept under this name, None where there is none or it is damaged. Raises nothing."""
        with suppress(OSError, ValueError, RecursionError):
            return json.loads((self._folder / name).read_bytes())
        return None

    def keep(self, name: str, value: Mapping[str, Any]) -> None:
        """Durably, the old value or the new one."""
        self._make()
        store.write_durably(str(self._folder / name), store.encoded(value))

    def _make(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def held(self) -> Iterator[bool]:
        """True where nobody else tells meanwhile; False, without waiting, where somebody does."""
        self._make()
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

"""Which way the pair goes, watched: as soon as the VIP comes or goes here, what waited for it runs or stops (DESIGN 8).

It acts on the state found, not on keepalived's word, which comes twice, late or never: that word only has it look at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ngxsync.core.errors import NgxsyncError
from ngxsync.core.standing import Standing
from ngxsync.core.wording import one_line
from ngxsync.daemon.reports import logger
from ngxsync.edges.vip import AddressEvents, Direction

ROLE = "role"
LOOK_S = 10.0  # where no word comes: without a VIP it is a record that says who pushes
AFTER_A_BUG_S = 60.0


class Roles:
    """`put` takes a trigger."""

    def __init__(self, direction: Direction, put: Callable[[str], None]) -> None:
        self._direction, self._put = direction, put
        self._events = AddressEvents()
        self._known: Standing | None = None
        self._is_noted = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="roles", daemon=True)

    def start(self) -> None:
        """The first look is made before the first run, and is none of its own."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._events.wake()

    def wake(self) -> None:
        """Look at once. From any thread."""
        self._events.wake()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _loop(self) -> None:
        while not self._is_over.is_set():
            self._events.wait(LOOK_S)
            if self._is_over.is_set():
                break
            try:
                if self.look():
                    self._put(ROLE)
            except Exception:  # noqa: BLE001 - the outermost place of this thread; a bug, and the daemon goes on
                logger.exception("a bug of ngxsync: looking at the VIP ended")
                self._is_over.wait(AFTER_A_BUG_S)
        self._events.close()

    def look(self) -> bool:
        """True where another tenure, or none, has begun since the last look."""
        found = self._direction.standing()
        known, self._known = self._known, found
        is_new = known is None or (known.tenure, known.standby) != (found.tenure, found.standby)
        if is_new or not self._is_noted:
            self._note(found, is_new)
        return is_new

    def _note(self, found: Standing, is_new: bool) -> None:
        """Where the disk is full it is tried again at each look: the other host asks whether this one held the VIP."""
        try:
            self._direction.note(found)
            self._is_noted = True
        except (OSError, NgxsyncError) as error:
            self._is_noted = False
            if is_new:
                logger.warning("%s", one_line(f"what this host is now could not be recorded: {error}"))

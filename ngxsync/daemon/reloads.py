"""When this host's own nginx has read its files anew, refused to, or served them long enough: what waited for it may go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ngxsync.core.following import Following
from ngxsync.daemon.reports import logger
from ngxsync.flow.interfaces import MasterNginx

RELOAD, SOAKED = "reload", "soak"
TICK_S = 1.0
# new workers that die at once prove nothing (TRANSACTION, reload and prove), and they come one by one
LIVE_S = 0.3
AFTER_A_BUG_S = 60.0


class Reloads:
    """Looks at the processes of nginx every second, without starting one. `put` takes a trigger."""

    def __init__(
        self, nginx: MasterNginx, put: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._nginx, self._put, self._clock = nginx, put, clock
        self._mark = ""
        self._following = Following()
        self._due: float | None = None
        self._is_over = threading.Event()
        self._noting = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="reloads", daemon=True)

    def start(self) -> None:
        """What is served now needs no trigger: the first run looks at it."""
        self._mark = self._nginx.mark()
        self._nginx.has_refused()
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def note(self, following: Following) -> None:
        """What the latest run found: when it is to be looked at again."""
        with self._noting:
            self._following = following
            self._due = None if following.wait_s is None else self._clock() + following.wait_s

    def _loop(self) -> None:
        while not self._is_over.wait(self._wait_s()):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - the outermost place of this thread; a bug, and the daemon goes on
                logger.exception("a bug of ngxsync: looking at nginx ended")
                self._is_over.wait(AFTER_A_BUG_S)

    def _wait_s(self) -> float:
        due = self._due
        return TICK_S if due is None else min(TICK_S, max(0.0, due - self._clock()))

    def look(self) -> None:
        mark = self._nginx.mark()
        if mark and mark != self._mark and not self._is_over.wait(LIVE_S) and self._nginx.mark() == mark:
            self._mark = mark
            self._put(RELOAD)
        has_refused = self._nginx.has_refused()
        with self._noting:
            is_awaited, is_due = self._following.is_unread, self._due is not None and self._clock() >= self._due
            self._due = None if is_due else self._due
        if is_due:
            self._put(SOAKED)
        elif has_refused and is_awaited:  # the run that follows finds nginx's words, and tells them where they are new
            self._put(RELOAD)

"""What the daemon finds becomes what people are told: news of results and looks are left in the spool, what lasts is kept.

Safe to use from all its threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from ngxsync.core import troubles
from ngxsync.core.events import Event, event_to_json
from ngxsync.core.look import Look
from ngxsync.core.model import STANDBY, PeerResult, RunResult
from ngxsync.core.troubles import HERE, Troubles, healed_on, look_at, run_on
from ngxsync.edges.spool import OPEN, Spool

logger = logging.getLogger("ngxsync.daemon")

MOST_UNLEFT = 50


class Telling:
    """`host` is this one, `peers` the names of the others. `wake()` follows each event. `clock` is seconds since the epoch."""

    def __init__(
        self,
        spool: Spool,
        host: str,
        peers: Collection[str],
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spool, self._host, self._peers, self._clock = spool, host, tuple(peers), clock
        self.wake = wake
        self._known: Troubles | None = None
        self._unleft: list[Event] = []
        self._lock = threading.Lock()

    def peer(self, result: PeerResult) -> None:
        """A run on a peer has ended so."""
        if result.outcome == STANDBY:
            self._settle(run_on(result.name), look_at(result.name))
        elif not troubles.is_neutral(result):
            now = self._clock()
            self._follow(run_on(result.name), *troubles.of_peer(self._host, result, now))
            self._drift(result, now)

    def _drift(self, result: PeerResult, now: float) -> None:
        """Edits on the peer that a run took away, told once however often they are made again."""
        healed = troubles.of_drift(self._host, result, now)
        if healed is not None:
            self._follow(healed_on(result.name), *healed)

    def here(self, result: RunResult | None) -> None:
        """A run has ended on this host, before any peer was asked; or None: it has not."""
        if result is None:
            self._follow(HERE, None, "")
        elif result.outcome == STANDBY:
            self._stand_by()
        elif not troubles.is_neutral(result):
            self._follow(HERE, *troubles.of_host(self._host, result, self._clock()))

    def look(self, name: str, look: Look) -> None:
        """What is true of a peer now. Where a run has told why it is not ready, that is enough."""
        found, topic = troubles.of_look(self._host, name, look, self._clock())
        if found is None and not look.is_ready:
            return
        with self._lock:
            if found is not None and {run_on(name), HERE} & set(self._troubles):
                return
        self._follow(look_at(name), found, topic)

    def _stand_by(self) -> None:
        """This host does not push any more: what is wrong with the others is the business of the one that does."""
        self._settle(HERE, *(place(peer) for peer in self._peers for place in (run_on, look_at)))

    def lasting(self) -> tuple[Event, ...]:
        """What was told and goes on."""
        with self._lock:
            return troubles.lasting(self._troubles)

    def reminders(self, every_s: float | None) -> tuple[Event, ...]:
        """What is due to be told again; it counts as told."""
        with self._lock:
            kept, events = troubles.reminders(self._troubles, every_s, self._clock())
            self._keep(kept)
        return events

    def unleft(self) -> tuple[Event, ...]:
        """What could not be left in the spool, each once: the disk is full, and people should know."""
        with self._lock:
            found, self._unleft = tuple(self._unleft), []
        return found

    @property
    def _troubles(self) -> Troubles:
        """Read late: until then another may still be at work on it."""
        if self._known is None:
            self._known = troubles.troubles_from_json(self._spool.read(OPEN), self._peers)
        return self._known

    def _follow(self, place: str, found: Event | None, topic: str) -> None:
        with self._lock:
            kept, news = troubles.followed(self._troubles, place, found, topic, self._clock())
            if news is not None:
                self._leave(news)  # first: killed before the next line, it is told again, and not never
            self._keep(kept)
        if news is not None:
            self.wake()

    def _settle(self, *places: str) -> None:
        with self._lock:
            self._keep(troubles.without(self._troubles, *places))

    def _leave(self, event: Event) -> None:
        try:
            self._spool.leave(event_to_json(event))
        except OSError as error:
            logger.warning("what happened cannot be left in the spool: %s", error.strerror)
            number = time.monotonic_ns()
            self._unleft = [*self._unleft[1 - MOST_UNLEFT :], replace(event, name=f"unleft-{number}")]

    def _keep(self, kept: Troubles) -> None:
        if kept is self._troubles:
            return
        self._known = kept
        try:
            self._spool.keep(OPEN, troubles.troubles_to_json(kept))
        except OSError as error:
            logger.warning("what lasts cannot be written down, a restart tells it again: %s", error.strerror)

"""One peer's second thread: after its runs it looks whether the peer is ready, and says so where that has changed.

No run waits for a look: it asks beside, without a lock, and what was found while a run did something is thrown away, since
that run's own look follows. A burst of edits is looked at once, when it is quiet, or after LATEST_S at the latest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ngxsync.core.errors import NgxsyncError
from ngxsync.core.look import Look
from ngxsync.core.standing import STANDBY
from ngxsync.core.verdict import render_change
from ngxsync.core.wording import one_line
from ngxsync.daemon.reports import logger
from ngxsync.flow.interfaces import Peer
from ngxsync.flow.pipeline import Pipeline
from ngxsync.flow.readiness import Looked, look

QUIET_S = 2.0
LATEST_S = 30.0
LOCK_S = 5.0  # for a run that is at work to end, until what was found may be written down


class Looker:
    """Of one peer. `clock` is monotonic seconds; people are told by `tell(name, look)`."""

    def __init__(
        self,
        peer: Peer,
        pipeline: Pipeline,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str, Look], None] = lambda _name, _look: None,
    ) -> None:
        self.name = peer.config.name
        self._peer, self._pipeline, self._clock = peer, pipeline, clock
        self._tell_look = tell
        self._due: float | None = None
        self._asked_since: float | None = None
        self._probe = self._is_equal = False
        self._is_stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name=f"look at {self.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, *, now: bool = False, probe: bool = False, is_equal: bool = False) -> None:
        """A look is wanted: at once, or when it has been quiet for a while; with `probe` each name is asked anew.

        `is_equal`: the run that ended now has found or made both hosts equal.
        """
        with self._changed:
            at = self._clock()
            self._asked_since = at if self._asked_since is None else self._asked_since
            self._due = at if now else min(at + QUIET_S, self._asked_since + LATEST_S)
            self._probe |= probe
            self._is_equal = is_equal
            self._changed.notify_all()

    def wait_for_run(self) -> None:
        """A run begins: it asks again at its end."""
        with self._changed:
            self._due = None

    def go_on(self) -> None:
        """That run was given up: a look that it put off is made after all."""
        if self._asked_since is not None:
            self.ask(is_equal=self._is_equal)

    def stop(self) -> None:
        """What is still asked for is given up. Does not wait."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def _loop(self) -> None:
        while self._wait():
            try:
                self._look()
            except NgxsyncError:
                continue  # this host's memory cannot be read: the runs say so
            except Exception:  # noqa: BLE001 - the outermost place of this thread; a bug, and the daemon goes on
                logger.exception("a bug of ngxsync: the look at %s ended", self.name)

    def _wait(self) -> bool:
        """Until a look is due; False at the end."""
        with self._changed:
            while not self._is_stopping:
                left_s = None if self._due is None else self._due - self._clock()
                if left_s is not None and left_s <= 0:
                    return True
                self._changed.wait(left_s)
            return False

    def _look(self) -> None:
        with self._changed:
            probe, is_equal = self._probe, self._is_equal
            self._due = self._asked_since = None
            self._probe = False
        pipeline, peers = self._pipeline, [self._peer]
        (found,) = look(
            pipeline, peers, probe=probe, is_equal=is_equal, is_wanted=lambda: not self._is_stopping, wait_s=LOCK_S
        )
        if found.is_kept:
            self._tell_look(found.name, found.look)
            self._tell(found)
        else:
            with self._changed:
                self._probe |= probe  # for the next one

    @staticmethod
    def _tell(found: Looked) -> None:
        """One line where the verdict is another than before."""
        for text in found.unlike:
            line = f"{found.name}: what no sync makes equal has changed: {text}"
            logger.warning("%s", one_line(line), extra={"fields": {"peer": found.name, "unlike": text}})
        before, after = found.before, found.look
        if before is not None and before.is_ready == after.is_ready:
            return
        fields = {"peer": found.name, "ready": after.is_ready, "codes": [reason.code for reason in after.reasons]}
        is_quiet = after.is_ready or after.reasons[0].code == STANDBY  # the question is the other host's
        level = logger.info if is_quiet else logger.warning
        level("%s", one_line(render_change(found.name, before, after)), extra={"fields": fields})

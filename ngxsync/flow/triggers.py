"""When a run begins: triggers are coalesced, a burst of them settles, a failed peer is tried again ever more rarely.

Nothing here knows a clock, a thread or a random number that it was not given; only `TriggerQueue` holds a lock.
All times are seconds on one monotonic clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

MAX_REASONS = 64


class Settle:
    """A burst ends after `settle_s` of quiet, at the latest `max_wait_s` after its first event (DESIGN 3, step 1)."""

    def __init__(self, settle_s: float, max_wait_s: float) -> None:
        self._settle_s = settle_s
        self._max_wait_s = max_wait_s
        self._first: float | None = None
        self._last = 0.0

    def note(self, now: float) -> None:
        """Something happened at `now`."""
        if self._first is None:
            self._first = now
        self._last = now

    def wait(self, now: float) -> float | None:
        """Seconds until the burst ends, 0 where it has ended, None where there is none: wait for an event."""
        if self._first is None:
            return None
        end = min(self._last + self._settle_s, self._first + self._max_wait_s)
        return max(0.0, end - now)

    def due(self, now: float) -> bool:
        return self.wait(now) == 0.0

    def clear(self) -> None:
        """The burst is being dealt with: the next event begins another."""
        self._first = None


class Backoff:
    """Delays that double from `base_s` to `cap_s`, each shortened by up to a half, so that not all retry in step.

    `jitter` gives a number in [0, 1), e.g. `random.random`.
    """

    def __init__(self, base_s: float, cap_s: float, jitter: Callable[[], float]) -> None:
        if not 0 < base_s <= cap_s:
            raise ValueError(f"a back-off needs 0 < base <= cap, not {base_s} and {cap_s}")
        self._base_s = base_s
        self._cap_s = cap_s
        self._jitter = jitter
        self._whole_s = base_s

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt: between half of the present step and the whole of it."""
        whole_s = self._whole_s
        self._whole_s = min(self._cap_s, whole_s * 2)
        return whole_s * (1 - self._jitter() / 2)

    def reset(self) -> None:
        """It went well: the next failure waits `base_s` again."""
        self._whole_s = self._base_s


class TriggerQueue:
    """The pending reasons for a run. Equal ones count once, and at most MAX_REASONS are kept: an outage of any length
    with any number of events takes the same memory, since a run looks at all the state there is anyway (DESIGN 3)."""

    def __init__(self) -> None:
        self._reasons: dict[str, None] = {}  # a set that keeps the order
        self._changed = threading.Condition()

    def put(self, reason: str) -> None:
        """From any thread, also from a signal handler's; never blocks for long."""
        with self._changed:
            if len(self._reasons) < MAX_REASONS:
                self._reasons[reason] = None
            self._changed.notify_all()

    def wait(self, timeout_s: float | None) -> tuple[str, ...]:
        """Takes all pending reasons, first come first; waits for one up to `timeout_s` (None: for ever), then ()."""
        with self._changed:
            self._changed.wait_for(lambda: self._reasons, timeout_s)
            reasons = tuple(self._reasons)
            self._reasons.clear()
            return reasons

    def __len__(self) -> int:
        with self._changed:
            return len(self._reasons)

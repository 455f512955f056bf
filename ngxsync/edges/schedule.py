"""When the clock says so: crontab expressions and intervals. The one importer of apscheduler and cronsim.

apscheduler keeps the clock and the thread; cronsim reads the expressions, since apscheduler's own reading counts days
from Monday = 0, refuses 7, joins day-of-month and day-of-week with *and*, and fires twice when clocks go back
(DESIGN 8).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from cronsim import CronSim

from ngxsync.core.cronfields import check_fields

HEARTBEAT_S = 30.0
# beyond this a heartbeat is missing, not late: three beats, so that a busy second does no harm
STALE_S = 3 * HEARTBEAT_S


def next_fires(expression: str, count: int, tz: tzinfo, now: datetime) -> list[datetime]:
    """The next `count` times after `now` (with a time zone), in `tz`; ValueError where `check_fields` has a reason.

    As in Debian's cron: a time that a clock change skips comes right after the gap, one that it repeats comes once.
    """
    reason = check_fields(expression)
    if reason:
        raise ValueError(reason)
    fires: list[datetime] = []
    for _ in range(count):
        now = _next_fire(expression, tz, now)
        fires.append(now)
    return fires


def _next_fire(expression: str, tz: tzinfo, now: datetime) -> datetime:
    times = CronSim(expression.strip(), now.astimezone(tz))
    # cronsim counts fixed times by the wall clock, so within a repeated hour its answer can lie in the past
    return next(fire for fire in times if fire.timestamp() > now.timestamp())


def local_zone(localtime: Path = Path("/etc/localtime")) -> tzinfo:
    """The time zone that this host's clock shows, with its clock changes: TZ, else /etc/localtime, else UTC."""
    with suppress(OSError, ValueError, KeyError):
        name = os.environ.get("TZ", "").lstrip(":")
        if name and not name.startswith("/"):
            return ZoneInfo(name)
        with open(name or localtime, "rb") as file:
            return ZoneInfo.from_file(file, key=str(localtime))
    return UTC


class _After(BaseTrigger):  # type: ignore[misc]
    """apscheduler's trigger over a function from one moment to the next.

    All in UTC: datetimes of one zone are compared by the wall clock, which is wrong in the hour that comes twice.
    """

    def __init__(self, after: Callable[[datetime], datetime]) -> None:
        self._after = after

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        # after the later of both: what a suspended host missed is one run, and a clock put back repeats none
        return self._after(max(previous or now, now)).astimezone(UTC)


class Schedule:
    """Calls `fire(name)` when the job of that name is due, from a thread of its own; `fire` should only queue.

    A job is a crontab expression or a number of seconds. A time that passed while the host was suspended or busy is
    made up for, once, however many were missed. An exception in `fire` is logged, and the job stays.
    `clock` is monotonic seconds. ValueError where an expression is none.
    """

    def __init__(
        self,
        jobs: Mapping[str, str | float],
        fire: Callable[[str], None],
        tz: tzinfo,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._triggers = {name: _trigger(when, tz) for name, when in jobs.items()}
        self._fire = fire
        self._clock = clock
        self._scheduler: BackgroundScheduler | None = None
        self._beat_at = 0.0

    def start(self) -> None:
        scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": DebugExecutor()},  # in the scheduler's own thread: a job only queues something
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        for name, trigger in self._triggers.items():
            scheduler.add_job(self._fire, trigger, args=[name], name=name)
        # it proves the thread alive, and wakes it from a sleep that a suspend of the host has made too long
        scheduler.add_job(self._beat, _every(HEARTBEAT_S), name="heartbeat")
        self._beat()
        self._scheduler = scheduler
        scheduler.start()

    def stop(self) -> None:
        """Ends the thread, after the `fire` that is under way. A schedule can be started again."""
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.shutdown(wait=False)

    def wake(self) -> None:
        """Looks at the wall clock now instead of at the next heartbeat, e.g. after it was set."""
        if self._scheduler is not None:
            self._scheduler.wakeup()

    def check(self) -> bool:
        """True where the heartbeat is fresh. A stale one means a dead thread, or a clock that was put back by more than
        a beat so that every job waits for the old time: then all begins anew, counted from the present time."""
        if self.is_alive():
            return True
        if self._scheduler is not None:
            self.stop()
            self.start()
        return False

    def is_alive(self) -> bool:
        return self._scheduler is not None and self._clock() - self._beat_at < STALE_S

    def _beat(self) -> None:
        self._beat_at = self._clock()


def _trigger(when: str | float, tz: tzinfo) -> _After:
    if not isinstance(when, str):
        return _every(when)
    reason = check_fields(when)
    if reason:
        raise ValueError(reason)
    return _After(lambda moment: _next_fire(when, tz, moment))


def _every(seconds: float) -> _After:
    step = timedelta(seconds=seconds)
    return _After(lambda moment: moment + step)

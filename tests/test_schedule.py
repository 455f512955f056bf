"""Crontab times over clock changes, and the scheduler under a clock that jumps."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.core.cronfields import check_fields
from ngxsync.edges.schedule import HEARTBEAT_S, STALE_S, Schedule, local_zone, next_fires

BERLIN = ZoneInfo("Europe/Berlin")
PATIENCE_S = 30


def fires(expression: str, now: str, count: int = 3) -> list[str]:
    moments = next_fires(expression, count, BERLIN, datetime.fromisoformat(now).replace(tzinfo=BERLIN))
    return [moment.strftime("%a %Y-%m-%d %H:%M %z") for moment in moments]


@pytest.mark.parametrize("day", ["0", "7", "sun", "SUN"])
def test_sunday_has_two_numbers_and_a_name(day: str) -> None:
    assert fires(f"0 2 * * {day}", "2026-03-02", 1) == ["Sun 2026-03-08 02:00 +0100"]


def test_one_is_monday_and_five_is_friday() -> None:
    days = [fire[:3] for fire in fires("0 2 * * 1-5", "2026-03-07", 6)]
    assert days == ["Mon", "Tue", "Wed", "Thu", "Fri", "Mon"]


def test_steps_of_days_count_from_sunday() -> None:
    assert [fire[:3] for fire in fires("0 2 * * */2", "2026-03-01T12:00", 4)] == ["Tue", "Thu", "Sat", "Sun"]


def test_day_of_month_and_day_of_week_are_either_or() -> None:
    assert [fire[:14] for fire in fires("0 0 13 * 5", "2026-03-01", 4)] == [
        "Fri 2026-03-06",
        "Fri 2026-03-13",
        "Fri 2026-03-20",
        "Fri 2026-03-27",
    ]
    assert [fire[:14] for fire in fires("0 0 14 * 5", "2026-03-12", 3)] == [
        "Fri 2026-03-13",
        "Sat 2026-03-14",
        "Fri 2026-03-20",
    ]


def test_a_time_in_the_hour_that_is_skipped_comes_once_right_after() -> None:
    assert fires("30 2 * * *", "2026-03-28T12:00") == [
        "Sun 2026-03-29 03:00 +0200",
        "Mon 2026-03-30 02:30 +0200",
        "Tue 2026-03-31 02:30 +0200",
    ]


def test_a_time_in_the_hour_that_is_repeated_comes_once() -> None:
    assert fires("30 2 * * *", "2026-10-24T12:00") == [
        "Sun 2026-10-25 02:30 +0200",
        "Mon 2026-10-26 02:30 +0100",
        "Tue 2026-10-27 02:30 +0100",
    ]


def test_asked_within_the_repeated_hour_the_answer_is_not_in_the_past() -> None:
    within = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)
    assert [moment.day for moment in next_fires("30 2 * * *", 2, BERLIN, within)] == [26, 27]


def test_every_ten_minutes_goes_on_through_both_clock_changes() -> None:
    for start in ("2026-03-29T00:30+00:00", "2026-10-25T00:30+00:00"):
        moments = next_fires("*/10 * * * *", 12, BERLIN, datetime.fromisoformat(start))
        stamps = [moment.timestamp() for moment in moments]
        assert {later - earlier for earlier, later in pairwise(stamps)} == {600}


def test_the_moment_itself_is_not_its_next_time() -> None:
    assert fires("30 3 * * *", "2026-05-05T03:30", 1) == ["Wed 2026-05-06 03:30 +0200"]


@pytest.mark.parametrize(
    "expression",
    ["30 03 * * *", "*/5 * * * *", "0 0 29 2 *", "0 9-17/2 * jan,JUL mon-fri", " 1 2  3 4 5 "],
)
def test_good_expressions(expression: str) -> None:
    assert check_fields(expression) is None


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "0 fields"),
        ("30 3 * *", "4 fields"),
        ("0 30 3 * * *", "6 fields"),
        ("60 3 * * *", "minute has '60'"),
        ("0 24 * * *", "hour has '24'"),
        ("0 0 31 2 *", "day of month 31 never comes in month 2"),
        ("0 0 * 13 *", "month has '13'"),
        ("0 0 * * 8", "day of week has '8'"),
        ("0 0 * * fri-mon", "day of week has 'fri-mon'"),
        ("*/0 * * * *", "minute has '*/0'"),
        ("-1 * * * *", "minute has '-1'"),
        ("0 0 L * *", "day of month has 'L'"),
        ("@daily", "1 fields"),
    ],
)
def test_bad_expressions_are_refused_with_the_reason(expression: str, reason: str) -> None:
    assert reason in (check_fields(expression) or "")
    with pytest.raises(ValueError, match=re.escape(reason)):
        next_fires(expression, 1, BERLIN, datetime.now(UTC))
    with pytest.raises(ValueError, match=re.escape(reason)):
        Schedule({"schedule": expression}, lambda name: None, BERLIN)


PARTS = ["*", "*/2", "*/7", "0", "7", "1-5", "1-5/2", "2,4", "29", "30", "31", "30,31", "mon", "feb", "0-7", "L", "5#5"]


@given(st.lists(st.sampled_from(PARTS), min_size=5, max_size=5).map(" ".join))
def test_an_expression_either_has_a_reason_or_a_next_time(expression: str) -> None:
    now = datetime(2026, 3, 28, tzinfo=BERLIN)
    if check_fields(expression) is None:
        first, second = next_fires(expression, 2, BERLIN, now)
        assert now.timestamp() < first.timestamp() < second.timestamp()


class Fired:
    """Collects what fired, and waits for it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._more = threading.Condition()

    def __call__(self, name: str) -> None:
        with self._more:
            self.names.append(name)
            self._more.notify_all()

    def wait_for(self, count: int) -> list[str]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.names) >= count, PATIENCE_S), self.names
            return self.names


@pytest.fixture
def traveller() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(datetime(2026, 10, 24, 22, 0, tzinfo=BERLIN), tick=False) as traveller:
        yield traveller


def run(jobs: dict[str, str | float], fired: Fired, clock: list[float] | None = None) -> Schedule:
    schedule = Schedule(jobs, fired, BERLIN, clock=lambda: clock[0] if clock else 0.0)
    schedule.start()
    return schedule


def test_what_a_suspended_host_missed_is_made_up_for_once(traveller: time_machine.Traveller) -> None:
    fired = Fired()
    schedule = run({"schedule": "30 3 * * *"}, fired)
    traveller.shift(timedelta(days=3, hours=7))  # three times passed, the last one 90 minutes ago
    schedule.wake()
    assert fired.wait_for(1) == ["schedule"]
    traveller.shift(timedelta(days=1))
    schedule.wake()
    assert fired.wait_for(2) == ["schedule", "schedule"]
    schedule.stop()


def test_an_interval_fires_by_its_length(traveller: time_machine.Traveller) -> None:
    fired = Fired()
    schedule = run({"check_every": 600.0, "schedule": "30 3 * * *"}, fired)
    for count in (1, 2, 3):
        traveller.shift(601)
        schedule.wake()
        assert fired.wait_for(count) == ["check_every"] * count
    schedule.stop()


def test_it_waits_by_real_time_when_the_wall_clock_skips_an_hour() -> None:
    """On the wall an hour and a half second lie before 03:00; the fire comes after the half second, unasked."""
    fired = Fired()
    with time_machine.travel(datetime(2026, 3, 29, 1, 59, 59, 500_000, tzinfo=BERLIN), tick=True):
        schedule = run({"schedule": "*/10 * * * *"}, fired)
        assert fired.wait_for(1) == ["schedule"]
        schedule.stop()


def test_an_exception_does_not_end_the_job(traveller: time_machine.Traveller) -> None:
    fired = Fired()

    def fail(name: str) -> None:
        fired(name)
        raise RuntimeError("queue is broken")

    schedule = Schedule({"check_every": 60.0}, fail, BERLIN, clock=lambda: 0.0)
    schedule.start()
    for count in (1, 2):
        traveller.shift(61)
        schedule.wake()
        fired.wait_for(count)
    assert schedule.is_alive()
    schedule.stop()


def test_it_is_alive_between_start_and_stop_and_can_start_again(traveller: time_machine.Traveller) -> None:
    fired = Fired()
    schedule = Schedule({"check_every": 60.0}, fired, BERLIN, clock=lambda: 0.0)
    assert not schedule.is_alive()
    for count in (1, 2):
        schedule.start()
        assert schedule.is_alive()
        assert schedule.check()
        traveller.shift(61)
        schedule.wake()
        fired.wait_for(count)
        schedule.stop()
        assert not schedule.is_alive()
        schedule.stop()
    assert not schedule.check()


def test_a_fire_that_never_returns_shows_as_not_alive(traveller: time_machine.Traveller) -> None:
    clock, stuck, release = [0.0], threading.Event(), threading.Event()

    def hang(name: str) -> None:
        stuck.set()
        release.wait(PATIENCE_S)

    schedule = Schedule({"check_every": 1.0}, hang, BERLIN, clock=lambda: clock[0])
    schedule.start()
    traveller.shift(2)
    schedule.wake()
    assert stuck.wait(PATIENCE_S)
    traveller.shift(HEARTBEAT_S + 1)
    schedule.wake()
    clock[0] = STALE_S
    assert not schedule.is_alive()
    release.set()
    schedule.stop()


def test_a_clock_that_is_put_back_by_years_does_not_stop_the_schedule(traveller: time_machine.Traveller) -> None:
    fired, clock = Fired(), [0.0]
    schedule = run({"check_every": 600.0}, fired, clock)
    traveller.move_to(datetime(2020, 1, 1, tzinfo=UTC))
    clock[0] = STALE_S
    assert not schedule.check()
    assert schedule.check()
    traveller.shift(601)
    schedule.wake()
    assert fired.wait_for(1) == ["check_every"]
    schedule.stop()


def test_the_local_zone_knows_its_clock_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offsets() -> list[timedelta | None]:
        zone = local_zone(tmp_path / "localtime")
        return [datetime(2026, month, 1, tzinfo=zone).utcoffset() for month in (1, 7)]

    monkeypatch.delenv("TZ", raising=False)
    assert offsets() == [timedelta(0), timedelta(0)]
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert offsets() == [timedelta(hours=1), timedelta(hours=2)]
    monkeypatch.setenv("TZ", ":America/New_York")
    assert offsets() == [timedelta(hours=-5), timedelta(hours=-4)]

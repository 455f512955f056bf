"""Settling, backing off and coalescing, with the clock in the test's hand."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.flow.triggers import MAX_REASONS, Backoff, Settle, TriggerQueue

# whole parts of 1/1024 s: sums are exact
durations = st.integers(1, 2**20).map(lambda parts: parts / 1024)
gaps = st.lists(st.integers(0, 2**17).map(lambda parts: parts / 1024), min_size=1, max_size=20)


def test_a_burst_ends_after_the_quiet_time() -> None:
    settle = Settle(0.2, 5)
    settle.note(10.0)
    settle.note(10.1)
    assert not settle.due(10.2)
    assert settle.wait(10.2) == pytest.approx(0.1)
    assert settle.due(10.31)


def test_an_endless_burst_ends_at_the_cap() -> None:
    settle = Settle(0.2, 5)
    for tenth in range(60):
        settle.note(tenth / 10)
        assert settle.due(tenth / 10) == (tenth / 10 >= 5)


def test_without_an_event_nothing_is_due_and_nothing_to_wait_for() -> None:
    settle = Settle(0.2, 5)
    assert settle.wait(1e9) is None
    assert not settle.due(1e9)
    settle.note(0)
    settle.clear()
    assert settle.wait(1e9) is None


@given(durations, durations, gaps)
def test_a_burst_is_due_neither_early_nor_after_the_cap(settle_s: float, max_wait_s: float, steps: list[float]) -> None:
    settle, now, first = Settle(settle_s, max_wait_s), 0.0, steps[0]
    for step in steps:
        now += step
        settle.note(now)
        wait = settle.wait(now)
        assert wait is not None
        assert wait <= settle_s
        assert now + wait <= max(now, first + max_wait_s)
        assert settle.due(now) == (wait == 0)
        assert settle.due(now) == (now >= min(now + settle_s, first + max_wait_s))


@given(durations, st.floats(1, 100), st.lists(st.floats(0, 0.999999), min_size=1, max_size=50))
def test_delays_grow_to_the_cap_and_never_past_it(base_s: float, factor: float, jitters: list[float]) -> None:
    cap_s, values = base_s * factor, iter(jitters)
    backoff = Backoff(base_s, cap_s, lambda: next(values))
    for attempt in range(len(jitters)):
        whole_s = min(cap_s, base_s * 2**attempt)
        assert whole_s / 2 <= backoff.next_delay() <= whole_s


def test_an_outage_of_a_year_does_not_overflow_and_success_begins_anew() -> None:
    backoff = Backoff(1, 600, lambda: 0.0)
    assert [backoff.next_delay() for _ in range(5000)][-1] == 600
    backoff.reset()
    assert [backoff.next_delay() for _ in range(3)] == [1, 2, 4]


def test_peers_that_failed_together_are_not_tried_again_together() -> None:
    assert Backoff(8, 60, lambda: 0.1).next_delay() != Backoff(8, 60, lambda: 0.9).next_delay()


@pytest.mark.parametrize(("base_s", "cap_s"), [(0, 1), (-1, 1), (2, 1)])
def test_a_back_off_that_would_not_back_off_is_refused(base_s: float, cap_s: float) -> None:
    with pytest.raises(ValueError, match="0 < base <= cap"):
        Backoff(base_s, cap_s, lambda: 0.0)


@given(st.lists(st.sampled_from(["change", "rescan", "schedule"])))
def test_equal_reasons_count_once_and_come_in_order(reasons: list[str]) -> None:
    queue = TriggerQueue()
    for reason in reasons:
        queue.put(reason)
    assert queue.wait(0) == tuple(dict.fromkeys(reasons))
    assert queue.wait(0) == ()


def test_a_flood_of_reasons_takes_bounded_memory_and_still_wakes() -> None:
    queue = TriggerQueue()
    for number in range(100_000):
        queue.put(f"peer {number}")
    assert len(queue) == MAX_REASONS
    assert queue.wait(0)[0] == "peer 0"


def test_a_waiting_thread_is_woken_by_another() -> None:
    queue, taken = TriggerQueue(), []
    thread = threading.Thread(target=lambda: taken.append(queue.wait(30)))
    thread.start()
    queue.put("change")
    thread.join(30)
    assert taken == [("change",)]

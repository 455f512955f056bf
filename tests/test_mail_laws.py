"""Laws of telling: nothing lost, nothing twice, a bounded number of mails; what lasts is told once; the text of a mail."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.core import outbox as box
from ngxsync.core import troubles
from ngxsync.core.errors import Message
from ngxsync.core.events import Event, event_from_json, event_to_json, is_wanted, kept_json
from ngxsync.core.judge_mail import judge_mail
from ngxsync.core.letter import Scene, address_of, write_letter
from ngxsync.core.look import Look
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import Change, PeerResult, RunResult
from ngxsync.core.outbox import Outbox
from ngxsync.core.pairoptions import MailConfig
from ngxsync.core.readiness import Reason

T0 = 1_700_000_000.0


def role(number: int = 0, **more: Any) -> Event:
    return Event(**{"kind": "role", "host": "web1", "at": T0 + number, "name": f"r{number}", "role": "master", **more})


def failure(number: int = 0, **more: Any) -> Event:
    told = {"peer": "web2", "word": "refused", "what": f"no {number}", "since": T0}
    return Event(**{"kind": "failure", "host": "web1", "at": T0 + number, "name": f"f{number}", **told, **more})


def add(outbox: Outbox, events: list[Event], now: float, *, called: bool = False) -> Outbox:
    return box.taken(outbox, events, now, mailed={event.name for event in events}, called=called)


# how mail is gathered

# what happens: an event of some kind comes, time passes, the clock is set, the mail server goes or comes back
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.sampled_from(["role", "refused", "unreachable", "stale-running", "recovered"])),
        st.tuples(st.just("pass"), st.floats(0.1, 400.0)),
        st.tuples(st.just("clock"), st.floats(-1e6, 1e6)),
        st.tuples(st.just("server"), st.booleans()),
    ),
    max_size=60,
)


class World:
    """`true` is time as it really passes, the clock shows `true` + `skew`. Mails are counted by true time."""

    def __init__(self) -> None:
        self.outbox, self.true, self.skew = Outbox(), 0.0, T0
        self.is_up, self.was_set = True, False
        self.given: list[str] = []
        self.words: dict[str, str] = {}
        self.told: list[str] = []
        self.mails: list[float] = []

    def do(self, what: str, value: Any) -> None:
        if what == "event":
            self.event(value)
        elif what == "pass":
            self.advance(value)
        elif what == "clock":
            self.skew, self.was_set = self.skew + value, True
        else:
            self.is_up = value

    def event(self, word: str) -> None:
        number = len(self.given)
        event = role(number) if word == "role" else failure(number, word=word)
        if word == "recovered":
            event = failure(number, word="in-sync", kind="recovered", of="failure")
        self.given.append(event.name)
        self.words[event.name] = word
        self.outbox = add(self.outbox, [event], self.true + self.skew)
        again = add(self.outbox, [event], self.true + self.skew)
        assert len(again.waiting) == len(self.outbox.waiting), "taken twice"

    def advance(self, seconds: float) -> None:
        end = self.true + seconds
        while self.true < end:
            now = self.true + self.skew
            self.outbox = box.at(self.outbox, now)
            due = box.due_at(self.outbox, now)
            assert due is None or due <= now + box.EVERY_S + box.RETRY_TO_S + box.LONG_S, "it waits too long"
            is_due = due is not None and due <= now
            if is_due:
                self.send(now)
            step = 1.0 if due is None or is_due else min(max(due - now, 0.5), 50.0)
            self.true = min(end, self.true + step)

    def send(self, now: float) -> None:
        batch = box.batch(self.outbox, now)
        assert batch
        self.outbox = box.begun(self.outbox, now)
        if not self.is_up:
            self.outbox = box.failed(self.outbox, "away", now)
            return
        self.mails.append(self.true)
        self.told += [event.name for event in batch]
        self.outbox = box.sent(self.outbox, batch, now)


@given(STEPS)
def test_nothing_is_lost_or_told_twice_and_mails_are_few(steps: list[tuple[str, Any]]) -> None:
    """However the clock is set, and whenever the mail server is away."""
    world = World()
    for step in steps:
        world.do(*step)
    world.is_up = True
    world.advance(4000.0)
    assert not world.outbox.waiting
    assert len(world.told) == len(set(world.told)), "told twice"
    missing = [name for name in world.given if name not in world.told]
    # an outage with its end, both within the time in which nobody is told of it; of one that went on, what was news of it
    assert all(world.words[name] in ("unreachable", "stale-running", "recovered") for name in missing)
    ends = [name for name in missing if world.words[name] == "recovered"]
    assert len(ends) <= len(missing) - len(ends)
    for index, start in enumerate([] if world.was_set else world.mails):
        for further, end in enumerate(world.mails[index:]):
            assert further + 1 <= box.BURST + (end - start) / box.EVERY_S + 0.01


@given(st.lists(st.sampled_from(["role", "refused"]), min_size=1, max_size=300))
def test_a_burst_is_one_mail_and_what_is_too_much_is_counted(kinds: list[str]) -> None:
    outbox = Outbox()
    for number, kind in enumerate(kinds):
        outbox = add(outbox, [role(number) if kind == "role" else failure(number)], T0 + number * 0.01)
    now = T0 + len(kinds) * 0.01 + box.QUIET_S
    due = box.due_at(outbox, now)
    assert due is not None
    assert due <= now
    assert len(outbox.waiting) + outbox.dropped == len(kinds)
    assert len(outbox.waiting) <= box.MOST
    assert box.due_at(box.sent(outbox, box.batch(outbox, now), now), now) is None


def test_one_role_change_goes_soon_and_the_sixth_in_a_row_waits() -> None:
    outbox, now = Outbox(), T0
    for number in range(6):
        outbox = add(outbox, [role(number)], now)
        due = box.due_at(outbox, now)
        assert due is not None
        if number < box.BURST:
            assert due - now == box.QUIET_S
            outbox = box.sent(outbox, box.batch(outbox, due), due)
            now = due
    assert due is not None
    assert box.EVERY_S - 60 < due - now <= box.EVERY_S


def test_a_short_outage_is_told_to_nobody_and_a_longer_one_is() -> None:
    down = failure(1, word="unreachable")
    up = replace(down, kind="recovered", of="failure", word="in-sync", name="f2")
    outbox = add(Outbox(), [down], T0)
    assert box.due_at(outbox, T0) == T0 + box.SHORT_S
    assert add(outbox, [up], T0 + 5).waiting == ()
    with_role = add(outbox, [role()], T0 + 1)
    assert box.due_at(with_role, T0 + 1) == T0 + 1 + box.QUIET_S
    assert len(box.batch(with_role, T0 + 4)) == 2, "a mail that goes anyway says it too"


def test_an_end_takes_out_all_that_it_ends_and_nothing_else() -> None:
    """What changed meanwhile waits twice; another trouble of the same peer goes on."""
    first = failure(1, word="not-ready", code="limits")
    second = replace(first, name="f2", at=T0 + 60, code="clock")
    up = replace(first, kind="recovered", of="failure", word="in-sync", code="", name="f3", at=T0 + 90)
    other = failure(4, word="stale-running", since=T0 + 4)
    outbox = add(add(Outbox(), [first, other], T0 + 4), [second], T0 + 60)
    assert [each.event.name for each in add(outbox, [up], T0 + 90).waiting] == ["f4"]
    was_told = replace(up, since=T0 - 9999, at=T0 + 99)
    assert [each.event.name for each in add(outbox, [was_told], T0 + 99).waiting] == ["f1", "f4", "f2", "f3"]


def test_the_end_of_what_was_told_is_told_though_it_had_changed_since() -> None:
    changed = failure(1, word="not-ready", at=T0 + box.LONG_S + 5)
    up = replace(changed, kind="recovered", of="failure", word="in-sync", name="f2", at=T0 + box.LONG_S + 9)
    outbox = add(add(Outbox(), [changed], changed.at), [up], up.at)
    assert [each.event.name for each in outbox.waiting] == ["f2"]


def test_back_off_is_bounded_and_ends_with_success() -> None:
    outbox, now, waits = add(Outbox(), [role()], T0), T0, []
    for _ in range(12):
        outbox = box.failed(outbox, "away", now)
        due = box.due_at(outbox, now)
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits[0] == box.RETRY_FROM_S
    assert waits == sorted(waits)
    assert waits[-1] == box.RETRY_TO_S
    assert box.sent(outbox, box.batch(outbox, now), now).failure == ""


def test_what_is_too_old_is_dropped_and_counted() -> None:
    outbox = add(add(Outbox(), [role(1)], T0), [role(2)], T0 + box.OLDEST_S - 1)
    assert len(box.at(outbox, T0 + 1e9).waiting) == 2, "only the clock was set"
    outbox = replace(outbox, tries=box.LEAST_TRIES)
    left = box.at(outbox, T0 + box.OLDEST_S + 1)
    assert ([each.event.name for each in left.waiting], left.dropped) == (["r2"], 1)
    assert "1 event was dropped" in write_letter(box.batch(left, T0), Scene("web1", "", T0, dropped=left.dropped)).body


def test_who_may_have_had_a_mail_is_told_so_until_one_has_gone() -> None:
    outbox = box.begun(add(Outbox(), [role()], T0), T0)
    for unsure in (outbox, box.failed(outbox, "", T0, unanswered=True)):
        again = box.failed(box.begun(unsure, T0), "away", T0)
        assert box.is_unsure(again)
        assert not box.is_unsure(box.sent(again, [role()], T0))
    assert not box.is_unsure(box.failed(outbox, "away", T0))


def test_a_mail_is_owed_to_whom_it_was_not_taken_for() -> None:
    """It is tried as long as any, alone, and costs nobody else's mail anything; what cannot be told at last is counted."""
    outbox = box.owing(box.sent(add(Outbox(), [role()], T0), [role()], T0), ("b@c",), [role()], T0)
    outbox = box.owing(outbox, ("d@e", "b@c"), [role(1)], T0)
    assert outbox.owed is not None
    assert (outbox.owed.addresses, len(outbox.owed.events), outbox.waiting) == (("b@c", "d@e"), 2, ())
    assert box.outbox_from_json(box.outbox_to_json(outbox)) == outbox
    now, tries = T0, 0
    while outbox.owed:
        due = box.due_at(outbox, now)
        assert due is not None
        assert 0 < due - now <= box.RETRY_TO_S
        now, tries = due, tries + 1
        outbox = box.owed_again(outbox, outbox.owed.addresses, now)
    assert (outbox.dropped, box.due_at(outbox, now)) == (2, None)
    assert now - T0 > box.OLDEST_S
    assert tries > box.LEAST_TRIES
    later = box.owing(add(Outbox(), [role(2)], T0), ("b@c",), [role()], T0)
    assert box.due_at(later, T0) == T0 + box.QUIET_S


def test_what_an_earlier_release_kept_is_read() -> None:
    kept = box.outbox_to_json(add(Outbox(), [role()], T0))
    for added in ("is_unsure", "refused", "owed"):
        del kept[added]
    assert [each.event for each in box.outbox_from_json(kept).waiting] == [role()]


EVENTS = st.builds(
    Event,
    st.sampled_from(["role", "failure", "drift", "recovered"]),
    st.text(max_size=20),
    st.floats(0, 1e10),
    name=st.text(min_size=1, max_size=9),
)


@given(EVENTS, st.floats(0, 1e10))
def test_what_is_kept_is_what_is_read(event: Event, now: float) -> None:
    assert event_from_json(kept_json(event)) == event
    assert event_from_json(event_to_json(event), event.name) == event
    outbox = replace(box.failed(add(Outbox(), [event], now, called=True), "why", now), trying=now)
    assert box.outbox_from_json(box.outbox_to_json(outbox)) == outbox
    for damaged in (None, [], {"waiting": 7}, {**box.outbox_to_json(outbox), "waiting": [{}]}):
        assert box.outbox_from_json(damaged) == Outbox()


@pytest.mark.parametrize(
    "data",
    [
        None,
        7,
        [],
        {},
        {"kind": "x"},
        {"kind": "role", "at": "1"},
        {"kind": "role", "at": 1e99},
        {"kind": "role", "at": 10**400},
        {"kind": "role", "at": 1, "exit": 1e999},
        {"kind": "role", "at": 1, "exit": "7"},
    ],
)
def test_what_is_no_event_is_none(data: Any) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        event_from_json(data, "x")


@pytest.mark.parametrize(
    ("event", "on", "wanted"),
    [
        (role(), ("roles",), True),
        (role(), ("failures", "drift"), False),
        (failure(), ("failures",), True),
        (failure(), ("roles", "drift"), False),
        (replace(failure(), kind="drift"), ("drift",), True),
        (replace(failure(), kind="recovered", of="drift"), ("drift",), True),
        (replace(failure(), kind="recovered", of="failure"), ("drift",), False),
    ],
)
def test_who_wants_what(event: Event, on: tuple[str, ...], wanted: bool) -> None:
    assert is_wanted(event, on) is wanted


# what is news

REFUSED = PeerResult(
    "web2", "refused", "refused", 5, snapshot="a" * 64, message=Message("no", "web2", "unchanged", "mend")
)
FINE = PeerResult("web2", "in-sync", "", 0)
HELD = PeerResult(
    "web2", "held", "drift", 8, snapshot="b" * 64, message=Message("drift there", "web2", "unchanged", "look")
)


def follow(known: troubles.Troubles, result: PeerResult, now: float = T0) -> tuple[troubles.Troubles, Event | None]:
    return troubles.followed(known, troubles.run_on("web2"), *troubles.of_peer("web1", result, now), now)


def test_what_lasts_is_told_once_also_over_a_restart_and_its_end_is_told() -> None:
    known, news = follow({}, REFUSED)
    assert news is not None
    assert (news.kind, news.word, news.what, news.next) == ("failure", "refused", "no", "mend")
    for again in (REFUSED, replace(REFUSED, code="quarantine")):
        known, news = follow(troubles.troubles_from_json(troubles.troubles_to_json(known), ["web2"]), again, T0 + 60)
        assert news is None
    _, news = follow(known, replace(REFUSED, snapshot="c" * 64), T0 + 90)
    assert news is not None
    assert news.since == T0, "it is refused since the first one"
    known, news = follow(known, FINE, T0 + 120)
    assert news is not None
    assert (news.kind, news.of, news.word, known) == ("recovered", "failure", "in-sync", {})
    assert follow(known, FINE) == ({}, None)


def test_a_hold_is_told_once_whatever_is_edited_meanwhile() -> None:
    known, news = follow({}, HELD)
    assert news is not None
    assert news.kind == "drift"
    assert follow(known, replace(HELD, snapshot="d" * 64))[1] is None
    assert follow(known, replace(HELD, code="generation"))[1] is not None


@pytest.mark.parametrize(
    "result",
    [
        PeerResult("web2", "paused", "paused", 8),
        PeerResult("web2", "held", "locked", 9),
        PeerResult("web2", "held", "soak", 8),
        PeerResult("web2", "unknown", "source-changed", 4),
    ],
)
def test_what_a_person_wanted_is_no_trouble_and_no_end_of_one(result: PeerResult) -> None:
    assert troubles.is_neutral(result)


def test_drift_that_was_healed_is_told_with_the_way_back() -> None:
    entry: Any = None
    changes = tuple(
        Change(path, "content", entry, entry, entry, cause) for path, cause in (("a", "drift"), ("b", "pending"))
    )
    healed = troubles.of_drift("web1", PeerResult("web2", "applied", changes=changes, run="7-ab"), T0)
    assert healed is not None
    assert (healed[0].kind, healed[0].word) == ("drift", "healed")
    assert "ngxsync rollback 7-ab" in healed[0].next
    assert troubles.of_drift("web1", PeerResult("web2", "applied", changes=changes[1:]), T0) is None


def test_a_look_tells_what_no_run_tells() -> None:
    down = Look(T0, reasons=(Reason("nginx-down", "nginx does not run", "web2", "start it"),))
    found, _ = troubles.of_look("web1", "web2", down, T0)
    assert found is not None
    assert (found.word, found.where, found.next) == ("nginx-down", "web2", "start it")
    assert troubles.of_look("web1", "web2", Look(T0, reasons=(Reason("unreachable", "x"),)), T0) == (None, "")


def test_a_run_that_ends_here() -> None:
    result = RunResult(
        "1", "change", outcome="refused", code="master-invalid", exit=3, message=Message("nginx on web1 says no")
    )
    event, _ = troubles.of_host("web1", result, T0)
    assert (event.peer, event.word, event.exit) == ("", "refused", 3)


@given(st.lists(st.floats(-2e5, 2e5), max_size=30))
def test_reminders_come_once_in_their_time(steps: list[float]) -> None:
    known, _ = follow({}, REFUSED)
    now, last = T0, T0
    for step in steps:
        now += step
        known, events = troubles.reminders(known, 86400.0, now)
        assert len(events) == int(now - last >= 86400.0)
        if events or now < last:
            last = now
            assert all(event.again for event in events)
    assert troubles.reminders(known, None, now + 1e6) == (known, ())


# check

USER = MailConfig(("a@b",), smtp_host="mail.example.org", user="u", password_file=Path("/p"))


@pytest.mark.parametrize(
    ("mail", "problem", "state", "needed"),
    [
        (MailConfig(("a@b",)), None, "OK", "localhost:587"),
        (USER, None, "OK", "starttls"),
        (USER, Message("others can read it", "/p", "", "chmod 600 /p"), "FAILED", "/p: others can read it"),
        (replace(USER, security="none"), None, "WARNING", "clear text"),
        (replace(USER, security="none", smtp_host="127.0.0.1"), None, "OK", "none"),
        (replace(USER, password_file=None), None, "FAILED", "no password"),
    ],
)
def test_check_names_what_keeps_mail_from_going(mail: MailConfig, problem: Message, state: str, needed: str) -> None:
    (check,) = judge_mail("web1", mail, problem)
    assert (check.host, check.name, check.state) == ("web1", "mail", state)
    assert needed in check.what
    assert check.hint or state == "OK"
    assert list(judge_mail("web1", MailConfig(), problem)) == []


# the text

RECORD = PeerRecord(
    "web2", word="unreachable", since=T0, look=Look(T0, reasons=(Reason("nginx-down", "nginx does not run", "web2"),))
)


OTHER = (
    "web2: unreachable since 2023-11-14 22:13:20 as this host last saw it; "
    "ready: no, looked 1m00s ago: web2: nginx does not run [nginx-down] (ngxsync ready)"
)


def letter(*events: Event, **more: Any) -> tuple[str, str]:
    scene = Scene(
        "web1", "192.0.2.1", T0 + 60, ("192.0.2.100",), ("192.0.2.1", "192.0.2.100"), (RECORD,), tz=UTC, **more
    )
    written = write_letter(events, scene)
    return written.subject, written.body


def test_a_role_change_in_full() -> None:
    subject, body = letter(role(before="backup", instance="VI_1", vips=("192.0.2.100",)))
    assert subject == "2023-11-14 22:13:20 192.0.2.1 change to master"
    assert body.replace(OTHER, "{OTHER}") == (
        """\
2023-11-14 22:13:20 192.0.2.1 change to master

web1 holds the VIP now: visitors get what it serves.
  host:  web1 (192.0.2.1)
  role:  master since 2023-11-14 22:13:20, before it was backup
  VIP:   192.0.2.100 (here now)
  VRRP:  instance VI_1
  other: {OTHER}
  next:  ngxsync status
         ngxsync ready

-- """  # the mark of a signature has its space
        "\nngxsync on web1; ngxsync status shows what is true now\n"
    )


@pytest.mark.parametrize("code", ["drift", "generation", "first-contact", "vip", "standby"])
def test_a_master_that_returned_is_told_each_command(code: str) -> None:
    subject, body = letter(
        failure(word="held", code=code, what="web2 wrote there last", state="web2 unchanged", next="look")
    )
    assert subject.startswith(f"web1 -> web2: held ({code}): web2 wrote")
    for needed in ("ngxsync diff", "ngxsync pull", "before you decide", "web2 unchanged"):
        assert needed in body
    assert (f"ngxsync sync --force {code}" in body) == (code not in ("vip", "standby"))


def test_of_several_peers_a_command_names_the_one_that_is_meant() -> None:
    peers = (PeerRecord("web2"), PeerRecord("web3"))
    events = [failure(word="held", code="drift"), failure(word="held", code="first-contact")]
    body = write_letter(events, Scene("web1", "", T0, peers=peers)).body
    for command in ("diff", "pull", "pull --take peer", "sync --force drift", "sync --force first-contact"):
        verb, _, options = command.partition(" ")
        assert f"    ngxsync {verb} --peer web2 {options}".rstrip() in body, body


def test_what_goes_on_is_in_each_mail_once() -> None:
    lasting = failure(1, what="refused long ago", code="refused")
    _, body = letter(role(), lasting=(lasting,))
    assert "This goes on, as told before:" in body
    assert "refused long ago" in body
    assert "This goes on" not in letter(lasting, lasting=(lasting,))[1]


def test_a_host_on_standby_says_nothing_of_the_other_that_it_does_not_know() -> None:
    written = write_letter([role()], Scene("web1", "", T0, peers=(PeerRecord("web2", word="standby", since=T0),)))
    assert "web2: it is not looked at while this host stands by" in written.body


def test_many_events_have_a_line_each() -> None:
    subject, body = letter(*(failure(number, what=f"number {number}.") for number in range(60)))
    assert subject.endswith("(and 59 more)")
    assert all(f"number {number}." in body for number in range(60))
    assert len(body.splitlines()) < 130


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_subject_is_one_printable_line(text: str, other: str) -> None:
    for event in (failure(what=text, host=other, peer=text, code=other), role(role=text, host=other)):
        subject, body = letter(event)
        assert subject.isprintable()
        assert len(subject) <= 160
        assert all(char.isprintable() or char == "\n" for char in body)


@pytest.mark.parametrize(
    ("host", "interface", "expected"),
    [
        ("192.0.2.7", "", "192.0.2.7"),
        ("web1", "eth1", "198.51.100.1"),
        ("web1", "", "192.0.2.1"),
        ("", "", "192.0.2.1"),
    ],
)
def test_the_address_that_a_host_is_named_by(host: str, interface: str, expected: str) -> None:
    carried = [
        ("eth0", "fe80::1"),
        ("eth0", "192.0.2.100"),
        ("eth0", "2001:db8::1"),
        ("eth0", "192.0.2.1"),
        ("eth1", "198.51.100.1"),
    ]
    assert address_of(host, interface, ["192.0.2.100"], carried) == expected
    assert address_of("web1", "", [], []) == ""

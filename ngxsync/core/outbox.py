"""What waits to be told: when one mail gathers it, how many mails go in a row, what happens where none can go. Pure.

Times are seconds since the epoch, from a clock that may be set back or forward at any time: nothing then waits longer than
it could have anyway.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ngxsync.core.errors import Message
from ngxsync.core.events import RECOVERED, ROLE, Event, event_from_json, kept_json
from ngxsync.core.model import NGINX_DOWN, STALE_RUNNING, UNKNOWN, UNREACHABLE
from ngxsync.core.troubles import NOT_READY
from ngxsync.core.wording import human_duration, one_line, render_moment

# a mail goes when it was quiet for so long, after the first event's longest wait in any case
QUIET_S, LONGEST_S = 2.0, 10.0
# what often ends by itself (a restart of sshd, an edit that is not reloaded yet) has so long to do it; then nobody is told
# of both. SHORT_S: it goes along with any mail that is sent before
SHORT_S, LONG_S = 20.0, 600.0
PATIENCE_S = {UNREACHABLE: SHORT_S, UNKNOWN: SHORT_S, NGINX_DOWN: SHORT_S, STALE_RUNNING: LONG_S, NOT_READY: LONG_S}
IN_VRRP = ("vip", "keepalived", "fault")  # why a host is not ready, and that cannot wait so long
# so many mails may follow one another at once, then one each
BURST, EVERY_S = 5, 180.0
# between two tries where the mail server does not take it
RETRY_FROM_S, RETRY_TO_S = 5.0, 300.0
MOST, OLDEST_S = 200, 3 * 86400.0
LEAST_TRIES = 100  # before anything counts as old: else a clock that is set right after boot makes it so


@dataclass(frozen=True)
class Waiting:
    event: Event
    taken: float


@dataclass(frozen=True)
class Owed:
    """A mail that the server took for others, and for these `addresses` wants to take later."""

    addresses: tuple[str, ...]
    events: tuple[Event, ...]
    since: float
    at: float
    tries: int = 0


@dataclass(frozen=True)
class Outbox:
    """`waiting` is for the next mail, `uncalled` for the command of `on_event`; `seen` are the names taken last.

    `credit` is when the right to a mail at once is whole again. `tries` in a row have failed since `failing_since`, the last
    for the reason `failure`. `trying` since: a mail was being sent, and nobody noted how that ended; `is_unsure`: the server
    may have one of them. `dropped` events were too many or too old. `refused` is whom the latest mail was not taken for.
    """

    waiting: tuple[Waiting, ...] = ()
    uncalled: tuple[Event, ...] = ()
    seen: tuple[str, ...] = ()
    credit: float = 0.0
    tries: int = 0
    retry_at: float = 0.0
    failing_since: float = 0.0
    failure: str = ""
    trying: float = 0.0
    dropped: int = 0
    sent_at: float = 0.0
    is_unsure: bool = False
    refused: tuple[str, ...] = ()
    owed: Owed | None = None


def taken(outbox: Outbox, events: Iterable[Event], now: float, *, mailed: Collection[str], called: bool) -> Outbox:
    """The outbox with these events: those whose names are in `mailed` for the next mail, all for the command, if there is one.

    What has ended before anybody was told of it is taken out with its end.
    """
    found = tuple(events)
    new = [event for event in found if event.name not in outbox.seen]
    waiting = list(outbox.waiting)
    for event in new:
        if event.name not in mailed:
            continue
        ended = [each.event for each in waiting if _ends(event, each.event)]
        waiting = [each for each in waiting if each.event not in ended]
        # what was news only of something that had lasted long before: people were told of that
        if not ended or any(is_due(each, each.at) for each in ended):
            waiting.append(Waiting(event, now))
    calls = (*outbox.uncalled, *(event for event in new if called))
    seen = tuple(event.name for event in found) or outbox.seen  # what cannot be removed yet is met again
    dropped = outbox.dropped + sum(event.lost for event in new)
    return _bounded(replace(outbox, waiting=tuple(waiting), uncalled=calls[-MOST:], seen=seen, dropped=dropped))


def _ends(event: Event, other: Event) -> bool:
    return (
        event.kind == RECOVERED
        and patience_s(other) > 0
        and (event.host, event.peer, event.of, event.since) == (other.host, other.peer, other.kind, other.since)
    )


def patience_s(event: Event) -> float:
    """How long it may wait for its end."""
    if event.kind in (ROLE, RECOVERED) or event.again:
        return 0.0
    return SHORT_S if event.code in IN_VRRP else PATIENCE_S.get(event.word, 0.0)


def is_due(event: Event, now: float) -> bool:
    """Whether it has lasted long enough to be told of."""
    return now - (event.since or event.at) >= patience_s(event)


def reminded(outbox: Outbox, events: Iterable[Event], now: float) -> Outbox:
    """With what people are told again; nothing twice in one mail."""
    known = {(event.peer, event.word, event.code) for event in (each.event for each in outbox.waiting)}
    new = (event for event in events if (event.peer, event.word, event.code) not in known)
    return _bounded(replace(outbox, waiting=(*outbox.waiting, *(Waiting(event, now) for event in new))))


def _bounded(outbox: Outbox) -> Outbox:
    over = len(outbox.waiting) - MOST
    return outbox if over <= 0 else replace(outbox, waiting=outbox.waiting[over:], dropped=outbox.dropped + over)


def at(outbox: Outbox, now: float) -> Outbox:
    """At this time: without what is too old to be news, and with no time further ahead than a clock that was never set
    could have put it."""
    oldest = now - OLDEST_S if outbox.tries >= LEAST_TRIES else -math.inf
    waiting = tuple(Waiting(each.event, min(each.taken, now)) for each in outbox.waiting if each.taken > oldest)
    dropped = outbox.dropped + len(outbox.waiting) - len(waiting)
    credit, retry_at = min(outbox.credit, now + BURST * EVERY_S), min(outbox.retry_at, now + RETRY_TO_S)
    return replace(outbox, waiting=waiting, dropped=dropped, credit=credit, retry_at=retry_at)


def unaddressed(outbox: Outbox) -> Outbox:
    """Nobody is told by mail (any more): nothing waits."""
    return Outbox(uncalled=outbox.uncalled, seen=outbox.seen)


def due_at(outbox: Outbox, now: float) -> float | None:
    """When the next mail goes, None where nothing waits for one."""
    owed = [min(outbox.owed.at, now + RETRY_TO_S)] if outbox.owed else []
    if not outbox.waiting:
        return next(iter(owed), None)
    outbox = at(outbox, now)
    at_once = [each.taken for each in outbox.waiting if not patience_s(each.event)]
    ends = [each.taken + patience_s(each.event) for each in outbox.waiting if patience_s(each.event)]
    if at_once:
        ends.append(min(max(at_once) + QUIET_S, min(at_once) + LONGEST_S))
    quiet = min(ends, default=now)
    limit = outbox.credit - (BURST - 1) * EVERY_S
    return min([max(quiet, limit, outbox.retry_at if outbox.tries else 0.0), *owed])


def batch(outbox: Outbox, now: float) -> tuple[Event, ...]:
    """What the next mail tells: what may wait longer does, unless a host's role has changed, when all is worth knowing."""
    is_urgent = any(each.event.kind == ROLE for each in outbox.waiting)
    return tuple(
        each.event
        for each in outbox.waiting
        if is_urgent or patience_s(each.event) <= SHORT_S or each.taken + LONG_S <= now
    )


def has_urgent(outbox: Outbox) -> bool:
    return any(not patience_s(each.event) for each in outbox.waiting)


def begun(outbox: Outbox, now: float) -> Outbox:
    """A mail is about to be sent; noted before, so that who is interrupted knows."""
    return replace(outbox, trying=now, is_unsure=is_unsure(outbox))


def is_unsure(outbox: Outbox) -> bool:
    """Whether people may have had the next mail already."""
    return outbox.is_unsure or outbox.trying > 0


def sent(outbox: Outbox, events: Collection[Event], now: float, refused: tuple[str, ...] = ()) -> Outbox:
    """After a mail with these events; `refused` says whom it was not taken for, and why."""
    credit = max(now, at(outbox, now).credit) + EVERY_S
    left = tuple(each for each in outbox.waiting if each.event not in events)
    kept = Outbox(left, outbox.uncalled, outbox.seen, credit=credit, sent_at=now)
    return replace(kept, refused=refused, owed=outbox.owed)


def failed(outbox: Outbox, why: str, now: float, *, unanswered: bool = False) -> Outbox:
    """After a mail that did not go; `unanswered`: perhaps it did."""
    since = outbox.failing_since if outbox.tries else now
    tried = replace(outbox, tries=outbox.tries + 1, retry_at=now + _wait_s(outbox.tries), failing_since=since)
    return replace(tried, failure=why, trying=0.0, is_unsure=outbox.is_unsure or unanswered)


def _wait_s(tries: int) -> float:
    return min(RETRY_TO_S, RETRY_FROM_S * 2.0 ** min(tries, 20))


def owing(outbox: Outbox, addresses: tuple[str, ...], events: Iterable[Event], now: float) -> Outbox:
    """The server took a mail with these events, and for these addresses not yet."""
    if not addresses:
        return outbox
    known = outbox.owed or Owed((), (), now, now + RETRY_FROM_S)
    merged = tuple(dict.fromkeys((*known.addresses, *addresses)))
    return replace(outbox, owed=replace(known, addresses=merged, events=(*known.events, *events)[-MOST:]))


def owed_again(outbox: Outbox, addresses: tuple[str, ...], now: float, refused: tuple[str, ...] = ()) -> Outbox:
    """After a try for whom it was owed: `addresses` are still to be waited for."""
    owed = outbox.owed
    outbox = replace(outbox, refused=(*outbox.refused, *refused))
    if owed is None or not addresses:
        return replace(outbox, owed=None)
    if owed.tries >= LEAST_TRIES and now - owed.since > OLDEST_S:
        return replace(outbox, owed=None, dropped=outbox.dropped + len(owed.events))
    return replace(
        outbox, owed=replace(owed, addresses=addresses, tries=owed.tries + 1, at=now + _wait_s(owed.tries + 1))
    )


def called(outbox: Outbox, event: Event) -> Outbox:
    """After the command of `on_event` was run for it."""
    return replace(outbox, uncalled=tuple(each for each in outbox.uncalled if each is not event and each != event))


# what `status` says of it


def notes(outbox: Outbox, *, is_addressed: bool, is_called: bool, unread: int, is_tended: bool) -> list[str]:
    """`unread` events lie in the spool; `is_tended`: a daemon runs that looks there."""
    if not is_addressed:
        by_command = ", only the command of `on_event` is run" if is_called else ""
        return [f"nobody is told by mail of failures and role changes{by_command}; set `to` in [mail] of config.ini"]
    found = []
    if outbox.failure:
        since = render_moment(outbox.failing_since)
        tries = f"{outbox.tries} tr{'y' if outbox.tries == 1 else 'ies'} since {since}"
        found.append(
            f"mail cannot be sent ({tries}; {_events(len(outbox.waiting))} waiting): {one_line(outbox.failure)}; "
            "next: ngxsync notify --test"
        )
    left = unread + (0 if outbox.failure else len(outbox.waiting))
    if left and not is_tended:
        found.append(f"{_events(left)} not told yet, since no daemon runs; next: ngxsync notify --flush")
    if outbox.refused:
        found.append(
            f"the mail server takes no mail for {one_line('; '.join(outbox.refused))}; next: correct `to` in [mail]"
        )
    if outbox.owed:
        whom, since = ", ".join(outbox.owed.addresses), render_moment(outbox.owed.since)
        found.append(f"the mail server took no mail for {one_line(whom)} yet, since {since}; it is tried again")
    if outbox.dropped:
        found.append(f"{_events(outbox.dropped)} dropped before anybody was told")
    return found


def _events(number: int) -> str:
    return f"{number} event{' is' if number == 1 else 's are'}"


def why(message: Message) -> str:
    """The reason of a failed try, as it is kept."""
    return one_line(f"{message.where}: {message.what}" if message.where else message.what)


def waited(outbox: Outbox, now: float) -> str:
    """How late the oldest event is, "" where that is nothing to speak of."""
    oldest = min((each.taken for each in outbox.waiting), default=now)
    return human_duration(now - oldest) if outbox.tries and now - oldest > 60 else ""


# JSON


def outbox_to_json(outbox: Outbox) -> dict[str, Any]:
    kept = {**vars(outbox), "seen": list(outbox.seen), "schema": 1}
    kept["waiting"] = [{"taken": each.taken, "event": kept_json(each.event)} for each in outbox.waiting]
    kept["uncalled"] = [kept_json(event) for event in outbox.uncalled]
    if outbox.owed:
        kept["owed"] = {**vars(outbox.owed), "events": [kept_json(event) for event in outbox.owed.events]}
    return kept


def outbox_from_json(data: Any) -> Outbox:
    """An empty one where the data is none of ours."""
    try:
        return _read(data)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Outbox()


def _read(data: Mapping[str, Any]) -> Outbox:
    times = {key: float(data[key]) for key in ("credit", "retry_at", "failing_since", "trying", "sent_at")}
    return Outbox(
        waiting=tuple(Waiting(event_from_json(each["event"]), float(each["taken"])) for each in data["waiting"]),
        uncalled=tuple(event_from_json(each) for each in data["uncalled"]),
        seen=tuple(str(name) for name in data["seen"]),
        tries=int(data["tries"]),
        failure=str(data["failure"]),
        dropped=int(data["dropped"]),
        is_unsure=bool(data.get("is_unsure")),  # what an earlier release kept has no word of these three
        refused=tuple(str(each) for each in data.get("refused", ())),
        owed=_read_owed(data.get("owed")),
        **times,
    )


def _read_owed(data: Any) -> Owed | None:
    if data is None:
        return None
    events = tuple(event_from_json(each) for each in data["events"])
    addresses = tuple(str(each) for each in data["addresses"])
    return Owed(addresses, events, float(data["since"]), float(data["at"]), int(data["tries"]))

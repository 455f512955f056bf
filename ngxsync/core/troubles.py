"""What lasts: which result is trouble, whether it is news, and when it has ended. Pure; the daemon keeps it over restarts.

A place is what may be in trouble: a run on a peer, the look at a peer, or this host itself. Each has one trouble at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ngxsync.core import model
from ngxsync.core.errors import Message
from ngxsync.core.events import DRIFT, FAILURE, RECOVERED, Event, event_from_json, kept_json
from ngxsync.core.following import FOLLOW, SOAK
from ngxsync.core.look import Look
from ngxsync.core.model import PeerResult, RunResult
from ngxsync.core.plan import CONFLICT
from ngxsync.core.plan import DRIFT as DRIFTED
from ngxsync.core.readiness import Reason
from ngxsync.core.render import ADVICE
from ngxsync.core.wording import listed

HERE = "here"
# what a person wants, or what time mends soon: no trouble, and no end of one
NEUTRAL_WORDS = (model.PAUSED, model.PENDING)
NEUTRAL_CODES = (FOLLOW, SOAK, "locked", "paused", "interrupted", "source-changed", "superseded")
# reasons of a look that the runs tell themselves, or that the next run mends
TOLD_BY_RUNS = (
    "unreachable",
    "pending",
    "drift",
    "conflict",
    "first-contact",
    "generation",
    "journal",
    "not-proven",
    "broken",
    "rolled-back",
    "standby",
)
WORDS_OF_LOOKS = {"nginx-down": model.NGINX_DOWN, "stale-running": model.STALE_RUNNING}
NOT_READY, HEALED = "not-ready", "healed"


@dataclass(frozen=True)
class Trouble:
    """`topic` tells it from another of the same place; `told_at` is when people were last told."""

    topic: str
    event: Event
    told_at: float


Troubles = Mapping[str, Trouble]


def run_on(peer: str) -> str:
    return f"run {peer}"


def look_at(peer: str) -> str:
    return f"look {peer}"


def healed_on(peer: str) -> str:
    return f"healed {peer}"


def followed(
    troubles: Troubles, place: str, found: Event | None, topic: str, now: float
) -> tuple[Troubles, Event | None]:
    """What lasts after this finding (None: all is well there), and the event where it is news."""
    known = troubles.get(place)
    if found is None:
        return without(troubles, place), None if known is None else recovered(known.event, now)
    if known is not None and known.topic == topic:
        return troubles, None
    is_same_word = known is not None and known.event.word == found.word
    news = replace(found, since=known.event.since if known is not None and is_same_word else now)
    return {**troubles, place: Trouble(topic, news, now)}, news


def without(troubles: Troubles, *places: str) -> Troubles:
    gone = [place for place in places if place in troubles]
    return {place: trouble for place, trouble in troubles.items() if place not in gone} if gone else troubles


def recovered(event: Event, now: float) -> Event:
    """What failed is well again."""
    word = model.IN_SYNC if event.peer else "well"
    what = f"{state_text(event)} has ended: {event.what}"
    ended = replace(event, kind=RECOVERED, of=event.kind, at=now, name="", word=word, what=what)
    return replace(ended, code="", exit=0, where="", state="", next="")


def state_text(event: Event) -> str:
    """The word and its code, as people read them."""
    word = "failed" if event.word == model.UNKNOWN else event.word
    return f"{word} ({event.code})" if event.code and event.code != event.word else word


def lasting(troubles: Troubles) -> tuple[Event, ...]:
    """What was told and goes on: not what was put right at once."""
    return tuple(trouble.event for place, trouble in troubles.items() if not _is_healed(place))


def _is_healed(place: str) -> bool:
    return place.startswith("healed ")


def reminders(troubles: Troubles, every_s: float | None, now: float) -> tuple[Troubles, tuple[Event, ...]]:
    """What people are told again, and the troubles with that noted. A clock that was set back delays it once, no more."""
    if every_s is None:
        return troubles, ()
    due = {
        place: trouble
        for place, trouble in troubles.items()
        if not _is_healed(place) and not 0 <= now - trouble.told_at < every_s
    }
    told = {place: replace(trouble, told_at=now) for place, trouble in due.items()}
    events = tuple(replace(trouble.event, at=now, again=True) for trouble in due.values() if trouble.told_at <= now)
    return ({**troubles, **told} if due else troubles), events


# what results say


def is_neutral(result: PeerResult | RunResult) -> bool:
    return result.outcome in NEUTRAL_WORDS or result.code in NEUTRAL_CODES or result.exit == 9


def of_peer(host: str, result: PeerResult, now: float) -> tuple[Event | None, str]:
    """(the trouble that this result is or None, its topic)."""
    if result.exit == 0 or result.outcome in (model.APPLIED, model.IN_SYNC):
        return None, ""
    word, code = result.outcome, result.code
    # of a refusal each snapshot is told once; one that is only remembered has another code
    verdict = word in (model.REFUSED, model.UNDONE)
    topic = _topic(word, "" if verdict or word == model.BROKEN else code, result.exit, result.snapshot * verdict)
    message = result.message or Message(f"a run ended as {word}", result.name)
    problem = next((str(problem) for problem in result.problems if problem.level == "error"), "")
    kind = DRIFT if code in ("drift", "conflict") else FAILURE
    return _event(kind, host, result.name, now, word, code, result.exit, result.run, message, problem), topic


def of_host(host: str, result: RunResult, now: float) -> tuple[Event, str]:
    """A run that ended on this host, before any peer was asked."""
    message = result.message or Message(f"a run ended as {result.outcome}")
    word = model.UNKNOWN if result.outcome == model.IN_SYNC else result.outcome  # it could not even be recorded
    problem = next((str(problem) for problem in result.problems if problem.level == "error"), "")
    event = _event(FAILURE, host, "", now, word, result.code, result.exit, result.run, message, problem)
    return event, _topic(word, result.code, result.exit, problem or message.what)


def of_look(host: str, peer: str, look: Look, now: float) -> tuple[Event | None, str]:
    """What a look found that no run tells: None where the peer is ready, or a run says why it is not."""
    reasons = [reason for reason in look.reasons if reason.code not in TOLD_BY_RUNS]
    stands_by = any(reason.code == model.STANDBY for reason in look.reasons)  # then it is the other's business
    if not reasons or stands_by:
        return None, ""
    first = reasons[0]
    word = WORDS_OF_LOOKS.get(first.code, NOT_READY)
    more = f"; also: {'; '.join(_reason_text(reason) for reason in reasons[1:4])}" if len(reasons) > 1 else ""
    state = (
        f"{peer} would not serve the same if the VIP moved to it now"
        if first.where != host
        else f"{host} itself is not well"
    )
    message = Message(first.what + more, first.where, state, first.next or "ngxsync ready")
    event = _event(FAILURE, host, peer, now, word, first.code, 1, "", message, "")
    return event, _topic(*sorted({reason.code for reason in reasons}))


def _reason_text(reason: Reason) -> str:
    return f"{reason.where + ': ' if reason.where else ''}{reason.what}"


def of_drift(host: str, result: PeerResult, now: float) -> tuple[Event, str] | None:
    """Edits that were made on a peer, and were made as here by this run; None where there were none."""
    paths = [change.path for change in result.changes if change.cause in (DRIFTED, CONFLICT)]
    if result.outcome != model.APPLIED or not paths:
        return None
    number = f"{len(paths)} path{'s' if len(paths) > 1 else ''}"
    what = f"{number} edited on {result.name}, now as on {host} again: {listed(paths)}"
    hint = (
        f"ngxsync history {result.run} shows it; ngxsync rollback {result.run} --path PATH --peer {result.name} brings back"
        " what was there"
    )
    message = Message(what, result.name, "what was there is kept", hint)
    event = _event(DRIFT, host, result.name, now, HEALED, "drift", 0, result.run, message, "")
    return event, _topic(*paths, now // 86400)  # what edits it again and again is told once a day


def _event(
    kind: str, host: str, peer: str, now: float, word: str, code: str, exit: int, run: str, message: Message, more: str
) -> Event:
    what = message.what if not more or more in message.what else f"{message.what}: {more}"
    hint = message.next or ADVICE.get(word, ADVICE["unknown"])
    event = Event(kind, host, now, peer=peer, word=word, code=code, exit=exit, run=run, since=now)
    return replace(event, what=what, where=message.where, state=message.state, next=hint)


def _topic(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


# JSON


def troubles_to_json(troubles: Troubles) -> dict[str, Any]:
    kept = {
        place: {"topic": trouble.topic, "told_at": trouble.told_at, "event": kept_json(trouble.event)}
        for place, trouble in troubles.items()
    }
    return {"schema": 1, "open": kept}


def troubles_from_json(data: Any, peers: Collection[str]) -> Troubles:
    """What lasts on this host and on those of `peers`. Damaged, it is told anew: {} then."""
    try:
        found = {
            str(place): Trouble(str(each["topic"]), event_from_json(each["event"]), float(each["told_at"]))
            for place, each in data["open"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    places = {HERE, *(place(peer) for peer in peers for place in (run_on, look_at, healed_on))}
    return {place: trouble for place, trouble in found.items() if place in places}

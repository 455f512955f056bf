"""What people and programs are told of, as values and as JSON: an event as it lies in the spool, and who wants which."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

SCHEMA = 1
ROLE, FAILURE, DRIFT, RECOVERED = "role", "failure", "drift", "recovered"
EVENT_KINDS = (ROLE, FAILURE, DRIFT, RECOVERED)
# words of `on` in [mail]
WANTED_AS = {ROLE: "roles", FAILURE: "failures", DRIFT: "drift"}
LONGEST = 2000  # characters of one part: what nginx or a peer says may go on for ever
MOST_VIPS = 50
LATEST_S = 1e11  # a time that is a time

ROLE_KEYS = ("role", "before", "vips", "instance")
OTHER_KEYS = ("peer", "word", "code", "exit", "run", "what", "where", "state", "next", "since", "of", "again")


@dataclass(frozen=True)
class Event:
    """`name` is that of its file, and tells it from every other; `at` and `since` are seconds since the epoch.

    A role has `role`, `before`, `vips`, `instance`; the others the rest: `peer` is "" for this host itself, `word` a status
    word, `what` to `next` the four parts of a message, `of` the kind that a recovered one ends. `again`: it is a reminder.
    `lost` is how many older ones a full spool had no room for.
    """

    kind: str
    host: str
    at: float
    name: str = ""
    role: str = ""
    before: str = ""
    vips: tuple[str, ...] = ()
    instance: str = ""
    peer: str = ""
    word: str = ""
    code: str = ""
    exit: int = 0
    run: str = ""
    what: str = ""
    where: str = ""
    state: str = ""
    next: str = ""
    since: float = 0.0
    of: str = ""
    again: bool = False
    lost: int = 0


TEXTS = tuple(each.name for each in fields(Event) if each.type == "str" and each.name != "name")


def event_from_json(data: Any, name: str = "") -> Event:
    """Raises ValueError, KeyError, TypeError or AttributeError where the data is none of ours.

    Parts that are too long are cut. Fields of a later release are left out.
    """
    if data["kind"] not in EVENT_KINDS:
        raise ValueError("no kind of event")
    texts = {key: data.get(key, "") for key in TEXTS}
    vips = data.get("vips", ())
    if not all(type(text) is str for text in (*texts.values(), *vips)):
        raise ValueError("a text that is none")
    return Event(
        **{key: text[:LONGEST] for key, text in texts.items()},
        name=name or str(data.get("name", ""))[:LONGEST],
        at=_moment(data["at"]),
        since=_moment(data.get("since", 0.0)),
        vips=tuple(vip[:LONGEST] for vip in vips[:MOST_VIPS]),
        exit=_exit(data.get("exit", 0)),
        again=bool(data.get("again", False)),
        lost=_count(data.get("lost", 0)),
    )


def _moment(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < LATEST_S:
        raise ValueError("a time that is none")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < LATEST_S:
        raise ValueError("a number that is none")
    return value


def _exit(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 256:
        raise ValueError("an exit status that is none")
    return value


def event_to_json(event: Event) -> dict[str, Any]:
    """As it is left in the spool, and given to the command of `on_event`."""
    keys = ROLE_KEYS if event.kind == ROLE else OTHER_KEYS
    values = {key: getattr(event, key) for key in keys}
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {"schema": SCHEMA, "kind": event.kind, "at": event.at, "host": event.host, **values}


def kept_json(event: Event) -> Mapping[str, Any]:
    """As we keep it ourselves: with its name."""
    return {**event_to_json(event), "name": event.name}


def is_wanted(event: Event, on: Collection[str]) -> bool:
    """Whether `on` of [mail] names it; the end of something is wanted by whom its beginning was told."""
    kind = event.of if event.kind == RECOVERED else event.kind
    return WANTED_AS.get(kind, "failures") in on

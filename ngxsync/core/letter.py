"""The text of a mail: what a person needs at night, in plain sentences. Pure; what comes from disks and peers is neutralised."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import tzinfo
from ipaddress import ip_address

from ngxsync.core.events import RECOVERED, ROLE, Event
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import STANDBY
from ngxsync.core.troubles import HEALED, state_text
from ngxsync.core.verdict import status_text
from ngxsync.core.wording import human_duration, one_line, render_moment, safe_text

SUBJECT = 160  # characters
IN_FULL = 10  # events; of the others a line each
INDENT = " " * 9
# a host that held the VIP returns, and finds that the other one has served and may have been edited meanwhile
RETURNED = ("drift", "conflict", "generation", "first-contact", "vip", "standby")
UNFORCED = ("vip", "standby")
UNAGREED = ("generation", "first-contact")  # no common state: pull wants to hear whose it shall be

ROLES = {
    "master": "{host} holds the VIP now: visitors get what it serves.",
    "backup": "{host} does not hold the VIP: it stands by.",
    "fault": "keepalived on {host} is in fault (its interface, or its check of nginx): it cannot take the VIP.",
    "stop": "keepalived on {host} was stopped: it cannot take the VIP.",
}
COMMANDS_OF_ROLES = {
    "master": ("ngxsync status", "ngxsync ready"),
    "backup": ("ngxsync status",),
    "fault": ("journalctl -u keepalived", "ngxsync-agent status"),
    "stop": ("systemctl start keepalived", "ngxsync-agent status"),
}


@dataclass(frozen=True)
class Scene:
    """What is known on this host beside the events.

    `carried` are all its addresses now, `lasting` is trouble that was told before and goes on, `late` is how long the oldest
    event has waited for the mail server; `is_interrupted`: these may have been sent already.
    """

    host: str
    address: str
    now: float
    vips: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    peers: tuple[PeerRecord, ...] = ()
    lasting: tuple[Event, ...] = ()
    dropped: int = 0
    late: str = ""
    is_interrupted: bool = False
    tz: tzinfo | None = None


@dataclass(frozen=True)
class Letter:
    """`subject` is one line; `body` lines end with a newline."""

    subject: str
    body: str


def write_letter(events: Sequence[Event], scene: Scene) -> Letter:
    """Of at least one event: role changes first, then the others in the order in which they came."""
    ordered = [*(e for e in events if e.kind == ROLE), *(e for e in events if e.kind != ROLE)]
    leading = next((event for event in reversed(events) if event.kind == ROLE), ordered[0])
    more = f" (and {len(events) - 1} more)" if len(events) > 1 else ""
    subject = headline(leading, scene)[: SUBJECT - len(more)] + more
    parts = ["\n".join(_paragraph(event, scene)) for event in ordered[:IN_FULL]]
    if len(ordered) > IN_FULL:
        lines = [f"  {render_moment(event.at, scene.tz)} {summary(event)}" for event in ordered[IN_FULL:]]
        parts.append("\n".join([f"And {len(lines)} more:", *lines]))
    parts += _rest(events, scene)
    return Letter(subject, "\n\n".join(parts) + "\n")


def headline(event: Event, scene: Scene) -> str:
    """A role change in the words that the administrators of such pairs know: DATE IP change to master."""
    if event.kind == ROLE:
        moment = render_moment(event.at, scene.tz)
        return one_line(f"{moment} {scene.address or event.host} change to {event.role}")
    return summary(event)


def summary(event: Event) -> str:
    """One line for any event."""
    if event.kind == ROLE:
        return one_line(f"{event.host}: change to {event.role}")
    return one_line(f"{_who(event)}: {_state(event)}: {event.what}")


def _who(event: Event) -> str:
    return f"{event.host} -> {event.peer}" if event.peer else event.host


def _paragraph(event: Event, scene: Scene) -> Iterator[str]:
    if event.kind == ROLE:
        yield from _role(event, scene)
        return
    yield f"{one_line(_who(event))}: {one_line(_state(event))}"
    yield _line("when", _when(event, scene))
    yield _line("what", event.what)
    for label, text in (("where", event.where), ("now", event.state)):
        if text:
            yield _line(label, text)
    if event.kind != RECOVERED:
        yield from _next(event, scene)


def _state(event: Event) -> str:
    if event.kind == RECOVERED:
        return f"{event.word} again"
    return f"still {state_text(event)}" if event.again else state_text(event)


def _when(event: Event, scene: Scene) -> str:
    since = event.since or event.at
    if event.kind == RECOVERED:
        return f"{render_moment(event.at, scene.tz)}, after {human_duration(max(0.0, event.at - since))}"
    if event.at - since < 1:
        return render_moment(event.at, scene.tz)
    return f"since {render_moment(since, scene.tz)}, for {human_duration(max(0.0, scene.now - since))}"


def _line(label: str, text: str) -> str:
    return f"  {label + ':' if label else '':<7}{safe_text(text, INDENT)}"


def _next(event: Event, scene: Scene) -> Iterator[str]:
    """The step of the message; of a host that returned also each command, as there is more than one way."""
    is_returned = event.code in RETURNED and event.word != HEALED
    if event.next and (not is_returned or event.code in UNFORCED):
        yield _line("next", event.next)
    if not is_returned:
        return
    peer = one_line(event.peer) or "the other host"
    yield "  next:  nothing is overwritten before you decide:"
    one = f" --peer {peer}" if event.peer and len(scene.peers) > 1 else ""
    yield f"    {'ngxsync diff' + one:<29} what differs, and what it means for nginx"
    pull = f"ngxsync pull{one}" + (" --take peer" if event.code in UNAGREED else "")
    yield f"    {pull:<29} takes what was edited on {peer} to this host"
    if event.code in UNFORCED:
        yield f"    {'ngxsync sync' + one:<29} on the host that holds the VIP: makes the other one like it"
    else:
        sync = f"ngxsync sync{one} --force {one_line(event.code)}"
        yield f"    {sync:<29} makes {peer} like this host; what it replaces is kept"


def _role(event: Event, scene: Scene) -> Iterator[str]:
    yield headline(event, scene)
    yield ""
    yield one_line(ROLES.get(event.role, "{host} is {role} now.").format(host=event.host, role=event.role))
    before = f", before it was {event.before}" if event.before else ""
    yield _line("host", one_line(f"{event.host} ({scene.address})" if scene.address else event.host))
    yield _line("role", one_line(f"{event.role} since {render_moment(event.at, scene.tz)}{before}"))
    vips = event.vips or scene.vips
    if vips:
        here = {True: "here now", False: "not here now"}
        yield _line("VIP", one_line(", ".join(f"{vip} ({here[vip in scene.carried]})" for vip in vips)))
    if event.instance:
        yield _line("VRRP", one_line(f"instance {event.instance}"))
    for record in scene.peers:
        yield _line("other", _other(record, scene))
    for index, command in enumerate(COMMANDS_OF_ROLES.get(event.role, ("ngxsync status",))):
        yield _line("" if index else "next", command)


def _other(record: PeerRecord, scene: Scene) -> str:
    """The other host, as it is remembered here: nobody asks it while a mail is written."""
    since = f" since {render_moment(record.since, scene.tz)}" if record.since is not None else ""
    seen = f"{record.word}{since} as this host last saw it"
    if record.word == STANDBY:  # that is about this host: it asks nobody then
        return one_line(f"{record.name}: it is not looked at while this host stands by")
    look = record.look
    if look is None:
        ready = "whether it is ready is not known here: ngxsync ready"
    else:
        ready = f"ready: {status_text(look, scene.now)}"
    return one_line(f"{record.name}: {seen}; {ready}")


def _rest(events: Sequence[Event], scene: Scene) -> Iterator[str]:
    told = {(event.peer, event.word, event.code) for event in events}
    lasting = [event for event in scene.lasting if (event.peer, event.word, event.code) not in told]
    if lasting:
        lines = [f"  since {render_moment(event.since or event.at, scene.tz)} {summary(event)}" for event in lasting]
        yield "\n".join(["This goes on, as told before:", *lines])
    if scene.late:
        yield f"This mail is late: for {scene.late} the mail server did not take it."
    if scene.dropped:
        number = f"{scene.dropped} event{'s were' if scene.dropped > 1 else ' was'}"
        yield f"{number} dropped meanwhile, too many or too old; on this host: ngxsync history"
    if scene.is_interrupted:
        yield "Sending these was interrupted once: you may have had them already."
    yield f"-- \nngxsync on {one_line(scene.host)}; ngxsync status shows what is true now"


def trial_letter(scene: Scene) -> Letter:
    """What `notify --test` sends."""
    moment = render_moment(scene.now, scene.tz)
    subject = one_line(f"{moment} {scene.address or scene.host} test of ngxsync")
    body = f"{subject}\n\nThis is how {one_line(scene.host)} tells of role changes, failures and drift. Nothing has happened.\n"
    return Letter(subject, body)


def address_of(host: str, interface: str, vips: Collection[str], carried: Collection[tuple[str, str]]) -> str:
    """The address to name a host by: that of its own [peer] (`host`, `interface`, "" where it has none), else the first that
    is no VIP, IPv4 before IPv6, link-local ones never. `carried` are (interface, address)."""
    with suppress(ValueError):
        return str(ip_address(host))
    own = [(name, ip_address(address)) for name, address in carried if address not in vips and "%" not in address]
    ranked = sorted((name != interface, address.version) for name, address in own if not address.is_link_local)
    return next((str(a) for n, a in own if not a.is_link_local and (n != interface, a.version) == ranked[0]), "")

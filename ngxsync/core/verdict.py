"""How `ready` says what was found: one line a peer, the Nagios convention, JSON. Pure; times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ngxsync.core.carrying import carrying_text, json_carrying
from ngxsync.core.look import Look
from ngxsync.core.readiness import Reason
from ngxsync.core.wording import human_duration, one_line

SCHEMA = 1
READY, NOT_READY = "ready", "not-ready"
SHOWN = 3  # reasons on a line; --json has all
OK, WARNING, CRITICAL, UNKNOWN = range(4)
WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@dataclass(frozen=True)
class Verdict:
    """One peer, as `host` found it."""

    host: str
    name: str
    look: Look

    @property
    def exit(self) -> int:
        return int(not self.look.is_ready)


def render_verdict(verdict: Verdict, now: float) -> str:
    """web1 -> web2: ready, proven 12s ago, probed 40s ago; below it what both are in VRRP, where a VIP is configured."""
    line = one_line(f"{verdict.host} -> {verdict.name}: {_text(verdict.look, now)}")
    return "\n".join([line, *(f"  {carrying_text(host, now)}" for host in verdict.look.vrrp)])


def _text(look: Look, now: float) -> str:
    if look.is_ready:
        parts = [f"ready, {', '.join(ages(look, now))}"]
        parts += [f"warning: {reason_text(reason)}" for reason in look.warnings[:SHOWN]]
        return "; ".join(parts)
    return f"not ready: {why_not(look)}; {', '.join(ages(look, now))}"


def why_not(look: Look) -> str:
    """The reasons, some of them in words, and what to do about the first."""
    shown = [reason_text(reason) for reason in look.reasons[:SHOWN]]
    if len(look.reasons) > SHOWN:
        shown.append(f"and {len(look.reasons) - SHOWN} more")
    first = next((reason.next for reason in look.reasons if reason.next), "")
    return "; ".join([*shown, *([f"next: {first}"] if first else [])])


def reason_text(reason: Reason) -> str:
    return f"{reason.where + ': ' if reason.where else ''}{reason.what} [{reason.code}]"


def ages(look: Look, now: float) -> list[str]:
    """How old what is said is: since when it is proven, or that it never was, and the probes."""
    proven = (
        "never ready"
        if look.ready_at is None
        else f"{'proven' if look.is_ready else 'last ready'} {_ago(look.ready_at, now)}"
    )
    return [proven, *([f"probed {_ago(look.probed_at, now)}"] if look.probed_at is not None else [])]


def render_change(name: str, before: Look | None, after: Look) -> str:
    """For the log, where the verdict is another than before."""
    if not after.is_ready:
        return f"{name}: not ready to take over: {why_not(after)}"
    return f"{name}: ready to take over" + (
        "" if before is None else f", after {human_duration(after.at - before.since)} of not"
    )


def status_text(look: Look, now: float) -> str:
    """For `status`: the latest verdict, and how old it is."""
    looked = f"looked {_ago(look.at, now)}"
    if look.is_ready:
        return f"yes, {looked}"
    more = f" and {len(look.reasons) - 1} more" if len(look.reasons) > 1 else ""
    return f"no, {looked}: {reason_text(look.reasons[0])}{more} (ngxsync ready)"


def _ago(when: float, now: float) -> str:
    seconds = round(now - when)
    if seconds < 1:
        return "just now"
    return f"{seconds}s ago" if seconds < 60 else f"{human_duration(seconds)} ago"


# Nagios


def nagios_status(verdicts: Sequence[Verdict]) -> int:
    """The plugin convention: CRITICAL where a peer is not ready, WARNING where there is something else to be known."""
    if any(not verdict.look.is_ready for verdict in verdicts):
        return CRITICAL
    return WARNING if any(verdict.look.warnings for verdict in verdicts) else OK


def render_nagios(verdicts: Sequence[Verdict], now: float) -> str:
    """One line, with performance data: ages in seconds."""
    told = "; ".join(f"{verdict.name} {_text(verdict.look, now)}" for verdict in verdicts)
    return nagios_line(nagios_status(verdicts), told, " ".join(_performance(verdict, now) for verdict in verdicts))


def nagios_line(status: int, told: str, performance: str = "") -> str:
    text = one_line(f"{WORDS[status]} - {told}").replace("|", "/")  # what follows a bar is performance data
    return f"{text} | {performance}" if performance else text


def _performance(verdict: Verdict, now: float) -> str:
    look, name = verdict.look, verdict.name.replace("'", "").replace("=", "")
    found = [f"'{name} reasons'={len(look.reasons)}", f"'{name} warnings'={len(look.warnings)}"]
    for label, when in (("proven", look.ready_at), ("probed", look.probed_at)):
        if when is not None:
            found.append(f"'{name} {label}'={max(0, round(now - when))}s")
    return " ".join(found)


# JSON


def json_verdicts(verdicts: Sequence[Verdict], now: float) -> dict[str, Any]:
    """The contract of DESIGN 6; `code` is that of the first reason. `ages` are seconds, null for never."""
    first = next((verdict for verdict in verdicts if verdict.exit), None)
    return {
        "schema": SCHEMA,
        "command": "ready",
        "run": "",
        "outcome": NOT_READY if first else READY,
        "code": first.look.reasons[0].code if first else "",
        "exit": int(first is not None),
        "peers": [_json_peer(verdict, now) for verdict in verdicts],
    }


def _json_peer(verdict: Verdict, now: float) -> dict[str, Any]:
    look = verdict.look
    found = json_look(look, now) or {}
    return {
        "name": verdict.name,
        "outcome": READY if look.is_ready else NOT_READY,
        "code": "" if look.is_ready else look.reasons[0].code,
        "exit": verdict.exit,
        "snapshot": "",
        "accepted": "",
        "changes": [],
        **found,
        "vrrp": [json_carrying(host) for host in look.vrrp],
    }


def json_look(look: Look | None, now: float) -> dict[str, Any] | None:
    """What a look found; `ages` are seconds: since it looked, since readiness was proven, since names were asked, of the verdict."""
    if look is None:
        return None
    times = {"looked": look.at, "proven": look.ready_at, "probed": look.probed_at, "verdict": look.since}
    return {
        "ready": look.is_ready,
        "reasons": [asdict(reason) for reason in look.reasons],
        "warnings": [asdict(reason) for reason in look.warnings],
        "ages": {name: _age(when, now) for name, when in times.items()},
    }


def _age(when: float | None, now: float) -> float | None:
    return None if when is None else round(max(0.0, now - when), 1)

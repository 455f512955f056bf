"""Results as text and as JSON: the one place that words a run, a plan or a status (DESIGN 6).

Whatever comes from a disk or from a peer is neutralised before it reaches a terminal or the journal; JSON keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import tzinfo
from typing import Any

from ngxsync.core.carrying import carrying_text, json_carrying
from ngxsync.core.errors import Message
from ngxsync.core.model import (
    APPLIED,
    IN_SYNC,
    STANDBY,
    Change,
    Pause,
    PeerResult,
    PeerStatus,
    Plan,
    Problem,
    RunResult,
    StatusReport,
    worst_exit,
)
from ngxsync.core.verdict import json_look, status_text
from ngxsync.core.wording import (
    human_duration,
    human_size,
    one_line,
    render_time,
    safe_name,
    safe_text,
    short_id,
)

SCHEMA = 1
SIGNS = {"created": "+", "deleted": "-"}  # everything else is a "~"

# the recommended action for each status word of DESIGN 6
ADVICE = {
    "in-sync": "nothing to do",
    "pending": "the daemon sends it; at once: ngxsync sync",
    "drifted": "see what was edited there: ngxsync diff; to take it here: ngxsync pull; to put it right, saved first: ngxsync sync",
    "conflict": "both hosts changed a path: ngxsync diff, keep what you need, then ngxsync sync",
    "held": "read the reason, then ngxsync sync --force CODE",
    "paused": "ngxsync resume",
    "refused": "mend the configuration that nginx names; the next save is tried by itself",
    "undone": "find why nginx refused to run it (ngxsync history), mend it, then ngxsync sync",
    "broken": "log in there and run ngxsync-agent recover, then ngxsync sync",
    "not-proven": "start nginx there, then ngxsync sync",
    "stale-running": "reload nginx there, or restart it; the files are right",
    "nginx-down": "start nginx there",
    "unreachable": "look at the host and its sshd; the daemon goes on trying",
    "awaiting-first-sync": "look with ngxsync diff, then ngxsync sync on the host whose content shall win",
    "standby": "nothing to do: the host that holds the VIP syncs",
    "unknown": "ngxsync sync, or wait for the daemon's next check",
}


def render_message(message: Message) -> str:
    return str(Message(*(safe_text(part) for part in (message.what, message.where, message.state, message.next))))


def render_problems(problems: Iterable[Problem]) -> list[str]:
    return [safe_text(f"{'warning: ' if p.level == 'warning' else ''}{p}") for p in problems]


def count_text(counts: Mapping[str, int]) -> str:
    """{"created": 2, "content": 1} as "3 changes (2 created, 1 content)"."""
    total = sum(counts.values())
    if not total:
        return "no changes"
    detail = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    return f"{total} change{'' if total == 1 else 's'} ({detail})"


def render_changes(changes: Iterable[Change]) -> list[str]:
    return [f"{SIGNS.get(c.kind, '~')} {safe_name(c.path)}  {c.kind}{_cause_note(c)}" for c in changes]


def _cause_note(change: Change) -> str:
    return "" if change.cause == "pending" else f" ({change.cause})"


def render_plan(plan: Plan, peer: str, limit: int = 20) -> str:
    """What a sync would do: counts, then deletions before all else, then the rest; at most `limit` paths of each."""
    lines = [f"{peer}: {count_text(plan.counts())}"]
    deleted = [change for change in plan.changes if change.kind == "deleted"]
    others = [change for change in plan.changes if change.kind != "deleted"]
    for title, changes in (("would be deleted", deleted), ("would be created or changed", others)):
        if changes:
            lines.append(f"  {title}:")
            lines += [f"    {line}" for line in render_changes(changes[:limit])]
        if len(changes) > limit:
            lines.append(f"    and {len(changes) - limit} more (ngxsync diff lists all)")
    return "\n".join(lines)


def render_run(result: RunResult) -> str:
    """A run for a person: a line for each peer, below it what there is to say about it."""
    name = f"run {result.run} " if result.run else ""
    what = f"{one_line(result.trigger)}: {result.outcome}{_code_note(result.outcome, result.code)}"
    lines = [f"{name}{what}, {human_duration(result.duration_s)}"]
    lines += [f"  {line}" for line in render_problems(result.problems)]
    lines += _indented(result.message, "  ")
    for peer in result.peers:
        lines.append(_peer_line(result, peer))
        lines += [f"    {line}" for line in render_problems(peer.problems)]
        lines += _indented(peer.message, "    ")
        lines += [f"    warning: {safe_text(text)}" for text in peer.warnings]
    return "\n".join(lines)


def _indented(message: Message | None, indent: str) -> list[str]:
    return [indent + line for line in render_message(message).split("\n")] if message else []


def _code_note(outcome: str, code: str) -> str:
    return f" ({code})" if code and code != outcome else ""


def _peer_line(result: RunResult, peer: PeerResult) -> str:
    parts = [f"{peer.outcome}{_code_note(peer.outcome, peer.code)}"]
    if peer.changes or peer.outcome == APPLIED:
        parts.append(count_text(Plan(peer.changes).counts()))
    if peer.bytes_sent:
        parts.append(f"{human_size(peer.bytes_sent)} {'received' if result.trigger == 'pull' else 'sent'}")
    if peer.reload:
        parts.append({"not-needed": "no reload needed", "none": "no nginx to reload"}.get(peer.reload, peer.reload))
    if peer.accepted and peer.outcome in (APPLIED, IN_SYNC):
        parts.append(f"accepted {short_id(peer.accepted)}")
    return f"  {peer.name}  {', '.join(parts)}"


def log_line(result: RunResult, peer: PeerResult) -> str:
    """The one line for the journal: what, how much, how long, outcome."""
    text = (
        f"{_peer_line(result, peer).strip()}, {human_duration(result.duration_s)} [run {result.run}, {result.trigger}]"
    )
    problems = [*peer.problems, *result.problems]
    reasons = [str(problem) for problem in problems if problem.level == "error"][:1]
    message = peer.message or result.message
    if message and not reasons:
        reasons = [": ".join(part for part in (message.where, message.what) if part)]
    return one_line(": ".join([text, *reasons]))


def render_status(report: StatusReport, tz: tzinfo | None = None) -> str:
    """Worst peer first, each with its word and the recommended action."""
    lines = [carrying_text(host, report.now, tz) for host in report.vrrp]
    for peer in worst_first(report.peers):
        lines += _status_lines(peer, report, tz)
    if not report.peers:
        lines.append("no peers are configured")
    lines += [f"next {what}: {render_time(when, report.now, tz)}" for what, when in report.next_fires]
    lines += [f"note: {safe_text(note)}" for note in report.notes]
    return "\n".join(lines)


def _status_lines(peer: PeerStatus, report: StatusReport, tz: tzinfo | None) -> list[str]:
    now = report.now
    since = f" since {render_time(peer.since, now, tz)}" if peer.since is not None else ""
    lines = [f"{report.host} -> {peer.name}: {peer.word}{since}"]
    if peer.accepted:
        proven = {True: ", proven", False: ", not proven", None: ""}[peer.proven]
        at = f" {render_time(peer.accepted_at, now, tz)}" if peer.accepted_at is not None else ""
        lines.append(f"  accepted: {short_id(peer.accepted)}{at}{proven}")
    if peer.last_run:
        at = f" {render_time(peer.last_run_at, now, tz)}" if peer.last_run_at is not None else ""
        lines.append(f"  last run: {peer.last_run}{at}: {peer.last_outcome}")
    if peer.look and peer.word != STANDBY:  # else it is what was true before
        lines.append(f"  ready:    {one_line(status_text(peer.look, now))}")
    if peer.pause:
        lines.append(f"  paused:   {_pause_text(peer.pause, now, tz)}")
    lines += _indented(peer.message, "  ")
    if not (peer.message and peer.message.next and not peer.next):
        lines.append(f"  next: {safe_text(peer.next) if peer.next else ADVICE.get(peer.word, ADVICE['unknown'])}")
    return lines


def _pause_text(pause: Pause, now: float, tz: tzinfo | None) -> str:
    until = f"until {render_time(pause.until, now, tz)}" if pause.until is not None else "until ngxsync resume"
    return f"by {one_line(pause.who)} since {render_time(pause.since, now, tz)}, {until}: {one_line(pause.reason)}"


def worst_first(peers: Iterable[PeerStatus]) -> list[PeerStatus]:
    """Exit statuses' order of DESIGN 6; peers of equal weight keep theirs."""
    ranked = list(peers)
    worst: list[PeerStatus] = []
    while ranked:
        status = worst_exit([peer.exit for peer in ranked])
        worst += [peer for peer in ranked if peer.exit == status]
        ranked = [peer for peer in ranked if peer.exit != status]
    return worst


def json_message(message: Message | None) -> dict[str, str] | None:
    if message is None:
        return None
    return {"what": message.what, "where": message.where, "state": message.state, "next": message.next}


def json_problem(problem: Problem) -> dict[str, Any]:
    return {"text": problem.text, "file": problem.file, "line": problem.line, "level": problem.level}


def json_change(change: Change) -> dict[str, str]:
    return {"path": change.path, "kind": change.kind, "cause": change.cause}


def json_peer(peer: PeerResult) -> dict[str, Any]:
    return {
        "name": peer.name,
        "outcome": peer.outcome,
        "code": peer.code,
        "exit": peer.exit,
        "snapshot": peer.snapshot,
        "accepted": peer.accepted,
        "changes": [json_change(change) for change in peer.changes],
        "reload": peer.reload,
        "bytes_sent": peer.bytes_sent,
        "timings": dict(peer.timings),
        "warnings": list(peer.warnings),
        "problems": [json_problem(problem) for problem in peer.problems],
        "message": json_message(peer.message),
        "run": peer.run,
    }


def json_run(command: str, result: RunResult) -> dict[str, Any]:
    """The JSON contract of DESIGN 6; its keys are pinned by a test."""
    return {
        "schema": SCHEMA,
        "command": command,
        "run": result.run,
        "outcome": result.outcome,
        "code": result.code,
        "exit": result.exit,
        "peers": [json_peer(peer) for peer in result.peers],
        "trigger": result.trigger,
        "snapshot": result.snapshot,
        "started": result.started,
        "duration_s": result.duration_s,
        "problems": [json_problem(problem) for problem in result.problems],
        "message": json_message(result.message),
    }


def json_pause(pause: Pause | None) -> dict[str, Any] | None:
    if pause is None:
        return None
    return {"who": pause.who, "reason": pause.reason, "since": pause.since, "until": pause.until}


def json_status(report: StatusReport) -> dict[str, Any]:
    """As json_run, about what is: `outcome` is the worst status word, `exit` what --exit-code would end with."""
    ranked = worst_first(report.peers)
    return {
        "schema": SCHEMA,
        "command": "status",
        "run": "",
        "outcome": ranked[0].word if ranked else IN_SYNC,
        "code": "",
        "exit": ranked[0].exit if ranked else 0,
        "peers": [_json_peer_status(peer, report.now) for peer in ranked],
        "host": report.host,
        "now": report.now,
        "next_fires": [{"what": what, "at": when} for what, when in report.next_fires],
        "notes": list(report.notes),
        "vrrp": [json_carrying(host) for host in report.vrrp],
    }


def _json_peer_status(peer: PeerStatus, now: float) -> dict[str, Any]:
    return {
        "name": peer.name,
        "outcome": peer.word,
        "code": "",
        "exit": peer.exit,
        "snapshot": "",
        "accepted": peer.accepted,
        "changes": [],
        "since": peer.since,
        "accepted_at": peer.accepted_at,
        "proven": peer.proven,
        "last_run": {"run": peer.last_run, "at": peer.last_run_at, "outcome": peer.last_outcome},
        "pause": json_pause(peer.pause),
        "message": json_message(peer.message),
        "next": peer.next or ADVICE.get(peer.word, ADVICE["unknown"]),
        "ready": json_look(peer.look, now),
    }

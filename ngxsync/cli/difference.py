"""A peer's differences as text: what changed and how, then unified text that patch(1) takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from ngxsync.agent.manifest import DIR, LINK, Entry
from ngxsync.core.meaning import FORMATTING, TEXT, Finding, Place
from ngxsync.core.model import Change, Plan
from ngxsync.core.patch import entry_facts, unified
from ngxsync.core.plan import causes_of, is_quiet
from ngxsync.core.render import SIGNS, count_text
from ngxsync.core.wording import escaped, safe_name, safe_text
from ngxsync.flow.contents import Content

COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m", "diff ": "\x1b[1m", "+++": "\x1b[1m", "---": "\x1b[1m"}
PLAIN = "\x1b[0m"


def render_summary(changes: Sequence[Change], master: str, peer: str) -> str:
    """How many of which kind, and why."""
    causes = ", ".join(f"{number} {cause}" for cause, number in causes_of(changes).items())
    return f"{master} -> {peer}: {count_text(Plan(tuple(changes)).counts())}{f': {causes}' if causes else ''}"


def render_listing(changes: Iterable[Change], *, verbose: bool) -> list[str]:
    """A line for each change; changes of mtime alone only with `verbose`."""
    shown = [change for change in changes if verbose or not is_quiet(change)]
    return [f"{SIGNS.get(c.kind, '~')} {_name(c)}  {c.kind}{_details(c)}{_cause(c)}" for c in shown]


def _name(change: Change) -> str:
    entry = change.after or change.before
    return safe_name(change.path) + ("/" if entry is not None and entry.kind == DIR else "")


def _cause(change: Change) -> str:
    return "" if change.cause == "pending" else f" ({change.cause})"


def _details(change: Change) -> str:
    """Every attribute that differs, from what the peer has to what this host has; the kind's own word is not repeated."""
    before, after = change.before, change.after
    if before is None or after is None:
        return ""
    values = {
        "type": (before.kind, after.kind),
        "owner": (f"{before.owner}:{before.group}", f"{after.owner}:{after.group}"),
    }
    if before.kind == after.kind:
        values["mode"] = (f"{before.mode:04o}", f"{after.mode:04o}")
    if before.kind == after.kind == LINK:
        values["link"] = (safe_name(before.content), safe_name(after.content))
    if change.kind == "mtime":
        values["mtime"] = (_moment(before), _moment(after))
    told = [
        f"{'' if word == change.kind else word} {old} -> {new}" for word, (old, new) in values.items() if old != new
    ]
    return f" {', '.join(text.strip() for text in told)}" if told else ""


def _moment(entry: Entry) -> str:
    seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}.{nanoseconds:09d}"


def text_of(change: Change, peer: Content | None, own: Content | None) -> str:
    """What turns the peer's file into this host's as unified text; of a secret, binary or large one sizes and hashes.

    A side that has content at hand is a Content; None where it has no such file, or one too large to look at.
    """
    secret = any(content is not None and content.is_secret for content in (peer, own))
    before, after = (None if content is None else content.data for content in (peer, own))
    is_whole = (before is None) == (change.before is None) and (after is None) == (change.after is None)
    if is_whole and not secret:
        return unified(change.path, before, after)
    facts = f"{entry_facts(change.before)} -> {entry_facts(change.after)}"
    return f"{'Secret' if secret else 'Large'} files differ: {safe_name(change.path)} {facts}\n"


def for_terminal(text: str, *, colours: bool) -> Iterator[str]:
    """The lines of unified text, harmless to a terminal, coloured by how they begin."""
    for line in text.removesuffix("\n").split("\n"):
        start = next((line[:length] for length in (5, 3, 1) if line[:length] in COLOURS), "")
        shown = safe_text(line)
        yield f"{COLOURS[start]}{shown}{PLAIN}" if colours and start else shown


def render_meaning(findings: Iterable[Finding], master: str, peer: str) -> list[str]:
    """A line for each finding, with its risks, and its place on each host."""
    return [f"  {f.kind:<10} {escaped(_said(f))}{_tags(f)}{_places(f, master, peer)}" for f in findings]


def _said(finding: Finding) -> str:
    if finding.kind == FORMATTING:
        return "only comments, white space or quotes"
    if finding.kind == TEXT:
        return f"compared as text alone: {finding.note}"
    where = finding.where[1:] if finding.where[:1] == ("http",) else finding.where
    values = " -> ".join(value for value in (finding.before, finding.after) if value)
    text = f"{' > '.join([*where, finding.what])}{f': {values}' if values else ''}"
    if finding.count > 1:
        text += f", and so in {finding.count - 1} more"
    return f"{text} ({finding.note})" if finding.note else text


def _tags(finding: Finding) -> str:
    return f"  [{', '.join(finding.tags)}]" if finding.tags else ""


def _places(finding: Finding, master: str, peer: str) -> str:
    places = [(peer, finding.before_at), (master, finding.after_at)]
    return "  " + " -> ".join(f"{host}:{safe_name(place[0])}:{place[1]}" for host, place in places if place)


def json_finding(finding: Finding) -> dict[str, Any]:
    """`before` speaks of the peer, `after` of this host; a place is null where there is nothing."""
    return {
        "kind": finding.kind,
        "where": list(finding.where),
        "what": finding.what,
        "before": finding.before,
        "after": finding.after,
        "before_at": _json_place(finding.before_at),
        "after_at": _json_place(finding.after_at),
        "tags": list(finding.tags),
        "count": finding.count,
        "note": finding.note,
    }


def _json_place(place: Place | None) -> dict[str, Any] | None:
    return {"file": place[0], "line": place[1]} if place else None

"""What `init` tells: what the line did and did not, how the peer is reached, what to see to, and exactly one next command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ngxsync.cli.access import UNPINNED, WORKS, Access, command_for
from ngxsync.cli.setup import Difference, Found
from ngxsync.core.checkup import render_checks, render_summary
from ngxsync.core.draft import DraftPeer
from ngxsync.core.wording import safe_name
from ngxsync.edges.configfile import DEFAULT_FILE

NEVER_DELETED = "it never deleted"  # what core.crontab says, and the comparison can count
SHOWN = 10


def tell(found: Found, file: Path) -> list[str]:
    """The lines of the whole story."""
    return [
        *_the_job(found),
        *_surprises(found),
        *(line for peer, access in _peers(found) for line in _access(peer, access)),
        *_outside(found),
        *_look(found),
        *_files(found, file),
        f"next: {_next_command(found, file)}",
    ]


def _peers(found: Found) -> Iterator[tuple[DraftPeer, Access]]:
    return zip(found.draft.peers, found.accesses, strict=True)


def _the_job(found: Found) -> Iterator[str]:
    for line in found.order.lines:
        yield f"From {line.place or 'the line given'}:"
        yield f"  {safe_name(line.text)}"
    draft = found.draft
    yield "The same job for ngxsync:"
    yield f"  trees      {', '.join(draft.trees)}"
    for peer in draft.peers:
        yield f"  peer       {peer.name}: {peer.user}@{peer.host}, port {peer.port}"
    if draft.exclude:
        yield f"  left out   {'  '.join(draft.exclude)}, beside what is built in"
    yield f"  schedule   {draft.schedule}, and each save at once"


def _surprises(found: Found) -> Iterator[str]:
    if found.order.surprises:
        yield "Where the line did something else than it seems, or than ngxsync does:"
    old = [f"{_paths(each.old, 'old')} on {name}" for name, each in found.differences.items() if each.old]
    for text in found.order.surprises:
        if old and text.startswith(NEVER_DELETED):
            yield f"  - {NEVER_DELETED}: {', '.join(old)}; the first sync shows them, asks, and removes them"
        else:
            yield f"  - {text}"


def _paths(count: int, kind: str = "") -> str:
    return f"{count} {kind}{' ' if kind else ''}path{'' if count == 1 else 's'}"


def _access(peer: DraftPeer, access: Access) -> Iterator[str]:
    own = access.settings
    yield f"Access to {peer.name}:"
    yield from (f"  {key} is no use: {why}" for key, why in access.tried)
    fingerprint = " or ".join(access.shown)
    if access.state == UNPINNED:
        yield f"  its host key is not known here; what it shows now has the fingerprint {fingerprint or '(not to be learnt)'}"
        yield f"  compare that on {peer.host}: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
    else:
        yield f"  its host key is known to ssh here, and now pinned for ngxsync: {fingerprint}"
    if access.state == WORKS:
        yield f"  {own.identity} logs in as {own.where}"
        return
    if access.public_key:
        made = "a new key was made" if access.is_new_key else "ngxsync has a key"
        yield f"  {made}: {own.identity}; the next command lets it in as {own.user} there:"
        yield f"  {access.public_key}"


def _outside(found: Found) -> Iterator[str]:
    if not found.outside:
        return
    yield "nginx reads files outside the trees, which no line of rsync sent and no sync will:"
    yield from (f"  {safe_name(path)}" for path in found.outside[:SHOWN])
    if len(found.outside) > SHOWN:
        yield f"  and {len(found.outside) - SHOWN} more"
    if found.draft.further_trees:
        yield "  these trees would carry them (config.ini has the lines, commented out):"
        yield from (f"    {tree}" for tree in found.draft.further_trees)
    if found.left:
        yield f"  see to these on each host: {', '.join(map(safe_name, found.left[:SHOWN]))}"


def _look(found: Found) -> Iterator[str]:
    for name, difference in found.differences.items():
        yield f"The first sync to {name}: {_first_sync(difference)}"
    yield f"A look at both hosts, nothing changed: {render_summary(found.checks)}"
    yield from (f"  {line}" for line in render_checks(found.checks, only_trouble=True))


def _first_sync(difference: Difference) -> str:
    parts = [f"{_paths(difference.other)} to send"] if difference.other else []
    parts += [f"{_paths(difference.old, 'old')} to remove"] if difference.old else []
    return ", ".join(parts) or "nothing to do, both are equal"


def _files(found: Found, file: Path) -> Iterator[str]:
    yield f"Written: {file}"
    for text in found.order.left_alone:
        yield f"Left alone: {safe_name(text)}"
    for line in found.order.lines:
        yield f"After the first sync take the line out of {line.place or 'the crontab'}: {safe_name(line.text)}"


def _next_command(found: Found, file: Path) -> str:
    config = "" if file == DEFAULT_FILE else f" --config {file}"
    if found.is_ready:
        return f"ngxsync sync{config}"
    commands = [command_for(access, peer.name, config) for peer, access in _peers(found) if access.state != WORKS]
    return " && ".join([*commands, f"ngxsync check{config}"])

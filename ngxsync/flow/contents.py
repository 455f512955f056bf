"""The bytes of files that differ, for `diff`, asked of the peer's agent in batches."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ngxsync.agent.manifest import FILE
from ngxsync.core.config import Config
from ngxsync.core.errors import AgentFailed
from ngxsync.core.model import Change, Projection
from ngxsync.core.patch import LARGEST_TEXT
from ngxsync.core.plan import CONTENT, CREATED, DELETED
from ngxsync.flow import outcomes, requests
from ngxsync.flow.interfaces import Host

SHOW_S = 60.0
BATCH_BYTES = 4 * LARGEST_TEXT
BATCH_PATHS = 1000  # each call has the peer read its whole configuration, for which files are secrets


@dataclass(frozen=True)
class Content:
    """One file on one host. `data` is None where it is not to be shown, or not there any more."""

    data: bytes | None
    is_secret: bool = False


def is_of_bytes(change: Change) -> bool:
    """Whether it is about files whose bytes differ, or that one side lacks."""
    sides = [entry for entry in (change.before, change.after) if entry is not None]
    return all(entry.kind == FILE for entry in sides) and change.kind in (CREATED, DELETED, CONTENT)


def is_shown(change: Change) -> bool:
    """Whether neither side is too large to be looked at."""
    return all(entry is None or entry.size <= LARGEST_TEXT for entry in (change.before, change.after))


def batches(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """The changes in groups whose content on the peer is neither many files nor many bytes; what is too large is not sent."""
    group: list[Change] = []
    size = 0
    for change in changes:
        added = change.before.size if change.before and is_shown(change) else 0
        if group and (size + added > BATCH_BYTES or len(group) == BATCH_PATHS):
            yield group
            group, size = [], 0
        group.append(change)
        size += added
    if group:
        yield group


def peer_contents(config: Config, peer: Host, projection: Projection, changes: Iterable[Change]) -> dict[str, Content]:
    """What the peer has of these changes' files, by path. Raises NgxsyncError."""
    paths = [change.path for change in changes if change.before is not None and is_shown(change)]
    if not paths:
        return {}
    request = {**requests.common(config, peer.config, projection), "paths": paths}
    answer = peer.call("show", request, timeout_s=SHOW_S)
    if not answer["ok"]:
        raise AgentFailed(outcomes.message_of(answer, peer.config), code=str(answer["code"]))
    return {path: _content_from(shown) for path, shown in answer["files"].items()}


def _content_from(shown: Mapping[str, object]) -> Content:
    text = shown["text"]
    return Content(base64.b64decode(text) if isinstance(text, str) else None, bool(shown["secret"]))

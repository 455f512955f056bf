"""What a run replaced or deleted on a peer, and its old contents, asked of the peer's agent."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ngxsync.agent.manifest import entry_from_json, is_below
from ngxsync.core.config import Config
from ngxsync.core.errors import AgentFailed
from ngxsync.core.excludes import make_projection
from ngxsync.core.model import Change
from ngxsync.core.plan import kind_of
from ngxsync.flow import outcomes, requests
from ngxsync.flow.contents import Content
from ngxsync.flow.interfaces import Host

ASK_S = 60.0
UNDONE = "edit"  # the cause of an edit that an undo found in its way


@dataclass(frozen=True)
class Replaced:
    """One path that a run found on a peer: `change.before` is what was there, `change.after` what it put there (None: deleted).

    Its cause is "edit" where an undo met it: then nothing was put there by the run.
    """

    change: Change
    is_kept: bool


def ask(config: Config, peer: Host, run: str, **more: Any) -> dict[str, Any]:
    """The answer of the verb `history`. Raises NgxsyncError; AgentFailed with code unknown-run where nothing of the run is kept."""
    projection = make_projection(config, peer.config)
    request = {**requests.common(config, peer.config, projection), "run": run, **more}
    answer = peer.call("history", request, timeout_s=ASK_S)
    if not answer["ok"]:
        raise AgentFailed(outcomes.message_of(answer, peer.config), code=str(answer["code"]))
    return answer


def replaced_on(config: Config, peer: Host, run: str) -> tuple[Replaced, ...]:
    """What the run replaced or deleted there, without what it created and without mere times. Raises NgxsyncError."""
    answer = ask(config, peer, run)
    return tuple(_replaced(answer))


def _replaced(answer: Mapping[str, Any]) -> Iterator[Replaced]:
    for path, before, after, is_kept in answer["changes"]:
        if before is not None:
            yield Replaced(change_from(path, before, after), is_kept)
    for path, entry, is_kept in answer["edits"]:
        yield Replaced(change_from(path, entry, None, UNDONE), is_kept)


def change_from(path: str, before: Any, after: Any, cause: str = "pending") -> Change:
    old, new = (None if fields is None else entry_from_json(fields) for fields in (before, after))
    return Change(path, kind_of(old, new), old, new, None, cause)


def within(replaced: Sequence[Replaced], path: str) -> tuple[Replaced, ...]:
    return tuple(each for each in replaced if is_below(each.change.path, path))


def contents(config: Config, peer: Host, run: str, path: str) -> tuple[Content | None, Content | None]:
    """(what the run found at the path, what it put there); None where that is no file. Raises NgxsyncError."""
    answer = ask(config, peer, run, path=path)
    return _content_from(answer["old"]), _content_from(answer["new"])


def _content_from(shown: Mapping[str, Any] | None) -> Content | None:
    if shown is None:
        return None
    text = shown["text"]
    return Content(None if text is None else base64.b64decode(text), bool(shown["secret"]))

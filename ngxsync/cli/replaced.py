"""What a run replaced or deleted on each peer, and with a path its old text: for `ngxsync history RUN [PATH]`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ngxsync.cli.difference import render_listing, text_of
from ngxsync.cli.options import open_assembly, say
from ngxsync.cli.pager import write_text
from ngxsync.core.config import Config
from ngxsync.core.errors import ConfigError, Message, NgxsyncError, PeerUnreachable
from ngxsync.core.render import json_message, render_message
from ngxsync.core.wording import safe_name
from ngxsync.flow.contents import Content, is_of_bytes, is_shown
from ngxsync.flow.history import UNDONE, Replaced, contents, replaced_on, within

if TYPE_CHECKING:
    from ngxsync.assembly import Assembly
    from ngxsync.flow.interfaces import Host

MOST = 200  # files whose text is shown
UNKNOWN = ("unknown-run", "unknown-path")


@dataclass(frozen=True)
class Text:
    """One path's old and new content; None where that is no file."""

    replaced: Replaced
    old: Content | None
    new: Content | None


@dataclass(frozen=True)
class OnPeer:
    """One peer's answer; `texts` only where a path was asked for. `error` where it could not be asked, or knows nothing of it."""

    name: str
    replaced: tuple[Replaced, ...] = ()
    texts: tuple[Text, ...] | None = None
    error: NgxsyncError | None = None


def ask_peers(config: Config, record: Mapping[str, Any], path: str, peers: Collection[str]) -> list[OnPeer]:
    """What each peer of that run keeps of it, below `path` where one is named."""
    touched = {name: run for name, run in runs_there(record).items() if not peers or name in peers}
    if not touched:
        return []
    with open_assembly(config) as assembly:
        known = {name: run for name, run in touched.items() if name in assembly.peers}
        return [_ask(config, _changed_host(assembly, record, name), run, path) for name, run in known.items()]


def _changed_host(assembly: Assembly, record: Mapping[str, Any], name: str) -> Host:
    """The peer, or this host itself, which a pull changed."""
    peer = assembly.peers[name]
    if record.get("trigger") != "pull":
        return peer
    from ngxsync.flow.own_run import own_config

    return assembly.master.receiver(own_config(assembly.config, assembly.master, peer.config))


def runs_there(record: Mapping[str, Any]) -> dict[str, str]:
    """{peer: the run's id there} of a recorded run."""
    return {str(peer["name"]): str(peer.get("run") or record["run"]) for peer in record.get("peers", ())}


def _ask(config: Config, peer: Host, run: str, path: str) -> OnPeer:
    name = peer.config.name
    try:
        replaced = replaced_on(config, peer, run)
        if not path:
            return OnPeer(name, replaced)
        found = within(replaced, path)
        if not found:
            what = f"run {run} replaced and deleted nothing there"
            hint = f"`ngxsync history {run}` lists what it did"
            raise NgxsyncError(Message(what, f"{name}:{safe_name(path)}", next=hint), code="unknown-path")
        return OnPeer(name, found, tuple(_texts(config, peer, run, found[:MOST])))
    except NgxsyncError as error:
        return OnPeer(name, error=error)


def _texts(config: Config, peer: Host, run: str, found: Sequence[Replaced]) -> Iterator[Text]:
    for each in found:
        wanted = each.is_kept and is_of_bytes(each.change) and is_shown(each.change)
        old, new = contents(config, peer, run, each.change.path) if wanted else (None, None)
        yield Text(each, old, new)


def exit_of(found: Sequence[OnPeer], path: str) -> int:
    """Of a list always 0: it says what it lacks. Of content 0 where somebody had it, 4 where who may have it did not answer."""
    if not path or any(each.texts for each in found):
        return 0
    is_known = all(each.error and each.error.code in UNKNOWN for each in found)
    return ConfigError.exit_status if is_known else PeerUnreachable.exit_status


def error_of(found: Sequence[OnPeer]) -> NgxsyncError | None:
    """The first peer's that was asked in vain: the code of a status other than 0."""
    return next((each.error for each in found if each.error), None)


def show(found: Sequence[OnPeer], path: str) -> None:
    for each in found:
        if each.error is not None:
            if path or each.error.code != "unknown-run":
                say(render_message(each.error.message))
        elif each.texts is None:
            print("".join(f"{line}\n" for line in _listing(each)), end="")
        else:
            for text in each.texts:
                _show_text(each.name, text)


def _listing(found: OnPeer) -> list[str]:
    if not found.replaced:
        return []
    return [f"  {found.name} had, and keeps:", *(f"    {_line(each)}" for each in found.replaced)]


def _line(each: Replaced) -> str:
    if each.change.cause == UNDONE:
        line = f"~ {safe_name(each.change.path)}  edited there meanwhile"
    else:
        line = render_listing([each.change], verbose=True)[0]
    return line if each.is_kept else f"{line} (its old content is not kept any more)"


def _show_text(peer: str, text: Text) -> None:
    print(f"{peer}: {_line(text.replaced)}")
    if text.old is not None or text.new is not None:
        write_text(text_of(text.replaced.change, text.old, text.new))


def as_json(found: Sequence[OnPeer]) -> list[dict[str, Any]]:
    return [
        {
            "name": each.name,
            "paths": [_json_path(item) for item in each.replaced],
            "message": json_message(each.error.message) if each.error else None,
        }
        for each in found
    ]


def _json_path(each: Replaced) -> dict[str, Any]:
    change = each.change
    sides = {side: entry and entry._asdict() for side, entry in (("before", change.before), ("after", change.after))}
    return {"path": change.path, "kind": change.kind, "cause": change.cause, "kept": each.is_kept, **sides}

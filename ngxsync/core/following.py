"""`follow` and `soak`: whether the peers may follow, from what this host's own nginx runs against what is saved. Pure.

What nginx has read is known from two sides: no file that it loads may be younger than its workers; and once that was so,
our own scan of then is what these workers run, until others are born. The second sees a deletion, and no edit where a
file was only touched, or put back as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ngxsync.agent.directives import NamedFile
from ngxsync.agent.manifest import DIR, FILE, Manifest
from ngxsync.core.checkup import FAILED, OK, WARNING, Check
from ngxsync.core.errors import Message
from ngxsync.core.guards import Hold
from ngxsync.core.wording import human_duration, one_line, render_moment, safe_name

FOLLOW, SOAK = "follow", "soak"
SLACK_S = 0.02  # as agent/running.py: births and file times are cut to ticks
SHOWN = 5
SERIOUS = ("emerg", "alert", "crit")

Identity = tuple[Any, ...]


@dataclass(frozen=True)
class Serving:
    """This host's nginx: `main` names its main process, `mark` also its workers: another one after each reload.

    `state` is running, down or unknown. `loaded` is when the workers were born (epoch seconds), `age_s` how long ago.
    `is_known` False: they died and were born again, and when they last read anything is not known.
    """

    state: str
    why: str = ""
    main: str = ""
    mark: str = ""
    loaded: float = 0.0
    age_s: float = 0.0
    is_known: bool = True


@dataclass(frozen=True)
class Found:
    """A file that nginx loads: when it was last changed or put in its place, where its links lead, what tells it from another."""

    changed: float
    real: str
    stamp: tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """What the workers of `mark` have read, by our own scan; and how their soak went: `complaint` is the line that refutes it."""

    main: str
    mark: str
    files: Mapping[str, Identity]
    complaint: str = ""
    is_soaked: bool = False


@dataclass(frozen=True)
class Newer:
    """A loaded file that nginx has not read as it is; `since` None where it is gone."""

    path: str
    since: float | None


@dataclass(frozen=True)
class Following:
    """What was found before a run. `reason` is what holds it (its state is the peer's), `code` "" where nothing does.

    `wait_s`: in how long the soak is over. `is_unread`: a reload is waited for.
    """

    code: str = ""
    reason: Message | None = None
    wait_s: float | None = None
    is_unread: bool = False

    def hold(self, peer: str) -> tuple[Hold, ...]:
        if self.reason is None:
            return ()
        return (Hold(self.code, replace(self.reason, state=f"{peer} unchanged")),)


def loaded_paths(manifest: Manifest, files: tuple[NamedFile, ...], loads: Any, conf: str) -> set[str]:
    """What nginx reads at a reload: paths, or patterns of them. A module is not read again, whatever happens to its file."""
    inside = {path for path, entry in manifest.items() if entry.kind != DIR and loads(path)}
    modules = {item.path for item in files if item.role == "module"}
    named = {item.path for item in files if item.is_loaded and not item.path.endswith("/")}
    return (inside | named | {item.file for item in files} | {conf}) - modules


def identities(found: Mapping[str, Found], manifest: Manifest) -> dict[str, Identity]:
    """By content where the scan has read it: only that is loaded."""
    known: dict[str, Identity] = {}
    for path, file in found.items():
        entry = manifest.get(file.real)
        is_read = entry is not None and entry.kind == FILE
        known[path] = (file.real, entry.content) if entry is not None and is_read else (file.real, *file.stamp)
    return known


def newer_files(
    serving: Serving, kept: Kept | None, now: Mapping[str, Identity], found: Mapping[str, Found]
) -> list[Newer]:
    """What is saved and not read, the youngest first."""
    if has_read(serving, kept) and kept is not None:
        paths = [path for path in {*now, *kept.files} if now.get(path) != kept.files.get(path)]
    else:
        paths = [path for path, file in found.items() if file.changed > serving.loaded + SLACK_S]
    newer = [Newer(path, found[path].changed if path in found else None) for path in sorted(paths)]
    return sorted(newer, key=lambda item: -(item.since or 0.0))


def has_read(serving: Serving, kept: Kept | None) -> bool:
    """Whether what is kept is what these workers run; those born again without a reload run what their fathers ran."""
    if kept is None:
        return False
    return kept.mark == serving.mark or (not serving.is_known and kept.main == serving.main)


def not_running(serving: Serving, master: str) -> Following:
    what = f"nginx does not run on {master}" if serving.state == "down" else f"what nginx runs here: {serving.why}"
    hint = "start it; or have the peers follow what is saved, once: ngxsync sync --force follow"
    return Following(FOLLOW, Message(f"{what}, so nothing proves what is saved (follow = running)", master, "", hint))


def not_read(newer: list[Newer], serving: Serving, master: str, refused: str) -> Following:
    """Held for files that nginx loads and has not read."""
    names = [f"{safe_name(item.path)} ({_since(item.since)})" for item in newer[:SHOWN]]
    more = f" and {len(newer) - SHOWN} more" if len(newer) > SHOWN else ""
    files = "a file that it loads was" if len(newer) == 1 else f"{len(newer)} files that it loads were"
    said = f"; a reload was refused: {one_line(refused)}" if refused else ""
    what = f"nginx on {master} runs what it read at {render_moment(serving.loaded)}, {files} changed since: "
    hint = (
        f"{'mend it and reload' if refused else 'reload'} nginx on {master}; or without it: ngxsync sync --force follow"
    )
    return Following(FOLLOW, Message(f"{what}{', '.join(names)}{more}{said}", master, "", hint), is_unread=True)


def _since(since: float | None) -> str:
    return f"at {render_moment(since)}" if since is not None else "gone"


def refuted(complaint: str, serving: Serving, master: str) -> Following:
    what = f"nginx on {master} complained after its reload at {render_moment(serving.loaded)}: {one_line(complaint)}"
    hint = f"mend it and reload nginx on {master}; or without it: ngxsync sync --force soak"
    return Following(SOAK, Message(what, master, "", hint))


def soaking(left_s: float, until: float, soak_s: float, master: str, unread: tuple[str, ...]) -> Following:
    blind = f" (its error log goes to {', '.join(map(safe_name, unread))}, which is not read)" if unread else ""
    what = f"nginx on {master} is to run it until {render_moment(until)} first (soak = {human_duration(soak_s)}){blind}"
    hint = "nothing to do, the daemon goes on by itself then; or at once: ngxsync sync --force soak"
    return Following(SOAK, Message(what, master, "", hint), wait_s=left_s)


def judge_follow(host: str, serving: Serving, soak_s: float, unread: tuple[str, ...]) -> Check:
    """Whether the peers can follow what runs here at all."""
    if serving.state != "running":
        told = not_running(serving, host).reason
        return Check(
            host, FOLLOW, FAILED, told.what if told else "", "start nginx, or set follow = saved and soak = 0s"
        )
    if soak_s and unread:
        told_logs = (
            f"soak: the error log goes to {', '.join(map(safe_name, unread))}, which is not read: only the time counts"
        )
        return Check(host, FOLLOW, WARNING, told_logs, "add an error_log in a file, as user root")
    soak = f", {human_duration(soak_s)} later" if soak_s else ""
    return Check(host, FOLLOW, OK, f"the peers follow what nginx runs here{soak}")


def kept_to_json(kept: Kept) -> dict[str, Any]:
    return asdict(kept)


def kept_from_json(data: Any) -> Kept:
    """Raises ValueError, KeyError, TypeError or AttributeError where the data is none of ours."""
    files = {str(path): tuple(identity) for path, identity in data["files"].items()}
    texts = (data["main"], data["mark"], data["complaint"])
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is no text")
    return Kept(texts[0], texts[1], files, texts[2], data["is_soaked"] is True)

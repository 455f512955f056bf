"""When a file of the trees changed.

An event is only a hint to look (DESIGN 3): the events themselves are dropped, and what may have been missed is
answered by the trigger RESCAN. Not noticed here but by `check_every`: a write through a hard link from outside the
trees, a mount over a directory inside them. Where a symlink points outside the trees, its target is not watched: what
a sync carries is the link itself, and `check_every` validates what the target now holds.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ngxsync.core.errors import Message
from ngxsync.edges.watch.inotify import Event, Observer

logger = logging.getLogger(__name__)

CHANGE, RESCAN = "change", "rescan"

CANARY_EVERY_S = 60.0
DEAF_AFTER_S = 10.0
RETRY_EVERY_S = 600.0
BUG = "report this as a bug of ngxsync"

Identity = tuple[int, int, str] | None  # device, inode, real path; None where there is no directory


class Watcher:
    """Calls `on_event(CHANGE)` when something relevant below `trees` changed, `on_event(RESCAN)` when events were or
    may have been lost. Both come from other threads; `on_event` should only queue something.

    `is_relevant(path)` says whether a change of that path may wake: the path lies below a tree as that was given, with
    a trailing slash where it is a directory. The trees may be absent, come later, or be replaced: `check`, called every
    few seconds by the owner and before each run, notices. Errors of the system become `problems`, not exceptions: the
    schedule goes on without a watcher. `clock` is monotonic seconds.
    """

    def __init__(
        self,
        trees: Sequence[Path],
        on_event: Callable[[str], None],
        *,
        canary_dir: Path,
        is_relevant: Callable[[str], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_event = on_event
        self._canary = canary_dir / "canary"
        self._is_relevant = is_relevant
        self._clock = clock
        self._observer: Observer | None = None
        self._is_started = False
        self._identities: dict[Path, Identity] = dict.fromkeys(trees)
        self._failures: dict[str, str] = {}  # by what failed: a text
        self._started_at = self._sent_at = self._touch_at = 0.0  # touch_at: when the next canary is due
        self._is_canary_watched = self._is_canary_out = False
        self._is_replaced = False  # a root, as its parent tells: the new one may have the inode of the old

    def start(self) -> None:
        self._is_started = True
        self._watch()

    def stop(self) -> None:
        self._is_started = False
        self._unwatch()

    def is_alive(self) -> bool:
        """True while every thread of the watcher runs; that events arrive too is what `check` proves over time."""
        return self._observer is not None and self._observer.is_alive()

    def check(self) -> bool:
        """Proves the watcher sound as far as can be known now, without waiting. Where it is not, it starts anew,
        triggers RESCAN and returns False. Costs one stat a tree, and a touched file every CANARY_EVERY_S."""
        if not self._is_started:
            return False
        doubt = self._doubt()
        if not doubt:
            self._send_canary()
            return True
        logger.warning("watching the trees anew: %s", doubt)
        self._unwatch()
        self._watch()
        self._wake(RESCAN)
        return False

    def problems(self) -> tuple[str, ...]:
        """What is not watched, or went wrong, now; each with its four parts."""
        absent = [tree for tree, identity in self._identities.items() if identity is None]
        texts = [_problem("no such directory to watch", tree, "restore it, or correct `trees`") for tree in absent]
        for where, why in self._refused().items():
            texts.append(_problem(f"not watched: {why}", where, "raise the sysctl fs.inotify.max_user_watches"))
        return (*self._failures.values(), *texts)

    def _doubt(self) -> str:
        """Why the watcher may be missing something, or ""."""
        now = self._clock()
        changed = [str(tree) for tree, identity in self._identities.items() if _identity(tree) != identity]
        if changed:
            return f"{', '.join(changed)} was replaced, removed or has come"
        if self._is_replaced:
            return "a tree's root was replaced by one with the same inode"
        if self._observer is not None and not self._observer.is_alive():
            return "a thread of the watcher has ended"
        if self._is_canary_out and now - self._sent_at > DEAF_AFTER_S:
            return f"the event of {self._canary} did not arrive within {DEAF_AFTER_S:.0f}s"
        if (self._failures or self._refused()) and now - self._started_at > RETRY_EVERY_S:
            return "trying again what could not be watched"
        return ""

    def _refused(self) -> dict[str, str]:
        """The first directory of each kind of refusal, with the number of all."""
        refused = {} if self._observer is None else self._observer.refused()
        reasons = list(refused.values())
        first = {why: where for where, why in reversed(refused.items())}
        return {where: f"{why} ({reasons.count(why)} directories)" for why, where in first.items()}

    def _watch(self) -> None:
        self._failures.clear()
        self._started_at = self._touch_at = self._clock()
        self._is_canary_watched = self._is_canary_out = self._is_replaced = False
        # before the watches: a root that is replaced meanwhile then differs at the next check
        self._identities = {tree: _identity(tree) for tree in self._identities}
        try:
            self._observer = Observer(lambda: self._wake(RESCAN), self._has_matters)
        except OSError as error:
            self._note("inotify", f"cannot watch: {error.strerror}", "raise the sysctl fs.inotify.max_user_instances")
            return
        self._watch_canary()
        for tree, identity in self._identities.items():
            self._watch_parent(tree)
            if identity is not None:
                self._watch_directory(self._on_tree_event, identity[2], recursive=True)

    def _watch_parent(self, tree: Path) -> None:
        """A root that is renamed away or swapped makes no event of its own: only its parent tells."""
        parent = os.path.realpath(tree.parent)
        root = os.path.join(parent, tree.name)

        def on_event(event: Event) -> None:
            if event.is_place and root in event.paths:
                self._is_replaced = True
                self._wake(RESCAN)

        if os.path.isdir(parent):
            self._watch_directory(on_event, parent)

    def _watch_canary(self) -> None:
        try:
            self._canary.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._note(self._canary, f"cannot prove that events arrive: {error.strerror}", "make it writable")
            return
        canary_dir = os.path.realpath(self._canary.parent)
        canary = os.path.join(canary_dir, self._canary.name)

        def on_event(event: Event) -> None:
            if canary in event.paths:
                self._is_canary_out = False

        self._is_canary_watched = self._watch_directory(on_event, canary_dir)

    def _watch_directory(self, receive: Callable[[Event], None], path: str, *, recursive: bool = False) -> bool:
        assert self._observer is not None
        try:
            self._observer.watch(path, receive, recursive=recursive)
        except OSError as error:
            self._note(path, f"cannot watch: {error.strerror}", "see its rights and the sysctl fs.inotify.*")
            return False
        return True

    def _unwatch(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()

    def _send_canary(self) -> None:
        now = self._clock()
        if not self._is_canary_watched or self._is_canary_out or now < self._touch_at:
            return
        self._is_canary_out, self._sent_at, self._touch_at = True, now, now + CANARY_EVERY_S
        try:
            self._canary.touch()
        except OSError as error:
            self._is_canary_out = False
            self._note(self._canary, f"cannot prove that events arrive: {error.strerror}", "make it writable")
        else:
            self._failures.pop(str(self._canary), None)

    def _on_tree_event(self, event: Event) -> None:
        slash = "/" if event.is_directory else ""
        if any(self._matters(path + slash) for path in event.paths):
            self._wake(CHANGE)

    def _matters(self, path: str) -> bool:
        named = self._as_named(path)
        if named is None or self._is_relevant is None:
            return named is not None
        try:
            return self._is_relevant(named)
        except Exception as error:  # noqa: BLE001  a thread of the observer ends for good with an exception of ours
            self._note("is_relevant", f"failed with {error!r}", BUG)
            return True

    def _as_named(self, path: str) -> str | None:
        """The path below the tree as the configuration names it, since a symlinked root is watched by its real path."""
        for tree, identity in self._identities.items():
            if identity is not None and (path + "/").startswith(identity[2].rstrip("/") + "/"):
                return str(tree) + path[len(identity[2]) :]
        return None

    def _has_matters(self, directory: str) -> bool:
        """Whether a file of any name in this directory matters: not so in a directory of logs."""
        return self._matters(f"{directory}/any")

    def _wake(self, reason: str) -> None:
        try:
            self._on_event(reason)
        except Exception as error:  # noqa: BLE001  likewise
            self._note("on_event", f"failed with {error!r}", BUG)

    def _note(self, where: str | Path, what: str, next_step: str) -> None:
        self._failures[str(where)] = _problem(what, where, next_step)


def _problem(what: str, where: str | Path, next_step: str) -> str:
    return str(Message(what, str(where), "changes there are seen at check_every and schedule only", next_step))


def _identity(root: Path) -> Identity:
    try:
        status = root.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, os.path.realpath(root)) if stat.S_ISDIR(status.st_mode) else None

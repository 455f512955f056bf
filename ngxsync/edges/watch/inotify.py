"""Events of directories through watchdog, and what it keeps to itself. The one importer of watchdog."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from watchdog.events import (
    DirAttribEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)

PLACES: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
]
# Without a filter every read makes two events, our own hashing included; with less than this an editor's way of saving,
# or a move in or out, is missed (measured with watchdog 7.1). The filter is one for all watches, since two watches of one
# directory share what the kernel reports.
EVENTS = [*PLACES, FileModifiedEvent, FileAttribEvent, FileClosedEvent, DirAttribEvent]


@dataclass(frozen=True)
class Event:
    """`paths` is one path, or two of a rename; `is_place` says that a name came, went or now means another thing."""

    paths: tuple[str, ...]
    is_directory: bool
    is_place: bool


class Observer:
    """Threads that call back for events; once stopped, done for. OSError where the kernel gives no inotify instance.

    `on_overflow()`: the kernel dropped events. `has_matters(directory)`: writes to files there are of interest before
    they are closed. Both are called from another thread, as `receive` is, and may not raise.
    """

    def __init__(self, on_overflow: Callable[[], None], has_matters: Callable[[str], bool]) -> None:
        self._inotify = _Inotify(on_overflow, has_matters)
        self._observer = _Observer(self._inotify)
        self._observer.start()

    def watch(self, path: str, receive: Callable[[Event], None], *, recursive: bool = False) -> None:
        """Raises OSError where the directory itself cannot be watched; others below it are listed by `refused`."""
        self._observer.schedule(_Handler(receive), path, recursive=recursive, event_filter=EVENTS)

    def refused(self) -> dict[str, str]:
        """The directories that should be watched but are not, each with the reason."""
        return dict(self._inotify.refused)

    def is_alive(self) -> bool:
        """True while all its threads run; the one of a watched directory ends when that is deleted."""
        threads = (self._observer, self._inotify, *self._observer.emitters)
        return all(thread.is_alive() for thread in threads)

    def stop(self) -> None:
        self._observer.stop()
        self._observer.join()


class _Handler(FileSystemEventHandler):
    def __init__(self, receive: Callable[[Event], None]) -> None:
        self._receive = receive

    def dispatch(self, event: FileSystemEvent) -> None:
        paths = tuple(os.fsdecode(path) for path in (event.src_path, event.dest_path) if path)
        self._receive(Event(paths, event.is_directory, isinstance(event, tuple(PLACES))))


class _Inotify(InotifyFD):
    """watchdog's reader of the kernel's events, shared by all watches of one observer."""

    def __init__(self, on_overflow: Callable[[], None], has_matters: Callable[[str], bool]) -> None:
        super().__init__()
        os.set_inheritable(self._inotify_fd, False)  # watchdog leaves it to every program that this process starts
        self._on_overflow = on_overflow
        self._has_matters = has_matters
        self.refused: dict[str, str] = {}

    def handle_event(self, event: InotifyEvent) -> None:
        super().handle_event(event)
        if event.is_queue_overflow:  # no handler is told
            self._on_overflow()

    def _add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
        # Replaces watchdog's, which warns of a known callback with a text of up to a megabyte, often in a burst.
        # A busy access log below a tree would otherwise wake this process at each of its lines.
        if not self._has_matters(os.fsdecode(path)):
            mask = Mask(mask & ~InotifyConstants.IN_MODIFY)
        try:
            watch = self._get_or_create_watch(path, mask)
        except OSError as error:
            # watchdog leaves such a directory out without a word
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self.refused[os.fsdecode(path)] = error.strerror or str(error)
            raise
        watch.callbacks[id_] = callback
        return watch.wd


class _Observer(BaseObserver):
    """watchdog's InotifyObserver over our reader."""

    def __init__(self, inotify: _Inotify) -> None:
        super().__init__(InotifyEmitter, inotify_fd=inotify)
        self._inotify = inotify

    def on_thread_start(self) -> None:
        self._inotify.start()
        super().on_thread_start()

    def on_thread_stop(self) -> None:
        super().on_thread_stop()
        self._inotify.stop()
        self._inotify.join()

"""Progress of a run on a terminal. The one importer of rich."""

from __future__ import annotations

import threading

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

# the steps of a run in a person's words
STEPS = {
    "scan": "looking at its files",
    "stage": "sending",
    "transact": "testing, applying, proving",
    "settle": "waiting",
}


class RunProgress:
    """One line for each peer, gone when the run ends. Use as a context manager; `show` may be called from any thread."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True, highlight=False), transient=True)
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def pause(self) -> None:
        """Leaves the terminal to a question; the next `show` takes it again."""
        self._progress.stop()

    def show(self, peer: str, step: str, done: int, total: int) -> None:
        """`done` of `total` bytes of a step, total 0 where it is not known."""
        with self._lock:
            self._progress.start()
            if peer not in self._tasks:
                self._tasks[peer] = self._progress.add_task("", total=None)
            description = f"{peer}: {STEPS.get(step, step)}"
            self._progress.update(self._tasks[peer], description=description, completed=done, total=total or None)

"""Which peers' pauses have ended since the last look: each is followed by a run, whether or not any run met the pause."""

from __future__ import annotations

from collections.abc import Iterable

from ngxsync.edges.state import MasterState


class EndedPauses:
    """Between two looks a pause may come and go: it leaves no trace but that the file of pauses was written anew."""

    def __init__(self, state: MasterState, names: Iterable[str]) -> None:
        self._state, self._names = state, tuple(names)
        self._mark: tuple[int, int] | None = None
        self._paused: frozenset[str] = frozenset()

    def look(self) -> tuple[str, ...]:
        """The peers whose pause was ended by a person or its time, or may have been; the first time all that are not paused.

        Raises StateError, and has then forgotten nothing.
        """
        mark = self._state.pauses_mark()  # first: what changes from here on is seen the next time
        paused = frozenset(name for name in self._names if self._state.active_pause(name) is not None)
        may_have_ended = self._paused if mark == self._mark else self._names
        self._mark, self._paused = mark, paused
        return tuple(name for name in self._names if name in may_have_ended and name not in paused)

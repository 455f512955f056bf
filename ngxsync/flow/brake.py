"""Ctrl-C's half of a run: until it is pulled transactions may begin, and what has begun is waited for (DESIGN 6, 130)."""

from __future__ import annotations

import threading

from ngxsync.core.errors import Held, Message


class Brake:
    """Safe to use from several threads: a transaction begins either before the brake is pulled, or never."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: list[str] = []
        self._is_pulled = False

    def pull(self) -> tuple[str, ...]:
        """From now on nothing begins; the peers whose transaction has begun before."""
        with self._lock:
            self._is_pulled = True
            return tuple(self._begun)

    def pass_by(self, peer: str) -> None:
        """Just before the peer's transaction. Raises Held (interrupted) where the brake is pulled."""
        with self._lock:
            if self._is_pulled:
                raise Held(
                    Message("interrupted", peer, f"{peer} unchanged", "ngxsync sync goes on"), code="interrupted"
                )
            self._begun.append(peer)

    @property
    def is_abandoned(self) -> bool:
        """Pulled before anything began: nobody waits for this run, and nothing of it is worth remembering."""
        with self._lock:
            return self._is_pulled and not self._begun

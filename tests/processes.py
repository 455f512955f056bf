"""What the processes of a host show to others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.hosts import Host


@contextmanager
def shown_by_processes(host: Host) -> Iterator[set[bytes]]:
    """Every command line and environment that a process of this host has while this lasts."""
    shown: set[bytes] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            for folder in host.path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        shown.add((folder / name).read_bytes())
                    except OSError:
                        continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield shown
    finally:
        is_over.set()
        thread.join()

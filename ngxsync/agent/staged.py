"""The one open stage: which folders a transfer may fill now. A run registers it, the gate reads it, the run's end removes it."""

import contextlib
import json
import os
from typing import Any, Dict, Optional

from .store import Store

RECORD = "stage.json"

Staged = Optional[Dict[str, Any]]  # {"run", "stages": [[tree, folder], ...]}; None where no run is open


def register(store: Store, run: str, stages: Dict[str, str]) -> None:
    """Not durable: after a crash there is no transfer. Raises OSError."""
    temporary = store.path("%s.%d.tmp" % (RECORD, os.getpid()))
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump({"run": run, "stages": sorted(stages.items())}, stream)
    os.rename(temporary, store.path(RECORD))


def registered(store: Store) -> Staged:
    """Raises Damaged, OSError."""
    record: Staged = store.read(RECORD)
    return record


def forget(store: Store) -> None:
    with contextlib.suppress(OSError):
        os.unlink(store.path(RECORD))

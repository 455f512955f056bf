"""The one open stage: which folders a transfer may fill now. A run registers it, the gate reads it, the run's end removes it.

A master that is sending holds no lock, so another master leaves its stage alone: as long as something works in it, and LEASE_S
from its making (the time in which a transfer begins). The same master's earlier run is over: it has one at a time.
"""

import contextlib
import json
import os
import time
from typing import Any, Dict, Iterator, Optional

from .store import Busy, Damaged, Store

RECORD = "stage.json"
LEASE_S = 10.0

# {"run", "stages": [[tree, folder], ...], "written_by", "since"}; None where no run is open
Staged = Optional[Dict[str, Any]]


def raise_if_in_use(store: Store, run: str, written_by: str) -> None:
    """Raises Busy where another master's run is being sent to its stage now."""
    try:
        other = registered(store)
        if other is None or other["run"] == run or other["written_by"] == written_by:
            return
        folders = [os.path.realpath(folder) for _, folder in other["stages"]]
        age = time.time() - other["since"]
    except (KeyError, TypeError, ValueError):
        return  # nobody can say whose it is: nobody's
    pids = [pid for pid, place in places_of_processes() if any((place + "/").startswith(f + "/") for f in folders)]
    if pids or 0 <= age < LEASE_S:
        raise Busy(dict(other, pid=min(pids, default=0)))


def places_of_processes() -> Iterator[Any]:
    """(number, working directory) of each process that may be looked at; rsync works in the folder that it fills."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                yield int(name), os.readlink("/proc/%s/cwd" % name)


def register(store: Store, run: str, stages: Dict[str, str], written_by: str) -> None:
    """Not durable: after a crash there is no transfer. Raises OSError."""
    temporary = store.path("%s.%d.tmp" % (RECORD, os.getpid()))
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        record = {"run": run, "stages": sorted(stages.items()), "written_by": written_by, "since": time.time()}
        json.dump(record, stream)
    os.rename(temporary, store.path(RECORD))


def registered(store: Store) -> Staged:
    """None also where the record is damaged: a power cut leaves it so, and nobody sends after one. Raises OSError."""
    try:
        record: Staged = store.read(RECORD)
    except Damaged:
        return None
    return record


def forget(store: Store, run: str) -> None:
    """That of another run stays."""
    with contextlib.suppress(OSError, KeyError, TypeError):
        if (registered(store) or {"run": ""})["run"] == run:
            os.unlink(store.path(RECORD))

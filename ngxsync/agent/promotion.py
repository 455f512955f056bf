"""The verb promote: this host, which received, is made the one that pushes, by a person (pairs without a VIP)."""

import os
import time
from typing import Any, Dict, Optional

from . import journal
from .failures import failure_of
from .request import PROMOTED
from .run import settle_earlier
from .store import LOCK_WAIT_S, Busy, Damaged, Store

Answer = Dict[str, Any]
KIND = "promote"


def promote(request: Answer) -> Answer:
    """`promoted` and, where something was accepted here, who wrote it (`from`). What is open is finished or undone first.

    The accepted record gets a generation that no other host wrote: a master that returns finds it, and is held.
    """
    store = Store(request["state_dir"])
    try:
        store.prepare()
        with store.lock("transaction", "promote", float(request.get("wait_s", LOCK_WAIT_S)), request["written_by"]):
            settle_earlier(store)
            record = store.accepted()
            ours = {"generation": os.urandom(8).hex(), "written_by": request["written_by"], "kind": KIND}
            if record is None:
                store.write(PROMOTED, dict(ours, at=time.time()))
            if record is None or record.get("kind") == KIND:
                return {"ok": True, "promoted": False, "from": ""}
            store.write("accepted.json", dict(record, at=time.time(), **ours))
    except (Busy, Damaged, journal.Damaged, OSError) as error:
        raise failure_of(error, store)
    return {"ok": True, "promoted": True, "from": record["written_by"]}


def marked(store: Store, projection: Dict[str, Any]) -> Optional[Answer]:
    """In place of the record of a host that has none, where a person promoted it: to other hosts it is one that was promoted."""
    try:
        mark = store.read(PROMOTED)
        return mark and dict(mark, id="0" * 64, run=KIND, projection=projection, proven=False)
    except (Damaged, OSError, TypeError, ValueError):
        return None

"""How late it is at most: a wall clock that jumps ahead must not make young runs old (TRANSACTION, records: keep_for).

Within one boot no more time has passed than the machine has been up since the first look. Across boots the clock is believed.
"""

import contextlib
from typing import Optional

from .known import boot_id
from .store import Damaged, Store
from .trees import first_line

RECORD = "clock.json"


def latest_now(store: Store, now: float) -> float:
    """`now` (seconds since the epoch), or less where the clock went ahead by more than passed since this boot's first look."""
    boot, uptime = boot_id(), _uptime()
    if not boot or uptime is None:
        return now
    try:
        seen = store.read(RECORD) or {}
        if seen.get("boot") == boot:
            return min(now, float(seen["at"]) + uptime - float(seen["uptime"]))
    except (Damaged, AttributeError, KeyError, TypeError, ValueError):
        pass
    with contextlib.suppress(OSError):  # on a full disk the sweep is most wanted
        store.write(RECORD, {"boot": boot, "at": now, "uptime": uptime})
    return now


def _uptime() -> Optional[float]:
    """Seconds since boot, the time asleep included."""
    words = first_line("/proc/uptime").split()
    return float(words[0]) if words else None

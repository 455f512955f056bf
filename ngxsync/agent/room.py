"""How much of `keep_size` the store takes: a warning at 80 %, held at 100 % (TRANSACTION, records)."""

import os
import time
from typing import Dict, List, Optional

from .answers import Failure
from .journal import Item
from .manifest import FILE
from .store import Store
from .sweep import Keep, sweep

WARNED_PCT = 80
BLOCK = 4096  # what a file takes is a multiple of it
COUNTED = ("blobs", "manifests", "runs")
UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def used_bytes(store: Store) -> int:
    """What the store takes on the disk."""
    return sum(_below(store.path(folder)) for folder in COUNTED)


def _below(folder: str) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _below(entry.path)
            else:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def incoming_bytes(store: Store, items: List[Item]) -> int:
    """What the run would add: the old contents that the store does not have yet, and a manifest like the latest one."""
    replaced = [item.before for item in items if item.action in ("exchange", "delete")]
    sizes: Dict[str, int] = {fields[6]: fields[5] for fields in replaced if fields is not None and fields[0] == FILE}
    contents = sum(-(-size // BLOCK) * BLOCK for sha256, size in sizes.items() if not store.has_blob(sha256))
    return contents + _manifest_bytes(store)


def _manifest_bytes(store: Store) -> int:
    accepted = store.accepted()
    try:
        return 512 * os.stat(store.path("manifests", accepted["run"] + ".json")).st_blocks if accepted else 0
    except FileNotFoundError:
        return 0


def raise_if_full(store: Store, keep: Optional[Keep], items: List[Item]) -> int:
    """What the store will take once this run is accepted; called before anything is changed.

    Raises Failure (store) where that is too much, even when all that may go is swept.
    """
    if keep is None:
        return 0
    incoming, used = incoming_bytes(store, items), used_bytes(store)
    if _is_warned(used + incoming, keep):
        sweep(store, keep, time.time(), thorough=True)
        used = used_bytes(store)
    if used + incoming < keep.size:
        return used + incoming
    what = "%s, and this run would add %s" % (_told(used, keep), size_text(incoming))
    raise Failure("store", what, where=store.root, next=_advice(keep) + "; then `ngxsync sync`")


def room_warning(store: Store, keep: Optional[Keep], expected: int) -> str:
    """Empty where there is room enough; counted only where `expected` was too much. Raises OSError."""
    if keep is None or not _is_warned(expected, keep):
        return ""
    used = used_bytes(store)
    if not _is_warned(used, keep):
        return ""
    return "%s in %s; at 100%% runs are held: %s" % (_told(used, keep), store.root, _advice(keep))


def _is_warned(used: int, keep: Keep) -> bool:
    return used * 100 >= WARNED_PCT * keep.size


def _told(used: int, keep: Keep) -> str:
    return "what is kept for history and rollback takes %s of the %s that keep_size allows" % (
        size_text(used),
        size_text(keep.size),
    )


def _advice(keep: Keep) -> str:
    size, unit = next((pair for pair in UNITS if keep.for_s >= pair[0]), UNITS[-1])
    words = (keep.runs, keep.for_s / size, unit)
    return "raise keep_size, or lower keep_runs (%d) or keep_for (%g%s), in [sync] of config.ini" % words


def size_text(size: float) -> str:
    """In the units of config.ini: 812B, 1.5K, 20M, 3.1G."""
    if size < 1024:
        return "%dB" % size
    for unit in "KMG":
        size /= 1024.0
        if size < 999.5 or unit == "G":
            break
    return ("%.1f%s" if size < 9.95 and size != int(size) else "%.0f%s") % (size, unit)

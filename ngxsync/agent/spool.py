"""STATE/spool: what people are to be told of, left there by whoever saw it, one file an event; the daemon sends it.

`new/` is what nobody has looked at yet. An event is one JSON object, kept until it was told or is too old to be news.
"""

import contextlib
import json
import os
import time
from typing import Any, Dict, List

LIMIT = 500  # files: whoever leaves them may go on for days while nobody reads
LARGEST = 1 << 17  # bytes of one event


def folder(state_dir: str) -> str:
    return os.path.join(state_dir, "spool", "new")


def leave(state_dir: str, event: Dict[str, Any]) -> str:
    """The event's path. Where the spool is full the oldest goes: how it is now is what people need. Raises OSError.

    Adds `schema` (1), `host` and `at` (seconds since the epoch) where they are missing, and how many are `lost` for it.
    """
    place = folder(state_dir)
    for path in (os.path.dirname(place), place):
        if not os.path.isdir(path):
            os.makedirs(path, mode=0o700, exist_ok=True)
    whole: Dict[str, Any] = {"schema": 1, "host": os.uname().nodename, "at": time.time()}
    surplus = _surplus(place)
    if surplus:
        whole["lost"] = sum(1 + _lost_for(path) for path in surplus)
    whole.update(event)
    name = "%020d-%d.json" % (int(time.time() * 1e6), os.getpid())
    temporary = os.path.join(place, "." + name)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(json.dumps(whole).encode("ascii"))
            stream.flush()
            os.fsync(stream.fileno())
        path = os.path.join(place, name)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    for old in surplus:
        with contextlib.suppress(OSError):  # it was told meanwhile, or is nothing of ours
            os.unlink(old)
    return path


def _surplus(place: str) -> List[str]:
    """The oldest, so that one more finds room."""
    names = sorted(name for name in os.listdir(place) if not name.startswith("."))
    return [os.path.join(place, name) for name in names[: max(0, len(names) - LIMIT + 1)]]


def _lost_for(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo in its place must not keep us waiting
        with os.fdopen(fd, "rb") as stream:
            return int(json.loads(stream.read(LARGEST).decode("utf-8"))["lost"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0

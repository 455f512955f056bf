"""STATE/spool: what people are to be told of, left there by whoever saw it, one file an event; the daemon sends it.

`new/` is what nobody has looked at yet. An event is one JSON object, kept until it was told or is too old to be news.
"""

import json
import os
import time
from typing import Any, Dict

LIMIT = 500  # files: whoever leaves them may go on for days while nobody reads


def folder(state_dir: str) -> str:
    return os.path.join(state_dir, "spool", "new")


def leave(state_dir: str, event: Dict[str, Any]) -> str:
    """The event's path; "" where the spool is full: the events in it say enough. Raises OSError.

    Adds `schema` (1), `host` and `at` (seconds since the epoch) where they are missing.
    """
    place = folder(state_dir)
    for path in (os.path.dirname(place), place):
        if not os.path.isdir(path):
            os.makedirs(path, mode=0o700, exist_ok=True)
    if len(os.listdir(place)) >= LIMIT:
        return ""
    whole = {"schema": 1, "host": os.uname().nodename, "at": time.time()}
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
    return path

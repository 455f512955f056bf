"""What scans learnt of files, kept so that an unchanged one is not read again: in memory, and as a file of master and peer.

A file is known by one string, "DEVICE INODE SIZE MTIME CTIME MODE UID GID SHA256": a file of such strings is read five times as
fast as one of lists, and compared as fast.
"""

import contextlib
import hashlib
import json
import os
from operator import attrgetter
from typing import Any, Dict, NamedTuple, Optional

SHA = 64  # hexadecimal digits
STAT = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", "st_mode", "st_uid", "st_gid")
MARK = "%d %d %d %d %d %d %d %d "

Known = NamedTuple(
    "Known",
    [
        ("rules", str),  # digest of the excludes that were asked of these paths, and let them in
        ("marks", Dict[str, str]),  # absolute path of a file -> what it is known by
    ],
)


def nothing() -> Known:
    return Known("", {})


def rules_digest(projection: Dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(projection["trees"], sort_keys=True).encode("ascii")).hexdigest()


def mark_of(info: os.stat_result) -> str:
    """What no edit leaves as it is."""
    return MARK % STAT(info)


def content_of(mark: Optional[str], info: os.stat_result) -> str:
    """The sha256 of a file that is still what it was known by; "" where it is another, or was never known."""
    return mark[-SHA:] if mark is not None and mark[:-SHA] == mark_of(info) else ""


def boot_id() -> str:
    """As process 1 sees it: a container's own may be hidden from a service, whose /proc is a new one."""
    for proc in ("/proc/1/root/proc", "/proc"):
        try:
            with open(proc + "/sys/kernel/random/boot_id") as stream:
                return stream.readline().strip()
        except OSError:
            continue
    return ""


def read_known(path: str) -> Known:
    """What was kept since this boot (a power cut may take bytes of a file back, and leave its times); nothing where that is damaged."""
    try:
        with open(path, "rb") as stream:
            data = json.loads(stream.read().decode("ascii"))
        marks = data["marks"]
        if data["boot"] == boot_id() and all(type(mark) is str for mark in marks.values()):
            return Known(str(data["rules"]), marks)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # only speed is lost
    return nothing()


def write_known(path: str, known: Known) -> None:
    """Without it every file is read once more."""
    data = {"boot": boot_id(), "rules": known.rules, "marks": known.marks}
    write_quietly(path, json.dumps(data, separators=(",", ":")).encode("ascii"))


def write_quietly(path: str, data: bytes) -> None:
    """Whole or not at all, 0600: what only saves time is not worth an error, nor an fsync."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as stream:
            stream.write(data)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)

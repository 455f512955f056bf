"""Words for people: names and foreign text made harmless, ids, sizes, durations and times made short."""

from __future__ import annotations

import errno
from collections.abc import Collection
from datetime import datetime, tzinfo
from pathlib import PurePath

from ngxsync.core.errors import Message

SHOWN = 5  # so many paths a message names


def safe_name(name: str) -> str:
    """A file name on one line, harmless to a terminal and unambiguous: what is not printable is backslash-escaped."""
    return escaped(name.replace("\\", "\\\\"))


def safe_text(text: str, indent: str = "    ") -> str:
    """Text of other origin (nginx, a peer): its lines stay lines, indented so that they cannot pose as ours."""
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    return f"\n{indent}".join(escaped(line.replace("\t", "    ")) for line in lines)


def one_line(text: str) -> str:
    return escaped(" ".join(text.split()))


def escaped(text: str) -> str:
    """What a terminal or a log would act on is spelled out: control characters (line breaks too), direction marks, bytes that
    are not UTF-8."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def short_id(snapshot: str) -> str:
    """The first 12 hex digits, enough for people."""
    return snapshot[:12]


def listed(paths: Collection[str]) -> str:
    """Some paths by name, the others by their number."""
    shown = ", ".join(safe_name(path) for path in list(paths)[:SHOWN])
    return f"{shown} and {len(paths) - SHOWN} more" if len(paths) > SHOWN else shown


def human_size(size: int) -> str:
    """Bytes in the units of config.ini: 812, 1.5K, 20M, 3.1G."""
    amount, unit = float(size), ""
    for unit in ("", "K", "M", "G", "T"):
        if amount < 999.5 or unit == "T":
            break
        amount /= 1024
    return f"{size}B" if not unit else f"{amount:.1f}{unit}" if amount < 9.95 else f"{amount:.0f}{unit}"


def human_duration(seconds: float) -> str:
    """Seconds in the units of config.ini, the two largest that matter: 340ms, 1.2s, 2m05s, 3h10m, 2d4h."""
    if seconds < 0.9995:
        return f"{max(0, round(seconds * 1000))}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    total = round(seconds)
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if not hours:
        return f"{minutes}m{total % 60:02d}s"
    return f"{hours}h{minutes % 60:02d}m" if not days else f"{days}d{hours % 24}h"


def render_moment(when: float, tz: tzinfo | None = None) -> str:
    """Local time unless `tz` says otherwise. For what is recorded: it is read later, where no "ago" is true any more."""
    return datetime.fromtimestamp(when, tz).strftime("%Y-%m-%d %H:%M:%S")


def render_time(when: float, now: float, tz: tzinfo | None = None) -> str:
    """The moment, and how far from `now` that is."""
    distance = human_duration(abs(now - when))
    return (
        f"{render_moment(when, tz)} ({distance} ago)" if when <= now else f"{render_moment(when, tz)} (in {distance})"
    )


def disk_message(path: PurePath, verb: str, error: OSError) -> Message:
    """What the operating system said about a file, in four parts. `verb` is read, write, create, lock or remove."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Message(f"cannot {verb}: the disk is full", str(path), "its old content is kept", "make room there")
    if error.errno in (errno.EACCES, errno.EPERM):
        advice = "run as the user of the daemon (root), or name another state_dir in [ngxsync]"
        return Message(f"cannot {verb}: permission denied", str(path), "nothing changed", advice)
    advice = "see to that file or its file system, then try again"
    return Message(f"cannot {verb}: {error.strerror or error}", str(path), "its old content is kept", advice)

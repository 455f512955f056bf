"""What nginx wrote to its error logs since a moment: it refutes a reload, and never proves one (TRANSACTION, reload and prove)."""

import glob
import os
import re
import stat
import time
from typing import BinaryIO, Iterable, Iterator, List, Match, NamedTuple, Optional, Set, Tuple

from .directives import open_file
from .nginx import Nginx, main_directives, value_of

LogMark = NamedTuple("LogMark", [("path", str), ("inode", int), ("offset", int)])
# `at` is a whole second since 1970; `text` has no time, level and process number
Entry = NamedTuple("Entry", [("at", float), ("level", str), ("pid", int), ("text", str), ("path", str)])
READ_LIMIT = 64 << 20  # bytes of one log: a debug log grows faster than anybody reads it
BLOCK = 64 << 10
LONGEST_LINE = 1 << 20
DISORDER_S = 2.0  # several processes write to one log

_TOLD = re.compile(rb"\[(?:emerg|alert)\]| exited ")
_LINE = re.compile(r"^\S+ \S+ \[(\w+)\] (\d+)#\d+: (.*)")
_DEATH = re.compile(r"worker process (\d+) exited (?:with fatal code|on signal)")
_ENTRY = re.compile(rb"^(\d{4})/(\d\d)/(\d\d) (\d\d):(\d\d):(\d\d) \[(\w+)\] (\d+)#\d+: (.*)", re.M)


def log_paths(conf: str, nginx: Nginx) -> Tuple[List[str], List[str]]:
    """(error logs of the main context of a configuration, values that cannot be read back such as syslog:)."""
    directives = main_directives(conf, nginx.prefix, nginx.args)
    values = [args[0] for name, args in directives if name == "error_log" and args]
    values = values or [value_of(nginx.args, "-e") or nginx.build.error_log]
    paths = [(value, os.path.join(nginx.prefix, value)) for value in values]
    unreadable = [value for value, path in paths if not _is_readable(value, path)]
    return [path for value, path in paths if value not in unreadable], unreadable


def _is_readable(value: str, path: str) -> bool:
    """A regular file, or none yet: a pipe or a terminal would have us wait for ever."""
    if value == "stderr" or value.startswith(("syslog:", "memory:")):
        return False
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.R_OK)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def mark_logs(paths: List[str]) -> List[LogMark]:
    """Where each log ends now."""
    marks = []
    for path in sorted(set(paths)):
        try:
            info = os.stat(path)
            marks.append(LogMark(path, info.st_ino, info.st_size))
        except OSError:
            marks.append(LogMark(path, 0, 0))
    return marks


def read_since(marks: List[LogMark]) -> List[str]:
    """The lines since the marks that may refute; of a rotated or recreated log all of them."""
    lines: List[str] = []
    for mark in marks:
        try:
            if not stat.S_ISREG(os.stat(mark.path).st_mode):
                continue
            with open(mark.path, "rb") as stream:
                info = os.fstat(stream.fileno())
                same = info.st_ino == mark.inode and info.st_size >= mark.offset
                stream.seek(max(mark.offset if same else 0, info.st_size - READ_LIMIT))
                found = [line for line in stream if _TOLD.search(line)]
                lines += [line.decode("utf-8", "replace").rstrip("\n") for line in found]
        except OSError:
            continue
    return lines


def refusals(lines: List[str], main: int, born: Set[int], base: Set[int]) -> List[str]:
    """Lines that refute: [emerg] of the main process or of workers born since, and violent deaths of workers outside `base`.

    Other processes, e.g. somebody's `nginx -t`, write to the same log and say nothing about our reload.
    """
    found = []
    heads = [(line, _LINE.match(line), _DEATH.search(line)) for line in lines]
    told = {int(death.group(1)) for _, head, death in heads if head and death and int(head.group(2)) == main} - base
    for line, head, death in heads:
        if head is None:
            continue
        if death is not None:
            is_ours = int(head.group(2)) == main and int(death.group(1)) in told
        else:
            level, pid = head.group(1), int(head.group(2))
            is_ours = level == "emerg" and pid in {main} | born or level in ("emerg", "alert") and pid in told
        found += [line] if is_ours else []
    return found


def text_of(line: str) -> str:
    """A line without its time, level and process number."""
    head = _LINE.match(line)
    return head.group(3) if head else line


def death_in(text: str) -> bool:
    """Whether the main process tells here that a worker died."""
    return _DEATH.match(text) is not None


# by time, for who did not see where the log ended then


def entries_since(
    paths: Iterable[str], since: float, levels: Iterable[str], until: Optional[float] = None
) -> List[Entry]:
    """What was logged at these levels from the second of a moment on, up to that of another, in order, also to what was rotated meanwhile.

    The log's times are local ones, of nginx; they are read as this process would write them.
    """
    found: List[Entry] = []
    marks = [b"[%s] " % level.encode() for level in levels]
    for path in sorted(set(paths)):
        for file in _with_rotated(path, since):
            try:
                with open_file(file) as stream:
                    found += [
                        entry for entry in _entries_of(stream, file, since, until, marks) if entry.at >= int(since)
                    ]
            except OSError:
                continue
    return sorted(found, key=lambda entry: entry.at)


def _with_rotated(path: str, since: float) -> List[str]:
    """The log and what lies beside it as `error.log.1` or `error.log-20261126`, oldest first: what was written to since."""
    aged = []
    for file in {path} | set(glob.glob(glob.escape(path) + "[.-]*[0-9]")):
        try:
            written = os.stat(file).st_mtime
        except OSError:
            continue
        if written >= int(since):
            aged.append((written, file))
    return [file for _, file in sorted(aged, key=lambda item: (item[0], item[1] == path, item[1]))]


def _entries_of(
    stream: BinaryIO, path: str, since: float, until: Optional[float], marks: List[bytes]
) -> Iterator[Entry]:
    """A log of months is not read for one minute of it: it is entered near `since`, and left after `until`."""
    size = os.fstat(stream.fileno()).st_size
    start = _offset_of(stream, size, since - DISORDER_S)
    stream.seek(start if until is not None else max(start, size - READ_LIMIT))
    rest = b""
    while True:
        block = stream.read(BLOCK)
        whole, newline, rest = (rest + block).rpartition(b"\n") if block else (rest, b"", b"")
        if until is not None:
            first = _ENTRY.search(whole)
            at = _moment(first) if first else None
            if at is not None and at > until + DISORDER_S:
                return
        if any(mark in whole for mark in marks):
            for match in _ENTRY.finditer(whole):
                at = _moment(match) if b"[%s] " % match.group(7) in marks else None
                if at is not None and (until is None or at <= until):
                    words = match.group(9).decode("utf-8", "replace")
                    yield Entry(at, match.group(7).decode(), int(match.group(8)), words, path)
        rest = rest if len(rest) < LONGEST_LINE else b""
        if not block:
            return


def _offset_of(stream: BinaryIO, size: int, moment: float) -> int:
    """An offset before which all is older."""
    low, high = 0, size
    while high - low > BLOCK:
        middle = (low + high) // 2
        stream.seek(middle)
        first = _ENTRY.search(stream.read(BLOCK))
        at = _moment(first) if first else None
        if at is not None and at < moment:
            low = middle
        else:
            high = middle
    return low


def _moment(match: Match[bytes]) -> Optional[float]:
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    try:
        return time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
    except (OverflowError, ValueError):
        return None

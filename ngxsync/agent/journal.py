"""The journal of one transaction: what is planned, and how far it got. It exists only while a transaction does.

First line: the header. Each further line: a phase, appended and fsynced. A torn last line was never promised and is ignored.
"""

import json
import os
from typing import Any, Dict, List, NamedTuple, Optional

from .store import encoded, fsync_folder, write_durably

OPEN, APPLIED, SIGNALLED = "open", "applied", "signalled"


class Damaged(Exception):
    """The journal's first line cannot be read: what was open is not known."""


# one planned path: `number` names its prepared or captured file, `home` the folder (tree or mount below it) that holds .ngxsync
Item = NamedTuple(
    "Item",
    [
        ("number", int),
        ("path", str),
        ("tree", str),
        ("home", str),
        ("action", str),  # exchange, create, delete, mkdir, rmdir or attributes
        ("before", Optional[List[Any]]),
        ("after", Optional[List[Any]]),
        ("xattrs", Dict[str, str]),  # of what rmdir takes away or attributes change: name -> value in hex
        ("live_inode", int),  # of what was there, and of what was prepared; 0 for nothing: who is who after a crash
        ("prepared_inode", int),
    ],
)

Journal = NamedTuple("Journal", [("header", Dict[str, Any]), ("items", List[Item]), ("phase", str)])


def begin(path: str, header: Dict[str, Any], items: List[Item]) -> None:
    """Step 2 of the order on disk. header: {run, agent, nginx, projection, at}."""
    write_durably(path, encoded({"header": header, "items": [list(item) for item in items]}) + b"\n")


def note_phase(path: str, phase: str, is_durable: bool = True) -> None:
    """Durable when this returns, unless it may wait for the phase that follows."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, encoded({"phase": phase}) + b"\n")
        if is_durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def read(path: str) -> Optional[Journal]:
    """The open journal, None where there is none. Raises Damaged."""
    try:
        with open(path, "rb") as stream:
            lines = stream.read().split(b"\n")
    except FileNotFoundError:
        return None
    try:
        first = json.loads(lines[0].decode("ascii"))
        header, items = first["header"], [Item(*fields) for fields in first["items"]]
        header["run"], header["agent"], header["nginx"], header["projection"]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged("%s: %r" % (path, error))
    return Journal(header, items, _last_phase(lines[1:]))


def read_header(path: str) -> Optional[Dict[str, Any]]:
    """The header alone, which every release can read; None where there is no journal. Raises Damaged."""
    try:
        with open(path, "rb") as stream:
            return dict(json.loads(stream.readline().decode("ascii"))["header"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged("%s: %r" % (path, error))


def _last_phase(lines: List[bytes]) -> str:
    phase = OPEN
    for line in lines:
        try:
            phase = json.loads(line.decode("ascii"))["phase"]
        except (ValueError, KeyError, TypeError):
            break
    return phase


def end(path: str) -> None:
    """Step 8. Durable when this returns; nothing happens where there is none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    fsync_folder(os.path.dirname(path))


def describe(path: str) -> Optional[Dict[str, Any]]:
    """The open journal for people and other hosts, None where there is none: {run, phase, since}."""
    try:
        opened = read(path)
    except Damaged:
        return {"run": "", "phase": "damaged", "since": None}
    if opened is None:
        return None
    return {"run": opened.header["run"], "phase": opened.phase, "since": opened.header.get("at")}

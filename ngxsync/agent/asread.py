"""What nginx's files held when it read them: a file that was touched, or changed and put back, is nothing new to it.

A time alone cannot tell: a sync of times, an undo, an editor that saves the same again make a file younger than the workers that
read it. So the first look after a reload keeps the sha256 of each file that is older than the workers, and later looks compare.
"""

import hashlib
import json
import os
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional

from .directives import open_file
from .store import write_durably

NAME = "asread.json"
CHUNK = 1 << 20

# which reading: main process, its start in ticks, and how long after that start the serving workers were born
Reading = NamedTuple("Reading", [("pid", int), ("start", int), ("after_s", float)])


class AsRead:
    """`folder` is where it is kept, "" for nowhere: then only times tell."""

    def __init__(self, folder: str, reading: Reading) -> None:
        self.folder, self.reading = folder, reading
        self.files: Optional[Dict[str, str]] = self._kept()

    def _kept(self) -> Optional[Dict[str, str]]:
        """{path: sha256} of this very reading, None where another or none is kept."""
        try:
            with open_file(os.path.join(self.folder, NAME)) as stream:
                found: Any = json.loads(stream.read().decode("ascii"))
            is_same = found["reading"] == list(self.reading)
            return {str(path): str(sha256) for path, sha256 in found["files"].items()} if is_same else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def keep(self, paths: Iterable[str], until: float) -> None:
        """These are what nginx has read, unless changed after `until`; where it cannot be written only forgiveness is lost."""
        if not self.folder or self.files is not None:
            return
        self.files = {path: sha256_of(path, until) for path in paths}
        value = {"reading": list(self.reading), "files": self.files}
        try:
            write_durably(os.path.join(self.folder, NAME), json.dumps(value).encode("ascii"))
        except OSError:
            pass

    def is_as_read(self, path: str) -> bool:
        """Whether it holds what it held then."""
        known = (self.files or {}).get(path, "")
        return bool(known) and sha256_of(path) == known

    def gone(self, paths: Iterable[str]) -> Optional[str]:
        """The first file that was read and is none of these any more."""
        return min(set(self.files or ()) - set(paths), default=None)


def place_of(state_dir: str) -> str:
    """Where a host keeps it: as a peer, else as a master; "" before it is either."""
    return next((path for path in (state_dir + "/peer", state_dir + "/master") if os.path.isdir(path)), "")


def sha256_of(path: str, until: float = float("inf")) -> str:
    """ "" where it cannot be read, or was changed after `until`, or meanwhile: then it is like nothing."""
    digest = hashlib.sha256()
    try:
        with open_file(path) as stream:
            before = os.fstat(stream.fileno())
            for part in iter(lambda: stream.read(CHUNK), b""):
                digest.update(part)
            after = os.fstat(stream.fileno())
    except OSError:
        return ""
    is_settled = _stamp(before) == _stamp(after) and after.st_ctime <= until
    return digest.hexdigest() if is_settled else ""


def _stamp(found: os.stat_result) -> Mapping[str, int]:
    return {"size": found.st_size, "mtime": found.st_mtime_ns, "ctime": found.st_ctime_ns}

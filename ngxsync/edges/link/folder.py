"""A private folder for ssh's configuration and socket, locked while its owner lives: what a dead one left is swept."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from itertools import islice
from pathlib import Path

PREFIX = "link-"
FALLBACK, FALLBACK_PREFIX = Path("/tmp"), "ngxsync-link-"  # where the runtime folder's name is too long for a socket
SOCKET = "mux"
SWEPT_AT_MOST = 100


class PrivateFolder:
    """`path` is there until `remove`, which may be called twice, or until another process sweeps after this one's end."""

    def __init__(self, runtime_dir: Path) -> None:
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(runtime_dir, PREFIX)
        sweep(FALLBACK, FALLBACK_PREFIX)
        self.path, self._lock = _locked_folder(runtime_dir)

    def remove(self) -> None:
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def _locked_folder(runtime_dir: Path) -> tuple[Path, int | None]:
    while True:
        folder = _new_folder(runtime_dir)
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)  # swept by another process before it was locked


def _new_folder(runtime_dir: Path) -> Path:
    """ssh's socket in it must fit into 108 bytes, with 17 of ssh's own while it is made."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=runtime_dir))
    if len(str(folder / SOCKET)) + 17 < 108:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix=FALLBACK_PREFIX, dir=FALLBACK))


def sweep(parent: Path, prefix: str) -> None:
    """Removes what killed processes left, but not from under an ssh that still keeps its connection (an hour at most)."""
    for folder in islice(filter(is_own, parent.glob(f"{prefix}*")), SWEPT_AT_MOST):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_listening(folder / SOCKET):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # its owner lives
        finally:
            os.close(lock)


def is_own(folder: Path) -> bool:
    """A directory that this user made and nobody else can look into: in /tmp anybody may make one of that name."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700


def is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True

"""The crontabs of this host, read and never written: the user's own, /etc/crontab and /etc/cron.d."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SYSTEM = (Path("/etc/crontab"), Path("/etc/cron.d"))


@dataclass(frozen=True)
class Crontab:
    """`place` as people know it, `user` whose it is ("root" for the system's, whose lines name their own)."""

    place: str
    user: str
    text: str


def read_crontabs() -> list[Crontab]:
    """All that this user may read; none is missed loudly, since few hosts have them all."""
    return [*_own(), *_system()]


def _own() -> Iterator[Crontab]:
    user = getpass.getuser()
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["crontab", "-l"], capture_output=True, timeout=10, check=False)
        if done.returncode == 0:
            yield Crontab(f"the crontab of {user} (crontab -e)", user, done.stdout.decode("utf-8", "replace"))


def _system() -> Iterator[Crontab]:
    for place in SYSTEM:
        # cron itself passes over names with a dot
        for file in sorted(f for f in place.iterdir() if "." not in f.name) if place.is_dir() else [place]:
            with suppress(OSError):
                yield Crontab(str(file), "root", file.read_text("utf-8", "replace"))

"""One thing that would break a failover: where it stands, why, and the line that mends it."""

from __future__ import annotations

from dataclasses import dataclass

from ngxsync.core.checkup import FAILED, Check


@dataclass(frozen=True)
class Place:
    """Where on a host; `file` "" is no file's doing, `line` 0 a whole file's."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


NOWHERE = Place()


@dataclass(frozen=True)
class Finding:
    """`state` is FAILED or WARNING: what breaks it, or what only may. `mend` is a line of keepalived.conf, or a command."""

    code: str
    host: str
    place: Place
    what: str
    mend: str
    state: str = FAILED

    def as_check(self) -> Check:
        return Check(
            self.host, self.code, self.state, f"{self.place}: {self.what}" if self.place.file else self.what, self.mend
        )

"""The values that cross module borders: changes, plans, problems, results of runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ngxsync.agent.manifest import Entry, Manifest, snapshot_id
from ngxsync.core.errors import Message

if TYPE_CHECKING:
    from ngxsync.core.carrying import Carrying
    from ngxsync.core.look import Look

# Status words of DESIGN 6; `applied` is the one outcome that is no status word.
APPLIED = "applied"
IN_SYNC = "in-sync"
PENDING = "pending"
DRIFTED = "drifted"
CONFLICT = "conflict"
HELD = "held"
PAUSED = "paused"
REFUSED = "refused"
UNDONE = "undone"
BROKEN = "broken"
NOT_PROVEN = "not-proven"
STALE_RUNNING = "stale-running"
NGINX_DOWN = "nginx-down"
UNREACHABLE = "unreachable"
FIRST_SYNC = "awaiting-first-sync"
STANDBY = "standby"
UNKNOWN = "unknown"

# the most serious wins where several peers differ (DESIGN 6)
SEVERITY = (7, 6, 5, 8, 4, 1)


def worst_exit(statuses: list[int]) -> int:
    """The exit status of a run over several peers; statuses outside the order (2, 3, 9, 70) win over it."""
    outside = [status for status in statuses if status and status not in SEVERITY]
    if outside:
        return max(outside)
    return min((s for s in statuses if s), key=SEVERITY.index, default=0)


@dataclass(frozen=True)
class Problem:
    """One complaint about nginx configuration; `line` is 0 where there is none."""

    text: str
    file: str = ""
    line: int = 0
    level: str = "error"  # or "warning"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.text}"


@dataclass(frozen=True)
class Projection:
    """What of the trees counts: `trees` maps each root to its excludes [(regex, excluded)]; last match wins."""

    trees: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]
    owners: bool = True

    @property
    def roots(self) -> tuple[str, ...]:
        return tuple(root for root, _ in self.trees)

    def as_json(self) -> dict[str, Any]:
        trees = [{"path": root, "exclude": [[regex, out] for regex, out in rules]} for root, rules in self.trees]
        return {"trees": trees, "owners": self.owners}


@dataclass(frozen=True)
class Snapshot:
    """A manifest with its projection and id; `specials` are sockets, devices and pipes that are left alone.

    `roots` maps each tree to {"real": path, "dev": int, "mounts": [path, ...]}, what the root guards compare.
    """

    manifest: Manifest
    projection: Projection
    specials: tuple[str, ...] = ()
    roots: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        return snapshot_id(self.manifest, self.projection.as_json())


@dataclass(frozen=True)
class Change:
    """One difference. `before` is the peer's entry, `after` the master's, `base` the accepted one; None is absence.

    `kind`: created, deleted, content, mode, owner, link, type, mtime. `cause`: pending, drift, conflict, first-contact.
    """

    path: str
    kind: str
    before: Entry | None
    after: Entry | None
    base: Entry | None = None
    cause: str = "pending"


@dataclass(frozen=True)
class Plan:
    """All changes in the order in which the agent applies them (see core.plan)."""

    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    def counts(self) -> dict[str, int]:
        result: dict[str, int] = {}
        for change in self.changes:
            result[change.kind] = result.get(change.kind, 0) + 1
        return result


@dataclass(frozen=True)
class PeerResult:
    """What one run did to one peer. `outcome` is a status word or `applied`, `exit` that of DESIGN 6.

    `timings` are seconds by step; `reload` is reloaded, not-needed, none (nothing to reload) or "". `run` is the run's id there,
    another one than the record's where it was planned anew.
    """

    name: str
    outcome: str
    code: str = ""
    exit: int = 0
    snapshot: str = ""
    accepted: str = ""
    changes: tuple[Change, ...] = ()
    message: Message | None = None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    reload: str = ""
    bytes_sent: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    run: str = ""


@dataclass(frozen=True)
class RunResult:
    """One run over all its peers; `problems` and `message` speak of the master (exit 3)."""

    run: str
    trigger: str
    snapshot: str = ""
    exit: int = 0
    outcome: str = IN_SYNC
    code: str = ""
    peers: tuple[PeerResult, ...] = ()
    problems: tuple[Problem, ...] = ()
    message: Message | None = None
    started: float = 0.0
    duration_s: float = 0.0


@dataclass(frozen=True)
class Pause:
    """A person's switch: no automatic run until it ends. `peer` is "" for all; times are seconds since the epoch."""

    who: str
    reason: str
    since: float
    until: float | None = None
    peer: str = ""


@dataclass(frozen=True)
class PeerStatus:
    """One line of `status`: `word` is a status word of DESIGN 6, `since` and other times seconds since the epoch.

    `exit` is the exit status that the word stands for (3 or 5 for a refusal, by the host that refused).
    """

    name: str
    word: str = UNKNOWN
    since: float | None = None
    accepted: str = ""
    accepted_at: float | None = None
    proven: bool | None = None
    last_run: str = ""
    last_run_at: float | None = None
    last_outcome: str = ""
    exit: int = 1
    pause: Pause | None = None
    message: Message | None = None
    look: Look | None = None  # at its readiness, the latest
    next: str = ""  # what to do, where it is not the usual advice for the word


@dataclass(frozen=True)
class StatusReport:
    """What `status` answers at the time `now`; `next_fires` are (what fires, when) in order."""

    host: str
    now: float
    peers: tuple[PeerStatus, ...] = ()
    next_fires: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    vrrp: tuple[Carrying, ...] = ()  # both hosts, this one first

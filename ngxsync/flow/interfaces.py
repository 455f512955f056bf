"""What the flow asks of the edges, and the values it hands back to the entries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ngxsync.agent.directives import NamedFile
from ngxsync.agent.manifest import Manifest, snapshot_id
from ngxsync.core.config import PeerConfig
from ngxsync.core.following import Following, Found, Kept, Serving
from ngxsync.core.guards import PeerFacts
from ngxsync.core.model import Plan, Problem, Projection, Snapshot
from ngxsync.core.standing import Received, Standing
from ngxsync.flow.brake import Brake

Progress = Callable[[str, str, int, int], None]  # peer, step, done, total (0 where unknown)


@dataclass(frozen=True)
class Validation:
    """What `nginx -t` said on the master; `decided_by` is nginx or crossplane (where no nginx can be run)."""

    passed: bool
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    decided_by: str = "nginx"
    binary: str = ""


@dataclass(frozen=True)
class Named:
    """What the master's configuration names: all files, those that nginx loads, secrets, and the self-excludes by tree."""

    files: tuple[NamedFile, ...] = ()
    loads: Callable[[str], bool] = lambda _path: False
    secrets: frozenset[str] = frozenset()
    self_excludes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class MasterNginx(Protocol):
    """This host's own nginx, seen from without: edges/serving.py."""

    def serving(self) -> Serving: ...

    def mark(self) -> str: ...

    def files(self, patterns: Collection[str]) -> Mapping[str, Found]: ...

    def refusal(self, since: float) -> str: ...

    def has_refused(self) -> bool: ...

    def complaint(self, serving: Serving, until: float, logs: Collection[str]) -> str: ...

    def unread_logs(self) -> tuple[str, ...]: ...

    def recall(self) -> Kept | None: ...

    def remember(self, kept: Kept) -> None: ...


class Master(Protocol):
    """This host: edges/local.py."""

    name: str
    owners: bool

    @property
    def nginx(self) -> MasterNginx: ...

    def named(self) -> Named: ...

    def scan(self, projection: Projection, *, full: bool) -> Snapshot: ...

    def validate(self) -> Validation: ...

    def warm(self) -> None: ...

    def ask(self, verb: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """A verb of the agent that reads only, on this host."""
        ...

    def settle(self, wait_s: float) -> object: ...

    def standing(self) -> Standing: ...

    def received(self, known: str) -> Received | None: ...

    def receiver(self, config: PeerConfig) -> Receiver: ...


class Host(Protocol):
    """A host that runs change, by its agent."""

    config: PeerConfig

    def call(
        self,
        verb: str,
        request: dict[str, Any],
        *,
        timeout_s: float,
        install: bool = False,
        go: Callable[[], None] | None = None,
    ) -> dict[str, Any]: ...

    def warm(self, verb: str) -> None: ...


class Peer(Host, Protocol):
    """One peer: its connection for the agent and the one for rsync, joined by the entry."""

    def send(
        self, tree: Path, names: Iterable[str], stage: str, progress: Callable[[int, int], None] | None
    ) -> int: ...


class Receiver(Host, Protocol):
    """This host where it is the one that receives, as a peer of its own: a pull's."""

    def staged(self, tree: str, stage: str, name: str) -> AbstractContextManager[BinaryIO]: ...


@dataclass(frozen=True)
class Options:
    """How a run was asked for. `confirm(peer, plan)` is a person's answer at a first sync that would delete; None asks nobody.

    `gate` lets a run work ahead while a burst of edits settles: scan, test, plan and stage touch nothing live.
    `brake` stops it from without, as long as nothing has begun.
    """

    trigger: str = "sync"
    full: bool = False
    by_person: bool = False
    force: Collection[str] = ()
    dry_run: bool = False
    wait_s: float = 60.0
    peers: Collection[str] = ()
    confirm: Callable[[str, Plan], bool] | None = None
    progress: Progress | None = None
    install: bool = True
    brake: Brake = field(default_factory=Brake)
    gate: Callable[[Prepared], bool] | None = None  # asked before anything is concluded or applied; False: start anew


@dataclass(frozen=True)
class Prepared:
    """Steps 2 and 3 for all peers: the validated snapshot (with the excludes common to all), and what nginx said.

    `mark` names the latest run that had changed this host's own trees by then (Master.settle). `standing` was looked at before all.
    `following`: whether this host's own nginx runs it, where the peers are to follow that (`follow`, `soak`).
    """

    run: str
    snapshot: Snapshot
    validation: Validation
    named: Named
    mark: object = None
    following: Following = field(default_factory=Following)
    standing: Standing = field(default_factory=Standing)


@dataclass(frozen=True)
class Comparison:
    """One peer against the master: the peer's facts, the plan, the base that it was made from, and who wrote last.

    `standing` is yours, first-contact or generation. `adopt` is True where both are equal and only the record is missing.
    """

    peer: PeerFacts
    snapshot: Snapshot
    plan: Plan
    base: Manifest | None
    accepted: Mapping[str, Any] | None
    standing: str
    base_name: str
    is_empty: bool
    journal: Mapping[str, Any] | None
    now: float
    carried: tuple[str, ...] | None = ()  # VIPs that the peer has; None: its agent is too old to say
    last_tenure: str = ""  # when the peer had them all last, "" for never
    why_not_healed: str = ""  # core/standing.py

    @property
    def peer_id(self) -> str:
        """The snapshot id of what is live on the peer."""
        return snapshot_id(self.peer.manifest, self.snapshot.projection.as_json())

    @property
    def adopt(self) -> bool:
        return not self.plan and self.standing != "yours"

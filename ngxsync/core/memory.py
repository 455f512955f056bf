"""What a master remembers of one peer, as a value and as JSON; where it is kept is the business of edges.state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from ngxsync.agent.manifest import Entry, entry_from_json
from ngxsync.core.errors import Message
from ngxsync.core.look import Look, look_from_json
from ngxsync.core.model import APPLIED, BROKEN, NOT_PROVEN, UNDONE, UNKNOWN, Pause

# what JSON may give for a field of this annotation
TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "bool | None": (bool, type(None)),
}


@dataclass(frozen=True)
class Quarantined:
    """A snapshot that was applied and undone on this peer (TRANSACTION, exit 6); `peer` is the id of what was live there."""

    snapshot: str
    why: str
    at: float
    peer: str = ""


@dataclass(frozen=True)
class Refused:
    """The snapshot that the peer's nginx refused in rehearsal last, since when (epoch seconds), and how often it was tried."""

    snapshot: str
    why: str
    since: float
    tries: int = 1


@dataclass(frozen=True)
class PeerRecord:
    """The master's memory of a peer. Times are seconds since the epoch.

    `generation` is the one that *this* master last wrote there, None where it never did: first contact (TRANSACTION,
    "Who may write"). `open_run` is the run whose transaction began and whose answer is not known yet: ask for it.
    `store` is what its agent last said of a store that is nearly full, "" where there is room.
    `broken` is why an undo failed there (exit 7): while it is open, automatic runs leave that peer alone.
    `self_excludes` maps a tree to the patterns that its configuration excluded by itself; they only accumulate.
    `is_root` is whether the agent there runs as root, so that owners count; None where it has not said so yet.
    `look` is what was found of its readiness last, None where nobody has looked, or the record of it is damaged.
    `parity` is the digest of what no sync makes equal (core/judge_parity.py), as it was told last; "" where it never was.
    `tenure` is that of this host in which that peer accepted last (core/standing.py), `peer_tenure` that in which the peer had
    held the VIP last by then: drift is healed while both are the same. `received` is the run in which another host had synced
    to this one last by then, "" for none; `pulled` is what was pulled from that peer since: both hosts had these entries then.
    `master_roots` and `peer_roots` are Snapshot.roots of both hosts at the last accepted run.
    """

    name: str
    generation: str | None = None
    accepted: str = ""
    accepted_at: float | None = None
    proven: bool | None = None
    self_excludes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    master_roots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    peer_roots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quarantine: tuple[Quarantined, ...] = ()
    refused: Refused | None = None
    open_run: str = ""
    is_root: bool | None = None
    broken: str = ""
    store: str = ""
    word: str = UNKNOWN
    since: float | None = None
    message: Message | None = None
    last_run: str = ""
    last_run_at: float | None = None
    last_outcome: str = ""
    last_exit: int = 0
    look: Look | None = None
    parity: str = ""
    tenure: str = ""
    peer_tenure: str = ""
    received: str = ""
    pulled: Mapping[str, Entry | None] = field(default_factory=dict)

    def has_root_there(self, user: str) -> bool:
        """Whether the agent runs as root: it may by sudo, whoever logs in."""
        return user == "root" if self.is_root is None else self.is_root

    def why_quarantined(self, snapshot: str, peer: str = "") -> str | None:
        """Why this snapshot is in quarantine here, None where it is not, or where the peer changed since (to id `peer`)."""
        found = (entry for entry in self.quarantine if entry.snapshot == snapshot and peer in ("", entry.peer))
        return next((entry.why for entry in found), None)

    def with_answer(self, answer: Mapping[str, Any]) -> PeerRecord:
        """This record after the answer of one of this master's runs there; as it is where that run accepted nothing."""
        if not answer.get("generation"):
            return self
        return replace(
            self,
            generation=str(answer["generation"]),
            accepted=str(answer["id"]),
            accepted_at=float(answer["at"]),
            proven=bool(answer["proven"]),
            store=str(answer.get("store", "")),
        )

    def with_refusal(self, snapshot: str, why: str, at: float) -> PeerRecord:
        """This record with a refusal in rehearsal: of a snapshot that was refused before, it is one try more."""
        known = self.refused
        again = known is not None and known.snapshot == snapshot
        refused = replace(known, why=why, tries=known.tries + 1) if known and again else Refused(snapshot, why, at)
        return replace(self, refused=refused)

    def with_self_excludes(self, tree: str, patterns: tuple[str, ...]) -> PeerRecord:
        """This record with the patterns added to the tree's; none goes when the configuration no longer names it."""
        old = self.self_excludes.get(tree, ())
        added = old + tuple(pattern for pattern in dict.fromkeys(patterns) if pattern not in old)
        return replace(self, self_excludes={**self.self_excludes, tree: added})


def record_to_json(record: PeerRecord) -> dict[str, Any]:
    return asdict(record)


def record_from_json(data: Any) -> PeerRecord:
    """Raises ValueError, KeyError, TypeError or AttributeError where the data is none of ours.

    Fields of a later release are left out: this one does not know what they mean.
    """
    values = _known(PeerRecord, data)
    values["self_excludes"] = {tree: tuple(found) for tree, found in values.get("self_excludes", {}).items()}
    values["quarantine"] = tuple(Quarantined(**_known(Quarantined, entry)) for entry in values.get("quarantine", ()))
    for name in ("master_roots", "peer_roots"):
        values[name] = {tree: dict(facts) for tree, facts in values.get(name, {}).items()}
    pulled = values.get("pulled", {})
    values["pulled"] = {path: None if entry is None else entry_from_json(entry) for path, entry in pulled.items()}
    for name, kind in (("refused", Refused), ("message", Message)):
        values[name] = kind(**_known(kind, values[name])) if values.get(name) else None
    values["look"] = look_from_json(values.get("look"))
    record = PeerRecord(**values)
    for part in (record, *record.quarantine, record.refused, record.message):
        _raise_if_mistyped(part)
    return record


def _known(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {key: value for key, value in data.items() if key in names}


def _raise_if_mistyped(part: Any) -> None:
    """A value of the wrong type would else be a traceback much later, in `status` of all places."""
    for each in fields(part) if part is not None else ():
        allowed = TYPES.get(str(each.type))
        if allowed is not None and type(getattr(part, each.name)) not in allowed:
            raise ValueError(f"{each.name} is not {each.type}")


def pause_from_json(data: Any) -> Pause:
    """Raises TypeError or ValueError where the data is none of ours."""
    pause = Pause(**_known(Pause, data))
    _raise_if_mistyped(pause)
    return pause


def is_in_force(pause: Pause, at: float) -> bool:
    return pause.until is None or at < pause.until


def file_name(name: str) -> str:
    """A peer's name as a file name: no slash, not hidden, none that meets another's X.manifest.json."""
    text = quote(name, safe="").replace(".manifest", "%2Emanifest")
    return "%2E" + text[1:] if text.startswith(".") else text


def sequence_of(name: str) -> int:
    """The sequence number in the name of a run's file, 0 where it is none of ours."""
    digits = name.partition("-")[0]
    return int(digits) if digits.isdecimal() and name.endswith(".json") else 0


def has_changed_something(run: Mapping[str, Any]) -> bool:
    """Of a recorded run: whether it put something on a peer, to stay or to be undone. A damaged one may have."""
    words = (APPLIED, NOT_PROVEN, UNDONE, BROKEN)
    return bool(run.get("damaged")) or any(peer.get("outcome") in words for peer in run.get("peers", ()))


def holder_text(signed: Any) -> str:
    """Who signed a lock, in words. Raises ValueError, KeyError or TypeError where the signature is none of ours."""
    started = datetime.fromtimestamp(float(signed["since"])).strftime("%Y-%m-%d %H:%M:%S")
    run = f", run {signed['run']}" if signed["run"] else ""
    return f"lock of process {int(signed['pid'])}{run}, since {started}"

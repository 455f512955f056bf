"""What a master remembers of its latest look at a peer: was it ready, since when, what its probes found. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ngxsync.core.carrying import Carrying, carrying_from_json
from ngxsync.core.readiness import Facts, Findings, Reason, running_reason
from ngxsync.core.shapes import LATEST_S

NUMBERS = (int, float)


@dataclass(frozen=True)
class Nginx:
    """What one host's nginx was found to run: `state` of agent/running.py, `since` when as far as we know, and why in words."""

    state: str
    since: float
    reason: Reason | None = None


@dataclass(frozen=True)
class Look:
    """Times are seconds since the epoch. `generation` is that of the accepted record which was looked at.

    `since` is when the verdict became what it is, `ready_at` when readiness was last proven, `probed_at` when the probes ran
    whose `probes` and `notes` (reasons and warnings) these are; None where that never was, or for another generation.
    """

    at: float
    generation: str = ""
    since: float = 0.0
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()
    ready_at: float | None = None
    probed_at: float | None = None
    probes: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()
    nginx: Mapping[str, Nginx] = field(default_factory=dict)
    vrrp: tuple[Carrying, ...] = ()

    @property
    def is_ready(self) -> bool:
        return not self.reasons

    def probed(self, generation: str) -> Findings | None:
        """What the probes of this accepted snapshot found, None where there are none."""
        if self.probed_at is None or self.generation != generation:
            return None
        return Findings(self.probes, self.notes)


@dataclass(frozen=True)
class Seen:
    """One look, before it is joined with what was known: all but the probes in `findings`; `probes` are None where none were made.

    `parity` is the digest of what no sync makes equal, "" where a host did not say; `unlike` how they differ in it.
    """

    at: float
    generation: str
    findings: Findings
    probes: Findings | None = None
    running: Mapping[str, Facts] = field(default_factory=dict)
    parity: str = ""
    unlike: tuple[str, ...] = ()
    vrrp: tuple[Carrying, ...] = ()


def joined(seen: Seen, known: Look | None) -> Look:
    """The look with what is remembered of earlier ones: probes of the same accepted snapshot, and since when things are so."""
    kept = known.probed(seen.generation) if known else None
    probes = seen.probes if seen.probes is not None else kept
    probed_at = seen.at if seen.probes is not None else known.probed_at if known and kept is not None else None
    whole = seen.findings + (probes or Findings())
    is_same = known is not None and known.is_ready == whole.is_ready
    nginx = {host: _nginx(host, found, seen.at, known) for host, found in seen.running.items()}
    return Look(
        at=seen.at,
        generation=seen.generation,
        since=known.since if known is not None and is_same else seen.at,
        reasons=whole.reasons,
        warnings=whole.warnings,
        ready_at=seen.at if whole.is_ready else known.ready_at if known else None,
        probed_at=probed_at,
        probes=probes.reasons if probes else (),
        notes=probes.warnings if probes else (),
        nginx=nginx or (known.nginx if known else {}),
        vrrp=seen.vrrp,
    )


def _nginx(host: str, found: Facts, at: float, known: Look | None) -> Nginx:
    """Stale since the file changed that it has not loaded; down since it was first seen so."""
    before = known.nginx.get(host) if known else None
    since = before.since if before is not None and before.state == found["state"] else at
    if found["state"] == "stale" and found.get("changed"):
        since = float(found["changed"])
    return Nginx(str(found["state"]), since, running_reason(host, found))


def look_from_json(data: Any) -> Look | None:
    """None where there is none, or it is damaged: the next look makes it anew."""
    try:
        return None if data is None else _look(data)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _look(data: Mapping[str, Any]) -> Look:
    known = {each.name: data[each.name] for each in fields(Look) if each.name in data}
    for name in ("reasons", "warnings", "probes", "notes"):
        known[name] = tuple(map(_reason, known.get(name, ())))
    known["nginx"] = {str(host): _kept_nginx(found) for host, found in known.get("nginx", {}).items()}
    known["vrrp"] = tuple(map(carrying_from_json, known.get("vrrp", ())))
    look = Look(**known)
    times = [look.at, look.since, *(time for time in (look.ready_at, look.probed_at) if time is not None)]
    times += [nginx.since for nginx in look.nginx.values()]
    if not all(type(time) in NUMBERS and 0 <= time < LATEST_S for time in times) or type(look.generation) is not str:
        raise ValueError("a time that is none")
    return look


def _reason(data: Mapping[str, Any]) -> Reason:
    reason = Reason(**{each.name: data[each.name] for each in fields(Reason) if each.name in data})
    if not all(type(part) is str for part in vars(reason).values()):
        raise ValueError("a reason that is none")
    return reason


def _kept_nginx(data: Mapping[str, Any]) -> Nginx:
    reason = data.get("reason")
    found = Nginx(data["state"], data["since"], None if reason is None else _reason(reason))
    if type(found.state) is not str:
        raise ValueError("a state that is none")
    return found


def unreachable(known: Look | None, at: float, reason: Reason, ours: tuple[Carrying, ...] = ()) -> Look:
    """Nobody answered: nothing else was learnt, but what this host is itself."""
    base = known or Look(at)
    since = base.since if known and not known.is_ready else at
    own = {each.host for each in ours}
    vrrp = (*ours, *(each for each in base.vrrp if each.host not in own))
    return replace(base, at=at, since=since, reasons=(reason,), warnings=(), vrrp=vrrp)

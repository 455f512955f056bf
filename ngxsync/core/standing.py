"""Whether this host is the one that pushes, now: by the VIP that it carries, or without one by who wrote here last. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ngxsync.agent.manifest import Manifest
from ngxsync.core.errors import Held, Message
from ngxsync.core.wording import listed, one_line

STANDBY = "standby"
PROMOTED = "promote"


@dataclass(frozen=True)
class Standing:
    """`standby` says why this host does not push, None where it does.

    `tenure` names the time, without a break, for which it has carried all VIPs (agent/addresses.py), "" where it does not, or
    where none decide; `since` is its beginning, seconds since the epoch. `carried` are the VIPs that are here.
    `takes_over` is whether a peer that is equal becomes its own unasked, whoever wrote there last, or nobody: not where the
    records alone say who pushes and nobody promoted this host. Two such hosts would turn each other to standby.
    """

    vips: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    tenure: str = ""
    since: float | None = None
    standby: Message | None = None
    takes_over: bool = True

    def hold(self, force: Collection[str] = ()) -> Held | None:
        """Of a run that is forced past these codes. Without a VIP nothing is forced: a run past it would put both on standby."""
        if self.standby is None or (self.vips and STANDBY in force):
            return None
        return Held(self.standby, code=STANDBY)


@dataclass(frozen=True)
class Received:
    """What another host synced to this one last: in which run, and with which projection (as JSON)."""

    run: str
    manifest: Manifest
    projection: Mapping[str, Any]


def by_vip(host: str, vips: tuple[str, ...], carried: tuple[str, ...], tenure: str, since: float | None) -> Standing:
    """Of a pair with a VIP: its holder pushes. With several, who carries them all."""
    if carried and not tenure:
        missing = [vip for vip in vips if vip not in carried]
        what = f"{host} carries {listed(carried)} and not {listed(missing)}: no host holds them all"
        hint = "let one host hold all VIPs of [vrrp] (a vrrp_sync_group), or list only those that go together"
        return Standing(vips, carried, "", None, Message(what, host, "no peer was changed", hint))
    if not carried:
        return Standing(vips, standby=_without(host, vips))
    return Standing(vips, carried, tenure, since)


def _without(host: str, vips: tuple[str, ...]) -> Message:
    what = f"{host} does not hold the VIP {listed(vips)}: it is on standby"
    hint = (
        "nothing to do: the host that holds it syncs; where none does: ngxsync keepalived check;"
        " before keepalived is set up, by you: `ngxsync sync --force standby`"
    )
    return Message(what, host, "no peer was changed", hint)


def unknown(host: str, vips: tuple[str, ...], why: str) -> Standing:
    """Where the kernel does not say which addresses there are: without evidence nobody pushes."""
    what = f"whether {host} holds the VIP {listed(vips)} cannot be told: {why}"
    return Standing(vips, standby=Message(what, host, "no peer was changed", "it is looked at again by itself"))


def by_record(host: str, accepted: Mapping[str, Any] | None) -> Standing:
    """Of a pair without a VIP whose hosts share one configuration: who was synced to last receives, until it is promoted.

    What was pulled here meanwhile turns nothing: its record keeps who syncs.
    """
    record = accepted or {}
    kind = record.get("kind")
    writer = one_line(str(record.get("synced_by" if kind == "pull" else "written_by", "")))
    if writer in ("", host) or kind == PROMOTED:
        return Standing(takes_over=kind == PROMOTED)
    what = f"{writer} syncs to {host}: {host} is on standby"  # of no run: each would be told as another reason
    hint = "nothing to do while that host lives; `ngxsync promote` makes this one the one that pushes"
    return Standing(standby=Message(what, host, "no peer was changed", hint))


def why_not_healed(standing: Standing, accepted_under: str, peer: str, since_seen: bool) -> str:
    """Why what was edited on a peer is not overwritten by itself, "" where it may be (TRANSACTION, who may write).

    `accepted_under` is the tenure of this host in which that peer accepted last; `since_seen`: it has held the VIP since.
    """
    if not standing.vips:
        return ""
    if not standing.tenure or standing.tenure != accepted_under:
        return "this host has not held the VIP all the time since it was accepted there"
    return f"{peer} has held the VIP since it was accepted there" if since_seen else ""

"""What both hosts are in VRRP, as values: read from answers, judged for `ready`, told by `status`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import tzinfo
from typing import Any

from ngxsync.core.readiness import Findings, Reason
from ngxsync.core.wording import human_duration, listed, one_line, render_time

Facts = Mapping[str, Any]

WORDS = {"master": "VRRP MASTER", "backup": "VRRP BACKUP", "fault": "VRRP FAULT", "stop": "keepalived stopped"}


@dataclass(frozen=True)
class Carrying:
    """One host at the time `at`: `role` is master, backup, fault, stop; `since` it is (epoch seconds, None where unknown).

    `keepalived` is its process number there, 0 where none runs.
    """

    host: str
    at: float
    role: str
    vips: tuple[str, ...] = ()
    since: float | None = None
    keepalived: int = 0

    @property
    def word(self) -> str:
        return WORDS.get(self.role, self.role)


def carrying_of(host: str, found: Facts, at: float) -> Carrying:
    """Of an answer's `vrrp`: the addresses that are there count, keepalived's latest word only says why there are none."""
    told = found.get("told") or {}
    carried = tuple(found["carried"])
    if carried:
        return Carrying(host, at, "master", carried, found.get("since"), int(found["keepalived"]))
    is_known = told.get("role") in ("backup", "fault", "stop") and not (told["role"] == "stop" and found["keepalived"])
    role = told["role"] if is_known else "backup"  # one that runs again has not stopped, whether it said so or not
    since = told.get("since") if told.get("role") == role else None
    return Carrying(host, at, str(role), (), since, int(found["keepalived"]))


def carrying_from_json(data: Mapping[str, Any]) -> Carrying:
    """Raises KeyError, TypeError or ValueError where it is none of ours."""
    known = {each.name: data[each.name] for each in fields(Carrying) if each.name in data}
    found = Carrying(**{**known, "vips": tuple(known.get("vips", ()))})
    times = [found.at, *([] if found.since is None else [found.since]), found.keepalived]
    if not all(type(each) in (int, float) for each in times) or not all(type(each) is str for each in found.vips):
        raise ValueError("a time or an address that is none")
    if type(found.host) is not str or found.role not in WORDS:
        raise ValueError("a role that is none")
    return found


def carrying_text(found: Carrying, now: float, tz: tzinfo | None = None) -> str:
    """web1: VRRP MASTER, holds 192.0.2.100 since ...; keepalived runs (process 12)"""
    holds = f", holds {listed(found.vips)}" if found.vips else ""
    since = f" since {render_time(found.since, now, tz)}" if found.since is not None else ""
    alive = f"keepalived runs (process {found.keepalived})" if found.keepalived else "keepalived does not run"
    seen = f" (seen {human_duration(now - found.at)} ago)" if now - found.at >= 1 else ""
    return one_line(f"{found.host}{seen}: {found.word}{holds}{since}; {alive}")


def json_carrying(found: Carrying) -> dict[str, Any]:
    return {**vars(found), "vips": list(found.vips)}


def judge_vrrp(master: str, peer: str, ours: Facts | None, theirs: Facts | None) -> Findings:
    """Would the VIP come to the peer? Nothing where no VIP is configured, or an agent of an earlier release does not say."""
    if not ours or not theirs:
        return Findings()
    warnings: tuple[Reason, ...] = ()
    if ours["carried"] and not ours["keepalived"]:
        what = "keepalived does not run here, and the VIP is: nobody would take it away"
        warnings = (Reason("keepalived", what, master, f"start keepalived on {master}"),)
    return Findings(tuple(_reasons(master, peer, ours, theirs)), warnings)


def _reasons(master: str, peer: str, ours: Facts, theirs: Facts) -> Iterator[Reason]:
    here, there = ours["carried"], theirs["carried"]
    both = [vip for vip in here if vip in there]
    if here and there and not both:
        what = f"{master} carries {listed(here)} and {peer} {listed(there)}: no host holds all VIPs, and neither syncs"
        yield Reason("vip", what, peer, "let one host hold all VIPs of [vrrp] (a vrrp_sync_group)")
    elif both:
        what = f"{master} and {peer} both carry the VIP {listed(both)}: neither is written to by the other"
        yield Reason("vip", what, peer, "ngxsync keepalived check says why they do not hear each other")
    elif there:
        what = f"{peer} holds the VIP {listed(there)}, {master} does not: the question is about {master}"
        yield Reason("standby", what, peer, f"on {peer}: ngxsync ready")
    elif not here:
        hint = "where no other host holds it: look at keepalived on both"
        yield Reason("vip", f"neither {master} nor {peer} holds the VIP", master, hint)
    told = (theirs.get("told") or {}).get("role")
    if not theirs["keepalived"]:
        what = "keepalived does not run there: the VIP would not come"
        yield Reason("keepalived", what, peer, f"on {peer}: systemctl start keepalived")
    elif told == "fault" and not there:
        what = "keepalived there is in FAULT (its check of nginx, or its interface): the VIP would not come"
        yield Reason("fault", what, peer, f"on {peer}: journalctl -u keepalived, ngxsync-agent status")

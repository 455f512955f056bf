"""`keepalived check`: all findings of both hosts, as text and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ngxsync.core.checkup import FAILED, OK, WARNING, Check
from ngxsync.core.config import Config
from ngxsync.core.keepalived.finding import Finding
from ngxsync.core.keepalived.judge_side import judge_side
from ngxsync.core.keepalived.judge_sides import judge_each_pair, judge_holders, judge_sides
from ngxsync.core.keepalived.side import Side, normal

COMMAND = "keepalived check"


def judge(config: Config, here: Side, others: Sequence[Side]) -> list[Finding]:
    """Of this host, then of each other one and what the two do not have in common, then of each two of all."""
    found = [*judge_side(here), *_configured(config, here)]
    for other in others:
        found += [*judge_side(other), *_configured(config, other), *judge_sides(here, other)]
    sides = (here, *others)
    asked = {side.host for side in sides}
    unasked = [peer.priority for peer in config.peers if peer.name not in asked and peer.priority]
    return [*found, *judge_each_pair(sides, unasked), *judge_holders(sides, config.vrrp.addresses)]


def _configured(config: Config, side: Side) -> Iterator[Finding]:
    """The VIPs of [vrrp] against those that keepalived moves."""
    wanted = config.vrrp.addresses
    if not wanted or not side.instances:
        return
    vips = [vip for instance in side.instances for vip in (*instance.vips, *instance.excluded)]
    place = side.instances[0].place_of("virtual_ipaddress")
    for address in wanted:
        if address not in {vip.address for vip in vips}:
            what = f"[vrrp] vip in {config.file} has {address}, which keepalived does not move"
            yield Finding(
                "vip-not-configured", side.host, place, what, f"virtual_ipaddress {{ {address} }}, or mend [vrrp] vip"
            )
    for vip in vips:
        if vip.address not in wanted:
            what = f"[vrrp] vip in {config.file} does not name {vip.address}: who holds it alone does not push"
            yield Finding(
                "vip-not-configured", side.host, vip.place, what, f"vip = {vip.text}   (in [vrrp], one a line)", WARNING
            )


def source_addresses(side: Side) -> list[str]:
    """Where its adverts come from: what each instance says, else the first address of its interface and family that does not move."""
    moving = {address for each in side.instances for address in each.addresses}
    found = set()
    for each in side.instances:
        said = normal(each.word("unicast_src_ip") or each.word("mcast_src_ip"))
        own = (
            address
            for interface, address in side.facts["carried"]
            if interface == each.interface and (":" in address) == (each.family == 6) and address not in moving
        )
        found.add(said if said in side.addresses else next(own, ""))
    return sorted(found - {""})


def as_checks(sides: Sequence[Side], findings: Sequence[Finding]) -> list[Check]:
    """One line that says what is there, then what is wrong with it, host by host."""
    return [
        check
        for side in sides
        for check in (
            *([_described(side)] if side.facts["running"] and side.instances else []),
            *(each.as_check() for each in findings if each.host == side.host),
        )
    ]


def _described(side: Side) -> Check:
    told = "; ".join(
        f"{each.name} on {each.interface or 'no interface'}, virtual_router_id {each.router_id}, priority {each.priority}, "
        + (
            f"holds {', '.join(held)}"
            if (held := sorted(a for a in each.addresses if side.holds(a)))
            else "holds no VIP"
        )
        for each in side.instances
    )
    return Check(side.host, "keepalived", OK, f"{side.facts['version']} with {side.place}: {told}")


def summary(sides: Sequence[Side], findings: Sequence[Finding]) -> str:
    hosts = " and ".join(side.host for side in sides)
    if not findings:
        return f"{hosts}: nothing that would break the failover was found"
    count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
    return f"{hosts}: {count}"


def one_check(host: str, findings: Sequence[Finding], *, is_ours: bool) -> Check:
    """For `ngxsync check`. `is_ours`: the pair's VIP is in [vrrp], so what breaks it breaks the pair."""
    if not findings:
        return Check(host, "keepalived", OK, "nothing that would break the failover was found")
    told = "; ".join(f"{each.code} on {each.host}" for each in findings[:3])
    more = f" and {len(findings) - 3} more" if len(findings) > 3 else ""
    is_broken = is_ours and any(each.state == FAILED for each in findings)
    return Check(host, "keepalived", FAILED if is_broken else WARNING, told + more, "ngxsync keepalived check")


def as_json(sides: Sequence[Side], findings: Sequence[Finding], peers: Sequence[str]) -> dict[str, Any]:
    """The contract of DESIGN 6; the findings of a peer are beside it, those of this host in `findings`."""
    return {
        "schema": 1,
        "command": COMMAND,
        "run": "",
        "outcome": "failed" if findings else "ok",
        "code": _code(findings),
        "exit": int(bool(findings)),
        "peers": [_json_peer(name, [each for each in findings if each.host == name]) for name in peers],
        "findings": [_json_finding(each) for each in findings if each.host not in peers],
        "instances": [_json_instance(side, each) for side in sides for each in side.instances],
    }


def _code(findings: Sequence[Finding]) -> str:
    return findings[0].code if findings else ""


def _json_peer(name: str, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "name": name,
        "outcome": "failed" if findings else "ok",
        "code": _code(findings),
        "exit": int(bool(findings)),
        "snapshot": "",
        "accepted": "",
        "changes": [],
        "findings": [_json_finding(each) for each in findings],
    }


def _json_finding(each: Finding) -> dict[str, Any]:
    return {
        "host": each.host,
        "code": each.code,
        "state": each.state,
        "file": each.place.file,
        "line": each.place.line,
        "what": each.what,
        "mend": each.mend,
    }


def _json_instance(side: Side, each: Any) -> Mapping[str, Any]:
    return {
        "host": side.host,
        "name": each.name,
        "interface": each.interface,
        "virtual_router_id": each.router_id,
        "priority": each.priority,
        "vips": sorted(each.addresses),
        "holds": sorted(address for address in each.addresses if side.holds(address)),
    }

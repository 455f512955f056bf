"""What of two hosts' keepalived does not fit together. Pure. The first host's value is taken for the right one: one of them has to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_interface
from itertools import combinations

from ngxsync.core.checkup import WARNING
from ngxsync.core.keepalived.finding import NOWHERE, Finding
from ngxsync.core.keepalived.side import Instance, Side, normal
from ngxsync.core.keepalived.weights import OWNER, moves_nothing

Pair = tuple[Instance, Instance]


def judge_sides(first: Side, second: Side) -> Iterator[Finding]:
    """Each finding is said once, of the second host where both could be mended."""
    pairs, alone = paired(first.instances, second.instances)
    for side, other, left in ((first, second, alone[0]), (second, first, alone[1])):
        for instance in left if other.instances else ():
            what = f"{instance.name} is on this host alone: with it gone nobody holds {', '.join(sorted(instance.addresses))}"
            mend = f"vrrp_instance {instance.name} {{ ... }} in {other.place} of {other.host} too"
            yield Finding("instance-alone", side.host, instance.place, what, mend)
    for one, two in pairs:
        yield from _judge_pair(first, second, one, two)


def paired(
    first: Sequence[Instance], second: Sequence[Instance]
) -> tuple[list[Pair], tuple[list[Instance], list[Instance]]]:
    """Which instance of one host is which of the other, by what they share; and those that are left."""
    scores = sorted(
        ((_likeness(one, two), -i, -j) for i, one in enumerate(first) for j, two in enumerate(second)), reverse=True
    )
    found: dict[int, int] = {}
    for score, i, j in scores:
        if -i not in found and -j not in found.values() and (score or len(first) == len(second) == 1):
            found[-i] = -j
    left = (
        [one for i, one in enumerate(first) if i not in found],
        [two for j, two in enumerate(second) if j not in found.values()],
    )
    return [(first[i], second[j]) for i, j in sorted(found.items())], left


def _likeness(one: Instance, two: Instance) -> int:
    shared = len(one.addresses & two.addresses)
    return 8 * shared + 4 * (one.router_id == two.router_id and one.family == two.family) + 2 * (one.name == two.name)


def _judge_pair(first: Side, second: Side, one: Instance, two: Instance) -> Iterator[Finding]:
    yield from _same_words(first, second, one, two)
    yield from _vips(first, second, one, two)
    yield from _authentication(first, second, one, two)


def _global_ids(first: Side, second: Side) -> Iterator[Finding]:
    nodes = [side.globals.get("router_id") for side in (first, second)]
    names = [node.value if node else side.facts["host"] for node, side in zip(nodes, (first, second), strict=True)]
    if names[0] == names[1] and first.instances and second.instances:
        what = f"router_id {names[1]} names {first.host} too: it is to name the host, in mails and by SNMP"
        place = nodes[1].place if nodes[1] else second.globals.place
        yield Finding("same-router-id", second.host, place, what, f"router_id {second.host}", WARNING)


def _same_words(first: Side, second: Side, one: Instance, two: Instance) -> Iterator[Finding]:
    told = {
        "virtual_router_id": (one.router_id, two.router_id, "neither hears the other, and both take the VIP"),
        "advert_int": (_seconds(one), _seconds(two), "the slower one is taken for dead, or its adverts are refused"),
        "version": (one.version, two.version, "neither hears the other, and both take the VIP"),
        "mcast_dst_ip": (one.group, two.group, "neither hears the other, and both take the VIP"),
    }
    codes = {"virtual_router_id": "router-id-differs", "advert_int": "advert-differs", "version": "version-differs"}
    for name, (ours, theirs, why) in told.items():
        if ours != theirs and not (name == "mcast_dst_ip" and (one.peers or two.peers or one.family != two.family)):
            what = f"{name} is {_plain(theirs)}, and {_plain(ours)} on {first.host} ({one.place_of(name)}): {why}"
            code = codes.get(name, "group-differs")
            yield Finding(code, second.host, two.place_of(name), what, f"{name} {_plain(ours)}")


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seconds(instance: Instance) -> float:
    try:
        return float(instance.word("advert_int") or 1)
    except ValueError:
        return 1.0


def _vips(first: Side, second: Side, one: Instance, two: Instance) -> Iterator[Finding]:
    for name, ours, theirs in (
        ("virtual_ipaddress", one.vips, two.vips),
        ("virtual_ipaddress_excluded", one.excluded, two.excluded),
    ):
        for side, other, have, lack in ((second, first, ours, theirs), (first, second, theirs, ours)):
            known = {vip.address: vip for vip in lack}
            owner = two if side is second else one
            for vip in have:
                if vip.address not in known:
                    what = f"{name} lacks {vip.address}, which {other.host} has ({vip.place})"
                    yield Finding("vips-differ", side.host, owner.place_of(name), what, f"{name} {{ {vip.text} }}")
                elif side is second and ip_interface(known[vip.address].text) != ip_interface(vip.text):
                    what = f"{known[vip.address].text} is {vip.text} on {other.host} ({vip.place})"
                    yield Finding("vips-differ", side.host, known[vip.address].place, what, vip.text)


def _authentication(first: Side, second: Side, one: Instance, two: Instance) -> Iterator[Finding]:
    if 3 in (one.version, two.version):
        return
    refused = "each refuses what the other says, and both take the VIP"
    place = two.place_of("authentication")
    if one.auth_type != two.auth_type:
        here, there = (each.auth_type or "none" for each in (two, one))
        what = f"authentication is {here}, and {there} on {first.host} ({one.place_of('authentication')}): {refused}"
        mend = (
            f"authentication {{ auth_type {one.auth_type} ... }}"
            if one.auth_type
            else "take authentication { ... } away"
        )
        said = next((line for line in two.node.lines("authentication") if line.name == "auth_type"), None)
        if one.auth_type and said:
            place, mend = said.place, f"auth_type {one.auth_type}"
        yield Finding("auth-differs", second.host, place, what, mend)
    elif _secret(one) != _secret(two):
        at, there_at = (
            each.password.place if each.password else each.place_of("authentication") for each in (two, one)
        )
        what = f"the password is another one than on {first.host} ({there_at}): {refused}"
        yield Finding("auth-differs", second.host, at, what, f"auth_pass as on {first.host}")


def _secret(instance: Instance) -> tuple[str, ...]:
    """What of a password counts, as its hash; how long it is does not."""
    return instance.password.words[2:] if instance.password else ()


def _unicast(first: Side, second: Side, one: Instance, two: Instance) -> Iterator[Finding]:
    for side, other, own, their in ((first, second, one, two), (second, first, two, one)):
        if own.peers and not their.peers:
            what = f"{side.host} speaks to its peers alone ({own.place_of('unicast_peer')}), and this host to a multicast group"
            addresses = " or ".join(_sources_of(side, own))
            yield Finding("unicast-one-side", other.host, their.place, what, f"unicast_peer {{ {addresses} }}")
        elif own.peers and not any(normal(node.name) in other.addresses for node in own.peers):
            listed = ", ".join(node.name for node in own.peers)
            what = f"{listed}: none of them is an address of {other.host}, which hears nothing"
            yield Finding(
                "unicast-peer",
                side.host,
                own.peers[0].place,
                what,
                f"unicast_peer {{ {' or '.join(_sources_of(other, their))} }}",
            )


def _sources_of(side: Side, instance: Instance) -> list[str]:
    """What the other one would have to name."""
    said = instance.word("unicast_src_ip")
    carried = [address for interface, address in side.facts["carried"] if interface == instance.interface]
    own = [a for a in carried if (":" in a) == (instance.family == 6) and a not in instance.addresses]
    return [said] if normal(said) in side.addresses else own or [f"ADDRESS-OF-{side.host}"]


def judge_each_pair(sides: Sequence[Side], unasked: Sequence[int] = ()) -> Iterator[Finding]:
    """What two hosts have to be to each other, whichever of them this one is: told apart, heard by each other, and to give way.

    `unasked` are the priorities of the hosts that nobody asked now, as configured.
    """
    for first, second in combinations(sides, 2):
        yield from _global_ids(first, second)
        thirds = [side for side in sides if side not in (first, second)]
        for one, two in paired(first.instances, second.instances)[0]:
            yield from _unicast(first, second, one, two)
            others = [priority for third in thirds for priority in _priorities_of(one, first, third)]
            yield from _priorities(first, second, one, two, [*others, *unasked])


def _priorities_of(one: Instance, first: Side, third: Side) -> list[int]:
    """That of the instance there which is this one of the first host."""
    return [theirs.priority for ours, theirs in paired(first.instances, third.instances)[0] if ours is one]


def _priorities(
    first: Side, second: Side, one: Instance, two: Instance, others: Sequence[int] = ()
) -> Iterator[Finding]:
    """`others` are those of further hosts: where one stands between these two, the stronger gives way to that one."""
    if one.priority == two.priority:
        what = f"priority is {two.priority}, as on {first.host} ({one.place_of('priority')}): their addresses decide who holds the VIP"
        free = next((number for number in range(two.priority - 1, 0, -1) if number not in others), 2)
        yield Finding("equal-priorities", second.host, two.place_of("priority"), what, f"priority {free}")
    strong, weak = ((first, one), (second, two))[:: 1 if one.while_well() >= two.while_well() else -1]
    if any(weak[1].priority < priority < strong[1].priority for priority in others):
        return
    for failing, taking in ((strong, weak), (weak, strong)):
        yield from _unmoved(*failing, *taking, is_stronger=failing is strong)


def _unmoved(side: Side, failing: Instance, other: Side, taking: Instance, *, is_stronger: bool) -> Iterator[Finding]:
    """The scripts whose failure here gives the other host nothing; the weaker one gives way to anything but nopreempt."""
    waits = bool(taking.node.get("nopreempt")) and taking.word("state") != "MASTER"
    for each in failing.tracked if is_stronger or waits else ():
        same = next((found for found in taking.tracked if found.name == each.name), None)
        others = 0 if same is None or same.is_reversed else same.weight
        if each.is_reversed or failing.priority == OWNER:
            continue  # said of its own host
        higher, lower = (instance.while_well(without=each.name) for instance in (failing, taking))
        found = moves_nothing(each.weight, higher, lower, nopreempt=waits, others=others)
        if found:
            what = f"a failed {each.name} moves nothing to {other.host}: {found.why} ({taking.place_of('priority')})"
            both = "   (on both hosts)" if found.weight > 0 else ""
            yield Finding("weight-too-small", side.host, each.place, what, f"{each.line}weight {found.weight}{both}")


def judge_holders(sides: Sequence[Side], addresses: Sequence[str] = ()) -> Iterator[Finding]:
    """What is true now, whatever is written: each VIP, of an instance or of `addresses`, is on one of the hosts."""
    places = dict.fromkeys(addresses, (sides[0].host, NOWHERE))
    for side in reversed(sides):
        vips = (vip for each in side.instances for vip in (*each.vips, *each.excluded))
        places.update({vip.address: (side.host, vip.place) for vip in vips})
    for address, (host, place) in places.items():
        holders = [side.host for side in sides if side.holds(address)]
        if len(holders) > 1:
            what = f"{' and '.join(holders)} hold {address} now: they do not hear each other"
            mend = "mend what is found here; what arrives is shown by: tcpdump -ni any proto 112"
            yield Finding("vip-on-both", host, place, what, mend)
        elif not holders:
            what = f"no host holds {address} now"
            is_running = any(side.facts["running"] is not None for side in sides)
            mend = "journalctl -u keepalived on both, from the end: what are they waiting for?"
            mend = mend if is_running else "what else is found here first"
            yield Finding("vip-on-none", host, place, what, mend)

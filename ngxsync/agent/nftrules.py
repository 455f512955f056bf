"""`nft -j list ruleset` as chains of rules, as far as they can concern a VRRP packet. Pure."""

import ipaddress
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .rulewalk import Chain, Chains, Packet, Rule, Test, Verdict, is_interface, is_within, kind_of, protocol_of

Json = Dict[str, Any]
Lookup = Callable[[Packet], Any]
UNKNOWN = object()  # a value that nobody here can tell
TTL = 255  # of each advert
NEVER = object()  # of a header that this packet does not have

FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6), "netdev": (4, 6)}
HOOKS = {"in": ("ingress", "prerouting", "input"), "out": ("output", "postrouting")}
VERDICTS = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return"}
# say nothing about whether the packet passes
QUIET = (
    "counter",
    "log",
    "limit",
    "mangle",
    "notrack",
    "quota",
    "meter",
    "set",
    "ct helper",
    "last",
    "comment",
    "flow",
)

Table = NamedTuple("Table", [("family", str), ("name", str), ("chains", Chains), ("bases", List[Json])])


def tables(ruleset: Json) -> List[Table]:
    """In no order; `bases` are the chains with a hook, as nft describes them."""
    found: Dict[Tuple[str, str], Table] = {}
    sets: Dict[Tuple[str, str, str], Json] = {}
    items = [item for item in ruleset.get("nftables", []) if isinstance(item, dict)]
    for item in items:
        for kind in ("set", "map"):
            if kind in item:
                each = item[kind]
                sets[each["family"], each["table"], each["name"]] = each
        if "chain" in item:
            chain = item["chain"]
            key = (chain["family"], chain["table"])
            table = found.setdefault(key, Table(key[0], key[1], {}, []))
            table.chains[chain["name"]] = Chain([], chain.get("policy", "accept"))
            if "hook" in chain:
                table.bases.append(chain)
    for item in items:
        rule = item.get("rule")
        if rule and (rule["family"], rule["table"]) in found:
            chain = found[rule["family"], rule["table"]].chains.get(rule["chain"])
            if chain:
                named = {
                    name: value for (family, table, name), value in sets.items() if (family, table) == _place(rule)
                }
                chain.rules.append(_rule(rule, named))
    return list(found.values())


def _place(rule: Json) -> Tuple[str, str]:
    return rule["family"], rule["table"]


def bases_for(found: List[Table], packet: Packet) -> List[Tuple[Table, str]]:
    """The base chains that see the packet, in the order in which they do."""
    hooks = HOOKS[packet.direction]
    seen = []
    for table in found:
        if packet.family not in FAMILIES.get(table.family, ()):
            continue
        for base in table.bases:
            devices = base.get("dev", packet.interface)
            is_there = packet.interface in devices if isinstance(devices, list) else devices == packet.interface
            if base["hook"] in hooks and base.get("type") != "nat" and is_there:
                seen.append((hooks.index(base["hook"]), base.get("prio", 0), table, base["name"]))
    return [(table, name) for _, _, table, name in sorted(seen, key=lambda each: each[:2])]


def _rule(rule: Json, sets: Dict[str, Json]) -> Rule:
    tests: List[Test] = []
    decide = _always("", None)
    for each in rule.get("expr", []):
        name, value = next(iter(each.items()))
        if name == "limit" and value.get("inv"):
            tests.append(lambda _packet: False)  # only what comes too fast
        elif name == "match":
            tests.append(_test(value, sets))
        elif name == "vmap":
            decide = _mapped(value, sets)
        elif name in VERDICTS or name in ("jump", "goto"):
            decide = _always(name, value)
        elif name not in QUIET:
            tests.append(lambda _packet: None)
    told = "%s %s %s, rule %s" % (rule["family"], rule["table"], rule["chain"], rule.get("handle", "?"))
    return Rule(tests, decide, told)


def _always(name: str, value: Any) -> Callable[[Packet], Verdict]:
    verdict = (VERDICTS.get(name, name), value["target"] if name in ("jump", "goto") else "")
    return lambda _packet: verdict


def _mapped(value: Json, sets: Dict[str, Json]) -> Callable[[Packet], Verdict]:
    left = _left(value["key"])

    def decide(packet: Packet) -> Verdict:
        for key, verdict in _elements(value["data"], sets):
            if _fits(left(packet), key, sets):
                name, target = next(iter(verdict.items()))
                return _always(name, target)(packet)
        return "", ""

    return decide


def _test(match: Json, sets: Dict[str, Json]) -> Test:
    left, right, op = _left(match["left"]), match["right"], match.get("op", "==")

    def test(packet: Packet) -> Optional[bool]:
        value = left(packet)
        if value is NEVER:
            return False
        found = _fits(value, right, sets) if op in ("==", "!=", "in") else _compares(value, op, right)
        return found if found is None or op != "!=" else not found

    return test


def _left(expression: Any) -> Lookup:
    """What of a packet is compared."""
    name, value = next(iter(expression.items())) if isinstance(expression, dict) else ("", {})
    if name == "meta":
        return META.get(value["key"], _unknown)
    if name == "concat":
        parts = [_left(each) for each in value]
        return lambda packet: ("concat", [part(packet) for part in parts])
    if name == "ct":
        return NEW.get(value.get("key"), _unknown)
    if name == "payload" and "protocol" in value:
        return lambda packet: _header(packet, value["protocol"], value["field"])
    if name == "fib" and value.get("result") == "type" and "daddr" in value.get("flags", []):
        return lambda packet: kind_of(packet.destination)
    return _unknown


def _unknown(_packet: Packet) -> Any:
    return UNKNOWN


def _incoming(packet: Packet) -> str:
    return packet.interface if packet.direction == "in" else ""


def _outgoing(packet: Packet) -> str:
    return packet.interface if packet.direction == "out" else ""


# what is tracked of a packet of its kind that nobody answers
NEW: Dict[Any, Lookup] = {
    "state": lambda _packet: "new",
    "status": lambda _packet: "none",
    "direction": lambda _packet: "original",
}
META: Dict[str, Lookup] = {
    "l4proto": lambda packet: ("protocol", packet.protocol),
    "iifname": lambda packet: ("interface", _incoming(packet)),
    "iif": lambda packet: ("interface", _incoming(packet)),
    "oifname": lambda packet: ("interface", _outgoing(packet)),
    "oif": lambda packet: ("interface", _outgoing(packet)),
    "nfproto": lambda packet: "ipv%d" % packet.family,
    "protocol": lambda packet: "ip" if packet.family == 4 else "ip6",
    "pkttype": lambda packet: "multicast" if kind_of(packet.destination) == "multicast" else "host",
}


def _header(packet: Packet, protocol: str, field: str) -> Any:
    if protocol not in ("ip", "ip6"):
        return UNKNOWN if protocol in ("ether", "th", "vlan") else NEVER
    if protocol != ("ip" if packet.family == 4 else "ip6"):
        return NEVER
    if field in ("protocol", "nexthdr"):
        return "protocol", packet.protocol
    if field in ("ttl", "hoplimit"):
        return "number", TTL
    if field in ("saddr", "daddr"):
        return "address", packet.source if field == "saddr" else packet.destination
    return UNKNOWN


def _elements(data: Any, sets: Dict[str, Json]) -> List[Any]:
    """Those of a set or map, written out or by its name."""
    if isinstance(data, str) and data.startswith("@"):
        data = sets.get(data[1:], {}).get("elem", [])
    found = data.get("set", [data]) if isinstance(data, dict) else data if isinstance(data, list) else [data]
    return [each["elem"]["val"] if isinstance(each, dict) and "elem" in each else each for each in found]


def _fits(value: Any, right: Any, sets: Dict[str, Json]) -> Optional[bool]:
    """None where one of them is not known."""
    if value is UNKNOWN or value is NEVER:
        return None if value is UNKNOWN else False
    is_several = isinstance(right, list) or (isinstance(right, dict) and "set" in right) or str(right).startswith("@")
    if is_several:
        said = [_fits(value, each, sets) for each in _elements(right, sets)]
        return True if True in said else None if None in said else False
    kind, known = value if isinstance(value, tuple) else ("", value)
    if kind == "protocol":
        return _in_range(right, lambda end: protocol_of(end), known)
    if kind == "concat":
        parts = right.get("concat", []) if isinstance(right, dict) else []
        said = [_fits(each, part, sets) for each, part in zip(known, parts)]
        return False if False in said or len(known) != len(parts) else None if None in said else True
    if kind == "number":
        return _in_range(right, lambda end: end if isinstance(end, int) else None, known)
    if kind == "interface":
        return is_interface(known, str(right))
    if kind == "address":
        return _address_fits(known, right)
    return bool(str(right) == known)


def _compares(value: Any, op: str, right: Any) -> Optional[bool]:
    if not isinstance(value, tuple) or value[0] != "number" or not isinstance(right, int):
        return None
    return {"<": value[1] < right, ">": value[1] > right, "<=": value[1] <= right, ">=": value[1] >= right}.get(op)


def _in_range(right: Any, number: Callable[[Any], Optional[int]], known: int) -> Optional[bool]:
    if isinstance(right, dict) and "range" in right:
        low, high = (number(end) for end in right["range"])
        return None if low is None or high is None else low <= known <= high
    return number(right) == known if not isinstance(right, dict) else None


def _address_fits(address: str, right: Any) -> Optional[bool]:
    if isinstance(right, dict) and "prefix" in right:
        return is_within(address, "%s/%s" % (right["prefix"]["addr"], right["prefix"]["len"]))
    if isinstance(right, dict) and "range" in right:
        if not address:
            return None
        low, high = (ipaddress.ip_address(end) for end in right["range"])
        return bool(low <= ipaddress.ip_address(address) <= high)  # type: ignore[operator]
    return is_within(address, str(right)) if isinstance(right, str) else None

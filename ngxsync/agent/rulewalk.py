"""What a packet filter does with a VRRP packet: chains in their order, jumps followed, each test yes, no, or not known. Pure.

Where something that is not known here may have let the packet pass, nothing is said against it.
"""

import ipaddress
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

VRRP, AH = 112, 51
MULTICAST = {4: "224.0.0.18", 6: "ff02::12"}
DEEPEST = 16  # jumps in one another


class Packet(NamedTuple):
    """`interface` is where it comes in or goes out; `source` "" where nobody knows it. With authentication by AH it is one of AH."""

    family: int
    direction: str
    interface: str
    source: str
    destination: str
    protocol: int = VRRP


Test = Callable[[Packet], Optional[bool]]
Verdict = Tuple[str, str]  # accept, drop, return, or jump, goto and the name of a chain; "" for none
# `decide` is for rules that look their verdict up
Rule = NamedTuple("Rule", [("tests", List[Test]), ("decide", Callable[[Packet], Verdict]), ("text", str)])
Chain = NamedTuple("Chain", [("rules", List[Rule]), ("policy", str)])
Chains = Dict[str, Chain]
# `rule` is the text of the one that decided, "policy drop" where none did
Outcome = NamedTuple("Outcome", [("verdict", str), ("chain", str), ("rule", str), ("is_sure", bool)])


def walk(chains: Chains, base: str, packet: Packet) -> Outcome:
    """What a base chain does with it: accept or drop, by a rule or by its policy."""
    outcome = _walk(chains, base, packet, 0)
    if outcome.verdict:
        return outcome
    policy = chains[base].policy
    return Outcome(policy, base, "policy %s" % policy, outcome.is_sure)


def _walk(chains: Chains, name: str, packet: Packet, depth: int) -> Outcome:
    is_sure = True
    for rule in chains[name].rules if name in chains and depth < DEEPEST else []:
        said = [test(packet) for test in rule.tests]
        if False in said:
            continue
        verdict, target = rule.decide(packet)
        if None in said:
            is_sure = is_sure and verdict in ("", "drop")
            continue
        if verdict in ("accept", "drop"):
            return Outcome(verdict, name, rule.text, is_sure)
        if verdict == "return":
            break
        if verdict in ("jump", "goto"):
            inner = _walk(chains, target, packet, depth + 1)
            is_sure = is_sure and inner.is_sure
            if inner.verdict:
                return inner._replace(is_sure=is_sure)
            if verdict == "goto":
                break
    return Outcome("", name, "", is_sure)


def is_within(address: str, network: str) -> Optional[bool]:
    """None where the address is not known, or the network is none."""
    if not address:
        return None
    try:
        found = ipaddress.ip_network(network, strict=False)
        return ipaddress.ip_address(address) in found
    except ValueError:
        return None


def kind_of(address: str) -> str:
    """As the kernel's tables call it; one of ours is not multicast."""
    return "multicast" if address and ipaddress.ip_address(address).is_multicast else "local"


def is_interface(name: str, pattern: str) -> bool:
    """ "eth+" and "eth*" are all that begin so."""
    return name.startswith(pattern[:-1]) if pattern[-1:] in ("+", "*") else name == pattern


def protocol_of(word: Any) -> Optional[int]:
    """Of a number or a name; None for those that are other protocols."""
    names = {"vrrp": VRRP, "carp": VRRP, "ah": AH}
    text = str(word).lower()
    return int(text) if text.isdigit() else names.get(text)

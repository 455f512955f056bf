"""`iptables-save` and `ip6tables-save` as chains of rules, as far as they can concern a VRRP packet. Pure."""

import shlex
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from .rulewalk import Chain, Chains, Packet, Rule, Test, Verdict, is_interface, is_within, kind_of, protocol_of

# the chains that see a packet, in their order: (table, chain)
ORDER = {
    "in": (
        ("raw", "PREROUTING"),
        ("mangle", "PREROUTING"),
        ("mangle", "INPUT"),
        ("filter", "INPUT"),
        ("security", "INPUT"),
    ),
    "out": (
        ("raw", "OUTPUT"),
        ("mangle", "OUTPUT"),
        ("filter", "OUTPUT"),
        ("security", "OUTPUT"),
        ("mangle", "POSTROUTING"),
    ),
}
TARGETS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return"}
# options with one value each that say nothing about whether a VRRP packet is meant
QUIET = (
    "-m --match --comment --limit --limit-burst --log-prefix --log-level --reject-with --set-mark --set-xmark --nflog-prefix"
    " --nflog-group --nflog-threshold --hashlimit-name --hashlimit-mode --hashlimit-burst --hashlimit-upto"
).split()

Option = NamedTuple("Option", [("name", str), ("values", List[str]), ("is_not", bool)])


def tables(text: str) -> Dict[str, Chains]:
    """By the table's name. A line that cannot be read is a rule of which nothing is known."""
    found: Dict[str, Chains] = {}
    chains: Chains = {}
    for line in text.splitlines():
        if line.startswith("*"):
            chains = found.setdefault(line[1:].strip(), {})
        elif line.startswith(":"):
            name, _, rest = line[1:].partition(" ")
            chains[name] = Chain([], "drop" if rest.split()[:1] == ["DROP"] else "accept")
        elif line.startswith("-A "):
            try:
                words = shlex.split(line)
            except ValueError:
                words = line.split()
            if len(words) > 1 and words[1] in chains:
                chains[words[1]].rules.append(_rule(words[2:], line, chains))
    return found


def _rule(words: List[str], line: str, chains: Chains) -> Rule:
    options = _options(words)
    verdict: Verdict = ("", "")
    tests: List[Test] = []
    for option in options:
        if option.name in ("-j", "--jump", "-g", "--goto"):
            target = option.values[0] if option.values else ""
            is_chain = target in chains
            jump = "goto" if option.name in ("-g", "--goto") else "jump"
            verdict = (jump, target) if is_chain else (TARGETS.get(target, ""), "")
        elif option.name not in QUIET:
            tests.append(_test(option))
    return Rule(tests, lambda _packet: verdict, line)


def _options(words: List[str]) -> List[Option]:
    """Each with what follows it up to the next; `!` stands before an option."""
    found: List[Option] = []
    is_not = False
    for word in words:
        if word == "!":
            is_not = True
        elif word.startswith("-") and not word.lstrip("-").isdigit():
            found.append(Option(word, [], is_not))
            is_not = False
        elif found:
            found[-1].values.append(word)
    return found


def _test(option: Option) -> Test:
    check = CHECKS.get(option.name)
    value = option.values[0] if option.values else ""

    def test(packet: Packet) -> Optional[bool]:
        said = check(packet, value) if check else None
        return said if said is None or not option.is_not else not said

    return test


def _any_within(address: str, networks: str) -> Optional[bool]:
    said = [is_within(address, each) for each in networks.split(",")]
    return True if True in said else None if None in said else False


def _state(_packet: Packet, value: str) -> Optional[bool]:
    return "NEW" in value.split(",")


def _interface(direction: str) -> Callable[[Packet, str], Optional[bool]]:
    return lambda packet, value: packet.direction == direction and is_interface(packet.interface, value)


def _protocol(packet: Packet, value: str) -> Optional[bool]:
    return value in ("all", "0") or protocol_of(value) == packet.protocol


CHECKS: Dict[str, Callable[[Packet, str], Optional[bool]]] = {
    "-p": _protocol,
    "-s": lambda packet, value: _any_within(packet.source, value),
    "-d": lambda packet, value: _any_within(packet.destination, value),
    "-i": _interface("in"),
    "-o": _interface("out"),
    "--state": _state,
    "--ctstate": _state,
    "--ctstatus": lambda _packet, value: value == "NONE",
    "--ctdir": lambda _packet, value: value == "ORIGINAL",
    "--ttl-eq": lambda _packet, value: value == "255",
    "--pkt-type": lambda packet, value: (
        value == ("multicast" if kind_of(packet.destination) == "multicast" else "unicast")
    ),
    "--dst-type": lambda packet, value: value == kind_of(packet.destination).upper(),
}


def bases_for(found: Dict[str, Chains], packet: Packet) -> List[Tuple[Chains, str, str]]:
    """(the table's chains, its name, the base chain), in the order in which they see the packet."""
    order = ORDER[packet.direction]
    return [(found[table], table, name) for table, name in order if table in found and name in found[table]]

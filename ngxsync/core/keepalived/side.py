"""keepalived.conf of one host as values: its blocks, its instances with what they track, and what is true of the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import ip_interface
from itertools import islice
from typing import Any

from ngxsync.core.keepalived.finding import Place
from ngxsync.core.keepalived.nodes import Node, Unclosed, close_all, make_nodes
from ngxsync.core.keepalived.weights import OWNER

MOST = 100  # instances that are looked at
DEFAULT = 100  # priority
MCAST = {4: "224.0.0.18", 6: "ff02::12"}
# where it is tracked: what it is
TRACKED = {"track_script": "vrrp_script", "track_process": "vrrp_track_process"}


@dataclass(frozen=True)
class Vip:
    """As its line says it; `address` is in its normal form."""

    address: str
    text: str
    place: Place

    @property
    def family(self) -> int:
        return 6 if ":" in self.address else 4


@dataclass(frozen=True)
class Tracked:
    """A script or process that an instance or its group tracks, or an interface with a weight.

    `place` is where the weight is said, or where it would be. `line` is what stands there before the weight: its name where it is
    tracked, nothing where it is described itself.
    """

    name: str
    weight: int
    place: Place
    line: str
    is_known: bool
    is_reversed: bool = False
    is_left_out: bool = False  # by keepalived, since it has a weight and its instance is in a group


@dataclass(frozen=True)
class Instance:
    """`version` is that of VRRP."""

    node: Node
    family: int
    version: int
    vips: tuple[Vip, ...]
    excluded: tuple[Vip, ...]
    tracked: tuple[Tracked, ...]
    is_tracking: bool  # by whatever: a script, a process, a file
    is_strict: Node | None
    group: str  # of multicast

    @property
    def name(self) -> str:
        return self.node.value

    @property
    def place(self) -> Place:
        return self.node.place

    @property
    def interface(self) -> str:
        return self.word("interface")

    @property
    def router_id(self) -> int:
        return number(self.word("virtual_router_id"), 0)

    @property
    def priority(self) -> int:
        """Without one, state MASTER makes it the owner of the address; one that is none is DEFAULT [measured with 2.2.7]."""
        if not self.node.get("priority"):
            return OWNER if self.word("state") == "MASTER" else DEFAULT
        said = number(self.word("priority"), DEFAULT)
        return said if 1 <= said <= OWNER else DEFAULT

    def while_well(self, *, without: str = "") -> int:
        """The priority with what is tracked, but this, in order: each positive weight is then added."""
        found = (each for each in self.tracked if each.is_known and not each.is_reversed and each.name != without)
        return self.priority + sum(max(0, each.weight) for each in found)

    @property
    def addresses(self) -> frozenset[str]:
        return frozenset(vip.address for vip in (*self.vips, *self.excluded))

    @cached_property
    def peers(self) -> tuple[Node, ...]:
        return tuple(self.node.lines("unicast_peer"))

    @property
    def password(self) -> Node | None:
        """Its length and hash as words."""
        return next((line for line in self.node.lines("authentication") if line.name == "auth_pass"), None)

    @property
    def auth_type(self) -> str:
        """keepalived's names for it; "" without authentication."""
        found = next((line.value for line in self.node.lines("authentication") if line.name == "auth_type"), "")
        return found or ("PASS" if self.password else "")

    def word(self, name: str) -> str:
        node = self.node.get(name)
        return node.value if node else ""

    def place_of(self, name: str) -> Place:
        """Where it says that, or where it would."""
        node = self.node.get(name)
        return node.place if node else self.place


@dataclass(frozen=True)
class Side:
    """One host; `facts` is the agent's answer to the verb vrrp."""

    host: str
    facts: Mapping[str, Any]
    nodes: tuple[Node, ...] = field(default=())
    unclosed: tuple[Unclosed, ...] = field(default=())

    @property
    def place(self) -> Place:
        return Place(self.facts["file"])

    @property
    def addresses(self) -> frozenset[str]:
        return frozenset(self.facts["addresses"])

    def holds(self, address: str) -> bool:
        return any(carried == address for _, carried in self.facts["carried"])

    @cached_property
    def globals(self) -> Node:
        """All global_defs as one."""
        found = [node for node in self.nodes if node.name == "global_defs"]
        lines = tuple(line for node in found for line in node.inside)
        return Node(found[0].place if found else self.place, ("global_defs",), lines)

    @cached_property
    def instances(self) -> tuple[Instance, ...]:
        found = (node for node in self.nodes if node.name == "vrrp_instance")
        return tuple(_instance(self, node) for node in islice(found, MOST))

    @property
    def groups(self) -> list[Node]:
        return [node for node in self.nodes if node.name == "vrrp_sync_group"]

    def group_of(self, instance: str) -> Node | None:
        members = [(group, {word for line in group.lines("group") for word in line.words}) for group in self.groups]
        return next((group for group, names in members if instance in names), None)

    def members_with(self, instance: Instance) -> list[Instance]:
        """The others of its group, with which it moves."""
        group = self.group_of(instance.name)
        return [each for each in self.instances if group and each is not instance and self.group_of(each.name) is group]

    @property
    def scripts(self) -> list[str]:
        return [node.value for node in self.nodes if node.name == "vrrp_script"]

    @property
    def processes(self) -> list[str]:
        return [node.value for node in self.nodes if node.name == "vrrp_track_process"]

    def named(self, kind: str, name: str) -> Node | None:
        """The block of this kind and name; the last one counts."""
        return next((node for node in reversed(self.nodes) if node.words[:2] == (kind, name)), None)


def make_side(host: str, facts: Mapping[str, Any]) -> Side:
    statements, unclosed = close_all(facts["statements"])
    return Side(host, facts, make_nodes(statements), tuple(unclosed))


def _instance(side: Side, node: Node) -> Instance:
    vips = tuple(_vips(node, "virtual_ipaddress"))
    family = vips[0].family if vips else 6 if node.get("native_ipv6") else 4
    asked = (node.get("version") or side.globals.get("vrrp_version") or node).value
    version = 3 if family == 6 or asked == "3" else 2
    group = side.group_of(node.value)
    blocks = [node, *([group] if group else [])]
    strict = node.get("strict_mode") or side.globals.get("vrrp_strict")
    mcast = node.get("mcast_dst_ip") or side.globals.get(f"vrrp_mcast_group{family}")
    return Instance(
        node=node,
        family=family,
        version=version,
        vips=vips,
        excluded=tuple(_vips(node, "virtual_ipaddress_excluded")),
        tracked=tuple(_tracked(side, node, group)),
        is_tracking=any(block.lines("track_script", "track_process", "track_file") for block in blocks),
        is_strict=None if strict is None or strict.value in ("off", "false", "no") else strict,
        group=mcast.value if mcast else MCAST[family],
    )


def _vips(node: Node, name: str) -> Iterator[Vip]:
    for line in node.lines(name):
        try:
            found = ip_interface(line.name)
        except ValueError:
            continue  # keepalived's own test says so
        yield Vip(str(found.ip), line.name, line.place)


def _tracked(side: Side, node: Node, group: Node | None) -> Iterator[Tracked]:
    """A script with a weight that a member of a group tracks is left out; of the group itself it counts [measured with 2.2.7]."""
    counts = not group or any(group.get(word) for word in ("sync_group_tracking_weight", "global_tracking"))
    for block in (node, *([group] if group else ())):
        for kind, described in TRACKED.items():
            for line in block.lines(kind):
                found = side.named(described, line.name)
                if found is not None or kind == "track_script":  # an earlier agent does not tell of processes
                    tracked = _one_tracked(line, found)
                    is_left_out = not counts and block is node and kind == "track_script" and tracked.weight != 0
                    yield _left_out(tracked, line) if is_left_out else tracked
        if counts or block is group:
            own = node.get("interface")  # tracked in any case, and never by a weight
            links = [line for line in block.lines("track_interface") if own is None or line.name != own.value]
            yield from (_one_tracked(line, line) for line in links if line.after("weight"))


def _left_out(tracked: Tracked, line: Node) -> Tracked:
    """Mended where it is tracked: what describes it may serve others, too."""
    return replace(tracked, weight=0, place=line.place, line=f"{line.name} ", is_reversed=False, is_left_out=True)


def _one_tracked(line: Node, found: Node | None) -> Tracked:
    """Without any weight it is 0, of a process too, whatever the manual says [measured with 2.2.7]."""
    said = found.get("weight") if found else None
    own = line.after("weight")
    weight = number(own or (said.value if said else ""), 0)
    is_here = bool(own) or said is None
    place = line.place if is_here or said is None else said.place
    is_reversed = "reverse" in (line.words if own or said is None else said.words) and weight != 0
    return Tracked(line.name, weight, place, f"{line.name} " if is_here else "", found is not None, is_reversed)


def normal(address: str) -> str:
    """As the kernel writes it; what is none stays as it is."""
    try:
        return str(ip_interface(address).ip)
    except ValueError:
        return address


def number(text: str, otherwise: int) -> int:
    try:
        return int(text)
    except ValueError:
        return otherwise

"""What the agent makes of a packet filter, against what the kernel makes of a real VRRP packet under the same rules."""

from __future__ import annotations

import json
import socket
import struct

from ngxsync.agent import firewall, iptrules, nftrules
from ngxsync.agent.rulewalk import AH, VRRP, Packet, walk
from tests.host import _in_network_of
from tests.pair import Pair

GROUP = "224.0.0.18"
IN = Packet(4, "in", "eth0", "192.0.2.2", GROUP)
OUT = Packet(4, "out", "eth0", "192.0.2.1", GROUP)
DROPPING = "type filter hook input priority 0; policy drop;"
LEAVING = "type filter hook output priority 0; policy drop;"

# as firewalld 1.2 writes it for its zone public
FIREWALLD = """\
table inet firewalld {
    chain filter_PREROUTING {
        type filter hook prerouting priority filter + 10; policy accept;
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }
    chain filter_INPUT_POLICIES_pre {
        jump filter_IN_policy_allow_host_ipv6
    }
    chain filter_IN_policy_allow_host_ipv6 {
        icmpv6 type { nd-neighbor-advert, nd-neighbor-solicit, nd-router-advert, nd-redirect } accept
    }
    chain filter_IN_public_log {
    }
    chain filter_IN_public_allow {
        tcp dport 22 accept
        ip6 daddr fe80::/64 udp dport 546 accept
        tcp dport 9090 accept
        @allowed
    }
    chain filter_IN_public {
        jump filter_INPUT_POLICIES_pre
        jump filter_IN_public_log
        jump filter_IN_public_allow
        meta l4proto { icmp, ipv6-icmp } accept
        reject with icmpx admin-prohibited
    }
    chain filter_INPUT_ZONES {
        iifname "eth0" goto filter_IN_public
        goto filter_IN_public
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        jump filter_INPUT_ZONES
        reject with icmpx admin-prohibited
    }
}
"""
# name: (a ruleset of web1, which way, passes)
RULESETS = {
    "nothing": ("", "in", True),
    "policy": (f"table inet f {{ chain i {{ {DROPPING} }} }}", "in", False),
    "policy of what leaves": (f"table ip f {{ chain o {{ {LEAVING} }} }}", "out", False),
    "the other family": (f"table ip6 f {{ chain i {{ {DROPPING} }} }}", "in", True),
    "by name": (f"table inet f {{ chain i {{ {DROPPING} ip protocol vrrp accept }} }}", "in", True),
    "by number in a set": (f"table inet f {{ chain i {{ {DROPPING} meta l4proto {{ 1, 112 }} accept }} }}", "in", True),
    "by range": (f"table inet f {{ chain i {{ {DROPPING} meta l4proto 100-120 accept }} }}", "in", True),
    "other protocols": (
        f"table inet f {{ chain i {{ {DROPPING} tcp dport 22 accept; ip protocol icmp accept }} }}",
        "in",
        False,
    ),
    "by interface": (f'table inet f {{ chain i {{ {DROPPING} iifname "eth*" accept }} }}', "in", True),
    "another interface": (f'table inet f {{ chain i {{ {DROPPING} iifname "lo" accept }} }}', "in", False),
    "by group": (f"table inet f {{ chain i {{ {DROPPING} ip daddr 224.0.0.18 accept }} }}", "in", True),
    "by kind of packet": (f"table inet f {{ chain i {{ {DROPPING} meta pkttype multicast accept }} }}", "in", True),
    "by kind of address": (f"table inet f {{ chain i {{ {DROPPING} fib daddr type multicast accept }} }}", "in", True),
    "by source": (f"table inet f {{ chain i {{ {DROPPING} ip saddr 192.0.2.0/24 counter accept }} }}", "in", True),
    "another source": (f"table inet f {{ chain i {{ {DROPPING} ip saddr != 192.0.2.2 accept }} }}", "in", False),
    "a named set": (
        f"table inet f {{ set s {{ type ipv4_addr; elements = {{ 192.0.2.2, 192.0.2.9 }} }} chain i {{ {DROPPING} ip saddr @s accept }} }}",
        "in",
        True,
    ),
    "established": (f"table inet f {{ chain i {{ {DROPPING} ct state established,related accept }} }}", "in", False),
    "new by a map": (
        f"table inet f {{ chain i {{ {DROPPING} ct state vmap {{ established : accept, new : jump j }} }}"
        " chain j { iifname eth0 accept } }",
        "in",
        True,
    ),
    "a drop before": (
        "table inet f { chain i { type filter hook input priority 0; ip protocol vrrp drop; accept } }",
        "in",
        False,
    ),
    "a drop that is jumped to": (
        "table inet f { chain i { type filter hook input priority 0; jump j; } chain j { meta l4proto 112 reject } }",
        "in",
        False,
    ),
    "returned from": (
        "table inet f { chain i { type filter hook input priority 0; jump j; accept } chain j { return; drop } }",
        "in",
        True,
    ),
    "gone to": (
        f"table inet f {{ chain i {{ {DROPPING} goto j; accept }} chain j {{ tcp dport 22 accept }} }}",
        "in",
        False,
    ),
    "accepted, and then dropped by a later chain": (
        f"table inet a {{ chain i {{ type filter hook input priority -5; accept }} }} table inet b {{ chain i {{ {DROPPING} }} }}",
        "in",
        False,
    ),
    "before it is routed": (
        "table inet f { chain p { type filter hook prerouting priority -300; ip protocol 112 drop } }",
        "in",
        False,
    ),
    "firewalld": (FIREWALLD.replace("@allowed", ""), "in", False),
    "firewalld with vrrp": (FIREWALLD.replace("@allowed", "ip protocol vrrp accept"), "in", True),
    "firewalld with a rich rule": (
        FIREWALLD.replace("@allowed", "meta l4proto { 112 } ct direction original accept"),
        "in",
        True,
    ),
    "by what it does not have": (
        f"table inet f {{ chain i {{ {DROPPING} ct status dnat,snat accept; udp dport 1-9 accept }} }}",
        "in",
        False,
    ),
    "source and protocol": (
        f"table inet f {{ chain i {{ {DROPPING} ip saddr . ip protocol {{ 192.0.2.2 . vrrp }} accept }} }}",
        "in",
        True,
    ),
    "source and another protocol": (
        "table inet f { set s { type ipv4_addr . inet_proto; elements = { 192.0.2.2 . tcp } }"
        f" chain i {{ {DROPPING} ip saddr . meta l4proto @s accept }} }}",
        "in",
        False,
    ),
    "always 255": (f"table inet f {{ chain i {{ {DROPPING} ip ttl 255 accept }} }}", "in", True),
    "never less": (f"table inet f {{ chain i {{ {DROPPING} ip ttl < 255 accept }} }}", "in", False),
    "what comes too fast": (
        "table inet f { chain i { type filter hook input priority 0; ip protocol 112 limit rate over 100/second drop } }",
        "in",
        True,
    ),
}


def verdict_of(ruleset: str, packet: Packet) -> bool:
    """Whether it passes, by `nft -j list ruleset`."""
    found = nftrules.tables(json.loads(ruleset))
    outcomes = [walk(table.chains, base, packet) for table, base in nftrules.bases_for(found, packet)]
    assert all(each.is_sure for each in outcomes)
    return all(each.verdict != "drop" for each in outcomes)


def raw_socket(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
    group = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton(address))
    made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    return made


def arrives(sender: socket.socket, receiver: socket.socket, mark: bytes) -> bool:
    try:
        sender.sendto(mark, (GROUP, 0))
        while True:
            if receiver.recv(2048).endswith(mark):
                return True
    except (TimeoutError, PermissionError):  # the latter: what leaves is dropped here
        return False


def test_the_kernel_agrees(pair: Pair) -> None:
    web1, web2 = pair.web1, pair.web2
    ours = _in_network_of(web1.pid, lambda: raw_socket(web1.address))
    theirs = _in_network_of(web2.pid, lambda: raw_socket(web2.address))
    with ours, theirs:
        for number, (name, (ruleset, direction, passes)) in enumerate(RULESETS.items()):
            listed = web1.run(
                ["sh", "-c", "nft -f - && nft -j list ruleset"],
                input="flush ruleset\n"
                + ruleset.replace(" }", "\n}").replace("} chain", "}\nchain").replace("} table", "}\ntable"),
            ).stdout
            sender, receiver = (theirs, ours) if direction == "in" else (ours, theirs)
            receiver.settimeout(10.0 if passes else 0.15)
            is_there = arrives(sender, receiver, b"ngxsync %d" % number)
            assert (is_there, verdict_of(listed, IN if direction == "in" else OUT)) == (passes, passes), name
        web1.run(["nft", "flush", "ruleset"])


# iptables-save, as iptables 1.8.9 wrote it (both of its kinds); whether a packet arrived was tried with each
SAVED = {
    "ufw": (
        """\
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-user-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
""",
        IN,
        "policy drop",
    ),
    "a chain of one's own": (
        """\
*filter
:INPUT ACCEPT [0:0]
:mine - [0:0]
-A INPUT -i eth+ -j mine
-A mine -m comment --comment "it is \\"mine\\"" -m addrtype --dst-type MULTICAST -j RETURN
-A mine -j DROP
COMMIT
""",
        IN,
        "",
    ),
    "all but icmp": (
        """\
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p icmp -j ACCEPT
-A INPUT -j REJECT --reject-with icmp-host-prohibited
COMMIT
""",
        IN,
        "-A INPUT -j REJECT --reject-with icmp-host-prohibited",
    ),
    "raw": (
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p vrrp -j DROP\nCOMMIT\n",
        IN,
        "-A PREROUTING -p vrrp -j DROP",
    ),
    "what leaves": (
        "*mangle\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -p vrrp -j DROP\nCOMMIT\n",
        OUT,
        "-A POSTROUTING -o eth0 -p vrrp -j DROP",
    ),
    "not from there": ("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT ! -s 192.0.2.0/24 -j DROP\nCOMMIT\n", IN, ""),
    "by what it does not have": (
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstatus DNAT,SEEN_REPLY -j ACCEPT\nCOMMIT\n",
        IN,
        "policy drop",
    ),
    "always 255": ("*filter\n:INPUT DROP [0:0]\n-A INPUT -m ttl --ttl-eq 255 -j ACCEPT\nCOMMIT\n", IN, ""),
    "limited": ("*filter\n:INPUT DROP [0:0]\n-A INPUT -m limit --limit 100/sec -j ACCEPT\nCOMMIT\n", IN, ""),
}


def test_what_iptables_saved() -> None:
    for name, (text, packet, rule) in SAVED.items():
        outcomes = [walk(chains, base, packet) for chains, _, base in iptrules.bases_for(iptrules.tables(text), packet)]
        assert [each.rule for each in outcomes if each.verdict == "drop"] == ([rule] if rule else []), name
        assert all(each.is_sure for each in outcomes)


def test_with_ah_it_is_a_packet_of_ah() -> None:
    """As keepalived 2.2.7 sends it: protocol 51."""
    for protocol, word, passes in ((AH, "ah", True), (AH, "51", True), (AH, "vrrp", False), (VRRP, "ah", False)):
        packet = IN._replace(protocol=protocol)
        text = f"*filter\n:INPUT DROP [0:0]\n-A INPUT -p {word} -j ACCEPT\nCOMMIT\n"
        assert (walk(iptrules.tables(text)["filter"], "INPUT", packet).verdict == "accept") == passes
        match = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": word}}
        place = {"family": "inet", "table": "f"}
        chain = {**place, "name": "i", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}
        rule = {**place, "chain": "i", "expr": [match, {"accept": None}]}
        (table,) = nftrules.tables({"nftables": [{"chain": chain}, {"rule": rule}]})
        assert (walk(table.chains, "i", packet).verdict == "accept") == passes


def test_what_is_not_known_here_is_held_against_nobody() -> None:
    unknown = "*filter\n:INPUT DROP [0:0]\n-A INPUT -m u32 --u32 0x0=0x0 -j ACCEPT\nCOMMIT\n"
    tables = iptrules.tables(unknown)
    outcome = walk(tables["filter"], "INPUT", IN)
    assert (outcome.verdict, outcome.is_sure) == ("drop", False)
    # nft lists what iptables wrote with its own extensions
    chain = {
        "family": "ip",
        "table": "filter",
        "name": "INPUT",
        "type": "filter",
        "hook": "input",
        "prio": 0,
        "policy": "drop",
    }
    rule = {
        "family": "ip",
        "table": "filter",
        "chain": "INPUT",
        "expr": [{"xt": {"type": "match", "name": "x"}}, {"accept": None}],
    }
    found = nftrules.tables({"nftables": [{"chain": chain}, {"rule": rule}]})
    assert not walk(found[0].chains, "INPUT", IN).is_sure
    # an advert of IPv6 comes from a link-local address that nobody knows
    chains = iptrules.tables("*filter\n:INPUT DROP [0:0]\n-A INPUT -s fe80::/10 -p vrrp -j ACCEPT\nCOMMIT\n")["filter"]
    assert not walk(chains, "INPUT", Packet(6, "in", "eth0", "", "ff02::12")).is_sure
    assert firewall.drops([])["drops"] == []

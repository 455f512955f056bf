"""`ngxsync keepalived check`, pure: the rendered pair is sound, and each fault that is planted in it is found, with its line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from ngxsync.agent.rulewalk import AH, VRRP
from ngxsync.agent.vrrpfacts import concerning, masked, packets
from ngxsync.agent.vrrpfiles import UNFINISHED
from ngxsync.agent.vrrplines import Reader
from ngxsync.agent.vrrpscripts import scripts
from ngxsync.core.answers import checked
from ngxsync.core.checkup import FAILED, OK, WARNING, render_checks
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import AgentFailed
from ngxsync.core.keepalived import verdict
from ngxsync.core.keepalived.finding import Finding
from ngxsync.core.keepalived.judge_side import judge_side
from ngxsync.core.keepalived.judge_sides import paired
from ngxsync.core.keepalived.side import Side, make_side
from ngxsync.flow.interfaces import Peer
from ngxsync.flow.keepalived import check_keepalived
from tests.test_keepalived_render import BOTH, V6, config_of, rendered

FILE = "/etc/keepalived/keepalived.conf"
VIP = "192.0.2.100"
Change = Callable[[str], str]


def answer_of(name: str, text: str, **facts: Any) -> dict[str, Any]:
    """As the agent would answer on a host where all is well."""
    number = name[-1]
    reader = Reader(name, lambda _pattern, _folder: [])
    statements = [
        [each.file, each.line, masked(each.words, "00")] for each in concerning(list(reader.read(FILE, text)))
    ]
    own = [f"192.0.2.{number}", f"2001:db8::{number}"]
    held = [VIP, "2001:db8::100", "192.0.2.101"] if name == "web1" else []
    found = {
        "ok": True,
        "host": name,
        "uid": 0,
        "version": "2.2.7",
        "running": {"pid": 7, "args": ["keepalived"]},
        "file": FILE,
        "why": "",
        "statements": statements,
        "problems": [list(each) for each in reader.problems],
        "complaints": [],
        "interfaces": ["eth0", "lo"],
        "addresses": ["127.0.0.1", *own, *held],
        "carried": [["eth0", address] for address in [*own, *held]],
        "scripts": [],
        "firewall": {"drops": [], "why": ""},
    }
    return {**found, **facts}


def sides_of(config: Config, *, password: str = "secret") -> list[str]:
    return rendered(config, password=password)


@dataclass
class Planted:
    """What is changed in the texts of web1 and web2 and in what is true there; the findings as "HOST CODE", and words of one of them."""

    found: list[str]
    words: str = ""
    mend: str = ""
    one: Change = lambda text: text
    two: Change = lambda text: text
    facts1: dict[str, Any] = field(default_factory=dict)
    facts2: dict[str, Any] = field(default_factory=dict)
    vrrp: str = ""
    priorities: tuple[int, int] = (100, 99)


def swap(old: str, new: str) -> Change:
    def change(text: str) -> str:
        assert old in text, f"{old!r} is not in\n{text}"
        return text.replace(old, new)

    return change


def before_end(line: str) -> Change:
    """As the last line of the instance."""
    return lambda text: text.rstrip().removesuffix("}") + f"    {line}\n}}\n"


def both(change: Change) -> dict[str, Change]:
    return {"one": change, "two": change}


SECOND = """
vrrp_instance other {
    state BACKUP
    interface eth0
    virtual_router_id 89
    priority 50
    virtual_ipaddress {
        192.0.2.101/24 dev eth0
    }
    track_script {
        check_nginx
    }
}
"""
PROCESS = """\
vrrp_track_process nginx {
    process nginx%s
}
"""
TWO = "vrrp_script two {\n    script /bin/true\n    weight 30\n}\n"
TRACKING = "track_process {\n        nginx\n    }"
DROP = {
    "family": 4,
    "direction": "in",
    "interface": "eth0",
    "place": "nft inet f i",
    "rule": "policy drop",
    "mend": "nft insert",
}
SCRIPT = {"file": FILE, "line": 12, "keyword": "script", "command": "/x y", "path": "/x", "user": "root"}


def script_fault(code: str, path: str = "/x", what: str = "/x is wrong") -> dict[str, Any]:
    return {"scripts": [{**SCRIPT, "faults": [[code, path, what]]}]}


FAULTS: dict[str, Planted] = {
    "virtual_router_id": Planted(
        ["web2 router-id-differs"], "is 89, and 88 on web1", "virtual_router_id 88", two=swap("_id 88", "_id 89")
    ),
    "a VIP of one host alone": Planted(
        [
            "web2 vips-differ",
            "web1 vips-differ",
            "web2 vip-not-configured",
            "web2 vip-not-configured",
            "web2 vip-on-none",
        ],
        two=swap("192.0.2.100/24", "192.0.2.110/24"),
        words="lacks 192.0.2.100",
        mend="virtual_ipaddress { 192.0.2.100/24 }",
    ),
    "another prefix": Planted(
        ["web2 vips-differ"], "192.0.2.100/32 is", "192.0.2.100/24", two=swap("100/24", "100/32")
    ),
    "authentication of one": Planted(
        ["web2 auth-differs"],
        "is none, and PASS on web1",
        "auth_type PASS",
        two=swap("auth_type PASS\n        auth_pass secret", ""),
    ),
    "type of authentication": Planted(["web2 auth-differs"], "is AH", "auth_type PASS", two=swap("PASS", "AH")),
    "password": Planted(["web2 auth-differs"], "the password is another one", two=swap("secret", "Secret")),
    "a password of one host": Planted(
        ["web2 auth-differs"], "the password is another one", two=swap("        auth_pass secret\n", "")
    ),
    "advert_int": Planted(
        ["web2 advert-differs"], "is 2, and 1 on web1", "advert_int 1", two=swap("advert_int 1", "advert_int 2")
    ),
    "version": Planted(
        ["web2 auth-ignored", "web2 version-differs"],
        "version 3 ignores it",
        two=swap("advert_int 1", "version 3\n    advert_int 1"),
    ),
    "group": Planted(["web2 group-differs"], "224.0.0.19", two=before_end("mcast_dst_ip 224.0.0.19")),
    "router_id": Planted(
        ["web2 same-router-id"], "names web1 too", "router_id web2", two=swap("router_id web2", "router_id web1")
    ),
    "no router_id, one host name": Planted(
        ["web2 same-router-id"],
        one=swap("    router_id web1\n", ""),
        two=swap("    router_id web2\n", ""),
        facts1={"host": "localhost"},
        facts2={"host": "localhost"},
    ),
    "a long password": Planted(
        ["web1 long-password", "web2 long-password"],
        "has 9 characters",
        "8 characters",
        **both(swap("secret", "secret789")),
    ),
    "the firewall": Planted(
        ["web2 firewall"],
        "drops VRRP (protocol 112) on eth0",
        "nft insert",
        facts2={"firewall": {"drops": [DROP], "why": ""}},
    ),
    "the firewall, with AH": Planted(
        ["web2 firewall"],
        "drops AH, in which VRRP is here (protocol 51), on eth0",
        facts2={"firewall": {"drops": [{**DROP, "protocol": 51}], "why": ""}},
    ),
    "a firewall that cannot be read": Planted(
        ["web1 firewall-unread"], "nft: no", facts1={"firewall": {"drops": [], "why": "nft: no"}}
    ),
    "an instance of one host": Planted(
        ["web1 no-sync-group", "web1 instance-alone", "web1 vip-not-configured"],
        "on this host alone",
        one=lambda text: text + SECOND,
    ),
    "one router id twice": Planted(
        ["web1 router-id-twice", "web2 router-id-twice", "web2 equal-priorities"],
        "has virtual_router_id 88 on eth0 too",
        "virtual_router_id 89",
        vrrp=f"check_weight = 0\nvip = {VIP}/24\n  192.0.2.101/24",
        **both(
            lambda text: (
                swap("        192.0.2.101/24 dev eth0\n", "")(text)
                + SECOND.replace("89", "88")
                + "vrrp_sync_group a { group { ngxsync other } }"
            )
        ),
        priorities=(100, 99),
    ),
    "mcast_src_ip": Planted(
        ["web2 source-address"],
        "192.0.2.9 is no address",
        "mcast_src_ip 192.0.2.2",
        two=before_end("mcast_src_ip 192.0.2.9"),
    ),
    "unicast_src_ip": Planted(
        ["web2 source-address"],
        "192.0.2.9",
        "unicast_src_ip 192.0.2.2",
        vrrp="unicast = yes",
        two=swap("unicast_src_ip 192.0.2.2", "unicast_src_ip 192.0.2.9"),
    ),
    "unicast_peer": Planted(
        ["web1 unicast-peer"],
        "none of them is an address of web2",
        "unicast_peer { 192.0.2.2 }",
        vrrp="unicast = yes",
        one=swap("        192.0.2.2\n", "        192.0.2.7\n"),
    ),
    "unicast on one side": Planted(
        ["web2 unicast-one-side"],
        "to a multicast group",
        "unicast_peer { 192.0.2.1 }",
        vrrp="unicast = yes",
        two=swap("    unicast_peer {\n        192.0.2.1\n    }\n", ""),
    ),
    "both families in one block": Planted(
        ["web1 vip-families", "web2 vip-families"],
        "is of another family than 192.0.2.100",
        "virtual_ipaddress_excluded { 2001:db8::100/64 }",
        vrrp=f"vip = {VIP}/24\n  2001:db8::100/64",
        **both(swap("    }\n    virtual_ipaddress_excluded {\n", "")),
    ),
    "a password with IPv6": Planted(
        ["web1 auth-ignored", "web2 auth-ignored"],
        "VRRP version 3 ignores it",
        "take the block away",
        vrrp=V6,
        **both(before_end("authentication {\n auth_type PASS\n auth_pass secret\n }")),
    ),
    "equal priorities": Planted(
        ["web2 equal-priorities"], "priority is 100, as on web1", "priority 99", two=swap("priority 99", "priority 100")
    ),
    "a weight too small": Planted(
        ["web1 weight-too-small"], "weight -5 leaves 145 against 100", "weight -51", priorities=(150, 100)
    ),
    "a positive weight too small": Planted(
        ["web1 weight-too-small"],
        "against 110",
        "weight 51   (on both hosts)",
        vrrp="check_weight = 10",
        priorities=(150, 100),
    ),
    "a positive weight that another one outweighs": Planted(
        ["web1 weight-too-small", "web1 weight-too-small"],
        "a failed check_nginx moves nothing to web2: weight 20 leaves 130 against 110",
        "weight 41   (on both hosts)",
        vrrp="check_weight = 20",
        priorities=(100, 90),
        one=lambda text: TWO + swap("        check_nginx\n", "        check_nginx\n        two\n")(text),
    ),
    "no priority, which makes a MASTER the owner": Planted(
        ["web1 weight-too-small"],
        "of a host with priority 255 keepalived tracks nothing that has a weight",
        "weight 0",
        one=swap("    priority 100\n", ""),
    ),
    "a priority that is none": Planted(
        ["web2 equal-priorities"], "priority is 100, as on web1", two=swap("priority 99", "priority 300")
    ),
    "a positive weight of one host": Planted(
        ["web2 no-track-script", "web1 weight-too-small"],
        vrrp="check_weight = 10",
        two=swap("        check_nginx\n", ""),
    ),
    "a weight of the track line": Planted(
        ["web1 weight-too-small"], "weight -1", one=swap("        check_nginx\n", "        check_nginx weight -1\n")
    ),
    "a weight of a process": Planted(
        ["web1 weight-too-small"],
        "a failed nginx moves nothing to web2: weight -5 leaves 145",
        "weight -51",
        **both(lambda text: PROCESS % "\n    weight -5" + before_end(TRACKING)(text)),
        priorities=(150, 100),
        vrrp="check_weight = -60",
    ),
    "a weight where a process is tracked": Planted(
        ["web1 weight-too-small"],
        "weight 1 leaves 150 against 100",
        "nginx weight -51",
        one=lambda text: PROCESS % "" + before_end(TRACKING.replace("nginx", "nginx weight 1"))(text),
        two=lambda text: PROCESS % "" + before_end(TRACKING)(text),
        priorities=(150, 100),
        vrrp="check_weight = -60",
    ),
    "a reversed weight": Planted(
        ["web2 weight-reversed"],
        "a failed check_nginx raises the priority",
        "weight -5",
        two=swap("weight -5", "weight 5 reverse"),
    ),
    "a weight with nopreempt": Planted(
        ["web1 weight-too-small", "web2 weight-too-small"], "with nopreempt", "weight 0", vrrp="nopreempt = yes"
    ),
    "nopreempt of the first host alone": Planted(
        ["web2 weight-too-small"], "nothing to web1", one=swap("state MASTER", "state BACKUP\n    nopreempt")
    ),
    "nothing tracked": Planted(
        ["web1 no-track-script", "web2 no-track-script"],
        "a dead nginx moves nothing",
        "track_script { check_nginx }",
        **both(swap("        check_nginx\n", "")),
    ),
    "an unknown script": Planted(
        ["web1 unknown-script"],
        "no vrrp_script chk_http",
        "check_nginx",
        one=swap("        check_nginx\n", "        check_nginx\n        chk_http\n"),
    ),
    "MASTER with nopreempt": Planted(
        ["web1 master-nopreempt"],
        "state MASTER makes nopreempt",
        "state BACKUP",
        vrrp="check_weight = 0",
        one=before_end("nopreempt"),
    ),
    "MASTER with preempt_delay": Planted(["web1 master-nopreempt"], "preempt_delay", one=before_end("preempt_delay 9")),
    "a script that is missing": Planted(
        ["web1 script-missing"],
        "/x: there is no",
        "put it there",
        facts1=script_fault("script-missing", "/x", "there is no such command"),
    ),
    "the agent is missing": Planted(
        ["web2 script-missing"],
        mend="ngxsync peer install web2",
        facts2=script_fault("script-missing", "/usr/local/sbin/ngxsync-agent", "none"),
    ),
    "a script that cannot be executed": Planted(
        ["web1 script-not-executable"], mend="chmod +x /x", facts1=script_fault("script-not-executable")
    ),
    "a script that others can change": Planted(
        ["web1 script-open"], mend="chmod go-w /x", facts1=script_fault("script-open")
    ),
    "a script that needs a shell": Planted(
        ["web1 script-shell"], mend="#!/bin/sh", facts1=script_fault("script-shell")
    ),
    "a script that no kernel runs": Planted(
        ["web1 script-interpreter"], mend="#!/bin/sh", facts1=script_fault("script-interpreter")
    ),
    "a script where nothing is run": Planted(
        ["web1 script-noexec"], mend="/usr/local/sbin/x", facts1=script_fault("script-noexec")
    ),
    "a script that its user cannot read": Planted(
        ["web1 script-unreadable"], mend="chmod go+r /x", facts1=script_fault("script-unreadable")
    ),
    "a script without quotes": Planted(
        ["web1 script-unquoted"], mend='script "', facts1=script_fault("script-unquoted")
    ),
    "a script of nobody": Planted(["web1 script-user"], mend="user root", facts1=script_fault("script-user")),
    "an interface": Planted(
        ["web2 no-interface"],
        "there is no interface eth9 here",
        "interface eth0",
        two=swap("interface eth0", "interface eth9"),
    ),
    "an interface of a VIP": Planted(["web2 no-interface"], "eth9", "dev eth0", two=swap("dev eth0", "dev eth9")),
    "an interface that keepalived builds upon": Planted(
        ["web2 no-interface"],
        "eth9",
        "interface eth0",
        two=lambda text: before_end("use_vmac vrrp.88")(swap("interface eth0", "interface eth9")(text)),
    ),
    "an interface that is down": Planted(
        ["web2 interface-down"],
        "eth0 is down: keepalived stays in FAULT",
        "ip link set eth0 up",
        facts2={"down": ["eth0"]},
    ),
    "a tracked interface": Planted(
        ["web2 no-interface"],
        "there is no interface eth8 here",
        "eth1",
        two=before_end("track_interface {\n        eth8 weight -5\n    }"),
        facts2={"interfaces": ["eth0", "eth1", "lo"]},
    ),
    "a weight of an interface": Planted(
        ["web1 weight-too-small"],
        "a failed eth1 moves nothing to web2: weight -5 leaves 95 against 90",
        "eth1 weight -11",
        one=before_end("track_interface {\n        eth1 weight -5\n        eth0 weight -1\n    }"),
        facts1={"interfaces": ["eth0", "eth1", "lo"]},
        vrrp="check_weight = -20",
        priorities=(100, 90),
    ),
    "what keepalived says of another interface": Planted(
        ["web2 keepalived-says", "web2 no-interface"],
        "keepalived says: interface eth7 for static route doesn't exist",
        "keepalived --config-test",
        two=swap("interface eth0", "interface eth9"),
        facts2={
            "complaints": [
                "Non-existent interface specified in configuration",
                "WARNING - interface eth9 for ngxsync doesn't exist",
                "interface eth7 for static route doesn't exist",
            ]
        },
    ),
    "both hold it": Planted(
        ["web1 vip-on-both"],
        "web1 and web2 hold 192.0.2.100 now",
        "tcpdump",
        facts2={"carried": [["eth0", "192.0.2.2"], ["eth0", VIP]]},
    ),
    "none holds it": Planted(
        ["web1 vip-on-none"], "no host holds", "journalctl", facts1={"carried": [["eth0", "192.0.2.1"]]}
    ),
    "it does not run": Planted(
        ["web2 not-running"], "does not run", "systemctl enable --now keepalived", facts2={"running": None}
    ),
    "it is not there": Planted(
        ["web2 not-running"], "is not there", "apt-get install", facts2={"running": None, "version": ""}
    ),
    "no file": Planted(
        ["web2 no-conf"],
        "No such file",
        "ngxsync keepalived render web2",
        two=lambda text: "",
        facts2={"why": "No such file or directory"},
    ),
    "no instance": Planted(["web2 no-instance"], two=lambda text: text[: text.index("vrrp_instance")]),
    "no_accept": Planted(["web2 no-accept"], "nobody reaches nginx there", "accept", two=before_end("no_accept")),
    "strict mode": Planted(
        ["web1 strict"],
        "drops what is sent to the VIP",
        "take the line away: vrrp_strict",
        one=swap("    script_user", "    vrrp_strict\n    script_user"),
    ),
    "what keepalived itself refuses": Planted(
        ["web1 keepalived-says", "web2 keepalived-says"],
        "keepalived says: Unknown keyword 'virtual_adress'",
        f"keepalived --config-test -f {FILE}",
        facts1={
            "complaints": [
                f"({FILE}: Line 18) Unknown keyword 'virtual_adress'",
                "Virtual server [192.0.2.100]:none:80: no protocol set - defaulting to UDP",
                "WARNING - script `pidof` resolved by path search to `/bin/pidof`. Please specify full path.",
            ]
        },
        facts2={"complaints": ["There are 1 missing '}'s or extra '{'s"]},
    ),
    "what it says more than once": Planted(
        ["web1 keepalived-says"],
        "script interval '0.5' must be",
        "interval 1",
        facts1={
            "complaints": [
                f"({FILE}: Line 13) invalid number '0.5'",
                "(Line 13) invalid number '0.5'",
                f"({FILE}: Line 13) (check_nginx): vrrp script interval '0.5' must be between 1 and 4294 - ignoring",
                "(Line 13) (check_nginx): vrrp script interval '0.5' must be between 1 and 4294 - ignoring",
            ]
        },
    ),
    "a brace too many": Planted(
        ["web1 keepalived-says"],
        "Extra '}' found",
        "take away the } before line 31",
        facts1={
            "complaints": [
                f"({FILE}: Line 34) Extra '}}' found",
                f"({FILE}: Line 34) Unknown keyword '}}'",
                f"({FILE}: Line 31) Unknown keyword 'track_script'",
                f"({FILE}: Line 31) Unexpected '{{' - ignoring",
            ]
        },
    ),
    "script security": Planted(
        ["web1 script-security"],
        "script security is off",
        "enable_script_security   (and there, in a line of its own: script_user root)",
        one=swap("    script_user root\n    enable_script_security\n", ""),
        facts1={
            "scripts": [{**SCRIPT, "faults": []}],
            "complaints": ["SECURITY VIOLATION - scripts are being executed but script_security not enabled."],
        },
    ),
    "a test that did not end by itself": Planted(
        ["web1 untested"],
        "it was ended by signal 15",
        f"unshare --pid --fork keepalived --config-test -f {FILE}",
        facts1={"complaints": [UNFINISHED % 15]},
    ),
    "its own interface": Planted(
        ["web1 own-interface"],
        "eth0 is tracked in any case",
        "take the line away: eth0",
        one=before_end("track_interface {\n        eth0\n    }"),
        facts1={"complaints": ["(ngxsync) Ignoring track_interface eth0 since own interface"]},
    ),
    "a script that its group tracks before it is there": Planted(
        ["web1 keepalived-says"],
        "(g) track script check_nginx not found",
        facts1={"complaints": [f"({FILE}: Line 3) (g) track script check_nginx not found, ignoring..."]},
    ),
    "a file that is executable": Planted(
        ["web1 not-followed"],
        "keepalived reads no such file",
        "chmod a-x /etc/keepalived/d/x.conf",
        facts1={"problems": [["/etc/keepalived/d/x.conf", 0, "it is executable, and keepalived reads no such file"]]},
    ),
    "a script that its user cannot execute": Planted(
        ["web1 script-not-executable"],
        mend="chmod a+rx /x",
        facts1={"scripts": [{**SCRIPT, "user": "nobody", "faults": [["script-not-executable", "/x", "/x is wrong"]]}]},
    ),
    "what is not followed": Planted(["web1 not-followed"], "~SEQ", one=lambda text: text + "~SEQ(X, 1) y\n"),
    "a VIP that [vrrp] does not name": Planted(
        ["web1 vip-not-configured", "web2 vip-not-configured"],
        "does not name 192.0.2.101",
        "vip = 192.0.2.101",
        **both(swap("        192.0.2.100/24 dev eth0\n", "        192.0.2.100/24 dev eth0\n        192.0.2.101\n")),
    ),
}


def findings_of(planted: Planted) -> list[Finding]:
    config = config_of(planted.vrrp, priorities=planted.priorities)
    texts = sides_of(config)
    changed = planted.one(texts[0]), planted.two(texts[1])
    web1, web2 = (
        make_side(name, answer_of(name, text, **facts))
        for name, text, facts in (("web1", changed[0], planted.facts1), ("web2", changed[1], planted.facts2))
    )
    return verdict.judge(config, web1, [web2])


@pytest.mark.parametrize("name", FAULTS)
def test_each_planted_fault_is_found(name: str) -> None:
    planted = FAULTS[name]
    findings = findings_of(planted)
    assert sorted(f"{each.host} {each.code}" for each in findings) == sorted(planted.found), findings
    assert all(each.what and each.mend for each in findings)
    assert any(planted.words in each.what for each in findings), findings
    assert any(planted.mend in each.mend for each in findings), findings


@pytest.mark.parametrize(
    "vrrp",
    [
        "",
        "unicast = yes",
        "nopreempt = yes\ncheck_weight = 0",
        "preempt_delay = 9s",
        V6,
        BOTH,
        "check_weight = 20",
        "notify = fifo",
    ],
)
def test_the_rendered_pair_is_sound(vrrp: str) -> None:
    assert findings_of(Planted([], vrrp=vrrp)) == []


def findings_of_three(
    priorities: tuple[int, int, int], vrrp: str = "", two: Change = lambda text: text, asked: str = "web2 web3"
) -> list[str]:
    """With a second backup, web3; `two` is what is changed on web2, `asked` the peers of web1 that are."""
    config = config_of(vrrp, priorities=priorities[:2], third=priorities[2])
    one, second, three = sides_of(config)
    texts = {"web1": one, "web2": two(second), "web3": three}
    web1, *others = (make_side(name, answer_of(name, text)) for name, text in texts.items())
    others = [side for side in others if side.host in asked]
    return [f"{each.host} {each.code}: {each.what}" for each in verdict.judge(config, web1, others)]


@pytest.mark.parametrize("vrrp", ["", "unicast = yes"])
def test_of_three_hosts_each_gives_way_to_the_next(vrrp: str) -> None:
    assert findings_of_three((100, 99, 98), vrrp) == []
    assert findings_of_three((100, 96, 92), vrrp) == []
    assert findings_of_three((100, 96, 92), vrrp, asked="web3") == [], "web2 is known, though nobody asks it"
    (found,) = findings_of_three((100, 99, 90), vrrp)
    assert found.startswith("web2 weight-too-small: a failed check_nginx moves nothing to web3: weight -5 leaves 94")


def test_two_backups_that_do_not_fit_together_are_found_from_the_master() -> None:
    (equal,) = findings_of_three((100, 99, 99))
    assert equal.startswith("web3 equal-priorities: priority is 99, as on web2")
    forgotten = swap("        192.0.2.3\n", "")  # not rendered anew when web3 came
    (deaf,) = findings_of_three((100, 99, 98), "unicast = yes", forgotten)
    assert deaf.startswith("web2 unicast-peer: 192.0.2.1: none of them is an address of web3")
    (same,) = findings_of_three((100, 99, 98), two=swap("router_id web2", "router_id web3"))
    assert same.startswith("web3 same-router-id: router_id web3 names web2 too")


class Answering:
    """A host that gives this answer; `partners` are those of the latest question: whose adverts have to come in there."""

    def __init__(self, peer: PeerConfig, text: str) -> None:
        self.config, self.text = peer, text
        self.partners: list[str] = []

    def call(self, _verb: str, request: Mapping[str, Any], **_options: Any) -> dict[str, Any]:
        self.partners = request.get("partners", [])
        return answer_of(self.config.name, self.text)


def test_each_of_three_hosts_is_asked_whether_it_hears_both_others() -> None:
    config = config_of("", third=98)
    hosts = [Answering(peer, text) for peer, text in zip(config.peers, sides_of(config), strict=True)]
    _, findings = check_keepalived(config, "web1", hosts[0], cast(list[Peer], hosts[1:]), "00")
    assert findings == []
    own = [f"192.0.2.{number}" for number in (1, 2, 3)]
    assert [[address for address in own if address in host.partners] for host in hosts] == [own[1:], own[::2], own[:2]]


def test_a_finding_has_the_line_where_it_stands() -> None:
    found = findings_of(FAULTS["virtual_router_id"])[0]
    text = sides_of(config_of(""))[1].splitlines()
    assert text[found.place.line - 1].strip() == "virtual_router_id 88"
    check = found.as_check()
    assert (check.host, check.name, check.state) == ("web2", "router-id-differs", FAILED)
    assert check.what.startswith(f"{FILE}:{found.place.line}: virtual_router_id is 89")
    assert f"({FILE}:" in check.what, "the other host's line too"


@pytest.mark.parametrize(
    "name",
    [
        "virtual_router_id",
        "another prefix",
        "advert_int",
        "group",
        "router_id",
        "one router id twice",
        "mcast_src_ip",
        "unicast_src_ip",
        "equal priorities",
        "a weight too small",
        "a positive weight too small",
        "no priority, which makes a MASTER the owner",
        "a weight of the track line",
        "a weight with nopreempt",
        "MASTER with nopreempt",
        "MASTER with preempt_delay",
        "an interface",
        "a weight of a process",
        "a weight where a process is tracked",
        "type of authentication",
        "a reversed weight",
        "no_accept",
        "an unknown script",
        "an interface that keepalived builds upon",
        "a tracked interface",
    ],
)
def test_the_line_that_mends_it_does(name: str) -> None:
    planted = FAULTS[name]

    def with_mend(host: str, change: Change) -> Change:
        def mended(text: str) -> str:
            lines = change(text).splitlines()
            for each in findings_of(planted):
                mend, _, note = each.mend.partition("   (")
                if each.host == host or note == "on both hosts)":
                    lines[each.place.line - 1] = mend
            return "\n".join(lines) + "\n"

        return mended

    found = findings_of(replace(planted, one=with_mend("web1", planted.one), two=with_mend("web2", planted.two)))
    assert found == []


@pytest.mark.parametrize(
    ("said", "line", "mend"),
    [
        ("(ngxsync) Unknown interface!", "vrrp_instance ngxsync {", "interface eth0"),
        ("(ngxsync) the virtual router id must be set", "vrrp_instance ngxsync {", "virtual_router_id 51"),
        (
            "(ngxsync) VRRPv2 advertisement interval 0.50s must be an integer. rounding",
            "    advert_int 1",
            "advert_int 1",
        ),
        (
            "(ngxsync) Initial state master is incompatible with AH authentication - clearing",
            "    state MASTER",
            "state BACKUP",
        ),
        ("(ngxsync) what nobody knows here", "vrrp_instance ngxsync {", "mend that line"),
        ("({line}) (ngxsync) unknown state 'master', defaulting to BACKUP", "    state MASTER", "state MASTER"),
        ("({line}) (ngxsync) unknown state 'slave', defaulting to BACKUP", "    state MASTER", "state BACKUP"),
        ("({line}) (ngxsync) unknown authentication type 'pass'", "        auth_type PASS", "auth_type PASS"),
        ("({line}) Unknown keyword 'Priority'", "    Priority 100", "priority 100"),
        ("({line}) Unknown keyword 'AUTH_PASS'", "        AUTH_PASS secret", "mend that line"),
        (
            "({line}) (ngxsync) track script check_nginx not found, ignoring...",
            "        check_nginx",
            f"move vrrp_script check_nginx ({FILE}:11)",
        ),
    ],
)
def test_what_keepalived_says_has_the_line_that_is_meant_and_what_mends_it(said: str, line: str, mend: str) -> None:
    text = sides_of(config_of(""))[0]
    text = text.replace("priority 100", "Priority 100") if "Priority" in line else text
    text = text.replace("auth_pass", "AUTH_PASS") if "AUTH_PASS" in line else text
    number = text.splitlines().index(line) + 1
    facts = {"complaints": [said.format(line=f"{FILE}: Line {number}")]}
    found = [
        each
        for each in judge_side(make_side("web1", answer_of("web1", text, **facts)))
        if each.code == "keepalived-says"
    ]
    assert [(each.place.line, each.mend.startswith(mend)) for each in found] == [(number, True)]
    assert "secret" not in str(found)


def faults_of_scripts(text: str) -> list[Finding]:
    """Of web1, whose commands are looked at on this machine."""
    statements = list(Reader("web1", lambda _pattern, _folder: []).read(FILE, text))
    side = make_side("web1", answer_of("web1", text, scripts=scripts(statements, "/bin")))
    return [each for each in judge_side(side) if each.code.startswith("script-")]


@pytest.mark.parametrize(
    ("old", "new", "line", "mend"),
    [
        ("user root\n}", "user no-such\n}", "    user no-such", "user root"),
        ("    script_user root\n", "", "global_defs {", "script_user root"),
        ("script_user root", "script_user no-such", "    script_user no-such", "script_user root"),
        (
            'notify "/bin/true notify --vip 192.0.2.100"',
            "notify_master /bin/true master now",
            "    notify_master /bin/true master now",
            'notify_master "/bin/true master now"',
        ),
        ('"/bin/true"', "/bin/true x y", "    script /bin/true x y", 'script "/bin/true x y"'),
        (
            '"/bin/true"',
            '"/bin/true" weight -5',
            '    script "/bin/true" weight -5',
            'script "/bin/true"   (and each in a line of its own: weight -5)',
        ),
    ],
)
def test_what_keeps_a_script_from_running_is_mended_where_it_is_said(old: str, new: str, line: str, mend: str) -> None:
    text = sides_of(config_of(""))[0].replace("/usr/local/sbin/ngxsync-agent check-nginx", "/bin/true")
    text = text.replace("/usr/local/sbin/ngxsync-agent", "/bin/true")
    text = swap(old, new)(text if old.startswith("user root") else text.replace("    user root\n", ""))
    found = faults_of_scripts(text)
    assert {each.mend for each in found} == {mend}
    assert {text.splitlines()[each.place.line - 1] for each in found} == {line}
    mended = mend.split("   (")[0]
    after = f"{line}\n    {mended}" if line.endswith("{") else f"    {mended}"
    assert faults_of_scripts(swap(line, after)(text)) == []


def test_the_state_may_differ_and_a_process_may_be_tracked() -> None:
    tracked = swap("    track_script {\n        check_nginx\n", "    track_process {\n        nginx\n")
    assert findings_of(Planted([], **both(tracked))) == []
    tracked = before_end(TRACKING)  # without a weight it is in FAULT
    assert (
        findings_of(
            Planted([], priorities=(254, 1), vrrp="check_weight = 0", **both(lambda text: PROCESS % "" + tracked(text)))
        )
        == []
    )
    assert findings_of(Planted([], two=swap("state BACKUP", "state MASTER"))) == []
    written = (
        swap("unicast_src_ip 2001:db8::1", "unicast_src_ip 2001:DB8:0::1"),
        swap("2001:db8::1\n    }", "2001:0db8::1\n    }"),
    )
    assert findings_of(Planted([], vrrp=f"{V6}unicast = yes", one=written[0], two=written[1])) == []


def test_a_weight_that_the_same_check_of_the_other_host_adds_to_is_enough() -> None:
    added = {"two": swap("weight -5", "weight 6"), "priorities": (100, 90)}
    assert findings_of(Planted([], **added)) == [], "95 against 96"
    found = findings_of(Planted([], one=swap("weight -5", "weight -2"), **added))
    assert [(each.code, each.mend) for each in found] == [("weight-too-small", "weight -5")]
    stronger = {"two": swap("weight -5", "weight 20"), "priorities": (100, 90)}
    assert findings_of(Planted([], **stronger)) == [], "web2 is the stronger one while all is well"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('192.0.2.100"\n}', '192.0.2.100"', "vrrp_instance ngxsync {"),
        ("        check_nginx\n    }\n", "        check_nginx\n", "    track_script {"),
        ("secret\n    }", "secret", "    authentication {"),
        ("    user root\n}", "    user root", "vrrp_script check_nginx {"),
        ("enable_script_security\n}", "enable_script_security", "global_defs {"),
        ("\n\nvrrp_script", "\n\nvirtual_server 192.0.2.9 80 {\nvrrp_script", "virtual_server 192.0.2.9 80 {"),
    ],
)
def test_a_block_without_an_end_is_one_finding_with_the_line_where_its_brace_belongs(
    old: str, new: str, line: str
) -> None:
    complaints = [
        "There are 1 missing '}'s or extra '{'s",
        f"({FILE}: Line 25) Unexpected '{{' - ignoring",
        f"({FILE}: Line 25) Unknown keyword 'priority'",
    ]
    change = swap(old, new)
    (found,) = findings_of(Planted([], one=change, facts1={"complaints": complaints}))
    assert (found.host, found.code) == ("web1", "unclosed")
    lines = change(sides_of(config_of(""))[0]).splitlines()
    assert lines[found.place.line - 1] == line
    brace, _, after = found.mend.partition("   (after line ")
    lines.insert(int(after.rstrip(")")), brace)
    mended = "\n".join(lines) + "\n"
    assert findings_of(Planted([], one=lambda _: mended)) == []


GROUP = "vrrp_sync_group g {\n group { ngxsync }\n%s}\n"


def test_in_a_group_a_member_s_script_with_a_weight_is_left_out() -> None:
    """As keepalived does, which says so; a weight of the group's own counts."""
    said = "(ngxsync) ignoring tracked script check_nginx with weights due to SYNC group"
    told = {"facts1": {"complaints": [said, "Sync group g has only 1 virtual router(s) - this probably isn't"]}}
    found = findings_of(Planted([], **both(lambda text: text + GROUP % ""), **told))
    assert [(each.host, each.code, each.mend) for each in found] == [
        ("web1", "weight-in-group", "check_nginx weight 0"),
        ("web2", "weight-in-group", "check_nginx weight 0"),
    ]
    track = sides_of(config_of(""))[0].splitlines()[found[0].place.line - 1]
    assert track.strip() == "check_nginx"
    mended = swap("        check_nginx\n", "        check_nginx weight 0\n")
    assert findings_of(Planted([], **both(lambda text: mended(text) + GROUP % ""))) == []
    bare = swap("        check_nginx\n", "")
    for counting in (
        both(lambda text: text + GROUP % "sync_group_tracking_weight\n"),
        both(lambda text: bare(text) + GROUP % "track_script { check_nginx }\n"),
    ):
        found = findings_of(Planted([], priorities=(150, 100), **counting))
        assert [each.code for each in found] == ["weight-too-small"]


def test_a_group_in_which_one_member_tracks_without_a_weight_goes_down_as_one() -> None:
    other = (
        SECOND.replace("    track_script {\n        check_nginx\n    }\n", "")
        + GROUP.replace("ngxsync", "ngxsync other") % ""
    )

    def grouped(tracked: str) -> list[str]:
        moved = swap("        192.0.2.101/24 dev eth0\n", "")
        change = both(lambda text: swap("        check_nginx\n", tracked)(moved(text)) + other)
        change["two"] = lambda text, before=change["two"]: before(text).replace("priority 50", "priority 49")
        return [each.code for each in findings_of(Planted([], vrrp=f"vip = {VIP}/24\n  192.0.2.101/24", **change))]

    bare = swap("        check_nginx\n", "")
    tracked = findings_of(Planted([], one=lambda text: bare(text) + GROUP % ""))
    assert [each.mend for each in tracked][:1] == ["track_script { check_nginx weight 0 }"]
    (offered, *_) = findings_of(Planted([], one=lambda text: text + SECOND))
    group = "vrrp_sync_group all { group { ngxsync other } sync_group_tracking_weight }"  # since it has weights
    assert offered.mend == f"one state for all of them, and one host with the higher priority in all; then {group}"
    (offered, *_) = findings_of(Planted([], one=lambda text: text.replace("MASTER", "BACKUP") + SECOND))
    assert offered.mend == group
    assert grouped("        check_nginx weight 0\n") == []
    assert set(grouped("")) == {"no-track-script"}


def test_several_instances_are_paired_by_what_they_share() -> None:
    config = config_of(f"check_weight = 0\nvip = {VIP}/24\n  192.0.2.101/24")
    text = sides_of(config)[0].replace("        192.0.2.101/24 dev eth0\n", "")
    group = "vrrp_sync_group all { group { ngxsync other } }\n"
    turned = SECOND + text.replace("router_id web1", "router_id web2").replace("priority 100", "priority 99") + group
    web1, web2 = (
        make_side(name, answer_of(name, each)) for name, each in (("web1", text + SECOND + group), ("web2", turned))
    )
    pairs, alone = paired(web1.instances, web2.instances)
    assert [(one.name, two.name) for one, two in pairs] == [("ngxsync", "ngxsync"), ("other", "other")]
    assert alone == ([], [])
    assert [each.code for each in verdict.judge(config, web1, [web2])] == ["equal-priorities"]


def test_both_forms_say_the_same() -> None:
    config = config_of("")
    texts = sides_of(config)
    web1 = make_side("web1", answer_of("web1", texts[0]))
    web2 = make_side("web2", answer_of("web2", texts[1].replace("_id 88", "_id 89"), running=None))
    findings = verdict.judge(config, web1, [web2])
    lines = render_checks(verdict.as_checks([web1, web2], findings))
    assert lines[:3] == [
        "web1",
        f"  keepalived: OK (2.2.7 with {FILE}: ngxsync on eth0, virtual_router_id 88, priority 100, holds 192.0.2.100)",
        "web2",
    ]
    assert lines[3].startswith("  not-running: FAILED (keepalived does not run)")
    assert verdict.summary([web1, web2], findings) == "web1 and web2: 2 findings"
    told = json.loads(json.dumps(verdict.as_json([web1, web2], findings, ["web2"])))
    assert {key: told[key] for key in ("schema", "command", "run", "outcome", "code", "exit")} == {
        "schema": 1,
        "command": "keepalived check",
        "run": "",
        "outcome": "failed",
        "code": "not-running",
        "exit": 1,
    }
    assert told["findings"] == []
    (peer,) = told["peers"]
    assert set(peer) == {"name", "outcome", "code", "exit", "snapshot", "accepted", "changes", "findings"}
    assert [set(each) for each in peer["findings"]] == [{"host", "code", "state", "file", "line", "what", "mend"}] * 2

    one = verdict.one_check("web1", findings, is_ours=True)
    assert (one.state, one.hint) == (FAILED, "ngxsync keepalived check")
    assert verdict.one_check("web1", findings, is_ours=False).state == WARNING
    assert verdict.one_check("web1", [], is_ours=True).state == OK


def test_which_adverts_have_to_pass() -> None:
    def packets_of(text: str, *partners: str) -> list[tuple[Any, ...]]:
        reader = Reader("web1", lambda _pattern, _folder: [])
        found = packets(list(reader.read(FILE, text)), list(partners))
        return [tuple(each)[:-1] if each.protocol == VRRP else tuple(each) for each in found]

    plain, v6, unicast = (sides_of(config_of(vrrp))[0] for vrrp in ("", V6, "unicast = yes"))
    assert {each[-1] for each in packets_of(plain.replace("PASS", "AH"))} == {AH}
    for old in ("    script_user", "    advert_int"):
        third = f"    {'vrrp_' if 'user' in old else ''}version 3\n{old}"
        found = packets(
            list(
                Reader("web1", lambda _pattern, _folder: []).read(FILE, plain.replace("PASS", "AH").replace(old, third))
            ),
            [],
        )
        assert {each.protocol for each in found} == {VRRP}, "VRRP version 3 has no AH"
    assert packets_of(plain, "192.0.2.2", "2001:db8::2") == [
        (4, "in", "eth0", "192.0.2.2", "224.0.0.18"),
        (4, "out", "eth0", "", "224.0.0.18"),
    ]
    bare = unicast.replace("    unicast_src_ip 192.0.2.1\n", "")
    carried = [["eth1", "192.0.2.9"], ["eth0", "192.0.2.100"], ["eth0", "2001:db8::1"], ["eth0", "192.0.2.1"]]
    reader = Reader("web1", lambda _pattern, _folder: [])
    assert [tuple(each)[:-1] for each in packets(list(reader.read(FILE, bare)), [], carried)] == packets_of(unicast)
    shared = swap("        192.0.2.2\n    }\n    virtual", "        192.0.2.2\n        192.0.2.1\n    }\n    virtual")(
        unicast
    )
    found = packets(list(reader.read(FILE, shared)), [], carried)
    assert [tuple(each)[:-1] for each in found] == packets_of(unicast), "it is no peer of its own"
    assert packets_of(bare)[0] == (4, "in", "eth0", "192.0.2.2", ""), (
        "where nobody knows, it has to come in all the same"
    )
    way = {"192.0.2.2": "eth0", "10.0.0.2": "eth1", "10.0.1.2": ""}
    found = packets(list(Reader("web1", lambda _pattern, _folder: []).read(FILE, plain)), list(way), [], way)
    assert [each.source for each in found if each.direction == "in"] == ["192.0.2.2", "10.0.1.2"]
    assert packets_of(v6, "2001:db8::2")[0] == (6, "in", "eth0", "", "ff02::12")
    assert packets_of(unicast) == [
        (4, "in", "eth0", "192.0.2.2", "192.0.2.1"),
        (4, "out", "eth0", "192.0.2.1", "192.0.2.2"),
    ]


def test_a_host_that_says_senseless_things_is_judged_all_the_same() -> None:
    words = (
        ["{"],
        ["}"],
        ["vrrp_instance"],
        ["virtual_ipaddress"],
        ["1.2.3.4/99"],
        ["priority", "9" * 99],
        ["auth_pass"],
        ["group"],
    )
    statements = [[FILE, number % 7, words[number * number % 11 % len(words)]] for number in range(3000)]
    deep = [[FILE, 1, word] for word in (["vrrp_instance", "x"], ["{"]) * 5000]
    many = [[FILE, 1, word] for word in (["vrrp_instance", "x"], ["{"], ["virtual_router_id", "1"], ["}"]) * 5000]
    sound = make_side("web1", answer_of("web1", sides_of(config_of(""))[0]))
    for each in (statements, deep, many, [[FILE, 1, ["}"]]] * 3):
        found = verdict.judge(config_of(""), sound, [make_side("web2", answer_of("web2", "", statements=each))])
        assert found


def test_where_adverts_come_from() -> None:
    web1: Side = make_side("web1", answer_of("web1", sides_of(config_of(""))[0]))
    assert verdict.source_addresses(web1) == ["192.0.2.1"], "the first of its interface, as keepalived takes it"
    for line in ("mcast_src_ip 192.0.2.101", "unicast_src_ip 192.0.2.101"):
        said = make_side("web1", answer_of("web1", before_end(line)(sides_of(config_of(""))[0])))
        assert verdict.source_addresses(said) == ["192.0.2.101"]
    v6 = make_side("web1", answer_of("web1", sides_of(config_of(V6))[0]))
    assert verdict.source_addresses(v6) == ["2001:db8::1"]


def test_an_answer_is_checked_before_it_is_believed() -> None:
    answer = answer_of("web2", sides_of(config_of(""))[1], facts={})
    asked = {"salt": "00"}
    assert checked("vrrp", asked, answer, "web2", "root@web2") == answer
    lies: list[dict[str, Any]] = [
        {"statements": [["f", 1, []]]},
        {"statements": [["f", -1, ["x"]]]},
        {"scripts": [{}]},
        {"firewall": {"drops": [{"mend": 1}], "why": ""}},
        {"carried": [["eth0"]]},
        {"running": {"pid": "7", "args": []}},
        {"down": "eth0"},
    ]
    for lie in lies:
        with pytest.raises(AgentFailed, match="makes no sense"):
            checked("vrrp", asked, {**answer, **lie}, "web2", "root@web2")

"""What `keepalived check` offers as the line that mends it, put in as it is printed: then keepalived has nothing to say."""

from __future__ import annotations

import json
import sys

from ngxsync.core.keepalived.finding import Finding
from ngxsync.core.keepalived.judge_side import judge_side
from ngxsync.core.keepalived.side import make_side
from tests.hosts import PROJECT, Host
from tests.pair import Pair

FILE = "/etc/keepalived/keepalived.conf"
ASK = """\
import json
from ngxsync.agent.vrrpfacts import vrrp
print(json.dumps(vrrp({"salt": "00"})))
"""
SOUND = """\
! Configuration File for keepalived

global_defs {
    router_id web1
    script_user root
    enable_script_security
}

vrrp_script chk {
    script "/bin/true"
    interval 2   # seconds
    weight -20
}

vrrp_instance VI_1 {
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority 100
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass 1111
    }
    virtual_ipaddress {
        192.0.2.100/24
    }
    track_script {
        chk
    }
}
"""
GROUP = "vrrp_sync_group G {\n    group {\n        VI_1\n        VI_2\n    }\n}\n"
SECOND = """\
vrrp_instance VI_2 {
    state BACKUP
    interface eth0
    virtual_router_id 52
    priority 100
    virtual_ipaddress {
        192.0.2.101/24
    }
    track_script {
        chk
    }
}
"""
# name: what is changed, each old text into a new one; the codes that are found
FAULTS: dict[str, tuple[list[tuple[str, str]], set[str]]] = {
    "no end of a block in an instance": ([("1111\n    }", "1111")], {"unclosed"}),
    "no end of a script": ([("weight -20\n}", "weight -20")], {"unclosed"}),
    "no end of the file's last block": ([("        chk\n    }\n}", "        chk\n    }")], {"unclosed"}),
    "a state in small letters": ([("state BACKUP", "state backup")], {"keepalived-says"}),
    "a keyword in capitals": ([("interface eth0", "INTERFACE eth0")], {"keepalived-says"}),
    "no interface": ([("    interface eth0\n", "")], {"keepalived-says"}),
    "two on one line": (
        [("state BACKUP\n    interface eth0\n", "state BACKUP interface eth0\n")],
        {"keepalived-says"},
    ),
    "another interface": ([("interface eth0", "interface ens192")], {"no-interface"}),
    "no virtual_router_id": ([("    virtual_router_id 51\n", "")], {"keepalived-says"}),
    "half seconds": ([("advert_int 1", "advert_int 0.5")], {"keepalived-says"}),
    "half seconds of a script": ([("interval 2", "interval 0.5")], {"keepalived-says"}),
    "a type in small letters": ([("auth_type PASS", "auth_type pass")], {"keepalived-says"}),
    "AH of a MASTER": ([("PASS", "AH"), ("BACKUP", "MASTER")], {"keepalived-says"}),
    "a MASTER with nopreempt": (
        [("state BACKUP", "state MASTER\n    nopreempt"), ("weight -20", "weight 0")],
        {"master-nopreempt"},
    ),
    "a MASTER without a priority": (
        [("state BACKUP", "state MASTER"), ("    priority 100\n", "")],
        {"weight-too-small"},
    ),
    "a script without quotes": ([('"/bin/true"', "/bin/true a b")], {"script-unquoted"}),
    "all on one line": ([('"/bin/true"', '"/bin/true" rise 2')], {"script-unquoted"}),
    "a notification without quotes": (
        [("priority 100", "priority 100\n    notify_master /bin/true master")],
        {"script-user"},
    ),
    "no script_user": ([("    script_user root\n", "")], {"script-user"}),
    "no script security": ([("    script_user root\n    enable_script_security\n", "")], {"script-security"}),
    "a user that is not there": ([("weight -20\n", "weight -20\n    user no-such\n")], {"script-user"}),
    "a mistyped script": ([("        chk\n", "        chk_http\n")], {"unknown-script"}),
    "a weight in a group": ([("vrrp_instance VI_1", f"{GROUP}{SECOND}vrrp_instance VI_1")], {"weight-in-group"}),
    "no group": ([("vrrp_instance VI_1", f"{SECOND}vrrp_instance VI_1")], {"no-sync-group"}),
}


def judged(host: Host, text: str) -> list[Finding]:
    file = host.path(FILE)
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    answer = json.loads(host.run([sys.executable, "-c", ASK], env={"PYTHONPATH": str(PROJECT)}).stdout)
    return [each for each in judge_side(make_side("web1", answer)) if each.code != "not-running"]


def mended(text: str, findings: list[Finding]) -> str:
    """By hand, as one who reads the findings would: a setting into its block, all else in the place of its line."""
    lines = text.split("\n")
    for each in findings:
        at = each.place.line - 1
        mend, _, note = each.mend.rstrip(")").partition("   (")
        if note.startswith("after line "):
            lines[int(note.removeprefix("after line ")) - 1] += f"\n{mend}"
        elif each.code == "no-sync-group":
            lines[-1] += f"\n{mend}\n"
        elif lines[at].endswith("{"):
            lines[at] += f"\n{mend}"
        else:
            lines[at] = mend
        further = note.partition("own: ")[2]
        lines[at] += f"\n{further}" if further else ""
    return "\n".join(lines)


def test_what_is_offered_mends_it(pair: Pair) -> None:
    host = pair.web1
    assert judged(host, SOUND) == []
    assert judged(host, SOUND.replace("\n", "\r\n").replace("    ", "\t")) == []
    for name, (changes, codes) in FAULTS.items():
        text = SOUND
        for old, new in changes:
            assert old in text, name
            text = text.replace(old, new)
        found = judged(host, text)
        assert {each.code for each in found} == codes, (name, found)
        assert all(each.place.file == FILE and each.place.line for each in found), (name, found)
        after = mended(text, found)
        assert judged(host, after) == [], f"{name}\n{after}"
        done = host.run(["keepalived", "--config-test", "-l", "-f", FILE], check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), f"{name}\n{after}"

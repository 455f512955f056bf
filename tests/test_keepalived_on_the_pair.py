"""`ngxsync keepalived check` on a real pair, web2 behind its gate: sound as rendered; faults of the hosts themselves, and their mends."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.door import STATE, close_door, gate_log, install_agent
from tests.hosts import Host, wait_until
from tests.pair import Pair

VIP = "192.0.2.100"
PARTS = "/srv/keepalived/parts/pair.conf"
VRRP = f"[vrrp]\nvip = {VIP}/24\nvirtual_router_id = 88\npassword_file = /etc/ngxsync/password\n"
# what web2 lets nobody say to it; and a rule that is none for VRRP
DROPPING = """\
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop
        ct state established accept
        tcp dport 22 accept
    }
}
"""


def configure(pair: Pair) -> None:
    text = "".join(
        f"[peer {host.name}]\nhost = {host.address}\nidentity = /etc/ngxsync/id_ed25519\ninterface = eth0\npriority = {100 - number}\n"
        for number, host in enumerate(pair.hosts)
    )
    pair.web1.path("/etc/ngxsync/config.ini").write_text(text + VRRP)
    pair.web1.path("/etc/ngxsync/password").write_text("s3cr3t!\n")
    pair.web1.path("/etc/ngxsync/password").chmod(0o600)


def put_command(host: Host) -> None:
    """The agent and its command, as the boot leaves them."""
    install_agent(host)
    command = host.path(f"{STATE}/agent/ngxsync-agent")
    command.write_text(f'#!/bin/sh\nexec /usr/bin/python3 -I -S {STATE}/agent/current "$@" </dev/null\n')
    command.chmod(0o700)
    host.path("/usr/local/sbin/ngxsync-agent").symlink_to(f"{STATE}/agent/ngxsync-agent")


def holds(host: Host) -> bool:
    return VIP in host.run(["ip", "-o", "-4", "addr"]).stdout


@contextmanager
def keepalived(host: Host, *arguments: str) -> Iterator[None]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with host.popen(["keepalived", "-n", *arguments], **quiet) as process:
        try:
            yield
        finally:
            host.signal_to(process, signal.SIGTERM)


def write_private(host: Host, path: str, text: str) -> None:
    file = host.path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o600)


def found(pair: Pair) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    done = pair.ngxsync("keepalived", "check", "--json")
    told = json.loads(done.stdout)
    assert "s3cr3t" not in done.stdout + done.stderr
    every = [*told["findings"], *(each for peer in told["peers"] for each in peer["findings"])]
    return done.returncode, {(each["host"], each["code"]): each for each in every}


def test_the_rendered_pair_is_sound_and_what_is_planted_on_the_hosts_is_found_and_mended(pair: Pair) -> None:
    web1, web2 = pair.hosts
    configure(pair)
    close_door(pair)
    rendered = pair.ngxsync("keepalived", "render", "--dir", "/run/pair")
    assert rendered.returncode == 0, rendered.stderr
    for host in pair.hosts:
        put_command(host)
    texts = {host: web1.path(f"/run/pair/{host.name}.conf").read_text() for host in pair.hosts}
    write_private(web1, "/etc/keepalived/keepalived.conf", texts[web1])
    # started with a file of its own, which includes by a pattern, from its own folder
    write_private(web2, "/srv/keepalived/main.conf", "include parts/*.conf\n")
    write_private(web2, PARTS, texts[web2])

    with keepalived(web1), keepalived(web2, "-f", "/srv/keepalived/main.conf"):
        wait_until(lambda: holds(web1) and not holds(web2), "web1 alone holds the VIP")
        done = pair.ngxsync("keepalived", "check")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        instance = "ngxsync on eth0, virtual_router_id 88, priority"
        ours = f"web1\n  keepalived: OK (2.2.7 with /etc/keepalived/keepalived.conf: {instance} 100, holds {VIP})"
        assert ours in done.stdout
        assert "web2\n  keepalived: OK (2.2.7 with /srv/keepalived/main.conf: " + instance in done.stdout
        assert gate_log(web2) == [], "the gate has nothing against it"

        web2.run(["nft", "-f", "-"], input=DROPPING)
        web2.path(f"{STATE}/agent/ngxsync-agent").chmod(0o777)
        faulty = texts[web2].replace("interface eth0", "interface eth9").replace("s3cr3t!", "s3cr3t?")
        write_private(web2, PARTS, f"{faulty}vrrp_instanze x\n")
        wait_until(lambda: holds(web2), "web2 hears nobody, and takes the VIP too")
        status, findings = found(pair)
        assert status == 1
        planted = {
            ("web2", "firewall"),
            ("web2", "script-open"),
            ("web2", "no-interface"),
            ("web2", "auth-differs"),
            ("web2", "keepalived-says"),
            ("web1", "vip-on-both"),
        }
        assert set(findings) == planted, findings
        assert {findings["web2", code]["file"] for code in ("no-interface", "auth-differs", "keepalived-says")} == {
            PARTS
        }
        assert "Unknown keyword 'vrrp_instanze'" in findings["web2", "keepalived-says"]["what"]
        assert texts[web2].splitlines()[findings["web2", "no-interface"]["line"] - 1] == "    interface eth0"
        assert "nft inet filter input drops VRRP (protocol 112) on eth9" in findings["web2", "firewall"]["what"]

        web2.run(["sh", "-c", findings["web2", "firewall"]["mend"]])
        web2.run(["sh", "-c", findings["web2", "script-open"]["mend"]])
        write_private(web2, PARTS, texts[web2])
        wait_until(lambda: not holds(web2), "web2 hears web1 again")
        assert found(pair) == (0, {})
        web2.run(["nft", "flush", "ruleset"])

    check = pair.ngxsync("check", "--json")
    (line,) = [each for each in json.loads(check.stdout)["checks"] if each["name"] == "keepalived"]
    assert (line["state"], line["hint"]) == ("FAILED", "ngxsync keepalived check")
    assert "not-running on web1" in line["what"]


def test_without_any_keepalived_there_are_findings_and_no_error(pair: Pair) -> None:
    configure(pair)
    for program in ("/usr/sbin/keepalived", "/usr/sbin/nft"):
        pair.web2.run(["mount", "--bind", "/dev/null", program])
    status, findings = found(pair)
    for program in ("/usr/sbin/keepalived", "/usr/sbin/nft"):
        pair.web2.unmount(program)
    assert status == 1
    assert set(findings) == {
        ("web1", "no-conf"),  # and does not run: without its file it could not
        ("web1", "vip-on-none"),
        ("web2", "not-running"),
        ("web2", "no-conf"),
    }
    assert "is not there" in findings["web2", "not-running"]["what"]
    assert pair.ngxsync("keepalived", "check", "--peer", "web3").returncode == 2
    config = pair.web1.path("/etc/ngxsync/config.ini")
    config.write_text(config.read_text().replace("[peer web2]\n", "[peer web2]\nport = 1\n"))
    unreachable = pair.ngxsync("keepalived", "check")
    assert (unreachable.returncode, unreachable.stdout) == (4, "")

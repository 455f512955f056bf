"""docs/runbook.md on bare hosts: real units of ngxsync, keepalived, nginx and sshd, set up by what the runbook shows, a second
backup added, the master moved to it, and all of it removed.

Other than there: this checkout and its libraries are shown instead of installed, and nobody is asked (--yes).
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container import UNITS, Container
from tests.hosts import PROJECT, close_hosts, make_hosts, wait_until
from tests.pair import BASE_TREE, ROOT, write_tree
from tests.resident import STATE
from tests.test_service_container import install

RUNBOOK = (PROJECT / "docs/runbook.md").read_text()
VIP = "192.0.2.100"
TOLD = f"{STATE}/told"
ADDED = f"""\
interface = eth0
priority = 99

[peer web1]
host = 192.0.2.1
identity = /etc/ngxsync/id_ed25519
interface = eth0
priority = 100

[vrrp]
vip = {VIP}/24
virtual_router_id = 88
password_file = /etc/ngxsync/vrrp-password

[ngxsync]
on_event = cat >>{TOLD}
"""
SECOND = """
[peer web3]
host = 192.0.2.3
identity = /etc/ngxsync/id_ed25519
interface = eth0
priority = 98
"""
FIRST_OF_ALL = re.compile(r"\[peer web1\]\n(.+\n)+\n")  # its section
CALLS = re.compile(r"(?ms)^vrrp_script .*?^}\n|^    track_script .*?^    }\n|^    notify [^\n]*\n")
RENDERED = (
    "(umask 077; ngxsync keepalived render >/root/keepalived.conf)"
    " && install -m 600 /root/keepalived.conf /etc/keepalived/keepalived.conf"
)


def bare(host: Container, key: Path) -> None:
    """nginx serves, root of the other host can log in; keepalived is there and off; nothing of ours is configured."""
    write_tree(host, ROOT, BASE_TREE)
    install(host)
    host.path(f"{UNITS}/ngxsync.service.d/test.conf").unlink()
    host.path("/etc/keepalived/keepalived.conf").unlink()
    host.path(f"{UNITS}/multi-user.target.wants/keepalived.service").unlink()
    host.path("/etc/ngxsync").rmdir()
    with host.path("/etc/ssh/sshd_config").open("a") as config:
        config.write("Subsystem sftp internal-sftp\n")
    for name, text in (("id_ed25519", key.read_text()), ("authorized_keys", key.with_suffix(".pub").read_text())):
        host.path(f"/root/.ssh/{name}").write_text(text)
        host.path(f"/root/.ssh/{name}").chmod(0o600)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Container]]:
    key = tmp_path / "admin"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "admin", "-f", key], check=True)
    made = make_hosts(3, kinds=(Container, Container, Container))
    try:
        containers = [host for host in made if isinstance(host, Container)]
        for host in containers:
            bare(host, key)
            host.switch_on()
        for host in containers:
            wait_until(host._is_up, f"{host.name} is up", 60.0, 0.05)
        yield containers
    finally:
        close_hosts(made)


def typed(host: Container, command: str, answer: str = "", status: int = 0) -> str:
    """A line of the runbook, and `answer` to what it asks."""
    assert command in RUNBOOK, command
    done = host.run(["sh", "-c", f"{command} {answer}"], check=False)
    assert done.returncode == status, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def roles_told(host: Container) -> list[tuple[str, str]]:
    lines = host.path(TOLD).read_text().splitlines() if host.path(TOLD).exists() else []
    events = [json.loads(line) for line in lines]
    return [(event["before"], event["role"]) for event in events if event["kind"] == "role"]


def status_of(host: Container) -> str:
    return host.run(["ngxsync", "status"]).stdout


def nginx_main(host: Container) -> int:
    return host.nginx_main() or 0


def set_up(web1: Container, web2: Container) -> None:
    web1.run(["ssh", "-o", "StrictHostKeyChecking=accept-new", "root@192.0.2.2", "true"])
    typed(web1, "ngxsync init --peer 192.0.2.2 --name web2")
    config = web1.path("/etc/ngxsync/config.ini")
    text = config.read_text().replace("/root/.ssh/id_ed25519", "/etc/ngxsync/id_ed25519")
    config.write_text(text + ADDED)
    assert "before keepalived is set up: ngxsync sync --force standby" in status_of(web1)
    typed(web1, "(umask 077; head -c 6 /dev/urandom | base64 | head -c 8 >/etc/ngxsync/vrrp-password)")
    typed(web1, "ssh-keyscan -t ed25519 192.0.2.1 >>/etc/ngxsync/known_hosts")
    typed(web1, "ngxsync peer install web2", "--yes")
    typed(web1, "ssh root@192.0.2.2 install -d -m 700 /etc/ngxsync")
    files = "/etc/ngxsync/config.ini /etc/ngxsync/known_hosts /etc/ngxsync/vrrp-password"
    typed(web1, f"scp -p {files} root@192.0.2.2:/etc/ngxsync/")
    typed(web2, "ngxsync peer install web1", "--yes")
    checked = typed(web1, "ngxsync check", status=1)
    assert [line.split(":")[0].strip() for line in checked.splitlines() if ": FAILED" in line] == ["keepalived"]
    typed(web1, "ngxsync diff")
    typed(web1, "ngxsync sync --force standby", "--yes")
    for host in (web1, web2):
        typed(host, RENDERED)
        typed(host, "systemctl enable --now ngxsync")
        typed(host, "systemctl enable --now keepalived")
    wait_until(lambda: f"web1: VRRP MASTER, holds {VIP}" in status_of(web1), "web1 has the VIP", every_s=0.4)


def is_in_sync(host: Container, *peers: str) -> bool:
    return all(f"{host.name} -> {peer}: in-sync" in status_of(host) for peer in peers)


def add_second_backup(web1: Container, web2: Container, web3: Container) -> None:
    web1.run(["ssh", "-o", "StrictHostKeyChecking=accept-new", "root@192.0.2.3", "true"])
    with web1.path("/etc/ngxsync/config.ini").open("a") as config:
        config.write(SECOND)
    assert "it takes what was changed there with: systemctl reload ngxsync" in status_of(web1)
    typed(web1, "ssh root@192.0.2.3 install -d -m 700 /etc/ngxsync")
    typed(web1, "ngxsync peer install web3", "--yes")
    files = "/etc/ngxsync/config.ini /etc/ngxsync/known_hosts /etc/ngxsync/vrrp-password"
    typed(web1, f"for host in 192.0.2.2 192.0.2.3; do scp -p {files} root@$host:/etc/ngxsync/; done")
    typed(web2, "ngxsync peer install web3", "--yes")
    typed(web3, "ngxsync peer install web1 web2", "--yes")
    typed(web1, "ngxsync sync --peer web3", "--yes")
    for host in (web1, web2):
        typed(host, "systemctl reload ngxsync")
    typed(web3, "systemctl enable --now ngxsync")
    for host in (web1, web2, web3):
        typed(host, RENDERED)
        typed(host, "systemctl enable --now keepalived" if host is web3 else "systemctl reload keepalived")
    wait_until(lambda: web1.run(["ngxsync", "ready"], check=False).returncode == 0, "both are ready", every_s=0.4)
    typed(web2, "ngxsync check")


def move_to(web3: Container, web1: Container, web2: Container) -> None:
    """web3 becomes the master, and web1 is taken out."""
    for host in (web3, web2, web1):
        config = host.path("/etc/ngxsync/config.ini")
        config.write_text(config.read_text().replace("priority = 98", "priority = 101"))
        typed(host, RENDERED)
        typed(host, "systemctl reload keepalived")
    wait_until(lambda: is_in_sync(web3, "web1", "web2"), "web3 has the VIP, and took both over", every_s=0.4)
    typed(web1, "systemctl disable --now keepalived ngxsync")
    typed(web1, "rm /etc/keepalived/keepalived.conf")
    for peer in ("web2", "web3"):
        typed(web1, f"ngxsync peer remove {peer}", "--yes")
    for host in (web2, web3):
        typed(host, "ngxsync peer remove web1 --purge", "--yes")
    for host in (web2, web3):
        config = host.path("/etc/ngxsync/config.ini")
        config.write_text(FIRST_OF_ALL.sub("", config.read_text()))
        typed(host, "systemctl reload ngxsync")
        typed(host, RENDERED)
        typed(host, "systemctl reload keepalived")
    # a reload of keepalived goes on after systemctl has ended
    wait_until(
        lambda: not web3.run(["ngxsync", "keepalived", "check"], check=False).returncode, "it is sound", every_s=0.4
    )
    typed(web3, "ngxsync keepalived check")
    write_tree(web3, ROOT, {"html/moved.html": "from the new master"})
    wait_until(lambda: web2.path(f"{ROOT}/html/moved.html").exists(), "it pushes")


def remove_all(web2: Container, web3: Container) -> None:
    refused = web3.run(["ngxsync", "peer", "remove", "web2", "--purge", "--yes"], check=False)
    assert (refused.returncode, "keepalived here calls ngxsync-agent" in refused.stderr) == (4, True), refused
    for host in (web2, web3):
        conf = host.path("/etc/keepalived/keepalived.conf")
        conf.write_text(CALLS.sub("", conf.read_text()))
        typed(host, "systemctl reload keepalived")
        typed(host, "systemctl disable --now ngxsync")
    typed(web3, "ngxsync peer remove web2 --purge", "--yes")
    web2.run(["ngxsync", "peer", "remove", "web3", "--purge", "--yes"])


def left_on(host: Container) -> list[str]:
    """What is there of ngxsync that the last line of the runbook does not take."""
    paths = ("/usr/local/sbin/ngxsync-agent", f"{UNITS}/ngxsync-recover.service", f"{STATE}/agent", f"{STATE}/peer")
    found = [path for path in (*paths, f"{ROOT}/.ngxsync", "/run/ngxsync-agent") if host.path(path).exists()]
    return found + [
        line for line in host.path("/root/.ssh/authorized_keys").read_text().splitlines() if " gate " in line
    ]


@pytest.mark.timeout(900)  # a minute on a quiet machine
def test_the_hosts_are_set_up_as_the_runbook_says_outlive_their_master_and_are_rid_of_it_all(
    hosts: list[Container],
) -> None:
    web1, web2, web3 = hosts
    set_up(web1, web2)
    typed(web1, "ngxsync keepalived check")
    wait_until(lambda: web1.run(["ngxsync", "ready"], check=False).returncode == 0, "web2 is ready", every_s=0.4)
    command = web1.run(["readlink", "-f", "/usr/local/sbin/ngxsync-agent"]).stdout.strip()
    assert command == f"{STATE}/agent/ngxsync-agent", "keepalived keeps this path; an upgrade takes others away"

    # the daemon, keepalived's notify and a person name the VIP's tenure alike, so that nothing is told twice
    tenure = json.loads(web1.path(f"{STATE}/role.json").read_text())["tenure"]
    web1.systemctl("reload", "ngxsync")
    typed(web1, "ngxsync sync")
    wait_until(lambda: roles_told(web1) == [("backup", "master")], "web1's role is told once")
    assert json.loads(web1.path(f"{STATE}/role.json").read_text())["tenure"] == tenure

    # a dead nginx is started through its unit, and belongs to it: keepalived may come and go
    dead = nginx_main(web1)
    web1.run(["pkill", "-KILL", "nginx"])
    alive = wait_until(lambda: nginx_main(web1) not in (0, dead) and nginx_main(web1), "it is started", every_s=0.1)
    web1.systemctl("restart", "keepalived")
    wait_until(lambda: f"web1: VRRP MASTER, holds {VIP}" in status_of(web1), "the VIP is back", every_s=0.4)
    assert nginx_main(web1) == alive

    add_second_backup(web1, web2, web3)
    web1.systemctl("stop", "ngxsync")
    write_tree(web1, ROOT, {"html/saved.html": "saved, and not sent before it died"})
    web1.cut_power()
    wait_until(lambda: f"web2: VRRP MASTER, holds {VIP}" in status_of(web2), "web2 takes over", every_s=0.4)
    wait_until(lambda: is_in_sync(web2, "web3"), "and the other backup", every_s=0.4)
    write_tree(web2, ROOT, {"html/night.html": "edited at night"})
    wait_until(lambda: web3.path(f"{ROOT}/html/night.html").exists(), "it pushes", every_s=0.1)
    web1.boot()
    wait_until(lambda: status_of(web1).count(": held since") == 2, "the old master overwrites nothing", every_s=0.4)
    assert "ngxsync pull --peer web2; " in status_of(web1)
    typed(web1, "ngxsync pull --peer web2", "--yes")
    wait_until(lambda: is_in_sync(web1, "web2"), "both are equal", every_s=0.4)
    # web3 has what web2 sent, and lacks what web1 saved
    wait_until(lambda: "web2 wrote there last" in status_of(web1), "web3 is held for another reason now", every_s=0.4)
    typed(web1, "ngxsync sync --peer web3 --force generation")
    for host in (web1, web2, web3):
        assert host.path(f"{ROOT}/html/night.html").read_text() == "edited at night"
        assert host.path(f"{ROOT}/html/saved.html").exists()

    move_to(web3, web1, web2)
    remove_all(web2, web3)
    for host in (web1, web2, web3):
        assert left_on(host) == []
        assert host.systemctl("--failed", "--no-legend", "--plain") == ""
        assert nginx_main(host)

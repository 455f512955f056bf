"""The hosts of the tests are real and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.hosts import DISK, PREFIX, PROJECT, close_hosts, make_hosts, wait_until
from tests.pair import ROOT, Pair, manifest_of

SSH = (
    "ssh",
    "-o",
    "BatchMode=yes",
    "-o",
    "StrictHostKeyChecking=yes",
    "-o",
    "UserKnownHostsFile=/etc/ngxsync/known_hosts",
)


def test_each_host_answers_with_its_own_nginx(pair: Pair) -> None:
    assert pair.web1.get("/hostname") == (200, "web1\n")
    assert pair.web2.get("/hostname") == (200, "web2\n")
    assert pair.web1.get("/hostname", address=pair.web2.address) == (200, "web2\n")


def test_the_key_of_the_master_opens_the_peer(pair: Pair) -> None:
    result = pair.web1.run([*SSH, "-i", "/etc/ngxsync/id_ed25519", "root@192.0.2.2", "hostname; id -un"])
    assert result.stdout == "web2\nroot\n"


def test_a_reset_brings_back_equal_base_trees(pair: Pair) -> None:
    base = manifest_of(pair.web1)
    assert base == manifest_of(pair.web2)
    pair.web2.path(f"{ROOT}/conf/nginx.conf").write_text("broken")
    pair.web2.path(f"{ROOT}/html/new").mkdir()
    pair.web2.path("/var/lib/ngxsync/peer").mkdir()
    pair.web2.stop_nginx()
    pair.web2.vanish_from(pair.web1)
    pair.reset()
    assert manifest_of(pair.web2) == base
    assert not pair.web2.path("/var/lib/ngxsync/peer").exists()
    assert pair.web1.get("/hostname", address=pair.web2.address) == (200, "web2\n")


def test_reloads_are_counted(pair: Pair) -> None:
    assert pair.web2.reload_count() == 0
    pair.web2.run(["kill", "-HUP", str(pair.web2.nginx_main())])
    wait_until(lambda: pair.web2.reload_count() == 1, "nginx took the SIGHUP")


def test_nothing_is_left_of_closed_hosts() -> None:
    before = (Path("/proc/self/mountinfo").read_text(), os.listdir("/sys/class/net"))
    hosts = make_hosts(2)
    hosts[0].start_sshd()
    folder = hosts[0].folder.parent
    networks = {os.readlink(f"/proc/{host.pid}/ns/net") for host in hosts}
    assert processes_in(networks)
    close_hosts(hosts)
    assert not folder.exists()
    wait_until(lambda: not processes_in(networks), "all processes of the hosts ended")
    assert (Path("/proc/self/mountinfo").read_text(), os.listdir("/sys/class/net")) == before


def test_nothing_runs_after_the_tests_were_killed() -> None:
    program = "from tests.hosts import make_hosts; print(make_hosts(2)[0].pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        networks = {os.readlink(f"/proc/{pid}/ns/net")}
        mount = Path(f"/proc/{pid}/mountinfo").read_text()
        tests.kill()
    wait_until(lambda: not processes_in(networks), "all processes of the host ended")
    folder = next(folder for folder in DISK.glob(f"{PREFIX}*") if str(folder) in mount)
    os.utime(folder, (0, 0))
    close_hosts(make_hosts(2))
    assert not folder.exists()


def processes_in(networks: set[str]) -> list[str]:
    """All processes of this machine that are in one of these networks."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "ns/net") in networks:
                found.append(process.name)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found

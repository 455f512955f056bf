"""The hosts of the tests are real and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts import DISK, PREFIX, PROJECT, close_hosts, make_hosts, wait_until
from tests.pair import ROOT, Pair, make_pair, manifest_of, snapshot_inodes

SSH = (
    "ssh",
    "-o",
    "BatchMode=yes",
    "-o",
    "StrictHostKeyChecking=yes",
    "-o",
    "UserKnownHostsFile=/etc/ngxsync/known_hosts",
)

SERVICE = """
import os, signal, socket
signal.signal(signal.SIGTERM, lambda *_: (print("stopped", flush=True), os._exit(3)))
print("started", flush=True)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1\\nSTATUS=up", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""


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
    pair.web2.run(["mount", "-t", "tmpfs", "tmpfs", f"{ROOT}/conf"])
    pair.web2.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib/ngxsync"])
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


def test_a_command_gets_the_signals_sent_to_it(pair: Pair) -> None:
    process = pair.web1.popen(["sleep", "60"])
    pid = pair.web1.pid_inside(process)
    wait_until(lambda: pair.web1.commands().get(pid) == "sleep 60", "the command runs under its number")
    pair.web1.signal_to(process, signal.SIGTERM)
    assert process.wait(45) == -signal.SIGTERM


def test_a_command_that_is_late_is_ended(pair: Pair) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        pair.web1.run(["sleep", "60"], timeout=0.1)
    wait_until(lambda: "sleep 60" not in pair.web1.commands().values(), "the command ended")


def test_a_failing_command_tells_why(pair: Pair) -> None:
    with pytest.raises(AssertionError, match=r"web1: ls /nowhere exited 2\n.*cannot access"):
        pair.web1.run(["ls", "/nowhere"])
    assert pair.web1.run(["ls", "/nowhere"], check=False).returncode == 2


@pytest.mark.parametrize(
    "line", ["--help", "--nonsense", "status", "diff", "diff --json", "sync --peer web9", "history"]
)
def test_a_forked_command_is_the_command(pair: Pair, line: str) -> None:
    """Exit status and what is written are those of the same command in an interpreter of its own."""
    forked, own = (pair.ngxsync(*line.split(), **options) for options in ({}, {"env": {"OWN": "1"}}))
    assert (forked.returncode, forked.stdout, forked.stderr) == (own.returncode, own.stdout, own.stderr)
    assert forked.stdout + forked.stderr


def test_a_forked_command_is_in_its_host_and_ends_with_its_time(pair: Pair) -> None:
    assert json.loads(pair.ngxsync("check", "--json", host=pair.web2).stdout)["exit"] == 2, "web2 has no configuration"
    with pytest.raises(subprocess.TimeoutExpired):
        pair.ngxsync("run", timeout=6.0)
    record = pair.web1.path("/var/lib/ngxsync/master/daemon.json")
    number = json.loads(record.read_text())["pid"]
    wait_until(lambda: number not in pair.web1.commands(), "the daemon ended with who waited for it")


def test_a_vanished_host_answers_nothing(pair: Pair) -> None:
    with pair.web1.socket() as connection:
        pair.web2.vanish_from(pair.web1)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.connect((pair.web2.address, 22))
    pair.web2.return_to(pair.web1)
    assert pair.web1.get("/hostname", address=pair.web2.address) == (200, "web2\n")


def test_a_service_is_ready_stopped_and_its_log_kept(pair: Pair) -> None:
    with pair.service(["/usr/bin/python3", "-c", SERVICE]) as service:
        assert service.messages() == ["READY=1", "STATUS=up"]
        service.wait_for("started")
    assert service.process.returncode == 3
    assert service.log() == "started\nstopped\n"


def test_a_service_that_ends_early_fails_with_its_log(pair: Pair) -> None:
    with (
        pytest.raises(AssertionError, match=r"ended with 1 before READY=1\nno such unit"),
        pair.service(["sh", "-c", "echo no such unit; exit 1"]),
    ):
        pass


def test_the_inodes_show_every_change(pair: Pair) -> None:
    before = snapshot_inodes(pair.web2, ROOT, "/var/lib/nginx")
    assert before == snapshot_inodes(pair.web2, ROOT, "/var/lib/nginx")
    pair.web2.path("/var/lib/nginx/body").chmod(0o711)
    after = snapshot_inodes(pair.web2, ROOT, "/var/lib/nginx")
    assert [path for path in after if before[path] != after[path]] == ["/var/lib/nginx/body"]


def test_three_hosts_reach_each_other() -> None:
    trio = make_pair(3)
    try:
        for host in trio.hosts:
            for other in trio.hosts:
                assert host.get("/hostname", address=other.address) == (200, f"{other.name}\n")
        trio.web1.kill()
        assert trio.web2.get("/hostname", address=trio.web3.address) == (200, "web3\n")
    finally:
        trio.close()


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

"""Each fault is the real one: what it breaks is broken as long as it lasts, and whole again after."""

from __future__ import annotations

import os
import time

import pytest

from tests import faults
from tests.pair import BASE_TREE, ROOT, Pair, write_tree

TIME = ["python3", "-I", "-S", "-c", "import time; print(time.time())"]


@pytest.fixture
def disk(pair: Pair) -> faults.Disk:
    return faults.Disk(pair.web2)


def touch(pair: Pair) -> str:
    return pair.web2.run(["sh", "-c", f"echo more | tee -a {ROOT}/html/more"], check=False).stderr


def test_a_full_disk(pair: Pair, disk: faults.Disk) -> None:
    with disk.full():
        assert "No space left on device" in touch(pair)
    assert touch(pair) == ""


def test_a_disk_that_turns_read_only_under_open_files_is_mended_by_a_reboot(pair: Pair, disk: faults.Disk) -> None:
    boot = pair.web2.path(faults.BOOT_ID).read_text()
    disk.make_read_only()
    assert "Read-only file system" in touch(pair)
    assert pair.web2.get("/")[0] == 200
    faults.reboot(pair.web2, disk)
    assert touch(pair) == ""
    assert pair.web2.get("/")[0] == 200
    assert pair.web2.path(faults.BOOT_ID).read_text() != boot
    assert pair.ngxsync("sync", "--yes").returncode == 0


def test_a_frozen_connection_gives_no_answer_and_no_reset(pair: Pair) -> None:
    with pair.web1.socket() as sock:
        sock.settimeout(20)
        sock.connect((pair.web2.address, 22))
        sock.recv(100)
        with faults.frozen(pair.web2):
            sock.settimeout(0.3)
            sock.send(b"SSH-2.0-x\r\n")
            with pytest.raises(TimeoutError):
                sock.recv(100)
            assert pair.web2.get("/")[0] == 200, "web2 itself lives"
        sock.settimeout(20)
        assert sock.recv(100)


def test_a_taken_port_is_refused_at_the_reload_alone(pair: Pair) -> None:
    write_tree(pair.web2, ROOT, {"conf/vhosts/more.conf": "server { listen 8081; }"})
    with faults.taken_port(pair.web2, 8081) as is_taken:
        assert is_taken
        assert pair.web2.run(["/usr/sbin/nginx", "-t", "-p", ROOT, "-c", "conf/nginx.conf"]).returncode == 0
        refused = pair.web2.run(["/usr/sbin/nginx", "-p", ROOT, "-c", "conf/nginx.conf"], check=False)
        assert "Address already in use" in refused.stderr


def test_a_configuration_that_nobody_can_read_to_its_end(pair: Pair) -> None:
    conf = BASE_TREE["conf/nginx.conf"].replace("include vhosts", f"include {faults.LOCAL}/*.conf;\n    include vhosts")
    os.mkdir(pair.web2.path(faults.LOCAL))
    write_tree(pair.web2, ROOT, {"conf/nginx.conf": conf})
    argv = ["/usr/sbin/nginx", "-t", "-p", ROOT, "-c", "conf/nginx.conf"]
    with faults.hanging_test(pair.web2):
        assert pair.web2.run(["timeout", "0.5", *argv], check=False).returncode == 124
    assert pair.web2.run(argv, check=False).returncode == 0


def test_a_clock_that_jumps_back_for_one_process(pair: Pair) -> None:
    clock = faults.Clock(pair.web2)
    clock.jump(-3600)
    assert float(pair.web2.run(TIME, env=clock.environment).stdout) < time.time() - 3000
    assert abs(float(pair.web2.run(TIME).stdout) - time.time()) < 100
    faults.sshd_with(pair.web2, clock)
    try:
        command = ["ssh", "-i", "/etc/ngxsync/id_ed25519", "-o", "UserKnownHostsFile=/etc/ngxsync/known_hosts", "-n"]
        over_ssh = pair.web1.run([*command, f"root@{pair.web2.address}", *TIME[:-1], f"'{TIME[-1]}'"])
        assert float(over_ssh.stdout) < time.time() - 3000
    finally:
        faults.kill(pair.web2, [pair.web2.sshd_pid()])
        pair.web2.start_sshd()


def test_state_that_is_gone(pair: Pair) -> None:
    assert pair.ngxsync("sync", "--yes").returncode == 0
    faults.take_state_away(pair.web2)
    assert os.listdir(pair.web2.path(faults.STATE)) == []
    assert "peer" in os.listdir(pair.web2.path(faults.GONE))

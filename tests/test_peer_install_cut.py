"""`peer install` killed on the peer at each of its system calls: no key is lost, nobody is locked out, the next call finishes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator

import pytest

from ngxsync.agent.manifest import PROTOCOL
from tests.agent import STATE, agent_argv
from tests.door import policy_path
from tests.host import Host, wait_until
from tests.pair import ROOT, Pair

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMVtTjKmTKkSKJHSlWKUWkWnLjZGhkvhD1fyeuFNaMhP"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH0tqh1lgzDbMJRMb4J1VLvF6gk0dxFVDkVnKPTmGaVn admin\r\n"
KEYS = "/home/deploy/.ssh/authorized_keys"
OLD = f"# by hand\n{OTHER}{KEY} copied\n{OTHER}"
RULES = "/etc/sudoers.d/ngxsync"
CALLS = ("rename", "renameat2", "fsync", "fchown", "fchmod", "unlinkat", "symlink", "mkdir", "write")
MOST = 60


@pytest.fixture
def host(pair: Pair) -> Iterator[Host]:
    """web2 with a user deploy, whose file of keys has an unrestricted line of ours between two of others."""
    web2 = pair.web2
    web2.run(["useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", "deploy"])
    yield web2
    web2.kill_all_but_sshd()
    web2.run(["userdel", "--remove", "deploy"])
    web2.path(RULES).unlink(missing_ok=True)


def reset(host: Host) -> None:
    host.run(["rm", "-rf", "/home/deploy/.ssh", RULES, f"{STATE}/agent", "/etc/systemd/system/ngxsync-recover.service"])
    host.run(["install", "-d", "-m", "0700", "-o", "deploy", "-g", "deploy", "/home/deploy/.ssh"])
    host.path(KEYS).write_bytes(OLD.encode())
    host.run(["chown", "deploy:deploy", KEYS])
    host.run(["chmod", "0600", KEYS])
    host.run(["install", "-d", "-m", "0700", f"{STATE}/agent"])


def request() -> str:
    policy = {"trees": [ROOT], "nginx": {}}
    asked = {"state_dir": STATE, "user": "deploy", "key": KEY, "comment": "ngxsync of web1", "agent": "x"}
    return json.dumps({**asked, "protocol": PROTOCOL, "policy": policy})


def is_killed(host: Host, call: str, number: int, verb: str = "install", asked: str = "") -> bool:
    """Runs the verb with SIGKILL at the so manieth call; False where it came to its end."""
    inject = f"inject={call}:signal=KILL:when={number}"
    strace = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    done = host.run([*strace, *agent_argv(verb)], input=asked or request(), check=False)
    if done.returncode == 0:
        assert json.loads(done.stdout)["ok"], done.stdout
    return done.returncode != 0


def assert_safe(host: Host) -> None:
    file = host.path(KEYS)
    lines = file.read_bytes().decode()
    own = next((line for line in lines.split("\n") if KEY in line), "")
    assert lines.replace(own, "OWN") == OLD.replace(f"{KEY} copied", "OWN")
    assert own == f"{KEY} copied" or own.startswith('restrict,command="sudo -n ')
    status = file.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, host.path("/home/deploy").stat().st_uid)
    assert host.run(["visudo", "-c"], check=False).returncode == 0
    if own.startswith("restrict"):  # never before what it leads to is there
        assert host.path(RULES).exists()
        assert host.path(policy_path(KEY)).exists()


@pytest.mark.parametrize("call", CALLS)
def test_killed_at_each_of_its_calls(host: Host, call: str) -> None:
    number = 0
    while number < MOST:
        number += 1
        reset(host)
        killed = is_killed(host, call, number)
        assert_safe(host)
        if not killed:
            break
        assert not is_killed(host, call, 10_000)
        assert_safe(host)
        assert "restrict" in host.path(KEYS).read_text()
        assert [path.name for path in host.path("/home/deploy/.ssh").iterdir()] == ["authorized_keys"]
        assert [path.name for path in host.path("/etc/sudoers.d").iterdir() if "ngxsync" in path.name] == ["ngxsync"]
    assert number < MOST
    assert number > 1, "nothing was killed"


@pytest.mark.parametrize("call", ["renameat2", "unlink", "unlinkat", "rmdir", "fsync"])
def test_remove_killed_at_each_of_its_calls(host: Host, call: str) -> None:
    """The key's line goes first, so that what is left of the rest lets nobody in."""
    asked = json.dumps({**json.loads(request()), "trees": [ROOT], "purge": True})
    number = 0
    while number < MOST:
        number += 1
        reset(host)
        assert not is_killed(host, "mkdir", 10_000)
        host.run(["mkdir", "-p", f"{STATE}/peer/runs", f"{ROOT}/.ngxsync/00000001-left/stage", f"{STATE}/agent/hash"])
        killed = is_killed(host, call, number, "uninstall", asked)
        text = host.path(KEYS).read_bytes().decode()
        assert [line for line in text.split("\n") if KEY not in line] == ["# by hand", *[OTHER.rstrip("\n")] * 2, ""]
        assert host.run(["visudo", "-c"], check=False).returncode == 0
        if KEY in text:
            assert host.path(policy_path(KEY)).exists()
            assert host.path(RULES).exists()
        if not killed:
            break
        assert not is_killed(host, call, 10_000, "uninstall", asked)
        assert KEY not in host.path(KEYS).read_text()
        assert [path.name for path in host.path("/home/deploy/.ssh").iterdir()] == ["authorized_keys"]
        gone = (
            RULES,
            f"{STATE}/agent",
            f"{STATE}/peer",
            f"{ROOT}/.ngxsync",
            "/etc/systemd/system/ngxsync-recover.service",
        )
        assert [path for path in gone if os.path.lexists(host.path(path))] == []
    assert number < MOST
    assert number > 1, "nothing was killed"


def test_a_key_that_is_added_at_that_very_moment_stays(host: Host) -> None:
    reset(host)
    strace = [
        "strace",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=renameat2",
        "-e",
        "inject=renameat2:delay_enter=2s:when=1",
    ]
    with host.popen([*strace, *agent_argv("install")], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(request())
        process.stdin.close()
        process.stdin = None
        folder = host.path("/home/deploy/.ssh")
        made = wait_until(
            lambda: [path for path in folder.iterdir() if "ngxsync" in path.name], "the new file is there"
        )
        wait_until(lambda: "restrict" in made[0].read_text(), "it is written")
        with host.path(KEYS).open("ab") as file:
            file.write(f"{OTHER.strip()} late\n".encode())
        out, _ = process.communicate(timeout=60)
    assert json.loads(out)["ok"], out
    lines = host.path(KEYS).read_bytes().decode()
    assert lines.endswith(f"{OTHER}{OTHER.strip()} late\n")
    assert lines.count("restrict,command=") == 1
    assert f"{KEY} copied" not in lines
    assert [path.name for path in folder.iterdir()] == ["authorized_keys"]

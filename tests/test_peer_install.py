"""`ngxsync peer install` and `peer remove` on the pair: a key that syncs and opens no shell, and all of it away again."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator

import pytest

from tests.agent import STATE
from tests.pair import ROOT, Pair, manifest_of, snapshot_inodes
from tests.terminal import Terminal

KEYS = "/root/.ssh/authorized_keys"
KEY = "/etc/ngxsync/id_ed25519"
DOOR = f"{STATE}/agent/door.json"
GATE = f'restrict,command="/usr/bin/python3 -I -S {STATE}/agent/current gate"'
EXTRA = "# by hand\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMVtTjKmTKkSKJHSlWKUWkWnLjZGhkvhD1fyeuFNaMhP admin@laptop\n"


@pytest.fixture
def door(pair: Pair) -> Iterator[Pair]:
    """The pair where root's own key on web1 logs in on web2, and ngxsync has neither key nor host key yet."""
    ours, roots = pair.web1.path("/etc/ngxsync"), pair.web1.path("/root/.ssh")
    (ours / "id_ed25519").rename(roots / "id_rsa")  # a name that ssh tries by itself
    (ours / "known_hosts").rename(roots / "known_hosts")
    yield pair
    pair.web2.path("/etc/sudoers.d/ngxsync").unlink(missing_ok=True)


def install(pair: Pair, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = pair.ngxsync("peer", "install", *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def remove(pair: Pair, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = pair.ngxsync("peer", "remove", "web2", *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def public_key(pair: Pair, path: str = KEY) -> str:
    return " ".join(pair.web1.path(f"{path}.pub").read_text().split()[:2])


def by_key(pair: Pair, *command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
    """ssh with the restricted key alone."""
    options = [
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "StrictHostKeyChecking=accept-new",
    ]
    return pair.web1.run(["ssh", *options, "-i", KEY, f"{user}@192.0.2.2", *command], check=False)


def test_one_command_leads_from_nothing_to_a_sync_with_a_key_that_opens_no_shell(door: Pair) -> None:
    pair = door
    before = pair.web2.path(KEYS).read_bytes()
    done = install(pair, "--yes")
    assert pair.web2.path(KEYS).read_bytes() == before + f"{GATE} {public_key(pair)} ngxsync of web1\n".encode()
    assert stat.S_IMODE(pair.web1.path(KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE(pair.web2.path(DOOR).stat().st_mode) == 0o600
    assert json.loads(pair.web2.path(DOOR).read_text()) == {
        "schema": 1,
        "trees": [ROOT],
        "nginx": {
            "root": ROOT,
            "conf": f"{ROOT}/conf/nginx.conf",
            "binary": "auto",
            "reload": "SIGHUP",
            "rehearse": "overlay",
            "probe": "",
        },
        "rsync": "/usr/bin/rsync",
    }
    assert "proof" in done.stdout
    shell = by_key(pair, "id")
    assert shell.returncode != 0
    assert "uid=" not in shell.stdout

    pair.web1.path(f"{ROOT}/html/index.html").write_text("by the restricted key")
    synced = pair.ngxsync("sync")
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert manifest_of(pair.web1) == manifest_of(pair.web2)


# a login without root


@pytest.fixture
def deploy(door: Pair) -> Iterator[Pair]:
    """web2 has a user deploy, whom root's key on web1 also lets in; [peer] user is deploy."""
    pair = door
    pair.web2.run(["useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", "deploy"])
    pair.web2.run(["install", "-d", "-m", "0700", "-o", "deploy", "-g", "deploy", "/home/deploy/.ssh"])
    pair.web2.run(["install", "-m", "0600", "-o", "deploy", "-g", "deploy", KEYS, "/home/deploy/.ssh/authorized_keys"])
    pair.write_config(peer="user = deploy")
    yield pair
    pair.web2.kill_all_but_sshd()
    pair.web2.run(["userdel", "--remove", "deploy"])


def test_a_user_without_root_starts_the_gate_by_one_sudo_rule(deploy: Pair) -> None:
    pair = deploy
    install(pair, "--yes", "--as", "root")
    rules = pair.web2.path("/etc/sudoers.d/ngxsync")
    assert stat.S_IMODE(rules.stat().st_mode) == 0o440
    line = pair.web2.path("/home/deploy/.ssh/authorized_keys").read_text().splitlines()[-1]
    assert line.startswith(f'restrict,command="sudo -n /usr/bin/python3 -I -S {STATE}/agent/current gate" ssh-ed25519 ')
    assert "uid=" not in by_key(pair, "id", user="deploy").stdout
    as_deploy = ["setpriv", "--reuid=deploy", "--regid=deploy", "--init-groups", "sudo", "-n"]
    assert "password is required" in pair.web2.run([*as_deploy, "id"], check=False).stderr
    other = [*as_deploy, "/usr/bin/python3", "-I", "-S", f"{STATE}/agent/current", "scan"]
    assert "password is required" in pair.web2.run(other, check=False).stderr

    pair.web1.path(f"{ROOT}/html/index.html").write_text("by deploy")
    synced = pair.ngxsync("sync")
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert pair.web2.path(f"{ROOT}/html/index.html").read_text() == "by deploy"


def test_an_administrator_with_sudo_installs_for_root(deploy: Pair) -> None:
    """--as deploy, who may sudo everything: the steps run as root, and the key's line is root's."""
    pair = deploy
    pair.write_config()
    pair.web2.path("/etc/sudoers.d/deploy").write_text("deploy ALL = (ALL) NOPASSWD: ALL\n")
    try:
        install(pair, "--yes", "--as", "deploy")
    finally:
        pair.web2.path("/etc/sudoers.d/deploy").unlink()
    assert pair.web2.path(KEYS).read_text().splitlines()[-1].startswith(GATE)
    assert not pair.web2.path("/etc/sudoers.d/ngxsync").exists()
    assert pair.ngxsync("sync").returncode == 0


def test_a_user_without_sudo_opens_a_door_for_itself_alone(deploy: Pair) -> None:
    pair = deploy
    refused = install(pair, "--yes", "--as", "deploy", "--json", status=4)  # /var/lib/ngxsync is root's
    assert "cannot be written" in refused.stdout or "Permission denied" in refused.stdout
    pair.write_config(peer="user = deploy\nstate_dir = /home/deploy/ngxsync")
    install(pair, "--yes")
    line = pair.web2.path("/home/deploy/.ssh/authorized_keys").read_text().splitlines()[-1]
    assert line.startswith('restrict,command="/usr/bin/python3 -I -S /home/deploy/ngxsync/agent/current gate" ')
    assert not pair.web2.path("/etc/sudoers.d/ngxsync").exists()


def test_root_never_starts_what_somebody_else_could_have_put_there(deploy: Pair) -> None:
    pair = deploy
    pair.web2.run(["chown", "deploy", STATE])
    done = install(pair, "--yes", "--as", "root", status=4)
    assert f"root@192.0.2.2:{STATE}: others than root can write there" in done.stderr.replace("deploy@", "root@")
    assert f"chown root {STATE}" in done.stderr
    assert not pair.web2.path(f"{STATE}/agent").exists()
    assert not pair.web1.path(KEY).exists()


# what stands in the way, and what is there already


def test_without_a_person_it_asks_for_yes_and_changes_nothing(door: Pair) -> None:
    before = [snapshot_inodes(host, "/root", "/etc/ngxsync", STATE, "/etc/systemd/system") for host in door.hosts]
    done = install(door, status=8)
    assert "nobody is there to be asked" in done.stderr
    assert "--yes" in done.stderr
    dry = install(door, "--dry-run")
    assert "nothing was changed: a dry run" in dry.stdout
    after = [snapshot_inodes(host, "/root", "/etc/ngxsync", STATE, "/etc/systemd/system") for host in door.hosts]
    assert after == before


def test_each_step_is_told_before_and_asked_for_once(door: Pair) -> None:
    with Terminal(door, "peer", "install", "web2") as terminal:
        terminal.wait_for("Install this on web2? [y/N]: ")
        for told in ("new key", "host key", "agent", "policy", "recovery", f"key       {KEYS}"):
            assert told in terminal.shown
        assert not door.web1.path(KEY).exists()
        terminal.type("n\n")
        assert terminal.end() == 8
    assert not door.web2.path(f"{STATE}/agent").exists()
    with Terminal(door, "peer", "install", "web2") as terminal:
        terminal.wait_for("Install this on web2? [y/N]: ")
        terminal.type("y\n")
        assert terminal.end() == 0
        assert "gives no shell" in terminal.shown


def test_again_it_changes_nothing(door: Pair) -> None:
    install(door, "--yes")
    places = ("/root/.ssh", f"{STATE}/agent/door.json", "/etc/systemd/system")
    before = snapshot_inodes(door.web2, *places), snapshot_inodes(door.web1, "/etc/ngxsync")
    done = install(door, "--yes")
    assert (snapshot_inodes(door.web2, *places), snapshot_inodes(door.web1, "/etc/ngxsync")) == before
    assert "to do" not in done.stdout
    assert done.stdout.count("as it is") == 6


def test_again_it_brings_the_policy_up_to_the_configuration(door: Pair) -> None:
    install(door, "--yes")
    door.write_config(nginx="content = html conf/nothing\nrehearse = live")
    door.web1.path(f"{ROOT}/html/index.html").write_text("another")
    refused = door.ngxsync("sync")
    assert refused.returncode == 4, refused.stderr
    assert "ngxsync peer install" in refused.stderr
    install(door, "--yes")
    assert json.loads(door.web2.path(DOOR).read_text())["nginx"]["rehearse"] == "live"
    assert door.ngxsync("sync").returncode == 0


def test_a_host_key_that_nobody_knows_is_a_persons_to_compare(door: Pair) -> None:
    known = door.web1.path("/root/.ssh/known_hosts")
    known.unlink()
    done = install(door, "--yes", status=4)
    assert "the host key of web2 is not known here; it shows SHA256:" in done.stderr
    assert sorted(door.web1.path("/etc/ngxsync").iterdir()) == [door.web1.path("/etc/ngxsync/config.ini")]
    with Terminal(door, "peer", "install", "--yes") as terminal:
        terminal.wait_for("Is it the same? [y/N]: ")
        assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in terminal.shown
        terminal.type("y\n")
        assert terminal.end() == 0
    assert door.web1.path("/etc/ngxsync/known_hosts").read_text().startswith("192.0.2.2 ssh-ed25519 ")
    assert not known.exists()


def test_another_host_key_than_the_pinned_one_ends_it(door: Pair) -> None:
    wrong = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMVtTjKmTKkSKJHSlWKUWkWnLjZGhkvhD1fyeuFNaMhP"
    door.web1.path("/etc/ngxsync/known_hosts").write_text(f"192.0.2.2 {wrong}\n")
    done = install(door, "--yes", status=4)
    assert "web2 shows another host key" in done.stderr
    assert not door.web2.path(f"{STATE}/agent").exists()


def test_the_administrators_own_key_is_never_restricted(door: Pair) -> None:
    file = door.web1.path("/etc/ngxsync/config.ini")
    file.write_text(file.read_text().replace(KEY, "/root/.ssh/id_rsa"))
    before = door.web2.path(KEYS).read_bytes()
    done = install(door, "--yes", status=2)
    assert "/root/.ssh/id_rsa is a key of your own ssh" in done.stderr
    assert "set identity = /etc/ngxsync/id_ed25519 in [peer web2]" in done.stderr
    assert door.web2.path(KEYS).read_bytes() == before


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_key_file_that_is_no_usable_key_is_not_overwritten(door: Pair, mode: int) -> None:
    file = door.web1.path(KEY)
    file.write_text("something else\n")
    file.chmod(mode)
    done = install(door, "--yes", status=2)
    assert f"{KEY}: " in done.stderr
    assert file.read_text() == "something else\n"


def test_a_peer_that_is_down(door: Pair) -> None:
    door.write_config(peer="connect_timeout = 1s")
    door.web2.vanish_from(door.web1)
    done = install(door, "--yes", status=4)
    assert "web2 unchanged" in done.stderr
    assert not door.web1.path(KEY).exists()


def test_an_access_that_is_none(door: Pair) -> None:
    door.web1.path("/root/.ssh/id_rsa").unlink()
    done = install(door, "--yes", status=4)
    assert "web2 does not let you in as root" in done.stderr
    assert "--as USER, --identity FILE" in done.stderr
    assert not door.web1.path(KEY).exists()


def test_the_restricted_key_cannot_be_used_to_install(door: Pair) -> None:
    install(door, "--yes")
    done = install(door, "--yes", "--identity", KEY, status=4)
    assert "this key is restricted" in done.stderr
    assert "--identity" in done.stderr


@pytest.mark.parametrize("program", ["/usr/bin/rsync", "/usr/bin/python3"])
def test_a_peer_without_what_it_needs(door: Pair, program: str) -> None:
    file = door.web2.path(program)
    links = list(file.parent.glob("python3*")) if "python" in program else [file]
    hidden = [(path, path.with_name(f"hidden-{path.name}")) for path in links]
    for path, aside in hidden:
        path.rename(aside)
    try:
        done = install(door, "--yes", status=4)
    finally:
        for path, aside in hidden:
            aside.rename(path)
    assert f"install {program.rpartition('/')[2]} there" in done.stderr
    assert not door.web2.path(f"{STATE}/agent").exists()
    assert not door.web1.path(KEY).exists()

"""`ngxsync peer install` and `peer remove` on the pair: a key that syncs and opens no shell, and all of it away again."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxsync.agent.manifest import PROTOCOL
from tests.agent import STATE
from tests.door import agent_call, fingerprint, policy_path
from tests.hosts import wait_until
from tests.pair import ROOT, Pair, manifest_of, snapshot_inodes
from tests.terminal import Terminal

KEYS = "/root/.ssh/authorized_keys"
KEY = "/etc/ngxsync/id_ed25519"
GATE = f'restrict,command="/usr/bin/python3 -I -S {STATE}/agent/current gate '
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


def own_line(pair: Pair, options: str = "") -> str:
    """What stands for web1's key in root's file on web2."""
    return f'{GATE}{fingerprint(public_key(pair))}"{options} {public_key(pair)} ngxsync of web1\n'


def policy(pair: Pair) -> Path:
    return Path(pair.web2.path(policy_path(public_key(pair))))


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


LEFT_HERE = (KEY, f"{KEY}.pub", "/etc/ngxsync/known_hosts")
LEFT_THERE = (KEYS, f"{STATE}/agent", "/usr/local/sbin/ngxsync-agent", "/etc/systemd/system")


@pytest.fixture(scope="module")
def left() -> dict[str, str]:
    """What a real `peer install` put on each host, as archives, once one has; for all tests that only begin with it."""
    return {}


@pytest.fixture
def installed(door: Pair, left: dict[str, str]) -> Pair:
    """The pair after `peer install`."""
    for host in door.hosts:
        if host.name in left:
            host.run(["sh", "-ec", "base64 -d | tar -xPp"], input=left[host.name])
    if not left:
        install(door, "--yes")
        for host, paths in zip(door.hosts, (LEFT_HERE, LEFT_THERE), strict=True):
            left[host.name] = host.run(["sh", "-ec", 'tar -cP "$@" | base64', "sh", *paths]).stdout
    return door


def test_one_command_leads_from_nothing_to_a_sync_with_a_key_that_opens_no_shell(door: Pair) -> None:
    pair = door
    before = pair.web2.path(KEYS).read_bytes()
    done = install(pair, "--yes")
    assert pair.web2.path(KEYS).read_bytes() == before + own_line(pair).encode()
    assert stat.S_IMODE(pair.web1.path(KEY).stat().st_mode) == 0o600
    assert [stat.S_IMODE(path.stat().st_mode) for path in (policy(pair), policy(pair).parent)] == [0o600, 0o700]
    assert json.loads(policy(pair).read_text()) == {
        "schema": 1,
        "comment": "ngxsync of web1",
        "trees": [ROOT],
        "nginx": {
            "root": ROOT,
            "conf": f"{ROOT}/conf/nginx.conf",
            "binary": "auto",
            "reload": "SIGHUP",
            "rehearse": "overlay",
            "probe": "",
        },
        "keep": {"runs": 20, "for_s": 14 * 86400.0, "size": 2 << 30},
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
    pair.web2.run(["umount", "-l", "/home/deploy/.ssh", "/home/deploy"], check=False)
    pair.web2.kill_all_but_sshd()
    pair.web2.run(["userdel", "--remove", "deploy"])


def test_a_user_without_root_starts_the_gate_by_one_sudo_rule(deploy: Pair) -> None:
    pair = deploy
    install(pair, "--yes", "--as", "root")
    rules = pair.web2.path("/etc/sudoers.d/ngxsync")
    assert stat.S_IMODE(rules.stat().st_mode) == 0o440
    line = pair.web2.path("/home/deploy/.ssh/authorized_keys").read_text().splitlines()[-1]
    assert line.startswith(
        f'restrict,command="sudo -n /usr/bin/python3 -I -S {STATE}/agent/current gate {fingerprint(public_key(pair))}" ssh-ed25519 '
    )
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
    assert line.startswith('restrict,command="/usr/bin/python3 -I -S /home/deploy/ngxsync/agent/current gate ')
    assert not pair.web2.path("/etc/sudoers.d/ngxsync").exists()
    remove(pair, "--yes", "--purge")
    assert "restrict" not in pair.web2.path("/home/deploy/.ssh/authorized_keys").read_text()
    assert not pair.web2.path("/home/deploy/ngxsync").exists()


def test_root_never_starts_what_somebody_else_could_have_put_there(deploy: Pair) -> None:
    pair = deploy
    pair.web2.run(["chown", "deploy", STATE])
    done = install(pair, "--yes", "--as", "root", status=4)
    assert f"root@192.0.2.2:{STATE}: others than root can write there" in done.stderr.replace("deploy@", "root@")
    assert f"chown root {STATE}" in done.stderr
    assert not pair.web2.path(f"{STATE}/agent").exists()
    assert not pair.web1.path(KEY).exists()


def test_root_never_starts_a_python_that_somebody_else_could_replace(deploy: Pair) -> None:
    pair = deploy
    pair.web2.run(["chown", "deploy", "/usr/local/sbin"])
    pair.web2.run(["cp", "/usr/bin/python3", "/usr/local/sbin/python3"])
    hidden = pair.web2.path("/usr/bin/python3")
    hidden.rename(hidden.with_name("hidden-python3"))
    try:
        done = install(pair, "--yes", "--as", "root", status=4)
    finally:
        hidden.with_name("hidden-python3").rename(hidden)
        pair.web2.run(["sh", "-c", "chown root /usr/local/sbin; rm /usr/local/sbin/python3"])
    assert ":/usr/local/sbin: others than root can write there" in done.stderr
    assert not pair.web2.path(f"{STATE}/agent").exists()


def test_an_sshd_that_does_not_take_the_line_is_told_as_that(deploy: Pair) -> None:
    """The home is open to everybody: sshd, which is strict about that, ignores every key in it."""
    deploy.web2.run(["chmod", "0777", "/home/deploy"])
    done = install(deploy, "--yes", "--as", "root", status=4)
    assert "sshd on web2 does not let deploy in with the key, though its line is there" in done.stderr
    assert "the mode of deploy's home" in done.stderr
    deploy.web2.run(["chmod", "0755", "/home/deploy"])
    install(deploy, "--yes", "--as", "root")


def test_by_way_of_a_jump_host(deploy: Pair) -> None:
    """deploy's login is the way to root's; ngxsync's key may do nothing with it but go on."""
    pair = deploy
    pair.write_config(peer="jump = deploy@192.0.2.2")
    file, known = pair.web1.path("/etc/ngxsync/config.ini"), pair.web1.path("/root/.ssh/known_hosts")
    file.write_text(file.read_text().replace("host = 192.0.2.2", "host = 127.0.0.1"))
    known.write_text(f"{known.read_text()}127.0.0.1 {known.read_text().partition(' ')[2]}")
    pair.web1.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "x", "-f", KEY])
    with pair.web2.path("/home/deploy/.ssh/authorized_keys").open("a") as keys:
        keys.write(f"restrict,port-forwarding {public_key(pair)}\n")
    told = install(pair, "--yes").stdout
    assert "deploy@192.0.2.2 has to let this key in too" in told
    assert pair.web2.path(KEYS).read_text().splitlines()[-1].startswith(GATE)
    assert pair.ngxsync("sync").returncode == 0
    remove(pair, "--yes")


# what stands in the way, and what is there already


def test_without_a_person_it_asks_for_yes_and_changes_nothing(door: Pair) -> None:
    before = [snapshot_inodes(host, "/root/.ssh", "/etc/ngxsync", STATE, "/etc/systemd/system") for host in door.hosts]
    done = install(door, status=8)
    assert "nobody is there to be asked" in done.stderr
    assert "--yes" in done.stderr
    dry = install(door, "--dry-run")
    assert "nothing was changed: a dry run" in dry.stdout
    after = [snapshot_inodes(host, "/root/.ssh", "/etc/ngxsync", STATE, "/etc/systemd/system") for host in door.hosts]
    assert after == before


def test_each_step_is_told_before_and_asked_for_once(door: Pair) -> None:
    with Terminal(door, "peer", "install", "web2") as terminal:
        terminal.wait_for("Install this on web2? [y/N]: ")
        for told in ("new key", "host key", "agent", "policy", "recovery", f"key       {KEYS}"):
            assert told in terminal.shown
        assert not door.web1.path(KEY).exists()
        terminal.interrupt()
        assert terminal.end() == 130
        assert "nothing changed" in terminal.shown
    with Terminal(door, "peer", "install", "web2") as terminal:
        terminal.wait_for("Install this on web2? [y/N]: ")
        terminal.type("n\n")
        assert terminal.end() == 8
    assert not door.web2.path(f"{STATE}/agent").exists()
    with Terminal(door, "peer", "install", "web2") as terminal:
        terminal.wait_for("Install this on web2? [y/N]: ")
        terminal.type("y\n")
        assert terminal.end() == 0
        assert "gives no shell" in terminal.shown


def test_again_it_changes_nothing(installed: Pair) -> None:
    places = ("/root/.ssh", f"{STATE}/agent/doors", "/etc/systemd/system")
    before = snapshot_inodes(installed.web2, *places), snapshot_inodes(installed.web1, "/etc/ngxsync")
    done = install(installed, "--yes")
    assert (snapshot_inodes(installed.web2, *places), snapshot_inodes(installed.web1, "/etc/ngxsync")) == before
    assert "to do" not in done.stdout
    assert done.stdout.count("as it is") == 7


def test_again_it_brings_the_policy_up_to_the_configuration(installed: Pair) -> None:
    installed.write_config(nginx="content = html conf/nothing\nrehearse = live")
    installed.web1.path(f"{ROOT}/html/index.html").write_text("another")
    refused = installed.ngxsync("sync")
    assert refused.returncode == 4, refused.stderr
    assert "ngxsync peer install" in refused.stderr
    install(installed, "--yes")
    assert json.loads(policy(installed).read_text())["nginx"]["rehearse"] == "live"
    assert installed.ngxsync("sync").returncode == 0


def test_again_it_mends_an_agent_that_is_damaged_or_of_another_release(installed: Pair) -> None:
    current = installed.web2.path(f"{STATE}/agent/{os.readlink(installed.web2.path(f'{STATE}/agent/current'))}")
    (current / "ngxsync_agent" / "main.py").write_text("")
    assert installed.ngxsync("sync").returncode == 4
    install(installed)  # nothing is to be asked
    assert installed.ngxsync("sync").returncode == 0
    other = current.with_name("0" * 16)
    current.rename(other)
    installed.web2.run(["ln", "-sfn", other.name, f"{STATE}/agent/current"])
    assert f"to do     agent     {STATE}/agent/{current.name}" in install(installed, "--dry-run").stdout
    install(installed, "--yes")
    assert os.readlink(installed.web2.path(f"{STATE}/agent/current")) == current.name


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
    door.write_config(peer="connect_timeout = 3s")
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


def test_the_ssh_of_the_person_behind_sudo_will_do(door: Pair) -> None:
    """Root's own ssh on web1 has no key; that of admin, who called sudo, has one, and a configuration that names it."""
    web1 = door.web1
    web1.run(["useradd", "--create-home", "admin"])
    try:
        web1.run(["install", "-d", "-m", "0700", "-o", "admin", "/home/admin/.ssh"])
        web1.run(["install", "-m", "0600", "-o", "admin", "/root/.ssh/id_rsa", "/home/admin/.ssh/to-web2"])
        web1.path("/root/.ssh/id_rsa").unlink()
        web1.path("/home/admin/.ssh/config").write_text("Host 192.0.2.2\n  IdentityFile ~/.ssh/to-web2\n")
        before = os.listdir(web1.path("/tmp"))
        done = door.ngxsync("peer", "install", "--yes", env={"SUDO_USER": "admin"})
        assert done.returncode == 0, done.stdout + done.stderr
        assert os.listdir(web1.path("/tmp")) == before
        assert door.ngxsync("sync").returncode == 0
        assert "ssh" not in " ".join(title for title in web1.commands().values() if "sshd" not in title)
    finally:
        web1.run(["userdel", "--remove", "admin"])


def test_the_restricted_key_cannot_be_used_to_install(installed: Pair) -> None:
    done = install(installed, "--yes", "--identity", KEY, status=4)
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


# authorized_keys as others left it


def test_an_odd_file_keeps_every_other_byte(door: Pair) -> None:
    file = door.web2.path(KEYS)
    before = b"\n# r\xe9mi\r\n\n" + EXTRA.encode() + file.read_bytes().rstrip(b"\n")
    file.write_bytes(before)
    install(door, "--yes")
    assert file.read_bytes() == before + b"\n" + own_line(door).encode()


def test_an_unrestricted_line_of_the_key_is_restricted_where_it_stands(door: Pair) -> None:
    """The key that README had people copy until now: also where it is there twice, and once in authorized_keys2."""
    pair = door
    pair.web1.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "x", "-f", KEY])
    file, second = pair.web2.path(KEYS), pair.web2.path("/root/.ssh/authorized_keys2")
    own = file.read_text()
    file.write_text(f'{EXTRA}from="192.0.2.0/24" {public_key(pair)} copied\n{own}{public_key(pair)} again\n')
    second.write_text(f"{EXTRA}{public_key(pair)} third\n")
    assert "uid=0" in by_key(pair, "id").stdout
    planned = install(pair, "--dry-run").stdout
    assert f"{KEYS}: restricted; the key had a line that let it do anything" in planned
    install(pair, "--yes")
    assert file.read_text() == EXTRA + own_line(pair, ',from="192.0.2.0/24"') + own
    assert second.read_text() == EXTRA
    assert "uid=" not in by_key(pair, "id").stdout
    assert pair.ngxsync("sync").returncode == 0


def test_the_file_that_sshd_really_reads_gets_the_line(door: Pair) -> None:
    """AuthorizedKeysFile elsewhere, by the configuration of the very sshd that serves the login."""
    pair = door
    pair.web2.run(["install", "-d", "-m", "0755", "/etc/ssh/keys"])
    pair.web2.run(["install", "-m", "0644", KEYS, "/etc/ssh/keys/root"])
    config = pair.web2.path("/etc/ssh/test_sshd_config")
    before = config.read_text()
    config.write_text(f"{before}AuthorizedKeysFile /etc/ssh/keys/%u\n")
    try:
        pair.web2.run(["kill", "-HUP", str(pair.web2.sshd_pid())])
        wait_until(lambda: "Permission" not in by_own_key(pair, "true").stderr, "sshd listens again")
        install(pair, "--yes")
        assert pair.web2.path("/etc/ssh/keys/root").read_text().splitlines()[-1].startswith(GATE)
        assert "restrict" not in pair.web2.path(KEYS).read_text()
        remove(pair, "--yes")
        assert pair.web2.path("/etc/ssh/keys/root").read_bytes() == pair.web2.path(KEYS).read_bytes()
    finally:
        config.write_text(before)
        pair.web2.run(["kill", "-HUP", str(pair.web2.sshd_pid())])
        pair.web2.run(["rm", "-r", "/etc/ssh/keys"])
        wait_until(lambda: not by_own_key(pair, "true").returncode, "sshd listens again")


def by_own_key(pair: Pair, *command: str) -> subprocess.CompletedProcess[str]:
    return pair.web1.run(["ssh", "-o", "BatchMode=yes", "root@192.0.2.2", *command], check=False)


@pytest.fixture
def home(deploy: Pair) -> Pair:
    """The keys in question are deploy's; root's own way in stays, whatever is done to them."""
    return deploy


FAULTS = {
    "symlinked folder": (
        "mv /home/deploy/.ssh /home/deploy/keys && ln -s keys /home/deploy/.ssh",
        "a symlink on the way to the keys of deploy is not followed",
    ),
    "symlinked file": (
        "mv /home/deploy/.ssh/authorized_keys /home/deploy/keys && ln -s ../keys /home/deploy/.ssh/authorized_keys",
        "a symlink on the way to the keys of deploy is not followed",
    ),
    "hard link to a file of root's": (
        "cp /etc/shadow /home/secret && ln -f /home/secret /home/deploy/.ssh/authorized_keys",
        "this file has a second name (a hard link)",
    ),
    "folder of another user": ("chown daemon /home/deploy/.ssh", "and sshd ignores it for deploy"),
    "file of another user": ("chown daemon /home/deploy/.ssh/authorized_keys", "and sshd ignores it for deploy"),
    "a pipe": ("rm /home/deploy/.ssh/authorized_keys && mkfifo /home/deploy/.ssh/authorized_keys", "no plain file"),
    "no home": ("mv /home/deploy /home/moved && touch /home/moved/.moved", "the home of deploy is not there"),
    "read-only home": (
        "mount --bind /home/deploy /home/deploy && mount -o remount,bind,ro /home/deploy",
        "cannot be changed: Read-only file system",
    ),
    "full disk": (
        "cp -a /home/deploy/.ssh /tmp/keys && mount -t tmpfs -o size=8k,mode=700 tmpfs /home/deploy/.ssh && "
        "cp -a /tmp/keys/. /home/deploy/.ssh && head -c 4096 /dev/zero >/home/deploy/.ssh/fill",
        "cannot be changed: No space left on device",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_place_for_keys_that_is_not_to_be_trusted_is_left_alone(home: Pair, fault: str) -> None:
    command, told = FAULTS[fault]
    home.web2.run(["sh", "-c", command])
    find = ["find", "/home", "-type", "f", "-exec", "sha256sum", "{}", ";"]
    before = home.web2.run(find).stdout
    done = install(home, "--yes", "--as", "root", status=4)
    assert told in done.stderr
    assert "deploy@192.0.2.2:/home/deploy" in done.stderr
    assert "next: " in done.stderr
    assert home.web2.run(find).stdout == before
    if fault in ("read-only home", "full disk"):
        assert "done before that: agent, command, policy, recovery, sudo" in done.stderr
        home.web2.run(["sh", "-c", "umount -l /home/deploy/.ssh || umount -l /home/deploy"])
        install(home, "--yes", "--as", "root")
    else:
        assert not home.web2.path("/etc/sudoers.d/ngxsync").exists()
    home.web2.run(["sh", "-c", "test ! -d /home/moved || mv /home/moved /home/deploy; rm -f /home/secret"])


def test_no_room_for_the_agent_is_said_as_the_system_says_it(door: Pair) -> None:
    door.web2.run(["mount", "-t", "tmpfs", "-o", "size=100k,mode=700", "tmpfs", STATE])
    done = install(door, "--yes", status=4)
    assert f"{STATE}: the agent cannot be put there: No space left on device\n" in done.stderr
    assert "now: web2 unchanged\n" in done.stderr
    assert "next: on web2: df -h, df -i" in done.stderr
    assert "Traceback" not in done.stderr
    assert 'File "' not in done.stderr
    door.web2.unmount(STATE)
    install(door, "--yes")


def test_modes_that_sshd_ignores_keys_for_are_mended_and_told(home: Pair) -> None:
    home.web2.run(["chmod", "0777", "/home/deploy/.ssh"])
    home.web2.run(["chmod", "0666", "/home/deploy/.ssh/authorized_keys"])
    told = install(home, "--yes", "--as", "root").stdout
    assert "/home/deploy/.ssh: no longer written by others, sshd ignores it else" in told
    folder = home.web2.path("/home/deploy/.ssh")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "authorized_keys")]
    assert modes == [0o755, 0o644]


def test_a_user_without_any_keys_gets_a_folder_of_its_own(home: Pair) -> None:
    home.web2.run(["rm", "-r", "/home/deploy/.ssh"])
    install(home, "--yes", "--as", "root")
    folder = home.web2.path("/home/deploy/.ssh")
    owner = home.web2.path("/home/deploy").stat().st_uid
    found = [(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in (folder, folder / "authorized_keys")]
    assert found == [(owner, 0o700), (owner, 0o600)]


# a second master


SECOND_KEY = "/etc/ngxsync/second/id"
SECOND = "/etc/ngxsync/second/config.ini"
OTHER_TREE = "/srv/other"


def second_master(pair: Pair, **changed: str) -> str:
    """Another config.ini on web1 with a key of its own, as a second master would have; some words of it are others."""
    folder = pair.web1.path(SECOND).parent
    folder.mkdir()
    text = pair.web1.path("/etc/ngxsync/config.ini").read_text()
    text = text.replace(KEY, f"{SECOND_KEY}\nstate_dir = {STATE}")
    for old, new in changed.items():
        text = text.replace(f"[{old}]\n", f"[{old}]\n{new}\n")
    (folder / "config.ini").write_text(f"{text}[ngxsync]\nstate_dir = /srv/second\n")
    return SECOND


def second_policy(pair: Pair) -> Path:
    return Path(pair.web2.path(policy_path(public_key(pair, SECOND_KEY))))


def scanned(pair: Pair, key: str, tree: str, user: str = "root") -> str:
    """What the gate says to this key's scan of one tree: its refusal, or ""."""
    projection = {"trees": [{"path": tree, "exclude": []}], "owners": True}
    asked = {"protocol": PROTOCOL, "state_dir": STATE, "projection": projection}
    words = ["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-i", key]
    argv = ["ssh", *words, f"{user}@192.0.2.2", agent_call("scan")]
    done = pair.web1.run(argv, input=json.dumps(asked) + "\n", check=False)
    assert json.loads(done.stdout)["ok"] is (done.returncode == 0), done.stdout
    return done.stderr if done.returncode else ""


def test_two_masters_are_each_held_to_their_own_trees(installed: Pair) -> None:
    """Whichever is installed last, and whichever goes."""
    installed.web2.path(OTHER_TREE).mkdir()
    config = second_master(installed, sync=f"trees = {OTHER_TREE}", nginx="rehearse = live")
    first = policy(installed).read_bytes()
    told = install(installed, "--yes", "--config", config)
    assert f"done      policy    {STATE}/agent/doors: it lets the key work on {OTHER_TREE}\n" in told.stdout
    assert f"as it is  others    ngxsync of web1 works on {ROOT} here, by a key of its own: " in told.stdout
    assert policy(installed).read_bytes() == first
    second = json.loads(second_policy(installed).read_text())
    assert (second["trees"], second["nginx"]["rehearse"]) == ([OTHER_TREE], "live")
    assert install(installed, "--yes").stdout.count("to do") == 0
    assert second_policy(installed).exists()
    assert (scanned(installed, KEY, ROOT), scanned(installed, SECOND_KEY, OTHER_TREE)) == ("", "")
    assert "not the trees of this peer" in scanned(installed, KEY, OTHER_TREE)
    assert "not the trees of this peer" in scanned(installed, SECOND_KEY, ROOT)

    for tree in (ROOT, OTHER_TREE):
        installed.web2.path(f"{tree}/.ngxsync/00000009-left").mkdir(parents=True)
    gone = second_policy(installed)
    done = remove(installed, "--yes", "--purge", "--config", config)
    assert f"done      policy    {STATE}/agent/doors/" in done.stdout
    assert f"done      stages    {OTHER_TREE}/.ngxsync\n" in done.stdout
    stays = f"{STATE} and what belongs to it stays: ngxsync of web1 still comes in by it, also with --purge"
    assert f"as it is  kept      {stays}\n" in done.stdout
    assert not gone.exists()
    assert not installed.web2.path(f"{OTHER_TREE}/.ngxsync").exists()
    assert installed.web2.path(f"{ROOT}/.ngxsync/00000009-left").exists()
    assert policy(installed).read_bytes() == first
    assert installed.ngxsync("sync").returncode == 0
    assert (
        "Permission denied"
        in installed.web1.run(
            ["ssh", "-F", "none", "-o", "BatchMode=yes", "-i", SECOND_KEY, "root@192.0.2.2"], check=False
        ).stderr
    )


def test_two_masters_of_a_user_without_root_have_one_rule_each(deploy: Pair) -> None:
    rules = deploy.web2.path("/etc/sudoers.d/ngxsync")
    before = deploy.web2.path("/home/deploy/.ssh/authorized_keys").read_bytes()
    deploy.web2.path(OTHER_TREE).mkdir()
    config = second_master(deploy, sync=f"trees = {OTHER_TREE}")
    install(deploy, "--yes", "--as", "root")
    first = rules.read_text()
    install(deploy, "--yes", "--as", "root", "--config", config)
    for key, own, other in ((KEY, ROOT, OTHER_TREE), (SECOND_KEY, OTHER_TREE, ROOT)):
        assert scanned(deploy, key, own, "deploy") == ""
        assert "not the trees of this peer" in scanned(deploy, key, other, "deploy")
        assert fingerprint(public_key(deploy, key)) in rules.read_text()
    told = remove(deploy, "--yes", "--as", "root", "--config", config).stdout
    assert "/etc/sudoers.d/ngxsync: what lets deploy start the gate for this key" in told
    assert rules.read_text() == first
    assert scanned(deploy, KEY, ROOT, "deploy") == ""
    assert "/etc/sudoers.d/ngxsync" in remove(deploy, "--yes", "--purge", "--as", "root").stdout
    assert not rules.exists()
    assert deploy.web2.path("/home/deploy/.ssh/authorized_keys").read_bytes() == before


def test_a_lost_key_takes_its_policy_along_and_no_others(installed: Pair) -> None:
    """Also where the removal was cut after the line went: the policy says whose it is."""
    config = second_master(installed)
    install(installed, "--yes", "--config", config)
    other, own = second_policy(installed), policy(installed)
    other.write_text(other.read_text().replace("ngxsync of web1", "ngxsync of lb2"))
    file = installed.web2.path(KEYS)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:-2], lines[-1].replace("ngxsync of web1", "ngxsync of lb2")]))
    installed.web1.path(KEY).unlink()
    done = remove(installed, "--yes")
    assert f"done      policy    {STATE}/agent/doors/{own.name}\n" in done.stdout
    assert "ngxsync of lb2 still comes in by it\n" in done.stdout
    assert (own.exists(), other.exists()) == (False, True)
    assert scanned(installed, SECOND_KEY, ROOT) == ""


def test_two_masters_side_by_side_and_one_goes(door: Pair) -> None:
    """With the same tree: what may be the other's in it stays too."""
    before = door.web2.path(KEYS).read_text()
    install(door, "--yes")
    config = second_master(door)
    install(door, "--yes", "--config", config)
    second = f'{GATE}{second_policy(door).stem}" {public_key(door, SECOND_KEY)} ngxsync of web1\n'
    assert door.web2.path(KEYS).read_text() == before + own_line(door) + second
    door.web2.path(f"{ROOT}/.ngxsync/00000009-left").mkdir(parents=True)
    told = remove(door, "--yes", "--purge")
    assert "still comes in by it" in told.stdout
    assert door.web2.path(KEYS).read_text() == before + second
    assert door.web2.path(f"{ROOT}/.ngxsync/00000009-left").exists()
    assert scanned(door, SECOND_KEY, ROOT) == ""
    told = remove(door, "--yes", "--purge", "--config", config)
    assert f"done      stages    {ROOT}/.ngxsync\n" in told.stdout
    assert door.web2.path(KEYS).read_text() == before
    assert not any(door.web2.path(STATE).iterdir())


# remove


def test_remove_leaves_nothing_but_what_it_says(door: Pair) -> None:
    before = door.web2.path(KEYS).read_bytes()
    install(door, "--yes")
    assert door.ngxsync("sync").returncode == 0
    live = snapshot_inodes(door.web2, f"{ROOT}/conf", f"{ROOT}/html")
    nginx = door.web2.nginx_pids()
    planned = remove(door, "--dry-run").stdout
    assert policy(door).exists()
    done = remove(door, "--yes")
    for told in (
        KEYS,
        "/etc/systemd/system/ngxsync-recover.service",
        "/usr/local/sbin/ngxsync-agent",
        f"{STATE}/agent",
    ):
        assert told in planned
        assert told in done.stdout
    assert f"{STATE}/peer stays (1 run, " in done.stdout
    assert "--purge removes it" in done.stdout
    assert "web2 lets the key in no more" in done.stdout
    assert "[peer web2] stays in /etc/ngxsync/config.ini" in done.stderr
    assert door.web2.path(KEYS).read_bytes() == before
    assert [path.name for path in door.web2.path(STATE).iterdir()] == ["peer"]
    for gone in ("/etc/systemd/system/ngxsync-recover.service", "/usr/local/sbin/ngxsync-agent"):
        assert not door.web2.path(gone).is_symlink()
        assert not door.web2.path(gone).exists()
    assert list(door.web2.path("/etc/systemd/system/multi-user.target.wants").iterdir()) == []
    assert snapshot_inodes(door.web2, f"{ROOT}/conf", f"{ROOT}/html") == live
    assert door.web2.nginx_pids() == nginx
    again = remove(door, "--yes")
    assert "to do" not in again.stdout
    assert "done      proof" in again.stdout


def test_purge_also_removes_what_runs_left_on_both_hosts(installed: Pair) -> None:
    assert installed.ngxsync("sync").returncode == 0
    installed.web2.path(f"{ROOT}/.ngxsync/00000009-left").mkdir(parents=True)
    assert list(installed.web1.path(f"{STATE}/master/peers").glob("web2*"))
    done = remove(installed, "--purge", "--yes")
    assert f"{STATE}/peer: 1 run, " in done.stdout
    assert f"{ROOT}/.ngxsync" in done.stdout
    assert list(installed.web2.path(STATE).iterdir()) == [] if installed.web2.path(STATE).exists() else True
    assert not installed.web2.path(f"{ROOT}/.ngxsync").exists()
    assert list(installed.web1.path(f"{STATE}/master/peers").glob("web2*")) == []
    assert list(installed.web1.path(f"{STATE}/master/runs").glob("*.json")) != []
    assert manifest_of(installed.web1) == manifest_of(installed.web2)
    install(installed, "--yes")
    assert installed.ngxsync("sync").returncode == 0


def test_nothing_is_removed_under_an_open_run(installed: Pair) -> None:
    installed.web2.path(f"{STATE}/peer").mkdir(mode=0o700, exist_ok=True)
    journal = installed.web2.path(f"{STATE}/peer/journal")
    journal.write_text("{}\n")
    journal.chmod(0o600)
    before = snapshot_inodes(installed.web2, f"{STATE}/agent", "/root/.ssh")
    done = remove(installed, "--purge", "--yes", status=8)
    assert "a run was interrupted here and is not finished" in done.stderr
    assert "`ngxsync-agent recover`" in done.stderr
    assert snapshot_inodes(installed.web2, f"{STATE}/agent", "/root/.ssh") == before
    journal.unlink()
    remove(installed, "--purge", "--yes")


def test_the_agent_stays_while_keepalived_calls_it(installed: Pair) -> None:
    """Without it the check would fail, and move the VIP."""
    folder = installed.web2.path("/etc/keepalived")
    folder.mkdir(exist_ok=True)
    conf = folder / "keepalived.conf"
    conf.write_text('# ngxsync-agent\nvrrp_script c {\n    script "/usr/local/sbin/ngxsync-agent check-nginx"\n}\n')
    for dry in (["--dry-run"], ["--yes"]):
        done = remove(installed, *dry, status=4)
        assert "/etc/keepalived/keepalived.conf:3" in done.stderr
        assert "keepalived here calls ngxsync-agent" in done.stderr
    assert policy(installed).exists()
    conf.write_text("# ngxsync-agent\n")
    remove(installed, "--yes")
    conf.unlink()


def test_nothing_is_removed_under_a_run_at_work(installed: Pair) -> None:
    installed.web2.path(f"{STATE}/peer").mkdir(mode=0o700, exist_ok=True)
    lock = f"{STATE}/peer/transaction.lock"
    with installed.web2.popen(
        ["flock", lock, "sh", "-c", "echo held; exec sleep 100"], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = remove(installed, "--yes", status=8)
        holder.kill()
    assert "is at work here since" in done.stderr
    assert policy(installed).exists()


def test_a_peer_that_never_had_anything(door: Pair) -> None:
    before = [snapshot_inodes(host, "/root/.ssh", "/etc/ngxsync", STATE) for host in door.hosts]
    done = remove(door, "--purge", "--yes")
    assert done.stdout.startswith("web2: nothing of ngxsync is there")
    assert [snapshot_inodes(host, "/root/.ssh", "/etc/ngxsync", STATE) for host in door.hosts] == before


def test_a_line_of_the_same_key_that_is_none_of_ours_stays(door: Pair) -> None:
    door.web1.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "x", "-f", KEY])
    with door.web2.path(KEYS).open("a") as file:
        file.write(f"{public_key(door)} copied by hand\n")
    before = door.web2.path(KEYS).read_bytes()
    done = remove(door, "--yes")
    assert door.web2.path(KEYS).read_bytes() == before
    assert "this key's line is none of ours, it stays" in done.stdout
    assert "still logs in, by a line that is none of ours" in done.stdout


# cut in the middle


@pytest.mark.parametrize(
    "moment", [f"{STATE}/agent/current", f"{STATE}/agent/doors", "/etc/systemd/system/ngxsync-recover.service"]
)
def test_killed_here_in_the_middle_the_same_command_goes_on(door: Pair, moment: str) -> None:
    before = door.web2.path(KEYS).read_text()
    with door.popen_ngxsync("peer", "install", "--yes", stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: os.path.lexists(door.web2.path(moment)), f"{moment} is there", every_s=0.001)
        door.web1.signal_to(process, signal.SIGKILL)
    assert "uid=0" in by_own_key(door, "id").stdout
    install(door, "--yes")
    assert door.web2.path(KEYS).read_text() == before + own_line(door)
    assert by_own_key(door, "true").returncode == 0


def test_a_run_of_this_host_at_work_keeps_remove_waiting_and_then_away(installed: Pair) -> None:
    assert installed.ngxsync("sync").returncode == 0
    lock = f"{STATE}/master/locks/peer-web2.lock"
    with installed.web1.popen(
        ["flock", lock, "sh", "-c", "echo held; exec sleep 100"], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = remove(installed, "--yes", status=9)
        holder.kill()
    assert "another run is at work" in done.stderr
    assert policy(installed).exists()


def test_json_tells_each_step(door: Pair) -> None:
    told = json.loads(install(door, "--yes", "--json").stdout)
    assert {key: told[key] for key in ("schema", "command", "outcome", "code", "exit")} == {
        "schema": 1,
        "command": "peer install",
        "outcome": "done",
        "code": "",
        "exit": 0,
    }
    (peer,) = told["peers"]
    assert [(step["name"], step["state"]) for step in peer["steps"]] == [
        (name, "done") for name in ("new key", "host key", "agent", "command", "policy", "recovery", "key", "proof")
    ]
    refused = json.loads(remove(door, "--json", status=8).stdout)
    assert (refused["code"], refused["exit"]) == ("unconfirmed", 8)
    assert refused["peers"][0]["message"]["next"] == "look with --dry-run; --yes does it without asking"
    planned = json.loads(remove(door, "--json", "--dry-run").stdout)
    assert (planned["outcome"], planned["peers"][0]["steps"][0]["state"]) == ("planned", "would")


def test_check_tells_whether_the_key_is_restricted(installed: Pair) -> None:
    done = installed.ngxsync("check")
    assert done.returncode == 0, done.stdout
    assert "  restricted key: OK (it calls the agent and fills a stage, and opens no shell)\n" in done.stdout


def test_a_key_that_is_lost_here_is_still_removed_there(door: Pair) -> None:
    before = door.web2.path(KEYS).read_bytes()
    install(door, "--yes")
    door.web1.path(KEY).unlink()
    remove(door, "--yes", "--purge")
    assert door.web2.path(KEYS).read_bytes() == before
    assert not door.web2.path(f"{STATE}/agent").exists()


def test_a_noisy_login_is_listened_to(door: Pair) -> None:
    """What it writes before the answers is passed over, and never shown as it is."""
    door.web2.path("/root/.bashrc").write_text("echo 'welcome \x1b[2J'; echo 0\n")
    try:
        done = install(door, "--yes")
    finally:
        door.web2.path("/root/.bashrc").write_text("")
    assert "\x1b" not in done.stdout + done.stderr

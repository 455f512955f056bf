"""web2 behind its gate: the whole pipeline works with a restricted key, and nothing else does."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxsync.core.excludes import BUILTIN, compile_excludes
from tests.door import (
    KEY,
    POLICY,
    REFUSED,
    agent_call,
    close_door,
    everything,
    gate_argv,
    gate_log,
    key_options,
    policy_path,
    public_key,
    ssh,
    write_policy,
)
from tests.hosts import wait_until
from tests.pair import ROOT, Pair, manifest_of, write_tree
from tests.resident import STATE, Resident, are_equal, by_hand, left_in_stages, resident, served, site
from tests.test_ready import reload

KEYS = "/root/.ssh/authorized_keys"
RECEIVE = "rsync --server -WIRe.LsfxCIvu --timeout=30 --stats --no-implied-dirs ."


@pytest.fixture
def closed(pair: Pair) -> Iterator[Resident]:
    """The pipeline over a pair that never met, web1's key being restricted."""
    close_door(pair)
    with resident(pair) as process:
        yield process


def request(**more: Any) -> dict[str, Any]:
    """What web1 may ask, as far as this configuration goes."""
    rules = [[regex, out] for regex, out in compile_excludes(list(BUILTIN))]
    times = {"prove_timeout_s": 10.0, "test_timeout_s": 60.0}
    return {
        "protocol": 2,
        "state_dir": STATE,
        "nginx": {**POLICY["nginx"], **times},
        "projection": {"trees": [{"path": ROOT, "exclude": rules}], "owners": True},
        **more,
    }


def ask(pair: Pair, verb: str, **more: Any) -> tuple[int, dict[str, Any], str]:
    """(exit status, answer, complaint) of one call of the agent with the restricted key."""
    done = ssh(pair, agent_call(verb), input=json.dumps(request(**more)) + "\n")
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def opened(pair: Pair, run: str = "00000001-mallory") -> str:
    """A run with an open stage; how a transfer names it."""
    status, answer, said = ask(pair, "stage", run=run, trees=[ROOT])
    assert (status, answer["stages"], said) == (0, {ROOT: f"{run}/0/"}, "")
    return f"{run}/0/"


def stage_of(pair: Pair, run: str = "00000001-mallory") -> Path:
    return Path(pair.web2.path(f"{ROOT}/.ngxsync/{run}/stage"))


def raise_if_not_refused(pair: Pair, before: Any, *texts: str, count: int | range = 1) -> None:
    """Nothing changed on web2 but its log, which says who asked for what."""
    assert everything(pair.web2) == before
    lines = gate_log(pair.web2)
    assert len(lines) in (count if isinstance(count, range) else (count,)), lines
    assert f" refused {pair.web1.address}:" in lines[-1]
    for text in texts:
        assert text in lines[-1]
    log = pair.web2.path(f"{STATE}/peer/gate.log")
    assert log.stat().st_mode & 0o777 == 0o600


# what has to work


def test_the_whole_pipeline_works(closed: Resident) -> None:
    pair = closed.pair
    write_tree(pair.web1, ROOT, {**site("one"), "html/a b/ä'\"$(id) #.html": "odd\n", "html/gone.html": "gone\n"})
    os.symlink("index.html", pair.web1.path(f"{ROOT}/html/link"))
    first = closed.sync(by_person=True)
    assert (first.exit, first.outcome) == (0, "applied"), first
    assert served(pair.web2) == "one"
    pair.web1.path(f"{ROOT}/html/gone.html").unlink()
    pair.web1.path(f"{ROOT}/html/index.html").chmod(0o640)
    os.chown(pair.web1.path(f"{ROOT}/html/index.html"), 33, 33)
    write_tree(pair.web1, ROOT, site("two"))
    second = closed.sync()
    assert (second.exit, second.outcome) == (0, "applied"), second
    assert served(pair.web2) == "two"
    assert are_equal(pair)
    assert gate_log(pair.web2) == []


def test_a_broken_edit_is_refused_and_a_refused_reload_undone(closed: Resident) -> None:
    pair = closed.pair
    write_tree(pair.web1, ROOT, site("good"))
    assert closed.sync(by_person=True).exit == 0
    before = manifest_of(pair.web2)
    with socket_on(pair, 8081):
        write_tree(
            pair.web1, ROOT, {"conf/vhosts/taken.conf": "server { listen 8081; server_name t; return 200 't'; }\n"}
        )
        undone = closed.sync()
    assert (undone.exit, undone.outcome) == (6, "undone"), undone
    assert manifest_of(pair.web2) == before
    assert served(pair.web2) == "good"
    pair.web1.path(f"{ROOT}/conf/vhosts/taken.conf").unlink()
    write_tree(pair.web1, ROOT, {"conf/vhosts/only-there.conf": "include /etc/only-on-web1.conf;\n"})
    pair.web1.path("/etc/only-on-web1.conf").write_text("# nothing\n")
    refused = closed.sync(by_person=True)
    assert (refused.exit, refused.outcome) == (5, "refused"), refused
    assert manifest_of(pair.web2) == before
    assert gate_log(pair.web2) == []


def socket_on(pair: Pair, port: int) -> socket.socket:
    taken = pair.web2.socket()
    taken.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # who listened there a moment ago may have left a TIME_WAIT
    taken.bind(("0.0.0.0", port))
    taken.listen()
    return taken


def test_every_command_of_the_master_works(pair: Pair) -> None:
    close_door(pair)
    assert pair.ngxsync("sync", "--yes").returncode == 0
    write_tree(pair.web1, ROOT, site("next"))
    assert pair.ngxsync("diff").returncode == 1
    assert pair.ngxsync("sync", "--dry-run").returncode == 0
    assert pair.ngxsync("sync").returncode == 0
    assert pair.ngxsync("status").returncode == 0
    reload(pair.web1)
    ready = pair.ngxsync("ready", "--probe")
    assert (ready.returncode, ready.stdout) == (0, "web1 -> web2: ready, proven just now, probed just now\n")
    checked = pair.ngxsync("check")
    assert checked.returncode == 0, checked.stdout
    assert "both ssh stacks: OK (root@web2 by fabric and by OpenSSH)" in checked.stdout
    assert "behind its gate" in checked.stdout
    assert gate_log(pair.web2) == []


def test_trees_of_any_name_have_their_stages(pair: Pair) -> None:
    trees = [ROOT, "/srv/a b", "/srv/it's $(id) ä"]
    for tree in trees[1:]:
        for host in pair.hosts:
            host.path(tree).mkdir()
        pair.web1.path(f"{tree}/file").write_text(tree)
    pair.write_config(sync="trees =\n  " + "\n  ".join(trees))
    close_door(pair, trees=trees)
    run = by_hand(pair, "--yes")
    assert (run.exit, run.outcome) == (0, "applied"), run
    for tree in trees[1:]:
        assert pair.web2.path(f"{tree}/file").read_text() == tree
    assert gate_log(pair.web2) == []


def test_a_state_folder_behind_a_link_is_the_one_that_is_asked_for(pair: Pair) -> None:
    pair.web2.path("/srv/really").mkdir(mode=0o700)
    os.symlink("/srv/really", pair.web2.path("/srv/state"))
    pair.write_config(peer="state_dir = /srv/state")
    pair.web2.run(["true"])
    install_agent_behind(pair)
    run = by_hand(pair, "--yes")
    assert (run.exit, run.outcome) == (0, "in-sync"), run


def install_agent_behind(pair: Pair) -> None:
    """The link would lead this process into its own /srv: so it is filled where it leads."""
    close_door(pair, state="/srv/really")
    keys = pair.web2.path("/root/.ssh/authorized_keys")
    keys.write_text(keys.read_text().replace("/srv/really", "/srv/state"))


@pytest.mark.parametrize("protocol", [30, 31, 32])
def test_rsync_of_every_age_can_send(pair: Pair, protocol: int) -> None:
    """rsync 3.0 speaks 30, 3.1 to 3.3 speak 31: without the capabilities that either lacks."""
    close_door(pair)
    place = opened(pair)
    pair.web1.path("/srv/tree/sub").mkdir(parents=True)
    pair.web1.path("/srv/tree/sub/file").write_text("bytes")
    options = ["--files-from=-", "--from0", "--ignore-times", "--whole-file", "--no-implied-dirs"]
    options += ["--no-protect-args", "--timeout=30", "--stats", "--info=progress2", f"--protocol={protocol}"]
    shell = "--rsh=" + " ".join(["ssh", *key_options()])
    argv = ["rsync", *options, shell, "--", "/srv/tree/", f"root@web2:{place}"]
    done = pair.web1.run(argv, input="./sub/file\0", check=False)
    assert done.returncode == 0, done.stderr
    assert (stage_of(pair) / "sub/file").read_text() == "bytes"


SUDO = """\
Cmnd_Alias GATE = %s
Defaults!GATE env_keep += "SSH_ORIGINAL_COMMAND SSH_CONNECTION", !requiretty, !use_pty
deploy ALL = (root) NOPASSWD: GATE
"""


@pytest.fixture
def by_sudo(pair: Pair) -> Iterator[Resident]:
    """The key is in the hands of deploy on web2, whom one sudo rule lets start the gate as root."""
    close_door(pair)
    host = pair.web2
    host.run(["useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", "deploy"])
    keys = host.path("/root/.ssh/authorized_keys")
    keys.write_text(keys.read_text().replace('command="', 'command="sudo -n '))
    host.run(["install", "-d", "-m", "0700", "-o", "deploy", "/home/deploy/.ssh"])
    host.run(["install", "-m", "0600", "-o", "deploy", KEYS, "/home/deploy/.ssh/authorized_keys"])
    rule = host.path("/etc/sudoers.d/ngxsync-test")
    rule.write_text(SUDO % " ".join(gate_argv(public_key(pair))))
    rule.chmod(0o440)
    pair.write_config(peer="user = deploy")
    with resident(pair) as process:
        yield process
    rule.unlink()
    host.kill_all_but_sshd()
    host.run(["userdel", "--remove", "deploy"])


def test_owners_count_where_the_agent_is_root_by_sudo(by_sudo: Resident) -> None:
    """It is learnt from the first scan, and asked no second time."""
    pair = by_sudo.pair
    owned = pair.web1.path(f"{ROOT}/html/index.html")
    os.chown(owned, 33, 33)
    first = by_sudo.sync(by_person=True)
    assert (first.exit, first.outcome) == (0, "applied"), first
    assert manifest_of(pair.web1) == manifest_of(pair.web2)
    assert pair.web2.path(f"{ROOT}/html/index.html").stat().st_uid == 33
    os.chown(owned, 0, 0)
    write_tree(pair.web1, ROOT, {"html/odd name.html": "x"})
    second = by_sudo.sync()
    assert (second.exit, second.outcome) == (0, "applied"), second
    assert are_equal(pair)
    assert json.loads(pair.web1.path(f"{STATE}/master/peers/web2.json").read_text())["is_root"] is True
    checked = pair.ngxsync("check")
    assert "both ssh stacks: OK (deploy@web2 by fabric and by OpenSSH)" in checked.stdout, checked.stdout
    assert "rights: OK (deploy may write everything and set owners)" in checked.stdout, checked.stdout
    assert gate_log(pair.web2) == []


# what must not


COMMANDS = {
    "id": "id",
    "shell": "sh",
    "sftp server": "/usr/lib/openssh/sftp-server",
    "old scp": "scp -t /etc",
    "old scp reads": "scp -f /etc/shadow",
    "more than a call": agent_call("hello") + "; id",
    "a call in a shell": "sh -c " + shlex.quote(agent_call("hello")),
    "two lines": agent_call("hello") + "\nid",
    "another environment": "env LD_PRELOAD=/tmp/x " + agent_call("hello"),
    "an upload": "env LC_ALL=C.UTF-8 /usr/bin/python3 -I -S -c 'import os; os.system(\"id\")' install",
    "a verb of the installer": agent_call("install"),
    "a verb for the master alone": agent_call("validate"),
    "rsync sends": "rsync --server --sender -WIRe.LsfxCIvu . /etc",
    "rsync sends the stage": RECEIVE.replace("--server", "--server --sender") + " 00000001-mallory/0/",
    "rsync to a path": f"{RECEIVE} /etc/",
    "rsync up from the stage": f"{RECEIVE} 00000001-mallory/0/../",
    "rsync into another's stage": f"{RECEIVE} 00000001-another/0/",
    "rsync into a second stage": f"{RECEIVE} 00000001-mallory/1/",
    "rsync with a log file": f"{RECEIVE.replace(' .', ' --log-file=/etc/evil .')} 00000001-mallory/0/",
    "rsync with links": f"{RECEIVE.replace('-WIRe', '-lWIRe')} 00000001-mallory/0/",
    "rsync with hidden words": "rsync --server -sWIRe.LsfxCIvu",
    "rsync as a daemon": "rsync --server --daemon .",
    "another rsync": RECEIVE.replace("rsync", "/tmp/rsync") + " 00000001-mallory/0/",
    "rsync and more": f"{RECEIVE} 00000001-mallory/0/; id",
}


def test_other_commands_are_refused_and_logged(pair: Pair) -> None:
    close_door(pair)
    opened(pair)
    before = everything(pair.web2)
    for count, (name, command) in enumerate(COMMANDS.items(), 1):
        done = ssh(pair, command)
        assert (name, done.returncode, done.stdout) == (name, REFUSED, "")
        assert done.stderr.startswith("ngxsync: refused: ")
        assert done.stderr.count("\n") == 1
        raise_if_not_refused(pair, before, "asked: " + command.split("\n")[0], count=count)


def test_no_command_and_a_terminal_get_no_shell(pair: Pair) -> None:
    close_door(pair)
    before = everything(pair.web2)
    assert ssh(pair, input="id\n").returncode == REFUSED
    with_terminal = ssh(pair, options=["-tt"], input="id\n")
    assert with_terminal.returncode == 255  # ssh itself goes no further without the terminal that it was told to have
    assert "PTY allocation request failed" in with_terminal.stderr
    assert "uid=" not in with_terminal.stdout
    # it sends its wish for a shell before it hears that there is no terminal: sshd may have passed it on
    raise_if_not_refused(pair, before, "no command: this key opens no shell; asked: nothing", count=range(1, 3))


def test_scp_and_sftp_are_refused_in_both_their_ways(pair: Pair) -> None:
    close_door(pair)
    pair.web1.path("/srv/file").write_text("x")
    before = everything(pair.web2)
    for count, argv in enumerate(
        (
            ["scp", *key_options(), "/srv/file", "root@web2:/etc/evil"],
            ["scp", "-O", *key_options(), "/srv/file", "root@web2:/etc/evil"],
            ["scp", "-O", *key_options(), "root@web2:/etc/shadow", "/srv/shadow"],
            ["sftp", *key_options(), "root@web2:/etc/shadow", "/srv/shadow"],
        ),
        1,
    ):
        assert pair.web1.run(argv, check=False).returncode != 0
        raise_if_not_refused(pair, before, count=count)
    assert not pair.web1.path("/srv/shadow").exists()


@pytest.fixture
def sshd_log(pair: Pair) -> Path:
    """What a second sshd on web2, port 2222, tells of its sessions."""
    close_door(pair)
    argv = ["/usr/sbin/sshd", "-f", "/etc/ssh/test_sshd_config", "-p", "2222", "-E", "/tmp/sshd.log"]
    pair.web2.run([*argv, "-o", "PidFile=/run/sshd2.pid", "-o", "LogLevel=VERBOSE"])
    known = pair.web1.path("/etc/ngxsync/known_hosts")
    known.write_text(known.read_text() + "[web2]:2222 " + known.read_text().partition(" ")[2])
    wait_until(lambda: pair.web2.path("/run/sshd2.pid").exists(), "the second sshd runs")
    return Path(pair.web2.path("/tmp/sshd.log"))


def test_no_port_is_forwarded(pair: Pair, sshd_log: Path) -> None:
    remote = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", "9999:127.0.0.1:22"]
    for options, said in ((["-W", "127.0.0.1:80"], "prohibited"), (remote, "remote port forwarding failed")):
        done = pair.web1.run(["ssh", *key_options(), "-p", "2222", *options, "root@web2"], check=False)
        assert done.returncode == 255
        assert said in done.stderr
    assert "refused local port forward: originator 127.0.0.1" in sshd_log.read_text()


def test_a_proxy_by_the_key_reaches_nothing(pair: Pair, sshd_log: Path) -> None:
    """-D, and -L, whose listening ends are on web1: the first connection through either ends."""
    forwards = ["-D", "127.0.0.1:1080", "-L", "127.0.0.1:8080:127.0.0.1:80"]
    with pair.web1.popen(["ssh", *key_options(), "-p", "2222", "-N", *forwards, "root@web2"]) as process:
        try:
            for port, greeting in ((1080, b"\4\1\0\x50\x7f\0\0\1\0"), (8080, b"GET / HTTP/1.0\r\n\r\n")):
                assert b"HTTP" not in talk(pair, port, greeting)
        finally:
            process.kill()
    assert "local port forward" in sshd_log.read_text().lower()


def talk(pair: Pair, port: int, greeting: bytes) -> bytes:
    def connected() -> socket.socket | None:
        sock = pair.web1.socket()
        try:
            sock.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            sock.close()
            return None
        return sock

    sock = wait_until(connected, "ssh listens")
    assert sock is not None
    with sock:
        sock.settimeout(10)
        try:
            sock.sendall(greeting)
            return sock.recv(100)
        except ConnectionResetError:
            return b""


def test_neither_an_agent_nor_a_display_is_forwarded(pair: Pair, sshd_log: Path) -> None:
    agent = pair.web1.popen(["ssh-agent", "-D", "-a", "/run/agent.sock"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: pair.web1.path("/run/agent.sock").exists(), "ssh-agent runs")
        argv = ["ssh", *key_options(), "-p", "2222", "-A", "-X", "-v", "root@web2", agent_call("hello")]
        done = pair.web1.run(
            argv, input="{}\n", check=False, env={"SSH_AUTH_SOCK": "/run/agent.sock", "DISPLAY": "127.0.0.1:0"}
        )
    finally:
        pair.web1.signal_to(agent, 15)
        agent.wait(45)
    assert json.loads(done.stdout)["ok"] is True  # the call itself is one of ours
    assert not list(pair.web2.path("/tmp").glob("ssh-*"))
    assert "X11 forwarding request failed" in done.stderr


def test_variables_of_the_client_change_nothing(pair: Pair) -> None:
    """Debian's sshd takes LC_*: names of files are UTF-8 for the agent whatever the client says."""
    close_door(pair)
    config = pair.web2.path("/etc/ssh/test_sshd_config")
    before = config.read_text()
    write_tree(pair.web2, ROOT, {"html/ä.html": "x"})
    argv = ["/usr/sbin/sshd", "-f", "/etc/ssh/test_sshd_config", "-p", "2222", "-o", "AcceptEnv=*"]
    pair.web2.run([*argv, "-o", "PidFile=/run/sshd2.pid"])
    known = pair.web1.path("/etc/ngxsync/known_hosts")
    known.write_text(known.read_text() + "[web2]:2222 " + known.read_text().partition(" ")[2])
    wait_until(lambda: pair.web2.path("/run/sshd2.pid").exists(), "the second sshd runs")
    sent = {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1", "PATH": "/srv/evil:/usr/bin", "SUDO_USER": "mallory"}
    options = [word for name in sent for word in ("-o", f"SendEnv={name}")]
    argv = ["ssh", *key_options(), "-p", "2222", *options, "root@web2", agent_call("scan")]
    done = pair.web1.run(
        ["env", *(f"{name}={value}" for name, value in sent.items()), *argv], input=json.dumps(request())
    )
    assert f"{ROOT}/html/ä.html" in json.loads(done.stdout)["changed"]
    assert config.read_text() == before


REQUESTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "another tree to scan": (
        "scan",
        {"projection": {"trees": [{"path": "/etc", "exclude": []}], "owners": True}},
        "'/etc'",
    ),
    "another tree to stage": ("stage", {"run": "1-x", "trees": [ROOT, "/etc"]}, "'/etc'"),
    "a file outside": ("show", {"paths": [f"{ROOT}/conf/nginx.conf", "/etc/shadow"]}, "'/etc/shadow'"),
    "a file above": ("show", {"paths": [f"{ROOT}/../../../etc/shadow"]}, "etc/shadow"),
    "an answer elsewhere": ("show", {"run": "../../../etc/passwd"}, "etc/passwd"),
    "another state": ("status", {"state_dir": "/srv/state"}, "/srv/state"),
    "another journal": ("recover", {"state_dir": "/srv/state"}, "/srv/state"),
    "another nginx": ("facts", {"nginx": {**POLICY["nginx"], "binary": "/srv/evil"}}, "/srv/evil"),
    "another configuration": ("facts", {"nginx": {**POLICY["nginx"], "conf": "/etc/shadow"}}, "/etc/shadow"),
    "another reload": ("transact", {"run": "1-x", "nginx": {**POLICY["nginx"], "reload": "touch /srv/evil"}}, "touch"),
    "another probe": ("transact", {"run": "1-x", "nginx": {**POLICY["nginx"], "probe": "http://x/"}}, "http://x/"),
    "no settings": ("transact", {"run": "1-x", "nginx": {}}, "another nginx root"),
    "for ever": ("transact", {"run": "1-x", "nginx": {**POLICY["nginx"], "prove_timeout_s": 1e9}}, "1000000000.0"),
}


def test_a_request_beyond_the_policy_is_refused(pair: Pair) -> None:
    close_door(pair)
    before = everything(pair.web2)
    for count, (name, (verb, more, text)) in enumerate(REQUESTS.items(), 1):
        status, answer, said = ask(pair, verb, **more)
        assert (name, status, answer["ok"], answer["code"]) == (name, REFUSED, False, "gate")
        assert text in answer["message"]["what"]
        assert answer["message"]["where"] == policy_path(public_key(pair))
        assert answer["message"]["state"] == "unchanged"
        assert "ngxsync peer install" in answer["message"]["next"]
        assert said.startswith("ngxsync: refused: ")
        raise_if_not_refused(pair, before, text[:12], count=count)


def test_the_master_says_what_to_do(closed: Resident) -> None:
    """web1's configuration changed since web2's door was made."""
    pair = closed.pair
    assert closed.sync(by_person=True).exit == 0
    pair.write_config(peer="reload = systemctl reload nginx")
    write_tree(pair.web1, ROOT, site("next"))
    before = manifest_of(pair.web2)
    done = pair.ngxsync("sync")
    assert done.returncode == 4
    assert "the gate of web2 refused it: " in done.stderr + done.stdout
    assert "ngxsync peer install web2" in done.stderr + done.stdout
    assert by_hand(pair).code == "gate"
    assert manifest_of(pair.web2) == before
    pair.write_config()
    assert (closed.sync().exit, served(pair.web2)) == (0, "next")


NO_POLICY = ("missing", "open", "open folder", "a linked folder", "cut off", "no object", "a link", "of another key")


@pytest.mark.parametrize("damage", [*NO_POLICY, "none named"])
def test_without_a_policy_nothing_passes(pair: Pair, damage: str) -> None:
    close_door(pair)
    policy = pair.web2.path(policy_path(public_key(pair)))
    text = policy.read_text()
    if damage == "open":
        policy.chmod(0o666)
    elif damage == "open folder":
        policy.parent.chmod(0o775)
    elif damage == "a linked folder":
        policy.parent.rename(policy.parent.with_name("real"))
        policy.parent.symlink_to("real")
    elif damage == "of another key":
        policy.rename(policy.with_name(f"{'0' * 64}.json"))
    elif damage == "none named":
        keys = pair.web2.path(KEYS)
        keys.write_text(keys.read_text().replace(f" {policy.stem}", ""))
    elif damage in ("missing", "a link"):
        policy.rename(policy.with_name("real"))
        if damage == "a link":
            policy.symlink_to("real")
    else:
        policy.write_text(text[:20] if damage == "cut off" else "[1]")
    done = ssh(pair, agent_call("hello"), input="{}\n")
    assert (done.returncode, done.stdout) == (REFUSED, "")
    assert "the policy" in done.stderr or "no policy" in done.stderr
    assert gate_log(pair.web2)
    checked = pair.ngxsync("check")
    assert checked.returncode == 1
    assert "ngxsync peer install web2" in checked.stdout


# a thief who speaks rsync's own language


EVIL_SHELL = """#!/bin/sh
# says to the gate what it wants to hear, whatever rsync on this side is about to send
exec ssh {options} root@web2 '{receive} {place}'
"""


def steal(pair: Pair, place: str, *options: str) -> subprocess.CompletedProcess[str]:
    """rsync on web1 with any options, its words replaced by the ones that the gate lets through."""
    shell = pair.web1.path("/srv/shell")
    shell.write_text(EVIL_SHELL.format(options=shlex.join(key_options()), receive=RECEIVE, place=place))
    shell.chmod(0o755)
    # two that do not understand each other wait for each other
    argv = ["timeout", "3", "rsync", "--rsh=/srv/shell", *options, "/srv/evil/", "web2:x"]
    return pair.web1.run(argv, check=False)


@pytest.mark.parametrize("options", ["-RWIl", "-RWIrlptgoD", "-RWIrlK", "-WIrl"])
def test_a_link_that_is_sent_leads_nowhere(pair: Pair, options: str) -> None:
    close_door(pair)
    place = opened(pair)
    evil = pair.web1.path("/srv/evil")
    evil.mkdir()
    os.symlink("/etc", evil / "x")
    before = everything(pair.web2, "/etc", "/root/.ssh", f"{ROOT}/conf", STATE)
    steal(pair, place, options)
    (evil / "x").unlink()
    (evil / "x").mkdir()
    (evil / "x/evil").write_text("evil")
    steal(pair, place, options)
    steal(pair, place, options, "--keep-dirlinks", "--inplace")
    assert everything(pair.web2, "/etc", "/root/.ssh", f"{ROOT}/conf", STATE) == before
    assert not [path for path in stage_of(pair).rglob("*") if path.is_symlink()]


def test_a_link_that_lies_in_the_stage_is_not_followed(pair: Pair) -> None:
    """As if somebody had got it there by another way: the kernel lets this rsync write below the stage alone."""
    close_door(pair)
    place = opened(pair)
    os.symlink("/etc", stage_of(pair) / "x")
    evil = pair.web1.path("/srv/evil/x")
    evil.mkdir(parents=True)
    (evil / "evil").write_text("evil")
    before = everything(pair.web2, "/etc")
    for options in (["-RWI", "--files-from=/srv/names", "--no-implied-dirs"], ["-RWIr"], ["-RWIr", "--keep-dirlinks"]):
        pair.web1.path("/srv/names").write_text("./x/evil\n")
        steal(pair, place, *options)
    assert everything(pair.web2, "/etc") == before


def test_a_stage_that_was_replaced_by_a_link_is_not_entered(pair: Pair) -> None:
    close_door(pair)
    place = opened(pair)
    stage = stage_of(pair)
    stage.rename(stage.with_name("moved"))
    os.symlink("/etc", stage)
    evil = pair.web1.path("/srv/evil")
    evil.mkdir()
    (evil / "evil").write_text("evil")
    before = everything(pair.web2, "/etc")
    done = steal(pair, place, "-RWIr")
    assert "ngxsync: refused: the stage of run 00000001-mallory cannot be filled" in done.stderr
    assert everything(pair.web2, "/etc") == before
    assert gate_log(pair.web2)


@pytest.mark.parametrize("options", [["-a", "--delete"], ["-WIR", "--remove-source-files"], ["-aHAXS"], ["-z"]])
def test_another_language_than_ours_fills_nothing_but_the_stage(pair: Pair, options: list[str]) -> None:
    close_door(pair)
    place = opened(pair)
    evil = pair.web1.path("/srv/evil")
    evil.mkdir()
    (evil / "evil").write_text("evil" * 1000)
    before = everything(pair.web2, "/etc", "/root/.ssh", f"{ROOT}/conf", STATE)
    steal(pair, place, *options)
    assert everything(pair.web2, "/etc", "/root/.ssh", f"{ROOT}/conf", STATE) == before


def test_rsync_by_the_key_reaches_no_other_place(pair: Pair) -> None:
    """As rsync itself is called, with every way to name another program or place."""
    close_door(pair)
    opened(pair)
    pair.web1.path("/srv/evil").mkdir()
    pair.web1.path("/srv/evil/evil").write_text("evil")
    shell = "--rsh=" + shlex.join(["ssh", *key_options()])
    tries = [
        ["-a", "/srv/evil/", "root@web2:/etc/"],
        ["-a", "--protect-args", "/srv/evil/", "root@web2:/etc/"],
        ["-a", "root@web2:/etc/shadow", "/srv/got"],
        ["-a", "--rsync-path=touch /srv/evil; rsync", "/srv/evil/", "root@web2:/srv/"],
        ["-a", "--rsync-path=sudo rsync", "/srv/evil/", "root@web2:/srv/"],
        ["-WIRr", "-M--log-file=/srv/evil", "/srv/evil/", "root@web2:00000001-mallory/0/"],
        ["-WIRr", "-M--sender", "/srv/evil/", "root@web2:00000001-mallory/0/"],
    ]
    before = everything(pair.web2)
    for count, words in enumerate(tries, 1):
        assert pair.web1.run(["rsync", shell, *words], check=False).returncode != 0
        raise_if_not_refused(pair, before, count=count)
    assert not pair.web1.path("/srv/got").exists()


def test_the_stage_of_another_keys_run_takes_nothing(pair: Pair) -> None:
    """Two masters, two trees: the one's key fills no stage that the other has opened in its own."""
    close_door(pair)
    place = opened(pair)
    write_policy(pair.web2, public_key(pair), trees=["/srv/other"])
    pair.web1.path("/srv/evil").mkdir()
    pair.web1.path("/srv/evil/evil").write_text("evil")
    before = everything(pair.web2)
    done = steal(pair, place, "-RWIr")
    assert "ngxsync: refused: run 00000001-mallory has no stage in a tree of this key" in done.stderr
    raise_if_not_refused(pair, before, "no stage in a tree of this key")


def test_the_stage_of_a_run_that_ended_takes_nothing(closed: Resident) -> None:
    pair = closed.pair
    write_tree(pair.web1, ROOT, site("one"))
    assert closed.sync(by_person=True).exit == 0
    run = json.loads(pair.web2.path(f"{STATE}/peer/accepted.json").read_text())["run"]
    assert left_in_stages(pair.web2) == []
    before = everything(pair.web2)
    done = ssh(pair, f"{RECEIVE} {run}/0/")
    assert (done.returncode, done.stderr) == (REFUSED, f"ngxsync: refused: run {run} has no open stage here\n")
    raise_if_not_refused(pair, before, f"run {run} has no open stage")


def test_the_log_stays_small_and_says_nothing_to_a_terminal(pair: Pair) -> None:
    close_door(pair)
    log = pair.web2.path(f"{STATE}/peer/gate.log")
    ssh(pair, "\x1b]0;owned\x07\nrefused 192.0.2.99: forged é \\x1b")
    (line,) = gate_log(pair.web2)
    assert line.isascii()
    assert line.isprintable()
    assert r"\x1b]0;owned\x07\x0arefused" in line
    ssh(pair, "x" * 100_000)
    assert len(gate_log(pair.web2)[-1]) < 700
    log.write_text("x" * (512 * 1024))
    ssh(pair, "id")
    assert not log.exists()
    assert log.with_name("gate.log.1").stat().st_size > 512 * 1024
    ssh(pair, "id")
    assert len(gate_log(pair.web2)) == 1


SYSLOG = """
mkdir -p /run/dev && for name in null zero urandom; do touch /run/dev/$name; mount --bind /dev/$name /run/dev/$name; done
mount --bind /run/dev /dev
python3 - "$1" "$2" <<'END'
import os, socket, subprocess, sys
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); log.bind("/dev/log"); log.settimeout(10)
env = dict(os.environ, SSH_ORIGINAL_COMMAND=sys.argv[2], SSH_CONNECTION="192.0.2.7 4711 192.0.2.2 22")
argv = sys.argv[1].split()
subprocess.run(argv, env=env, input=b'{}\\n', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(log.recv(4096).decode())
END
"""


@pytest.mark.parametrize(
    ("command", "priority", "text"),
    [
        ("id", 10 * 8 + 4, "refused 192.0.2.7:4711: neither a call of the agent nor a transfer into the open stage"),
        (agent_call("hello"), 10 * 8 + 6, "192.0.2.7:4711: hello"),
    ],
    ids=["refused", "accepted"],
)
def test_syslog_hears_of_both(pair: Pair, command: str, priority: int, text: str) -> None:
    """authpriv is facility 10; warning is 4, info 6."""
    close_door(pair)
    done = pair.web2.run(
        ["unshare", "--mount", "sh", "-ec", SYSLOG, "sh", " ".join(gate_argv(public_key(pair))), command]
    )
    assert done.stdout.startswith(f"<{priority}>")
    assert "ngxsync-gate[" in done.stdout
    assert text in done.stdout


def test_a_policy_is_read_anew_by_each_session(pair: Pair) -> None:
    close_door(pair)
    assert ask(pair, "status")[0] == 0
    write_policy(pair.web2, public_key(pair), trees=["/srv/other"])
    assert ask(pair, "scan")[0] == REFUSED
    assert Path(pair.web1.path(KEY)).exists()


def test_a_record_of_the_stage_that_a_power_cut_left_empty_locks_nobody_out(closed: Resident) -> None:
    pair = closed.pair
    assert closed.sync(by_person=True).exit == 0
    pair.web2.path(f"{STATE}/peer/stage.json").write_text("")
    write_tree(pair.web1, ROOT, site("after"))
    assert closed.sync().outcome == "applied"
    assert served(pair.web2) == "after"
    assert gate_log(pair.web2) == []


def test_an_agent_that_is_gone_comes_back_by_peer_install(pair: Pair) -> None:
    close_door(pair)
    assert pair.ngxsync("sync", "--yes").returncode == 0
    pair.web2.run(["rm", "-r", f"{STATE}/agent"])
    gone = pair.ngxsync("sync")
    assert gone.returncode == 4
    assert "next: ngxsync peer install web2\n" in gone.stderr


def test_a_daemon_goes_on_by_itself_when_an_agent_that_was_gone_is_there_again(closed: Resident) -> None:
    pair = closed.pair
    assert closed.sync(by_person=True).exit == 0
    pair.web2.run(["mv", f"{STATE}/agent", "/srv/agent"])
    write_tree(pair.web1, ROOT, site("again"))
    assert [closed.sync().code, closed.sync().code] == ["agent", "agent"]
    pair.web2.run(["mv", "/srv/agent", f"{STATE}/agent"])
    assert closed.sync().outcome == "applied"
    assert served(pair.web2) == "again"


def test_to_keep_less_is_refused_by_the_name_of_the_option(pair: Pair) -> None:
    close_door(pair, keep={"runs": 20, "for_s": 1209600.0, "size": 2 << 30})
    assert pair.ngxsync("sync", "--yes").returncode == 0
    pair.write_config(sync="keep_size = 1M")
    refused = pair.ngxsync("sync")
    assert refused.returncode == 4
    why = "the gate of web2 refused it: to keep less than was installed: keep_size in bytes: 1048576, 2147483648 was installed\n"
    assert why in refused.stderr
    assert "ngxsync peer install web2\n" in refused.stderr

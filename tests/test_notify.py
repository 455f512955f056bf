"""notify: what keepalived says of a change of state, told at once, worked on by what is found here (real nginx, real fifo)."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ngxsync.agent.notice import parse_word
from tests.agent import Agent, agent_argv
from tests.host import PATIENCE_S
from tests.hosts import PROJECT, Host, wait_until
from tests.installed import AGENT, PYTHON, STATE, check_nginx, install_agent, notify
from tests.moments import JOURNAL, kill_run, let_go_on, stop_at
from tests.pair import ROOT, Pair
from tests.test_liveness import HOLD

VIP = "192.0.2.100"
NOTES = "/run/ngxsync-agent"
FIFO = "/run/keepalived.fifo"
VHOST = f"{ROOT}/conf/vhosts/default.conf"
SENDER = "/usr/local/bin/ngxsync"
# a daemon as far as the agent knows one: its record, and what it does at SIGUSR1
DAEMON = """
import json, os, signal, sys
if sys.argv[2] == "takes it":
    signal.signal(signal.SIGUSR1, lambda *_: print("woken", flush=True))
ticks = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)
json.dump({"pid": os.getpid(), "since": 0.0, "start_ticks": ticks}, open(sys.argv[1], "w"))
print("up", flush=True)
while True:
    signal.pause()
"""

# quick: what an advert a second takes seconds for is over in half of one
KEEPALIVED = f"""\
global_defs {{
    vrrp_version 3
    script_user root
    enable_script_security
    vrrp_notify_fifo {FIFO}
    vrrp_notify_fifo_script "{AGENT} notify --vip {VIP} --fifo"
}}
vrrp_instance VI_1 {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority 100
    advert_int 0.1
    virtual_ipaddress {{
        {VIP}/24
    }}
}}
"""


@pytest.fixture
def host(pair: Pair) -> Host:
    """A peer of an accepted snapshot, whose VIP is not here."""
    install_agent(pair.web2)
    return pair.web2


def give(host: Host, vip: str = VIP) -> None:
    host.run(["ip", "addr", "add", f"{vip}/24", "dev", "eth0"])


def take(host: Host, vip: str = VIP) -> None:
    host.run(["ip", "addr", "del", f"{vip}/24", "dev", "eth0"])


def say(host: Host, state: str, *, name: str = "VI_1", kind: str = "INSTANCE") -> None:
    """As keepalived calls it; it returns at once."""
    began = time.monotonic()
    done = notify(host, "--vip", VIP, kind, name, state, "100")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - began < 10.0, "keepalived is held up by nothing that is waited for here"


def is_at_work(host: Host) -> bool:
    return any("agent/current notify" in line and "--fifo" not in line for line in host.commands().values())


def settle(host: Host) -> None:
    """Until all that was handed on is done."""
    wait_until(lambda: not is_at_work(host), "what follows a word has ended")


def events(host: Host) -> list[dict[str, Any]]:
    folder = host.path(f"{STATE}/spool/new")
    return [json.loads(file.read_text()) for file in sorted(folder.glob("[0-9]*.json"))] if folder.exists() else []


def told(host: Host) -> list[str]:
    """The events in order: a role, or the word of a failure."""
    return [event.get("role") or event["word"] for event in events(host)]


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ('INSTANCE "VI_1" MASTER 100\n', ("INSTANCE", "VI_1", "master")),
        ("GROUP web site BACKUP", ("GROUP", "web site", "backup")),
        ("INSTANCE VI_1 FAULT 0", ("INSTANCE", "VI_1", "fault")),
        ('INSTANCE "a \\n b" STOP', ("INSTANCE", "a \\n b", "stop")),
        ('INSTANCE "the "big" one" MASTER 100', ("INSTANCE", 'the "big" one', "master")),
        ("INSTANCE VI MASTER 1 BACKUP 99", ("INSTANCE", "VI MASTER 1", "backup")),
        ("INSTANCE  STOP 0", ("INSTANCE", "", "stop")),
        ("GROUP STOP", ("GROUP", "", "stop")),
        (f"INSTANCE {' ' * 4000} x", None),
        ('VS "x" UP 1', None),
        ("INSTANCE VI_1 MASTER_RX_LOWER_PRI 100", None),
        ("INSTANCE", None),
        ("", None),
    ],
)
def test_a_word(text: str, role: tuple[str, str, str] | None) -> None:
    word = parse_word(text)
    assert (word and tuple(word[1:])) == role


def test_each_word_once_or_twice_in_any_order_by_what_is_found(host: Host) -> None:
    give(host)
    say(host, "MASTER")
    say(host, "MASTER", kind="GROUP", name="web")
    settle(host)
    say(host, "BACKUP")  # late: the address is here
    settle(host)
    assert told(host) == ["master"]
    assert events(host)[0]["vips"] == [VIP]
    assert events(host)[0]["instance"] in ("VI_1", "web")
    take(host)
    for state in ("BACKUP", "BACKUP", "FAULT", "STOP"):
        say(host, state)
        settle(host)
    assert told(host) == ["master", "backup", "fault", "stop"]
    say(host, "MASTER")  # it never came
    settle(host)
    assert told(host) == ["master", "backup", "fault", "stop"], "a word alone makes no master"
    assert json.loads(host.path(f"{STATE}/role.json").read_text())["role"] == "stop"


# as the daemon does it
LOOKS = f"""
import sys
from ngxsync.core.config import load_config
from ngxsync.edges.vip import Direction
text = "[peer web9]\\nhost = 192.0.2.9\\nidentity = /k\\n[vrrp]\\nvip = {VIP}\\n"
direction = Direction(load_config(text, "c.ini"), "web2", True)
standing = direction.standing()
print("found", bool(standing.tenure), flush=True)
direction.note(standing)
"""


@contextmanager
def held_role(host: Host) -> Iterator[Callable[[], bool]]:
    """Somebody else notes a role just now; whether anybody waits for that."""
    lock = host.path(f"{STATE}/role.lock")
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        about = re.compile(rf"-> FLOCK .*:{lock.stat().st_ino} ")
        yield lambda: bool(about.search(Path("/proc/locks").read_text()))


def noted(host: Host) -> str:
    return str(json.loads(host.path(f"{STATE}/role.json").read_text())["role"])


def test_a_vip_that_goes_while_a_role_waits_to_be_noted(host: Host) -> None:
    give(host)
    with held_role(host) as is_waited_for:
        say(host, "MASTER")
        wait_until(is_waited_for, "notify waits for the lock")
        take(host)
    settle(host)
    assert (told(host), noted(host)) == ([], "backup")


def test_a_vip_that_comes_while_a_role_waits_to_be_noted(host: Host) -> None:
    with held_role(host) as is_waited_for:
        say(host, "BACKUP")
        wait_until(is_waited_for, "notify waits for the lock")
        give(host)
    settle(host)
    assert (told(host), noted(host)) == (["master"], "master")


def test_a_vip_that_goes_while_the_daemon_waits_to_note_it(host: Host) -> None:
    give(host)
    with held_role(host) as is_waited_for:
        daemon = host.popen([sys.executable, "-c", LOOKS], env={"PYTHONPATH": str(PROJECT)}, stdout=subprocess.PIPE)
        wait_until(is_waited_for, "the daemon waits for the lock")
        take(host)
    assert daemon.communicate(timeout=PATIENCE_S)[0] == "found True\n"
    assert (told(host), noted(host)) == ([], "backup")


def is_worked_on(host: Host) -> bool:
    words = [json.loads(file.read_text())[0] for file in host.path(NOTES).glob("notify.*.word")]
    done = [float(file.read_text()) for file in host.path(NOTES).glob("notify.*.done")]
    return sorted(done) == sorted(words) != []


def test_a_word_about_an_instance_with_other_addresses_is_none_about_ours(host: Host) -> None:
    """A fifo is told of all instances, and of their groups."""
    conf = INSTANCES.format("OURS", f"{VIP}/24") + INSTANCES.format("THEIRS", "192.0.2.150/24")
    conf += "".join(f"vrrp_sync_group G_{each} {{\n group {{\n {each}\n }}\n}}\n" for each in ("OURS", "THEIRS"))
    host.path("/etc/keepalived").mkdir(exist_ok=True)
    host.path("/etc/keepalived/keepalived.conf").write_text(conf)
    for words, role in (
        ("INSTANCE OURS BACKUP 99", "backup"),
        ("INSTANCE THEIRS FAULT 99", "backup"),
        ("GROUP G_THEIRS FAULT", "backup"),
        ("GROUP G_OURS FAULT", "fault"),
        ("INSTANCE THEIRS BACKUP 99", "fault"),
        ("INSTANCE OURS STOP 99", "stop"),
    ):
        notify(host, "--vip", VIP, *words.split())
        wait_until(lambda: is_worked_on(host), "it is worked on")
        assert json.loads(host.path(f"{STATE}/role.json").read_text())["role"] == role, words
    assert told(host) == ["backup", "fault", "stop"]


def test_a_new_master_s_nginx_runs_what_is_on_its_disk(host: Host) -> None:
    """Dead it is started; with files that it has not read it reads them; one that runs them is left alone."""
    give(host)
    host.stop_nginx()
    say(host, "MASTER")
    settle(host)
    assert host.get("/")[0] == 200
    main = host.nginx_main()
    wait_until(lambda: time.time() > host.path(VHOST).stat().st_ctime + 0.1, "a moment later")
    vhost = host.path(VHOST)
    good = vhost.read_text()
    vhost.write_text(good.replace("$hostname", "edited"))
    say(host, "MASTER")
    settle(host)
    assert host.get("/hostname") == (200, "edited\n")
    assert (host.reload_count(), host.nginx_main()) == (1, main)
    say(host, "MASTER")
    settle(host)
    assert host.reload_count() == 1, "one that is proven to run it is not reloaded"
    assert told(host) == ["master"]

    vhost.write_text(good + "nonsense;\n")
    for _ in range(2):
        say(host, "MASTER")
        settle(host)
    assert told(host) == ["master", "stale-running"], "told once"
    failure = events(host)[1]
    assert (failure["kind"], failure["peer"], failure["code"], failure["exit"]) == ("failure", "", "stale-running", 1)
    assert 'unknown directive "nonsense"' in failure["what"]
    assert failure["state"]
    assert failure["next"]
    host.stop_nginx()
    say(host, "MASTER")
    settle(host)
    assert told(host) == ["master", "stale-running", "nginx-down"]
    assert f"{VHOST}:9" in events(host)[2]["what"]
    take(host)
    say(host, "BACKUP")
    settle(host)
    assert host.nginx_main() is None, "on a backup nothing is started by a word"


def test_nginx_is_the_one_that_check_nginx_looks_after(host: Host) -> None:
    """Another root, named by check-nginx alone: its note says so."""
    host.stop_nginx()
    host.run(["cp", "-a", ROOT, "/srv/nginx"])
    assert check_nginx(host, "--root", "/srv/nginx", "--interval", "30").returncode == 0
    host.stop_nginx()
    give(host)
    say(host, "MASTER")
    settle(host)
    main = host.nginx_main()
    assert main is not None
    assert "/srv/nginx/conf/nginx.conf" in host.commands()[main]


def test_what_is_open_is_undone_on_a_backup_too(host: Host) -> None:
    agent = Agent(host)
    assert agent.transact(agent.plan({"html/a": "a\n"}))["ok"]
    files: dict[str, Any] = {f"html/n{number}.html": "new\n" for number in range(8)}
    with stop_at("between-exchanges", host, agent_argv("transact"), agent.plan(files)):
        kill_run(host)
    assert host.path(JOURNAL).exists()
    say(host, "BACKUP")
    settle(host)
    assert not host.path(JOURNAL).exists()
    assert agent.scan()["id"] == agent.scan()["accepted"]["id"]
    assert told(host) == ["backup"]


def waits_for_the_run(host: Host) -> bool:
    """What follows a word has come as far as nginx's files, and waits for who is at work on them."""
    opened = []
    for pid, line in host.commands().items():
        with suppress(OSError):  # it ends this moment
            fds = host.path(f"/proc/{pid}/fd").iterdir() if "agent/current notify" in line else ()
            opened += [os.readlink(fd) for fd in fds]
    return any(path.endswith("/peer/transaction.lock") for path in opened)


def test_a_run_at_work_is_left_to_its_owner_and_is_no_trouble(host: Host) -> None:
    """All is exchanged, and its owner is about to tell nginx when the VIP comes."""
    agent = Agent(host)
    assert agent.transact(agent.plan({"html/a": "a\n"}))["ok"]
    process = stop_at("signalled", host, agent_argv("transact"), agent.plan({"html/b": "b\n"}))
    try:
        give(host)
        say(host, "MASTER")
        wait_until(lambda: waits_for_the_run(host), "it waits for the end of the run")
    finally:
        let_go_on(host, process)
    settle(host)
    assert told(host) == ["master"]
    wait_until(lambda: not host.path(JOURNAL).exists(), "its owner has ended it")
    assert agent.scan()["id"] == agent.scan()["accepted"]["id"]


def test_a_run_that_dies_while_it_is_waited_for_is_undone_before_nginx_reads(host: Host) -> None:
    """The VIP comes in the middle of an exchange, and its owner is killed only then."""
    agent = Agent(host)
    assert agent.transact(agent.plan({"html/a": "a\n"}))["ok"]
    files: dict[str, Any] = {
        f"conf/vhosts/n{number}.conf": f"server {{ listen 80{number}; }}\n" for number in range(20, 28)
    }
    with stop_at("between-exchanges", host, agent_argv("transact"), agent.plan(files)):
        give(host)
        say(host, "MASTER")
        wait_until(lambda: waits_for_the_run(host), "it waits for the end of the run")
        kill_run(host)
    settle(host)
    assert not host.path(JOURNAL).exists()
    assert host.reload_count() == 2, "the accepted one, and the undone one: none of half a tree"
    assert agent.scan()["id"] == agent.scan()["accepted"]["id"]
    assert told(host) == ["master"]


def test_nothing_blocks_keepalived_and_the_newest_word_counts(host: Host) -> None:
    """The lock is held: four words wait, one of them is worked on."""
    say(host, "BACKUP")
    settle(host)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with host.popen([PYTHON, "-c", HOLD, f"{NOTES}/notify.lock"], **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for state in ("FAULT", "MASTER", "BACKUP", "STOP"):
            say(host, state)
        assert told(host) == ["backup"]
        holder.communicate()
    settle(host)
    assert told(host) == ["backup", "stop"]


@pytest.mark.parametrize("what", ["state", "notes"])
def test_a_disk_that_takes_nothing(host: Host, what: str) -> None:
    """No event can be left, or no note: nginx is looked after all the same, and keepalived told nothing else."""
    assert check_nginx(host).returncode == 0
    place = STATE if what == "state" else NOTES
    host.run(["mount", "--bind", place, place])
    host.run(["mount", "-o", "remount,bind,ro", place])
    try:
        give(host)
        vhost = host.path(VHOST)
        vhost.write_text(vhost.read_text().replace("$hostname", "edited"))
        if what == "state":
            host.stop_nginx()
        say(host, "MASTER")
        wait_until(lambda: host.nginx_main() and host.get("/hostname") == (200, "edited\n"), "nginx runs it")
        settle(host)
        assert told(host) == ([] if what == "state" else ["master"])
    finally:
        host.unmount(place)


# the daemon


def test_the_daemon_is_woken_and_an_older_one_left_alive(host: Host) -> None:
    record = f"{STATE}/master/daemon.json"
    for how in ("takes it", "would die of it"):
        with host.popen([PYTHON, "-c", DAEMON, record, how], stdout=subprocess.PIPE) as daemon:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "up\n"
            say(host, "BACKUP")
            if how == "takes it":
                assert daemon.stdout.readline() == "woken\n"
            settle(host)
            assert daemon.poll() is None
            host.signal_to(daemon, signal.SIGKILL)


def test_without_a_daemon_a_sender_is_started(host: Host) -> None:
    """A record of one that has ended is none."""
    host.path(f"{STATE}/master").mkdir()
    host.path(f"{STATE}/master/daemon.json").write_text('{"pid": 1, "since": 0, "start_ticks": 7}')
    host.path("/etc/ngxsync/config.ini").write_text("")
    host.path(SENDER).write_text('#!/bin/sh\necho "$@" >>/srv/asked\n')
    host.path(SENDER).chmod(0o755)
    try:
        say(host, "BACKUP")
        wait_until(host.path("/srv/asked").exists, "the sender is started")
        settle(host)
    finally:
        host.path(SENDER).unlink()
    assert set(host.path("/srv/asked").read_text().splitlines()) == {"notify --flush"}


# the fifo


@pytest.fixture
def reader(host: Host) -> Any:
    host.run(["mkfifo", FIFO])
    with host.popen([AGENT, "notify", "--vip", VIP, "--fifo", FIFO], stderr=subprocess.PIPE) as process:
        yield process
        host.signal_to(process, signal.SIGKILL)


def written(host: Host, text: bytes) -> None:
    with host.path(FIFO).open("wb", buffering=0) as stream:
        stream.write(text)


def test_a_reader_takes_line_after_line(host: Host, reader: subprocess.Popen[str]) -> None:
    """Garbage is left out; a release that takes its place meanwhile takes the next words; it ends with its fifo."""
    with host.path(FIFO).open("wb", buffering=0) as stream:
        stream.write(b'INSTANCE "VI_1" BACKUP 99\n')
        wait_until(lambda: told(host) == ["backup"], "the first word is told")
        settle(host)
        old = host.path(f"{STATE}/agent") / os.readlink(host.path(f"{STATE}/agent/current"))
        replace_release(old)
        stream.write(
            b"\xff\xfe garbage\n\n" + b"x" * 9000 + b'\nINSTANCE "VI_1" MASTER_RX_LOWER_PRI 9\nINSTANCE "VI_1" FAU'
        )
        stream.write(b"LT 99\n")
        wait_until(lambda: told(host) == ["backup", "fault"], "the next word is told")
        settle(host)
        give(host)
        stream.write(b'GROUP "web" MASTER 100\nINSTANCE "VI_1" MASTER 100\n')
        wait_until(lambda: told(host) == ["backup", "fault", "master"], "the last is told")
    assert reader.wait(45) == 0
    settle(host)
    assert told(host) == ["backup", "fault", "master"]


def replace_release(old: Path) -> None:
    """As a day after `peer install` of another release: its folder is another one, and the old is gone."""
    new = old.with_name("0123456789abcdef")
    shutil.copytree(old, new)
    link = new.with_name("next")
    link.symlink_to(new.name)
    link.rename(new.with_name("current"))
    shutil.rmtree(old)


def test_a_reader_that_is_ended_takes_what_was_said_before(host: Host, reader: subprocess.Popen[str]) -> None:
    with host.path(FIFO).open("wb", buffering=0) as stream:
        stream.write(b'INSTANCE "VI_1" BACKUP 99\n')
        wait_until(lambda: told(host) == ["backup"], "the first word is told")
        stream.write(b'INSTANCE "VI_1" STOP 99\n')
        host.signal_to(reader, signal.SIGTERM)
        assert reader.wait(45) == 0
    wait_until(lambda: told(host) == ["backup", "stop"], "the last word is told")


INSTANCES = "vrrp_instance {0} {{\n virtual_ipaddress {{\n {1} dev eth0\n }}\n}}\n"


def test_of_a_burst_the_last_word_about_each_instance_counts(host: Host, reader: subprocess.Popen[str]) -> None:
    """Whatever other instances say, and however the processes that work on the words overtake each other."""
    conf = INSTANCES.format("OURS", f"{VIP}/24") + INSTANCES.format("THEIRS", "192.0.2.150/24")
    host.path("/etc/keepalived").mkdir(exist_ok=True)
    host.path("/etc/keepalived/keepalived.conf").write_text(conf)
    with host.path(FIFO).open("wb", buffering=0) as stream:
        for last in ("FAULT", "STOP"):
            burst = ["BACKUP", "FAULT", "STOP"] * 2 + [last]
            stream.write(
                "".join(f'INSTANCE "OURS" {state} 99\nINSTANCE "THEIRS" BACKUP 99\n' for state in burst).encode()
            )
            wait_until(lambda last=last: told(host)[-1:] == [last.lower()], "the last word is told")
            settle(host)
            assert (told(host)[-1], is_worked_on(host)) == (last.lower(), True), told(host)


def test_a_fifo_that_is_not_there(host: Host) -> None:
    done = notify(host, "--fifo", "/run/none")
    assert (done.returncode, done.stderr) == (1, "/run/none: No such file or directory\n")


def test_what_keepalived_itself_writes_into_its_fifo(host: Host) -> None:
    """Its reader is started with the fifo as its last argument; the last word comes when keepalived is ended."""
    host.path("/run/keepalived.conf").write_text(KEEPALIVED)
    with host.popen(["keepalived", "--dont-fork", "--use-file=/run/keepalived.conf"]) as keepalived:
        try:  # that it was a backup before is needless, where that word is still waiting
            wait_until(lambda: told(host)[-1:] == ["master"], "it became master")
        finally:
            host.signal_to(keepalived, signal.SIGTERM)
    wait_until(lambda: told(host)[-2:] == ["master", "stop"], "it was ended")
    wait_until(lambda: not any("--fifo" in line for line in host.commands().values()), "the reader ends with it")

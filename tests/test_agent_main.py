"""The agent as a program: detached from who called it, recovered by the code that began, and by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ngxsync.agent import journal, unit, verbs
from ngxsync.agent.answers import Failure
from ngxsync.agent.oldagents import remove_old_agents
from tests.agent import STATE, Agent, agent_argv
from tests.hosts import PROJECT, Host, wait_until
from tests.pair import ROOT, Pair, manifest_of
from tests.test_apply import applied, left_behind, live, planned

VHOST = "server { listen 80; server_name v; return 200 new; }\n"


@pytest.fixture
def agent(pair: Pair) -> Agent:
    agent = Agent(pair.web2)
    assert agent.transact(agent.plan({}))["outcome"] == "in-sync"
    return agent


def begun(agent: Agent, request: dict[str, Any], **options: Any) -> subprocess.Popen[str]:
    """A transaction that has read its request and is at work."""
    process = agent.host.popen(agent_argv("transact"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    assert process.stdin is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    journal = agent.host.path(f"{STATE}/peer/journal")
    wait_until(journal.exists, "the transaction has begun", every_s=0.001)
    return process


def ended(agent: Agent, run: str) -> dict[str, Any]:
    def answer() -> dict[str, Any]:
        shown = agent.call("show", run=run)
        return dict(shown["answer"]) if shown["state"] == "done" else {}

    return wait_until(answer, f"run {run} is done")


def test_a_run_whose_process_died_says_what_to_do() -> None:
    with pytest.raises(Failure) as caught:
        verbs.detached(lambda: os._exit(1))
    message = caught.value.message
    assert message["state"] == "unknown until it is recovered"
    assert message["next"] == "`ngxsync-agent recover` here, or the next run, finishes or undoes what it began"


def test_what_an_open_run_began_ends_by_one_verb_only() -> None:
    done = subprocess.run(agent_argv("undo"), capture_output=True, text=True, check=False, input="")
    assert (done.returncode, done.stderr) == (2, "usage: ngxsync-agent status | recover [--json]\n")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_its_help_ends_with_an_example_and_the_exit_statuses(option: str) -> None:
    done = subprocess.run(agent_argv(option), capture_output=True, text=True, check=False, input="")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nExample:\n  ngxsync-agent " in done.stdout
    assert "\nExit statuses:\n  0  " in done.stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_a_transaction_outlives_the_connection(agent: Agent, number: int) -> None:
    """The process that sshd started dies in the middle; nobody is left to tell."""
    request = agent.plan({"conf/vhosts/v.conf": VHOST})
    process = begun(agent, request)
    agent.host.signal_to(process, number)
    process.communicate()
    answer = ended(agent, request["run"])
    assert answer["outcome"] == "applied"
    assert manifest_of(agent.host) == planned(request)
    assert agent.host.get("/", host="v") == (200, "new")
    wait_until(lambda: left_behind(agent.host) == [], "its folder is gone")
    agent.generation = answer["generation"]
    applied(agent, {"conf/vhosts/v.conf": None})


def test_a_hang_up_of_the_whole_session_is_nothing_to_it(agent: Agent) -> None:
    request = agent.plan({"conf/vhosts/v.conf": VHOST})
    process = begun(agent, request)
    everyone = [pid for pid, title in agent.host.commands().items() if "ngxsync.agent" in title]
    agent.host.run(["kill", "-HUP", *map(str, everyone)])
    process.communicate()
    assert len(everyone) >= 2
    assert ended(agent, request["run"])["outcome"] == "applied"


def test_a_reader_that_is_gone_is_nothing_to_it(agent: Agent) -> None:
    """The answer is longer than a pipe holds (a warning for each hard link), and nobody reads it."""
    names = [f"html/{number:04d}-{'x' * 200}" for number in range(300)]
    applied(agent, dict.fromkeys(names, "old"))
    for name in names:
        os.link(live(agent.host, name), live(agent.host, f"logs/{name[5:]}"))
    request = agent.plan(dict.fromkeys(names, "new"))
    process = begun(agent, request)
    agent.host.signal_to(process, signal.SIGKILL)
    process.communicate()
    answer = ended(agent, request["run"])
    assert (answer["outcome"], len(answer["warnings"])) == ("applied", 300)
    wait_until(lambda: not [t for t in agent.host.commands().values() if "ngxsync.agent" in t], "no process is left")


def test_a_cut_request_begins_nothing(agent: Agent) -> None:
    text = json.dumps(agent.plan({"conf/vhosts/v.conf": VHOST}))
    before = manifest_of(agent.host)
    for length in (1, 100, len(text) // 2, len(text) - 1):
        answer = json.loads(agent.host.run(agent_argv("transact"), input=text[:length]).stdout)
        assert (answer["ok"], answer["code"]) == (False, "agent")
    assert manifest_of(agent.host) == before


BUSCTL = """#!/bin/sh
echo "$@" >>/tmp/busctl
case $1 in get-property) echo "b $(cat /tmp/kills)" ;; *) exec sh -c "$(cat /tmp/then)" ;; esac
"""


@pytest.mark.parametrize(
    ("kills", "then", "warned"), [("false", "", 0), ("true", ":", 0), ("true", "echo no; exit 1", 1)]
)
def test_where_systemd_ends_processes_with_their_login_it_leaves_it(
    agent: Agent, kills: str, then: str, warned: int
) -> None:
    """What systemd is asked; that it does so is systemd's own promise."""
    for path, text in (("/usr/local/bin/busctl", BUSCTL), ("/tmp/kills", kills), ("/tmp/then", then)):
        agent.host.path(path).write_text(text)
    agent.host.path("/usr/local/bin/busctl").chmod(0o755)
    agent.host.path("/run/systemd/system").mkdir(parents=True)
    answer = applied(agent, {"html/index.html": "new\n"})
    agent.host.path("/usr/local/bin/busctl").unlink()
    asked = agent.host.path("/tmp/busctl").read_text()
    assert asked.startswith("get-property org.freedesktop.login1 ")
    scope = (
        r"StartTransientUnit ssa\(sv\)a\(sa\(sv\)\) ngxsync-(\d+)\.scope fail 2 PIDs au 1 \1"
        r" CollectMode s inactive-or-failed 0\n"
    )
    assert bool(re.search(scope, asked)) is (kills == "true")
    assert answer["warnings"] == ["systemd may end this run with its login: no"][:warned]


# installed


def installed(host: Host, name: str, *, shout: str = "") -> str:
    """The agent as edges/bundle installs it, in its folder."""
    folder = Path(str(host.path(f"{STATE}/agent/{name}")))
    shutil.copytree(
        PROJECT / "ngxsync" / "agent", folder / "ngxsync_agent", ignore=shutil.ignore_patterns("__pycache__")
    )
    head = f"open({shout!r}, 'a').write('called\\n')\n" if shout else ""
    (folder / "__main__.py").write_text(
        f"{head}import sys\nfrom ngxsync_agent.main import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    current = folder.parent / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(name)
    return f"{STATE}/agent/{name}"


def call(host: Host, folder: str, verb: str, request: dict[str, Any] | None = None, *before: str) -> Any:
    argv = [*before, sys.executable, "-I", "-S", folder, verb]
    return host.run(argv, input=None if request is None else json.dumps(request), check=False)


KILLED = (
    "strace",
    "-f",
    "-qq",
    "-o",
    "/dev/null",
    "-e",
    "trace=renameat2",
    "-e",
    "inject=renameat2:signal=KILL:when=2",
    "--",
)


def test_what_an_agent_left_open_is_recovered_by_that_agent(agent: Agent) -> None:
    """The journal names its folder: a newer agent need not know what an older one wrote."""
    old = installed(agent.host, "a" * 64, shout="/tmp/old")
    before = manifest_of(agent.host)
    call(agent.host, old, "transact", agent.plan({"html/a": "a", "html/b": "b", "html/c": "c"}), *KILLED)
    assert agent.host.path(f"{STATE}/peer/journal").exists()
    new = installed(agent.host, "b" * 64)
    journal = agent.host.path("/tmp/old")
    journal.write_text("")
    answer = json.loads(call(agent.host, new, "recover", agent.request()).stdout)
    assert (answer["ok"], answer["result"]) == (True, "undone")
    assert journal.read_text() == "called\n"
    assert manifest_of(agent.host) == before

    call(agent.host, old, "transact", agent.plan({"html/a": "a", "html/b": "b", "html/c": "c"}), *KILLED)
    shutil.rmtree(agent.host.path(old))  # swept meanwhile: then ours does it
    assert json.loads(call(agent.host, new, "recover", agent.request()).stdout)["result"] == "undone"
    assert manifest_of(agent.host) == before


def test_agents_of_earlier_releases_go_after_an_accepted_run(agent: Agent) -> None:
    folders = {name: agent.host.path(f"{STATE}/agent/{name}") for name in ("a" * 16, "b" * 16, "c" * 16, ".new-x", "x")}
    for name in ("a" * 16, "b" * 16):
        installed(agent.host, name)
    current = installed(agent.host, "d" * 16)
    for name in ("c" * 16, ".new-x", "x"):
        shutil.copytree(folders["a" * 16], folders[name])
    for name in (*folders, "d" * 16):
        if name != "c" * 16:  # that one is young
            os.utime(agent.host.path(f"{STATE}/agent/{name}"), (1, 1))
    waiting = [sys.executable, "-I", "-S", f"{STATE}/agent/{'b' * 16}", "hello"]
    with agent.host.popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        command = Path(f"/proc/{agent.host.pid}/root/proc/{agent.host.pid_inside(process)}/cmdline")
        wait_until(lambda: b"hello" in command.read_bytes(), "it runs")
        refused = agent.plan({"conf/nginx.conf": "nonsense"})
        assert call(agent.host, current, "transact", refused).returncode == 0
        assert all(folder.exists() for folder in folders.values())
        done = json.loads(call(agent.host, current, "transact", agent.plan({"html/a": "a"})).stdout)
        assert (done["outcome"], done["warnings"]) == ("applied", [])
        process.communicate("\n")
    assert {name for name, folder in folders.items() if folder.exists()} == {"b" * 16, "c" * 16, "x"}
    assert call(agent.host, f"{STATE}/agent/current", "status").returncode == 0


def test_the_agent_of_an_open_journal_stays(tmp_path: Path) -> None:
    for name in ("a" * 16, "b" * 16, "c" * 16):
        (tmp_path / "agent" / name).mkdir(parents=True)
    (tmp_path / "agent/current").symlink_to("c" * 16)
    journal.begin(str(tmp_path / "journal"), {"agent": "b" * 16}, [])
    remove_old_agents(str(tmp_path), "c" * 16, str(tmp_path / "journal"), time.time() + 100_000)
    assert sorted(os.listdir(tmp_path / "agent")) == ["b" * 16, "c" * 16, "current"]


def test_status_and_recover_by_hand(agent: Agent) -> None:
    folder = installed(agent.host, "c" * 64)
    current = f"{STATE}/agent/current"
    request = agent.plan({"html/a": "a", "html/b": "b"})
    call(agent.host, folder, "transact", request, *KILLED)
    open_text = told(call(agent.host, current, "status"))
    recovered = call(agent.host, current, "recover")
    closed_text = told(call(agent.host, current, "status"))
    assert open_text.startswith("web2 as a peer of ngxsync: unfinished\n")
    assert open_text.endswith("\nnext: `ngxsync-agent recover` finishes or undoes it\n")
    assert (recovered.returncode, recovered.stdout) == (0, "recover: run 000002-test: undone\n")
    assert closed_text.startswith("web2 as a peer of ngxsync: undone\n")
    assert "\nunfinished  nothing\nrefused     run 000002-test " in closed_text
    nothing = call(agent.host, current, "recover")
    assert (nothing.returncode, nothing.stdout) == (0, "recover: nothing was open\n")


def test_status_by_hand_after_an_undo_that_met_an_edit(agent: Agent) -> None:
    folder = installed(agent.host, "c" * 64)
    call(agent.host, folder, "transact", agent.plan({"html/a": "a", "html/b": "b"}), *KILLED)
    edited = [name for name in ("a", "b") if agent.host.path(f"{ROOT}/html/{name}").exists()]
    for name in edited:
        agent.host.path(f"{ROOT}/html/{name}").write_text("somebody's own\n")
    recovered = call(agent.host, f"{STATE}/agent/current", "recover")
    assert edited
    assert f"edited since, kept in the store: {ROOT}/html/{edited[0]}\n" in recovered.stdout
    assert ": undone (recovered)\n" in told(call(agent.host, f"{STATE}/agent/current", "status"))


def test_a_password_file_that_nginx_names_by_a_link_is_not_shown(agent: Agent) -> None:
    agent.host.path("/srv/www").symlink_to(ROOT)
    vhost = "server { listen 80; server_name v; auth_basic x; auth_basic_user_file /srv/www/conf/users; }\n"
    applied(agent, {"conf/vhosts/v.conf": vhost, "conf/users": "anna:TOPSECRET\n"})
    path = f"{ROOT}/conf/users"
    shown = agent.call("show", paths=[path, f"{ROOT}/html/index.html"])["files"]
    assert (shown[path]["secret"], shown[path]["text"], shown[path]["size"]) == (True, None, 15)
    assert shown[f"{ROOT}/html/index.html"]["text"]


def told(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done
    return done.stdout


def test_by_hand_a_failure_has_its_exit_status(agent: Agent) -> None:
    installed(agent.host, "d" * 64)
    current = f"{STATE}/agent/current"
    agent.host.path(f"{STATE}/peer/journal").write_text("damaged\n")
    done = call(agent.host, current, "recover")
    assert done.returncode == 7
    assert done.stdout.startswith("recover: the journal of an interrupted run cannot be read: ")
    assert "\n  now: the live tree may be half old, half new\n  next: compare with `ngxsync diff`" in done.stdout
    status = call(agent.host, current, "status")
    assert status.returncode == 0
    assert status.stdout.startswith("web2 as a peer of ngxsync: broken\n")
    assert status.stdout.endswith("\nnext: `ngxsync-agent recover` says what to do\n")
    assert call(agent.host, current, "nonsense").returncode == 2
    assert call(agent.host, current, "transact").returncode == 0


def test_on_a_host_that_never_was_a_peer(pair: Pair) -> None:
    shutil.rmtree(pair.web2.path(f"{STATE}/peer"), ignore_errors=True)
    installed(pair.web2, "e" * 64)
    current = f"{STATE}/agent/current"
    text = told(call(pair.web2, current, "status"))
    assert text.startswith("web2 as a peer of ngxsync: awaiting-first-sync\n  Nothing was synced to this host yet.\n")
    assert "\nat boot     recovery not installed: it is put there at the first sync as root\n" in text
    assert call(pair.web2, current, "recover").stdout == "recover: nothing was open\n"
    assert not pair.web2.path(f"{STATE}/peer").exists()


# the recovery unit

WANTS = "/etc/systemd/system/multi-user.target.wants/ngxsync-recover.service"


def uncommented(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))


def test_the_unit_is_that_of_systemd_folder() -> None:
    assert uncommented(unit.TEXT) == uncommented((PROJECT / "systemd" / unit.NAME).read_text())


def test_the_unit_is_there_after_the_first_sync_and_is_put_back(agent: Agent) -> None:
    file = agent.host.path(f"/etc/systemd/system/{unit.NAME}")
    assert file.read_text() == unit.TEXT
    assert os.readlink(agent.host.path(WANTS)) == f"/etc/systemd/system/{unit.NAME}"
    agent.host.path("/usr/local/sbin/ngxsync-agent").symlink_to("/bin/true")
    done = agent.host.run(["systemd-analyze", "verify", "--man=no", f"/etc/systemd/system/{unit.NAME}"])
    assert (done.stdout, done.stderr) == ("", "")
    file.write_text("[Unit]\nDescription=changed\n")
    applied(agent, {"html/index.html": "new\n"})
    assert file.read_text() == unit.TEXT


def test_a_host_where_the_unit_cannot_be_put_is_warned_of(agent: Agent) -> None:
    shutil.rmtree(agent.host.path("/etc/systemd/system/multi-user.target.wants"))
    agent.host.path("/etc/systemd/system/multi-user.target.wants").write_text("in the way")
    answer = applied(agent, {"html/index.html": "new\n"})
    assert len(answer["warnings"]) == 1
    assert answer["warnings"][0].startswith("the unit that recovers at boot could not be put there: ")


def test_no_unit_for_another_state_directory(pair: Pair) -> None:
    assert unit.install("/srv/state") is False
    assert unit.state("/srv/state").startswith("not installed: ")

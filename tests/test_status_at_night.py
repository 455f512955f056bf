"""`ngxsync-agent status`: would a tired person on the backup, the master being dead, know what to do?"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxsync.agent.running import NOTHING
from ngxsync.agent.statuslines import age, shown, status_lines
from tests.agent import STATE, Agent, agent_argv
from tests.hosts import Host, wait_until
from tests.moments import kill_run, stop_at
from tests.pair import ROOT, Pair
from tests.test_agent_main import installed

NOW = 1_800_000_000.0
RECORD = {"id": "a" * 64, "written_by": "web1", "run": "00000007-0badcafe", "at": NOW - 3 * 3600, "proven": True}
START = "/usr/sbin/nginx -p /usr/local/nginx -c conf/nginx.conf"
NGINX = {**NOTHING, "pid": 812, "since": NOW - 90000, "loaded": NOW - 3 * 3600, "start": START}
REFUSED = {
    "count": 3,
    "since": NOW - 2 * 3600,
    "at": NOW - 60,
    "run": "00000010-0badcafe",
    "outcome": "refused",
    "code": "refused",
    "lines": ['/usr/local/nginx/conf/vhosts/shop.conf:3: unknown directive "nonsense"'],
}
FINE: dict[str, Any] = {
    "ok": True,
    "host": "web2",
    "now": NOW,
    "accepted": RECORD,
    "journal": None,
    "lock": None,
    "nginx": {**NGINX, "state": "running"},
    "edited": {"count": 0, "paths": [], "unread": []},
    "last": {"outcome": "applied"},
    "refused": None,
    "door": None,
    "recovery_unit": "installed",
    "recovery_result": "success",
    "history": {"folder": "/var/lib/ngxsync/peer", "runs": 12},
}
IN_VRRP = {
    "carried": [],
    "tenure": "",
    "since": None,
    "told": {"role": "backup", "since": NOW - 3600},
    "keepalived": 12,
}
OPEN = {"run": "00000011-0badcafe", "phase": "open", "since": NOW - 120}
STATES: dict[str, dict[str, Any]] = {
    "in-sync": {},
    "unfinished": {"journal": OPEN, "recovery_unit": "not installed: this host has no systemd", "recovery_result": ""},
    "busy": {"journal": OPEN, "lock": {"pid": 4711}},
    "broken": {
        "journal": {**OPEN, "phase": "signalled"},
        "last": {"outcome": "broken"},
        "recovery_result": "exit-code",
    },
    "damaged": {"journal": {"run": "", "phase": "damaged", "since": None}},
    "awaiting-first-sync": {
        "accepted": None,
        "edited": None,
        "nginx": {**NGINX, "state": "unknown", "why": "no run recorded which it is, and not exactly one runs here"},
        "last": None,
        "history": {"folder": "/var/lib/ngxsync/peer", "runs": 0},
    },
    "nginx-down": {"nginx": {**NGINX, "state": "down"}},
    "stale-running": {
        "nginx": {**NGINX, "state": "stale", "file": "/usr/local/nginx/conf/vhosts/shop.conf", "changed": NOW - 30}
    },
    "replaced-binary": {
        "nginx": {**NGINX, "state": "stale", "file": "/usr/sbin/nginx", "changed": NOW - 30, "needs_restart": True}
    },
    "drifted": {"edited": {"count": 7, "paths": [f"/usr/local/nginx/html/{n}" for n in "abcde"], "unread": []}},
    "refused": {
        "refused": REFUSED,
        "door": {"count": 2, "last": "2027-01-15 08:00:00 refused 192.0.2.1:50022: no such verb; asked: id"},
    },
    "not-proven": {"accepted": {**RECORD, "proven": False}},
    "pulled": {
        "accepted": {**RECORD, "kind": "pull", "proven": False},
        "edited": {"count": 1, "paths": [f"{ROOT}/html/a.html"], "unread": []},
    },
    "serving": {
        "edited": {"count": 1, "paths": [f"{ROOT}/html/a.html"], "unread": []},
        "vrrp": {**IN_VRRP, "carried": ["192.0.2.100"], "tenure": "t", "since": NOW - 1800},
    },
    "in-fault": {"vrrp": {**IN_VRRP, "told": {"role": "fault", "since": NOW - 60}}},
    "no-keepalived": {"vrrp": {**IN_VRRP, "keepalived": 0}},
    "rolled-back": {"accepted": {**RECORD, "kind": "rollback", "restores": "00000003-0badcafe"}},
}
COMMAND = ("/usr/bin/python3", "-I", "-S", f"{STATE}/agent/current")  # what /usr/local/sbin/ngxsync-agent runs
GOLDEN = Path(__file__).with_name("night")


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("name", STATES)
def test_what_a_person_reads(name: str) -> None:
    """Golden texts in tests/night; NGXSYNC_TEST_WRITE_GOLDEN=1 writes them anew, to be read aloud."""
    text = "\n".join(status_lines({**FINE, **STATES[name]})) + "\n"
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("NGXSYNC_TEST_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


def test_ages_and_names() -> None:
    assert [age(seconds) for seconds in (0, 1, 59.9, 60, 7200, 86400 * 3)] == [
        "0 seconds ago",
        "1 second ago",
        "59 seconds ago",
        "1 minute ago",
        "2 hours ago",
        "3 days ago",
    ]
    assert age(-5) == "in the future by this host's clock"
    assert shown("a\nb\x1b[2J\u202e") == "a\\x0ab\\x1b[2J\\x202e"


# in the real states


@pytest.fixture
def agent(pair: Pair) -> Agent:
    agent = Agent(pair.web2)
    assert agent.transact(agent.plan({}))["outcome"] == "in-sync"
    return agent


def night(host: Host) -> dict[str, Any]:
    """`ngxsync-agent status --json`, found to say what the text says."""
    if not host.path(f"{STATE}/agent/current").exists():
        installed(host, "c" * 64)

    def look() -> dict[str, Any]:
        answer = json.loads(host.run([*COMMAND, "status", "--json"]).stdout)
        text = host.run([*COMMAND, "status"]).stdout
        is_same = f" as a peer of ngxsync: {answer['word']}\n" in text and text.endswith(f"\nnext: {answer['next']}\n")
        return {**answer, "text": text} if is_same else {}

    return wait_until(look, "both say the same, since nothing changed between them")


def test_nothing_is_wrong(agent: Agent) -> None:
    found = night(agent.host)
    assert found["word"] == "in-sync", found["text"]
    assert found["accepted"]["written_by"] == "web1"
    assert found["edited"] == {"count": 0, "paths": [], "unread": []}
    assert found["nginx"]["pid"] == agent.host.nginx_main()


def test_a_record_of_an_earlier_release_names_no_nginx(agent: Agent) -> None:
    file = agent.host.path(f"{STATE}/peer/accepted.json")
    record = json.loads(file.read_text())
    del record["settings"]
    file.write_text(json.dumps(record))
    assert night(agent.host)["nginx"]["pid"] == agent.host.nginx_main()
    agent.host.stop_nginx()
    found = night(agent.host)
    assert (found["word"], found["nginx"]["state"]) == ("unknown", "unknown"), found["text"]


def test_edited_on_the_peer(agent: Agent) -> None:
    page = agent.host.path(f"{ROOT}/html/index.html")
    page.write_text("somebody's own\n")
    found = night(agent.host)
    assert (found["word"], found["edited"]["paths"]) == ("drifted", [f"{ROOT}/html/index.html"]), found["text"]


def test_nginx_has_not_read_what_is_on_its_disk(agent: Agent) -> None:
    """Also where the files are the accepted ones: put back by hand, and never reloaded."""
    vhost = agent.host.path(f"{ROOT}/conf/vhosts/default.conf")
    mtime_ns, text = vhost.stat().st_mtime_ns, vhost.read_text()
    assert night(agent.host)["word"] == "in-sync"
    vhost.write_text(text + "# tried\n")
    before = set(agent.host.nginx_workers())
    agent.host.run(["kill", "-HUP", str(agent.host.nginx_main())])
    wait_until(lambda: (now := set(agent.host.nginx_workers())) and not now & before, "nginx has read that")

    def look_after_a_change() -> dict[str, Any]:
        vhost.write_text(text)
        os.utime(vhost, ns=(mtime_ns, mtime_ns))
        found = night(agent.host)
        return found if found["word"] == "stale-running" else {}

    found = wait_until(look_after_a_change, "the file is younger than the workers by more than the clocks' slack")
    assert found["nginx"]["file"] == f"{ROOT}/conf/vhosts/default.conf"
    command = re.findall(r"^next: `([^`]+)`", found["text"], re.MULTILINE)[0]
    agent.host.run(["sh", "-c", command])
    wait_until(lambda: night(agent.host)["word"] == "in-sync", "what status said to do has mended it")


def test_nginx_is_down(agent: Agent) -> None:
    agent.host.stop_nginx()
    found = night(agent.host)
    assert found["word"] == "nginx-down", found["text"]
    command = re.findall(r"^next: `([^`]+)`", found["text"], re.MULTILINE)[0]
    agent.host.run(["sh", "-c", command])


def test_refused_is_told_with_its_line_and_since_when(agent: Agent) -> None:
    for _ in range(2):
        agent.transact(agent.plan({"conf/vhosts/broken.conf": "nonsense;\n"}))
    found = night(agent.host)
    assert (found["word"], found["refused"]["count"]) == ("refused", 2), found["text"]
    assert "unknown directive" in found["text"]
    agent.transact(agent.plan({"html/a": "a"}))
    assert night(agent.host)["refused"] is None


def test_a_run_at_work_and_then_interrupted(agent: Agent) -> None:
    host = agent.host
    process = stop_at(
        "between-exchanges", host, agent_argv("transact"), agent.plan({f"html/{n}": n for n in "abcdefg"})
    )
    found = night(host)
    assert found["word"] == "busy", found["text"]
    kill_run(host)
    with process:
        process.wait(45)
    found = night(host)
    assert (found["word"], found["journal"]["phase"]) == ("unfinished", "open"), found["text"]
    host.run([*COMMAND, "recover"])
    found = night(host)
    assert (found["word"], found["journal"]) == ("undone", None), found["text"]

"""Whatever dies, and whenever: afterwards the live tree is old or new, nothing between, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agent import STATE, Agent, File, agent_argv
from tests.hosts import Host
from tests.pair import ROOT, Pair, manifest_of

# every kind of change, there and back: content, create, delete, directories, modes, owners, links, each type change
OLD: dict[str, Any] = {
    "conf/vhosts/default.conf": File("server { listen 80; location /v { return 200 old; } }\n"),
    "conf/vhosts/gone.conf": File("# only old\n", 0o600, "www-data", "www-data"),
    "html/index.html": File("<h1>old</h1>\n", 0o644),
    "html/mode.html": File("the same\n", 0o640, "root", "www-data"),
    "html/folder": "dir",
    "html/folder/a": File("a\n"),
    "html/emptied": "dir",
    "html/link": ("link", "index.html"),
    "html/file-or-folder": File("a file\n"),
    "html/folder-or-link": "dir",
    "html/link-or-file": ("link", "nowhere"),
    "html/fresh": None,
}
NEW: dict[str, Any] = {
    "conf/vhosts/default.conf": File("server { listen 80; location /v { return 200 new; } }\n"),
    "conf/vhosts/gone.conf": None,
    "html/index.html": File("<h1>new</h1>\n", 0o664, mtime_ns=1_600_000_000 * 10**9),
    "html/mode.html": File("the same\n", 0o4755, "www-data", "root"),
    "html/folder": None,
    "html/emptied": None,
    "html/link": ("link", "mode.html"),
    "html/file-or-folder": "dir",
    "html/file-or-folder/b": File("b\n"),
    "html/folder-or-link": ("link", "folder"),
    "html/link-or-file": File("a file\n"),
    "html/fresh": "dir",
    "html/fresh/c": File("c\n"),
}
# the calls that change something, of the process that does the exchanges
CALLS = [
    "renameat2",
    "rename",
    "renameat",
    "link",
    "linkat",
    "symlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "unlink",
    "unlinkat",
    "fchmodat",
    "chmod",
    "fchownat",
    "chown",
    "utimensat",
    "fsync",
    "syncfs",
    "ftruncate",
    "pwrite64",
    "kill",
    "write",
    "setxattr",
]
EXHAUSTIVE = bool(os.environ.get("NGXSYNC_TEST_EVERY_STEP"))
# without it: all of what touches the live tree or orders the disk, and the first of each other call
ALWAYS = {"renameat2", "rename", "rmdir", "fsync", "syncfs", "kill"}


class Killer:
    """Runs a transaction under strace, which kills the agent at one system call."""

    def __init__(self, host: Host) -> None:
        self.host, self.agent = host, Agent(host)
        self.put(OLD)
        self.old = manifest_of(host)
        self.put(NEW)
        self.new = manifest_of(host)
        self.current = NEW

    def put(self, wanted: dict[str, Any]) -> None:
        answer = self.agent.transact(self.agent.plan(wanted))
        assert (answer["ok"], answer["outcome"]) == (True, "applied"), answer

    def strace(self, request: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
        argv = ["strace", "-f", "-qq", *options, "--", *agent_argv("transact")]
        return self.host.run(argv, input=json.dumps(request), check=False, timeout=100)

    def other(self) -> dict[str, Any]:
        return OLD if self.current is NEW else NEW

    def calls(self) -> list[str]:
        """The calls of one whole transaction, in order."""
        log = "/tmp/strace.log"
        done = self.strace(self.agent.plan(self.other()), "-o", log, "-e", f"trace={','.join(f'?{c}' for c in CALLS)}")
        self.learn(json.loads(done.stdout))
        lines = re.findall(r"^(\d+) +(\w+)\((.*)$", self.host.path(log).read_text(), re.MULTILINE)
        main = next(pid for pid, call, _ in lines if call == "renameat2")
        return [f"{call}({rest}" for pid, call, rest in lines if pid == main]

    def learn(self, answer: dict[str, Any]) -> None:
        assert answer["outcome"] == "applied", answer
        self.agent.generation = answer["generation"]
        self.current = self.other()

    def kill_at(self, call: str, number: int) -> str:
        """ "old" or "new" (seen from before the run), after recovery."""
        request = self.agent.plan(self.other())
        before, after = (self.old, self.new) if self.current is OLD else (self.new, self.old)
        done = self.strace(
            request, "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"
        )
        where = f"killed at {call} number {number}: {done.stdout} {done.stderr}"
        if not self.host.path(f"{STATE}/peer/journal").exists():
            assert manifest_of(self.host) in (before, after), where
        answers = [self.agent.call("recover") for _ in range(2)]
        assert answers[0]["ok"], (where, answers)
        assert answers[1] == {"ok": True, "recovered": None}, (where, answers)
        found = manifest_of(self.host)
        assert found in (before, after), (where, difference(before, found))
        if found == after:
            self.current = self.other()
        expected = "new" if self.current is NEW else "old"
        assert self.host.get("/v") == (200, expected), (where, answers)
        accepted = self.agent.scan()["accepted"]
        self.agent.generation = accepted["generation"]
        assert self.agent.scan()["id"] == accepted["id"], where
        shown = self.agent.call("show", run=request["run"])
        assert shown["state"] == ("done" if found == after else shown["state"]), where
        if found == after:
            assert shown["answer"]["generation"] == accepted["generation"], (where, shown)
        return "new" if found == after else "old"


def difference(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {path: (a.get(path), b.get(path)) for path in a.keys() | b.keys() if a.get(path) != b.get(path)}


def left_behind(host: Host) -> list[str]:
    return os.listdir(host.path(f"{ROOT}/.ngxsync"))


@pytest.fixture
def killer(pair: Pair) -> Iterator[Killer]:
    return Killer(pair.web2)


def numbers_of(calls: list[str]) -> list[tuple[str, int]]:
    names = [call.split("(")[0] for call in calls]
    points = []
    for name in dict.fromkeys(names):
        count = names.count(name)
        points += [(name, number) for number in range(1, count + 1) if EXHAUSTIVE or name in ALWAYS or number == 1]
    return points


@pytest.mark.timeout(1200)
def test_sigkill_at_each_step_leaves_old_or_new(killer: Killer) -> None:
    points = numbers_of(killer.calls())
    results = {point: killer.kill_at(*point) for point in points}
    assert len(points) > 40
    assert set(results.values()) == {"old", "new"}, results
    killer.put(killer.other())  # the next run heals what is left
    assert left_behind(killer.host) == []
    assert manifest_of(killer.host) in (killer.old, killer.new)

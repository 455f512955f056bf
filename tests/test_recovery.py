"""Whatever dies, and whenever: afterwards the live tree is old or new, nothing between, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
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
        scanned = self.agent.scan()
        accepted = scanned["accepted"]
        self.agent.generation = accepted["generation"]
        assert scanned["id"] == accepted["id"], where
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


def crashed(killer: Killer, call: str, number: int) -> dict[str, Any]:
    """The request of a run that was killed with its journal open."""
    request = killer.agent.plan(killer.other())
    killer.strace(request, "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
    assert killer.host.path(f"{STATE}/peer/journal").exists()
    return request


# the order on disk

STEPS = (
    (rf"syncfs\(\d+<.*{ROOT}", "prepared"),
    (rf"syncfs\(\d+<.*{STATE}", "kept"),
    (rf"fsync\(\d+<.*{STATE}/peer/journal", "journal"),
    (rf'rename\(.*"{STATE}/peer/journal"', "named"),
    (rf"fsync\(\d+<.*{STATE}/peer>", "folder"),
    (r"renameat2\(", "exchange"),
    (r"kill\(\d+, SIGHUP", "signal"),
    (rf"fsync\(\d+<.*{STATE}/peer/manifests/[^>/]*tmp>", "manifest"),
    (rf"fsync\(\d+<.*{STATE}/peer/accepted", "accepted"),
    (rf'rename\(.*"{STATE}/peer/accepted.json"', "renamed"),
    (rf"fsync\(\d+<.*{STATE}/peer/runs/[^>/]*test.json.*tmp>", "answer"),
    (rf'unlink\("{STATE}/peer/journal"', "ended"),
)


def steps_of(lines: list[str]) -> list[str]:
    """The steps, each run of equal ones told once."""
    found = [name for line in lines for pattern, name in STEPS if re.match(pattern, line)]
    return [name for place, name in enumerate(found) if place == 0 or found[place - 1] != name]


def test_the_order_on_disk(killer: Killer) -> None:
    """TRANSACTION, order on disk: what a power cut finds is always one of its steps."""
    log = "/tmp/strace.log"
    trace = ["-y", "-o", log, "-e", "trace=renameat2,rename,fsync,syncfs,kill,unlink"]
    done = killer.strace(killer.agent.plan(killer.other()), *trace)
    killer.learn(json.loads(done.stdout))
    lines = re.findall(r"^(\d+) +(.*)$", killer.host.path(log).read_text(), re.MULTILINE)
    main = next(pid for pid, line in lines if line.startswith("renameat2"))
    assert steps_of([line for pid, line in lines if pid == main]) == [
        *("kept", "prepared", "journal", "named", "folder", "exchange", "prepared"),
        *(
            "journal",
            "signal",
            "manifest",
            "accepted",
            "renamed",
            "folder",
            "kept",
            "folder",
            "answer",
            "ended",
            "folder",
        ),
    ]


def test_an_undo_is_on_disk_before_its_journal_ends(killer: Killer) -> None:
    crashed(killer, "renameat2", 5)
    log = "/tmp/strace.log"
    trace = ["strace", "-f", "-qq", "-y", "-o", log, "-e", "trace=renameat2,rename,fsync,syncfs,kill,unlink", "--"]
    killer.host.run([*trace, *agent_argv("recover")], input=json.dumps(killer.agent.request()))
    lines = re.findall(r"^\d+ +(.*)$", killer.host.path(log).read_text(), re.MULTILINE)
    assert steps_of(lines) == ["exchange", "prepared", "signal", "folder", "answer", "ended", "folder"]


# what recovery finds


def test_an_edit_between_crash_and_recovery_is_kept_and_the_old_put_back(killer: Killer) -> None:
    before = manifest_of(killer.host)
    crashed(killer, "kill", 1)  # all is exchanged, nothing signalled
    assert manifest_of(killer.host) != before
    edits = {
        "html/index.html": b"edited after the crash\n",
        "html/emptied": b"a file where a directory is to come back\n",
    }
    new = killer.current is OLD
    live = {name: killer.host.path(f"{ROOT}/{name}") for name in edits}
    for name, content in edits.items():
        if live[name].is_dir():
            live[name].rmdir()
        live[name].write_bytes(content)
    made = killer.host.path(f"{ROOT}/html/mode.html")
    made.unlink()
    made.mkdir()
    (made / "inside").write_text("a directory where a file was\n")
    answer = killer.agent.call("recover")
    assert (answer["ok"], answer["result"]) == (True, "undone"), answer
    expected = {f"{ROOT}/html/index.html", f"{ROOT}/html/mode.html"}
    assert expected <= set(answer["edited"]), (answer, new)
    top = killer.host.path(f"{STATE}/peer/blobs")
    kept = {Path(folder, name).read_bytes() for folder, _, names in os.walk(top) for name in names}
    assert edits["html/index.html"] in kept
    assert left_behind(killer.host) == []


def test_a_recovery_that_is_killed_is_done_again(killer: Killer) -> None:
    """At each of its own exchanges, with an edit in its way."""
    before = manifest_of(killer.host)
    for number in range(1, 12):
        request = crashed(killer, "kill", 1)
        page = killer.host.path(f"{ROOT}/html/index.html")
        edit = f"edit {number}\n"
        page.with_name("saved").write_text(edit)
        page.with_name("saved").rename(page)
        argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2", "-e"]
        killed = [*argv, f"inject=renameat2:signal=KILL:when={number}", "--", *agent_argv("recover")]
        killer.host.run(killed, input=json.dumps(killer.agent.request()), check=False)
        answer = killer.agent.call("recover")
        assert answer["ok"], (number, answer)
        assert manifest_of(killer.host) == before, (number, difference(before, manifest_of(killer.host)))
        kept = killer.host.run(["grep", "-rl", f"^{edit.strip()}$", f"{STATE}/peer/blobs"], check=False).stdout
        assert kept, (number, "the edit is lost")
        assert killer.agent.call("show", run=request["run"])["answer"]["outcome"] == "undone"


def test_a_torn_last_line_was_never_promised(killer: Killer) -> None:
    before = manifest_of(killer.host)
    crashed(killer, "renameat2", 4)
    with killer.host.path(f"{STATE}/peer/journal").open("a") as journal:
        journal.write('{"phase": "sig')
    assert killer.agent.call("recover")["result"] == "undone"
    assert manifest_of(killer.host) == before


def test_a_damaged_journal_is_broken_and_said(killer: Killer) -> None:
    crashed(killer, "renameat2", 4)
    between = manifest_of(killer.host)
    journal = killer.host.path(f"{STATE}/peer/journal")
    text = journal.read_text()
    journal.write_text("damaged" + text)
    for verb, request in (("recover", {}), ("stage", {"run": "x", "trees": [ROOT]})):
        answer = killer.agent.call(verb, **request)
        assert (answer["ok"], answer["code"]) == (False, "broken"), (verb, answer)
        assert f"{STATE}/peer/journal" in answer["message"]["what"]
        assert "half old, half new" in answer["message"]["state"]
    assert killer.agent.scan()["journal"] == {"run": "", "phase": "damaged", "since": None}
    assert manifest_of(killer.host) == between
    journal.write_text(text)
    assert killer.agent.call("recover")["result"] == "undone"


def test_what_cannot_be_put_back_is_broken_until_it_can(killer: Killer) -> None:
    before = manifest_of(killer.host)
    crashed(killer, "kill", 1)
    folder = killer.host.path(f"{ROOT}/conf/vhosts")
    folder.rename(folder.with_name("away"))
    request = {**killer.agent.request(), "run": "later"}
    for _ in range(2):
        answer = killer.agent.call("recover")
        assert (answer["ok"], answer["outcome"], answer["code"]) == (False, "broken", "broken")
        assert f"could not put back: {ROOT}/conf/vhosts/" in answer["message"]["what"]
    assert killer.agent.call("stage", run=request["run"], trees=[ROOT])["code"] == "broken"
    folder.with_name("away").rename(folder)
    assert killer.agent.call("recover")["result"] == "undone"
    assert manifest_of(killer.host) == before


def test_a_recovery_that_the_disk_stops_says_what_is_half_done(killer: Killer) -> None:
    before = manifest_of(killer.host)
    crashed(killer, "renameat2", 4)
    lock = killer.host.path(f"{STATE}/peer/mixed.lock")
    lock.unlink()
    lock.mkdir()
    for verb, request in (("recover", {}), ("stage", {"run": "x", "trees": [ROOT]})):
        answer = killer.agent.call(verb, **request)
        assert (answer["ok"], answer["code"]) == (False, "disk"), (verb, answer)
        assert answer["message"]["state"] == "the live tree may be half old, half new"
        assert "`ngxsync-agent recover` here, or the next run, goes on" in answer["message"]["next"]
    lock.rmdir()
    assert killer.agent.call("recover")["result"] == "undone"
    assert manifest_of(killer.host) == before


def test_an_nginx_that_was_started_after_the_crash_does_not_go_on_with_what_it_read(killer: Killer) -> None:
    """Before anything was signalled, too: whoever started it had it read the half applied tree."""
    before = manifest_of(killer.host)
    served = killer.host.get("/v")
    calls = [call.split("(")[0] for call in killer.calls()]  # this is a run of its own
    killer.learn(killer.agent.transact(killer.agent.plan(killer.other())))
    crashed(killer, "renameat2", calls[: calls.index("kill")].count("renameat2"))
    assert killer.agent.scan()["journal"]["phase"] == "open"
    killer.host.stop_nginx()
    killer.host.start_nginx()
    assert killer.host.get("/v") != served
    assert killer.agent.call("recover")["result"] == "undone"
    assert killer.host.get("/v") == served
    assert manifest_of(killer.host) == before


def test_where_nginx_does_not_run_recovery_only_puts_back(killer: Killer) -> None:
    """As at boot: before nginx is started."""
    before = manifest_of(killer.host)
    crashed(killer, "kill", 1)
    killer.host.stop_nginx()
    answer = killer.agent.call("recover")
    assert (answer["ok"], answer["result"]) == (True, "undone")
    assert manifest_of(killer.host) == before

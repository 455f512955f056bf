"""Corners of the transaction and its store that a hostile reading found: each of these lost, hid or misnamed something once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from typing import Any

import pytest

from ngxsync.agent.manifest import from_json, snapshot_id, to_json
from ngxsync.core.plan import make_plan
from tests.agent import STATE, Agent, File, agent_argv
from tests.hosts import Host
from tests.pair import ROOT, Pair, manifest_of

PAGE = "html/index.html"


@pytest.fixture
def agent(pair: Pair) -> Agent:
    """web2's, which has accepted a page and a folder with a page."""
    agent = Agent(pair.web2)
    applied(agent, {PAGE: File("one\n"), "html/folder": "dir", "html/folder/page": File("in a folder\n")})
    return agent


def applied(agent: Agent, wanted: dict[str, Any]) -> dict[str, Any]:
    answer = agent.transact(agent.plan(wanted))
    assert answer["outcome"] == "applied", answer
    return answer


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def blob(host: Host, text: str) -> str:
    return f"{STATE}/peer/blobs/{sha256(text)[:2]}/{sha256(text)}"


def killed(agent: Agent, request: dict[str, Any], call: str, number: int = 1) -> None:
    """At this system call, with its journal open."""
    kill = f"inject={call}:signal=KILL:when={number}"
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", kill, "--", *agent_argv("transact")]
    agent.host.run(argv, input=json.dumps(request), check=False, timeout=100)
    assert agent.host.path(f"{STATE}/peer/journal").exists()


def test_times_alone_adopt_no_tree_that_was_changed_since(agent: Agent) -> None:
    """Two masters: what the other one put there between the comparison and the transaction is not this one's to record."""
    other = Agent(agent.host)
    other.number = 500
    page = agent.live()[f"{ROOT}/{PAGE}"]
    adopting = {**other.plan({PAGE: page._replace(mtime_ns=page.mtime_ns + 10**9)}), "adopt": True}
    assert len(adopting["changes"]) == 1
    applied(agent, {"html/folder/page": File("by the other master, since\n")})
    before = agent.scan()["accepted"]

    answer = other.transact(adopting)

    assert answer.get("code") == "peer-changed", answer
    assert agent.scan()["accepted"] == before


def test_a_first_contact_of_equal_trees_is_none_where_they_changed_since(agent: Agent) -> None:
    stranger = Agent(agent.host)
    stranger.number = 500
    page = agent.live()[f"{ROOT}/{PAGE}"]
    request = stranger.plan({PAGE: page._replace(mtime_ns=page.mtime_ns + 10**9)})
    applied(agent, {"html/folder/page": File("by the other master, since\n")})
    assert (request["first_contact"], request["generation"]) == (True, None)
    before = agent.scan()["accepted"]

    answer = stranger.transact(request)

    assert answer.get("code") == "peer-changed", answer
    assert agent.scan()["accepted"] == before


@pytest.mark.parametrize("torn", ["", "on"])
def test_an_old_content_that_a_power_cut_tore_in_the_store_is_kept_anew(agent: Agent, torn: str) -> None:
    """Its name was on disk before its bytes: the next run must not take the name for the content."""
    store = agent.host.path(blob(agent.host, "one\n"))
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text(torn)

    applied(agent, {PAGE: File("two\n")})

    assert store.read_text() == "one\n"
    stage = agent.call("stage", run="000900-test", trees=[ROOT], restore={f"{ROOT}/{PAGE}": sha256("one\n")})
    assert stage["missing"] == [], stage


def test_the_same_run_asked_again_after_a_crash_is_not_done_twice(agent: Agent) -> None:
    """It was accepted, its answer not yet kept: asked again it is that answer, not a run of a master that came too late."""
    request = agent.plan({PAGE: File("two\n")})
    killed(agent, request, "unlink")
    accepted = agent.scan()["accepted"]
    assert accepted["run"] == request["run"]
    agent.host.path(f"{STATE}/peer/runs/{request['run']}.json").unlink(missing_ok=True)

    answer = agent.transact(request)

    assert (answer["outcome"], answer.get("generation")) == ("applied", accepted["generation"]), answer
    assert agent.call("show", run=request["run"])["answer"]["generation"] == accepted["generation"]
    assert agent.call("history", run=request["run"], manifest=True)["ok"]


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_somebody_put_where_a_folder_comes_back_is_kept_and_the_folder_comes_back(agent: Agent, what: str) -> None:
    before = manifest_of(agent.host)
    killed(agent, agent.plan({"html/folder": None}), "kill")
    folder = agent.host.path(f"{ROOT}/html/folder")
    assert not folder.exists()
    if what == "file":
        folder.write_text("somebody's file\n")
    else:
        folder.symlink_to("index.html")

    answer = agent.call("recover")

    assert (answer["ok"], answer["result"]) == (True, "undone"), answer
    assert manifest_of(agent.host) == before
    assert answer["edited"] == [str(f"{ROOT}/html/folder")]
    ((path, entry, is_kept),) = agent.call("history", run=answer["recovered"])["edits"]
    assert (path, entry[0], is_kept) == (f"{ROOT}/html/folder", what, True)
    assert entry[6] == ("index.html" if what == "link" else sha256("somebody's file\n"))
    assert os.listdir(agent.host.path(f"{ROOT}/.ngxsync")) == []


KEEP = {"runs": 1, "for_s": 1.0, "size": 1 << 30}


@pytest.mark.parametrize(
    "keep",
    [{**KEEP, "runs": 1e999}, {**KEEP, "size": 1e999}, {**KEEP, "for_s": float("nan")}, {**KEEP, "runs": 0}, [], "all"],
)
def test_a_keep_that_makes_no_sense_is_refused_before_anything_is_done(agent: Agent, keep: Any) -> None:
    request = agent.plan({PAGE: File("two\n")})
    assert agent.call("transact", **{**request, "keep": keep}).get("code") == "agent"
    killed(agent, request, "kill")

    answer = agent.call("recover", keep=keep)

    assert (answer["ok"], answer["code"]) == (False, "agent"), answer
    assert agent.host.path(f"{STATE}/peer/journal").exists()


ODD = [
    {"mtime_ns": 10**40},
    {"mtime_ns": -(10**40)},
    {"owner": "#x"},
    {"owner": "#99999999999999"},
    {"owner": "a\0b"},
    {"group": "#-5"},
    {"owner": "\ud800"},
]


@pytest.mark.parametrize("odd", ODD, ids=[f"{name}-{n}" for n, each in enumerate(ODD) for name in each])
def test_an_entry_that_no_file_can_have_is_refused_before_anything_is_done(agent: Agent, odd: dict[str, Any]) -> None:
    live = agent.live()
    path = f"{ROOT}/{PAGE}"
    before, workers = manifest_of(agent.host), agent.host.nginx_workers()
    planned = {**live, path: live[path]._replace(mode=0o600, **odd)}
    request = {
        **agent.plan({}),
        "changes": [{"path": path, "before": list(live[path]), "after": list(planned[path])}],
        "delta": to_json(planned),
        "id": snapshot_id(planned, agent.projection),
    }

    answer = agent.call("transact", **request)

    assert (answer["ok"], answer["code"]) == (False, "agent"), answer
    assert (manifest_of(agent.host), agent.host.nginx_workers()) == (before, workers)
    assert not agent.host.path(f"{STATE}/peer/journal").exists()


def test_a_run_that_ends_just_when_it_is_asked_for_is_not_unknown(agent: Agent) -> None:
    """Else its master forgets that it was its own, and is held for ever by what it wrote itself."""
    request = agent.plan({PAGE: File("two\n")})
    slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:delay_enter=4000000"]
    asking = agent.host.popen([*slow, "--", *agent_argv("show")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert asking.stdin is not None
    assert asking.stdout is not None
    asking.stdin.write(json.dumps(agent.request(run=request["run"])))
    asking.stdin.close()
    assert agent.transact(request)["outcome"] == "applied"

    shown = json.loads(asking.stdout.read().splitlines()[-1])

    asking.wait()
    assert (shown["state"], (shown["answer"] or {}).get("generation")) == ("done", agent.generation)


def test_a_stage_is_refused_while_nginx_has_not_proven_what_was_put_back(agent: Agent) -> None:
    """Else the next run, of a page alone, would call proven what nginx does not run."""
    host = agent.host
    agent.settings = {**agent.settings, "prove_timeout_s": 1.0, "idle_timeout_s": 1.0}
    killed(agent, agent.plan({PAGE: File("two\n")}), "kill")
    main = host.nginx_main()
    host.run(["kill", "-STOP", str(main)])
    try:
        answer = agent.call("stage", run="000900-test", trees=[ROOT])
        assert (answer["ok"], answer["code"]) == (False, "broken"), answer
        assert "did not become idle" in answer["message"]["what"]
        assert host.path(f"{ROOT}/{PAGE}").read_text() == "one\n"
        assert host.path(f"{STATE}/peer/journal").exists()
    finally:
        host.run(["kill", "-CONT", str(main)])
    assert agent.call("recover")["result"] == "undone"
    assert agent.call("stage", run="000900-test", trees=[ROOT])["ok"]


CHANGING = ["mkdir", "openat", "write", "unlink", "unlinkat", "rmdir", "rename", "renameat2", "fsync", "syncfs", "kill"]
EXHAUSTIVE = bool(os.environ.get("NGXSYNC_TEST_EVERY_STEP"))


def steps(agent: Agent, verb: str, request: dict[str, Any]) -> list[tuple[str, int]]:
    """Each call that the verb makes, and a few of each where not all are asked for."""
    log = agent.host.path("/tmp/steps.log")
    argv = ["strace", "-f", "-qq", "-o", "/tmp/steps.log", "-e", "trace=" + ",".join(f"?{call}" for call in CHANGING)]
    agent.host.run([*argv, "--", *agent_argv(verb)], input=json.dumps(request), timeout=100)
    lines = [line.split(None, 1) for line in log.read_text().splitlines()]
    main = next((pid for pid, rest in lines if rest.startswith("renameat2")), lines[-1][0])
    made = [rest.partition("(")[0] for pid, rest in lines if pid == main]
    counts = {call: made.count(call) for call in CHANGING}
    found = [(call, number) for call, count in counts.items() for number in range(1, count + 1)]
    return [(c, n) for c, n in found if EXHAUSTIVE or n <= 2 or (n == counts[c] and c != "openat") or c == "fsync"]


def kill_at(agent: Agent, verb: str, request: dict[str, Any], call: str, number: int) -> None:
    kill = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", *kill, "--", *agent_argv(verb)]
    agent.host.run(argv, input=json.dumps(request), check=False, timeout=100)


def back_to(agent: Agent, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two requests of a rollback, as the master makes them: of the stage and of the transaction."""
    told = agent.call("history", run=run, manifest=True)
    live, target = agent.live(), from_json(told["manifest"])
    changes = make_plan(target, live, live, lambda _path: True, main_conf=agent.settings["conf"]).changes
    agent.number += 1
    name = f"{agent.number:06d}-back"
    files = {c.path: c.after.content for c in changes if c.after is not None and c.after.kind == "file"}
    stage = agent.request(run=name, trees=[ROOT], restore=files)
    marks = {"kind": "rollback", "restores": run}
    marks["taken_back"] = {c.path: [c.before and list(c.before)] for c in changes}
    request = agent.request(
        **marks,
        run=name,
        written_by="web1",
        generation=agent.generation,
        base="none",
        changes=[
            {"path": c.path, "before": c.before and list(c.before), "after": c.after and list(c.after)} for c in changes
        ],
        delta=to_json(target),
        id=told["id"],
        reload=True,
    )
    return stage, request


@pytest.mark.timeout(1200)
def test_a_rollback_that_is_killed_at_each_step_leaves_one_of_both_and_its_record_says_which(agent: Agent) -> None:
    first = agent.scan()["accepted"]["run"]
    there = manifest_of(agent.host)
    applied(agent, {PAGE: File("two\n", 0o600), "html/folder": None, "html/new": ("link", "index.html")})
    second = agent.scan()["accepted"]["run"]
    here, ends = manifest_of(agent.host), set()
    stage, _ = back_to(agent, first)
    for call, number in steps(agent, "stage", stage):
        kill_at(agent, "stage", stage, call, number)
        assert manifest_of(agent.host) == here, (call, number)
    stage, request = back_to(agent, first)
    assert agent.call("stage", **stage)["missing"] == []
    points = steps(agent, "transact", request)
    assert manifest_of(agent.host) == there
    assert len(points) > 15
    is_back = True
    for call, number in points[:: 1 if EXHAUSTIVE else 2]:
        agent.generation = agent.scan()["accepted"]["generation"]
        stage, request = back_to(agent, second if is_back else first)
        assert agent.call("stage", **stage)["missing"] == [], (call, number)
        old, new = (there, here) if is_back else (here, there)
        kill_at(agent, "transact", request, call, number)
        assert agent.call("recover")["ok"], (call, number)
        found, record = manifest_of(agent.host), agent.call("scan")["accepted"]
        assert found in (old, new), (call, number)
        assert (record["run"] == request["run"]) == (found == new), (call, number)
        if found == new:
            is_back = not is_back
            assert (record["kind"], record["restores"]) == ("rollback", request["restores"])
            assert record["taken_back"] == request["taken_back"]
        ends.add(found == new)
        assert agent.scan()["id"] == record["id"]
    assert ends == {True, False}


@pytest.mark.parametrize("damage", [None, "", '{"next": 1}'])
def test_the_way_out_of_a_lost_manifest_is_the_one_that_is_told(agent: Agent, damage: str | None) -> None:
    """Of the accepted snapshot: no scan without it, and moving away what is lost already mends nothing."""
    accepted = agent.scan()["accepted"]
    manifest = agent.host.path(f"{STATE}/peer/manifests/{accepted['run']}.json")
    manifest.unlink()
    if damage is not None:
        manifest.write_text(damage)

    message = agent.scan()["message"]

    assert message["where"] == f"{STATE}/peer/manifests/{accepted['run']}.json"
    record = f"{STATE}/peer/accepted.json"
    assert message["next"] == f"move {record} away; the next `ngxsync sync` is then a first contact"
    agent.host.path(record).unlink()
    assert agent.scan()["accepted"] is None
    agent.generation = None
    applied(agent, {PAGE: File("two\n")})


def test_an_old_snapshot_that_is_damaged_is_told_as_such(agent: Agent) -> None:
    first = agent.scan()["accepted"]["run"]
    applied(agent, {PAGE: File("two\n")})
    agent.host.path(f"{STATE}/peer/manifests/{first}.json").write_text('{"next": "nowhere", "delta": {}}')

    answer = agent.call("history", run=first, manifest=True)

    assert (answer["ok"], answer["code"]) == (False, "swept"), answer
    assert answer["message"]["what"] == f"the snapshot of run {first} is damaged"
    assert answer["message"]["where"] == f"{STATE}/peer/manifests/nowhere.json"
    assert "first contact" not in answer["message"]["next"]
    assert agent.scan()["ok"]

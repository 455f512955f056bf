"""What the peer keeps of old contents, for how long, and how much: keep_runs, keep_for and keep_size."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent import manifest as manifests
from ngxsync.agent.store import Store
from ngxsync.agent.sweep import ANSWERS, Keep, Run, kept_runs, sweep
from tests.agent import STATE, Agent, agent_argv
from tests.faults import Clock
from tests.hosts import Host
from tests.pair import ROOT, Pair, manifest_of, write_tree
from tests.resident import Resident, are_equal, by_hand, kept_contents, raise_if_not_held
from tests.test_apply import blobs, unchanged

DAY_S = 86400.0
PAGE = "html/index.html"
ALL = {"runs": 1000, "for_s": 14 * DAY_S, "size": 1 << 30}
FEW = {"runs": 2, "for_s": DAY_S, "size": 1 << 30}

# which runs: values in, names out

NOW = 1_800_000_000.0
run_lists = st.lists(st.tuples(st.floats(-30, 30), st.booleans(), st.booleans()), max_size=12).map(
    lambda rows: [
        Run(f"r{number}", number, NOW - days * DAY_S, is_accepted, is_accepted or has_edits)
        for number, (days, is_accepted, has_edits) in enumerate(rows, 1)
    ]
)
keeps = st.builds(Keep, st.integers(1, 6), st.floats(0.5, 20).map(lambda days: days * DAY_S), st.just(1 << 30))


@given(st.randoms(use_true_random=False), run_lists, keeps, st.integers(0, 12))
def test_the_kept_runs_are_the_latest_the_young_and_all_since(
    random: Any, runs: list[Run], keep: Keep, at: int
) -> None:
    needed = {run.name for run in runs[at : at + 1]}
    latest = [run.name for run in runs if run.is_accepted][-keep.runs :]
    young = [run.name for run in runs if run.holds and NOW - run.at < keep.for_s]
    shuffled = list(runs)
    random.shuffle(shuffled)

    kept = kept_runs(shuffled, keep, NOW, needed)

    assert kept >= {*latest, *young, *needed}
    holding = [run.name for run in runs if run.holds]
    suffix = [name for name in holding if name in kept]
    assert suffix == holding[len(holding) - len(suffix) :]
    if suffix:
        assert suffix[0] in {*latest, *young, *needed}


@given(run_lists, keeps, st.integers(1, 12))
def test_after_a_rollback_the_latest_are_counted_from_what_it_restored(runs: list[Run], keep: Keep, at: int) -> None:
    accepted = [run.name for run in runs if run.is_accepted and run.sequence <= at]
    restored = accepted[-1] if accepted else ""
    kept = kept_runs(runs, keep, NOW, set(), restored)
    assert kept >= {*accepted[-keep.runs :]} if accepted else kept == kept_runs(runs, keep, NOW, set())
    assert kept >= {run.name for run in runs if run.holds and accepted and run.sequence >= int(restored[1:])}


@given(st.integers(0, 300))
def test_answers_that_hold_nothing_are_bounded_by_their_number(count: int) -> None:
    runs = [Run(f"r{number}", number, NOW, False, False) for number in range(count)]
    assert kept_runs(runs, Keep(1, 1.0, 1), NOW, set()) == {run.name for run in runs[-ANSWERS:]}


# on a host


@pytest.fixture
def agent(pair: Pair) -> Agent:
    """The agent of web2, which has accepted its base tree."""
    agent = Agent(pair.web2)
    assert agent.transact(agent.plan({}))["outcome"] == "in-sync"
    return agent


def change(agent: Agent, wanted: Any, keep: dict[str, Any] | None = ALL) -> dict[str, Any]:
    """The answer of a run that makes this true: a text is the page's."""
    wanted = {PAGE: wanted} if isinstance(wanted, str) else wanted
    request = {**agent.plan(wanted), "reload": False}
    return agent.transact(request if keep is None else {**request, "keep": keep})


def changed(agent: Agent, wanted: Any, keep: dict[str, Any] | None = ALL) -> str:
    """The run that did it, without a word."""
    answer = change(agent, wanted, keep)
    assert (answer["outcome"], answer["warnings"]) == ("applied", []), answer
    return str(answer["run"])


def peer(host: Host, *parts: str) -> Path:
    return host.path("/".join((f"{STATE}/peer", *parts)))


def make_old(host: Host, *runs: str, days: float = 2.0) -> None:
    """As if they had ended so long ago; all of them where none is named."""
    for run in runs or recorded(host):
        then = time.time() - days * DAY_S
        os.utime(peer(host, "runs", f"{run}.json"), (then, then))


def recorded(host: Host) -> list[str]:
    """The runs whose answer is there."""
    return sorted(name[: -len(".json")] for name in os.listdir(peer(host, "runs")) if name.count(".") == 1)


def restorable(agent: Agent) -> list[str]:
    """The runs whose snapshot the history lists; all that each of them needs is there."""
    host, found = agent.host, []
    kept = {blob.name for blob in peer(host, "blobs").glob("*/*")}
    live = {fields[5] for fields in manifest_of(host).values()}
    for snapshot in agent.call("history")["snapshots"]:
        manifest = agent.call("history", run=snapshot["run"], manifest=True)
        assert manifest["ok"], manifest
        needed = {entry[6] for entry in manifest["manifest"].values() if entry[0] == "file"}
        assert needed <= kept | live, snapshot
        found.append(snapshot["run"])
    for run in recorded(host):
        told = agent.call("history", run=run)
        assert all(row[-1] for row in told["changes"] + told["edits"] if row[1] is not None), told
    return found


def test_nothing_is_swept_of_the_latest_runs_however_old(agent: Agent) -> None:
    runs = [changed(agent, f"page {number}\n") for number in range(4)]
    make_old(agent.host, days=1000)
    runs.append(changed(agent, "page 4\n", {**FEW, "runs": 6}))
    assert restorable(agent)[-5:] == runs
    assert {f"page {number}\n".encode() for number in range(4)} <= blobs(agent.host)


def test_nothing_is_swept_of_the_young_runs_however_many(agent: Agent) -> None:
    runs = [changed(agent, f"page {number}\n", FEW) for number in range(6)]
    assert restorable(agent)[-6:] == runs
    assert {f"page {number}\n".encode() for number in range(5)} <= blobs(agent.host)


def test_what_is_neither_young_nor_among_the_latest_is_swept(agent: Agent) -> None:
    for number in range(4):
        changed(agent, f"page {number}\n")
    make_old(agent.host)
    last = changed(agent, "page 4\n", FEW)
    assert len(restorable(agent)) == 2
    assert restorable(agent)[-1] == last
    assert blobs(agent.host) == {b"page 2\n", b"page 3\n"}
    assert len(recorded(agent.host)) == len(list(peer(agent.host, "manifests").iterdir())) == 2


def test_a_request_that_does_not_say_what_to_keep_sweeps_nothing(agent: Agent) -> None:
    for number in range(3):
        changed(agent, f"page {number}\n")
    make_old(agent.host)
    changed(agent, "page 3\n", None)
    assert len(restorable(agent)) == 5


@pytest.mark.parametrize(
    "keep", [{"runs": 0, "for_s": 1, "size": 1}, {"runs": 1}, [], {**FEW, "size": "much"}], ids=str
)
def test_what_no_master_would_ask_to_keep_is_refused(agent: Agent, keep: Any) -> None:
    request = agent.plan({PAGE: "new\n"})
    before = manifest_of(agent.host)
    answer = agent.call("transact", **{**request, "keep": keep})
    assert (answer["ok"], answer["code"]) == (False, "agent"), answer
    assert manifest_of(agent.host) == before


def test_a_content_that_a_kept_run_names_too_stays(agent: Agent) -> None:
    for text in ("shared\n", "one\n", "shared\n", "two\n", "three\n"):
        changed(agent, text)
    make_old(agent.host)
    changed(agent, "four\n", {**FEW, "runs": 3})
    assert blobs(agent.host) == {b"shared\n", b"two\n", b"three\n"}
    assert len(restorable(agent)) == 3


def test_between_young_runs_an_old_one_stays_since_the_way_back_goes_through_it(agent: Agent) -> None:
    runs = [changed(agent, f"page {number}\n") for number in range(4)]
    make_old(agent.host)
    now = time.time()
    os.utime(peer(agent.host, "runs", f"{runs[1]}.json"), (now, now))
    last = changed(agent, "page 4\n", {**FEW, "runs": 1})
    assert restorable(agent) == [*runs[1:], last]


def test_a_clock_that_was_ahead_makes_a_run_young_and_never_old(agent: Agent) -> None:
    runs = [changed(agent, f"page {number}\n") for number in range(3)]
    make_old(agent.host)
    make_old(agent.host, runs[2], days=-400)
    answer = change(agent, "page 3\n", {**FEW, "runs": 1})
    assert restorable(agent) == [runs[2], answer["run"]]
    [warning] = answer["warnings"]
    assert warning.startswith(f"{STATE}/peer/runs/{runs[2]}.json is dated in the future: what it and all later runs")
    make_old(agent.host)
    last = changed(agent, "page 4\n", {**FEW, "runs": 1})
    assert restorable(agent) == [last]


def test_a_clock_that_goes_a_year_ahead_makes_no_run_old(agent: Agent) -> None:
    """Within one boot no more time passes than the machine is up."""
    for number in range(4):
        changed(agent, f"page {number}\n")
    before = restorable(agent)
    clock = Clock(agent.host)
    clock.jump(365 * 24 * 3600)
    request = {**agent.plan({PAGE: "page 4\n"}), "reload": False, "keep": {**FEW, "runs": 1}}
    done = agent.host.run(agent_argv("transact"), input=json.dumps(agent.request(**request)), env=clock.environment)
    answer = json.loads(done.stdout)
    assert (answer["outcome"], answer["warnings"]) == ("applied", []), answer
    assert answer["at"] > time.time() + 364 * 24 * 3600
    assert restorable(agent) == [*before, answer["run"]]


def test_latest_is_by_number_where_the_clock_went_back(agent: Agent) -> None:
    runs = [changed(agent, f"page {number}\n") for number in range(4)]
    make_old(agent.host, days=99)
    for age, run in enumerate(runs):
        make_old(agent.host, run, days=100 + age)  # the later, the older
    last = changed(agent, "page 4\n", FEW)
    assert restorable(agent) == [runs[3], last]


def test_answers_of_runs_that_changed_nothing_are_bounded_too(agent: Agent) -> None:
    answer = change(agent, {"conf/vhosts/bad.conf": "nonsense;\n"})
    assert answer["outcome"] == "refused", answer
    for number in range(ANSWERS + 30):
        text = json.dumps({**answer, "run": f"r{number}", "sequence": 100 + number})
        peer(agent.host, "runs", f"r{number}.json").write_text(text)
    peer(agent.host, "sequence.json").write_text("1000")
    last = change(agent, {"conf/vhosts/bad.conf": "nonsense;\n"})
    assert (last["outcome"], last["warnings"]) == ("refused", [])
    left = recorded(agent.host)
    assert len([run for run in left if run.startswith("r")]) == ANSWERS - 1
    assert "r30" not in left
    assert {"r31", f"r{ANSWERS + 29}", last["run"]} <= set(left)


def test_a_damaged_record_of_changes_stops_the_sweep_of_contents_and_is_named(agent: Agent) -> None:
    runs = [changed(agent, f"page {number}\n") for number in range(4)]
    make_old(agent.host)
    record = peer(agent.host, "runs", f"{runs[3]}.changes.json")
    record.write_bytes(record.read_bytes()[:-20])
    before = blobs(agent.host)
    answer = change(agent, "page 4\n", FEW)
    assert answer["outcome"] == "applied"
    inside = f"{STATE}/peer/runs/{runs[3]}.changes.json"
    assert answer["warnings"] == [f"{inside} is damaged: no old content is swept until you remove it"]
    assert before <= blobs(agent.host)
    record.unlink()
    changed(agent, "page 5\n", FEW)
    make_old(agent.host)
    changed(agent, "page 6\n", FEW)
    assert blobs(agent.host) == {b"page 4\n", b"page 5\n"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", None])
def test_a_run_whose_answer_is_lost_keeps_what_it_replaced(agent: Agent, text: str | None) -> None:
    runs = [changed(agent, f"page {number}\n") for number in range(4)]
    make_old(agent.host)
    lost = peer(agent.host, "runs", f"{runs[1]}.json")
    lost.unlink() if text is None else lost.write_text(text)
    answer = change(agent, "page 4\n", FEW)
    assert answer["outcome"] == "applied"
    assert f"{STATE}/peer/runs/{runs[1]}.json is damaged or lost" in answer["warnings"][0]
    assert blobs(agent.host) == {b"page 0\n", b"page 2\n", b"page 3\n"}


def test_temporary_files_of_dead_processes_go_and_no_others(agent: Agent) -> None:
    host = agent.host
    dead, alive = int(host.run(["sh", "-c", "echo $$"]).stdout), host.nginx_main()
    names = ["blobs/new.{}", "runs/x.json.{}.tmp", "manifests/x.json.{}.tmp", "accepted.json.{}.tmp", "journal.{}.tmp"]
    for name in names:
        for pid in (dead, alive):
            peer(host, name.format(pid)).write_text("half a file")
    changed(agent, "new\n", None)
    files = [path for path in peer(host).rglob("*") if path.is_file() and path.read_bytes() == b"half a file"]
    assert {str(path.relative_to(peer(host))) for path in files} == {name.format(alive) for name in names}


def test_a_sweep_that_takes_too_long_for_who_waits_is_gone_on_with_by_the_next(agent: Agent) -> None:
    for number in range(8):
        changed(agent, f"page {number}\n")
    make_old(agent.host)
    store = Store(str(agent.host.path(STATE)))
    left = []
    while left[-2:] != [2, 2]:
        assert sweep(store, Keep(2, DAY_S, 1 << 30), time.time(), limit_s=0) == []
        left.append(len(restorable(agent)))
        assert {b"page 5\n", b"page 6\n"} <= blobs(agent.host)
    assert left[:8] == [8, 7, 6, 5, 4, 3, 2, 2]
    while peer(agent.host, "unswept").exists():
        sweep(store, Keep(2, DAY_S, 1 << 30), time.time(), limit_s=0)
    assert blobs(agent.host) == {b"page 5\n", b"page 6\n"}


def test_older_manifests_of_large_trees_take_little_and_can_still_be_gone_back_to(agent: Agent) -> None:
    wanted = {f"html/many/{number:04d}.html": f"{number}\n" for number in range(700)}
    many = changed(agent, {"html/many": "dir", **wanted})
    whole = agent.call("history", run=many, manifest=True)
    assert size_of_manifest(agent, many) > 64 << 10
    later = follow(agent, {PAGE: "new\n", "html/many/0001.html": None, "html/more.html": "more\n"})
    last = follow(agent, {PAGE: "newer\n"})
    assert size_of_manifest(agent, many) < 4096 < 64 << 10 < size_of_manifest(agent, last)
    assert agent.call("history", run=many, manifest=True) == whole
    assert restorable(agent)[-3:] == [many, later, last]
    make_old(agent.host)
    small = changed(agent, {"html/many": None}, FEW)
    assert restorable(agent) == [last, small]

    text = peer(agent.host, "manifests", f"{last}.json").read_text()
    for damaged in ("{", '{"next": "../x", "delta": {}}', json.dumps({"next": last, "delta": {}}), '{"next": "gone"}'):
        peer(agent.host, "manifests", f"{last}.json").write_text(damaged)
        answer = agent.call("history", run=last, manifest=True)
        assert (answer["ok"], answer["code"]) == (False, "swept"), answer
    peer(agent.host, "manifests", f"{last}.json").write_text(text)
    assert restorable(agent) == [last, small]


def follow(agent: Agent, wanted: dict[str, Any]) -> str:
    """As a master asks that knows what was accepted: the difference from that, which is what is live here."""
    before = agent.live()
    request = {**agent.plan(wanted), "reload": False, "keep": ALL, "base": "accepted"}
    planned = manifests.from_json(request["delta"])
    delta = manifests.delta(before, planned)
    request["delta"] = {path: None if entry is None else list(entry) for path, entry in delta.items()}
    answer = agent.transact(request)
    assert (answer["outcome"], answer["warnings"]) == ("applied", []), answer
    return str(answer["run"])


def size_of_manifest(agent: Agent, run: str) -> int:
    return peer(agent.host, "manifests", f"{run}.json").stat().st_size


# a crash, and disks


EVERY = 1 if os.environ.get("NGXSYNC_TEST_EVERY_STEP") else 4
KILLED_AT = [("unlink", number) for number in range(1, 30, EVERY)] + [("fsync", n) for n in range(1, 12, EVERY)]


def sweep_killed_at(agent: Agent, call: str, number: int) -> bool:
    """A recovery that sweeps all but two runs is killed at this call; True where it came so far."""
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e"]
    argv += [f"inject={call}:signal=KILL:when={number}", "--", *agent_argv("recover")]
    done = agent.host.run(argv, input=json.dumps(agent.request(keep=FEW)), check=False)
    return '"ok": true' not in done.stdout


@pytest.mark.timeout(600)
def test_sigkill_at_each_step_of_a_sweep_leaves_all_that_is_listed_restorable(agent: Agent) -> None:
    for number in range(4):
        changed(agent, f"page {number}\n")
    two = [changed(agent, f"page {number}\n") for number in (4, 5)]
    make_old(agent.host)
    whole, saved = peer(agent.host), agent.host.path("/srv/saved")
    agent.host.run(["cp", "-a", f"{STATE}/peer", "/srv/saved"])
    reached = []
    for point in KILLED_AT:
        agent.host.run(["sh", "-c", f"rm -rf {STATE}/peer && cp -a /srv/saved {STATE}/peer"])
        if sweep_killed_at(agent, *point):
            reached.append(point)
        assert restorable(agent)[-2:] == two, point
        assert {b"page 3\n", b"page 4\n"} <= blobs(agent.host), point
        assert agent.call("recover", keep=FEW) == {"ok": True, "recovered": None}, point
        assert restorable(agent) == recorded(agent.host) == two, point
        assert blobs(agent.host) == {b"page 3\n", b"page 4\n"}, point
    assert whole.exists()
    assert saved.exists()
    assert len(reached) > 15 // EVERY, reached
    assert {"unlink", "fsync"} == {call for call, _ in reached}


def test_a_recovery_keeps_the_edits_that_it_finds_and_what_is_kept(agent: Agent) -> None:
    for number in range(3):
        changed(agent, f"page {number}\n")
    make_old(agent.host)
    request = {**agent.plan({PAGE: "page 3\n", "html/more.html": "more\n"}), "keep": FEW}
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=kill", "-e", "inject=kill:signal=KILL:when=1", "--"]
    agent.host.run([*argv, *agent_argv("transact")], input=json.dumps(request), check=False)
    assert peer(agent.host, "journal").exists()
    agent.host.path(f"{ROOT}/{PAGE}").write_text("an edit after the crash\n")
    answer = agent.call("recover", keep=FEW)
    assert (answer["recovered"], answer["result"]) == (request["run"], "undone"), answer
    assert blobs(agent.host) == {b"page 0\n", b"page 1\n", b"an edit after the crash\n"}
    assert len(restorable(agent)) == 2


@contextmanager
def read_only(host: Host, inside: str) -> Iterator[None]:
    host.run(["mount", "--bind", inside, inside])
    host.run(["mount", "-o", "remount,ro,bind", inside])
    try:
        yield
    finally:
        host.unmount(inside)


@pytest.mark.parametrize("folder", ["blobs", "manifests"])
def test_a_disk_that_stops_the_sweep_is_a_warning_and_never_a_failed_run(agent: Agent, folder: str) -> None:
    for number in range(4):
        changed(agent, f"page {number}\n")
    make_old(agent.host)
    with read_only(agent.host, f"{STATE}/peer/{folder}"):
        answer = change(agent, {"html/created.html": "created\n"}, FEW) if folder == "blobs" else None
        recovered = agent.call("recover", keep=FEW)
    if answer is not None:
        assert (answer["ok"], answer["outcome"]) == (True, "applied"), answer
        assert "old contents could not be swept: [Errno 30] Read-only file system" in "".join(answer["warnings"])
    assert recovered["ok"], recovered
    assert "old contents could not be swept: [Errno 30] Read-only file system" in "".join(recovered["warnings"])
    changed(agent, "page 4\n", FEW)
    assert len(restorable(agent)) == 2


def test_a_full_disk_is_swept_as_any_other(agent: Agent) -> None:
    for number in range(4):
        changed(agent, f"page {number}\n")
    make_old(agent.host)
    there, aside = f"{STATE}/peer", f"{STATE}/aside"
    full = (
        f"mv {there} {aside}; mkdir {there}; mount -t tmpfs -o size=2m,mode=700 none {there}; cp -a {aside}/. {there}"
    )
    agent.host.run(["sh", "-c", f"{full}; dd if=/dev/zero of={there}/filler bs=4k; true"])
    try:
        assert os.statvfs(peer(agent.host)).f_bavail == 0
        assert agent.call("recover", keep=FEW) == {"ok": True, "recovered": None}
        assert os.statvfs(peer(agent.host)).f_bavail > 0
        assert blobs(agent.host) == {b"page 1\n", b"page 2\n"}
        assert len(restorable(agent)) == 2
    finally:
        agent.host.unmount(there)


# how much


def test_near_its_limit_a_run_warns_with_what_to_do(agent: Agent) -> None:
    big = "x" * 100_000
    changed(agent, big)
    answer = change(agent, "small\n", {**ALL, "size": 150 << 10})
    assert (answer["ok"], answer["outcome"]) == (True, "applied")
    [warning] = answer["warnings"]
    assert answer["store"] == warning
    assert "of the 150K that keep_size allows in /var/lib/ngxsync/peer; at 100% runs are held: " in warning
    assert "raise keep_size, or lower keep_runs (1000) or keep_for (14d), in [sync] of config.ini" in warning


def test_what_would_not_fit_is_held_and_nothing_changes(agent: Agent) -> None:
    changed(agent, "x" * 100_000)
    full = {**ALL, "size": 100 << 10}
    for force in ((), ("store",)):
        request = {**agent.plan({PAGE: "new\n"}), "keep": full, "force": force}
        with unchanged(agent.host):
            answer = agent.transact(request)
        assert (answer["ok"], answer["outcome"], answer["code"]) == (False, "held", "store"), answer
        message = answer["message"]
        assert "of the 100K that keep_size allows, and this run would add 1" in message["what"]
        assert (message["where"], message["state"]) == (f"{STATE}/peer", "unchanged")
        assert message["next"].startswith("raise keep_size, or lower keep_runs (1000) or keep_for (14d), in [sync]")
    assert agent.call("recover", keep=full)["ok"]
    changed(agent, "new\n", ALL)


def test_before_it_holds_a_run_all_that_may_go_is_swept(agent: Agent) -> None:
    for number in range(3):
        changed(agent, str(number) * 50_000)
    garbage = peer(agent.host, "blobs", "ab", "ab" + "0" * 62)
    garbage.parent.mkdir(exist_ok=True)
    garbage.write_bytes(b"x" * 500_000)
    make_old(agent.host)
    answer = change(agent, "after\n", {"runs": 1, "for_s": DAY_S, "size": 200 << 10})
    assert (answer["ok"], answer["outcome"]) == (True, "applied"), answer
    assert blobs(agent.host) == {b"2" * 50_000}


def test_a_first_contact_that_would_not_fit_is_held_too(pair: Pair) -> None:
    agent = Agent(pair.web2)
    agent.host.path(f"{ROOT}/html/video").write_bytes(b"v" * 300_000)
    with unchanged(agent.host):
        answer = change(agent, {"html/video": None}, {**ALL, "size": 200 << 10})
        assert (answer["outcome"], answer["code"]) == ("held", "store"), answer
    assert agent.transact({**agent.plan({"html/video": None}), "keep": ALL})["outcome"] == "applied"


# on the pair: the options, and what a person sees


def with_options(pair: Pair, **options: object) -> None:
    pair.write_config(sync="".join(f"{name} = {value}\n" for name, value in options.items()))


def save(pair: Pair, text: str) -> None:
    write_tree(pair.web1, ROOT, {PAGE: text})


def test_keep_runs_and_keep_for_decide_what_can_be_brought_back(synced: Resident) -> None:
    pair = synced.pair
    with_options(pair, keep_runs=2, keep_for="1h")
    for number in range(4):
        save(pair, f"page {number}\n")
        assert synced.sync().exit == 0
    assert {b"page 0\n", b"page 1\n", b"page 2\n"} <= kept_contents(pair.web2)
    make_old(pair.web2, days=0.5)
    save(pair, "page 4\n")
    assert synced.sync().warnings == ""
    assert kept_contents(pair.web2) == {b"page 2\n", b"page 3\n"}


def test_a_store_that_is_nearly_full_is_told_and_a_full_one_holds(synced: Resident) -> None:
    pair = synced.pair
    save(pair, "x" * 400_000)
    assert synced.sync().exit == 0
    with_options(pair, keep_size="500K")
    save(pair, "small\n")

    run = by_hand(pair)

    assert (run.exit, run.outcome) == (0, "applied"), run
    [warning] = run.peer["warnings"]
    assert warning.startswith("what is kept for history and rollback takes 4")
    assert (
        "of the 500K that keep_size allows in /var/lib/ngxsync/peer; at 100% runs are held: raise keep_size" in warning
    )
    status = pair.ngxsync("status")
    assert f"note: web2: {warning}" in status.stdout
    assert f"web2: {warning}" in json.loads(pair.ngxsync("status", "--json").stdout)["notes"]
    assert f"warning: {warning}" in pair.ngxsync("history", run.data["run"]).stdout

    write_tree(pair.web2, ROOT, {"html/edited.html": "e" * 100_000})
    save(pair, "next\n")
    before = manifest_of(pair.web2)
    raise_if_not_held(
        synced.sync(), "store", "of the 500K that keep_size allows, and this run would add 1", "raise keep_size"
    )
    told = pair.ngxsync("sync")
    assert told.returncode == 8
    assert "web2  held (store)" in told.stderr
    assert (
        "next: raise keep_size, or lower keep_runs (20) or keep_for (14d), in [sync] of config.ini; then" in told.stderr
    )
    forced = pair.ngxsync("sync", "--force", "store")
    assert (forced.returncode, "store cannot be overridden" in forced.stderr + forced.stdout) == (2, True)
    assert "web2: held" in pair.ngxsync("status").stdout
    assert manifest_of(pair.web2) == before

    with_options(pair, keep_size="1M")
    assert synced.sync().exit == 0
    assert are_equal(pair)
    assert "nearly" not in pair.ngxsync("status").stdout
    assert "keep_size" not in pair.ngxsync("status").stdout


def test_a_rollback_that_would_not_fit_is_held_as_a_sync_is(synced: Resident) -> None:
    pair = synced.pair
    for text in ("small\n", "y" * 300_000):
        save(pair, text)
        assert synced.sync().exit == 0
    with_options(pair, keep_size="200K")
    before = manifest_of(pair.web2)
    done = pair.ngxsync("rollback", "--yes")
    assert (done.returncode, "held (store)" in done.stderr) == (8, True), done
    assert "would add 3" in done.stderr
    assert manifest_of(pair.web2) == before
    with_options(pair)
    assert pair.ngxsync("rollback", "--yes").returncode == 0
    assert pair.web2.path(f"{ROOT}/{PAGE}").read_text() == "small\n"


def test_the_daemon_tells_its_log_of_a_store_that_is_nearly_full(pair: Pair) -> None:
    with_options(pair, keep_size="500K")
    save(pair, "x" * 400_000)
    assert pair.ngxsync("sync", "--yes").returncode == 0
    with pair.daemon() as daemon:
        save(pair, "small\n")
        daemon.wait_for("what is kept for history and rollback takes 4")


def test_what_history_lists_can_be_rolled_back_to_after_a_sweep(synced: Resident) -> None:
    pair = synced.pair
    with_options(pair, keep_runs=3, keep_for="1h")
    for number in range(5):
        save(pair, f"page {number}\n")
        assert synced.sync().exit == 0
    make_old(pair.web2, days=1)
    save(pair, "page 5\n")
    assert synced.sync().exit == 0
    for number in (4, 3):
        done = pair.ngxsync("rollback", "--yes")
        assert done.returncode == 0, done
        assert pair.web2.path(f"{ROOT}/{PAGE}").read_text() == f"page {number}\n"
        assert Agent(pair.web2).call("recover", keep={**ALL, "runs": 3, "for_s": 60.0})["ok"]  # and sweeps
    done = pair.ngxsync("rollback", "--yes")
    assert done.returncode == 2, done
    assert pair.web2.path(f"{ROOT}/{PAGE}").read_text() == "page 3\n"

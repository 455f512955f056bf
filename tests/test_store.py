"""What the peer keeps, its locks, and what happens where its disks are full, read-only or damaged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ngxsync.agent.manifest import Entry
from ngxsync.agent.store import Busy, Damaged, Store
from tests.agent import STATE, Agent, agent_argv
from tests.hosts import PROJECT, Host
from tests.pair import ROOT, Pair, manifest_of
from tests.test_apply import applied, blobs, left_behind, live, planned, unchanged

ENTRY = Entry("file", 0o644, "root", "root", 1, 2, "0" * 64)


@pytest.fixture
def agent(pair: Pair) -> Agent:
    agent = Agent(pair.web2)
    assert agent.transact(agent.plan({}))["outcome"] == "in-sync"
    return agent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    store.prepare()
    return store


# records


def test_nobody_else_may_look_in(agent: Agent) -> None:
    applied(agent, {"html/index.html": "new\n"})
    for folder, _, names in os.walk(agent.host.path(f"{STATE}/peer")):
        assert Path(folder).stat().st_mode & 0o077 == 0, folder
        for name in names:
            assert Path(folder, name).stat().st_mode & 0o077 == 0, name


def test_damaged_records_are_named(store: Store) -> None:
    for text in ("", "{", "[]", '{"run": 1}', "\0\0"):
        Path(store.path("accepted.json")).write_text(text)
        with pytest.raises(Damaged, match=r"accepted\.json"):
            store.accepted()
    store.accept({"generation": "a", "id": "1", "run": "r1"}, {"/t": ENTRY})
    manifest = Path(store.path("manifests/r1.json"))
    for text in ("{", '{"/t": 1}', "[]"):
        manifest.write_text(text)
        with pytest.raises(Damaged, match=r"r1\.json"):
            store.accepted_manifest(store.accepted())
    manifest.unlink()
    with pytest.raises(Damaged, match=r"r1\.json"):
        store.accepted_manifest(store.accepted())


def test_a_damaged_accepted_record_stops_a_run_and_says_what_to_do(agent: Agent) -> None:
    request = agent.plan({"html/index.html": "new\n"})
    record = agent.host.path(f"{STATE}/peer/accepted.json")
    record.write_text("{")
    before = manifest_of(agent.host)
    for verb, more in (("transact", request), ("scan", {"generation": None})):
        answer = agent.call(verb, **more)
        assert (answer["ok"], answer["code"]) == (False, "disk"), answer
        assert answer["message"]["where"] == f"{STATE}/peer/accepted.json"
        assert "move the file away" in answer["message"]["next"]
    assert manifest_of(agent.host) == before
    record.unlink()
    agent.generation = None
    applied(agent, {"html/index.html": "new\n"})


def test_history_is_ordered_by_number_not_by_clock(agent: Agent) -> None:
    numbers = [agent.transact(agent.plan({"html/x": str(number)}))["sequence"] for number in range(3)]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("damage", ["", "{", '"7"', None])
def test_a_damaged_number_stops_no_run_and_history_stays_in_order(agent: Agent, damage: str | None) -> None:
    before = applied(agent, {"html/x": "1"})
    record = agent.host.path(f"{STATE}/peer/sequence.json")
    record.unlink() if damage is None else record.write_text(damage)
    answer = applied(agent, {"html/x": "2"})
    assert answer["sequence"] == before["sequence"] + 1
    told = [] if damage is None else [f"{STATE}/peer/sequence.json was damaged: counted on from the kept answers"]
    assert answer["warnings"] == told
    answer = applied(agent, {"html/x": "3"})
    assert (answer["sequence"], answer["warnings"]) == (before["sequence"] + 2, [])


def test_the_same_run_asked_twice_is_done_once(agent: Agent) -> None:
    request = agent.plan({"html/index.html": "new\n"})
    first = agent.transact(request)
    reloads = agent.host.reload_count()
    assert agent.transact(request) == first
    assert agent.host.reload_count() == reloads
    shown = agent.call("show", run=request["run"])
    assert (shown["state"], shown["answer"]) == ("done", first)
    assert agent.call("show", run="never")["state"] == "unknown"


def test_a_blob_is_named_by_what_was_copied(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    fd = os.open(tmp_path, os.O_RDONLY)
    name = store.keep_blob("file", fd)
    assert Path(store.blob(name)).read_text() == "content"
    assert Path(store.blob(name)).stat().st_ino != (tmp_path / "file").stat().st_ino
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match="link"):
        store.keep_blob("link", fd)
    assert os.listdir(store.path("blobs")) == [name[:2]]
    for bad in ("../../x", "", "A" * 64):
        with pytest.raises(ValueError, match="sha256"):
            store.blob(bad)


# locks


HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from ngxsync.agent.store import Store
with Store(sys.argv[2]).lock(sys.argv[3], "theirs"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(host: Host, name: str) -> Iterator[int]:
    """A process on the host that holds a lock; its number there."""
    argv = [sys.executable, "-c", HOLD, str(PROJECT), STATE, name]
    with host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield host.pid_inside(process)
        process.stdin.close()


@pytest.mark.parametrize("name", ["transaction", "mixed"])
def test_a_lock_that_is_held_ends_a_run_and_says_by_whom_since_when(agent: Agent, name: str) -> None:
    request = agent.plan({"html/index.html": "new\n"})
    since = time.strftime("%Y-%m-%d %H:%M")
    with held(agent.host, name) as pid, unchanged_tree(agent.host):
        answer = agent.transact(request)
    assert (answer["ok"], answer["code"]) == (False, "locked")
    assert re.fullmatch(
        rf"process {pid} \(run theirs\) is at work here since {since[:-1]}.:\d\d", answer["message"]["what"]
    )
    assert not agent.host.path(f"{STATE}/peer/journal").exists()
    applied(agent, {"html/index.html": "new\n"})


@contextmanager
def unchanged_tree(host: Host) -> Iterator[None]:
    before, reloads = manifest_of(host), host.reload_count()
    yield
    assert (manifest_of(host), host.reload_count()) == (before, reloads)


def test_the_lock_of_a_dead_process_does_not_block(agent: Agent) -> None:
    agent.host.path(f"{STATE}/peer/transaction.lock").write_text('{"pid": 1, "run": "dead", "since": 1}')
    applied(agent, {"html/index.html": "new\n"})
    assert agent.call("show", run="dead")["state"] == "unknown"


def test_a_second_run_waits_for_the_first_and_status_sees_it(agent: Agent) -> None:
    first, second = agent.plan({"html/index.html": "new\n"}), {}
    with held(agent.host, "transaction"):
        running = agent.call("show", run="theirs")
        assert running["state"] == "running"
        argv = agent_argv("transact")
        process = agent.host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(first))
        process.stdin.close()
    second = json.loads(process.stdout.read())
    process.wait()
    process.stdout.close()
    assert second["outcome"] == "applied"


def test_recover_while_a_run_is_at_work_waits_then_says_so(agent: Agent) -> None:
    with held(agent.host, "transaction") as pid:
        answer = agent.call("recover", wait_s=0.1)
    assert (answer["ok"], answer["code"]) == (False, "locked")
    assert f"process {pid} " in answer["message"]["what"]


def test_a_look_at_a_lock_takes_nothing(store: Store) -> None:
    assert store.holder("transaction") is None
    assert not os.path.exists(store.path("transaction.lock"))
    with store.lock("transaction", "r1"):
        holder = store.holder("transaction")
        assert holder is not None
        assert (holder["pid"], holder["run"]) == (os.getpid(), "r1")
        with pytest.raises(Busy), store.lock("transaction", "r2", 0.05):
            pass
    assert store.holder("transaction") is None


# disks


@contextmanager
def mounted(host: Host, point: str, size: str) -> Iterator[None]:
    """A file system of its own at a path of the host, with what was there."""
    host.run(
        [
            "sh",
            "-c",
            f"cp -a {point} /srv/copy && mount -t tmpfs -o size={size} small {point} && cp -a /srv/copy/. {point}/",
        ]
    )
    yield
    host.run(["umount", "-l", point])


def fill(host: Host, folder: str) -> Path:
    """Leaves no room in the file system of this folder."""
    file = host.path(f"{folder}/.filling.swp")
    host.run(
        [
            "sh",
            "-c",
            f"head -c 1000000000 /dev/zero > {folder}/.filling.swp; head -c 1000000 /dev/zero >> {folder}/.filling.swp",
        ],
        check=False,
    )
    assert os.statvfs(file).f_bavail == 0
    return file


def test_a_full_state_directory_changes_nothing_and_heals(agent: Agent) -> None:
    with mounted(agent.host, STATE, "2m"):
        request = agent.plan({"html/index.html": "new\n", "html/big": "x" * 300_000})
        filling = fill(agent.host, STATE)
        with unchanged(agent.host):
            answer = agent.transact(request)
        assert (answer["ok"], answer["code"]) == (False, "disk"), answer
        assert "No space left on device" in answer["message"]["what"]
        assert agent.call("scan", generation=None)["ok"]
        filling.unlink()
        applied(agent, {"html/index.html": "new\n"})


def test_a_full_tree_changes_nothing_and_heals(pair: Pair) -> None:
    agent = Agent(pair.web2, root="/srv/tree")
    agent.settings["conf"] = f"{ROOT}/conf/nginx.conf"
    tree = agent.host.path("/srv/tree")
    tree.mkdir()
    agent.host.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", "/srv/tree"])
    assert agent.transact(agent.plan({"page": "old\n"}))["outcome"] == "applied"
    state = manifest_of(agent.host, "/srv/tree")
    request = agent.plan({"page": "new\n", "copied": "c\n"})
    os.link(tree / f".ngxsync/{request['run']}/stage/page", tree / ".other.swp")  # so that it must be copied
    filling = fill(agent.host, "/srv/tree")
    answer = agent.transact(request)
    assert (answer["ok"], answer["code"]) == (False, "disk"), answer
    filling.unlink()
    (tree / ".other.swp").unlink()
    assert manifest_of(agent.host, "/srv/tree") == state
    assert os.listdir(tree / ".ngxsync") == []
    assert agent.transact(agent.plan({"page": "new\n"}))["outcome"] == "applied"
    assert (tree / "page").read_text() == "new\n"


@pytest.mark.parametrize("point", [ROOT, STATE])
def test_a_read_only_disk_changes_nothing_and_heals(agent: Agent, point: str) -> None:
    request = agent.plan({"html/index.html": "new\n"})
    agent.host.run(["mount", "--bind", point, point])
    agent.host.run(["mount", "-o", "remount,bind,ro", point])
    with unchanged_tree(agent.host):
        answer = agent.transact(request)
        staged = agent.call("stage", run="r", trees=[ROOT])
    agent.host.run(["umount", "-l", point])
    for found in (answer, staged):
        assert (found["ok"], found["code"]) == (False, "disk"), found
        assert "Read-only file system" in found["message"]["what"]
        assert found["message"]["state"] == "unchanged"
    applied(agent, {"html/index.html": "new\n"})


def test_a_run_that_cannot_be_recorded_is_put_back_and_says_so(agent: Agent) -> None:
    request = agent.plan({"html/index.html": "new\n"})
    in_the_way = agent.host.path(f"{STATE}/peer/manifests/{request['run']}.json")
    in_the_way.mkdir()
    before = manifest_of(agent.host)
    answer = agent.transact(request)
    assert (answer["outcome"], answer["code"]) == ("failed", "disk"), answer
    assert answer["message"]["state"] == "its old files are back"
    assert answer["message"]["next"] == "see the space, rights and health of the file systems of web2"
    assert manifest_of(agent.host) == before
    in_the_way.rmdir()
    applied(agent, {"html/index.html": "new\n"})


def test_state_on_another_file_system_than_the_tree(agent: Agent) -> None:
    with mounted(agent.host, STATE, "20m"):
        was = live(agent.host, "html/index.html").read_bytes()
        applied(agent, {"html/index.html": "new\n", "html/more": "m\n"})
        assert was in blobs(agent.host)


def test_a_mount_below_the_tree_has_its_own_folder(agent: Agent) -> None:
    applied(agent, {"html/mounted": "dir"})
    agent.host.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "below", f"{ROOT}/html/mounted"])
    wanted = {"html/mounted/a": "1", "html/mounted/sub": "dir", "html/mounted/sub/b": "2", "html/index.html": "both\n"}
    applied(agent, wanted)
    request = agent.plan(
        {"html/mounted/a": "3", "html/mounted/sub": None, "conf/vhosts/x.conf": "server { listen 8181; }\n"}
    )
    before = manifest_of(agent.host)
    with agent.host.socket() as taken:
        taken.bind(("0.0.0.0", 8181))
        taken.listen()
        assert agent.transact(request)["outcome"] == "undone"
    assert manifest_of(agent.host) == before
    assert os.listdir(live(agent.host, "html/mounted/.ngxsync")) == []
    assert left_behind(agent.host) == []
    assert planned(request) != before


def test_a_host_that_is_promoted_while_its_first_run_is_at_work_is_not_taken_over(pair: Pair) -> None:
    """It has no record that could be another one than the run has seen; its mark is."""
    agent = Agent(pair.web2)
    request = {**agent.plan({"html/new.html": "of web1"}), "seen": None}
    assert agent.call("promote", written_by="web2")["ok"]
    answer = agent.transact(request)
    assert (answer["ok"], answer["code"]) == (False, "peer-changed"), answer
    assert agent.scan()["accepted"]["kind"] == "promote"
    seen = agent.scan()["accepted"]["generation"]  # by a person's sync, who was told
    answer = agent.transact({**agent.plan({"html/new.html": "of web1"}), "seen": seen})
    assert (answer["ok"], answer["outcome"]) == (True, "applied"), answer

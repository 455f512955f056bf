"""The master's memory on a real disk: private, ordered by sequence, honest when damaged; locks between processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ngxsync.agent.manifest import FILE, Entry
from ngxsync.core.errors import Locked, Message, StateError
from ngxsync.core.memory import PeerRecord, Quarantined, Refused
from ngxsync.core.wording import disk_message
from ngxsync.edges.state import ALL, MasterState

MANIFEST = {"/t/odd\udcff\nname": Entry(FILE, 0o644, "root", "www", 1, 2, "ab")}
FULL = PeerRecord(
    "web2",
    generation="g1",
    accepted="f" * 64,
    accepted_at=5.0,
    proven=True,
    self_excludes={"/t": ("/logs/", "/run/*.pid")},
    master_roots={"/t": {"real": "/t", "dev": 1, "ino": 2, "mounts": []}},
    peer_roots={"/t": {"real": "/t", "dev": 3, "ino": 4, "mounts": ["html"]}},
    quarantine=(Quarantined("a" * 64, "bind() failed", 4.0),),
    refused=Refused("b" * 64, "unknown directive", 3.0, 2),
    open_run="00000007-ab",
    word="refused",
    since=3.0,
    message=Message("what", "where", "state", "next"),
    last_run="00000006-cd",
    last_run_at=4.5,
    last_outcome="refused",
    last_exit=5,
    tenure="0123",
    peer_tenure="4567",
    received="00000005-ef",
    pulled={**MANIFEST, "/t/gone": None},
)


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(tmp_path: Path, clock: Clock) -> MasterState:
    return MasterState(tmp_path / "ngxsync" / "master", clock)


def again(state: MasterState) -> MasterState:
    """The state as another process would find it."""
    return MasterState(state.root, state.now)


def test_a_peer_comes_back_as_it_was_saved(state: MasterState) -> None:
    state.save_peer(FULL)
    assert again(state).load_peer("web2") == FULL


def test_a_peer_never_met_is_no_memory_and_reading_makes_no_files(state: MasterState) -> None:
    assert state.load_peer("web2") == PeerRecord("web2")
    assert state.load_peer("web2").generation is None
    assert state.history() == []
    assert state.active_pause("web2") is None
    assert not state.root.parent.exists()


def test_everything_is_private(state: MasterState) -> None:
    old = os.umask(0)
    try:
        state.save_peer(FULL)
        state.save_accepted("web2", "g1", MANIFEST)
        state.record_run(state.new_run_id("ab"), {})
        state.pause(ALL, "ann", "work")
        with state.lock("web2", 0):
            pass
    finally:
        os.umask(old)
    for path in [state.root.parent, *state.root.parent.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_directory_that_stands_open_is_closed(state: MasterState) -> None:
    state.root.mkdir(parents=True)
    state.root.chmod(0o755)
    state.save_peer(FULL)
    assert state.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null x",
        b"[]",
        b"7",
        b'"x"',
        b"\xff\xfe",
        b'{"generation": 7}',
        b'{"refused": {"x": 1}}',
        b"[" * 99999,
        b'{"since": "soon"}',
        b'{"message": {"what": 3}}',
        b'{"quarantine": [3]}',
        b'{"proven": "x"}',
        b'{"accepted": 1}',
        b'{"self_excludes": {"/t": 3}}',
        b'{"peer_roots": {"/t": 1}}',
        b'{"last_exit": "x"}',
    ],
)
def test_a_damaged_record_is_no_memory_and_says_so(state: MasterState, damage: bytes) -> None:
    state.save_peer(FULL)
    path = state.root / "peers" / "web2.json"
    path.write_bytes(damage)
    found = state.load_peer("web2")
    assert found.message is not None
    assert replace(found, message=None) == PeerRecord("web2")
    assert found.message.what == "what this host remembers of web2 is damaged"
    assert found.message.where == str(path)
    state.save_peer(FULL)
    assert state.load_peer("web2") == FULL


def test_a_field_of_a_later_release_does_no_harm(state: MasterState) -> None:
    state.save_peer(FULL)
    path = state.root / "peers" / "web2.json"
    data = json.loads(path.read_text())
    for part in (data, data["refused"], data["message"], *data["quarantine"]):
        part["of_tomorrow"] = {"boot": 1}
    path.write_text(json.dumps(data))
    assert state.load_peer("web2") == FULL


def test_the_copy_of_accepted_counts_for_its_own_generation_only(state: MasterState) -> None:
    assert state.load_accepted("web2", "g1") is None
    state.save_accepted("web2", "g1", MANIFEST)
    assert again(state).load_accepted("web2", "g1") == MANIFEST
    assert state.load_accepted("web2", "g2") is None
    assert state.load_accepted("web2", None) is None
    (state.root / "peers" / "web2.manifest.json").write_text('{"generation": "g1", "manifest": {"/t": [1]}}')
    assert again(state).load_accepted("web2", "g1") is None


@pytest.mark.parametrize("name", ["../../etc/x", ".", "..", "a/b", "x.manifest", ".hidden", "web2.example.com", "é"])
def test_no_name_of_a_peer_leads_elsewhere(state: MasterState, name: str) -> None:
    state.save_accepted("x", "g", {})
    state.save_peer(PeerRecord(name, generation="g1"))
    assert state.load_peer(name).generation == "g1"
    assert state.load_accepted("x", "g") == {}
    assert len(list((state.root / "peers").iterdir())) == 2


def test_self_excludes_only_accumulate() -> None:
    grown = FULL.with_self_excludes("/t", ("/cache/", "/logs/")).with_self_excludes("/u", ("/a",))
    assert grown.self_excludes == {"/t": ("/logs/", "/run/*.pid", "/cache/"), "/u": ("/a",)}
    assert replace(grown, self_excludes=FULL.self_excludes) == FULL


def test_quarantine_is_by_snapshot() -> None:
    assert FULL.why_quarantined("a" * 64) == "bind() failed"
    assert FULL.why_quarantined("b" * 64) is None


def test_a_quarantine_ends_when_the_peer_changes() -> None:
    record = PeerRecord("web2", quarantine=(Quarantined("a" * 64, "bind() failed", 4.0, "p" * 64),))
    assert record.why_quarantined("a" * 64, "p" * 64) == "bind() failed"
    assert record.why_quarantined("a" * 64, "q" * 64) is None


def test_a_refusal_of_the_same_snapshot_is_one_try_more() -> None:
    once = PeerRecord("web2").with_refusal("a" * 64, "unknown directive", 5.0)
    again = once.with_refusal("a" * 64, "no such file", 9.0).refused
    assert again is not None
    assert (again.why, again.since, again.tries) == ("no such file", 5.0, 2)
    other = once.with_refusal("b" * 64, "unknown directive", 9.0).refused
    assert other is not None
    assert (other.since, other.tries) == (9.0, 1)


def test_runs_are_ordered_by_sequence_and_not_by_clock(state: MasterState, clock: Clock) -> None:
    for number in range(12):
        clock.time -= 1
        run = again(state).new_run_id("ff" if number % 2 else "00")
        state.record_run(run, {"outcome": "applied", "at": clock.time})
    assert [run["run"][:8] for run in state.history(3)] == ["00000012", "00000011", "00000010"]
    assert len(state.history()) == 12
    assert state.load_run("00000002-ff") == {"run": "00000002-ff", "outcome": "applied", "at": 998.0}
    assert state.load_run("00000002-00") is None


def test_run_ids_never_come_twice(state: MasterState) -> None:
    first = state.new_run_id("aa")
    assert (first, state.new_run_id("aa")) == ("00000001-aa", "00000002-aa")
    state.record_run("00000009-aa", {})
    assert state.new_run_id("aa") == "00000010-aa"
    (state.root / "sequence").write_text("{damaged")
    assert state.new_run_id("aa") == "00000010-aa"
    (state.root / "runs" / "notes.json").write_text("not ours")
    (state.root / "runs" / "99999999-x.txt").write_text("not ours")
    assert state.new_run_id("aa") == "00000011-aa"


def test_history_is_never_rewritten(state: MasterState) -> None:
    state.record_run("00000001-aa", {"outcome": "applied"})
    with pytest.raises(StateError, match="recorded already"):
        state.record_run("00000001-aa", {"outcome": "broken"})
    assert state.history() == [{"run": "00000001-aa", "outcome": "applied"}]


def test_a_damaged_run_is_shown_as_such(state: MasterState) -> None:
    state.record_run("00000001-aa", {"outcome": "applied"})
    state.record_run("00000002-bb", {"outcome": "applied"})
    (state.root / "runs" / "00000001-aa.json").write_text("{")
    assert state.history()[1] == {"run": "00000001-aa", "outcome": "unknown", "damaged": True}


def test_old_runs_are_forgotten_and_their_numbers_are_not(state: MasterState) -> None:
    for _ in range(5):
        state.record_run(state.new_run_id("aa"), {})
    state.forget_runs(2, keep_runs=20, keep_for_s=60)
    assert [run["run"] for run in state.history()] == ["00000005-aa", "00000004-aa"]
    assert state.new_run_id("aa") == "00000006-aa"


def test_runs_that_changed_something_are_kept_as_long_as_on_the_peers(state: MasterState, clock: Clock) -> None:
    changed, quiet = {"peers": [{"outcome": "applied"}]}, {"peers": [{"outcome": "refused"}]}
    for record in (changed, changed, changed, changed, quiet, quiet, quiet):
        state.record_run(state.new_run_id("aa"), record)
    for number, path in enumerate(sorted((state.root / "runs").iterdir())):
        os.utime(path, (clock.time, clock.time - (90 if number in (0, 2, 3) else 30)))
    state.forget_runs(2, keep_runs=1, keep_for_s=60)
    assert [run["run"] for run in state.history()] == [f"0000000{number}-aa" for number in (7, 6, 4, 2)]


def test_a_pause_survives_and_ends_by_itself(state: MasterState, clock: Clock) -> None:
    made = state.pause("web2", "ann", "moving disks", for_s=60)
    assert again(state).active_pause("web2") == made
    assert (made.who, made.reason, made.since, made.until) == ("ann", "moving disks", 1000.0, 1060.0)
    assert state.active_pause("web3") is None
    clock.time += 59.9
    assert state.active_pause("web2") == made
    clock.time += 0.1
    assert state.active_pause("web2") is None
    assert state.active_pause("web2", now=1059.0) == made
    assert state.resume("web2") == ()


def test_a_pause_for_all_holds_every_peer_until_resume(state: MasterState, clock: Clock) -> None:
    for_all = state.pause(ALL, "ann", "holiday")
    own = state.pause("web2", "bob", "disk")
    clock.time += 1e9
    assert (state.active_pause("web2"), state.active_pause("web3")) == (own, for_all)
    assert state.resume("web2") == (own,)
    assert state.active_pause("web2") == for_all
    assert state.resume() == (for_all,)
    assert state.active_pause("web2") is None


def test_resume_ends_every_pause(state: MasterState) -> None:
    paused = [state.pause(name, "ann", "x") for name in ("web2", "web3")]
    assert list(state.resume()) == paused
    assert state.resume() == ()


@pytest.mark.parametrize("damage", ["{", "[]", '{"": 3}', '{"": {"who": "x"}}'])
def test_damaged_pauses_stop_everything_with_a_reason(state: MasterState, damage: str) -> None:
    state.pause(ALL, "ann", "x")
    (state.root / "pauses.json").write_text(damage)
    with pytest.raises(StateError, match="the pauses are damaged"):
        state.active_pause("web2")


HOLDER = """
import sys
from pathlib import Path
from ngxsync.edges.state import MasterState
with MasterState(Path(sys.argv[1]), lambda: 86400.0).lock(sys.argv[2], 0, run="00000007-ab"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process_holds(state: MasterState, peer: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(state.root), peer]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("held", "wanted"), [("web2", "web2"), ("web2", ALL), (ALL, "web2"), (ALL, ALL)])
def test_a_held_lock_names_its_holder(state: MasterState, held: str, wanted: str) -> None:
    with other_process_holds(state, held) as process:
        with pytest.raises(Locked) as caught, state.lock(wanted, 0.1):
            pytest.fail("two runs at once")
        assert f"lock of process {process.pid}, run 00000007-ab, since 1970-01-0" in caught.value.message.what
        assert caught.value.exit_status == 9
        assert caught.value.message.state == "nothing changed"


def test_runs_for_two_peers_go_side_by_side(state: MasterState) -> None:
    with other_process_holds(state, "web2"), state.lock("web3", 0):
        pass


def test_a_killed_holder_blocks_nobody(state: MasterState) -> None:
    for held in ("web2", ALL):
        with other_process_holds(state, held) as process:
            process.send_signal(signal.SIGKILL)
            process.wait()
            with state.lock(ALL, 0), pytest.raises(Locked), again(state).lock("web2", 0):
                pytest.fail("two runs at once")


def test_a_lock_is_waited_for(state: MasterState) -> None:
    with other_process_holds(state, "web2") as process:
        assert process.stdin is not None
        process.stdin.close()
        with state.lock("web2", 30):
            pass


def test_a_lock_is_free_again_after_an_error(state: MasterState) -> None:
    with pytest.raises(ZeroDivisionError), state.lock("web2", 0):
        raise ZeroDivisionError
    with state.lock(ALL, 0):
        pass


CROWDED = """
import resource, sys
from pathlib import Path
from ngxsync.core.errors import StateError
from ngxsync.core.memory import PeerRecord
from ngxsync.edges.state import MasterState
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    MasterState(Path(sys.argv[1]), lambda: 0.0).save_peer(PeerRecord("web2", generation="new"))
except StateError as error:
    print(error)
"""


def test_no_room_is_a_clear_error_and_keeps_the_old_record(state: MasterState) -> None:
    state.save_peer(FULL)
    done = subprocess.run([sys.executable, "-c", CROWDED, str(state.root)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "web2.json: cannot write: File too large" in done.stdout
    assert "now: its old content is kept" in done.stdout
    assert state.load_peer("web2") == FULL
    assert [path.name for path in (state.root / "peers").iterdir()] == ["web2.json"]


def test_a_full_disk_and_a_closed_door_are_named() -> None:
    path = Path("/var/lib/ngxsync/master/pauses.json")
    full = disk_message(path, "write", OSError(errno.ENOSPC, "No space left on device"))
    assert (full.what, full.where, full.next) == ("cannot write: the disk is full", str(path), "make room there")
    closed = disk_message(path, "read", PermissionError(errno.EACCES, "Permission denied"))
    assert closed.what == "cannot read: permission denied"
    assert "root" in closed.next


def test_a_file_in_the_place_of_a_directory_is_a_clear_error(state: MasterState) -> None:
    state.root.parent.mkdir(parents=True)
    state.root.write_text("")
    for attempt in (lambda: state.save_peer(FULL), lambda: state.load_peer("web2"), lambda: state.history()):
        with pytest.raises(StateError, match="cannot"):
            attempt()


def test_reading_the_status_needs_no_lock_and_no_heavy_import(state: MasterState) -> None:
    state.save_peer(FULL)
    code = (
        "import sys; from pathlib import Path; from ngxsync.edges.state import MasterState;"
        "print(MasterState(Path(sys.argv[1]), lambda: 0.0).load_peer('web2').word);"
        "heavy = {'fabric', 'paramiko', 'rich', 'apscheduler', 'watchdog', 'crossplane', 'click', 'asyncio'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    with other_process_holds(state, ALL):
        done = subprocess.run(
            [sys.executable, "-c", code, str(state.root)], capture_output=True, text=True, check=False, timeout=30
        )
    assert done.stdout == "refused\n[]\n", done.stderr

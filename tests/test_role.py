"""What a host is in VRRP, noted by whoever notices it: each change is told once, in order, whatever comes twice or late."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxsync.agent import addresses, role, spool, vrrp
from ngxsync.agent.answers import Failure
from ngxsync.agent.manifest import Entry, Manifest
from ngxsync.agent.promotion import promote
from ngxsync.agent.request import raise_if_not_yours, received_run, who_syncs
from ngxsync.agent.store import Store
from ngxsync.assembly import Assembly
from ngxsync.cli.promote import failure_of
from ngxsync.core.carrying import Carrying, carrying_from_json, carrying_of, carrying_text, json_carrying, judge_vrrp
from ngxsync.core.config import load_config
from ngxsync.core.errors import ConfigError
from ngxsync.core.events import event_from_json
from ngxsync.core.outbox import Outbox, taken
from ngxsync.core.plan import make_plan, with_received
from ngxsync.core.standing import Standing, by_record, by_vip, why_not_healed
from ngxsync.daemon.roles import Roles
from ngxsync.edges.vip import Direction
from tests.hosts import wait_until

VIPS = ["192.0.2.100"]


def events(state: Path) -> list[dict[str, Any]]:
    folder = state / "spool/new"
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))] if folder.exists() else []


words = st.tuples(st.sampled_from(role.ROLES), st.booleans(), st.sampled_from(["t1", "t2"]))


@given(st.lists(words, max_size=12))
@settings(max_examples=60)
def test_each_change_is_one_event_and_what_is_noted_is_the_latest(told: list[tuple[str, bool, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state, expected, known, tenure = Path(folder), [], "", ""
        for word, is_told, at in told:
            is_told = is_told or word in (role.FAULT, role.STOP)  # the daemon by itself sees master and backup alone
            now = at if word == role.MASTER else ""
            role.turn(folder, word, VIPS, now, told=is_told)
            stays = not is_told and word == role.BACKUP and known in (role.FAULT, role.STOP)
            if stays or (word == known and (not now or tenure in ("", now))):
                tenure = now or tenure
                continue
            if known or is_told or word != role.BACKUP:
                expected.append((known, word))
            known, tenure = word, now
        assert [(event["before"], event["role"]) for event in events(state)] == expected
        assert (role.read(folder) or {"role": ""})["role"] == known


@pytest.mark.parametrize("place", ["role", "spool"])
def test_who_is_killed_between_note_and_event_loses_neither(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is shut down ends notify at any moment: who looks next tells it, be it twice."""
    role.turn(str(tmp_path), role.BACKUP, VIPS, told=True)

    def killed(*_arguments: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(*((role, "_write") if place == "role" else (spool, "leave")), killed)
        with pytest.raises(SystemExit):
            role.turn(str(tmp_path), role.MASTER, VIPS, "t1", told=True)
    role.turn(str(tmp_path), role.MASTER, VIPS, "t1")
    assert "master" in [event["role"] for event in events(tmp_path)]
    assert (role.read(str(tmp_path)) or {})["role"] == role.MASTER


def test_a_disk_that_takes_the_event_and_not_the_note_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role.turn(str(tmp_path), role.BACKUP, VIPS, told=True)

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(role, "_write", full)
        for _ in range(3):
            with pytest.raises(OSError, match="full"):
                role.turn(str(tmp_path), role.MASTER, VIPS, "t1")
    role.turn(str(tmp_path), role.MASTER, VIPS, "t1")
    assert [event["role"] for event in events(tmp_path)] == ["backup", "master"]


def test_many_at_once_are_told_once(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=role.turn, args=(str(tmp_path), role.MASTER, VIPS, "t1"), kwargs={"told": True})
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event["role"] for event in events(tmp_path)] == ["master"]
    for path in (tmp_path / "role.json", *(tmp_path / "spool/new").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_damaged_note_is_none_and_the_next_word_mends_it(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"role": "emperor", "since": 1}', '{"role": "master", "since": "x"}'):
        (tmp_path / "role.json").write_text(text)
        assert role.read(str(tmp_path)) is None
    assert role.turn(str(tmp_path), role.FAULT, VIPS, told=True) is not None
    assert role.last_tenure(str(tmp_path)) == ""


def test_the_latest_tenure_outlives_what_came_after_it(tmp_path: Path) -> None:
    role.turn(str(tmp_path), role.MASTER, VIPS, "t1", told=True)
    role.turn(str(tmp_path), role.BACKUP, VIPS, told=True)
    assert role.last_tenure(str(tmp_path)) == "t1"


@pytest.mark.parametrize("before", [(), ("backup",), ("fault",)])
def test_a_part_of_the_vips_makes_no_master_and_yet_it_served_with_them(tmp_path: Path, before: tuple[str]) -> None:
    both = ["192.0.2.100", "192.0.2.101"]
    here = [addresses.Carried("eth0", "192.0.2.101", 200), addresses.Carried("eth0", "192.0.2.1", 100)]
    part = addresses.part_of(both, here)
    assert part not in ("", addresses.tenure_of(both, here))
    assert (addresses.part_of(both, here[1:]), addresses.part_of(both[1:], here)) == ("", part)
    for word in before:
        role.turn(str(tmp_path), word, both, told=True)
    role.turn(str(tmp_path), role.BACKUP, both, part=part)
    role.turn(str(tmp_path), role.BACKUP, both)
    assert role.last_tenure(str(tmp_path)) == part
    assert [event["role"] for event in events(tmp_path)] == list(before)


def test_a_master_whose_vips_nobody_named_served_too(tmp_path: Path) -> None:
    role.turn(str(tmp_path), role.MASTER, [], told=True)
    first = role.last_tenure(str(tmp_path))
    role.turn(str(tmp_path), role.MASTER, [], told=True)
    role.turn(str(tmp_path), role.BACKUP, [], told=True)
    assert role.last_tenure(str(tmp_path)) == first != ""


def test_a_spool_that_nobody_reads_is_bounded_and_what_was_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "LIMIT", 3)
    for number in range(6):
        spool.leave(str(tmp_path), {"kind": "role", "number": number})
    assert [event["number"] for event in events(tmp_path)] == [3, 4, 5], "the latest are what people need"
    assert {event["host"] for event in events(tmp_path)} == {os.uname().nodename}
    read = [event_from_json(event) for event in events(tmp_path)]
    outbox = taken(Outbox(), read, 1.0, mailed=(), called=False)
    assert outbox.dropped == 3


def test_the_kernel_says_since_when_an_address_is_there() -> None:
    found = addresses.carried_addresses()
    assert {each.address for each in found} <= set(addresses.own_addresses())
    assert not any(each.interface == "lo" for each in found)
    assert addresses.tenure_of([], found) == ""
    assert addresses.tenure_of(["203.0.113.77"], found) == ""


def test_a_list_of_addresses_that_changed_meanwhile_is_asked_for_again() -> None:
    here, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def message(kind: int, flags: int) -> bytes:
        return struct.pack("=IHHII", 16, kind, flags, 1, 1)

    with here, kernel:
        kernel.send(message(addresses.DONE, 0x2 | addresses.INTERRUPTED))
        assert addresses._listed(here) is None
        kernel.send(message(addresses.DONE, 0x2))
        assert addresses._listed(here) == []
        kernel.send(message(addresses.ERROR, 0))
        with pytest.raises(OSError, match="does not list"):
            addresses._listed(here)


def test_a_tenure_is_another_after_the_address_was_away_and_needs_all_of_them() -> None:
    here = [addresses.Carried("eth0", "192.0.2.1", 100), addresses.Carried("eth0", "192.0.2.2", 200)]
    both = ["192.0.2.2", "192.0.2.1"]
    tenure = addresses.tenure_of(both, here)
    assert tenure
    assert tenure == addresses.tenure_of(both[::-1], here[::-1])
    assert addresses.tenure_of(both, here[:1]) == ""
    assert addresses.tenure_of(both, [here[0], here[1]._replace(stamp=201)]) not in ("", tenure)


HOLDER = by_vip("web1", ("192.0.2.100",), ("192.0.2.100",), "t1", 5.0)


@pytest.mark.parametrize(
    ("standing", "accepted_under", "since_seen", "told"),
    [
        (Standing(), "", True, ""),  # without a VIP on_drift decides
        (HOLDER, "t1", False, ""),
        (HOLDER, "t0", False, "all the time"),
        (HOLDER, "", False, "all the time"),
        (HOLDER, "t1", True, "web2 has held the VIP"),
        (by_vip("web1", ("192.0.2.100",), (), "", None), "t1", False, "all the time"),
    ],
)
def test_drift_is_healed_by_who_has_the_tenure_alone(
    standing: Standing, accepted_under: str, since_seen: bool, told: str
) -> None:
    why = why_not_healed(standing, accepted_under, "web2", since_seen)
    assert told in why
    assert bool(told) == bool(why)


def test_who_pushes_is_who_holds_all_vips() -> None:
    both = ("192.0.2.100", "192.0.2.101")
    assert HOLDER.hold() is None
    part = by_vip("web1", both, both[:1], "", None).hold()
    assert part is not None
    assert "carries 192.0.2.100 and not 192.0.2.101" in part.message.what
    assert (part.code, part.exit_status) == ("standby", 8)


@pytest.mark.parametrize(
    ("record", "pushes"),
    [
        (None, True),
        ({"written_by": "web1", "kind": "sync", "run": "1"}, False),
        ({"written_by": "web2", "kind": "promote", "run": "1"}, True),
        ({"written_by": "web1", "kind": "promote", "run": "1"}, True),
        ({"written_by": "web2", "kind": "pull", "run": "1", "synced_by": ""}, True),
        ({"written_by": "web2", "kind": "pull", "run": "1", "synced_by": "web1"}, False),
    ],
)
def test_without_a_vip_who_was_written_to_last_receives(record: dict[str, Any] | None, pushes: bool) -> None:
    assert (by_record("web2", record).standby is None) is pushes


class Full:
    """A direction whose disk has no room at first."""

    def __init__(self, *standings: Standing) -> None:
        self.standings, self.noted, self.room = list(standings), [], 0

    def standing(self) -> Standing:
        return self.standings.pop(0)

    def note(self, standing: Standing) -> None:
        self.room += 1
        if self.room < 3:
            raise OSError("no space left")
        self.noted.append(standing)


def test_what_could_not_be_noted_is_noted_at_a_later_look_and_is_no_turn() -> None:
    direction: Any = Full(*[HOLDER] * 5)
    roles = Roles(direction, lambda _trigger: None)
    assert [roles.look() for _ in range(5)] == [True, False, False, False, False]
    assert direction.noted == [HOLDER]


VIP_OF_NO_WEIGHT = "[vrrp]\nvip = 203.0.113.77\nrequire_vip = no\n"
PEER = "[peer web1]\nhost = 192.0.2.1\nidentity = /key\n"


@pytest.mark.parametrize("vrrp", ["", VIP_OF_NO_WEIGHT])
@pytest.mark.parametrize(
    ("record", "is_shared", "pushes"),
    [
        ('{"written_by": "web1", "kind": "sync", "run": "1"}', True, False),
        ('{"written_by": "web1", "kind": "sync", "run": "1"}', False, True),
        ('{"written_by": "web2", "kind": "promote", "run": "1"}', True, True),
        ("{", True, True),  # damaged: the run that meets it says so
        ("7", True, True),
    ],
)
def test_where_no_vip_decides_the_record_does_in_a_file_for_both_hosts(
    tmp_path: Path, vrrp: str, record: str, is_shared: bool, pushes: bool
) -> None:
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer/accepted.json").write_text(record)
    config = load_config(f"{PEER}{vrrp}[ngxsync]\nstate_dir = {tmp_path}\n", "c.ini")
    direction = Direction(config, "web2", is_shared)
    assert (direction.standing().hold() is None) is pushes
    assert direction.is_decided is is_shared


def test_promote_waits_for_the_run_of_a_master_that_vanished(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.prepare()
    request = {"state_dir": str(tmp_path), "written_by": "web2", "wait_s": 0.0}
    with store.lock("transaction", "7", 0.0, "web1"), pytest.raises(Failure) as caught:
        promote(request)
    told = failure_of(caught.value.answer())
    assert (told.exit_status, told.code) == (9, "locked")
    with store.lock("transaction", "7", 0.0, "web1"):
        waiting = threading.Thread(target=promote, args=({**request, "wait_s": 60.0},))
        waiting.start()
        assert waiting.is_alive()
    waiting.join(20.0)
    assert not waiting.is_alive()


def test_what_others_wrote_here_is_kept_where_this_host_looks_for_it(tmp_path: Path) -> None:
    own = f"[peer web2]\nhost = {socket.gethostname()}\nidentity = /key\nstate_dir = /srv/elsewhere\n"
    config = load_config(f"{PEER}{own}[ngxsync]\nstate_dir = {tmp_path}\n", "c.ini")
    with pytest.raises(ConfigError, match="/srv/elsewhere is not that of"):
        Assembly(config, tmp_path)


def test_a_host_whose_address_is_not_there_yet_knows_itself_by_name(tmp_path: Path) -> None:
    """Else one that boots would take the direction before its network is up."""
    own = f"[peer {socket.gethostname()}]\nhost = 203.0.113.77\nidentity = /key\n"
    config = load_config(f"{PEER}{own}[ngxsync]\nstate_dir = {tmp_path}\n", "c.ini")
    assert Assembly(config, tmp_path).master.direction.is_decided


def test_each_run_that_is_received_is_no_other_reason_to_be_on_standby() -> None:
    """Else each would be a turn of the direction, a run of its own and an entry in the history."""
    first, second = ({"written_by": "web1", "kind": "sync", "run": run} for run in ("1", "2"))
    assert by_record("web2", first) == by_record("web2", second)


@pytest.mark.parametrize(
    ("here", "there", "brought", "cause"),
    [
        ("2", "1", "2", "drift"),  # the other host made it 2, brought it here, and took it back
        ("3", "1", "2", "conflict"),
        ("2", "1", "1", "pending"),  # this host's own edit
        ("2", "1", None, "conflict"),
        ("2", None, "2", "drift"),
        (None, "1", None, "drift"),
        (None, "1", "1", "pending"),
    ],
)
def test_what_another_host_brought_here_is_no_edit_of_this_one(
    here: str | None, there: str | None, brought: str | None, cause: str
) -> None:
    def manifest(content: str | None) -> Manifest:
        return {} if content is None else {"/tree/page": Entry("file", 0o644, "", "", 1, 1, content)}

    plan = make_plan(manifest(here), manifest(there), manifest(there), lambda _path: True)
    assert [change.cause for change in plan.changes] == ["pending"]
    assert [c.cause for c in with_received(plan, manifest(brought), lambda _path: True).changes] == [cause]
    assert with_received(plan, manifest(brought), lambda _path: False) == plan


def test_a_record_is_taken_over_only_as_it_was_seen() -> None:
    """Else a host that was promoted while an equal master's run was at work would lose the direction again."""
    promoted = {"generation": "new", "written_by": "web2", "run": "7", "at": 1.0, "kind": "promote"}
    request = {"adopt": True, "generation": "mine", "written_by": "web1"}
    raise_if_not_yours(request, promoted)  # of a master that does not say it
    raise_if_not_yours({**request, "seen": "new"}, promoted)
    for seen in ("old", None):
        with pytest.raises(Failure) as caught:
            raise_if_not_yours({**request, "seen": seen}, promoted)
        assert caught.value.code == "peer-changed"


def test_the_run_in_which_another_host_synced_here_outlives_a_pull() -> None:
    synced = {"kind": "sync", "written_by": "web2", "run": "7"}
    pulled = {"kind": "pull", "written_by": "web1", "run": "8", "synced_run": "7", "synced_by": "web2"}
    promoted = {"kind": "promote", "written_by": "web1", "run": "8"}
    records = [None, synced, {**synced, "written_by": "web1"}, pulled, promoted]
    assert [received_run(record, "web1") for record in records] == ["", "7", "", "7", ""]
    assert [who_syncs(record) for record in records] == ["", "web2", "web1", "web2", ""]


def facts(*carried: str, keepalived: int = 7, told: str = "backup") -> dict[str, Any]:
    return {
        "carried": list(carried),
        "tenure": "t" if carried else "",
        "since": 1000.0 if carried else None,
        "told": {"role": told, "since": 900.0},
        "keepalived": keepalived,
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "codes"),
    [
        (facts("192.0.2.100"), facts(), []),
        (facts("192.0.2.100"), facts("192.0.2.100"), ["vip"]),
        (facts("192.0.2.100"), facts("192.0.2.101"), ["vip"]),
        (facts(), facts("192.0.2.100"), ["standby"]),
        (facts(), facts(), ["vip"]),
        (facts("192.0.2.100"), facts(keepalived=0), ["keepalived"]),
        (facts("192.0.2.100"), facts(told="fault"), ["fault"]),
        (facts("192.0.2.100"), None, []),
        (None, None, []),
    ],
)
def test_whether_the_vip_would_come(ours: Any, theirs: Any, codes: list[str]) -> None:
    found = judge_vrrp("web1", "web2", ours, theirs)
    assert [reason.code for reason in found.reasons] == codes
    assert all(reason.what and reason.next for reason in found.reasons)


def test_of_several_vips_both_carry_only_what_both_carry() -> None:
    apart = judge_vrrp("web1", "web2", facts("192.0.2.100"), facts("192.0.2.101"))
    assert "web1 carries 192.0.2.100 and web2 192.0.2.101: no host holds all VIPs" in apart.reasons[0].what
    both = judge_vrrp("web1", "web2", facts("192.0.2.100", "192.0.2.101"), facts("192.0.2.101"))
    assert "both carry the VIP 192.0.2.101:" in both.reasons[0].what


def test_a_keepalived_that_runs_has_not_stopped() -> None:
    assert carrying_of("web2", facts(told="stop"), 1.0).role == "backup"
    assert carrying_of("web2", facts(told="stop", keepalived=0), 1.0).role == "stop"


def test_the_keepalived_of_a_container_is_not_this_host_s(tmp_path: Path) -> None:
    program = tmp_path / "keepalived"
    shutil.copy("/bin/sleep", program)
    for enter in (["unshare", "--net"], []):
        with subprocess.Popen([*enter, program, "60"]) as process:
            try:
                name = Path(f"/proc/{process.pid}/comm")
                wait_until(lambda name=name: name.read_text() == "keepalived\n", "it runs")  # type: ignore[misc]
                assert vrrp.keepalived_pid() == (0 if enter else process.pid)
            finally:
                process.kill()


def test_a_host_that_holds_the_vip_without_keepalived_is_a_warning() -> None:
    found = judge_vrrp("web1", "web2", facts("192.0.2.100", keepalived=0), facts())
    assert ([r.code for r in found.reasons], [r.code for r in found.warnings]) == ([], ["keepalived"])


def test_what_a_host_is_reads_as_it_was_written_and_is_told_in_one_line() -> None:
    now = 2000.0
    for found in (carrying_of("web1", facts("192.0.2.100"), now), carrying_of("web2", facts(told="fault"), now - 65)):
        assert carrying_from_json(json.loads(json.dumps(json_carrying(found)))) == found
    told = carrying_text(Carrying("web2", now - 65, "fault", (), None, 0), now)
    assert told == "web2 (seen 1m05s ago): VRRP FAULT; keepalived does not run"
    with pytest.raises(ValueError, match="role"):
        carrying_from_json({"host": "web1", "at": 1.0, "role": "emperor"})

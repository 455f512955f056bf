"""What a disk holds at the instant of a power cut, and what recovery makes of it.

Tree and state lie on ext4 in files. At a moment of the transaction the file is copied while the file system is mounted: what
was handed to the disk is in the copy, what waits in the page cache is not. Then everything is killed, and the copy is mounted
in the place of the original. Twice: as it is, and after somebody else's fsync, which has the kernel write all names but not
all contents. (What is not shown: a disk that loses or reorders what it was handed.)
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.agent import STATE, Agent, agent_argv
from tests.hosts import Host
from tests.moments import JOURNAL, MOMENTS, is_accepted_by, stop_at
from tests.pair import BASE_TREE, ROOT, Pair, manifest_of, write_tree
from tests.resident import kept_contents, left_in_stages
from tests.test_recovery import NEW, OLD, difference

IMAGES = "/srv/images"
# file systems, and what lies on them
LAYOUTS = {
    "one-file-system": {"disk": (ROOT, STATE)},
    "state-apart": {"trees": (ROOT,), "state": (STATE,)},
}


class Machine:
    """web2 with these disks. Its kernel commits nothing by itself within a test: only what is asked for gets there."""

    def __init__(self, host: Host, layout: dict[str, tuple[str, ...]]) -> None:
        self.host, self.layout = host, layout
        host.stop_nginx()
        host.path(IMAGES).mkdir(parents=True)
        for name in layout:
            host.run(["truncate", "--size=64M", f"{IMAGES}/{name}.now"])
            host.run(["mkfs.ext4", "-q", "-F", f"{IMAGES}/{name}.now"])
        self.plug_in("now")
        host.path(STATE).chmod(0o700)
        write_tree(host, ROOT, BASE_TREE)
        for name in layout:
            host.run(["sync", "--file-system", f"/srv/{name}"])
        host.start_nginx()
        self.agent = Agent(host)
        self.states: dict[str, dict[str, Any]] = {}
        self.put("OLD")
        self.put("NEW")

    def put(self, name: str) -> None:
        """As any run, told as applied."""
        answer = self.agent.transact(self.agent.plan({"OLD": OLD, "NEW": NEW}[name]))
        assert answer["outcome"] == "applied", answer
        self.now, self.states[name] = name, manifest_of(self.host)

    def other(self) -> str:
        return "OLD" if self.now == "NEW" else "NEW"

    def plan(self) -> dict[str, Any]:
        self.agent.generation = self.agent.scan()["accepted"]["generation"]
        return self.agent.plan({"OLD": OLD, "NEW": NEW}[self.other()])

    def copy(self, name: str) -> None:
        """Of all disks, as they are now."""
        for disk in self.layout:
            self.host.run(["cp", "--sparse=always", f"{IMAGES}/{disk}.now", f"{IMAGES}/{disk}.{name}"])

    def fsync_elsewhere(self) -> None:
        for disk in self.layout:
            self.host.run(["sh", "-c", f"echo more >>/srv/{disk}/log; sync /srv/{disk}/log"])

    def plug_in(self, name: str) -> None:
        """Mount the disks' copies of that name, which from now on are the disks."""
        for disk, folders in self.layout.items():
            if name != "now":
                self.host.run(["mv", f"{IMAGES}/{disk}.{name}", f"{IMAGES}/{disk}.now"])
            self.host.run(["mkdir", "-p", f"/srv/{disk}"])
            self.host.run(["mount", "-o", "loop,commit=600", f"{IMAGES}/{disk}.now", f"/srv/{disk}"])
            for folder in folders:
                on_disk = f"/srv/{disk}/{Path(folder).name}"
                self.host.run(["mkdir", "-p", on_disk])
                self.host.run(["mount", "--bind", on_disk, folder])

    def lose_power(self, name: str) -> None:
        """Everything is gone; on come the copies of that name."""
        self.host.kill_all_but_sshd()
        for disk, folders in self.layout.items():
            for point in (*folders, f"/srv/{disk}"):
                self.host.unmount(point)
        self.plug_in(name)

    def raise_if_not(self, name: str, where: str) -> None:
        """Exactly that state, accepted, and no journal."""
        assert difference(self.states[name], manifest_of(self.host)) == {}, where
        scanned = self.agent.scan()
        assert (scanned["id"], scanned["journal"]) == (scanned["accepted"]["id"], None), where
        assert not self.host.path(JOURNAL).exists(), where

    def raise_if_not_kept(self, name: str, where: str) -> None:
        """Every content of that state which the other has not."""
        kept = {hashlib.sha256(content).hexdigest() for content in kept_contents(self.host)}
        contents = [{entry[5] for entry in self.states[each].values() if entry[0] == "-"} for each in ("OLD", "NEW")]
        lost = (contents[name == "NEW"] - contents[name != "NEW"]) - kept
        assert not lost, where


@pytest.fixture(params=LAYOUTS)
def machine(request: pytest.FixtureRequest, pair: Pair) -> Machine:
    return Machine(pair.web2, LAYOUTS[request.param])


def test_the_disk_at_each_moment_of_a_run_is_mended_to_exactly_old_or_new(machine: Machine) -> None:
    for moment in MOMENTS:
        old, new = machine.now, machine.other()
        process = stop_at(moment, machine.host, agent_argv("transact"), machine.plan())
        machine.copy("bare")
        machine.fsync_elsewhere()
        machine.copy("committed")
        expected = new if is_accepted_by(moment) else old
        for name in ("bare", "committed"):
            where = f"{moment}, {name}"
            machine.lose_power(name)
            recovered = machine.agent.call("recover")
            assert recovered["ok"], (where, recovered)
            assert recovered.get("edited", []) == [], (where, "nobody edited anything")
            machine.raise_if_not(expected, where)
            assert left_in_stages(machine.host) == [], where
            machine.copy("again")
            machine.lose_power("again")
            assert machine.agent.call("recover") == {"ok": True, "recovered": None}, (where, "recovery is durable, too")
            machine.raise_if_not(expected, where)
            if expected == new:
                machine.raise_if_not_kept(old, where)
        with process:
            process.kill()
        machine.now = expected
        machine.host.start_nginx()
        assert machine.host.get("/v") == (200, expected.lower())


def test_what_was_told_as_applied_is_still_so(machine: Machine) -> None:
    """The power goes right after the answer."""
    for name in ("bare", "committed"):
        old, new = machine.now, machine.other()
        request = machine.plan()
        answer = machine.agent.transact(request)
        assert answer["outcome"] == "applied"
        if name == "committed":
            machine.fsync_elsewhere()
        machine.copy(name)
        machine.lose_power(name)
        assert machine.agent.call("recover")["ok"]
        machine.raise_if_not(new, name)
        machine.raise_if_not_kept(old, name)
        shown = machine.agent.call("show", run=request["run"])
        assert (shown["state"], shown["answer"]["generation"]) == ("done", answer["generation"])
        machine.now = new
        machine.host.start_nginx()
    machine.put(machine.other())
    assert left_in_stages(machine.host) == [], "what the cut kept from being removed goes with the next run"

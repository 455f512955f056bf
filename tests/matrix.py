"""The fault matrix: every step of the pipeline x every fault, each cell a real fault in a run that stands in that step.

A cell says what happened in one line, e.g. "4 unreachable (cut), old; healed": exit status, outcome, code, which tree the peer
had when the run had ended (old or new; "open" where a crash left a journal, which the next contact ends), and what healed it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests import faults
from tests.faults import GONE, LOCAL, STATE, Clock, Disk
from tests.hosts import Host, wait_until
from tests.pair import BASE_TREE, ROOT, Daemon, Pair, manifest_of, write_tree
from tests.resident import SITE, Resident, Run, kept_contents, left_in_stages
from tests.steps import SETTLE, Step, stopped_at

PORT = 8081
CONF = BASE_TREE["conf/nginx.conf"].replace("include vhosts", f"include {LOCAL}/*.conf;\n    include vhosts")
WARM = (" scan", " stage")  # interpreters that wait for a request
CONNECT_TIMEOUT_S = 1
FROZEN_S = 6 * CONNECT_TIMEOUT_S + 5  # by when a run on a frozen connection has ended, its own work included
RECEIVER_S = 9 * CONNECT_TIMEOUT_S + 1  # rsync on the peer ends when nothing came for 9 x connect_timeout, 45 s at most
BUSY_S = 15.0  # more than that, where the machine has other work too
PEER_S = 62.0  # and all else there that waits for a master which has vanished
CONFIG = f"connect_timeout = {CONNECT_TIMEOUT_S}s\nprove_timeout = 3s"


def old_tree(number: int) -> dict[str, str]:
    """Before the edit of this cell."""
    vhost = f"server {{ listen 80; server_name site.example.com; return 200 'old {number}'; }}\n"
    return {SITE: vhost, "html/a.html": f"old {number}\n", "html/gone.html": f"gone {number}\n"}


def new_tree(number: int) -> dict[str, str]:
    """After it: `html/gone.html` is deleted besides. The new port is what a reload may be refused for."""
    vhost = f"server {{ listen 80; listen {PORT}; server_name site.example.com; return 200 'new {number}'; }}\n"
    return {SITE: vhost, "html/a.html": f"new {number}\n", "html/fresh.html": f"fresh {number}\n"}


class Bench:
    """The pair, the pipeline on it as the daemon keeps it, and the small disk of web2; in sync between cells."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.number = pair, 0
        self.process: Resident | None = None
        self.is_clean = False

    @property
    def peer(self) -> Host:
        return self.pair.web2

    @property
    def resident(self) -> Resident:
        assert self.process is not None
        return self.process

    def start(self, environment: dict[str, str] | None = None) -> Resident:
        self.end()
        self.process = Resident(self.pair, environment)
        return self.process

    def end(self) -> None:
        if self.process is not None:
            self.process.close()
        self.process = None

    def prepare(self) -> None:
        """Both hosts have the old tree of a new cell, in sync."""
        self.number += 1
        if not self.is_clean:
            self._begin_anew()
        self.is_clean = False
        tree = self.pair.web1.path(ROOT)
        for name in new_tree(0):
            (tree / name).unlink(missing_ok=True)
        write_tree(self.pair.web1, ROOT, old_tree(self.number))
        run = self.start().sync(by_person=True)
        assert run.exit == 0, run

    def _begin_anew(self) -> None:
        self.end()
        self.pair.reset()
        for host in self.pair.hosts:
            host.path(LOCAL).mkdir()
            write_tree(host, ROOT, {"conf/nginx.conf": CONF})
        self.pair.write_config(peer=CONFIG, sync="settle = 4s\nmax_wait = 8s\ncheck_every = no\nschedule = no")
        self.disk = Disk(self.peer)

    def edit(self) -> None:
        write_tree(self.pair.web1, ROOT, new_tree(self.number))
        self.pair.web1.path(f"{ROOT}/html/gone.html").unlink()

    def accepted(self) -> dict[str, Any]:
        file = self.peer.path(f"{STATE}/peer/accepted.json")
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def has_journal(self) -> bool:
        return self.peer.path(f"{STATE}/peer/journal").exists()

    def working(self) -> list[int]:
        """What does something for a run on the peer, rsync included; interpreters kept warm only wait."""
        lines = self.peer.commands()
        return [pid for pid in faults.agents(self.peer) if pid in lines and not lines[pid].endswith(WARM)]

    def waiting(self) -> list[int]:
        """What is left on the peer of a master that has ended."""
        with suppress(AssertionError):
            wait_until(lambda: not faults.agents(self.peer), "all have ended", 2.0)
        return faults.agents(self.peer)

    def served(self) -> str:
        """What the site answers, "" where nobody does."""
        try:
            return self.peer.get("/", "site.example.com")[1]
        except OSError:
            return ""


@dataclass
class Cell:
    """One cell at work. `lifting` ends the fault."""

    bench: Bench
    step: Step
    lifting: ExitStack = field(default_factory=ExitStack)
    clock: Clock | None = None
    daemon: Daemon | None = None

    @property
    def host(self) -> Host:
        """Whose step it is."""
        return self.bench.pair.web1 if self.step.on_master else self.bench.peer


@dataclass(frozen=True)
class Fault:
    name: str
    text: str
    blow: Callable[[Cell], None]


def once(blow: Callable[[Cell], object]) -> Callable[[Cell], None]:
    def work(cell: Cell) -> None:
        blow(cell)

    return work


def lasting(begin: Callable[[Cell], AbstractContextManager[Any]]) -> Callable[[Cell], None]:
    def work(cell: Cell) -> None:
        cell.lifting.enter_context(begin(cell))

    return work


@contextmanager
def read_only(cell: Cell) -> Iterator[None]:
    cell.bench.disk.make_read_only()
    yield
    faults.reboot(cell.bench.peer, cell.bench.disk)


@contextmanager
def nginx_dead(cell: Cell) -> Iterator[None]:
    faults.kill_nginx_main(cell.bench.peer)
    yield
    faults.start_nginx(cell.bench.peer)


def kill_master(cell: Cell) -> None:
    web1 = cell.bench.pair.web1
    process = cell.daemon.process if cell.daemon else cell.bench.resident.process
    faults.kill(web1, [web1.pid_inside(process)])


def jump(cell: Cell) -> None:
    assert cell.clock is not None
    cell.clock.jump(-7200)


FAULTS = (
    Fault(
        "agent-sigkill",
        "SIGKILL to the agent's processes and rsync on the peer",
        once(lambda c: faults.kill_agents(c.bench.peer)),
    ),
    Fault("daemon-sigkill", "SIGKILL to the master's daemon", once(kill_master)),
    Fault("connection-cut", "every ssh session on the peer killed", once(lambda c: faults.cut(c.bench.peer))),
    Fault("connection-frozen", "every packet dropped, nothing reset", lasting(lambda c: faults.frozen(c.bench.peer))),
    Fault("disk-full", "not a byte free for tree and state on the peer", lasting(lambda c: c.bench.disk.full())),
    Fault("read-only", "the peer's ext4 gives up and is read-only, until a reboot", lasting(read_only)),
    Fault(
        "state-gone", "the state directory of who does the step is gone", once(lambda c: faults.take_state_away(c.host))
    ),
    Fault(
        "stage-tampered",
        "every staged and every prepared file overwritten in place",
        once(lambda c: faults.tamper(c.bench.peer)),
    ),
    Fault(
        "test-hangs",
        "reading the configuration never ends, where the step is",
        lasting(lambda c: faults.hanging_test(c.host)),
    ),
    Fault("nginx-dies", "SIGKILL to the peer's nginx main process", lasting(nginx_dead)),
    Fault(
        "reload-refused", "another process has the new port", lasting(lambda c: faults.taken_port(c.bench.peer, PORT))
    ),
    Fault("clock-back", "the clock of who does the step jumps back by two hours", once(jump)),
    Fault(
        "reboot",
        "the peer is killed whole and comes up again",
        once(lambda c: faults.reboot(c.bench.peer, c.bench.disk)),
    ),
)
FAULT = {fault.name: fault for fault in FAULTS}


@dataclass(frozen=True)
class Before:
    """What held when the edit was made."""

    old: dict[str, Any]
    accepted: dict[str, Any]
    replaced: set[bytes]
    number: int

    @classmethod
    def of(cls, bench: Bench) -> Before:
        contents = {text.encode() for text in old_tree(bench.number).values()}
        return cls(manifest_of(bench.peer), bench.accepted(), contents, bench.number)


@dataclass(frozen=True)
class Found:
    """What a cell shows, as its line in the table says it."""

    run: Run | None  # None where the master's process was killed
    tree: str  # old, new or open
    healed: str
    seconds: float  # from the fault to the end of the run

    def __str__(self) -> str:
        told = "killed" if self.run is None else f"{self.run.exit} {self.run.outcome}"
        code = "" if self.run is None or self.run.code in ("", self.run.outcome) else f" ({self.run.code})"
        return f"{told}{code}, {self.tree}; {self.healed}"


def raise_if_at_work(bench: Bench, step: Step, fault: Fault) -> None:
    """The run has ended, the fault lasts: all that worked for it on the peer ends too, and in time."""
    is_frozen = fault is FAULT["connection-frozen"]
    limit_s = RECEIVER_S + BUSY_S if is_frozen and step.name == "stage" else 100.0
    wait_until(lambda: not bench.working(), "nothing works on the peer any more", limit_s, 0.05)
    if is_frozen:
        wait_until(lambda: not faults.agents(bench.peer), "nothing waits on the peer any more", PEER_S + BUSY_S, 0.05)


def run_cell(bench: Bench, step: Step, fault: Fault) -> Found:
    """AssertionError where a promise is broken."""
    bench.prepare()
    cell = Cell(bench, step)
    with cell.lifting:
        if fault is FAULT["clock-back"]:
            cell.clock = Clock(cell.host)
        before = Before.of(bench)
        with (in_the_daemon if step is SETTLE else in_the_pipeline)(cell) as result:
            fault.blow(cell)
            started = time.monotonic()
            run = result()
            seconds = time.monotonic() - started
        raise_if_at_work(bench, step, fault)
        tree = judge(bench, before, run)
    healed = heal(bench)
    if fault is FAULT["read-only"]:
        sweep(bench)
    raise_if_not_whole(bench, before)
    bench.is_clean = True
    return Found(run, tree, healed, seconds)


@contextmanager
def in_the_pipeline(cell: Cell) -> Iterator[Callable[[], Run | None]]:
    """A run stands in the step. What is given lets it go on, and waits for its result."""
    bench = cell.bench
    if cell.clock is not None and not cell.step.on_master:
        faults.sshd_with(bench.peer, cell.clock)
    if cell.clock is not None:
        bench.start(cell.clock.environment if cell.step.on_master else None).sync()
    bench.edit()
    with stopped_at(bench.pair, cell.step, bench.pair.web1.pid_inside(bench.resident.process)) as stop:
        bench.resident.begin()
        stop.wait()

        def result() -> Run | None:
            stop.release()
            line = bench.resident.stdout.readline()
            if not line:
                bench.end()
            return Run(*json.loads(line)) if line else None

        yield result


@contextmanager
def in_the_daemon(cell: Cell) -> Iterator[Callable[[], Run | None]]:
    """The daemon has worked ahead: all is staged and rehearsed, and the peer waits for the end of the burst."""
    bench = cell.bench
    bench.end()
    words = [f"{name}={value}" for name, value in (cell.clock.environment if cell.clock else {}).items()]
    runs = bench.pair.web1.path(f"{STATE}/master/runs")
    replaced = Before.of(bench).replaced
    with bench.pair.service(["env", *words, sys.executable, "-m", "ngxsync", "run"]) as daemon:
        daemon.wait_for("web2 in-sync")
        known = set(os.listdir(runs))
        bench.edit()
        wait_until(
            lambda: replaced <= kept_contents(bench.peer), "the run has worked ahead: rehearsed, the old kept", 30.0
        )
        cell.daemon = daemon

        def result() -> Run | None:
            def fresh() -> set[str]:
                return set(os.listdir(runs)) - known if runs.exists() else set()

            wait_until(lambda: fresh() or daemon.process.poll() is not None, "the daemon recorded a run", 120.0)
            daemon.stop()
            name = next(iter(sorted(fresh())), "")
            data = json.loads((runs / name).read_text()) if name else None
            return None if data is None else Run(daemon.log(), {"exit": 0, "code": "", **data})

        yield result


def judge(bench: Bench, before: Before, run: Run | None) -> str:
    """P1 to P3 as soon as the run has ended: "old", "new", or "open" where the next contact has to end what died."""
    found, accepted = manifest_of(bench.peer), bench.accepted()
    new = manifest_of(bench.pair.web1)
    tree = "open" if bench.has_journal() else {True: "old"}.get(found == before.old, "new")
    assert found in (before.old, new) or tree == "open", "the live tree is neither old nor new"
    page, number = bench.served(), before.number
    assert page in ("", f"old {number}", f"new {number}"), page
    if tree != "open" and bench.peer.nginx_main():
        assert page == f"{tree} {number}", "nginx serves another state than the tree has"
    if accepted and accepted["run"] != before.accepted["run"]:
        assert tree == "new" or tree == "open", "what was accepted is not there"
        assert not accepted["proven"] or page in ("", f"new {number}"), "accepted as proven, and not served"
    elif accepted and tree != "open":
        assert tree == "old", "applied, and not accepted"
    if run is not None and run.exit:
        raise_if_untold(run, tree)
    return tree


def raise_if_untold(run: Run, tree: str) -> None:
    """A message has its four parts, and what it says of the state is so."""
    message = run.peer.get("message") or run.data.get("message")
    assert message, run
    assert all(message[part] for part in ("what", "state", "next")), message
    assert message["where"] or all(problem["file"] or problem["text"] for problem in run.data["problems"]), run
    says_old = any(
        words in message["state"] for words in ("unchanged", "old files are back", "runs what it ran before")
    )
    assert tree in ("old", "open") or not says_old, message


def heal(bench: Bench) -> str:
    """The next runs, until one finds all in sync; by whom."""
    if bench.process is None:
        bench.start()
    first = bench.resident.sync()
    if first.exit == 0:
        return "healed"
    second = bench.resident.sync(by_person=True)
    assert second.exit == 0, f"{first}\n{second}"
    return f"then {first.exit} {first.outcome}, healed by a person"


def sweep(bench: Bench) -> None:
    """A disk that gave up forgot that a stage was removed: the next run that stages anything removes it again."""
    write_tree(bench.pair.web1, ROOT, {"html/more.html": f"more {bench.number}\n"})
    assert bench.resident.sync().exit == 0


def raise_if_not_whole(bench: Bench, before: Before) -> None:
    """The edit has arrived and is proven; nothing is open, staged or at work on the peer; what was replaced is kept."""
    last = bench.resident.sync()
    assert (last.exit, last.outcome, last.changes) == (0, "in-sync", {}), last
    assert manifest_of(bench.peer) == manifest_of(bench.pair.web1)
    assert bench.served() == f"new {before.number}"
    assert bench.accepted()["proven"] is True
    assert not bench.has_journal()
    assert left_in_stages(bench.peer) == [], "something stays in a stage"
    lost = before.replaced - kept_contents(bench.peer) - set(kept_in(bench.peer, GONE))
    assert not lost, lost
    bench.end()
    waiting = bench.waiting()
    if waiting:
        wait_until(lambda: not faults.agents(bench.peer), f"{waiting} end", 100.0, 0.2)


def kept_in(host: Host, folder: str) -> Iterator[bytes]:
    for blob in host.path(f"{folder}/peer/blobs").glob("*/*"):
        yield blob.read_bytes()

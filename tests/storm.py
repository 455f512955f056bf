"""The storm (`make storm SEED= ROUNDS=`): random edits and faults on a real pair, and after each round what must hold.

`python -m tests.storm --seed 7 --rounds 200`. The same seed makes the same edits and faults; timings differ.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import edits, invariants, observation
from tests.edits import Edit
from tests.hosts import Host, wait_until
from tests.observation import Entry, Tree, observe, walk
from tests.pair import BASE_TREE, ROOT, Pair, make_pair, write_tree
from tests.storm_faults import FAULTS, Field
from tests.watched import Watched, by_person

PEM = Path(__file__).parent / "broken" / "pem"
SYNC = "settle = 100ms\nmax_delete = no\ncheck_every = 3s\nschedule = no"
PEER = "connect_timeout = 2s\nprove_timeout = 4s"
CALM_EVERY = 10
PEER_EDITS = ("create", "by-temporary", "append", "truncate", "touch", "delete", "chmod", "mkdir", "symlink", "rename")
HEALED_S, CONVERGED_S = 40.0, 1.2


def left_processes(host: Host) -> list[str]:
    """Those that do not go; looked at until there is none, since the reader's own `nginx -t` comes and goes."""
    end = time.monotonic() + 10.0
    while found := observation.processes(host):
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return found


class Violation(AssertionError):
    """Something that must hold did not."""


class Storm:
    """One storm on a pair that it sets up itself."""

    def __init__(
        self, pair: Pair, seed: int, say: Callable[[str], None] = print, only: Sequence[str] = tuple(FAULTS)
    ) -> None:
        """`only` these faults are thrown in."""
        self.pair, self.seed, self.say, self.only = pair, seed, say, only
        self.round = self.generation = 0
        self.counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("edits", "peer-edits", "faults", "checks", "person")
        }
        self.log: deque[str] = deque(maxlen=150)
        self.states: list[Tree] = []
        self.touched: dict[str, list[Entry | None]] = {}
        self.owed: set[str] = set()
        self.edited: set[str] = set()
        self.recent_faults: list[str] = []

    # the ground

    def begin(self) -> None:
        """Both hosts equal, furnished for the storm, the daemon and the reader at work."""
        pair = self.pair
        pair.reset()
        files = {**BASE_TREE, **{path: edits.stamp_text(path, 0) for path in edits.STAMPS}}
        for host in pair.hosts:
            write_tree(host, ROOT, files)
            for area in edits.AREAS:
                host.path(f"{ROOT}/{area}").mkdir()
        only = pair.web1.path(edits.ONLY_ON_MASTER)
        only.parent.mkdir(exist_ok=True)
        only.write_text("# a configuration that only the master has\n")
        self.field = Field(pair, self.tell)
        pair.write_config(sync=SYNC, peer=PEER)
        by_person(pair)
        self.top, self.peer_top = pair.web1.path(ROOT), pair.web2.path(ROOT)
        self.record()
        self.watched = Watched(pair)
        self.field.watched = self.watched
        self.watched.start()

    def end(self) -> None:
        self.field.close()
        self.watched.close()

    def tell(self, text: str) -> None:
        self.log.append(f"{time.strftime('%H:%M:%S')} round {self.round}: {text}")

    def record(self) -> None:
        """The master has this state now."""
        self.states.append(walk(self.top))

    # one round

    def run(self, rounds: int, at_most_s: float = math.inf) -> None:
        """Fewer rounds where the time is over, the last of them calm. Raises Violation, with what its cause may be seen by."""
        started = time.monotonic()
        try:
            for self.round in range(1, rounds + 1):
                self._round()
                is_last = self.round == rounds or time.monotonic() - started > at_most_s
                if self.round % CALM_EVERY == 0 or is_last or "state-gone" in self.recent_faults:
                    self.calm(is_last)
                if self.round % 50 == 0:
                    self.say(f"round {self.round}: {time.monotonic() - started:.0f} s, {self.summary()}")
                if is_last:
                    break
        except (AssertionError, OSError) as error:
            raise Violation(self.report(f"{type(error).__name__}: {error}")) from error

    def _round(self) -> None:
        chance = [random.Random(f"{self.seed} {self.round} {what}") for what in ("edits", "peer", "faults")]
        kinds = edits.kinds_of(self.top)
        fault = chance[2].choices(self.only, [FAULTS[name][0] for name in self.only])[0]
        work = [lambda: self._burst(chance[0], fault), lambda: self._peer_burst(chance[1], kinds)]
        if fault != "none":
            work.append(lambda: self._fault(fault, chance[2]))
        failures = _together(work)
        if failures:
            raise failures[0]
        with suppress(AssertionError):
            wait_until(self._is_converged, "web2 equals web1", CONVERGED_S, 0.04)
        self.check()

    def _is_converged(self) -> bool:
        try:
            return walk(self.peer_top) == self.states[-1] and not observation.marks(self.pair.web2).journal
        except OSError:
            return False

    def _burst(self, chance: random.Random, fault: str) -> None:
        number = self.round * 1000
        if any((self.top / path).exists() for path in edits.MENDED) and chance.random() < 0.6:
            self._edit_all(edits.mend_edits(), chance)
        for step in range(chance.choice((1, 1, 2, 4, 8, 12))):
            self._edit_all(self._next(chance, number + step), chance)
        if fault == "port-taken":
            self._edit_all([edits.port_edit(self.field.port)], chance)

    def _next(self, chance: random.Random, number: int) -> list[Edit]:
        choice = chance.random()
        if choice < 0.12:
            return self._next_stamps()
        if choice < 0.24:
            return [edits.site_edit(chance, number)]
        if choice < 0.28:
            return [edits.main_edit(chance, (self.top / edits.MAIN).read_text(), number)]
        if choice < 0.31:
            pem = [(PEM / name).read_text() for name in ("one.crt", "one.key")]
            return edits.tls_edits(f"# {number}\n{pem[0]}", pem[1])
        if choice < 0.34:
            return [edits.break_edit(chance)]
        if choice < 0.36:
            return edits.coupled_edits(number)
        return [edits.next_edit(chance, edits.kinds_of(self.top), number)]

    def _next_stamps(self) -> list[Edit]:
        self.generation += 1
        return edits.stamp_edits(self.generation)

    def _edit_all(self, planned: list[Edit], chance: random.Random) -> None:
        for edit in planned:
            self.counts["edits"][edit.kind] += 1
            self.tell(f"web1 {edit.kind} {edit.path!r} {edit.other!r} {edit.number or ''}")
            for _ in edits.apply_edit(self.top, edit):
                self.record()
                if chance.random() < 0.03:
                    time.sleep(chance.uniform(0, 0.25))

    def _peer_burst(self, chance: random.Random, kinds: dict[str, str]) -> None:
        """Drift. Chosen by what the master has, so that the seed decides it; what is not there is left."""
        if chance.random() < 0.6:
            return
        for step in range(chance.choice((1, 1, 3))):
            time.sleep(chance.uniform(0, 0.4))
            with suppress(OSError), self.field.mounted:
                self._edit_peer(_peer_edit(chance, kinds, 500_000_000 + self.round * 1000 + step))

    def _edit_peer(self, edit: Edit) -> None:
        paths = [path for path in (edit.path, edit.other) if (path and path != edit.other) or edit.kind == "rename"]
        before = self._contents(paths)
        self.tell(f"web2 {edit.kind} {edit.path!r} {edit.other!r} {edit.number or ''}")
        written = [*paths, str(Path(edit.path).with_name(Path(edit.path).name[:100] + ".new"))]
        try:
            for _ in edits.apply_edit(self.peer_top, edit):
                self._note_touched(written)
            self.counts["peer-edits"][edit.kind] += 1
        finally:
            self._note_touched(written)  # a write for which there was no room has set the time all the same
            after = self._contents(paths)
            self.owed -= before - after  # what the edit itself ended, no sync has to keep
            self.owed |= after
            self.edited |= after

    def _note_touched(self, paths: list[str]) -> None:
        """A sync may have made a link of a folder meanwhile: what is written by way of it is elsewhere."""
        for path in dict.fromkeys([*paths, *(observation.landed(self.peer_top, path) for path in paths)]):
            place = self.peer_top / path
            entry = None
            with suppress(OSError):
                entry = observation.entry_of(place)
            self.touched.setdefault(path, []).append(entry)

    def _contents(self, paths: list[str]) -> set[str]:
        found = set()
        for path in paths:
            with suppress(OSError):
                entry = observation.entry_of(self.peer_top / path)
                found |= {entry.content} if entry.kind == "-" else set()
        return found

    def _fault(self, fault: str, chance: random.Random) -> None:
        self.counts["faults"][fault] += 1
        self.recent_faults.append(fault)
        time.sleep(chance.uniform(0, 0.3))
        self.tell(f"fault {fault}")
        FAULTS[fault][1](self.field, chance)
        self.tell(f"fault {fault} is over")
        if fault in ("read-only", "state-gone"):  # what a person had not synced to disk, no sync has to keep
            self.owed -= self.edited
            self._note_touched(list(self.touched))
        if fault == "state-gone":
            self.owed.clear()

    # what must hold

    def check(self) -> None:
        """Whenever no transaction is open."""
        try:
            seen = wait_until(lambda: observe(self.pair.web2), "no transaction is open", 3.0, 0.02)
        except AssertionError:
            self.counts["checks"]["open"] += 1
            return
        self.counts["checks"]["made"] += 1
        self.owed |= {entry.content for entry in seen.tree.values() if entry.kind == "-"}
        wrong = [
            *invariants.check_state(seen.tree, self.states, self.touched),
            *invariants.check_accepted_by_nginx(seen),
            *invariants.check_served(seen),
            *invariants.check_kept(self.owed, seen),
            *self.watched.complaints(),
        ]
        if wrong:
            raise Violation("\n".join(wrong))

    def calm(self, is_last: bool = False) -> None:
        """All faults are lifted, the configuration is good: both hosts become equal, and nothing is left behind."""
        self.tell("calm")
        self.watched.start()
        chance = random.Random(f"{self.seed} {self.round} calm")
        self._edit_all(edits.mend_edits() + self._next_stamps(), chance)
        try:
            wait_until(self._is_converged, "web2 equals web1 by itself", self._patience_s(), 0.05)
        except AssertionError:
            codes = by_person(self.pair)
            self.tell(f"a person had to sync: {codes} after {self.recent_faults}")
            if "state-gone" not in self.recent_faults and codes != "device":
                self.say(self.report(f"nothing healed it within {HEALED_S:g} s, but a sync by a person did: {codes}"))
            self.counts["person"][f"{codes} after {'+'.join(sorted(set(self.recent_faults)))}"] += 1
            with suppress(AssertionError):
                wait_until(self._is_converged, "web2 equals web1", HEALED_S, 0.05)
        wrong = invariants.check_equal(self.states[-1], walk(self.peer_top))
        if wrong:
            raise Violation("\n".join(wrong))
        self.check()
        self._check_quiet(is_last or self.round % (3 * CALM_EVERY) == 0)
        del self.states[:-1]
        self.touched.clear()
        self.edited.clear()
        self.recent_faults.clear()

    def _patience_s(self) -> float:
        """A peer whose records are gone, or whose tree is on another device than before, is held for a person."""
        return 0.0 if "state-gone" in self.recent_faults else 8.0 if "read-only" in self.recent_faults else HEALED_S

    def _check_quiet(self, stops_daemon: bool) -> None:
        web1, web2 = self.pair.hosts
        wait_until(lambda: self.watched.status() == "in-sync", "status says in-sync", 10.0, 0.3)
        wait_until(lambda: not observation.leftovers(web2), f"nothing is left: {observation.leftovers(web2)}", 10.0)
        wrong = [*observation.too_open(web1), *observation.too_open(web2), *observation.wrong_blobs(web2)]
        if stops_daemon:
            self.watched.stop_daemon()
            wrong += [f"left on web2: {line}" for line in left_processes(web2)]
            wrong += [f"left on {host.name}: {path}" for host in (web1, web2) for path in observation.leftovers(host)]
            self.watched.start()
        if wrong:
            raise Violation("\n".join(wrong))

    # words

    def summary(self) -> str:
        return "; ".join(f"{name}: {sum(counter.values())}" for name, counter in self.counts.items())

    def report(self, what: str) -> str:
        last = "\n  ".join(self.log)
        again = f"make storm SEED={self.seed} ROUNDS={self.round}"
        return f"seed {self.seed}, round {self.round} ({again})\n{what}\nthe last operations:\n  {last}\n{self.watched.tail()}"


def _peer_edit(chance: random.Random, kinds: dict[str, str], number: int) -> Edit:
    """One of those that leave nothing behind where the tree changes under them."""
    while True:
        edit = edits.next_edit(chance, kinds, number)
        if edit.kind in PEER_EDITS and kinds.get(edit.path) != "d":
            return edit


def _together(work: list[Callable[[], None]]) -> list[BaseException]:
    """Runs all at the same time; what they raised."""
    failures: list[BaseException] = []

    def run(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:  # noqa: BLE001 - it is raised again where all have ended
            failures.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


@contextmanager
def storm(pair: Pair, seed: int, **options: Any) -> Iterator[Storm]:
    opened = Storm(pair, seed, **options)
    opened.begin()
    try:
        yield opened
    finally:
        opened.end()


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    options.add_argument("--rounds", type=int, default=200)
    options.add_argument("--fault", action="append", choices=list(FAULTS), help="only these, may be given again")
    given = options.parse_args()
    only = tuple(given.fault or FAULTS)
    print(
        f"seed {given.seed}, {given.rounds} rounds; the same again: make storm SEED={given.seed} ROUNDS={given.rounds}"
    )
    pair, started = make_pair(), time.monotonic()
    try:
        with storm(pair, given.seed, say=lambda text: print(text, flush=True), only=only) as running:
            running.run(given.rounds)
            totals = running.watched.totals()
    except Violation as violation:
        print(f"VIOLATION\n{violation}")
        return 1
    finally:
        pair.close()
    print(f"{given.rounds} rounds in {time.monotonic() - started:.0f} s, 0 violations; reader: {totals}")
    for name, counter in running.counts.items():
        print(
            f"{name}: {sum(counter.values())} ({', '.join(f'{key} {count}' for key, count in counter.most_common())})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

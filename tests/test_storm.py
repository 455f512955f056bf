"""A bounded storm on a pair of its own, by one seed that stays and one that is new each time; and that the storm sees what is wrong."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import edits, invariants
from tests.hosts import wait_until
from tests.observation import STATE, Entry, Seen, landed, sha256, walk
from tests.pair import ROOT, Pair, make_pair, write_tree
from tests.resident import Resident
from tests.storm import storm
from tests.watched import Watched

ROUNDS = 12
SEEDS = {
    "the-same-each-time": 3,
    "another-each-time": int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6)),
}


@pytest.fixture
def own_pair() -> Iterator[Pair]:
    """Not the session's: the storm mounts disks and reboots."""
    pair = make_pair()
    yield pair
    pair.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_breaks_no_promise(own_pair: Pair, seed: str) -> None:
    print(f"seed {SEEDS[seed]}: make storm SEED={SEEDS[seed]} ROUNDS={ROUNDS}")
    with storm(own_pair, SEEDS[seed]) as running:
        running.run(ROUNDS, at_most_s=15)
        totals = running.watched.totals()
    assert totals["pages"] > 0
    assert totals["tests"] > 0
    assert running.counts["checks"]["made"] > running.round / 2


def test_where_an_edit_lands_that_goes_by_way_of_links(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    links = {"here": ".", "a/up": "..", "a/again": "up/here", "out": "../..", "far": "/etc", "round": "round"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    led = {
        "a/b/x": "a/b/x",
        "a/up": "a/up",  # the last one is not followed: what is written is the link
        "here/x": "x",
        "a/again/a/b/x": "a/b/x",
        "out/x": "out/x",
        "far/x": "far/x",
        "round/x": "round/x",
        "not/there": "not/there",
    }
    assert {path: landed(tmp_path, path) for path in led} == led


def test_one_changed_file_has_no_window(synced: Resident) -> None:
    """nginx -t of the live tree, again and again, meets the old or the new; a client too."""
    pair = synced.pair
    write_tree(pair.web1, ROOT, {path: edits.stamp_text(path, 0) for path in edits.STAMPS})
    assert synced.sync().exit == 0
    watched = Watched(pair)
    watched.start_reader()
    try:
        wait_until(lambda: not watched.complaints() and watched.sums["tests"], "the reader is at work")
        for generation in range(1, 11):
            path = edits.STAMPS[generation % 2]
            write_tree(pair.web1, ROOT, {path: edits.stamp_text(path, generation)})
            run = synced.sync()
            assert (run.exit, len(run.changes)) == (0, 1), run
        totals = watched.totals()
    finally:
        watched.close()
    assert totals["pages"] > 0
    assert not totals.get("refused_in_window")


@pytest.mark.parametrize("items", [0, 1, 2])
def test_the_reader_tells_a_refusal_in_the_window_from_any_other(pair: Pair, items: int) -> None:
    """A half applied tree as it looks where two files are being replaced; with one file, or without a journal, it is a complaint."""
    write_tree(pair.web2, ROOT, {"conf/vhosts/half.conf": "server { limit_req zone=not_yet; }\n"})
    if items:
        store = pair.web2.path(f"{STATE}/peer")
        store.mkdir()
        (store / "journal").write_text(json.dumps({"header": {}, "items": [[]] * items}) + "\n")
    watched, complaints = Watched(pair), []
    watched.start_reader()
    try:
        wait_until(lambda: complaints.extend(watched.complaints()) or watched.sums["tests"] > 1, "it tested")
    finally:
        watched.close()
    refused = [text for text in complaints if "'what': 'test'" in text]
    assert bool(watched.sums["refused_in_window"]) == (items == 2)
    assert bool(refused) == (items != 2)
    assert all('zero size shared memory zone "not_yet"' in text for text in refused)


# the same seed, the same edits


def test_the_same_seed_makes_the_same_edits(tmp_path: Path) -> None:
    seen = []
    for name in ("one", "two"):
        top = tmp_path / name
        for area in edits.AREAS:
            (top / area).mkdir(parents=True)
        chance = random.Random(7)
        made = []
        for number in range(300):
            made.append(edits.next_edit(chance, edits.kinds_of(top), number))
            for _ in edits.apply_edit(top, made[-1]):
                pass
        contents = {path: (entry.kind, entry.mode, entry.user, entry.content) for path, entry in walk(top).items()}
        seen.append((made, contents))
    assert seen[0] == seen[1]
    assert {edit.kind for edit in seen[0][0]} >= {"vi", "sed", "emacs", "hard-link", "folder-to-file", "file-to-folder"}


# each kind of violation is seen

FILE = Entry("-", 0o644, 0, 0, 1, sha256(b"one"))
OTHER = FILE._replace(content=sha256(b"two"))
STAMP = edits.STAMPS[0]


def stamp(generation: int) -> str:
    return sha256(edits.stamp_text(STAMP, generation).encode())


def seen(served: int, recorded: int, live: int, *, proven: bool = True) -> Seen:
    bodies = dict.fromkeys(edits.STAMPS, f"generation {served}\n")
    tree = {STAMP: FILE._replace(content=stamp(live))}
    return Seen(tree, "", bodies, {"proven": proven}, {STAMP: stamp(recorded)}, frozenset())


def test_a_tree_that_the_master_never_had_is_seen() -> None:
    states = [{"a": FILE, "b": FILE}, {"a": OTHER, "b": OTHER}]
    assert invariants.check_state({"a": OTHER, "b": OTHER}, states, {}) == []
    [what] = invariants.check_state({"a": OTHER, "b": FILE}, states, {})
    assert what.startswith("the peer's tree is no state that the master had")


@pytest.mark.parametrize("change", [{"mode": 0o600}, {"user": 33}, {"mtime_ns": 2}, {"kind": "l"}])
def test_a_single_attribute_is_seen(change: dict[str, int | str]) -> None:
    assert invariants.check_state({"a": FILE._replace(**change)}, [{"a": FILE}], {})  # type: ignore[arg-type]


def test_what_the_peers_own_edits_made_is_allowed_where_they_were_made() -> None:
    assert invariants.check_state({"a": OTHER}, [{"a": FILE}], {"a": [OTHER]}) == []
    assert invariants.check_state({}, [{"a": FILE}], {"a": [None]}) == []
    assert invariants.check_state({"a": OTHER}, [{"a": FILE}], {"b": [OTHER]})


def test_what_is_proven_and_not_served_is_seen() -> None:
    assert invariants.check_served(seen(3, 3, 3)) == []
    assert "accepted says proven" in invariants.check_served(seen(2, 3, 3))[0]
    assert "something else is live" in invariants.check_served(seen(3, 3, 2))[0]
    assert invariants.check_served(seen(2, 3, 3, proven=False)) == []


def test_a_lost_content_is_seen() -> None:
    now = seen(1, 1, 1)
    assert invariants.check_kept({stamp(1)}, now) == []
    assert invariants.check_kept({stamp(0)}, now._replace(blobs=frozenset({stamp(0)}))) == []
    assert stamp(0) in invariants.check_kept({stamp(0)}, now)[0]


def test_a_difference_at_the_end_is_seen() -> None:
    assert invariants.check_equal({"a": FILE}, {"a": FILE}) == []
    assert "'a'" in invariants.check_equal({"a": FILE}, {"a": OTHER})[0]

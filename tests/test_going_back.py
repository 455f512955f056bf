"""What a rollback decides, as values: which snapshot is before, what the peer shall hold, what is held afterwards."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent.manifest import DIR, FILE, LINK, Entry, Manifest, is_same
from ngxsync.core.excludes import compile_excludes, narrow
from ngxsync.core.model import Projection, Snapshot
from ngxsync.core.plan import make_plan
from ngxsync.core.rollback import (
    Kept,
    contents_taken_back,
    has_sound_excludes,
    manifest_with,
    origin,
    rolled_back_hold,
    snapshot_before,
    still_here,
    whole_manifest,
)

TREE, LATER = "/srv/www", "/srv/later"


def entry(kind: str = FILE, content: str = "", mode: int = 0o644, owner: str = "root") -> Entry:
    return Entry(kind, mode, owner, "root", 0 if kind == DIR else 1, len(content) if kind == FILE else 0, content)


def folder(mode: int = 0o755) -> Entry:
    return entry(DIR, mode=mode)


def projection(*patterns: str, trees: tuple[str, ...] = (TREE,), owners: bool = True) -> Projection:
    return Projection(tuple((tree, compile_excludes(patterns)) for tree in trees), owners)


def history(*lines: tuple[str, str]) -> list[Kept]:
    """(snapshot id, run that it restores or "") of runs r1, r2, ... in order."""
    return [Kept(f"r{n}", n, each, restores=restores) for n, (each, restores) in enumerate(lines, 1)]


def before(lines: list[Kept]) -> str | None:
    found = snapshot_before(lines[-1], lines)
    return found and found.run


def test_which_snapshot_is_before() -> None:
    plain = history(("a", ""), ("b", ""), ("c", ""))
    assert before(plain) == "r2"
    assert before([*plain, Kept("r4", 4, "b", restores="r2")]) == "r1"
    assert before([*plain, Kept("r4", 4, "b", restores="r2"), Kept("r5", 5, "a", restores="r1")]) is None
    assert before(history(("a", ""))) is None
    assert before(history(("a", ""), ("a", ""), ("b", ""), ("b", ""))) == "r2", "equal ids are skipped"


def test_a_sync_after_a_rollback_starts_anew() -> None:
    lines = history(("a", ""), ("bad", ""), ("a", "r1"), ("mended", ""))
    assert before(lines) == "r1", "what was taken back is not gone back to"
    assert before([*lines, Kept("r5", 5, "a", restores="r1")]) is None


def test_single_files_are_a_state_of_their_own() -> None:
    lines = history(("a", ""), ("b", ""), ("b with one file of a", ""))
    assert before(lines) == "r2"


def test_what_a_rollback_restored_is_swept() -> None:
    lines = history(("a", ""), ("b", ""), ("a", "r1"), ("c", ""))
    kept = lines[1:]
    assert before(kept) == "r3", "its own manifest is the same"
    assert before([*kept, Kept("r5", 5, "a", restores="r3")]) is None


@st.composite
def histories(draw: st.DrawFn) -> list[Kept]:
    """Syncs, rollbacks as the function says, rollbacks to named runs, and a swept beginning."""
    lines: list[Kept] = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        kind = draw(st.sampled_from(("sync", "back", "named")))
        target = snapshot_before(lines[-1], lines) if lines and kind == "back" else None
        if lines and kind == "named":
            target = draw(st.sampled_from(lines))
        made = Kept(f"r{number}", number, target.id if target else draw(st.sampled_from("abcd")))
        lines.append(Kept(made.run, number, made.id, restores=target.run if target else ""))
    return lines[draw(st.integers(0, len(lines) - 1)) :]


@given(histories())
def test_called_again_it_goes_further_back_until_it_ends(lines: list[Kept]) -> None:
    here, ids = lines[-1], [lines[-1].id]
    seen: list[str] = []
    while (found := snapshot_before(here, lines)) is not None:
        assert found.run not in seen, "never to and fro"
        assert found.id != ids[-1], "something changes each time"
        assert found.sequence < lines[-1].sequence
        seen.append(found.run)
        ids.append(found.id)
        number = lines[-1].sequence + 1
        here = Kept(f"r{number}", number, found.id, restores=found.run)
        lines = [*lines, here]
        assert origin(here, lines).run == origin(found, lines).run
    assert len(seen) < len(lines)


# what the peer shall hold

BELOW = st.sampled_from(("a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "x.log", "d/x.log"))
ENTRIES = st.builds(
    entry, st.sampled_from((FILE, LINK, DIR)), st.sampled_from(("0" * 64, "1" * 64)), st.sampled_from((0o644, 0o600))
)


@st.composite
def manifests(draw: st.DrawFn, seen: Projection) -> Manifest:
    """A possible tree, as a scan under this projection gives it."""
    found: Manifest = {TREE: folder()}
    for name in sorted(draw(st.sets(BELOW))):
        above = f"{TREE}/{name}".rpartition("/")[0]
        if above in found and found[above].kind == DIR:
            each = draw(ENTRIES)
            found[f"{TREE}/{name}"] = folder(each.mode) if each.kind == DIR else each
    return narrow(found, seen)


PATTERNS = st.sampled_from(((), ("*.log",), ("/d/",), ("/d/e/",), ("/a", "*.log")))


@given(st.data(), PATTERNS, PATTERNS)
def test_it_becomes_what_it_was_where_both_looked_and_stays_where_one_did_not(
    data: st.DataObject, then_patterns: tuple[str, ...], now_patterns: tuple[str, ...]
) -> None:
    then, now = projection(*then_patterns), projection(*now_patterns)
    target, live = data.draw(manifests(then)), data.draw(manifests(now))
    planned = whole_manifest(target, then, live, now)
    assert narrow(planned, now) == planned, "nothing that today's excludes leave out"
    left = live.keys() - narrow(live, then).keys()
    assert all(planned[path] == live[path] for path in left)
    for path in planned:
        above = path.rpartition("/")[0]
        assert path == TREE or planned[above].kind == DIR, "each has its directory"
    if then == now:
        assert planned == target
    assert make_plan(planned, planned, None, lambda _path: False).changes == ()


def test_a_tree_that_was_added_later_is_not_emptied() -> None:
    then, now = projection(), projection(trees=(TREE, LATER))
    live = {TREE: folder(), f"{TREE}/new": entry(content="n"), LATER: folder(), f"{LATER}/page": entry(content="p")}
    target = {TREE: folder(), f"{TREE}/old": entry(content="o")}
    planned = whole_manifest(target, then, live, now)
    assert planned == {**target, LATER: folder(), f"{LATER}/page": entry(content="p")}


def test_owners_that_count_on_one_side_only() -> None:
    live = {TREE: folder(), f"{TREE}/a": entry(content="x", owner="www-data")}
    without = {
        TREE: folder()._replace(owner="", group=""),
        f"{TREE}/a": entry(content="y")._replace(owner="", group=""),
    }
    then, now = projection(owners=False), projection()
    assert whole_manifest(without, then, live, now)[f"{TREE}/a"] == entry(content="y", owner="www-data")
    assert whole_manifest(live, now, without, then)[f"{TREE}/a"].owner == ""


def test_single_files_with_the_directories_that_are_gone() -> None:
    replaced = {f"{TREE}/d": folder(0o700), f"{TREE}/d/a": entry(content="a"), f"{TREE}/d/b": entry(content="b")}
    accepted = {TREE: folder(), f"{TREE}/c": entry(content="c")}
    planned, unknown = manifest_with(accepted, accepted, replaced, [f"{TREE}/d/a"])
    assert (planned, unknown) == ({**accepted, f"{TREE}/d": folder(0o700), f"{TREE}/d/a": entry(content="a")}, ())
    assert manifest_with(accepted, accepted, replaced, [f"{TREE}/d"])[0] == {**accepted, **replaced}
    assert manifest_with(accepted, accepted, replaced, [f"{TREE}/c", f"{TREE}/d/b"])[1] == (f"{TREE}/c",)
    was_file = {f"{TREE}/d": entry(content="a file")}
    now_folder = {TREE: folder(), f"{TREE}/d": folder(), f"{TREE}/d/x": entry(content="x")}
    assert manifest_with(now_folder, now_folder, was_file, [f"{TREE}/d"])[0] == {TREE: folder(), **was_file}


def test_a_file_comes_back_with_its_directory_where_that_became_a_file() -> None:
    replaced = {f"{TREE}/d": folder(0o700), f"{TREE}/d/a": entry(content="a"), f"{TREE}/d/b": entry(content="b")}
    for now in (entry(content="a file"), entry(LINK, "elsewhere")):
        accepted = {TREE: folder(), f"{TREE}/d": now}
        planned, unknown = manifest_with(accepted, accepted, replaced, [f"{TREE}/d/a"])
        assert (planned, unknown) == (
            {TREE: folder(), f"{TREE}/d": folder(0o700), f"{TREE}/d/a": replaced[f"{TREE}/d/a"]},
            (),
        )


# what is held afterwards


def rolled_back(
    live: Manifest, target: Manifest, base: Manifest | None = None, earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The peer's accepted record after a rollback of these live trees."""
    plan = make_plan(target, live, live if base is None else base, lambda _path: True)
    taken_back = contents_taken_back(plan.changes, target, earlier)
    return {"run": "9", "at": 50.0, "restores": "7", "taken_back": taken_back}


def everywhere(_path: str) -> bool:
    return True


@given(st.data())
def test_it_is_held_exactly_while_something_of_it_would_come_back(data: st.DataObject) -> None:
    bad, good = data.draw(manifests(projection())), data.draw(manifests(projection()))
    record = rolled_back(bad, good)
    changed = {path for path in {*bad, *good} if not is_same(bad.get(path), good.get(path))}
    assert set(still_here(record, bad, everywhere)) == changed
    assert still_here(record, good, everywhere) == ()
    master = data.draw(manifests(projection()))
    expected = {path for path in changed if is_same(master.get(path), bad.get(path))}
    assert set(still_here(record, master, everywhere)) == expected


@given(st.data())
def test_successive_rollbacks_add_up_and_hold_nothing_that_they_brought(data: st.DataObject) -> None:
    states = [data.draw(manifests(projection())) for _ in range(4)]
    record: dict[str, Any] | None = None
    for live, target in pairwise(states):
        record = rolled_back(live, target, earlier=record)
    peer = states[-1]
    assert still_here(record, peer, everywhere) == (), "what the peer has now is no reason to hold"
    for earlier in states[:-1]:
        differing = {path for path in {*earlier, *peer} if not is_same(earlier.get(path), peer.get(path))}
        touched = {
            path for path in differing if any(not is_same(a.get(path), b.get(path)) for a, b in pairwise(states))
        }
        assert set(still_here(record, earlier, everywhere)) == touched


def test_an_edit_on_the_peer_hides_nothing() -> None:
    """Taken back from an edit: what was accepted there, and what this host still has, holds as well."""
    path = f"{TREE}/a"
    good, bad = {TREE: folder(), path: entry(content="good")}, {TREE: folder(), path: entry(content="bad")}
    edited = {TREE: folder(), path: entry(content="edited")}
    record = rolled_back(edited, good, base=bad)
    assert still_here(record, bad, everywhere) == still_here(record, edited, everywhere) == (path,)
    assert still_here(rolled_back(edited, good, base=good), good, everywhere) == ()


def test_what_a_sync_leaves_out_holds_nothing() -> None:
    good, bad = {TREE: folder()}, {TREE: folder(), f"{TREE}/a": entry(content="bad")}
    record = rolled_back(bad, good)
    assert still_here(record, bad, lambda path: path != f"{TREE}/a") == ()


def test_the_message_of_the_hold() -> None:
    good, bad = {TREE: folder()}, {TREE: folder(), f"{TREE}/a": entry(content="bad")}
    hold = rolled_back_hold(rolled_back(bad, good), Snapshot(bad, projection()), everywhere, "web2")
    assert hold is not None
    assert hold.code == "rolled-back"
    assert hold.message.what.startswith("rolled back to the snapshot of run 7 by run 9, ")
    assert hold.message.what.endswith(f", and this host still has what was taken back: {TREE}/a")
    assert " ago" not in hold.message.what, "`status` shows it again, hours later"
    assert hold.message.state == "web2 unchanged"
    assert (
        hold.message.next == "mend it here, then it is synced by itself; or `ngxsync sync`, which undoes the rollback"
    )
    assert rolled_back_hold(None, Snapshot(bad, projection()), everywhere, "web2") is None
    assert rolled_back_hold({"kind": "sync"}, Snapshot(bad, projection()), everywhere, "web2") is None


@pytest.mark.parametrize("regex", ["(", "a{2,1}", "[z-a]", 7], ids=repr)
def test_excludes_that_are_no_regular_expressions_are_not_believed(regex: Any) -> None:
    tree = {"path": "/usr/local/nginx", "exclude": [["logs/", True], [regex, True]]}
    assert not has_sound_excludes({"trees": [tree], "owners": True})
    assert has_sound_excludes({"trees": [{**tree, "exclude": tree["exclude"][:1]}], "owners": True})

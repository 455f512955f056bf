"""What a pull takes of a plan (core.pull): each cause, named paths, --take, and what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent.manifest import DIR, FILE, LINK, Entry, Manifest
from ngxsync.core.plan import CONFLICT, FIRST_CONTACT, kind_of, make_plan, parents
from ngxsync.core.pull import MASTER, PEER, Choice, choose, put_back

TOP = "/t"
A, B, C = "/t/a", "/t/d/b", "/t/d/c"


def file(text: str, mode: int = 0o644, owner: str = "root") -> Entry:
    return Entry(FILE, mode, owner, "root", 1, len(text), text * 64)


def folder() -> Entry:
    return Entry(DIR, 0o755, "root", "root", 0, 0, "")


def link(target: str) -> Entry:
    return Entry(LINK, 0o777, "root", "root", 0, 0, target)


BASE: Manifest = {TOP: folder(), "/t/d": folder(), A: file("1"), B: file("1"), C: file("1")}


def but(**changed: Entry | None) -> Manifest:
    """BASE with other entries; a name is a path below /t with _ for /."""
    found: Manifest = dict(BASE)
    for name, entry in changed.items():
        path = f"/t/{name.replace('_', '/')}"
        found.pop(path, None)
        found.update({} if entry is None else {path: entry})
    return found


def chosen(here: Manifest, there: Manifest, *, base: Manifest | None = BASE, **asked: object) -> Choice:
    plan = make_plan(here, there, base, lambda _path: base is not None)
    return choose(plan.changes, here, there, **asked)  # type: ignore[arg-type]


KINDS: Mapping[str, tuple[Manifest, str]] = {
    "created": (but(new=file("2")), "/t/new"),
    "content": (but(a=file("2")), A),
    "mode": (but(a=file("1", mode=0o600)), A),
    "owner": (but(a=file("1", owner="www-data")), A),
    "type": (but(a=link("d/b")), A),
    "deleted": (but(a=None), A),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_drift_is_taken_and_told_as_this_host_sees_it(kind: str) -> None:
    there, path = KINDS[kind]
    choice = chosen(dict(BASE), there)
    change = choice.changes[path]
    assert (change.kind, change.before, change.after, change.cause) == (kind, BASE.get(path), there.get(path), "drift")
    assert choice.planned == there


def test_a_link_that_leads_elsewhere() -> None:
    base = but(x=link("a"))
    choice = chosen(base, {**base, "/t/x": link("d/b")}, base=base)
    assert {path: change.kind for path, change in choice.changes.items()} == {"/t/x": "link"}


def test_what_only_this_host_changed_is_never_touched() -> None:
    here = but(a=file("3"), own=file("3"), d_c=None)
    there = but(d_b=file("2"))
    for take in ("", PEER, MASTER):
        choice = chosen(here, there, take=take)
        assert list(choice.changes) == [B], take
        assert choice.planned == {**here, B: file("2")}
    touched = but(a=Entry(*{**BASE[A]._asdict(), "mtime_ns": 99}.values()))
    assert not chosen(dict(BASE), touched).changes, "a time alone is no edit"


def test_only_what_was_named() -> None:
    there = but(a=file("2"), d_b=file("2"), d_c=None, d_new=file("2"))
    for limit, paths in (
        (A, {A}),
        (B, {B}),
        ("/t/d", {B, C, "/t/d/new"}),
        (TOP, {A, B, C, "/t/d/new"}),
        ("/t/no", set()),
    ):
        assert set(chosen(dict(BASE), there, limits=(limit,)).changes) == paths


def test_a_conflict_needs_a_side() -> None:
    here, there = but(a=file("3")), but(a=file("2"), d_b=file("2"))
    asked = chosen(here, there)
    assert ([c.path for c in asked.disputed], asked.disputed[0].cause, asked.planned) == ([A], CONFLICT, here)
    assert chosen(here, there, limits=(B,)).planned == {**here, B: file("2")}
    assert chosen(here, there, limits=(A,)).disputed
    peers = chosen(here, there, take=PEER)
    assert (set(peers.changes), peers.planned, peers.left) == ({A, B}, there, ())
    ours = chosen(here, there, take=MASTER)
    assert (set(ours.changes), ours.planned[A], ours.left) == ({B}, file("3"), (A,))


def test_at_a_first_contact_a_person_names_what_is_taken() -> None:
    here, there = but(own=file("3")), but(a=file("2"), theirs=file("2"), d_c=None)
    asked = chosen(here, there, base=None)
    assert ({c.path for c in asked.disputed}, {c.cause for c in asked.disputed}) == ({A, "/t/theirs"}, {FIRST_CONTACT})
    assert set(chosen(here, there, base=None, limits=(A,)).changes) == {A}
    everything = chosen(here, there, base=None, take=PEER)
    assert everything.planned == {**here, A: file("2"), "/t/theirs": file("2")}, "nothing of this host goes"
    assert not chosen(here, there, base=None, take=MASTER).changes
    assert not chosen(here, there, base=None, take=MASTER, limits=(A,)).changes


def test_a_file_brings_the_directories_that_it_stands_in() -> None:
    there = but(n=folder(), n_m=folder(), n_m_file=file("2"), n_other=file("2"))
    choice = chosen(dict(BASE), there, limits=("/t/n/m/file",))
    assert set(choice.changes) == {"/t/n", "/t/n/m", "/t/n/m/file"}


def test_a_directory_that_was_deleted_here_comes_back_with_a_file_that_is_taken() -> None:
    here = {path: entry for path, entry in BASE.items() if not path.startswith("/t/d")}
    choice = chosen(here, but(d_b=file("2")), take=PEER)
    assert choice.planned == {**here, "/t/d": folder(), B: file("2")}


def test_a_directory_stays_for_what_only_this_host_has() -> None:
    here, there = but(d_own=file("3")), {TOP: folder(), A: file("1")}
    choice = chosen(here, there)
    assert choice.planned == {TOP: folder(), A: file("1"), "/t/d": folder(), "/t/d/own": file("3")}
    assert (set(choice.changes), choice.blocked) == ({B, C}, ())


def test_what_stands_in_the_way_is_told() -> None:
    here, there = but(d_own=file("3")), {TOP: folder(), A: file("1"), "/t/d": file("2")}
    assert [change.path for change in chosen(here, there).blocked] == ["/t/d"]
    here, there = but(a=None, n=file("3")), but(a=None, n=folder(), n_m=file("2"))
    assert [c.path for c in chosen(here, there, base=None, limits=("/t/n/m",)).blocked] == ["/t/n/m"]


def test_a_directory_that_became_a_file_or_the_other_way_round() -> None:
    flat = {TOP: folder(), A: file("1"), "/t/d": file("2")}
    for here, there in ((dict(BASE), flat), (flat, dict(BASE))):
        choice = chosen(here, there, base=here)
        assert (choice.planned, choice.blocked) == (there, ())


def undone(here: Manifest, before: Manifest, after: Manifest, **asked: object) -> Choice:
    """The undo of a pull that led from `before` to `after`."""
    replaced = [(p, before.get(p), after.get(p)) for p in {*before, *after} if before.get(p) != after.get(p)]
    return put_back(replaced, here, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_an_undo_leads_back(kind: str) -> None:
    after, path = KINDS[kind]
    choice = undone(after, dict(BASE), after)
    assert (choice.planned, set(choice.changes)) == (BASE, {path})
    assert not undone(dict(BASE), dict(BASE), after).changes, "twice is once"


def test_an_undo_leaves_what_was_edited_since() -> None:
    after = but(a=file("2"), d_b=file("2"), n=folder(), n_m=file("2"))
    here = {**after, A: file("3"), "/t/n/own": file("3")}
    asked = undone(here, dict(BASE), after)
    assert ([c.path for c in asked.disputed], asked.planned) == ([A], here)
    assert undone(here, dict(BASE), after, limits=(B,)).planned == {**here, B: file("1")}
    forced = undone(here, dict(BASE), after, is_forced=True)
    assert forced.planned == {**BASE, "/t/n": folder(), "/t/n/own": file("3")}


def test_an_undone_deletion_brings_its_directory_back() -> None:
    after = {TOP: folder(), A: file("1")}
    assert undone(after, dict(BASE), after, limits=(B,)).planned == {**after, "/t/d": folder(), B: file("1")}


ENTRIES = st.sampled_from([None, file("1"), file("2"), folder(), link("a")])
NAMES = ("a", "d", "d/b", "d/c", "d/c/x", "e/f")


def tree(entries: dict[str, Entry | None]) -> Manifest:
    """What of these can be on a disk: nothing stands below what is no directory."""
    found: Manifest = {TOP: folder()}
    for name in sorted(NAMES):
        entry, path = entries.get(name), f"/t/{name}"
        if entry is not None and all(
            above == TOP or found.get(above) == folder() for above in parents(path) if above != "/"
        ):
            found[path] = entry
    return found


TREES = st.dictionaries(st.sampled_from(NAMES), ENTRIES).map(tree)


@given(
    TREES,
    TREES,
    st.none() | TREES,
    st.sampled_from(["", PEER, MASTER]),
    st.sampled_from([(), ("/t/d",), ("/t/d/c/x",)]),
)
def test_laws(here: Manifest, there: Manifest, base: Manifest | None, take: str, limits: tuple[str, ...]) -> None:
    choice = chosen(here, there, base=base, take=take, limits=limits)
    if choice.disputed or choice.blocked:
        return
    planned = choice.planned
    assert {path for path in {*here, *planned} if kind_of(here.get(path), planned.get(path))} == set(choice.changes)
    for path, change in choice.changes.items():
        assert (change.before, change.after) == (here.get(path), planned.get(path))
        assert change.after == there.get(path), "what comes is the peer's"
        if base is not None and not (change.after == folder() and change.before is None):
            assert here.get(path) == base.get(path) or take == PEER, (
                "what was changed here stays, unless a side was named"
            )
    back = undone(planned, here, planned)
    assert (back.disputed, back.blocked) == ((), ())
    assert not [path for path in {*back.planned, *here} if kind_of(back.planned.get(path), here.get(path))]
    for path in planned:
        assert all(planned.get(above) == folder() for above in parents(path) if above != "/"), path

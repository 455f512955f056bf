"""Laws of plans: what they lead to, that each step is possible, why each change is there."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent.manifest import DIR, FILE, LINK, Entry, Manifest, is_below, is_same
from ngxsync.core.model import Change, Plan
from ngxsync.core.plan import is_quiet, make_plan, needs_reload, paths_to_send, restart_needed

ROOT = "/t"


def file(content: str = "a", mode: int = 0o644, owner: str = "root", mtime: int = 1) -> Entry:
    return Entry(FILE, mode, owner, owner, mtime, len(content), content)


def folder(mode: int = 0o755, owner: str = "root") -> Entry:
    return Entry(DIR, mode, owner, owner, 0, 0, "")


def link(target: str = "a", mtime: int = 1) -> Entry:
    return Entry(LINK, 0o777, "root", "root", mtime, 0, target)


small = st.sampled_from
files = st.builds(file, small("ab"), small([0o644, 0o600]), small(["root", "www"]), small([1, 2]))
links = st.builds(link, small("ab"), small([1, 2]))
folders = st.builds(folder, small([0o755, 0o700]), small(["root", "www"]))
NAMES = "xyz"


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Trees of at most three levels over few names, so that two of them meet in every way."""
    result: Manifest = {}

    def grow(path: str, depth: int) -> None:
        result[path] = draw(folders)
        for name in draw(st.sets(small(NAMES))):
            below = f"{path}/{name}"
            if depth < 3 and draw(st.booleans()):
                grow(below, depth + 1)
            else:
                result[below] = draw(files | links)

    grow(ROOT, 1)
    return result


def everything(_: str) -> bool:
    return True


def planned(master: Manifest, peer: Manifest, base: Manifest | None = None) -> Plan:
    return make_plan(master, peer, peer if base is None else base, everything)


def applied(manifest: Manifest, plan: Plan) -> Manifest:
    """The manifest after each step, refusing what a file system would refuse."""
    live = dict(manifest)
    for change in plan.changes:
        path, before, after = change.path, change.before, change.after
        assert live.get(path) == before, f"{path}: not what was planned to be there"
        parent = posixpath.dirname(path)
        assert path == ROOT or (parent in live and live[parent].kind == DIR), f"{path}: no directory to hold it"
        goes = after is None or (before is not None and before.kind == DIR and after.kind != DIR)
        held = [other for other in live if other != path and is_below(other, path)]
        assert not (goes and held), f"{path}: would leave {held} behind"
        if after is None:
            del live[path]
        else:
            live[path] = after
    return live


@given(manifests(), manifests())
def test_applying_the_plan_makes_the_peer_equal(master: Manifest, peer: Manifest) -> None:
    assert applied(peer, planned(master, peer)) == master


@given(manifests(), manifests())
def test_the_plan_back_undoes_the_plan(master: Manifest, peer: Manifest) -> None:
    there = applied(peer, planned(master, peer))
    assert applied(there, planned(peer, master)) == peer


@given(manifests(), manifests())
def test_only_equal_trees_have_an_empty_plan(master: Manifest, peer: Manifest) -> None:
    assert (not planned(master, peer)) == (master == peer)
    assert not planned(master, dict(master))


@given(manifests(), manifests(), manifests(), small([f"{ROOT}/{name}" for name in NAMES]))
def test_the_main_file_is_replaced_after_all_that_it_names_and_before_deletions(
    master: Manifest, peer: Manifest, base: Manifest, main: str
) -> None:
    plan = make_plan(master, peer, base, everything, main_conf=main)
    assert applied(peer, plan) == master
    order = [change.path for change in plan.changes]
    after = {change.path: change.after for change in plan.changes}
    if after.get(main) is not None and after[main].kind != DIR:  # type: ignore[union-attr]
        later = plan.changes[order.index(main) + 1 :]
        assert all(change.kind == "deleted" for change in later)


@given(manifests(), manifests(), manifests())
def test_causes_tell_who_moved_away_from_the_accepted_state(master: Manifest, peer: Manifest, base: Manifest) -> None:
    for change in make_plan(master, peer, base, everything).changes:
        path = change.path
        moved = (not is_same(master.get(path), base.get(path)), not is_same(peer.get(path), base.get(path)))
        expected = {(True, False): "pending", (False, True): "drift", (True, True): "conflict"}
        assert change.cause == ("pending" if is_quiet(change) else expected[moved])
        assert (change.before, change.after, change.base) == (peer.get(path), master.get(path), base.get(path))


@given(manifests(), manifests())
def test_without_an_accepted_record_nothing_of_the_peer_is_overwritten_unasked(
    master: Manifest, peer: Manifest
) -> None:
    for change in make_plan(master, peer, None, everything).changes:
        harmless = change.before is None or is_quiet(change)
        assert change.cause == ("pending" if harmless else "first-contact")


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        (None, file(), "pending"),
        (file(), None, "first-contact"),
        (file("a"), file("b"), "first-contact"),
        (file(mode=0o600), file(), "first-contact"),
        (file(mtime=1), file(mtime=2), "pending"),
    ],
)
def test_a_path_that_the_accepted_record_did_not_cover(before: Entry | None, after: Entry | None, cause: str) -> None:
    path = f"{ROOT}/x"
    sides = [{ROOT: folder(), **({path: entry} if entry else {})} for entry in (after, before)]
    plan = make_plan(sides[0], sides[1], {ROOT: folder()}, lambda asked: asked != path)
    assert [(change.path, change.cause) for change in plan.changes] == [(path, cause)]


def test_both_sides_made_the_same_edit_there_is_nothing_to_do() -> None:
    same = {ROOT: folder(), f"{ROOT}/x": file("new")}
    assert not make_plan(same, dict(same), {ROOT: folder(), f"{ROOT}/x": file("old")}, everything)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, file(), "created"),
        (file(), None, "deleted"),
        (file(), link(), "type"),
        (file(), folder(), "type"),
        (file("a", 0o600, "www", 1), file("b", 0o644, "root", 2), "content"),
        (link("a"), link("b", 2), "link"),
        (file("a", 0o600, "www", 1), file("a", 0o644, "root", 2), "owner"),
        (file("a", 0o600, "root", 1), file("a", 0o644, "root", 2), "mode"),
        (file(mtime=1), file(mtime=2), "mtime"),
        (folder(0o700), folder(), "mode"),
    ],
)
def test_the_most_serious_kind_names_the_change(before: Entry | None, after: Entry | None, kind: str) -> None:
    path = f"{ROOT}/x"
    plan = planned({path: after} if after else {}, {path: before} if before else {})
    assert [change.kind for change in plan.changes] == [kind]


def test_a_group_alone_is_a_change_of_owner() -> None:
    path = f"{ROOT}/x"
    plan = planned({path: file()._replace(group="www")}, {path: file()})
    assert [change.kind for change in plan.changes] == ["owner"]


def test_the_order_on_an_example() -> None:
    peer = {
        ROOT: folder(),
        f"{ROOT}/main": file("old"),
        f"{ROOT}/site": folder(),
        f"{ROOT}/site/deep": folder(),
        f"{ROOT}/site/deep/x": file(),
        f"{ROOT}/gone": folder(),
        f"{ROOT}/gone/x": file(),
        f"{ROOT}/was": file(),
    }
    master = {
        ROOT: folder(),
        f"{ROOT}/main": file("new"),
        f"{ROOT}/site": link("was"),
        f"{ROOT}/was": folder(),
        f"{ROOT}/was/x": file(),
    }
    plan = make_plan(master, peer, peer, everything, main_conf=f"{ROOT}/main")
    assert [(change.path.removeprefix(f"{ROOT}/"), change.kind) for change in plan.changes] == [
        ("site/deep/x", "deleted"),
        ("site/deep", "deleted"),
        ("site", "type"),
        ("was", "type"),
        ("was/x", "created"),
        ("main", "content"),
        ("gone/x", "deleted"),
        ("gone", "deleted"),
    ]


def test_counts_name_each_kind_once() -> None:
    plan = planned({f"{ROOT}/a": file(), f"{ROOT}/b": file()}, {f"{ROOT}/c": file()})
    assert plan.counts() == {"created": 2, "deleted": 1}


def change(path: str, kind: str = "content", after: Entry | None = None) -> Change:
    return Change(path, kind, file("old"), after or file("new"))


@pytest.mark.parametrize(
    ("changes", "always", "expected"),
    [
        ([], True, False),
        ([change("/n/html/index.html")], False, False),
        ([change("/n/html/index.html")], True, True),
        ([change("/n/www/index.html")], False, False),
        ([change("/n/html2/index.html")], False, True),
        ([change("/n/conf/nginx.conf")], False, True),
        ([change("/n/html/index.html"), change("/n/conf/site.conf", "deleted")], False, True),
        ([change("/n/conf/nginx.conf", "mtime")], True, False),
        ([change("/n/html/cert.pem")], False, True),
        ([change("/n/html/cert.pem", "mtime")], False, False),
        ([change("/n/html/keys", "link", link("other"))], False, True),
        ([change("/n/html/keys", "mode", folder())], False, False),
    ],
)
def test_reload_only_where_nginx_would_run_something_else(changes: list[Change], always: bool, expected: bool) -> None:
    loaded = {"/n/html/cert.pem", "/n/html/keys/site.key"}
    assert needs_reload(Plan(tuple(changes)), ("/n/html", "/n/www"), loaded, always) is expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (change("/n/sbin/nginx"), True),
        (change("/n/modules/geo.so"), True),
        (change("/n/modules/geo.so", "mode"), False),
        (change("/n/modules/other.so"), False),
        (change("/n/conf/nginx.conf"), False),
    ],
)
def test_a_new_binary_or_module_needs_a_restart(found: Change, expected: bool) -> None:
    assert restart_needed(Plan((found,)), "/n/sbin/nginx", {"/n/modules/geo.so"}) is expected


@given(manifests(), manifests())
def test_exactly_the_files_with_new_bytes_are_sent(master: Manifest, peer: Manifest) -> None:
    def bytes_of(manifest: Manifest, path: str) -> str | None:
        entry = manifest.get(path)
        return entry.content if entry and entry.kind == FILE else None

    expected = {path for path in master if bytes_of(master, path) not in (None, bytes_of(peer, path))}
    sent = paths_to_send(planned(master, peer))
    assert set(sent) == expected
    assert len(sent) == len(set(sent))

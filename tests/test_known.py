"""What is kept of scans, and that no shortcut it allows is ever seen: a warm scan tells what a cold one tells."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ngxsync.agent import scan as scanning
from ngxsync.agent import survey, trees
from ngxsync.agent.known import SHA, Known, nothing, read_known, write_known
from ngxsync.agent.manifest import Entry, Manifest, content_key, from_json, snapshot_id, to_json
from ngxsync.agent.scan import Scan, scan, scanned
from ngxsync.agent.store import Damaged, Store
from ngxsync.core.excludes import compile_excludes
from ngxsync.core.model import Projection, Snapshot
from ngxsync.edges.local import KNOWN, LocalHost, ScanFailed
from tests.host import PATIENCE_S
from tests.hosts import wait_until

LONG_AGO = 1_600_000_000 * 10**9


def projection(tree: Path, *excludes: str) -> dict[str, Any]:
    rules = [[regex, out] for regex, out in compile_excludes(excludes)]
    return {"trees": [{"path": str(tree), "exclude": rules}], "owners": True}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    write(tree / "conf/nginx.conf", "events {}\n")
    write(tree / "html/a.html", "a")
    write(tree / "html/b.html", "b")
    return tree


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The file system's clock as it will be in so many seconds, ten from the start: what was just written is old enough."""
    real = survey.file_system_clock

    def set_clock(seconds: float) -> None:
        monkeypatch.setattr(survey, "file_system_clock", lambda folder: real(folder) + int(seconds * 10**9))

    set_clock(10)
    return set_clock


def write(file: Path, text: str) -> None:
    """Always with the same time, as a build or rsync leaves it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, ns=(LONG_AGO, LONG_AGO))


def told(found: Scan) -> tuple[Any, ...]:
    return found.manifest, found.specials, found.kept_apart, found.unread, found.roots


def assert_warm_is_cold(tree: Path, first: Scan, *excludes: str) -> Scan:
    return assert_no_shortcut_is_seen(projection(tree, *excludes), first, str(tree))


def assert_no_shortcut_is_seen(asked: dict[str, Any], first: Scan, clock_folder: str) -> Scan:
    """A scan that goes by the first tells what one without memory does; so does the first itself, where its seal still holds."""
    cold = scan(asked, None, clock_folder)
    if survey.is_as_before(survey.survey(asked, clock_folder, first.seal), first.seal):
        assert told(first) == told(cold)
    warm = scan(asked, first.known, clock_folder, first.manifest, first.seal)
    assert told(warm) == told(cold)
    return warm


def swap(one: Path, other: Path) -> None:
    one.rename(one.with_name("between"))
    other.rename(one)
    one.with_name("between").rename(other)


def replace_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    write(folder / "a.html", "A")


def make_file_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def link_to(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(other)


EDITS: dict[str, Callable[[Path], object]] = {
    "same size, same time": lambda tree: write(tree / "html/a.html", "A"),
    "chmod": lambda tree: (tree / "html/a.html").chmod(0o600),
    "chown": lambda tree: os.chown(tree / "html/a.html", 33, 33),
    "two files exchanged": lambda tree: swap(tree / "html/a.html", tree / "html/b.html"),
    "a folder replaced": lambda tree: replace_folder(tree / "html"),
    "a file is a folder now": lambda tree: make_file_a_folder(tree / "html/a.html"),
    "a file is a link now": lambda tree: link_to(tree / "html/a.html", tree / "html/b.html"),
    "deleted": lambda tree: (tree / "html/a.html").unlink(),
    "created": lambda tree: write(tree / "html/c.html", "c"),
    "a hard link": lambda tree: os.link(tree / "html/a.html", tree / "html/c.html"),
    "touched": lambda tree: os.utime(tree / "html/a.html", ns=(1, 1)),
    "a folder's mode": lambda tree: (tree / "html").chmod(0o700),
    "a pipe": lambda tree: os.mkfifo(tree / "html/pipe"),
}


@pytest.fixture(params=EDITS.values(), ids=EDITS)
def edit(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    chosen: Callable[[Path], object] = request.param
    return chosen


def test_a_warm_scan_sees_each_edit(tree: Path, edit: Callable[[Path], object]) -> None:
    first = scan(projection(tree), None, str(tree))
    assert set(first.known.marks) == {str(p) for p in tree.rglob("*") if p.is_file()}
    edit(tree)
    second = assert_warm_is_cold(tree, first)
    assert told(second) != told(first)
    assert_warm_is_cold(tree, second)


def is_sealed(found: Scan, asked: dict[str, Any], tree: Path) -> bool:
    return survey.is_as_before(survey.survey(asked, str(tree.parent), found.seal), found.seal)


def test_a_seal_holds_until_something_changes(tree: Path, edit: Callable[[Path], object]) -> None:
    first = scan(projection(tree), None, str(tree.parent))
    assert is_sealed(first, projection(tree), tree)
    edit(tree)
    assert not is_sealed(first, projection(tree), tree)


def test_what_is_excluded_breaks_no_seal_by_its_edits(tree: Path) -> None:
    """A log grows all the time. But one that is new, or a folder now, has to be asked of the excludes."""
    excludes = ("*.log", "!a.log/", "old/")
    asked = projection(tree, *excludes)
    write(tree / "a.log", "a")
    write(tree / "old/file", "")
    first = scan(asked, None, str(tree.parent))
    write(tree / "a.log", "more")
    write(tree / "old/more", "")
    assert is_sealed(first, asked, tree)
    for change in (
        lambda: write(tree / "b.log", ""),
        lambda: (tree / "b.log").rename(tree / "old/b.log"),
        lambda: shutil.rmtree(tree / "old"),
        lambda: write(tree / "old", ""),
        lambda: make_file_a_folder(tree / "a.log"),
    ):
        change()
        first = assert_warm_is_cold(tree, first, *excludes)
        assert is_sealed(first, asked, tree)
    assert {f"{tree}/old", f"{tree}/a.log"} <= set(first.manifest)


def test_no_seal_is_of_other_excludes_nor_of_another_boot(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scan(projection(tree), None, str(tree.parent))
    assert not is_sealed(first, projection(tree, "*.log"), tree)
    assert not is_sealed(first, {**projection(tree), "owners": False}, tree)
    monkeypatch.setattr(survey, "boot_id", lambda: "another")
    assert not is_sealed(first, projection(tree), tree)


def test_what_is_young_is_never_sealed(tree: Path, clock: Callable[[float], None]) -> None:
    clock(1.5)
    assert scan(projection(tree), None, str(tree.parent)).seal is None
    clock(10)
    assert scan(projection(tree), None, None).seal is None  # no clock is to be had


@pytest.mark.parametrize("edit", ["same size, same time", "deleted"])
def test_what_changes_under_a_scan_is_not_sealed(tree: Path, edit: str) -> None:
    """Read is what is there by then, and it is not what the survey saw."""
    seen = survey.survey(projection(tree), str(tree.parent))
    EDITS[edit](tree)
    found = scanned(seen)
    assert told(found) == told(scan(projection(tree)))
    assert found.seal is None


def test_a_file_that_came_and_went_is_forgotten(tree: Path) -> None:
    write(tree / "html/c.html", "c")
    first = scan(projection(tree), None, str(tree))
    (tree / "html/c.html").unlink()
    second = assert_warm_is_cold(tree, first)
    assert f"{tree}/html/c.html" not in second.known.marks
    write(tree / "html/c.html", "C")
    assert_warm_is_cold(tree, second)


def test_excludes_that_come_and_go(tree: Path) -> None:
    """A file that the rules of then let in may be what those of now shut out, and back."""
    found = scan(projection(tree), None, str(tree))
    for excludes in (["a.html"], [], ["/html/"], ["*.html", "!b.html"], []):
        found = assert_warm_is_cold(tree, found, *excludes)


def test_a_user_of_another_name(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """usermod --login moves no ctime."""
    first = scan(projection(tree), None, str(tree))
    monkeypatch.setattr(survey, "_name", lambda _look_up, number: f"renamed{number}")
    second = assert_warm_is_cold(tree, first)
    assert second.manifest[f"{tree}/html/a.html"].owner == "renamed0"


@pytest.mark.parametrize("seconds", [-3600.0, 0.0, 1.5])
def test_what_is_young_or_of_the_future_is_not_kept(tree: Path, clock: Callable[[float], None], seconds: float) -> None:
    first = scan(projection(tree), None, str(tree))
    clock(seconds)
    assert assert_warm_is_cold(tree, first).known.marks == {}
    assert scan(projection(tree), None, str(tree)).known.marks == {}


def test_entries_that_are_as_before_are_the_same_objects(tree: Path) -> None:
    first = scan(projection(tree), None, str(tree))
    write(tree / "html/a.html", "A")
    second = assert_warm_is_cold(tree, first)
    anew = {path for path, entry in second.manifest.items() if entry is not first.manifest[path]}
    assert anew == {f"{tree}/html/a.html"}


# the law

names = st.sampled_from(["a", "b", "c.log"])
places = st.lists(names, min_size=1, max_size=2).map("/".join)
edits = st.one_of(
    st.tuples(st.just("write"), places, st.sampled_from(["x", "y", "zz"])),
    st.tuples(st.just("remove"), places, st.just("")),
    st.tuples(st.just("rename"), places, places),
    st.tuples(st.just("link"), places, places),
    st.tuples(st.just("chmod"), places, st.sampled_from(["600", "644"])),
    st.tuples(st.just("chown"), places, st.sampled_from(["0", "33"])),
    st.tuples(st.just("touch"), places, st.just("")),
    st.tuples(st.just("folder"), places, st.just("")),
    st.tuples(st.just("retarget"), places, st.sampled_from(["x", "y"])),
    st.tuples(st.just("swap"), places, places),
    st.tuples(st.just("exclude"), st.sampled_from(["", "*.log", "a/", "b"]), st.just("")),
    st.tuples(st.just("scan"), st.just(""), st.just("")),
)


def edited(top: Path, kind: str, place: str, value: str) -> None:
    path = top / place
    if kind == "write":
        write(path, value)
    elif kind == "remove":
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    elif kind == "rename":
        path.rename(top / value)
    elif kind == "link":
        os.link(path, top / value)
    elif kind == "chmod":
        path.chmod(int(value, 8))
    elif kind == "chown":
        os.chown(path, int(value), 0)
    elif kind == "touch":
        os.utime(path, ns=(5, 5))
    elif kind == "folder":
        path.mkdir()
    elif kind == "retarget":
        path.unlink(missing_ok=True)
        path.symlink_to(value)
    elif kind == "swap":
        swap(path, top / value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(edits, max_size=12))
def test_after_any_edits_a_warm_scan_tells_what_a_cold_one_does(
    tmp_path: Path, steps: list[tuple[str, str, str]]
) -> None:
    top = tmp_path / "law"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    found, excludes = scan(projection(top), None, str(tmp_path)), []
    for kind, place, value in [*steps, ("scan", "", "")]:
        if kind == "exclude":
            excludes = [place] if place else []
        elif kind == "scan":
            found = assert_no_shortcut_is_seen(projection(top, *excludes), found, str(tmp_path))
        else:
            try:
                edited(top, kind, place, value)
            except OSError:
                continue  # it is not there, or something else is in its way


# on disk


def test_it_survives_the_process(tmp_path: Path) -> None:
    known = Known("rules", {"/t/\udcff": "1 2 3 4 5 " + "a" * SHA})
    file = tmp_path / "known"
    write_known(str(file), known)
    assert read_known(str(file)) == known
    assert file.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["known"]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"boot": "another", "rules": "", "marks": {}}',
        b'{"/t/a": [[1, 2, 3, 4, 5], "aa"]}',
        b"[" * 100_000,
    ],
)
def test_damage_costs_time_only(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "known").write_bytes(damage)
    assert read_known(str(tmp_path / "known")) == nothing()


def test_marks_that_are_no_text_are_none(tmp_path: Path) -> None:
    file = tmp_path / "known"
    write_known(str(file), Known("", {"/t/a": 5}))  # type: ignore[dict-item]
    assert read_known(str(file)) == nothing()


def test_where_nothing_can_be_written_nothing_is_said(tmp_path: Path) -> None:
    write_known(str(tmp_path / "absent/known"), nothing())
    assert list(tmp_path.iterdir()) == []


# the master


class Reads:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: list[str] = []
        real = scanning.hash_file
        monkeypatch.setattr(scanning, "hash_file", lambda name: (self.files.append(name), real(name))[1])

    def names(self) -> list[str]:
        found, self.files = sorted(Path(name).name for name in self.files), []
        return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def master(tmp_path: Path) -> LocalHost:
    return LocalHost("web1", {}, tmp_path / "state")


ALL = ["a.html", "b.html", "nginx.conf"]


def test_another_process_reads_no_file(tree: Path, tmp_path: Path, reads: Reads) -> None:
    (tmp_path / "state/master").mkdir(parents=True)
    asked = Projection(((str(tree), ()),))
    first = master(tmp_path).scan(asked, full=False)
    assert reads.names() == ALL
    second = master(tmp_path).scan(asked, full=False)
    assert (reads.names(), second) == ([], first)
    master(tmp_path).scan(asked, full=True)
    assert reads.names() == ALL
    write(tree / "html/a.html", "A")
    third = master(tmp_path).scan(asked, full=False)
    assert (reads.names(), third.id == first.id) == (["a.html"], False)
    assert (tmp_path / "state/master" / KNOWN).stat().st_mode & 0o777 == 0o600


def test_a_master_without_a_state_makes_none(tree: Path, tmp_path: Path) -> None:
    """Once somebody else made it, what is known goes there."""
    host, asked = master(tmp_path), Projection(((str(tree), ()),))
    host.scan(asked, full=False)
    assert not (tmp_path / "state").exists()
    (tmp_path / "state/master").mkdir(parents=True)
    host.scan(asked, full=False)
    assert (tmp_path / "state/master" / KNOWN).exists()


def test_nothing_changed_is_the_very_same_snapshot(tree: Path, tmp_path: Path) -> None:
    host, asked = master(tmp_path), Projection(((str(tree), ()),))
    first = host.scan(asked, full=False)
    assert host.scan(asked, full=False) is first
    assert host.scan(asked, full=True) is first
    write(tree / "html/a.html", "A")
    second = host.scan(asked, full=False)
    assert second != first
    excluding = Projection(((str(tree), compile_excludes(["a.html"])),))
    assert f"{tree}/html/a.html" not in host.scan(excluding, full=False).manifest
    assert host.scan(asked, full=False) == second
    assert isinstance(second, Snapshot)


def test_a_scan_that_failed_leaves_no_half_memory(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learnt of the chmod, and gave no snapshot: the next one may not be made of the latest one's entries."""
    host, asked = master(tmp_path), Projection(((str(tree), ()),))
    host.scan(asked, full=False)
    (tree / "html/a.html").chmod(0o600)
    write(tree / "html/b.html", "B")
    with monkeypatch.context() as broken:
        broken.setattr(scanning, "hash_file", unreadable)
        with pytest.raises(ScanFailed):
            host.scan(asked, full=False)
    assert host.scan(asked, full=False) == master(tmp_path).scan(asked, full=True)


def unreadable(name: str) -> None:
    raise PermissionError(13, "Permission denied", name)


# the peer


class Peer:
    def __init__(self, tree: Path, state: Path) -> None:
        self.tree, self.state, self.store = tree, state, Store(str(state))
        self.store.prepare()

    def scan(self, **more: Any) -> dict[str, Any]:
        return trees.scan_trees({"state_dir": str(self.state), "projection": projection(self.tree), **more})

    def accept(self, generation: str, manifest: Manifest) -> None:
        record = {"generation": generation, "run": generation, "id": "x"}
        self.store.accept(record, manifest)

    def answer(self, generation: str | None) -> tuple[str, dict[str, Any]]:
        found = self.scan(generation=generation)
        return found["id"], found["changed"]

    def cold(self, generation: str | None) -> tuple[str, dict[str, Any]]:
        for name in ("cache.json", "scan.json"):
            Path(self.store.path(name)).unlink(missing_ok=True)
        return self.answer(generation)


@pytest.fixture
def peer(tree: Path, tmp_path: Path) -> Peer:
    return Peer(tree, tmp_path / "state")


def test_what_was_answered_is_answered_again(peer: Peer, tree: Path) -> None:
    live = scan(projection(tree)).manifest
    peer.accept("g1", {**live, f"{tree}/html/gone": Entry("file", 0o644, "root", "root", 1, 0, "a" * SHA)})
    first = peer.answer("g1")
    assert first == (snapshot_id(live, projection(tree)), {f"{tree}/html/gone": None})
    kept = Path(peer.store.path("scan.json"))
    kept.write_text(kept.read_text().replace(first[0], "f" * SHA))  # only who compares anew would tell another
    assert peer.answer("g1") == ("f" * SHA, first[1])
    Path(peer.store.path("manifests/g1.json")).write_text("{")
    with pytest.raises(Damaged):
        peer.answer("g1")


def test_no_answer_outlives_what_it_was_about(peer: Peer, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a time, nor a mode, nor a name, nor another accepted record, nor another master's generation."""
    live = scan(projection(tree)).manifest
    peer.accept("g1", live)
    seen = [peer.answer("g1")]
    for step in (
        lambda: os.utime(tree / "html/a.html", ns=(5, 5)),
        lambda: (tree / "html/b.html").chmod(0o600),
        lambda: peer.accept("g1b", live),
        lambda: monkeypatch.setattr(survey, "_name", lambda _look_up, number: f"renamed{number}"),
    ):
        step()
        for generation in ("g1", "g1b", None):
            warm = peer.answer(generation)
            assert warm == peer.answer(generation) == peer.cold(generation)
        seen.append(peer.answer("g1b"))
    assert all(one != other for one, other in pairwise(seen))


def test_a_peer_sees_each_edit(peer: Peer, tree: Path, edit: Callable[[Path], object]) -> None:
    def told_by(answer: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in answer.items() if key != "now"}

    peer.accept("g1", scan(projection(tree)).manifest)
    first = peer.scan(generation="g1")
    assert told_by(peer.scan(generation="g1")) == told_by(first)
    edit(tree)
    warm = peer.scan(generation="g1")
    assert told_by(warm) == told_by(peer.scan(generation="g1", full=True))
    assert told_by(warm) != told_by(first)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", '{"key": 1}', '{"key": "", "seal": ["", {"/t": 1}, ""]}', "[" * 100_000]
)
def test_a_damaged_memory_is_none(peer: Peer, tree: Path, damage: str) -> None:
    peer.accept("g1", scan(projection(tree)).manifest)
    first = peer.answer("g1")
    for name in ("cache.json", "scan.json"):
        Path(peer.store.path(name)).write_text(damage)
    assert peer.answer("g1") == first


def test_nothing_is_written_again_where_nothing_changed(peer: Peer) -> None:
    peer.answer(None)
    written = [Path(peer.store.path(name)).stat().st_ino for name in ("cache.json", "scan.json")]
    peer.answer(None)
    assert [Path(peer.store.path(name)).stat().st_ino for name in ("cache.json", "scan.json")] == written


def test_a_peer_without_a_state_makes_none(tree: Path, tmp_path: Path) -> None:
    request = {"state_dir": str(tmp_path / "none"), "projection": projection(tree)}
    assert trees.scan_trees(request)["ok"]
    assert not (tmp_path / "none").exists()


def test_manifests_that_share(tree: Path) -> None:
    """Equal ones are one; of others each equal entry is."""
    one = scan(projection(tree)).manifest
    assert from_json(to_json(one), one) is one
    other = {**one, "/t/more": Entry("dir", 0o755, "", "", 0, 0, "")}
    found = from_json(to_json(other), one)
    assert found == other
    assert all(found[path] is entry for path, entry in one.items())
    with pytest.raises(ValueError, match="not an entry"):
        from_json({"/t/more": ["pipe", 0o755, "", "", 0, 0, ""]}, one)


texts = st.text(st.one_of(st.characters(), st.sampled_from(["\udcff", '"', "\\", "\n", "\x7f", "\u2028"])), max_size=4)
entries = st.builds(
    Entry, st.sampled_from(["file", "dir", "link"]), st.integers(0, 0o7777), texts, texts, st.just(0), st.just(0), texts
)


@given(st.dictionaries(texts, entries, max_size=4))
def test_a_snapshot_id_is_over_lines_of_json(manifest: Manifest) -> None:
    """On both hosts, of whichever release: its lines are written by hand only since that is faster."""
    lines = [json.dumps([path, list(content_key(manifest[path]))]) + "\n" for path in sorted(manifest)]
    expected = hashlib.sha256("".join([json.dumps({"owners": True}), *lines]).encode("ascii")).hexdigest()
    assert snapshot_id(manifest, {"owners": True}) == expected


def test_a_warm_interpreter_whose_time_is_over_as_it_is_asked_fails_no_run(tmp_path: Path) -> None:
    """It waits a minute for its request, and that comes then."""
    host = LocalHost("web1", {}, tmp_path / "state")
    host.warm()
    spare = host._spare
    assert spare is not None
    os.kill(spare.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(host.call, "validate", {})
        wait_until(lambda: host._spare is None, "it is asked")
        os.kill(spare.pid, signal.SIGALRM)
        os.kill(spare.pid, signal.SIGCONT)
        assert "ok" in asked.result(PATIENCE_S)

"""Scans: what counts, what is seen of an edit, what is reported; and the law that undo takes back what apply did."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ngxsync.agent import folders, renames, stage, survey
from ngxsync.agent.exchange import Exchange, Ids
from ngxsync.agent.journal import Item
from ngxsync.agent.known import SHA
from ngxsync.agent.manifest import Entry, Manifest, delta
from ngxsync.agent.request import make_items
from ngxsync.agent.scan import Scan, scan
from ngxsync.agent.survey import Names
from ngxsync.agent.undo import Undo
from ngxsync.core.excludes import BUILTIN, compile_excludes
from ngxsync.core.plan import make_plan

LONG_AGO = 1_600_000_000 * 10**9


def projection(*trees: Path, excludes: tuple[str, ...] = (), owners: bool = True) -> dict[str, Any]:
    rules = [[regex, out] for regex, out in compile_excludes(excludes)]
    return {"trees": [{"path": str(tree), "exclude": rules} for tree in trees], "owners": owners}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "conf").mkdir(parents=True)
    (tree / "conf/nginx.conf").write_text("events {}\n")
    (tree / "logs").mkdir()
    (tree / "logs/access.log").write_text("a\n")
    return tree


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The file system's clock as it will be in so many seconds: what was just written is then old enough to be kept."""
    real = survey.file_system_clock

    def set_clock(seconds: float) -> None:
        monkeypatch.setattr(survey, "file_system_clock", lambda folder: real(folder) + int(seconds * 10**9))

    return set_clock


def test_what_a_tree_is(tree: Path) -> None:
    (tree / "link").symlink_to("nowhere")
    (tree / "empty").mkdir(mode=0o2750)
    (tree / "empty").chmod(0o2750)
    os.chown(tree / "empty", 4242, 33)
    found = scan(projection(tree, excludes=BUILTIN))
    assert {path.removeprefix(str(tree)): entry for path, entry in found.manifest.items() if "conf" not in path} == {
        "": Entry("dir", stat.S_IMODE(tree.stat().st_mode), "root", "root", 0, 0, ""),
        "/logs": Entry("dir", stat.S_IMODE((tree / "logs").stat().st_mode), "root", "root", 0, 0, ""),
        "/link": Entry("link", 0o777, "root", "root", (tree / "link").lstat().st_mtime_ns, 0, "nowhere"),
        "/empty": Entry("dir", 0o2750, "#4242", "www-data", 0, 0, ""),
    }
    assert found.kept_apart == [f"{tree}/logs/access.log"]
    assert (found.specials, found.unread) == ([], [])
    assert scan(projection(tree, owners=False)).manifest[f"{tree}/empty"].owner == ""


def content_of(found: Scan, path: Path) -> str:
    return found.manifest[str(path)].content


def test_an_edit_of_equal_size_and_time_is_seen(tree: Path, aged: Callable[[float], None]) -> None:
    file = tree / "conf/nginx.conf"
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    aged(10)
    first = scan(projection(tree), None, str(tree))
    assert str(file) in first.known.marks
    file.write_text("EVENTS {}\n")
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    second = scan(projection(tree), first.known, str(tree))
    assert content_of(second, file) != content_of(first, file)


def test_another_file_of_equal_size_and_time_is_seen(tree: Path, aged: Callable[[float], None]) -> None:
    file = tree / "conf/nginx.conf"
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    aged(10)
    first = scan(projection(tree), None, str(tree))
    (tree / "other").write_text("EVENTS {}\n")
    os.utime(tree / "other", ns=(LONG_AGO, LONG_AGO))
    (tree / "other").rename(file)
    assert content_of(scan(projection(tree), first.known, str(tree)), file) != content_of(first, file)


def test_what_was_just_written_is_used_but_not_kept(tree: Path, aged: Callable[[float], None]) -> None:
    """Older kernels give ctime one tick: a second edit within it would look like the first."""
    file = tree / "conf/nginx.conf"
    fresh = scan(projection(tree), None, str(tree))
    assert content_of(fresh, file)
    assert fresh.known.marks == {}
    aged(1)
    assert scan(projection(tree), None, str(tree)).known.marks == {}
    aged(3)
    assert str(file) in scan(projection(tree), None, str(tree)).known.marks


def test_what_is_known_is_not_read_again(tree: Path, aged: Callable[[float], None]) -> None:
    aged(10)
    found = scan(projection(tree), None, str(tree)).known
    known = found._replace(marks={path: mark[:-SHA] + "k" * SHA for path, mark in found.marks.items()})
    assert content_of(scan(projection(tree), known, str(tree)), tree / "conf/nginx.conf") == "k" * SHA
    assert content_of(scan(projection(tree), None, str(tree)), tree / "conf/nginx.conf") != "known"


def test_what_cannot_be_read_is_reported(tree: Path) -> None:
    """As another user, since root reads all."""
    (tree / "secret").write_text("s")
    (tree / "secret").chmod(0o600)
    (tree / "closed").mkdir(mode=0o700)
    for folder in (tree, *tree.parents):
        with contextlib.suppress(PermissionError):
            folder.chmod(folder.stat().st_mode | 0o055)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setgid(65534)
        os.setuid(65534)
        os.write(writing, "\n".join(scan(projection(tree)).unread).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert sorted(told.read().splitlines()) == [
            f"{tree}/closed: Permission denied",
            f"{tree}/secret: Permission denied",
        ]
    os.wait()


BUSY = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
while True:
    os.pwrite(fd, b"y", 0)
    if not os.lseek(fd, 0, os.SEEK_CUR):
        print("writing", flush=True)
        os.lseek(fd, 1, os.SEEK_SET)
"""


def test_a_file_that_never_keeps_still_is_reported(tree: Path) -> None:
    busy = tree / "busy"
    busy.touch()
    os.truncate(busy, 64 << 20)
    with subprocess.Popen([sys.executable, "-c", BUSY, busy], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        found = scan(projection(tree))
        writer.kill()
    assert found.unread == [f"{busy}: it is being written"]
    assert str(busy) not in found.manifest


def test_roots(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tree)
    absent, alias = tmp_path / "absent", tmp_path / "alias"
    found = scan(projection(alias, absent))
    assert str(absent) not in found.roots
    info = tree.stat()
    fsid = f"{os.statvfs(tree).f_fsid:x}"
    expected = {"real": str(tree), "dev": info.st_dev, "ino": info.st_ino, "fsid": fsid, "mounts": []}
    assert found.roots == {str(alias): expected}
    assert f"{alias}/conf/nginx.conf" in found.manifest
    with pytest.raises(NotADirectoryError):
        scan(projection(tree / "conf/nginx.conf"))


def test_one_excluded_path_for_each_directory_is_enough(tree: Path) -> None:
    for number in range(5):
        (tree / f"logs/{number}.log").write_text("x")
        (tree / f"conf/{number}~").write_text("x")
    found = scan(projection(tree, excludes=BUILTIN))
    assert [str(Path(path).parent) for path in found.kept_apart] == [f"{tree}/conf", f"{tree}/logs"]


def test_our_own_folder_is_in_no_scan(tree: Path) -> None:
    for folder in (tree, tree / "conf"):
        (folder / ".ngxsync").mkdir()
        (folder / ".ngxsync/file").write_text("x")
    found = scan(projection(tree))
    assert not [path for path in found.manifest if ".ngxsync" in path]
    assert found.kept_apart == []


# the laws of apply and undo


names = st.sampled_from(["a", "b", "#c", " d", "\udcff"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
modes = st.sampled_from([0o644, 0o600, 0o4755])
owners = st.sampled_from(["root", "www-data", "#4242"])
files = st.tuples(st.just("file"), modes, owners, st.binary(max_size=3), st.integers(0, 3))
links = st.tuples(st.just("link"), st.just(0o777), owners, st.sampled_from(["a", "..", "/nowhere"]), st.integers(0, 3))
directories = st.tuples(st.just("dir"), st.sampled_from([0o755, 0o2750]), owners, st.just(""), st.just(0))
trees = st.dictionaries(paths, st.one_of(files, links, directories), max_size=8)


def grow(top: Path, wanted: dict[str, Any]) -> None:
    """A tree of these entries; those below something that is no directory are left out."""
    top.mkdir()
    for path in sorted(wanted):
        kind, mode, owner, content, mtime = wanted[path]
        target = top / path
        above = [folder for folder in target.parents if folder.is_relative_to(top)]
        if any(folder.is_symlink() or folder.is_file() for folder in above) or (target.exists() and kind != "dir"):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "dir":
            target.mkdir(exist_ok=True)
        elif kind == "link":
            target.symlink_to(content)
        else:
            target.write_bytes(content)
        os.lchown(target, {"root": 0, "www-data": 33, "#4242": 4242}[owner], 0)
        if kind != "link":
            target.chmod(mode)
        os.utime(target, ns=(mtime, mtime), follow_symlinks=False)


@contextlib.contextmanager
def prepared(live: Path, wanted: Path) -> Iterator[tuple[Exchange, Manifest, Manifest]]:
    """An exchange that makes `live` equal to `wanted`, ready to apply; the two manifests."""
    old = scan(projection(live)).manifest
    new = {path.replace(str(wanted), str(live), 1): e for path, e in scan(projection(wanted)).manifest.items()}
    plan = make_plan(new, old, None, lambda _path: False)
    changes = [
        {"path": c.path, "before": c.before and list(c.before), "after": c.after and list(c.after)}
        for c in plan.changes
    ]
    items: list[Item] = make_items(changes, [str(live)], Names(True))
    folders.make_run_folder(str(live), str(live), "run", [folders.PREP, folders.STAGE])
    for item in items:
        if item.after and item.after[0] == "file" and item.action in ("create", "exchange"):
            staged = live / ".ngxsync/run/stage" / os.path.relpath(item.path, live)
            staged.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes((wanted / os.path.relpath(item.path, live)).read_bytes())
    with Exchange("run", items, Names(True), Ids()) as exchange:
        assert stage.prepare(exchange, {str(live): str(live / ".ngxsync/run/stage")}) == []
        yield exchange, old, new


def manifest_of(live: Path) -> Manifest:
    return scan(projection(live)).manifest


def no_edit(path: str, _name: str, _folder: int) -> None:
    raise AssertionError(f"nobody edited {path}")


law = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["renameat2", "without renameat2"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_arguments: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if request.param != "renameat2":
        monkeypatch.setattr(renames.kernel, "renameat2", missing)


@law
@given(trees, trees, st.integers(0, 30), st.booleans())
def test_undo_takes_back_any_part_of_apply(
    kernel: None, tmp_path: Path, old: dict[str, Any], new: dict[str, Any], steps: int, twice: bool
) -> None:
    live, wanted = tmp_path / "live", tmp_path / "wanted"
    for top in (live, wanted):
        shutil.rmtree(top, ignore_errors=True)
    grow(live, old)
    grow(wanted, new)
    with prepared(live, wanted) as (exchange, before, after):
        everything = exchange.items
        exchange.items = everything[:steps]
        exchange.apply()
        if steps >= len(everything):
            assert delta(after, manifest_of(live)) == {}
        exchange.items = everything
        for _ in range(2 if twice else 1):
            work = Undo(exchange, no_edit)
            work.run()
            assert (work.failed, work.edited) == ([], [])
            assert delta(before, manifest_of(live)) == {}

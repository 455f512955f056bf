"""Each guard on the pair: held with its code and its override, nothing changed, and with the override it goes through."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.hosts import Host
from tests.pair import ROOT, manifest_of, write_tree
from tests.resident import Resident, Run, are_equal, by_hand, raise_if_not_held, served, site

OTHER = "/srv/site"
BOTH_TREES = f"trees =\n    {ROOT}\n    {OTHER}"
PAGES = {f"page{number}.html": f"page {number}" for number in range(10)}


def trees_of(host: Host) -> list[object]:
    return [manifest_of(host, tree) for tree in (ROOT, OTHER) if host.path(tree).exists()]


def raise_if_not_guarded(daemon: Resident, code: str, *texts: str) -> Run:
    """Held with this code by the daemon and by `sync --yes`, nothing changed; gone through with --force CODE alone."""
    web2 = daemon.pair.web2
    before = trees_of(web2), web2.nginx_workers()
    raise_if_not_held(daemon.sync(), code, f"--force {code}", *texts)
    raise_if_not_held(by_hand(daemon.pair, "--yes"), code)
    assert (trees_of(web2), web2.nginx_workers()) == before
    return by_hand(daemon.pair, "--force", code)


def raise_if_not_done(daemon: Resident, run: Run) -> None:
    pair = daemon.pair
    assert (run.exit, run.outcome) == (0, "applied"), run
    assert are_equal(pair)
    assert trees_of(pair.web1) == trees_of(pair.web2)
    assert daemon.sync().outcome == "in-sync"


@pytest.fixture
def two_trees(unmet: Resident) -> Resident:
    """Two trees in sync: nginx's own and /srv/site with ten pages."""
    pair = unmet.pair
    pair.write_config(sync=BOTH_TREES)
    for host in pair.hosts:
        write_tree(host, OTHER, PAGES)
    run = unmet.sync()
    assert run.exit == 0, run
    return unmet


def replace_root(host: Host) -> None:
    """Another directory under the tree's name, with the same files."""
    host.run(["sh", "-c", f"cp -a {OTHER} {OTHER}.new && mv {OTHER} {OTHER}.old && mv {OTHER}.new {OTHER}"])


def point_elsewhere(host: Host) -> None:
    host.run(["sh", "-c", f"cp -a {OTHER} {OTHER}.new && mv {OTHER} {OTHER}.old && ln -s {OTHER}.new {OTHER}"])


def cover(host: Host) -> None:
    """Another disk over the tree, with the same files."""
    host.run(
        [
            "sh",
            "-c",
            f"cp -a {OTHER} {OTHER}.kept && mount -t tmpfs -o mode=755 tmpfs {OTHER} && cp -a {OTHER}.kept/. {OTHER}",
        ]
    )


def mount_below(host: Host) -> None:
    host.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{OTHER}/logs"])


def test_an_emptied_root(two_trees: Resident) -> None:
    pair = two_trees.pair
    pair.write_config(sync=f"{BOTH_TREES}\nmax_delete = no")
    for entry in pair.web1.path(OTHER).iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    run = raise_if_not_guarded(
        two_trees, "emptied-root", "the tree is empty here, and web2 has 11 entries in it", OTHER
    )

    raise_if_not_done(two_trees, run)
    assert not list(pair.web2.path(OTHER).glob("*.html"))


@pytest.mark.parametrize("name", ["web1", "web2"])
@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (replace_root, "replaced-root", "the tree is another directory than at the last run"),
        (point_elsewhere, "replaced-root", f"the tree now leads to {OTHER}.new"),
        (cover, "device", "the tree is on another device than at the last run: is a disk not mounted?"),
        (mount_below, "mounts", "other mounts below the tree than at the last run (new: logs)"),
    ],
    ids=["another-directory", "another-place", "another-device", "another-mount"],
)
def test_a_root_that_is_not_the_place_it_was(
    two_trees: Resident, name: str, change: Callable[[Host], None], code: str, text: str
) -> None:
    pair = two_trees.pair
    host = pair.web1 if name == "web1" else pair.web2
    change(host)
    write_tree(pair.web1, ROOT, site("edited"))

    run = raise_if_not_guarded(two_trees, code, f"{name}:{OTHER}", text)

    assert (run.exit, run.outcome) == (0, "applied"), run
    assert served(pair.web2) == "edited"
    assert two_trees.sync().outcome == "in-sync"


def test_a_root_that_is_not_the_place_it_was_endangers_nothing_while_there_is_no_work(two_trees: Resident) -> None:
    replace_root(two_trees.pair.web2)

    assert two_trees.sync().outcome == "in-sync"


def test_without_its_main_file_the_masters_own_test_says_no_before_any_guard(synced: Resident) -> None:
    pair = synced.pair
    before = manifest_of(pair.web2)
    pair.web1.path(f"{ROOT}/conf/nginx.conf").unlink()

    run = synced.sync()

    assert (run.exit, run.outcome) == (3, "refused"), run
    assert f"{ROOT}/conf/nginx.conf" in run.text
    assert manifest_of(pair.web2) == before


@pytest.mark.parametrize(("folder", "part"), [("html/old", f"in {ROOT}/html"), ("conf/old", "outside content")])
def test_more_deletions_than_max_delete(synced: Resident, folder: str, part: str) -> None:
    """Counted apart: many pages elsewhere do not hide that one of the two parts goes."""
    pair = synced.pair
    other = "conf/stays" if folder.startswith("html") else "html/stays"
    write_tree(pair.web1, f"{ROOT}/{folder}", PAGES)
    write_tree(pair.web1, f"{ROOT}/{other}", {f"{number}": "stays" for number in range(40)})
    assert synced.sync().exit == 0
    shutil.rmtree(pair.web1.path(f"{ROOT}/{folder}"))

    run = raise_if_not_guarded(synced, "max-delete", "entries", part, "more than max_delete = 30%")

    raise_if_not_done(synced, run)


def test_few_deletions_need_no_force(synced: Resident) -> None:
    pair = synced.pair
    write_tree(pair.web1, f"{ROOT}/html/few", {f"{number}": "x" for number in range(2)})
    assert synced.sync().exit == 0
    shutil.rmtree(pair.web1.path(f"{ROOT}/html/few"))

    raise_if_not_done(synced, synced.sync())


def test_a_directory_with_files_of_the_peers_own_cannot_become_a_file(synced: Resident) -> None:
    """What stands there no sync takes: with the override all else goes through, and it stays."""
    pair = synced.pair
    pair.write_config(sync="exclude = *.own")
    write_tree(pair.web1, ROOT, {"html/d/a.html": "a"})
    assert synced.sync().exit == 0
    write_tree(pair.web2, ROOT, {"html/d/mine.own": "web2's own"})
    shutil.rmtree(pair.web1.path(f"{ROOT}/html/d"))
    write_tree(pair.web1, ROOT, {"html/d": "now a file"})
    texts = (f"web2:{ROOT}/html/d", "mine.own", "cannot give way to a file")

    raise_if_not_held(by_hand(pair, "--force", "type-change"), "type-change", *texts)
    write_tree(pair.web1, ROOT, site("edited"))
    run = raise_if_not_guarded(synced, "type-change", *texts)

    assert (run.exit, served(pair.web2)) == (0, "edited"), run
    assert f"left as it is on web2 (the next run is held for it again): {ROOT}/html/d" in run.warnings
    assert pair.web2.path(f"{ROOT}/html/d/mine.own").read_text() == "web2's own"
    raise_if_not_held(synced.sync(), "type-change", *texts)

    pair.web2.path(f"{ROOT}/html/d/mine.own").unlink()
    raise_if_not_done(synced, synced.sync())


def test_a_user_that_the_peer_lacks(synced: Resident) -> None:
    pair = synced.pair
    pair.web1.run(["useradd", "--system", "editor"])
    write_tree(pair.web1, ROOT, {**site("edited"), "html/new.html": "new"})
    for name in ("html/index.html", "html/new.html"):
        pair.web1.run(["chown", "editor:editor", f"{ROOT}/{name}"])
    try:
        run = raise_if_not_guarded(
            synced, "missing-user", "web2 has no user or group of the name: user editor, group editor"
        )

        assert (run.exit, served(pair.web2)) == (0, "edited"), run
        assert f"left as it is on web2 (the next run is held for it again): {ROOT}/html/index.html" in run.warnings
        new = pair.web2.path(f"{ROOT}/html/new.html")
        assert (new.read_text(), new.stat().st_uid, new.stat().st_gid) == ("new", 0, 0)
        raise_if_not_held(synced.sync(), "missing-user")

        pair.web2.run(["useradd", "--system", "--uid", "777", "editor"])
        done = synced.sync()
        assert (done.exit, done.outcome, new.stat().st_uid) == (0, "applied", 777), "owners go by name"
        assert synced.sync().outcome == "in-sync"
    finally:
        for host in pair.hosts:
            host.run(["userdel", "editor"], check=False)

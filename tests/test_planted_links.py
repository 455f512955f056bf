"""A link planted on the peer leads nobody out of the tree: nothing behind it is read, written, given away or deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.hosts import Host, wait_until
from tests.pair import ROOT, manifest_of, snapshot_inodes, write_tree
from tests.resident import Resident, are_equal
from tests.test_cuts import waiting

OUTSIDE = "/srv/outside"


@pytest.fixture
def guarded(synced: Resident) -> Iterator[Resident]:
    """A folder beside the tree, like html; whatever is tried, none of its inodes changes."""
    host = synced.pair.web2
    write_tree(host, OUTSIDE, {"index.html": "outside\n", "old.html": "old\n", "x.conf": "outside\n"})
    host.path(OUTSIDE).chmod(0o700)
    host.path(f"{OUTSIDE}/index.html").chmod(0o600)
    before = snapshot_inodes(host, OUTSIDE), manifest_of(host, OUTSIDE)
    yield synced
    assert (snapshot_inodes(host, OUTSIDE), manifest_of(host, OUTSIDE)) == before


def plant(host: Host, path: str) -> None:
    """A directory of the tree, or a file, becomes a link to the outside."""
    place = host.path(path)
    is_folder = place.is_dir()
    (shutil.rmtree if is_folder else place.__class__.unlink)(place)
    place.symlink_to(OUTSIDE if is_folder else f"{OUTSIDE}/index.html")


@pytest.mark.parametrize("path", ["html", "html/index.html", "conf/vhosts"])
def test_a_link_planted_in_the_live_tree_between_plan_and_apply(guarded: Resident, path: str) -> None:
    """Content, mode, a deletion and a new file below it; then the next plan takes the link away."""
    pair = guarded.pair
    write_tree(pair.web1, ROOT, {"html/old.html": "old\n", "html/mode.html": "x\n"})
    assert guarded.sync().exit == 0
    write_tree(pair.web1, ROOT, {"html/index.html": "new\n", "html/new.html": "new\n", "conf/vhosts/x.conf": "# new\n"})
    pair.web1.path(f"{ROOT}/html/old.html").unlink()
    pair.web1.path(f"{ROOT}/html/mode.html").chmod(0o600)
    with waiting(pair.web2, "/usr/bin/rsync", "*"):
        guarded.begin(by_person=True)
        wait_until(pair.web2.path("/run/reached").exists, "rsync waits")
        plant(pair.web2, f"{ROOT}/{path}")
        pair.web2.path("/run/go").write_text("go\n")
        pair.web2.path("/run/reached").unlink()
        wait_until(pair.web2.path("/run/reached").exists, "it is planned anew")
        pair.web2.path("/run/go").write_text("go\n")
        run = guarded.answer()
    assert run.exit == 0, run
    assert are_equal(pair)


def test_a_link_in_place_of_our_own_folder_is_not_followed(guarded: Resident) -> None:
    """Whoever owns the tree's directory can put it there; the run says what is in the way."""
    pair = guarded.pair
    own = pair.web2.path(f"{ROOT}/.ngxsync")
    shutil.rmtree(own, ignore_errors=True)
    own.symlink_to(OUTSIDE)
    write_tree(pair.web1, ROOT, {"html/index.html": "new\n"})
    run = guarded.sync()
    assert run.exit == 4, run
    assert ".ngxsync" in run.text
    assert "web2 unchanged" in run.text
    own.unlink()
    assert guarded.sync().exit == 0
    assert are_equal(pair)

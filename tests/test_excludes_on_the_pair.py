"""What is not compared stays the peer's own: excludes on the pair."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from tests.hosts import Host, wait_until
from tests.pair import ROOT, manifest_of, write_tree
from tests.resident import Resident, are_equal, by_hand, raise_if_not_held, raise_if_not_in_sync, served, site

PAGE = "html/index.html"


def live(host: Host, name: str) -> Path:
    return host.path(f"{ROOT}/{name}")


@pytest.fixture
def with_drafts(synced: Resident) -> Resident:
    """Drafts in sync on both hosts, before anybody excludes them."""
    write_tree(
        synced.pair.web1, ROOT, {"html/drafts/one.html": "one", "html/drafts/two.html": "two", "html/a.draft": "a"}
    )
    assert synced.sync().exit == 0
    return synced


@pytest.mark.parametrize("line", ["/html/drafts/", "drafts", "*.draft", "/html/drafts/*", "html/**"])
def test_one_more_exclude_deletes_nothing(with_drafts: Resident, line: str) -> None:
    pair = with_drafts.pair
    before, reloads = manifest_of(pair.web2), pair.web2.reload_count()
    pair.write_config(sync=f"exclude = {line}")

    assert with_drafts.sync().exit == 0
    assert manifest_of(pair.web2) == before
    raise_if_not_in_sync(with_drafts)
    write_tree(pair.web1, ROOT, site("after"))
    assert with_drafts.sync().exit == 0
    assert served(pair.web2) == "after"
    assert manifest_of(pair.web2).items() >= before.items()
    assert pair.web2.reload_count() == reloads + 1


def test_what_is_excluded_is_neither_sent_nor_taken_from_the_peer(synced: Resident) -> None:
    pair = synced.pair
    pair.write_config(sync="exclude = /html/drafts/")
    write_tree(pair.web1, ROOT, {"html/drafts/one.html": "web1's", "html/drafts/mine.html": "web1's"})
    write_tree(pair.web2, ROOT, {"html/drafts/one.html": "web2's", "html/drafts/theirs.html": "web2's"})
    before = manifest_of(pair.web2)

    assert synced.sync().exit == 0

    assert manifest_of(pair.web2) == before


@pytest.mark.parametrize("between", [True, False], ids=["a-run-in-between", "none"])
def test_one_exclude_less_overwrites_nothing_of_the_peers_own_unasked(with_drafts: Resident, between: bool) -> None:
    """Both sides went on by themselves while it was excluded: nobody but a person knows which is right."""
    pair = with_drafts.pair
    pair.write_config(sync="exclude = /html/drafts/")
    assert with_drafts.sync().exit == 0
    write_tree(pair.web2, ROOT, {"html/drafts/one.html": "web2's", "html/drafts/own.html": "web2's"})
    write_tree(pair.web1, ROOT, {"html/drafts/one.html": "web1's"})
    if between:
        write_tree(pair.web1, ROOT, site("between"))
        assert with_drafts.sync().exit == 0
    pair.write_config()
    before = manifest_of(pair.web2)

    raise_if_not_held(
        with_drafts.sync(), "first-contact", "2 paths on web2 never came from here", "--force first-contact"
    )
    raise_if_not_held(by_hand(pair, "--yes"), "first-contact")
    assert manifest_of(pair.web2) == before

    assert by_hand(pair, "--force", "first-contact").exit == 0
    assert are_equal(pair)


def test_an_exclude_added_and_taken_back_before_any_run_is_as_if_it_never_was(with_drafts: Resident) -> None:
    """No run saw it, so what was edited on the peer meanwhile is drift like any other: healed, and kept."""
    pair = with_drafts.pair
    pair.write_config(sync="exclude = /html/drafts/")
    pair.write_config()
    write_tree(pair.web2, ROOT, {"html/drafts/one.html": "web2's"})

    run = with_drafts.sync()

    assert (run.exit, run.outcome) == (0, "applied")
    assert f"{ROOT}/html/drafts/one.html" in run.warnings


def test_one_exclude_less_sends_what_only_the_master_has_unasked(synced: Resident) -> None:
    pair = synced.pair
    pair.write_config(sync="exclude = /html/drafts/")
    write_tree(pair.web1, ROOT, {"html/drafts/one.html": "web1's"})
    assert synced.sync().exit == 0
    pair.write_config()

    assert synced.sync().exit == 0
    assert live(pair.web2, "html/drafts/one.html").read_text() == "web1's"


def test_an_exclude_of_one_peer_is_its_own(synced: Resident) -> None:
    pair = synced.pair
    pair.write_config(peer="exclude = /conf/vhosts/own-*.conf")
    write_tree(pair.web1, ROOT, {"conf/vhosts/own-1.conf": "# web1's\n", **site("shared")})
    write_tree(pair.web2, ROOT, {"conf/vhosts/own-2.conf": "# web2's\n"})

    assert synced.sync().exit == 0

    assert served(pair.web2) == "shared"
    names = {entry.name for entry in live(pair.web2, "conf/vhosts").iterdir()}
    assert names == {"default.conf", "site.conf", "own-2.conf"}
    raise_if_not_in_sync(synced)


def test_a_directory_that_keeps_the_peers_own_files_stays_and_is_no_difference(synced: Resident) -> None:
    pair = synced.pair
    pair.write_config(sync="exclude = *.own")
    write_tree(pair.web1, ROOT, {"html/shop/deep/a.html": "a", "html/shop/b.html": "b"})
    assert synced.sync().exit == 0
    write_tree(pair.web2, ROOT, {"html/shop/deep/mine.own": "web2's"})
    shutil.rmtree(live(pair.web1, "html/shop"))

    run = synced.sync()

    assert (run.exit, run.outcome) == (0, "applied"), run
    assert [name for name in manifest_of(pair.web2) if "shop" in name] == [
        "html/shop",
        "html/shop/deep",
        "html/shop/deep/mine.own",
    ]
    raise_if_not_in_sync(synced)
    raise_if_not_in_sync(synced)
    write_tree(pair.web1, ROOT, site("after"))
    assert (synced.sync().exit, served(pair.web2)) == (0, "after")


def test_logs_that_the_configuration_names_exclude_themselves_for_good(synced: Resident) -> None:
    pair = synced.pair
    logging = site("logged")["conf/vhosts/site.conf"].replace("}", "access_log mylogs/site.log; }")
    for host in pair.hosts:
        live(host, "mylogs").mkdir()
    write_tree(pair.web1, ROOT, {"conf/vhosts/site.conf": logging})

    assert synced.sync().exit == 0
    assert served(pair.web2) == "logged"
    own = wait_until(live(pair.web2, "mylogs/site.log").read_text, "nginx writes its line, after the answer")
    for text in ("edit one", "edit two"):
        write_tree(pair.web1, ROOT, {PAGE: text})
        run = synced.sync()
        assert (run.exit, list(run.changes)) == (0, [f"{ROOT}/{PAGE}"]), "an ordinary edit changes no projection"
    write_tree(pair.web1, ROOT, site("no log any more"))
    assert synced.sync().exit == 0
    assert live(pair.web2, "mylogs/site.log").read_text() == own, "and it stays the peer's own"
    raise_if_not_in_sync(synced)


def test_sockets_pipes_and_devices_are_left_alone(synced: Resident) -> None:
    pair = synced.pair
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(live(pair.web2, "html/app.sock")))
        os.mkfifo(live(pair.web2, "conf/pipe"))
        os.mknod(live(pair.web2, "html/null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mkfifo(live(pair.web1, "conf/pipe-on-web1"))
        write_tree(pair.web1, ROOT, site("after"))

        assert (synced.sync().exit, served(pair.web2)) == (0, "after")

        for name in ("html/app.sock", "conf/pipe", "html/null"):
            assert live(pair.web2, name).lstat().st_ino
        assert not live(pair.web2, "conf/pipe-on-web1").exists()
        raise_if_not_in_sync(synced)


def test_a_socket_in_the_way_of_a_file_holds(synced: Resident) -> None:
    pair = synced.pair
    os.mkfifo(live(pair.web2, "html/new.html"))
    write_tree(pair.web1, ROOT, {"html/new.html": "new"})

    raise_if_not_held(synced.sync(), "type-change", f"web2:{ROOT}/html/new.html", "is left alone by a sync")

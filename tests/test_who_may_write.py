"""Whose word counts on web2: first contact, lost memories, a second master, drift and conflicts."""

from __future__ import annotations

import shutil

import pytest

from tests.hosts import Host
from tests.pair import BASE_TREE, ROOT, Pair, manifest_of, write_tree
from tests.resident import SITE, STATE, Resident, are_equal, by_hand, kept_contents, raise_if_not_held, served, site

PAGE = "html/index.html"


def forget(host: Host) -> None:
    """The host lost all that ngxsync knew. Its folder stays: one that is removed from outside takes its mount along."""
    for entry in host.path(STATE).iterdir():
        shutil.rmtree(entry)


# first contact


def test_an_empty_peer_is_filled_unasked_and_proven_once_its_nginx_runs(unmet: Resident) -> None:
    pair = unmet.pair
    pair.web2.stop_nginx()
    for entry in pair.web2.path(ROOT).iterdir():
        shutil.rmtree(entry)

    filled = unmet.sync()

    assert (filled.exit, filled.outcome, filled.code) == (1, "not-proven", "nginx-down"), filled
    assert are_equal(pair)
    pair.web2.start_nginx()
    proven = unmet.sync()
    assert (proven.exit, proven.peer["reload"]) == (0, "reloaded"), proven
    assert pair.web2.get("/") == (200, BASE_TREE[PAGE])
    assert unmet.sync().outcome == "in-sync"


def test_an_equal_peer_is_reloaded_proven_and_accepted_unasked(unmet: Resident) -> None:
    pair = unmet.pair
    before, workers = manifest_of(pair.web2), pair.web2.nginx_workers()

    run = unmet.sync()

    assert (run.exit, run.outcome, run.changes) == (0, "in-sync", {}), run
    assert manifest_of(pair.web2) == before
    assert not set(workers) & set(pair.web2.nginx_workers())
    assert unmet.sync().exit == 0
    assert pair.web2.reload_count() == 1


def test_a_different_peer_waits_for_a_person_who_takes_the_direction(unmet: Resident) -> None:
    pair = unmet.pair
    write_tree(pair.web1, ROOT, site("web1"))
    write_tree(pair.web2, ROOT, {**site("web2"), PAGE: "web2's own page", "html/only-there.html": "only there"})
    before, workers = manifest_of(pair.web2), pair.web2.nginx_workers()

    raise_if_not_held(unmet.sync(), "first-contact", "ngxsync sync")
    assert (manifest_of(pair.web2), pair.web2.nginx_workers()) == (before, workers)
    raise_if_not_held(by_hand(pair), "first-contact", "would delete 1 path", "--yes")
    assert (manifest_of(pair.web2), pair.web2.nginx_workers()) == (before, workers)

    run = by_hand(pair, "--yes")
    assert (run.exit, run.outcome) == (0, "applied"), run
    assert run.changes[f"{ROOT}/html/only-there.html"] == "deleted"
    assert are_equal(pair)
    assert served(pair.web2) == "web1"
    replaced = {b"web2's own page", b"only there", site("web2")[SITE].encode()}
    assert replaced <= kept_contents(pair.web2)
    assert unmet.sync().outcome == "in-sync"


def test_a_first_sync_without_deletions_needs_no_yes(pair: Pair) -> None:
    write_tree(pair.web2, ROOT, {PAGE: "web2's own page"})

    run = by_hand(pair)

    assert (run.exit, run.outcome) == (0, "applied"), run
    assert are_equal(pair)


# lost memories


@pytest.mark.parametrize("who", ["web1", "web2"])
def test_who_lost_its_memory_of_equal_trees_goes_on_unasked(synced: Resident, who: str) -> None:
    pair = synced.pair
    forget(getattr(pair, who))

    assert synced.sync().exit == 0
    write_tree(pair.web1, ROOT, site("after"))
    assert (synced.sync().exit, served(pair.web2)) == (0, "after")


@pytest.mark.parametrize("who", ["web1", "web2"])
def test_who_lost_its_memory_of_different_trees_waits_for_a_person(synced: Resident, who: str) -> None:
    pair = synced.pair
    forget(getattr(pair, who))
    write_tree(pair.web1, ROOT, {PAGE: "new on web1"})
    before = manifest_of(pair.web2)

    raise_if_not_held(synced.sync(), "first-contact", "ngxsync diff")
    assert manifest_of(pair.web2) == before
    assert by_hand(pair).exit == 0
    assert are_equal(pair)
    assert synced.sync().outcome == "in-sync"


# a second master


@pytest.fixture
def stale(synced: Resident) -> tuple[Resident, str]:
    """web1 with the memory it had before its latest run, and that run: what a second master is, or one that came back."""
    web1 = synced.pair.web1
    memory, kept = web1.path(f"{STATE}/master"), web1.path("/srv/kept")
    shutil.copytree(memory, kept)
    write_tree(web1, ROOT, site("newer"))
    newer = synced.sync()
    assert newer.exit == 0
    for name in ("web2.json", "web2.manifest.json"):
        shutil.copyfile(kept / "peers" / name, memory / "peers" / name)
    return synced, newer.data["run"]


def test_a_stale_master_is_held_and_told_who_wrote_last(stale: tuple[Resident, str]) -> None:
    daemon, run = stale
    pair = daemon.pair
    write_tree(pair.web1, ROOT, site("stale"))
    before, workers = manifest_of(pair.web2), pair.web2.nginx_workers()

    raise_if_not_held(daemon.sync(), "generation", f"web1 wrote there last (run {run}, 20", "--force generation")
    raise_if_not_held(by_hand(pair, "--yes"), "generation")
    assert (manifest_of(pair.web2), pair.web2.nginx_workers()) == (before, workers)

    assert by_hand(pair, "--force", "generation").exit == 0
    assert served(pair.web2) == "stale"
    assert are_equal(pair)
    assert site("newer")[SITE].encode() in kept_contents(pair.web2)
    assert daemon.sync().outcome == "in-sync"


def test_a_stale_master_with_equal_trees_is_adopted(stale: tuple[Resident, str]) -> None:
    daemon, _ = stale

    assert daemon.sync().exit == 0
    write_tree(daemon.pair.web1, ROOT, site("next"))
    assert (daemon.sync().exit, served(daemon.pair.web2)) == (0, "next")


def test_a_stale_master_that_has_what_the_peer_had_before_is_held(stale: tuple[Resident, str]) -> None:
    """A, B, and a master that still has A: equal to what it wrote last, so only the generation says that it is stale."""
    daemon, _ = stale
    daemon.pair.web1.path(f"{ROOT}/{SITE}").unlink()

    raise_if_not_held(daemon.sync(), "generation")
    assert served(daemon.pair.web2) == "newer"


def test_a_then_b_then_a_again(synced: Resident) -> None:
    pair = synced.pair
    for text in ("A", "B", "A"):
        write_tree(pair.web1, ROOT, site(text))
        run = synced.sync()
        assert (run.exit, run.outcome, served(pair.web2)) == (0, "applied", text)
    assert are_equal(pair)


# drift


def drift(host: Host) -> None:
    """Somebody edits on the peer: another page, a vhost of its own, another mode, and a file that is gone."""
    write_tree(host, ROOT, {PAGE: "edited on web2", "conf/vhosts/own.conf": "# web2's own\n"})
    host.path(f"{ROOT}/conf/nginx.conf").chmod(0o600)
    host.path(f"{ROOT}/conf/mime.types").unlink()


def test_drift_is_healed_kept_and_told(synced: Resident) -> None:
    pair = synced.pair
    drift(pair.web2)

    run = synced.sync()

    assert (run.exit, run.outcome) == (0, "applied"), run
    assert are_equal(pair)
    assert {b"edited on web2", b"# web2's own\n"} <= kept_contents(pair.web2)
    for name in (PAGE, "conf/vhosts/own.conf", "conf/nginx.conf", "conf/mime.types"):
        assert f"{ROOT}/{name}" in run.warnings
    assert {change["cause"] for change in run.peer["changes"]} == {"drift"}
    assert synced.sync().outcome == "in-sync"


def test_with_on_drift_hold_drift_waits_for_a_person(synced: Resident) -> None:
    pair = synced.pair
    pair.write_config(sync="on_drift = hold")
    drift(pair.web2)
    before = manifest_of(pair.web2)

    raise_if_not_held(synced.sync(), "drift", "4 paths changed on web2", "--force drift")
    raise_if_not_held(by_hand(pair, "--yes"), "drift")
    assert manifest_of(pair.web2) == before
    assert by_hand(pair, "--force", "drift").exit == 0
    assert are_equal(pair)
    assert b"edited on web2" in kept_contents(pair.web2)


def test_an_edit_elsewhere_waits_with_the_drift_and_then_goes_through(synced: Resident) -> None:
    pair = synced.pair
    pair.write_config(sync="on_drift = hold")
    write_tree(pair.web2, ROOT, {PAGE: "edited on web2"})
    write_tree(pair.web1, ROOT, site("mine"))

    raise_if_not_held(synced.sync(), "drift", PAGE)
    assert not pair.web2.path(f"{ROOT}/{SITE}").exists()
    write_tree(pair.web2, ROOT, {PAGE: BASE_TREE[PAGE]})
    assert (synced.sync().exit, served(pair.web2)) == (0, "mine")


@pytest.mark.parametrize("on_drift", ["heal", "hold"])
def test_a_conflict_is_treated_as_drift(synced: Resident, on_drift: str) -> None:
    pair = synced.pair
    pair.write_config(sync=f"on_drift = {on_drift}")
    write_tree(pair.web1, ROOT, {PAGE: "edited on web1"})
    write_tree(pair.web2, ROOT, {PAGE: "edited on web2"})

    run = synced.sync()

    if on_drift == "hold":
        raise_if_not_held(run, "conflict", "1 path changed on both hosts", "--force conflict")
        assert pair.web2.path(f"{ROOT}/{PAGE}").read_text() == "edited on web2"
        run = by_hand(pair, "--force", "conflict")
    assert run.exit == 0
    assert f"{ROOT}/{PAGE}" in run.warnings
    assert are_equal(pair)
    assert b"edited on web2" in kept_contents(pair.web2)


@pytest.mark.parametrize(("name", "reloads"), [(PAGE, 0), (SITE, 1)])
def test_the_same_edit_on_both_hosts_is_no_drift_but_what_is_accepted_from_now_on(
    synced: Resident, name: str, reloads: int
) -> None:
    pair = synced.pair
    pair.write_config(sync="on_drift = hold")
    before = pair.web2.reload_count()
    for host in pair.hosts:
        write_tree(host, ROOT, {name: "# edited alike\n"})

    run = synced.sync()

    assert (run.exit, run.outcome, run.changes) == (0, "in-sync", {}), run
    assert pair.web2.reload_count() - before == reloads, "whether nginx there has read it, nobody knows"
    write_tree(pair.web1, ROOT, {name: "# edited again\n"})
    assert synced.sync().exit == 0
    assert are_equal(pair)

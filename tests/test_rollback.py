"""Rollback on the real pair: exact bytes, modes, owners, links and times come back, and stay until a mend or a person."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import Host, wait_until
from tests.pair import ROOT, Pair, make_pair, manifest_of, write_tree
from tests.resident import (
    SITE,
    STATE,
    Resident,
    Run,
    by_hand,
    left_in_stages,
    raise_if_not_held,
    raise_if_not_in_sync,
    resident,
    served,
    site,
)
from tests.terminal import Terminal
from tests.test_cuts import PROBE, QUICK, Probe, agents, wait_until_ended

STORE = f"{STATE}/peer"


def rollback(pair: Pair, *arguments: str) -> Run:
    """`ngxsync rollback --yes --json ARGUMENTS`."""
    done = pair.ngxsync("rollback", "--yes", "--json", *arguments)
    run = Run(done.stdout + done.stderr, json.loads(done.stdout))
    assert done.returncode == run.exit, done
    return run


def released(daemon: Resident, text: str) -> dict[str, tuple[Any, ...]]:
    """A generation in which the site says `text` and a page, a link and a folder change. What web2 is then."""
    pair = daemon.pair
    write_tree(pair.web1, ROOT, site(text))
    page = pair.web1.path(f"{ROOT}/html/{text}.html")
    page.write_text(text * 10)
    page.chmod(0o640)
    os.chown(page, 33, 33)
    os.utime(page, ns=(1_600_000_000_123_456_789, 1_600_000_000_987_654_321))
    link = pair.web1.path(f"{ROOT}/html/current")
    link.unlink(missing_ok=True)
    link.symlink_to(f"{text}.html")
    os.utime(link, ns=(1_500_000_000_111_111_111,) * 2, follow_symlinks=False)
    for old in pair.web1.path(f"{ROOT}/html").glob("only-*"):
        old.rmdir()
    pair.web1.path(f"{ROOT}/html/only-{text}").mkdir(mode=0o750)
    run = daemon.sync()
    assert run.exit == 0, run
    assert served(pair.web2) == text
    return manifest_of(pair.web2)


def sites(daemon: Resident, *texts: str) -> dict[str, tuple[Any, ...]]:
    """Generations of the site alone. What web2 is after the last."""
    for text in texts:
        write_tree(daemon.pair.web1, ROOT, site(text))
        run = daemon.sync()
        assert run.exit == 0, run
    return manifest_of(daemon.pair.web2)


def accepted(host: Host) -> dict[str, Any]:
    return dict(json.loads(host.path(f"{STORE}/accepted.json").read_text()))


def blobs(host: Host) -> list[Path]:
    return list(host.path(f"{STORE}/blobs").glob("*/*"))


# where it goes


def test_three_generations_back_and_never_to_and_fro(synced: Resident) -> None:
    pair = synced.pair
    base = manifest_of(pair.web2)
    states = [released(synced, text) for text in ("one", "two", "three")]
    for text, state in (("two", states[1]), ("one", states[0])):
        run = rollback(pair)
        assert (run.exit, run.outcome, run.peer["reload"]) == (0, "applied", "reloaded"), run
        assert manifest_of(pair.web2) == state
        assert served(pair.web2) == text
        assert accepted(pair.web2)["proven"]
    run = rollback(pair)
    assert (run.exit, manifest_of(pair.web2)) == (0, base), run
    run = rollback(pair)
    assert (run.exit, run.code) == (2, "nothing-before"), run
    assert manifest_of(pair.web2) == base
    raise_if_not_held(synced.sync(), "rolled-back", SITE)
    run = rollback(pair, "4")
    assert (run.exit, manifest_of(pair.web2)) == (0, states[2]), run
    raise_if_not_in_sync(synced)


def test_after_a_sync_it_starts_anew_and_never_ends_at_what_was_bad(synced: Resident) -> None:
    pair = synced.pair
    first = sites(synced, "one")
    sites(synced, "bad")
    assert rollback(pair).exit == 0
    sites(synced, "mended")
    assert served(pair.web2) == "mended"
    assert rollback(pair).exit == 0
    assert (served(pair.web2), manifest_of(pair.web2)) == ("one", first)


def test_a_run_that_is_not_there(synced: Resident) -> None:
    pair = synced.pair
    before = sites(synced, "one", "two"), accepted(pair.web2)
    for arguments, code in (
        (["99"], "unknown-run"),
        (["00000002-ffffffff"], "unknown-run"),
        (["2", "--path", f"{ROOT}/html/index.html"], "unknown-path"),
        (["2", "--path", f"{ROOT}/{SITE}"], "unknown-path"),  # created there: nothing was before
    ):
        run = rollback(pair, *arguments)
        assert (run.exit, run.code, run.peer["message"]["state"]) == (2, code, "web2 unchanged"), run
        assert run.changes == {}, "what a sync would do is not what was asked"
    outside = pair.ngxsync("rollback", "2", "--yes", "--path", "/etc/passwd")
    assert (outside.returncode, "lies in no tree" in outside.stderr) == (2, True)
    without = pair.ngxsync("rollback", "--yes", "--path", f"{ROOT}/{SITE}")
    assert (without.returncode, "--path needs RUN" in without.stderr) == (2, True)
    assert (manifest_of(pair.web2), accepted(pair.web2)) == before
    assert "-> web2: in-sync since " in pair.ngxsync("status").stdout, "what was not done says nothing of web2"


def test_what_an_earlier_release_accepted(synced: Resident) -> None:
    """Its records name neither kind nor what they restore, and the projection only of the latest."""
    pair = synced.pair
    first = sites(synced, "one")
    sites(synced, "two")
    for file in pair.web2.path(f"{STORE}/runs").glob("*.accepted.json"):
        file.unlink()
    record = accepted(pair.web2)
    assert record.pop("kind") == "sync"
    pair.web2.path(f"{STORE}/accepted.json").write_text(json.dumps(record))
    raise_if_not_in_sync(synced)
    assert rollback(pair).exit == 0
    assert manifest_of(pair.web2) == first


def test_what_a_snapshot_did_not_look_at_stays(synced: Resident) -> None:
    pair = synced.pair
    pair.write_config(sync="exclude = /html/own/\n")
    assert synced.sync().exit == 0
    write_tree(pair.web1, ROOT, {"html/own/page.html": "excluded\n"})
    first = sites(synced, "one")
    pair.write_config(sync="trees = /usr/local/nginx\n    /srv/app\n")
    write_tree(pair.web1, "/srv/app", {"file": "added later\n"})
    assert synced.sync(by_person=True).exit == 0
    sites(synced, "two")
    assert pair.web2.path(f"{ROOT}/html/own/page.html").read_text() == "excluded\n"
    run = rollback(pair, "3")
    assert run.exit == 0, run
    assert served(pair.web2) == "one"
    assert pair.web2.path("/srv/app/file").read_text() == "added later\n"
    assert manifest_of(pair.web2, without=("logs", ".ngxsync", "own")) == first
    assert pair.web2.path(f"{ROOT}/html/own/page.html").read_text() == "excluded\n"


# what holds after it


def test_automatic_runs_leave_it_until_it_is_mended(synced: Resident) -> None:
    pair = synced.pair
    sites(synced, "good", "bad")
    done = pair.ngxsync("rollback", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert " rollback: applied, " in done.stdout
    assert "web2: went back to the snapshot of run 00000002-" in done.stdout
    assert (
        f"automatic runs on web2 are held, since this host still has what was taken back: {ROOT}/{SITE}" in done.stdout
    )
    back = manifest_of(pair.web2)
    told = (f"this host still has what was taken back: {ROOT}/{SITE}", "mend it here", "`ngxsync sync`, which undoes")
    status = pair.ngxsync("status")
    assert "-> web2: held since " in status.stdout
    assert all(text in status.stdout for text in told), status.stdout

    raise_if_not_held(synced.sync(), "rolled-back", *told, "web2: rolled back to the snapshot of run 00000002-")
    write_tree(pair.web1, ROOT, {"html/unrelated.html": "an unrelated edit\n"})
    raise_if_not_held(synced.sync(trigger="change"), "rolled-back", *told)
    raise_if_not_held(synced.sync(trigger="schedule", full=True), "rolled-back", *told)
    shutil.rmtree(pair.web1.path(f"{STATE}/master/peers"))
    unknown = synced.sync()
    assert (unknown.exit, "[rolled-back]" in unknown.text) == (8, True), "a master without memory knows it too"
    assert manifest_of(pair.web2) == back


@pytest.mark.parametrize("mend", ["edit", "delete"])
def test_a_mend_releases_it(synced: Resident, mend: str) -> None:
    pair = synced.pair
    sites(synced, "good", "bad", "worse")
    assert rollback(pair).exit == 0
    assert rollback(pair).exit == 0
    assert served(pair.web2) == "good"
    write_tree(pair.web1, ROOT, site("bad"))
    raise_if_not_held(synced.sync(), "rolled-back", SITE), "successive rollbacks add up"
    if mend == "edit":
        write_tree(pair.web1, ROOT, site("mended"))
    else:
        pair.web1.path(f"{ROOT}/{SITE}").unlink()
    run = synced.sync()
    assert (run.exit, run.outcome) == (0, "applied"), run
    assert manifest_of(pair.web1) == manifest_of(pair.web2)
    write_tree(pair.web1, ROOT, site("worse"))
    assert synced.sync().exit == 0, "the mark went with the accepted sync"
    assert served(pair.web2) == "worse"


def test_a_person_releases_it_and_is_told_so(synced: Resident) -> None:
    pair = synced.pair
    sites(synced, "good", "bad")
    undo = rollback(pair)
    text = f"this undoes the rollback of run {undo.data['run']}: {ROOT}/{SITE}"
    looked = pair.ngxsync("sync", "--dry-run")
    assert (looked.returncode, text in looked.stdout, served(pair.web2)) == (0, True, "good")
    done = pair.ngxsync("sync")
    assert (done.returncode, text in done.stdout, served(pair.web2)) == (0, True, "bad")
    raise_if_not_in_sync(synced)


def test_the_daemon_leaves_it(synced: Resident) -> None:
    pair = synced.pair
    sites(synced, "good", "bad")
    with pair.daemon() as daemon:
        assert rollback(pair).exit == 0
        write_tree(pair.web1, ROOT, {"html/unrelated.html": "an unrelated edit\n"})
        daemon.wait_for("held (rolled-back)")
        assert served(pair.web2) == "good"
        write_tree(pair.web1, ROOT, site("mended"))
        wait_until(lambda: served(pair.web2) == "mended", "the mended file is synced by itself")
    assert manifest_of(pair.web1) == manifest_of(pair.web2)


# what stops it


def test_5_its_nginx_refuses_the_old_configuration(synced: Resident) -> None:
    pair = synced.pair
    for host in pair.hosts:
        host.path("/etc/ngxsync/elsewhere.conf").write_text("return 200 elsewhere;\n")
    write_tree(pair.web1, ROOT, {SITE: "server {\n    listen 8081;\n    include /etc/ngxsync/elsewhere.conf;\n}\n"})
    assert synced.sync().exit == 0
    before = sites(synced, "now"), accepted(pair.web2)
    pair.web2.path("/etc/ngxsync/elsewhere.conf").unlink()
    done = pair.ngxsync("rollback", "--yes")
    assert (done.returncode, done.stdout) == (5, "")
    assert f'{ROOT}/{SITE}:3: open() "/etc/ngxsync/elsewhere.conf" failed' in done.stderr
    assert "now: web2 unchanged" in done.stderr
    assert (manifest_of(pair.web2), accepted(pair.web2)) == before
    raise_if_not_in_sync(synced)


def test_6_its_reload_is_refused_and_it_is_undone(synced: Resident) -> None:
    pair = synced.pair
    write_tree(pair.web1, ROOT, {SITE: "server {\n    listen 8081;\n    return 200 old;\n}\n"})
    assert synced.sync().exit == 0
    before = sites(synced, "now"), accepted(pair.web2)
    with pair.web2.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("0.0.0.0", 8081))
        holder.listen()
        done = pair.ngxsync("rollback", "--yes")
    assert (done.returncode, done.stdout) == (6, "")
    assert "bind() to 0.0.0.0:8081 failed (98: Address already in use)" in done.stderr
    assert "next: mend the cause, then `ngxsync rollback`" in done.stderr
    assert (manifest_of(pair.web2), accepted(pair.web2)) == before
    assert served(pair.web2) == "now"
    raise_if_not_in_sync(synced)
    assert rollback(pair).exit == 0, "the cause is mended"


def test_old_content_that_is_not_kept(synced: Resident) -> None:
    """Damaged counts as lost; what this host still has comes from here."""
    pair = synced.pair
    first = sites(synced, "one")
    before = sites(synced, "two"), accepted(pair.web2)
    assert blobs(pair.web2)
    for blob in blobs(pair.web2):
        blob.write_bytes(b"damaged")
    run = rollback(pair)
    assert (run.exit, run.code) == (4, "not-kept"), run
    assert run.peer["message"]["what"] == f"its old content is not kept on web2 (any more): {ROOT}/{SITE}"
    assert (manifest_of(pair.web2), accepted(pair.web2)) == before
    write_tree(pair.web1, ROOT, site("one"))
    run = rollback(pair)
    assert (run.exit, manifest_of(pair.web2)) == (0, first), run
    next(pair.web2.path(f"{STORE}/manifests").glob("00000003-*")).unlink()
    run = rollback(pair, "3")
    assert (run.exit, run.code) == (2, "unknown-run"), run
    assert manifest_of(pair.web2) == first


def test_8_nobody_said_yes_and_a_dry_run(synced: Resident) -> None:
    pair = synced.pair
    before = sites(synced, "one", "two"), accepted(pair.web2)
    looked = pair.ngxsync("rollback", "--dry-run")
    assert (looked.returncode, looked.stderr) == (0, "")
    assert (
        f"web2: 1 change (1 content)\n  would be created or changed:\n    ~ {ROOT}/{SITE}  content\n" in looked.stdout
    )
    assert "web2: would go back to the snapshot of run 00000002-" in looked.stdout
    assert looked.stdout.endswith("\nnothing was changed: a dry run\n")
    asked = pair.ngxsync("rollback")
    assert (asked.returncode, "web2  held (unconfirmed)" in asked.stderr) == (8, True)
    assert "web2 back to the snapshot of run 00000002-" in asked.stderr
    with Terminal(pair, "rollback") as terminal:
        terminal.wait_for("Do this on web2, keeping there what is replaced? [y/N]: ")
        terminal.type("n\n")
        assert terminal.end() == 8, terminal.shown
    assert (manifest_of(pair.web2), accepted(pair.web2)) == before
    with Terminal(pair, "rollback") as terminal:
        terminal.wait_for("[y/N]: ")
        terminal.type("y\n")
        assert terminal.end() == 0, terminal.shown
    assert served(pair.web2) == "one"


def test_8_a_guard_and_its_override(synced: Resident) -> None:
    """The guards of a sync, in the words of this command; and while paused."""
    pair = synced.pair
    first = sites(synced, "one")
    write_tree(pair.web1, ROOT, {f"conf/new/{number}.conf": "# new\n" for number in range(9)})
    assert synced.sync().exit == 0
    before = manifest_of(pair.web2)
    done = pair.ngxsync("rollback", "--yes")
    assert (done.returncode, "web2  held (max-delete), 10 changes (10 deleted)" in done.stderr) == (8, True), done
    assert "next: look with ngxsync rollback --dry-run, then ngxsync rollback --force max-delete" in done.stderr
    assert manifest_of(pair.web2) == before
    pair.ngxsync("pause", "--for", "1h", "web2 is worked on")
    run = rollback(pair, "--force", "max-delete")
    assert (run.exit, run.code) == (8, "paused"), run
    assert "`ngxsync rollback --force paused` goes past it once" in run.peer["message"]["next"]
    run = rollback(pair, "--force", "max-delete", "--force", "paused")
    assert (run.exit, manifest_of(pair.web2)) == (0, first), run


def test_it_needs_no_valid_configuration_here(synced: Resident) -> None:
    pair = synced.pair
    sites(synced, "one", "two")
    write_tree(pair.web1, ROOT, {"conf/vhosts/broken.conf": "server { listn 8081; }\n"})
    assert rollback(pair).exit == 0
    assert served(pair.web2) == "one"


# single files


def test_an_edit_that_was_healed_and_what_was_deleted_come_back(synced: Resident) -> None:
    pair = synced.pair
    write_tree(pair.web1, ROOT, {"html/old/a.html": "a\n", "html/old/b.html": "b\n"})
    pair.web1.path(f"{ROOT}/html/old").chmod(0o750)
    pair.web1.path(f"{ROOT}/html/old/link").symlink_to("a.html")
    sites(synced, "one")
    edited = pair.web2.path(f"{ROOT}/html/index.html")
    edited.write_text("edited on web2\n")
    edited.chmod(0o600)
    was = manifest_of(pair.web2)
    shutil.rmtree(pair.web1.path(f"{ROOT}/html/old"))
    sites(synced, "two")
    assert edited.read_text() == "<h1>It works</h1>\n"
    run = rollback(pair, "3", "--path", f"{ROOT}/html/index.html", "--path", f"{ROOT}/html/old")
    assert (run.exit, run.outcome) == (0, "applied"), run
    now = manifest_of(pair.web2)
    site_now = now.pop(SITE)
    assert (site_now != was.pop(SITE), now == was, served(pair.web2)) == (True, True, "two")
    raise_if_not_held(synced.sync(), "rolled-back", f"{ROOT}/html/index.html", f"{ROOT}/html/old")


def test_a_single_file_leaves_other_edits_alone(synced: Resident) -> None:
    pair = synced.pair
    sites(synced, "one", "two")
    write_tree(pair.web2, ROOT, {"html/index.html": "edited on web2\n"})
    run = rollback(pair, "3", "--path", f"{ROOT}/{SITE}")
    assert (run.exit, list(run.changes)) == (0, [f"{ROOT}/{SITE}"]), run
    assert served(pair.web2) == "one"
    assert pair.web2.path(f"{ROOT}/html/index.html").read_text() == "edited on web2\n"
    run = by_hand(pair)
    causes = {change["path"]: change["cause"] for change in run.peer["changes"]}
    assert causes == {f"{ROOT}/{SITE}": "pending", f"{ROOT}/html/index.html": "drift"}, "the edit is still known as one"


def test_an_unrelated_edit_there_is_healed_as_by_a_sync(synced: Resident) -> None:
    """Its accepted content was never replaced by a sync, so the store has none; this host does."""
    pair = synced.pair
    first = sites(synced, "one")
    sites(synced, "two")
    write_tree(pair.web2, ROOT, {"html/index.html": "edited on web2\n"})
    assert rollback(pair).exit == 0
    assert manifest_of(pair.web2) == first
    write_tree(pair.web1, ROOT, site("three"))
    assert synced.sync().exit == 0, "what it healed holds nothing"


# what dies


@pytest.fixture
def in_proof(synced: Resident) -> Any:
    """Two generations; from now on the proof on web2 waits for the test."""
    sites(synced, "one", "two")
    synced.pair.write_config(peer=f"{QUICK}\nprobe = {PROBE}\nprove_timeout = 20s")
    opened = Probe(synced.pair.web2)
    yield opened
    opened.close()


def test_the_agent_is_killed_in_its_transaction(synced: Resident, in_proof: Probe) -> None:
    pair = synced.pair
    before = manifest_of(pair.web2), accepted(pair.web2)
    process = pair.popen_ngxsync("rollback", "--yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    asked = in_proof.wait()
    assert served(pair.web2) == "one", "in its proof the old generation runs"
    pair.web2.run(["kill", "-KILL", str(agents(pair.web2, "transact")[-1])])
    asked.close()
    in_proof.close()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 4
    assert (
        "now: web2 runs what it ran before, its old files are back\n      next: `ngxsync rollback` tries it again"
        in told
    )
    wait_until_ended(pair.web2)
    assert (manifest_of(pair.web2), accepted(pair.web2), left_in_stages(pair.web2)) == (*before, [])
    assert served(pair.web2) == "two"
    pair.write_config(peer=QUICK)
    assert rollback(pair).exit == 0
    assert served(pair.web2) == "one"


def test_the_master_is_killed_and_finds_its_rollback_accepted(synced: Resident, in_proof: Probe) -> None:
    pair = synced.pair
    process = pair.popen_ngxsync("rollback", "--yes")
    asked = in_proof.wait()
    pair.master.signal_to(process, signal.SIGKILL)
    process.wait(45)
    in_proof.answer(asked)
    wait_until_ended(pair.web2)
    assert (served(pair.web2), accepted(pair.web2)["kind"]) == ("one", "rollback")
    pair.write_config(peer=QUICK)
    with resident(pair) as again:
        raise_if_not_held(again.sync(), "rolled-back", SITE)
        write_tree(pair.web1, ROOT, site("mended"))
        run = again.sync()
        assert (run.exit, run.outcome, served(pair.web2)) == (0, "applied", "mended"), run


def test_by_a_restricted_key(pair: Pair) -> None:
    """The gate lets through what a rollback asks, and no more than that."""
    ours, roots = pair.web1.path("/etc/ngxsync"), pair.web1.path("/root/.ssh")
    (ours / "id_ed25519").rename(roots / "id_rsa")  # root's own key, which ssh tries by itself
    (ours / "known_hosts").rename(roots / "known_hosts")
    assert pair.ngxsync("peer", "install", "--yes").returncode == 0
    for text in ("one", "two"):
        write_tree(pair.web1, ROOT, {**site(text), "html/index.html": f"{text}\n"})
        done = pair.ngxsync("sync", "--yes")
        assert done.returncode == 0, done.stderr
    shown = pair.ngxsync("history", "2", f"{ROOT}/html/index.html")
    assert (shown.returncode, "\n-one\n+two\n" in shown.stdout) == (0, True), shown
    for blob in blobs(pair.web2):
        if blob.read_bytes() == b"<h1>It works</h1>\n":
            blob.unlink()
    run = rollback(pair)
    assert (run.exit, served(pair.web2)) == (0, "one"), run
    write_tree(pair.web1, ROOT, {"html/index.html": "<h1>It works</h1>\n"})
    run = rollback(pair, "1", "--path", f"{ROOT}/html/index.html")
    assert run.exit == 0, run
    assert pair.web2.path(f"{ROOT}/html/index.html").read_text() == "<h1>It works</h1>\n", "sent from here"


def test_several_peers_each_by_itself() -> None:
    trio = make_pair(3)
    try:
        for text in ("one", "two"):
            write_tree(trio.web1, ROOT, site(text))
            assert trio.ngxsync("sync", "--yes").returncode == 0
        alone = rollback(trio, "--peer", "web3")
        assert (alone.exit, served(trio.web2), served(trio.web3)) == (0, "two", "one"), alone
        assert trio.ngxsync("pause", "a look").returncode == 0
        told = trio.ngxsync("sync").stderr
        assert all(f"`ngxsync sync --peer {name} --force paused`" in told for name in ("web2", "web3")), told
        assert trio.ngxsync("resume").returncode == 0
        for host in (trio.web1, trio.web3):
            write_tree(host, ROOT, {"html/index.html": f"edited on {host.name}"})
        pull = trio.ngxsync("pull", "--peer", "web3", "--yes")
        assert (pull.returncode, "ngxsync pull --peer web3 " in pull.stderr) == (8, True), pull
        trio.web3.run(["kill", str(trio.web3.sshd_pid())])
        both = rollback(trio, "1")
        outcomes = {peer["name"]: peer["outcome"] for peer in both.data["peers"]}
        assert (both.exit, outcomes) == (4, {"web2": "applied", "web3": "unreachable"}), both
        assert (served(trio.web2), served(trio.web3)) == ("one", "one")
    finally:
        trio.close()


def test_what_was_left_open_there_is_settled_first(synced: Resident, in_proof: Probe) -> None:
    pair = synced.pair
    first = manifest_of(pair.web2)
    process = pair.popen_ngxsync("rollback", "--yes")
    asked = in_proof.wait()
    pair.master.signal_to(process, signal.SIGKILL)
    process.wait(45)
    pair.web2.run(["kill", "-KILL", *map(str, agents(pair.web2, "transact"))])
    asked.close()
    assert pair.web2.path(f"{STORE}/journal").exists()
    assert served(pair.web2) == "one", "half done: files and nginx are those of the rollback"
    pair.write_config(peer=QUICK)
    looked = pair.ngxsync("rollback", "3", "--dry-run")
    assert (looked.returncode, pair.web2.path(f"{STORE}/journal").exists()) == (0, True), looked
    run = rollback(pair, "3")
    assert (run.exit, run.outcome) == (0, "in-sync"), run
    assert (manifest_of(pair.web2), served(pair.web2)) == (first, "two"), "undone, and that is run 3"
    run = rollback(pair)
    assert (run.exit, served(pair.web2)) == (0, "one"), run


def test_an_edit_that_an_undo_met_comes_back(synced: Resident, in_proof: Probe) -> None:
    pair = synced.pair
    process = pair.popen_ngxsync("rollback", "--yes")
    asked = in_proof.wait()
    write_tree(pair.web2, ROOT, site("edited on web2"))
    edited = pair.web2.path(f"{ROOT}/{SITE}").read_text()
    pair.web2.run(["kill", "-KILL", str(agents(pair.web2, "transact")[-1])])
    asked.close()
    in_proof.close()
    assert process.wait(60) == 4
    wait_until_ended(pair.web2)
    pair.write_config(peer=QUICK)
    assert served(pair.web2) == "two"
    (record,) = pair.web2.path(f"{STORE}/runs").glob("*.edits.json")
    run = record.name.partition(".")[0]
    listed = pair.ngxsync("history", run)
    assert f"  web2 had, and keeps:\n    ~ {ROOT}/{SITE}  edited there meanwhile\n" in listed.stdout, listed
    back = rollback(pair, run, "--path", f"{ROOT}/{SITE}")
    assert back.exit == 0, back
    assert pair.web2.path(f"{ROOT}/{SITE}").read_text() == edited
    assert served(pair.web2) == "edited on web2"


def test_a_rollback_that_has_nothing_to_do_ends_no_quarantine(synced: Resident) -> None:
    """What was applied and undone there is not tried again since somebody looked."""
    pair = synced.pair
    sites(synced, "good")
    write_tree(pair.web1, ROOT, {SITE: "server {\n    listen 8081;\n    return 200 taken;\n}\n"})
    with pair.web2.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("0.0.0.0", 8081))
        holder.listen()
        assert synced.sync().exit == 6
        assert synced.sync().code == "quarantine"

        run = rollback(pair, accepted(pair.web2)["run"])

        assert (run.exit, run.outcome) == (0, "in-sync"), run
        assert synced.sync().code == "quarantine"


def test_a_rollback_where_nginx_was_down_is_proven_by_asking_again(synced: Resident) -> None:
    """Automatic runs are held after it: nothing else would ever prove it."""
    pair = synced.pair
    sites(synced, "old", "new")
    pair.web2.stop_nginx()
    run = rollback(pair)
    assert (run.exit, run.outcome, run.code) == (1, "not-proven", "nginx-down"), run
    pair.web2.start_nginx()

    again = rollback(pair, accepted(pair.web2)["restores"])

    assert (again.exit, again.outcome) == (0, "in-sync"), again
    assert (accepted(pair.web2)["proven"], served(pair.web2)) == (True, "old")
    raise_if_not_held(synced.sync(), "rolled-back", SITE)

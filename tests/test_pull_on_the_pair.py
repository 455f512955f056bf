"""`ngxsync pull` on the real pair: exact bytes, modes, owners and links come back to web1, or nothing of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.door import gate_log
from tests.faults import kill, reboot, taken_port
from tests.hosts import PROJECT, Host, wait_until
from tests.liar import liar
from tests.moments import strace_argv, wait_until_stopped
from tests.pair import ROOT, Pair, manifest_of, write_tree
from tests.resident import (
    SITE,
    STATE,
    Resident,
    Run,
    are_equal,
    kept_contents,
    left_in_stages,
    raise_if_not_held,
    raise_if_not_in_sync,
    served,
    site,
)
from tests.terminal import Terminal

KEY = "-----BEGIN PRIVATE KEY-----\nTOPSECRET\n-----END PRIVATE KEY-----\n"


def pull(pair: Pair, *arguments: str) -> Run:
    """`ngxsync pull --yes --json ARGUMENTS`."""
    done = pair.ngxsync("pull", "--yes", "--json", *arguments)
    run = Run(done.stdout + done.stderr, json.loads(done.stdout))
    assert done.returncode == run.exit, done
    return run


def edit(host: Host, name: str, text: str) -> Path:
    write_tree(host, ROOT, {name: text})
    return host.path(f"{ROOT}/{name}")


def peer_is_edited(pair: Pair) -> None:
    """Each kind of change at once, on web2."""
    host = pair.web2
    edit(host, "conf/vhosts/site.conf", site("edited there")[SITE])
    edit(host, "html/index.html", "edited there\n")
    edit(host, "html/new/deep/page.html", "created there\n")
    edit(host, "conf/site.key", KEY).chmod(0o600)
    host.path(f"{ROOT}/html/mode.html").chmod(0o640)
    os.chown(host.path(f"{ROOT}/html/owner.html"), 33, 33)
    host.path(f"{ROOT}/html/gone.html").unlink()
    for name in ("link", "type.html"):
        host.path(f"{ROOT}/html/{name}").unlink()
        host.path(f"{ROOT}/html/{name}").symlink_to("mode.html")


@pytest.fixture
def grown(unmet: Resident) -> Resident:
    """A pair in sync, with something to change in every way."""
    for name in ("mode", "owner", "gone", "type", "mine"):
        edit(unmet.pair.web1, f"html/{name}.html", f"{name}\n")
    unmet.pair.web1.path(f"{ROOT}/html/link").symlink_to("index.html")
    assert unmet.sync(by_person=True).exit == 0
    return unmet


def test_all_that_was_edited_there_comes_back_and_stays(grown: Resident) -> None:
    pair = grown.pair
    peer_is_edited(pair)
    edit(pair.web1, "html/mine.html", "changed here\n")
    before, theirs = manifest_of(pair.web1), manifest_of(pair.web2)
    run = pull(pair)
    assert (run.exit, run.outcome, run.peer["name"], run.peer["reload"]) == (0, "applied", "web2", "reloaded"), run
    assert run.changes == {
        f"{ROOT}/{SITE}": "created",
        f"{ROOT}/conf/site.key": "created",
        f"{ROOT}/html/new": "created",
        f"{ROOT}/html/new/deep": "created",
        f"{ROOT}/html/new/deep/page.html": "created",
        f"{ROOT}/html/index.html": "content",
        f"{ROOT}/html/mode.html": "mode",
        f"{ROOT}/html/owner.html": "owner",
        f"{ROOT}/html/gone.html": "deleted",
        f"{ROOT}/html/link": "link",
        f"{ROOT}/html/type.html": "type",
    }
    assert {change["cause"] for change in run.peer["changes"]} == {"drift"}
    assert manifest_of(pair.web1) == {**theirs, "html/mine.html": before["html/mine.html"]}
    assert manifest_of(pair.web2) == theirs, "the peer is not changed"
    assert (served(pair.web1), left_in_stages(pair.web1)) == ("edited there", [])
    assert b"<h1>It works</h1>\n" in kept_contents(pair.web1)
    raise_if_secret_is_told(pair, run.text)
    again = grown.sync()
    assert (again.exit, again.changes, again.peer["reload"]) == (
        0,
        {f"{ROOT}/html/mine.html": "content"},
        "reloaded",
    ), again
    assert (served(pair.web2), are_equal(pair)) == ("edited there", True)
    raise_if_not_in_sync(grown)
    told = pair.ngxsync("history").stdout
    assert "pull: applied" in told
    assert "web2 has this now" in told.partition("pull: applied")[0], "what web2 has came by the sync"


def raise_if_secret_is_told(pair: Pair, *texts: str) -> None:
    """Not in what was said, and in no record: only where old contents are kept, and in the tree."""
    state = pair.web1.path(STATE)
    records = [
        file.read_text(errors="replace") for file in state.rglob("*") if file.is_file() and "blobs" not in file.parts
    ]
    assert not [text for text in (*texts, *records) if "TOPSECRET" in text]


def test_by_path(grown: Resident) -> None:
    pair = grown.pair
    peer_is_edited(pair)
    mine = manifest_of(pair.web1)
    assert pair.ngxsync("pause", "while I look").returncode == 0, "a pause is for what changes web2"
    run = pull(pair, f"{ROOT}/html/new/deep/page.html")
    assert set(run.changes) == {f"{ROOT}/html/new", f"{ROOT}/html/new/deep", f"{ROOT}/html/new/deep/page.html"}, run
    assert run.peer["reload"] == "not-needed"
    run = pull(pair, f"{ROOT}/conf", f"{ROOT}/html/gone.html")
    theirs = manifest_of(pair.web2)
    taken = {n: e for n, e in theirs.items() if n.startswith("conf") or "html/new" in n}
    assert manifest_of(pair.web1) == {n: e for n, e in {**mine, **taken}.items() if n != "html/gone.html"}
    nothing = pull(pair, f"{ROOT}/conf")
    assert (nothing.exit, nothing.outcome, nothing.changes) == (0, "in-sync", {}), nothing


def test_a_broken_edit_is_refused_here_and_nothing_changes(grown: Resident) -> None:
    pair = grown.pair
    edit(pair.web2, SITE, "server {\n    lissen 80;\n}\n")
    edit(pair.web2, "html/index.html", "edited there\n")
    before = manifest_of(pair.web1)
    run = pull(pair)
    assert (run.exit, run.outcome, run.peer["code"]) == (5, "refused", "refused"), run
    problem = run.peer["problems"][0]
    assert (problem["file"], problem["line"]) == (f"{ROOT}/{SITE}", 2)
    assert (run.peer["message"]["state"], "web1" in run.peer["message"]["what"]) == ("web1 unchanged", True)
    assert (manifest_of(pair.web1), left_in_stages(pair.web1)) == (before, [])
    assert pair.ngxsync("status").stdout.startswith("web1 -> web2: in-sync"), (
        "what this host refused says nothing of web2"
    )


def test_a_reload_that_is_refused_here_is_undone(grown: Resident) -> None:
    pair = grown.pair
    text = site("edited there")[SITE].replace("listen 80;", "listen 80; listen 8099;")
    edit(pair.web2, SITE, text)
    before = manifest_of(pair.web1)
    with taken_port(pair.web1, 8099) as is_taken:
        assert is_taken
        run = pull(pair)
    assert (run.exit, run.outcome) == (6, "undone"), run
    assert "8099" in run.text
    assert (manifest_of(pair.web1), left_in_stages(pair.web1)) == (before, [])
    run = pull(pair)
    assert (run.exit, served(pair.web1)) == (0, "edited there"), run


def test_a_conflict_is_shown_and_refused_until_a_side_is_named(grown: Resident) -> None:
    pair = grown.pair
    edit(pair.web1, "html/mine.html", "changed here\n")
    edit(pair.web2, "html/mine.html", "changed there\n")
    edit(pair.web2, "html/index.html", "edited there\n")
    before = manifest_of(pair.web1)
    run = pull(pair)
    assert (run.exit, run.code, run.peer["outcome"]) == (8, "conflict", "held"), run
    assert {c["path"]: c["cause"] for c in run.peer["changes"]} == {
        f"{ROOT}/html/mine.html": "conflict",
        f"{ROOT}/html/index.html": "drift",
    }
    told = pair.ngxsync("pull", "--yes")
    assert f"~ {ROOT}/html/mine.html  content (conflict)" in told.stderr
    assert "--take peer" in told.stderr
    assert manifest_of(pair.web1) == before
    run = pull(pair, "--take", "master")
    assert (run.exit, set(run.changes)) == (0, {f"{ROOT}/html/index.html"}), run
    assert pair.web1.path(f"{ROOT}/html/mine.html").read_text() == "changed here\n"
    assert f"{ROOT}/html/mine.html" in run.warnings
    run = pull(pair, "--take", "peer", f"{ROOT}/html/mine.html")
    assert (run.exit, set(run.changes)) == (0, {f"{ROOT}/html/mine.html"}), run
    assert pair.web1.path(f"{ROOT}/html/mine.html").read_text() == "changed there\n"
    assert b"changed here\n" in kept_contents(pair.web1)
    raise_if_not_in_sync_after(grown)


def raise_if_not_in_sync_after(daemon: Resident) -> None:
    """The next run only takes note of it."""
    run = daemon.sync()
    assert (run.exit, run.changes) == (0, {}), run
    raise_if_not_in_sync(daemon)
    assert are_equal(daemon.pair)


def test_at_a_first_contact_paths_or_a_side_are_needed(pair: Pair) -> None:
    edit(pair.web2, "html/index.html", "theirs\n")
    edit(pair.web2, "html/other.html", "theirs\n")
    edit(pair.web1, "html/mine.html", "mine\n")
    run = pull(pair)
    assert (run.exit, run.code) == (8, "first-contact"), run
    run = pull(pair, f"{ROOT}/html/index.html")
    assert (run.exit, set(run.changes)) == (0, {f"{ROOT}/html/index.html"}), run
    run = pull(pair, "--take", "peer")
    assert (run.exit, set(run.changes)) == (0, {f"{ROOT}/html/other.html"}), run
    assert pair.ngxsync("sync", "--yes").returncode == 0
    record = pair.web2.path(f"{STATE}/peer/accepted.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "generation": "0badcafe", "written_by": "web3"}))
    edit(pair.web2, "html/index.html", "edited after web3 wrote there\n")
    run = pull(pair)
    assert (run.exit, run.code, "web3 wrote there last" in run.text) == (8, "first-contact", True), run
    assert pair.web1.path(f"{ROOT}/html/mine.html").read_text() == "mine\n"


def test_nobody_said_yes_and_a_dry_run(grown: Resident) -> None:
    pair = grown.pair
    edit(pair.web2, "html/index.html", "edited there\n")
    before = manifest_of(pair.web1)
    done = pair.ngxsync("pull")
    assert (done.returncode, "[y/N]" in done.stderr) == (8, False)
    assert f"~ {ROOT}/html/index.html  content (drift)" in done.stderr
    assert "(unconfirmed)" in done.stderr
    with Terminal(pair, "pull") as terminal:
        terminal.wait_for("[y/N]")
        terminal.interrupt()
        assert terminal.end() == 130, terminal.shown
    done = pair.ngxsync("pull", "--dry-run")
    assert (done.returncode, "nothing was changed: a dry run" in done.stdout) == (0, True)
    assert f"~ {ROOT}/html/index.html  content (drift)" in done.stdout
    assert (manifest_of(pair.web1), pair.web1.path(f"{STATE}/peer").exists()) == (before, False)


def test_nothing_is_sent_of_a_host_that_cannot_be_put_right(grown: Resident) -> None:
    pair = grown.pair
    edit(pair.web1, "html/mine.html", "changed here\n")
    before = manifest_of(pair.web2)
    journal = pair.web1.path(f"{STATE}/peer/journal")
    journal.parent.mkdir(mode=0o700)
    journal.write_text("damaged\n")
    run = grown.sync()
    assert (run.exit, run.outcome, manifest_of(pair.web2)) == (7, "broken", before), run
    assert (pull(pair).exit, "half old, half new" in run.text) == (7, True), run
    journal.unlink()
    assert grown.sync().exit == 0


def test_of_several_peers_one_is_named(pair: Pair) -> None:
    pair.write_config(more="[peer web3]\nhost = 192.0.2.99\nidentity = /etc/ngxsync/id_ed25519\n")
    done = pair.ngxsync("pull", "--yes")
    assert (done.returncode, "web2, web3" in done.stderr) == (2, True), done


# taking it back


def test_an_undo_brings_back_what_a_pull_replaced_here(grown: Resident) -> None:
    pair = grown.pair
    before = manifest_of(pair.web1)
    peer_is_edited(pair)
    run = pull(pair)
    assert (run.exit, f"`ngxsync pull --undo {run.data['run']}`" in run.text) == (0, True), run
    number = run.data["run"].partition("-")[0]
    after = manifest_of(pair.web1)
    told = pair.ngxsync("history", number).stdout.partition("web1 had, and keeps:")[2]
    assert f"~ {ROOT}/html/index.html  content" in told
    assert "-<h1>It works</h1>" in pair.ngxsync("history", number, f"{ROOT}/html/index.html").stdout
    edit(pair.web1, "html/index.html", "edited here since\n")
    other = pair.ngxsync("rollback", number, "--yes")
    assert (other.returncode, f"`ngxsync pull --undo {number}`" in other.stderr) == (2, True), other
    refused = pull(pair, "--undo", number)
    assert (refused.exit, refused.code) == (8, "conflict"), refused
    part = pull(pair, "--undo", number, f"{ROOT}/html/gone.html", f"{ROOT}/html/new")
    assert (part.exit, set(part.changes.values())) == (0, {"created", "deleted"}), part
    back = pull(pair, "--undo", number, "--force", "conflict")
    assert (back.exit, back.outcome, back.peer["reload"]) == (0, "applied", "reloaded"), back
    assert manifest_of(pair.web1) == before
    assert {b"edited here since\n", KEY.encode()} <= kept_contents(pair.web1)
    again = pull(pair, "--undo", back.data["run"], f"{ROOT}/conf")
    assert again.exit == 0, again
    assert {n: e for n, e in manifest_of(pair.web1).items() if n.startswith("conf")} == {
        n: e for n, e in after.items() if n.startswith("conf")
    }
    for none in ("99", "1"):
        done = pair.ngxsync("pull", "--yes", "--json", "--undo", none)
        assert (done.returncode, json.loads(done.stdout)["code"]) == (2, "unknown-run"), done


# beside other runs, and through the gate


def test_what_is_pulled_while_a_run_waits_is_no_drift_to_it(grown: Resident) -> None:
    """It read this host before the pull: planned anew, else it would undo on web2 what just came from there."""
    pair = grown.pair
    peer_is_edited(pair)
    theirs = manifest_of(pair.web2)
    sequence = pair.web1.path(f"{STATE}/master/sequence")
    with Terminal(pair, "pull") as terminal:
        terminal.wait_for("[y/N]")  # and has the lock
        known = sequence.read_text()
        grown.begin()
        wait_until(lambda: sequence.read_text() != known, "the run has begun")
        wait_until(lambda: not [line for line in pair.web1.commands().values() if line.endswith(" validate")], "tested")
        terminal.type("y\n")
        assert terminal.end() == 0, terminal.shown
    run = grown.answer()
    assert (run.exit, run.changes, manifest_of(pair.web2)) == (0, {}, theirs), run
    assert are_equal(pair)


def test_what_is_edited_there_after_the_question_is_asked_again(grown: Resident) -> None:
    pair = grown.pair
    before = manifest_of(pair.web1)
    edit(pair.web2, "conf/site.key", KEY)
    edit(pair.web2, "html/index.html", "edited there\n")
    with Terminal(pair, "pull") as terminal:
        terminal.wait_for("[y/N]")
        edit(pair.web2, "html/index.html", "edited again\n")
        terminal.type("y\n")
        wait_until(lambda: terminal.shown_so_far().count("[y/N]") == 2, "it asks again")
        terminal.type("n\n")
        assert terminal.end() == 8, terminal.shown
    left = [path for path in pair.web1.path(f"{ROOT}/.ngxsync").rglob("*") if not path.is_dir()]
    assert (manifest_of(pair.web1), left) == (before, []), "nor the key that came before"
    assert pull(pair).exit == 0
    assert pair.web1.path(f"{ROOT}/html/index.html").read_text() == "edited again\n"


def test_a_peer_that_lies_gives_nothing_that_no_sync_looks_at(grown: Resident) -> None:
    pair = grown.pair
    page, program = f"{ROOT}/html/index.html", f"{ROOT}/sbin/nginx"
    edit(pair.web2, "html/index.html", "edited there\n")
    with liar(pair.web2) as lying:
        # excluded: no sync of ours ever looked at it
        lying.lies("scan", (["changed", program], ["file", 0o4755, "root", "root", 1, 4, "0" * 64]))
        run = pull(pair)
        assert (run.exit, set(run.changes)) == (0, {page}), run
    assert not pair.web1.path(program).exists()


def test_a_held_daemon_goes_on_after_a_pull(grown: Resident) -> None:
    pair = grown.pair
    pair.write_config(sync="on_drift = hold")
    with pair.daemon() as daemon:
        edit(pair.web2, "html/index.html", "edited there\n")
        edit(pair.web1, "html/mine.html", "changed here\n")
        daemon.wait_for("held (drift)")
        assert pull(pair).exit == 0
        page = pair.web2.path(f"{ROOT}/html/mine.html")
        wait_until(lambda: page.read_text() == "changed here\n", "what was pending is sent")
    assert pair.web2.path(f"{ROOT}/html/index.html").read_text() == "edited there\n"
    assert are_equal(pair)


def test_a_rollback_stays_as_it_is(grown: Resident) -> None:
    """What was rolled back on web2 is no edit there: it is not pulled, and goes on holding the next run."""
    pair = grown.pair
    for text in ("good", "bad"):
        write_tree(pair.web1, ROOT, site(text))
        assert grown.sync().exit == 0
    assert pair.ngxsync("rollback", "--yes").returncode == 0
    edit(pair.web2, "html/index.html", "edited there\n")
    run = pull(pair)
    assert (run.exit, set(run.changes)) == (0, {f"{ROOT}/html/index.html"}), run
    assert (pair.web1.path(f"{ROOT}/{SITE}").read_text(), served(pair.web2)) == (site("bad")[SITE], "good")
    raise_if_not_held(grown.sync(), "rolled-back", SITE)
    assert "`ngxsync pull PATH` takes what a rollback brought back" in pull(pair).text
    run = pull(pair, f"{ROOT}/conf")
    assert (run.exit, served(pair.web1)) == (0, "good"), run
    raise_if_not_in_sync_after(grown)


def test_an_edit_that_was_healed_is_brought_back_there_and_taken(grown: Resident) -> None:
    pair, page = grown.pair, f"{ROOT}/html/index.html"
    edit(pair.web2, "html/index.html", "edited there\n")
    healed = grown.sync()
    assert (healed.exit, set(healed.changes)) == (0, {page}), healed
    assert pair.ngxsync("rollback", healed.data["run"], "--path", page, "--yes").returncode == 0
    assert (pull(pair, page).exit, pair.web1.path(page).read_text()) == (0, "edited there\n")
    raise_if_not_in_sync_after(grown)


def test_by_a_restricted_key(pair: Pair) -> None:
    """Pages of a large file and a private key come through the gate, and nothing else was asked of it."""
    ours, roots = pair.web1.path("/etc/ngxsync"), pair.web1.path("/root/.ssh")
    (ours / "id_ed25519").rename(roots / "id_rsa")  # root's own key, which ssh tries by itself
    (ours / "known_hosts").rename(roots / "known_hosts")
    pair.write_config(peer="exclude = /html/own/")
    assert pair.ngxsync("peer", "install", "--yes").returncode == 0
    assert pair.ngxsync("sync", "--yes").returncode == 0
    edit(pair.web2, "conf/site.key", KEY).chmod(0o600)
    edit(pair.web2, "html/own/of-web2.html", "never anybody else's\n")
    large = edit(pair.web2, "html/large", "")
    large.write_bytes(os.urandom((9 << 20) + 1))
    known = len(gate_log(pair.web2))
    run = pull(pair)
    assert (run.exit, set(run.changes)) == (0, {f"{ROOT}/conf/site.key", f"{ROOT}/html/large"}), run
    key = pair.web1.path(f"{ROOT}/conf/site.key")
    assert (key.read_text(), key.stat().st_mode & 0o777) == (KEY, 0o600)
    assert pair.web1.path(f"{ROOT}/html/large").read_bytes() == large.read_bytes()
    assert not [line for line in gate_log(pair.web2)[known:] if "refused" in line]
    raise_if_secret_is_told(pair, run.text)


# what dies in the middle


def stopped_in_the_middle(pair: Pair) -> subprocess.Popen[str]:
    """A pull of which one path is exchanged and the other is not, stopped there."""
    edit(pair.web2, SITE, site("edited there")[SITE])
    edit(pair.web2, "html/index.html", "edited there\n")
    command = [sys.executable, "-m", "ngxsync", "pull", "--yes", "--json"]
    argv = [*strace_argv("renameat2", "", 1), *command]
    process = pair.web1.popen(argv, env={"PYTHONPATH": str(PROJECT)}, stdout=subprocess.PIPE)
    wait_until_stopped(pair.web1)
    return process


def kill_all_with(host: Host, *words: str) -> None:
    kill(host, [pid for pid, line in host.commands().items() if any(word in line for word in ("strace", *words))])


@pytest.mark.parametrize("next_run", ["its own", "sync", "boot"])
def test_killed_between_two_exchanges(grown: Resident, next_run: str) -> None:
    """What is half done is undone before anything else is read: by the pull itself, or by the next run of whichever kind."""
    pair = grown.pair
    before = manifest_of(pair.web1)
    with stopped_in_the_middle(pair) as process:
        assert manifest_of(pair.web1) != before
        kill_all_with(pair.web1, " transact", *([] if next_run == "its own" else ["ngxsync pull"]))
        output, _ = process.communicate(timeout=60)
    if next_run == "its own":
        run = Run(output, json.loads(output))
        assert (run.exit, run.code) == (4, "died"), run
        assert "its old files are back" in run.text
    if next_run == "boot":  # the first pull put the agent here, with its unit
        reboot(pair.web1)
    if next_run == "sync":  # heals, as ever: the edit is kept on web2
        run = grown.sync()
        assert (run.exit, are_equal(pair)) == (0, True), run
        assert b"edited there\n" in kept_contents(pair.web2)
    assert (manifest_of(pair.web1), left_in_stages(pair.web1)) == (before, [])
    if next_run == "boot":
        assert pull(pair).exit == 0
        assert (served(pair.web1), manifest_of(pair.web1)) == ("edited there", manifest_of(pair.web2))

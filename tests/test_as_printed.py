"""What a message says to do, done as it is printed: it runs, it leads on, and nothing that was edited on any host is lost unseen."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.host import PATIENCE_S
from tests.hosts import PROJECT, Host, wait_until
from tests.pair import ROOT, Pair, write_tree
from tests.resident import STATE, Run, by_hand
from tests.steps import BY_NAME, stopped_at
from tests.test_direction import give, share, take
from tests.test_takeover import kill_transaction

VIP = "\n[vrrp]\nvip = 192.0.2.100/24\n"
PAGE = "html/three.html"


def printed(run: Run, *words: str) -> str:
    """The one command that this run says, with all these words."""
    told = [message["next"] for each in (run.data, run.peer) if (message := each.get("message"))]
    texts = [*told, run.warnings]
    found = [command for text in texts for command in re.findall(r"\bngxsync [a-z]+(?: --[a-z]+| [\w/.-]+)*", text)]
    matching = {command for command in found if all(word in command for word in words)}
    assert len(matching) == 1, (words, found, run.text)
    return matching.pop()


def typed(pair: Pair, host: Host, command: str, path: str = "") -> str:
    """By a person who copies it, with a path for PATH; every question is answered yes."""
    words = shlex.split(command.replace("PATH", path))[1:]
    done = pair.ngxsync(*words, *(() if words[0] == "diff" else ("--yes",)), host=host)
    text = done.stdout + done.stderr
    assert done.returncode == (1 if words[0] == "diff" else 0), f"{command}\n{text}"
    return text


def text_of(host: Host, path: str) -> str:
    file = host.path(f"{ROOT}/{path}")
    return file.read_text() if file.exists() else ""


@pytest.fixture
def trio(running_trio: Pair) -> Pair:
    """web1 holds the VIP, and both others are in sync with it; one configuration for all."""
    running_trio.reset()
    running_trio.write_config(peer="connect_timeout = 3s", more=VIP)
    share(running_trio)
    give(running_trio.web1)
    assert by_hand(running_trio).exit == 0
    return running_trio


@contextmanager
def running_on(host: Host) -> Iterator[None]:
    """A daemon there, until it is ended."""
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    daemon = host.popen([sys.executable, "-m", "ngxsync", "run"], env={"PYTHONPATH": str(PROJECT)}, **streams)
    try:
        yield
    finally:
        host.signal_to(daemon, signal.SIGTERM)
        daemon.wait(PATIENCE_S)


def word_of(host: Host, peer: str) -> str:
    file = host.path(f"{STATE}/master/peers/{peer}.json")
    return str(json.loads(file.read_text())["word"]) if file.exists() else ""


def served_by_web2(trio: Pair) -> None:
    """web2 has the VIP for a while, is edited and pushes to web3, where somebody edits too; then web1 has it again."""
    take(trio.web1)
    give(trio.web2)
    write_tree(trio.web2, ROOT, {"html/two.html": "made on web2"})
    assert by_hand(trio, "--peer", "web3", host=trio.web2).exit == 0
    write_tree(trio.web3, ROOT, {PAGE: "made on web3"})
    take(trio.web2)
    give(trio.web1)


def test_what_is_overwritten_where_another_host_wrote_last_is_named(trio: Pair) -> None:
    served_by_web2(trio)
    held = by_hand(trio, "--peer", "web3")
    assert (held.exit, held.code) == (8, "generation"), held
    forced = by_hand(trio, *printed(held, "sync", "--force").split()[2:])
    assert forced.exit == 0, forced
    assert text_of(trio.web3, PAGE) == ""
    assert f"{ROOT}/{PAGE}" in forced.warnings
    assert f"{ROOT}/html/two.html" in forced.warnings
    brought = trio.ngxsync("rollback", forced.peer["run"], "--path", f"{ROOT}/{PAGE}", "--peer", "web3", "--yes")
    assert (brought.returncode, text_of(trio.web3, PAGE)) == (0, "made on web3"), brought


def test_of_three_hosts_what_brings_an_edit_back_is_asked_of_that_one_alone(trio: Pair) -> None:
    write_tree(trio.web3, ROOT, {PAGE: "made on web3"})
    healed = by_hand(trio)
    assert (healed.exit, text_of(trio.web3, PAGE)) == (0, ""), healed
    (warning,) = (text for peer in healed.data["peers"] for text in peer["warnings"])
    command = re.findall(r"`(ngxsync rollback [^`]+)`", warning)[0]
    typed(trio, trio.web1, command, f"{ROOT}/{PAGE}")
    assert text_of(trio.web3, PAGE) == "made on web3"
    status = trio.ngxsync("status").stdout
    assert "`ngxsync sync --peer web3`, which undoes the rollback" in status, status


def test_of_three_hosts_ready_asks_to_force_one_alone(trio: Pair) -> None:
    served_by_web2(trio)
    ready = json.loads(trio.ngxsync("ready", "--json").stdout)
    hints = [
        reason["next"]
        for peer in ready["peers"]
        for reason in peer["reasons"]
        if "--force generation" in reason["next"]
    ]
    assert hints
    assert all("--peer web3 --force generation" in hint for hint in hints), hints


def test_edits_on_both_hosts_while_they_were_apart_need_not_be_forced(trio: Pair) -> None:
    take(trio.web1)
    give(trio.web2)
    for host in (trio.web1, trio.web2):
        write_tree(host, ROOT, {"html/both.html": f"made on {host.name}", f"html/{host.name}.html": "alone"})
    take(trio.web2)
    give(trio.web1)
    held = by_hand(trio, "--peer", "web2")
    assert (held.exit, "[conflict]" in held.text) == (8, True), held
    command = printed(held, "pull")
    refused = trio.ngxsync(*command.split()[1:], "--yes")
    assert (refused.returncode, "`ngxsync pull --peer web2 --take peer`" in refused.stdout + refused.stderr) == (
        8,
        True,
    )
    pulled = typed(trio, trio.web1, "ngxsync pull --peer web2 --take peer")
    assert by_hand(trio).exit == 0
    assert {text_of(host, "html/both.html") for host in trio.hosts} == {"made on web2"}
    assert {text_of(host, f"html/{name}.html") for host in trio.hosts for name in ("web1", "web2")} == {"alone"}
    undo = re.findall(r"next: only if that was a mistake: `(ngxsync pull --undo [^`]+)`", pulled)[0]
    undone = typed(trio, trio.web1, undo)
    assert text_of(trio.web1, "html/both.html") == "made on web1"
    assert "next: only if that was a mistake: `ngxsync pull --undo" in undone  # else who copies it goes round for ever


def test_what_another_host_wrote_is_taken_before_it_is_overwritten(trio: Pair) -> None:
    served_by_web2(trio)
    write_tree(trio.web1, ROOT, {"html/one.html": "made on web1"})
    held = by_hand(trio, "--peer", "web3")
    typed(trio, trio.web1, printed(held, "pull"))
    assert text_of(trio.web1, PAGE) == "made on web3"
    again = by_hand(trio, "--peer", "web3")
    assert (again.exit, again.code) == (8, "generation"), again
    forced = by_hand(trio, *printed(again, "sync", "--force").split()[2:])
    assert (forced.exit, forced.warnings) == (0, ""), forced
    made = {"html/one.html": "made on web1", "html/two.html": "made on web2", PAGE: "made on web3"}
    assert {path: text_of(trio.web3, path) for path in made} == made


def test_a_backup_that_takes_over_while_it_is_behind_takes_what_the_other_one_has(trio: Pair) -> None:
    """web3 served last; web2, which takes the VIP from it, has nothing of that."""
    take(trio.web1)
    give(trio.web3)
    write_tree(trio.web3, ROOT, {PAGE: "made on web3"})
    take(trio.web3)
    give(trio.web2)
    write_tree(trio.web2, ROOT, {"html/two.html": "made on web2"})
    with running_on(trio.web2):
        wait_until(lambda: word_of(trio.web2, "web3") == "awaiting-first-sync", "web2's daemon has looked")
    status = trio.ngxsync("status", "--json", host=trio.web2)
    (hint,) = (peer["message"]["next"] for peer in json.loads(status.stdout)["peers"] if peer["name"] == "web3")
    (command,) = re.findall(r"`(ngxsync pull [^`]+)`", hint)
    typed(trio, trio.web2, command)
    assert by_hand(trio, "--peer", "web3", host=trio.web2).exit == 0
    made = {"html/two.html": "made on web2", PAGE: "made on web3"}
    assert {path: text_of(trio.web3, path) for path in made} == made


AGENT = "/usr/local/sbin/ngxsync-agent"
PAGES = {"html/a.html": "sent", "html/b.html": "sent"}


def cut_off(trio: Pair, pages: dict[str, str]) -> None:
    """A run that brings these pages to web2 dies on both hosts when one of them is there."""
    write_tree(trio.web1, ROOT, pages)
    with stopped_at(trio, BY_NAME["apply"], 0) as stop:
        sync = trio.popen_ngxsync("sync", "--peer", "web2", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stop.wait()
        trio.web1.signal_to(sync, signal.SIGKILL)
        sync.wait(PATIENCE_S)
        kill_transaction(trio.web2)
    wait_until(lambda: ": unfinished\n" in trio.web2.run([AGENT, "status"]).stdout, "the run is seen to be dead")


def test_what_was_edited_on_a_peer_after_its_run_was_cut_off_is_named_by_the_next_run(trio: Pair) -> None:
    """What undid it was that host's own boot, or a person there, and nobody on the master has heard of it."""
    cut_off(trio, PAGES)
    write_tree(trio.web2, ROOT, dict.fromkeys(PAGES, "edited at night"))
    assert f"{ROOT}/html/a.html" in trio.web2.run([AGENT, "recover"]).stdout
    assert text_of(trio.web2, "html/a.html") == ""

    run = by_hand(trio, "--peer", "web2")
    assert (run.exit, text_of(trio.web2, "html/a.html")) == (0, "sent"), run
    (command,) = re.findall(r"`(ngxsync rollback [^`]+a\.html)`", run.warnings)
    typed(trio, trio.web1, command)
    assert text_of(trio.web2, "html/a.html") == "edited at night"


def test_what_mends_a_broken_peer_is_told_on_the_master_with_the_host_where_it_is_typed(trio: Pair) -> None:
    cut_off(trio, PAGES)
    folder = trio.web2.path(f"{ROOT}/html")
    subprocess.run(["chattr", "+i", folder], check=True)
    try:
        broken = by_hand(trio, "--peer", "web2")
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)
    assert (broken.exit, broken.outcome) == (7, "broken"), broken
    hint = broken.peer["message"]["next"]
    assert "`ngxsync-agent recover` on web2, or `ngxsync sync --peer web2` here" in hint
    assert hint in trio.ngxsync("status").stdout
    trio.web2.run([AGENT, "recover"])
    assert by_hand(trio, "--peer", "web2").exit == 0
    assert {path: text_of(trio.web2, path) for path in PAGES} == PAGES


def test_a_damaged_journal_is_moved_aside_as_it_is_printed(pair: Pair) -> None:
    assert by_hand(pair).exit == 0
    write_tree(pair.web2, ROOT, {PAGE: "edited on web2"})
    pair.web2.path(f"{STATE}/peer/journal").write_text("damaged\n")
    broken = by_hand(pair)
    assert (broken.exit, broken.outcome) == (7, "broken"), broken
    differs = pair.ngxsync("diff")
    assert differs.returncode == 1, differs
    assert "web2: a run whose journal is damaged was left unfinished there; `ngxsync sync` says" in differs.stderr
    command = re.findall(r"`(mv [^`]+)` on web2; ", broken.peer["message"]["next"])[0]
    pair.web2.run(["sh", "-ec", command])
    whole = by_hand(pair)
    assert (whole.exit, text_of(pair.web2, PAGE)) == (0, ""), whole
    assert f"{ROOT}/{PAGE}" in whole.warnings

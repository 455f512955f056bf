"""Whatever dies in the middle of a run: web2 ends on the old or the new state, the text says what is true, the next contact repairs.

A run is stopped at a known place: in the proof by a probe whose answer the test gives, before it by a program on web2
that waits in front of the real one.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.host import PATIENCE_S
from tests.hosts import Host, wait_until
from tests.pair import ROOT, manifest_of, write_tree
from tests.resident import (
    SITE,
    STATE,
    Resident,
    Run,
    are_equal,
    by_hand,
    left_in_stages,
    raise_if_not_in_sync,
    resident,
    served,
    site,
)

PROBE = "http://127.0.0.1:8099/"
QUICK = "connect_timeout = 2s"
NOT_KNOWN = "the outcome of run {run} on web2 is not known yet: all of it or nothing"


class Probe:
    """What the `probe` of web2 asks: as long as this does not answer, the transaction is in its proof."""

    def __init__(self, host: Host) -> None:
        self._listening = host.socket()
        self._listening.settimeout(PATIENCE_S)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", 8099))
        self._listening.listen()

    def wait(self) -> socket.socket:
        """Until the next transaction asks."""
        asked, _ = self._listening.accept()
        asked.recv(65536)
        return asked

    def answer(self, asked: socket.socket, status: str = "204 yes") -> None:
        with asked:
            asked.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())

    def close(self) -> None:
        """From now on refused: what asks fails its proof, what is not to ask is configured so."""
        self._listening.close()


@pytest.fixture
def probe(synced: Resident) -> Iterator[Probe]:
    """In sync; from now on the proof on web2 waits for the test."""
    synced.pair.write_config(peer=f"{QUICK}\nprobe = {PROBE}\nprove_timeout = 20s")
    opened = Probe(synced.pair.web2)
    yield opened
    opened.close()


def accepted(host: Host) -> str:
    return host.path(f"{STATE}/peer/accepted.json").read_text()


def wait_until_ended(host: Host) -> None:
    """Until the transaction on this host has ended, one way or the other."""
    wait_until(lambda: not host.path(f"{STATE}/peer/journal").exists(), "no journal is open")
    wait_until(lambda: not agents(host, "transact"), "its process has ended")


def agents(host: Host, verb: str) -> list[int]:
    """The agent's processes at work on this verb; of a transaction two, and the one that does it is the younger."""
    return sorted(
        pid for pid, line in host.commands().items() if f"{STATE}/agent/" in line and line.endswith(f" {verb}")
    )


def cut(host: Host) -> None:
    """Ends every ssh session, as a firewall or a crash of sshd does."""
    listening = host.sshd_pid()
    sessions = [pid for pid, line in host.commands().items() if line.startswith("sshd") and pid != listening]
    assert sessions
    host.run(["kill", "-KILL", *map(str, sessions)])


def begin(process: Resident, probe: Probe, text: str) -> socket.socket:
    """A run that is in its proof on web2 when this returns."""
    write_tree(process.pair.web1, ROOT, site(text))
    process.begin()
    return probe.wait()


WAITING = """#!/bin/sh
for last; do :; done
case "$last" in {argument})
    echo > /run/reached
    read -r go < /run/go
esac
exec {program} "$@"
"""


@contextmanager
def waiting(host: Host, program: str, argument: str) -> Iterator[None]:
    """As long as this lasts, the program waits on this host before it begins where its last argument fits the pattern."""
    real, kept = host.path(program), host.path(f"{program}.real")
    os.mkfifo(host.path("/run/go"))
    real.rename(kept)
    real.write_text(WAITING.format(argument=argument, program=f"{program}.real"))
    real.chmod(0o755)
    try:
        yield
    finally:
        kept.rename(real)
        stopped = [pid for pid, line in host.commands().items() if f"sh {program} " in line]
        if stopped:
            host.run(["kill", "-KILL", *map(str, stopped)], check=False)


# the master dies


@pytest.mark.parametrize("meanwhile", ["nothing", "edit", "lost-manifest"])
def test_a_master_that_dies_in_the_proof_finds_its_run_accepted(synced: Resident, probe: Probe, meanwhile: str) -> None:
    pair = synced.pair
    asked = begin(synced, probe, "edited")
    synced.kill()
    probe.answer(asked)
    wait_until_ended(pair.web2)
    assert served(pair.web2) == "edited"
    assert are_equal(pair)
    pair.write_config(peer=QUICK)
    if meanwhile == "edit":
        write_tree(pair.web1, ROOT, site("edited again"))
    elif meanwhile == "lost-manifest":
        pair.web1.path(f"{STATE}/master/peers/web2.manifest.json").unlink()

    with resident(pair) as again:
        run = again.sync()

        assert (run.exit, run.outcome) == (0, "applied" if meanwhile == "edit" else "in-sync"), run
        assert served(pair.web2) == ("edited again" if meanwhile == "edit" else "edited")
        assert are_equal(pair)
        write_tree(pair.web2, ROOT, {"html/index.html": "edited on web2"})
        healed = again.sync()
        assert {change["cause"] for change in healed.peer["changes"]} == {"drift"}, "who wrote last is known again"


def test_a_master_that_dies_in_a_proof_that_fails_finds_the_old_state(synced: Resident, probe: Probe) -> None:
    pair = synced.pair
    before = manifest_of(pair.web2), accepted(pair.web2)
    pair.write_config(peer=f"{QUICK}\nprobe = {PROBE}\nprove_timeout = 1s")
    asked = begin(synced, probe, "edited")
    synced.kill()
    probe.answer(asked, "500 no")
    probe.close()
    wait_until_ended(pair.web2)
    assert (manifest_of(pair.web2), accepted(pair.web2)) == before

    pair.write_config(peer=QUICK)
    with resident(pair) as again:
        run = again.sync(by_person=True)
        assert (run.exit, run.outcome, served(pair.web2)) == (0, "applied", "edited"), run
        assert are_equal(pair)


def test_a_new_master_process_waits_for_the_run_that_the_dead_one_began(synced: Resident, probe: Probe) -> None:
    pair = synced.pair
    asked = begin(synced, probe, "edited")
    synced.kill()
    pair.write_config(peer=QUICK)
    with resident(pair) as again:
        again.begin()
        wait_until(lambda: agents(pair.web2, "recover"), "the next run asks while the first is at work")
        probe.answer(asked)
        run = again.answer()

        assert (run.exit, run.outcome) == (0, "in-sync"), run
        assert served(pair.web2) == "edited"
        raise_if_not_in_sync(again)


def test_what_a_master_that_dies_while_it_sends_leaves_is_swept(synced: Resident) -> None:
    pair = synced.pair
    before = manifest_of(pair.web2)
    with waiting(pair.web2, "/usr/bin/rsync", "*"):
        write_tree(pair.web1, ROOT, site("edited"))
        synced.begin()
        wait_until(pair.web2.path("/run/reached").exists, "rsync waits")
        synced.kill()
        assert left_in_stages(pair.web2)
    assert manifest_of(pair.web2) == before

    run = by_hand(pair)

    assert (run.exit, run.outcome, served(pair.web2)) == (0, "applied", "edited"), run
    assert are_equal(pair)


# the connection ends


@pytest.mark.parametrize(("status", "exit_status", "outcome"), [("204 yes", 0, "applied"), ("500 no", 6, "undone")])
def test_after_a_cut_the_peer_is_asked_and_nothing_is_assumed(
    synced: Resident, probe: Probe, status: str, exit_status: int, outcome: str
) -> None:
    pair = synced.pair
    # only what fails is asked again until its time is over
    pair.write_config(peer=f"{QUICK}\nprobe = {PROBE}\nprove_timeout = {20 if outcome == 'applied' else 2}s")
    before = manifest_of(pair.web2)
    asked = begin(synced, probe, "edited")
    cut(pair.web2)
    probe.answer(asked, status)
    probe.close()

    run = synced.answer()

    assert (run.exit, run.outcome) == (exit_status, outcome), run
    assert not left_in_stages(pair.web2)
    if outcome == "applied":
        assert served(pair.web2) == "edited"
        assert are_equal(pair)
    else:
        assert manifest_of(pair.web2) == before
    pair.write_config(peer=QUICK)
    assert synced.sync(by_person=True).exit == 0
    assert are_equal(pair)


def test_where_nobody_can_be_asked_the_outcome_is_told_as_not_known(synced: Resident, probe: Probe) -> None:
    pair = synced.pair
    asked = begin(synced, probe, "edited")
    pair.web2.run(["kill", "-KILL", str(pair.web2.sshd_pid())])
    cut(pair.web2)

    run = synced.answer()

    raise_if_not_unreachable(run, NOT_KNOWN.format(run=run.data["run"]))
    assert "unchanged" not in run.text
    later = synced.sync()
    raise_if_not_unreachable(later, NOT_KNOWN.format(run=run.data["run"]))
    assert "unchanged" not in later.text
    probe.answer(asked)
    wait_until_ended(pair.web2)
    assert served(pair.web2) == "edited"
    pair.web2.start_sshd()
    pair.write_config(peer=QUICK)
    raise_if_not_in_sync(synced)
    assert are_equal(pair)


def raise_if_not_unreachable(run: Run, state: str) -> None:
    assert (run.exit, run.outcome) == (4, "unreachable"), run
    assert state in run.peer["message"]["state"], run


# the peer vanishes


@pytest.mark.parametrize(
    ("program", "argument"),
    [
        ("/usr/bin/python3", "scan"),
        ("/usr/bin/python3", "stage"),
        ("/usr/bin/rsync", "*"),
        ("/usr/bin/python3", "transact"),
    ],
    ids=["scan", "stage", "rsync", "transact"],
)
def test_a_peer_that_vanishes(synced: Resident, program: str, argument: str) -> None:
    pair = synced.pair
    pair.write_config(peer=QUICK)
    before = manifest_of(pair.web2), pair.web2.nginx_workers()
    with waiting(pair.web2, program, argument):
        write_tree(pair.web1, ROOT, site("edited"))
        synced.begin()
        wait_until(pair.web2.path("/run/reached").exists, f"{program} {argument} waits")
        pair.web2.vanish_from(pair.web1)
        started = time.monotonic()

        run = synced.answer()

    assert time.monotonic() - started < 30
    raise_if_not_unreachable(run, NOT_KNOWN.format(run=run.data["run"]) if argument == "transact" else "unchanged")
    assert (manifest_of(pair.web2), pair.web2.nginx_workers()) == before
    raise_if_healed(synced)


def test_a_peer_that_vanishes_in_its_proof(synced: Resident, probe: Probe) -> None:
    """It goes on without us."""
    asked = begin(synced, probe, "edited")
    synced.pair.web2.vanish_from(synced.pair.web1)
    started = time.monotonic()

    run = synced.answer()

    assert time.monotonic() - started < 30
    raise_if_not_unreachable(run, NOT_KNOWN.format(run=run.data["run"]))
    probe.answer(asked)
    answered = time.monotonic()
    wait_until_ended(synced.pair.web2)
    assert time.monotonic() - answered < 15, "a probe that took its time makes the rest no slower"
    assert served(synced.pair.web2) == "edited"
    synced.pair.write_config(peer=QUICK)
    raise_if_healed(synced)


def test_a_refusal_here_waits_for_no_peer_that_is_gone(synced: Resident) -> None:
    pair = synced.pair
    pair.write_config(peer="connect_timeout = 50s")
    pair.web2.vanish_from(pair.web1)
    write_tree(pair.web1, ROOT, {SITE: "server {"})
    started = time.monotonic()

    run = by_hand(pair)

    assert (run.exit, run.outcome) == (3, "refused"), run
    assert time.monotonic() - started < 40


def raise_if_healed(process: Resident) -> None:
    """The peer is back: the next run ends with both equal, and nothing is left of the one before."""
    pair = process.pair
    pair.web2.return_to(pair.web1)
    run = process.sync()
    assert run.exit == 0, run
    assert served(pair.web2) == "edited"
    assert are_equal(pair)
    raise_if_not_in_sync(process)


# the peer's agent dies


@pytest.mark.parametrize("whole", [True, False], ids=["all-of-it", "the-transaction-alone"])
def test_a_transaction_that_is_killed_in_its_proof_is_undone_at_once(
    synced: Resident, probe: Probe, whole: bool
) -> None:
    pair = synced.pair
    before = manifest_of(pair.web2), accepted(pair.web2)
    asked = begin(synced, probe, "edited")
    killed = agents(pair.web2, "transact")
    assert len(killed) == 2
    pair.web2.run(["kill", "-KILL", *map(str, killed if whole else killed[1:])])
    asked.close()

    run = synced.answer()

    assert (run.exit, run.code) == (4, "died"), run
    assert "web2 runs what it ran before, its old files are back" in run.text
    assert (manifest_of(pair.web2), accepted(pair.web2)) == before
    assert pair.web2.get("/", "site.example.com") == pair.web2.get("/")
    pair.write_config(peer=QUICK)
    again = synced.sync()
    assert (again.exit, again.outcome, served(pair.web2)) == (0, "applied", "edited"), again
    assert are_equal(pair)
    raise_if_not_in_sync(synced)

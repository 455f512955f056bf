"""What a run finds on web2 in place of its agent or of a quiet shell: put right, or told with what to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hosts import Host
from tests.pair import ROOT, manifest_of, write_tree
from tests.resident import STATE, Resident, are_equal, by_hand, raise_if_not_in_sync, served, site


def agent_folder(host: Host) -> Path:
    """STATE/agent/HASH."""
    agents = host.path(f"{STATE}/agent")
    return agents / os.readlink(agents / "current")


def lose_all(host: Host) -> None:
    shutil.rmtree(host.path(f"{STATE}/agent"))


def lose_folder(host: Host) -> None:
    shutil.rmtree(agent_folder(host))


def lose_module(host: Host) -> None:
    (agent_folder(host) / "ngxsync_agent/scan.py").unlink()
    shutil.rmtree(agent_folder(host) / "ngxsync_agent/__pycache__")


def cut_off_module(host: Host) -> None:
    """As a full disk leaves it."""
    module = agent_folder(host) / "ngxsync_agent/scan.py"
    module.write_text(module.read_text()[:1000] + "\ndef (")


def empty_main(host: Host) -> None:
    (agent_folder(host) / "__main__.py").write_text("")


def another_release(host: Host) -> None:
    """Only the folder of another release is there."""
    folder = agent_folder(host)
    other, current = folder.with_name("0123456789abcdef"), folder.with_name("current")
    shutil.rmtree(other, ignore_errors=True)
    folder.rename(other)
    current.unlink()
    current.symlink_to(other.name)


DAMAGES: list[Callable[[Host], None]] = [
    lose_all,
    lose_folder,
    lose_module,
    cut_off_module,
    empty_main,
    another_release,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_agent_that_is_not_as_it_should_be_is_put_there_anew(
    synced: Resident, damage: Callable[[Host], None]
) -> None:
    pair = synced.pair
    before = {
        str(file.relative_to(agent_folder(pair.web2))): file.read_bytes()
        for file in agent_folder(pair.web2).rglob("*.py")
    }
    damage(pair.web2)
    write_tree(pair.web1, ROOT, site("edited"))

    run = by_hand(pair)

    assert (run.exit, run.outcome, served(pair.web2)) == (0, "applied", "edited"), run
    assert are_equal(pair)
    now = {
        str(file.relative_to(agent_folder(pair.web2))): file.read_bytes()
        for file in agent_folder(pair.web2).rglob("*.py")
    }
    assert now == before
    damage(pair.web2)
    raise_if_not_in_sync(synced)


def test_a_login_shell_that_writes_is_told_and_nothing_changes(synced: Resident) -> None:
    """Its words are in the way of rsync's: the agent's answers are found behind them, files cannot be sent."""
    pair = synced.pair
    before = manifest_of(pair.web2)
    pair.web2.path("/root/.bashrc").write_text("echo Welcome to web2; echo and be careful >&2\n")
    try:
        write_tree(pair.web1, ROOT, site("edited"))
        run = by_hand(pair)
        assert (run.exit, run.outcome, run.code) == (4, "unknown", "noisy-shell"), run
        assert "the login shell there must print nothing: look at its .bashrc" in run.text
        assert "unchanged" in run.peer["message"]["state"]
        assert manifest_of(pair.web2) == before

        pair.web2.path("/root/.bashrc").write_text("echo and be careful >&2\n")
        assert by_hand(pair).exit == 0
        assert served(pair.web2) == "edited"
        assert are_equal(pair)
    finally:
        pair.web2.path("/root/.bashrc").write_text("")


@pytest.mark.parametrize(("program", "code"), [("rsync", "no-rsync")])
def test_a_peer_without_rsync_is_told_what_to_install(synced: Resident, program: str, code: str) -> None:
    pair = synced.pair
    real = pair.web2.path(f"/usr/bin/{program}")
    real.rename(real.with_suffix(".away"))
    try:
        write_tree(pair.web1, ROOT, site("edited"))
        run = by_hand(pair)
        assert (run.exit, run.code) == (4, code), run
        assert "apt-get install rsync" in run.text
    finally:
        real.with_suffix(".away").rename(real)
    assert by_hand(pair).exit == 0
    assert are_equal(pair)

"""A run that fills the peer's disk gives back what it took: the nginx there has logs and uploads to write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import faults
from tests.pair import ROOT, Pair

MEGABYTE = 1 << 20


@pytest.fixture
def disk(pair: Pair) -> faults.Disk:
    """48M for the tree and the state directory of web2, which knows web1 by now."""
    disk = faults.Disk(pair.web2)
    assert pair.ngxsync("sync", "--yes").returncode == 0
    return disk


def free_on(pair: Pair) -> int:
    """Bytes on the file system of web2's tree."""
    pair.web2.run(["sync", "-f", ROOT])
    told = os.statvfs(pair.web2.path(ROOT))
    return told.f_bavail * told.f_frsize


def write_files(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / str(number)).write_bytes(os.urandom(MEGABYTE))


def test_an_agent_that_finds_no_room(pair: Pair) -> None:
    """It was lost there, and nothing of what was asked has begun."""
    assert pair.ngxsync("sync").returncode == 0
    pair.web2.run(["mount", "-t", "tmpfs", "-o", "size=60k", "none", "/var/lib/ngxsync"])
    done = pair.ngxsync("sync")
    assert done.returncode == 4
    assert "the agent cannot be put there: No space left on device" in done.stderr
    assert "now: web2 unchanged" in done.stderr
    assert "next: on web2: df -h, df -i; is that file system mounted read-only?" in done.stderr
    pair.web2.unmount("/var/lib/ngxsync")
    assert pair.ngxsync("sync").returncode == 0


@pytest.mark.usefixtures("disk")
def test_a_transfer_that_finds_no_room(pair: Pair) -> None:
    before = free_on(pair)
    write_files(pair.web1.path(f"{ROOT}/html/many"), before // MEGABYTE + 4)
    done = pair.ngxsync("sync")
    assert done.returncode == 4
    assert "web2  unknown (no-room)" in done.stderr
    assert "No space left on device" in done.stderr
    assert free_on(pair) > before - MEGABYTE
    pair.web1.run(["rm", "-r", f"{ROOT}/html/many"])
    assert pair.ngxsync("sync").returncode == 0


def test_a_rollback_whose_old_content_finds_no_room(pair: Pair, disk: faults.Disk) -> None:
    many = pair.web1.path(f"{ROOT}/html/many")
    write_files(many, 8)
    assert pair.ngxsync("sync").returncode == 0
    pair.web1.run(["rm", "-r", f"{ROOT}/html/many"])
    assert pair.ngxsync("sync", "--force", "max-delete").returncode == 0
    taken = pair.web2.path(f"{faults.DISK}/filler")
    taken.write_bytes(os.urandom(free_on(pair) - 4 * MEGABYTE))
    before = free_on(pair)
    done = pair.ngxsync("rollback", "--yes")
    assert done.returncode == 4, done.stderr
    assert "No space left on device" in done.stderr, done.stderr
    assert free_on(pair) > before - MEGABYTE
    disk.clear()
    assert pair.ngxsync("rollback", "--yes").returncode == 0
    assert len(list(pair.web2.path(f"{ROOT}/html/many").iterdir())) == 8

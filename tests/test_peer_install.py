"""`ngxsync peer install` and `peer remove` on the pair: a key that syncs and opens no shell, and all of it away again."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent import STATE
from tests.pair import ROOT, Pair, manifest_of, snapshot_inodes

KEYS = "/root/.ssh/authorized_keys"
KEY = "/etc/ngxsync/id_ed25519"
DOOR = f"{STATE}/agent/door.json"
GATE = f'restrict,command="/usr/bin/python3 -I -S {STATE}/agent/current gate"'
EXTRA = "# by hand\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMVtTjKmTKkSKJHSlWKUWkWnLjZGhkvhD1fyeuFNaMhP admin@laptop\n"


@pytest.fixture
def door(pair: Pair) -> Iterator[Pair]:
    """The pair where root's own key on web1 logs in on web2, and ngxsync has neither key nor host key yet."""
    ours, roots = pair.web1.path("/etc/ngxsync"), pair.web1.path("/root/.ssh")
    (ours / "id_ed25519").rename(roots / "id_rsa")  # a name that ssh tries by itself
    (ours / "known_hosts").rename(roots / "known_hosts")
    yield pair
    pair.web2.path("/etc/sudoers.d/ngxsync").unlink(missing_ok=True)


def install(pair: Pair, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = pair.ngxsync("peer", "install", *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def remove(pair: Pair, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = pair.ngxsync("peer", "remove", "web2", *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def public_key(pair: Pair, path: str = KEY) -> str:
    return " ".join(pair.web1.path(f"{path}.pub").read_text().split()[:2])


def by_key(pair: Pair, *command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
    """ssh with the restricted key alone."""
    options = [
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "StrictHostKeyChecking=accept-new",
    ]
    return pair.web1.run(["ssh", *options, "-i", KEY, f"{user}@192.0.2.2", *command], check=False)


def test_one_command_leads_from_nothing_to_a_sync_with_a_key_that_opens_no_shell(door: Pair) -> None:
    pair = door
    before = pair.web2.path(KEYS).read_bytes()
    done = install(pair, "--yes")
    assert pair.web2.path(KEYS).read_bytes() == before + f"{GATE} {public_key(pair)} ngxsync of web1\n".encode()
    assert stat.S_IMODE(pair.web1.path(KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE(pair.web2.path(DOOR).stat().st_mode) == 0o600
    assert json.loads(pair.web2.path(DOOR).read_text()) == {
        "schema": 1,
        "trees": [ROOT],
        "nginx": {
            "root": ROOT,
            "conf": f"{ROOT}/conf/nginx.conf",
            "binary": "auto",
            "reload": "SIGHUP",
            "rehearse": "overlay",
            "probe": "",
        },
        "rsync": "/usr/bin/rsync",
    }
    assert "proof" in done.stdout
    shell = by_key(pair, "id")
    assert shell.returncode != 0
    assert "uid=" not in shell.stdout

    pair.web1.path(f"{ROOT}/html/index.html").write_text("by the restricted key")
    synced = pair.ngxsync("sync")
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert manifest_of(pair.web1) == manifest_of(pair.web2)

"""Rollback on the real pair: exact bytes, modes, owners, links and times come back, and stay until a person or a mend."""

from __future__ import annotations

import json
import os

import pytest

from tests.hosts import Host
from tests.pair import ROOT, Pair, manifest_of, write_tree
from tests.resident import Resident, Run, by_hand, served, site
from tests.terminal import Terminal


def rollback(pair: Pair, *arguments: str) -> Run:
    """`ngxsync rollback --yes --json ARGUMENTS`."""
    done = pair.ngxsync("rollback", "--yes", "--json", *arguments)
    run = Run(done.stdout + done.stderr, json.loads(done.stdout))
    assert done.returncode == run.exit, done
    return run


def released(pair: Pair, daemon: Resident, text: str) -> dict[str, tuple[object, ...]]:
    """A generation: the site says `text`, and all that an entry can be changes with it. What web2 is then."""
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
    pair.web1.path(f"{ROOT}/html/only-{text}").mkdir(mode=0o750)
    for old in pair.web1.path(f"{ROOT}/html").glob("only-*"):
        if old.name != f"only-{text}":
            old.rmdir()
    run = daemon.sync()
    assert run.exit == 0, run
    assert served(pair.web2) == text
    return manifest_of(pair.web2)


def test_three_generations_back_and_never_to_and_fro(pair: Pair, synced: Resident) -> None:
    base = manifest_of(pair.web2)
    states = [released(pair, synced, text) for text in ("one", "two", "three")]
    for text, state in (("two", states[1]), ("one", states[0])):
        run = rollback(pair)
        assert (run.exit, run.outcome, run.peer["reload"]) == (0, "applied", "reloaded"), run
        assert manifest_of(pair.web2) == state
        assert served(pair.web2) == text
    run = rollback(pair)
    assert (run.exit, manifest_of(pair.web2)) == (0, base), run
    run = rollback(pair)
    assert (run.exit, run.code) == (2, "nothing-before"), run
    assert manifest_of(pair.web2) == base

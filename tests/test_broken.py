"""Every kind of broken configuration on the pair: refused, nothing changed on web2, and the next good edit goes through."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.broken_cases import CASES, INCLUDE_CYCLE, OUTSIDE, BrokenCase
from tests.hosts import Host
from tests.pair import ROOT, Pair, manifest_of, write_tree
from tests.resident import Resident, Run, left_in_stages, resident

GOOD = "conf/vhosts/good.conf"
EXITS = {"master": 3, "peer": 5}
WITH_CYCLE = (*CASES, INCLUDE_CYCLE)


@pytest.fixture(scope="module")
def daemon(running_pair: Pair) -> Iterator[Resident]:
    """One pair and one process for all cases: each leaves both hosts equal, which the next one checks."""
    running_pair.reset()
    with resident(running_pair) as process:
        assert process.sync().exit == 0
        yield process


@contextmanager
def edit(web1: Host, case: BrokenCase) -> Iterator[None]:
    """The case's edit on web1, taken back at the end."""
    files = {name: web1.path(f"{ROOT}/{name}") for name in case.files}
    folders = {file.parent for file in files.values() if not file.parent.exists()}
    old = {name: file.read_bytes() for name, file in files.items() if file.exists()}
    for name, source in case.outside.items():
        place = web1.path(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place) if source else place.mkdir()
    write_tree(web1, ROOT, case.files)
    try:
        yield
    finally:
        for name, file in files.items():
            file.write_bytes(old[name]) if name in old else file.unlink()
        for folder in folders:
            folder.rmdir()
        shutil.rmtree(web1.path(OUTSIDE), ignore_errors=True)


def place_of(case: BrokenCase) -> str:
    """FILE:LINE as nginx names it, "" where it names no place."""
    return f"{ROOT}/{case.file}:{case.line}" if case.file else ""


def raise_if_badly_told(run: Run, case: BrokenCase) -> None:
    host = "web1" if case.refused_by == "master" else "web2"
    assert (run.exit, run.outcome) == (EXITS[case.refused_by], "refused"), run
    problems = run.data["problems"] if case.refused_by == "master" else run.peer["problems"]
    errors = [problem for problem in problems if problem["level"] == "error"]
    assert any(case.expect in problem["text"] for problem in errors), run
    assert f"nginx on {host}" in run.text
    if case.file:
        assert (f"{ROOT}/{case.file}", case.line) in [(problem["file"], problem["line"]) for problem in errors], run
        assert place_of(case) in run.text


def serve_anew(pair: Pair, text: str) -> None:
    """A good edit on web1: its page says this text."""
    vhost = f"server {{ listen 80; server_name good.example.com; return 200 '{text}'; }}\n"
    write_tree(pair.web1, ROOT, {GOOD: vhost})


@pytest.mark.parametrize("case", WITH_CYCLE, ids=lambda case: case.name)
def test_refused_and_nothing_changed_and_the_next_good_edit_goes_through(daemon: Resident, case: BrokenCase) -> None:
    pair = daemon.pair
    before, workers, said = manifest_of(pair.web2), pair.web2.nginx_workers(), pair.web2.error_log()
    with edit(pair.web1, case):
        refused = daemon.sync()

    raise_if_badly_told(refused, case)
    assert manifest_of(pair.web2) == before
    assert pair.web2.nginx_workers() == workers
    assert pair.web2.error_log() == said
    assert not left_in_stages(pair.web2)

    serve_anew(pair, case.name)
    good = daemon.sync()
    assert (good.exit, good.outcome) == (0, "applied"), good
    assert pair.web2.get("/", "good.example.com") == (200, case.name)
    assert manifest_of(pair.web2) == manifest_of(pair.web1)

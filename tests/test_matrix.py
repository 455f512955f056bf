"""Every cell of the fault matrix (tests/matrix.py), with what has to be found in it; CI's are a choice that waits for nothing long."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.cells import CELLS, IN_CI, says
from tests.matrix import BUSY_S, FAULT, FROZEN_S, Bench, Found, run_cell
from tests.pair import Pair
from tests.steps import BY_NAME

CHOSEN = CELLS if os.environ.get("NGXSYNC_MATRIX") == "all" else {cell: CELLS[cell] for cell in IN_CI}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A pair of its own, since web2 gets a small disk of its own."""
    pair = Pair()
    opened = Bench(pair)
    yield opened
    opened.end()
    pair.close()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("step", "fault"), CHOSEN, ids=[f"{step}-{fault}" for step, fault in CHOSEN])
def test_cell(bench: Bench, step: str, fault: str) -> None:
    found = run_cell(bench, BY_NAME[step], FAULT[fault])
    keep(step, fault, found)
    assert str(found) == CELLS[step, fault], found.run
    if found.run is not None and found.run.exit:
        assert says(fault, str(found)) in found.run.text
    if fault == "connection-frozen":
        assert found.seconds < FROZEN_S + BUSY_S


def test_nginx_that_dies_just_when_the_rehearsal_looks_for_its_namespaces(bench: Bench) -> None:
    bench.prepare()
    bench.is_clean = True
    path = f"/proc/{bench.peer.nginx_main()}/ns/net"
    found = run_cell(bench, replace(BY_NAME["rehearse"], calls="readlink", path=path), FAULT["nginx-dies"])
    assert str(found) == CELLS["rehearse", "nginx-dies"], found.run


def keep(step: str, fault: str, found: Found) -> None:
    """For the table (tests/matrix_table.py)."""
    path = os.environ.get("NGXSYNC_MATRIX_RESULTS")
    if path:
        with open(path, "a") as results:
            results.write(json.dumps([step, fault, str(found), round(found.seconds, 1)]) + "\n")


def test_ci_runs_every_step_and_every_fault() -> None:
    assert {step for step, _ in IN_CI} == set(BY_NAME)
    assert {fault for _, fault in IN_CI} == set(FAULT)
    assert len(CELLS) == len(BY_NAME) * len(FAULT) == 130

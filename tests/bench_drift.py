"""What a drift check over 100,000 unchanged files costs (a part of `make bench`; alone: ARGS=drift)."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

from tests.hosts import PROJECT
from tests.pair import ROOT, Pair

FOLDERS, FILES = 100, 1_000
ROUNDS = 5
CHECK_S, DIFF_S = 2.0, 3.0
# as the daemon at check_every: one process, its connections open and what it learnt kept
RESIDENT = """
import json, sys, time
from pathlib import Path
from ngxsync.assembly import open_assembly
from ngxsync.edges.configfile import read_config
from ngxsync.flow.interfaces import Options

with open_assembly(read_config(Path(sys.argv[1]))) as assembly:
    for number in range(int(sys.argv[2]) + 2):
        started, used = time.perf_counter(), time.process_time()
        result = assembly.pipeline.run(Options(trigger="check"))
        took = time.perf_counter() - started
        print(json.dumps([result.outcome, took, time.process_time() - used, result.peers[0].timings["scan"]]), flush=True)
"""


def measure(pair: Pair) -> list[tuple[str, float, str]]:
    """(what, seconds, goal): a whole check, with its scans, `nginx -t` and plan, in one process; and what `ngxsync diff` takes."""
    for host in pair.hosts:
        _write(host.path(f"{ROOT}/html"))
    first = pair.ngxsync("sync", "--yes", timeout=600)
    assert first.returncode == 0, first.stderr
    time.sleep(3)  # what is older than 2 s is kept
    script = pair.master.run(
        [sys.executable, "-c", RESIDENT, "/etc/ngxsync/config.ini", str(ROUNDS)],
        timeout=600,
        env={"PYTHONPATH": str(PROJECT)},
    )
    rows = [json.loads(line) for line in script.stdout.splitlines()]
    assert {outcome for outcome, *_ in rows} == {"in-sync"}, rows
    checks = [took for _, took, *_ in rows[2:]]
    diffs = [_diff_s(pair) for _ in range(ROUNDS)]
    files = f"{FOLDERS * FILES:,} unchanged files"
    return [
        (f"a drift check over {files}", statistics.median(checks), f"at most {CHECK_S:g} s"),
        (f"`ngxsync diff` over {files}", statistics.median(diffs), f"at most {DIFF_S:g} s"),
    ]


def _write(html: Path) -> None:
    for folder in range(FOLDERS):
        place = html / f"d{folder:03}"
        place.mkdir(parents=True)
        for number in range(FILES):
            file = place / f"{number:04}.html"
            file.write_text(f"{folder} {number}\n")
            os.utime(file, (1_700_000_000, 1_700_000_000))


def _diff_s(pair: Pair) -> float:
    started = time.perf_counter()
    done = pair.ngxsync("diff")
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - started

"""`make matrix`: runs every cell by pytest, prints the table and writes docs/matrix.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.cells import CELLS, IN_CI
from tests.hosts import PROJECT
from tests.matrix import CONNECT_TIMEOUT_S, FAULTS, FROZEN_S, PEER_S, RECEIVER_S
from tests.steps import STEPS

Results = Mapping[tuple[str, str], tuple[str, float]]

PAGE = """\
# The fault matrix

Every step of the pipeline (DESIGN 3) x every fault: `make matrix` runs all cells ({count}) and writes this page; `make test` runs \
those in bold.
A cell injects the real fault (tests/faults.py) into a real run on a real pair, stopped in the step by strace (tests/steps.py), \
lets it go on, and says: exit status, outcome and code of that run; which tree the peer had when it had ended; what healed it.

- *old*, *new*: the peer's live tree was exactly the old or the new one: paths, bytes, modes, owners, times.
- *open*: the transaction could not end: its journal stays, and the next contact, or the peer's boot, ends it (TRANSACTION, recovery).
- *healed*: the next run, an automatic one, brought the edit. *then N word, healed by a person*: the next automatic run rightly \
touched nothing, and `ngxsync sync` brought it.
- *killed*: the master's process was killed, so nobody told an outcome.

{table}

## What each cell asserts

1. When the run has ended, nothing of it works on the peer any more, and the live tree is old or new, or a journal is open.
2. nginx serves the page of the tree that is there (or nothing, where it was killed), never a third state.
3. An accepted record is new only where the new tree is there, and says proven only where nginx ran it.
4. A failed run tells what, where, in what state things are now, and what to do next; it says that the peer is unchanged only \
where it is; the cause is named in its words (tests/cells.py has what is asserted of each).
5. After the fault is lifted, the edit arrives by the next run (or by a person's, where the cell says so); the run after finds \
nothing to do; both trees are equal, what is accepted is proven, no journal is open, nothing is left in a stage.
6. All that was replaced or deleted is in the peer's store.
7. Once the master's process has ended, no process of ours is left on the peer.

## Where a run stands when the fault comes

{steps}

## The faults

{faults}

## Time-outs

- A connection without a sign of life is given up after 3 x `connect_timeout` (15 s by default), and one more attempt to ask, of \
`connect_timeout`, follows where a transaction was under way. The cells run with `connect_timeout = {connect}s` and assert an end \
within {frozen} s of the fault (6 x `connect_timeout` + 5 s: 35 s by default). Measured: {measured}; with the default 19 to 24 s.
- On the peer rsync in the middle of a transfer ends when nothing came for 9 x `connect_timeout`, 45 s at most (agent/receiver.py); \
an interpreter whose request never comes, or stops in the middle, or whose answer nobody takes, after 60 s; and so does a \
transaction whose word to begin never comes. A transaction that has begun ends by itself, and as it would have with its master. \
While the connection stays frozen, the cells assert {receiver} s for rsync and {peer:g} s for all of it. What stays then is the \
peer's own sshd, which waits for its client as it is configured to (`ClientAliveInterval 15` ends that after 45 s).
- `nginx -t` that hangs is stopped after 60 s, on both hosts. nginx that hangs in its reload is given up after `prove_timeout`, \
and again after 30 s once the old files are back: then a person is needed (7).
"""


def run_cells(folder: Path) -> tuple[int, Results]:
    """pytest's exit status, and what each cell found."""
    results = folder / "results"
    environment = {**os.environ, "NGXSYNC_MATRIX": "all", "NGXSYNC_MATRIX_RESULTS": str(results)}
    argv = [sys.executable, "-m", "pytest", "--quiet", "--no-header", "tests/test_matrix.py", *sys.argv[1:]]
    status = subprocess.run(argv, cwd=PROJECT, env=environment, check=False).returncode
    lines = map(json.loads, results.read_text().splitlines() if results.exists() else [])
    return status, {(step, fault): (text, seconds) for step, fault, text, seconds in lines}


def render_table(results: Results) -> str:
    rows = [["fault", *(f"{step.number} {step.name}" for step in STEPS)], ["---"] * (1 + len(STEPS))]
    for fault in FAULTS:
        row = [fault.name]
        for step in STEPS:
            text = results.get((step.name, fault.name), ("not run", 0.0))[0]
            row.append(f"**{text}**" if (step.name, fault.name) in IN_CI else text)
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def render_page(results: Results) -> str:
    seconds = [found for (_, fault), (_, found) in results.items() if fault == "connection-frozen"]
    return PAGE.format(
        count=len(CELLS),
        table=render_table(results),
        steps="\n".join(f"{step.number}. {step.name}: {step.stands}" for step in STEPS),
        faults="\n".join(f"- {fault.name}: {fault.text}" for fault in FAULTS),
        connect=CONNECT_TIMEOUT_S,
        frozen=FROZEN_S,
        receiver=RECEIVER_S,
        peer=PEER_S,
        measured=f"{min(seconds, default=0):.1f} to {max(seconds, default=0):.1f} s",
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        status, results = run_cells(Path(folder))
    print(render_table(results))
    if set(results) == set(CELLS):
        (PROJECT / "docs/matrix.md").write_text(render_page(results))
    return status


if __name__ == "__main__":
    sys.exit(main())

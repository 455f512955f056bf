"""What check-nginx costs against a bare start of the same interpreter (a part of `make bench`; alone: ARGS=liveness)."""

from __future__ import annotations

import json

from tests.installed import AGENT, PYTHON, check_nginx, install_agent
from tests.pair import Pair

ROUNDS = 100
AT_MOST = 2.0
# in turns, in the host itself: getting there is not part of it
TURNS = """
import json, statistics, subprocess, sys, time
rounds, commands = int(sys.argv[1]), json.loads(sys.argv[2])
taken = {name: [] for name in commands}
for _ in range(rounds):
    for name, argv in commands.items():
        started = time.perf_counter()
        assert subprocess.call(argv, stdin=subprocess.DEVNULL) == 0
        taken[name].append(time.perf_counter() - started)
print(json.dumps({name: statistics.median(each) for name, each in taken.items()}))
"""


def rows(pair: Pair) -> list[str]:
    """Of the benchmarks' last table: nginx lives, and the look before left its note."""
    install_agent(pair.web2)
    assert check_nginx(pair.web2).returncode == 0
    url = "http://127.0.0.1/"
    commands = {
        "bare": [PYTHON, "-c", "pass"],
        "check": [AGENT, "check-nginx"],
        "asked": [AGENT, "check-nginx", "--url", url],
    }
    found = json.loads(pair.web2.run([PYTHON, "-c", TURNS, str(ROUNDS), json.dumps(commands)], timeout=300).stdout)
    bare = found["bare"]
    return [
        _row("`check-nginx` / bare interpreter", found["check"], bare),
        _row("`check-nginx --url` / bare interpreter", found["asked"], bare),
    ]


def _row(what: str, taken: float, bare: float) -> str:
    ratio = taken / bare
    goal = f"at most {AT_MOST:g}" + ("" if ratio <= AT_MOST else " MISSED")
    return f"| {what} | {ratio:.1f} ({taken * 1000:.0f} ms / {bare * 1000:.0f} ms) | {goal} |"

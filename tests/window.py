"""How long the window is (`python -m tests.window`): from the journal's begin to *applied*, in which several files are replaced.

Seen from outside, by the journal on the peer's disk. Prints a table: median and longest of RUNS runs for each number of files.
"""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

from tests.observation import STATE
from tests.pair import BASE_TREE, ROOT, Pair, make_pair, write_tree
from tests.resident import Resident, resident

SIZES = (1, 2, 100, 10_000)
RUNS = 5


def vhosts(count: int, text: str) -> dict[str, str]:
    """So many vhosts, each changed by another text."""
    line = "server {{ listen 80; server_name v{0}.test; return 200 '{1}'; }}\n"
    return {f"conf/vhosts/v{number:05}.conf": line.format(number, text) for number in range(count)}


class Gauge:
    """Watches the journal from its first appearance to the first phase that is noted in it."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.length_s = 0.0
        self._is_over = False
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        begun_at, size = 0.0, 0
        while not self._is_over:
            now = time.monotonic()
            try:
                found = self.journal.stat().st_size
            except FileNotFoundError:
                if begun_at:
                    return
                time.sleep(0.0002)
                continue
            if not begun_at:
                begun_at, size = now, found
            elif found > size:
                self.length_s = now - begun_at
                return

    def end(self) -> float:
        self._is_over = True
        self._thread.join()
        return self.length_s


def measure(process: Resident, pair: Pair, count: int) -> list[float]:
    """Seconds of each of RUNS runs that replace `count` files."""
    lengths = []
    for number in range(RUNS):
        write_tree(pair.web1, ROOT, vhosts(count, f"text {number}"))
        gauge = Gauge(pair.web2.path(f"{STATE}/peer/journal"))
        run = process.sync()
        lengths.append(gauge.end())
        assert run.exit == 0, run
        assert len(run.changes) == count
    return lengths


def prepare(pair: Pair, count: int) -> None:
    pair.reset()
    main = BASE_TREE["conf/nginx.conf"].replace("http {", "http {\n    server_names_hash_max_size 65536;")
    for host in pair.hosts:
        host.stop_nginx()
        write_tree(host, ROOT, {**BASE_TREE, "conf/nginx.conf": main, **vhosts(count, "text")})
        host.start_nginx()


def main() -> None:
    pair = make_pair()
    try:
        print("| files replaced | window: median | longest |\n|---|---|---|")
        for count in SIZES:
            prepare(pair, count)
            with resident(pair) as process:
                assert process.sync().exit == 0
                lengths = measure(process, pair, count)
            median, longest = (1000 * value for value in (statistics.median(lengths), max(lengths)))
            print(f"| {count:,} | {median:.1f} ms | {longest:.1f} ms |", flush=True)
    finally:
        pair.close()


if __name__ == "__main__":
    main()

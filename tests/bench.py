"""How fast (`make bench`): from an edit's last write to served and to proven on the peer, beside other ways, in one run.

Every figure is a median of ROUNDS on a pair of hosts in namespaces on one machine; what counts are the ratios within one run.
Prints the table and writes it to docs/benchmarks.md. With names of PARTS as arguments: those alone, put into that table.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import bench_drift, bench_liveness, bench_meaning
from tests.hosts import PROJECT, Host
from tests.pair import BASE_TREE, ROOT, Daemon, Pair, make_pair, write_tree

ROUNDS = 10
SIZES = (10, 1_000, 10_000)
IDLE_S = 60
READY_SIZE, READY_S = 1_000, 1.0
SSH = "ssh -i /etc/ngxsync/id_ed25519 -o UserKnownHostsFile=/etc/ngxsync/known_hosts -o BatchMode=yes"
PEER = "root@192.0.2.2"
NGINX = f"/usr/sbin/nginx -p {ROOT} -c conf/nginx.conf"

# (what, at most, times what): issue "the main job", How fast
GOALS = {
    10: (("proven", 0.4, "b"), ("served", 0.25, "b")),
    1_000: (("proven", 2.5, "c"),),
    10_000: (("proven", 1.5, "c"),),
}


def vhost(number: int, text: str) -> str:
    return f"""server {{
    listen 80;
    server_name v{number}.test;
    root html;
    location / {{
        try_files $uri $uri/ =404;
    }}
    location = /version {{
        return 200 "{text}\\n";
    }}
}}
"""


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(values: list[float]) -> float:
    return statistics.median(values)


class Bench:
    """One size: the pair with so many vhosts, synced once."""

    def __init__(self, pair: Pair, size: int) -> None:
        self.pair, self.size = pair, size
        self.version = 0
        for host in pair.hosts:
            host.stop_nginx()
        pair.reset()
        files = {f"conf/vhosts/v{n:05}.conf": vhost(n, "v0") for n in range(size)}
        tree = {**BASE_TREE, **files}
        tree["conf/nginx.conf"] = tree["conf/nginx.conf"].replace(
            "http {", "http {\n    server_names_hash_max_size 65536;"
        )
        for host in pair.hosts:
            host.stop_nginx()
            write_tree(host, ROOT, tree)
            host.start_nginx()

    def edit(self) -> tuple[float, str]:
        """Write one vhost anew; the time of the last write, and the text that it now answers."""
        self.version += 1
        text = f"v{self.version}"
        self.pair.web1.path(f"{ROOT}/conf/vhosts/v00003.conf").write_text(vhost(3, text))
        return time.time(), text

    def ngxsync(self) -> dict[str, float]:
        """Medians of seconds until served, and until proven (the accepted record), with the daemon at work."""
        served, proven = [], []
        with self.pair.daemon() as daemon:
            self._wait_until_in_sync(daemon)
            for _ in range(ROUNDS):
                time.sleep(1.0)
                at, text = self.edit()
                served.append(self._served(text) - at)
                proven.append(self._proven(at) - at)
            idle = self._idle(daemon) if self.size == SIZES[-1] else {}
        return {"served": median(served), "proven": median(proven), **idle}

    def ready(self) -> float:
        """Median seconds of `ngxsync ready`, as a person or a monitor calls it; its names were asked before."""
        ngxsync = self.pair.ngxsync
        for arguments in (["sync", "--yes"], ["ready"]):
            done = ngxsync(*arguments)
            assert done.returncode == 0, done.stdout + done.stderr
        return median([seconds(lambda: ngxsync("ready")) for _ in range(ROUNDS)])

    def _wait_until_in_sync(self, daemon: Daemon) -> None:
        accepted = self.pair.web2.path("/var/lib/ngxsync/peer/accepted.json")
        end = time.time() + 120
        while not accepted.exists():
            if time.time() > end:
                raise AssertionError(f"no first sync\n{daemon.log()}")
            time.sleep(0.05)
        time.sleep(2.0)

    def _served(self, text: str) -> float:
        end = time.time() + 60
        while time.time() < end:
            if self.pair.web2.get("/version", host="v3.test")[1].strip() == text:
                return time.time()
            time.sleep(0.002)
        raise AssertionError(f"{text} is not served")

    def _proven(self, since: float) -> float:
        accepted = self.pair.web2.path("/var/lib/ngxsync/peer/accepted.json")
        end = time.time() + 60
        while time.time() < end:
            record = json.loads(accepted.read_text())
            if record["at"] > since and record["proven"]:
                return float(record["at"])
            time.sleep(0.002)
        raise AssertionError("not proven")

    def _idle(self, daemon: Daemon) -> dict[str, float]:
        """Share of a core and resident megabytes of a daemon that has nothing to do."""
        time.sleep(5)
        daemon.messages()  # as systemd does: a queue of notifications that nobody reads is no idle daemon
        pid = daemon.host.pid_inside(daemon.process)
        proc = daemon.host.path(f"/proc/{pid}")
        before = cpu_seconds(proc)
        time.sleep(IDLE_S)
        used = cpu_seconds(proc) - before
        daemon.messages()
        memory = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS"))
        return {"idle_share": used / IDLE_S, "idle_mb": int(memory.split()[1]) / 1024}

    # the other ways

    def shell(self, host: Host, command: str) -> float:
        """Seconds of a command, taken on the host itself: getting there is not part of it."""
        timed = f"a=$EPOCHREALTIME; {command}; echo $a $EPOCHREALTIME"
        started, ended = host.run(["/bin/bash", "-c", timed], timeout=120).stdout.split()[-2:]
        return float(ended) - float(started)

    def crontab_rsync(self) -> float:
        """(a): the line of every tutorial, which neither tests nor reloads."""
        times = []
        for _ in range(ROUNDS):
            self.edit()
            times.append(
                self.shell(
                    self.pair.web1, f"rsync -avzP -e '{SSH}' --exclude=logs {ROOT} {PEER}:/usr/local > /dev/null"
                )
            )
        return median(times)

    def nginx_sync(self) -> float:
        """(b): nginx-sync's documented steps, each over its own connection."""
        steps = [
            f"{SSH} {PEER} 'command -v rsync'",
            f"{SSH} {PEER} 'command -v nginx'",
            f"{NGINX} -t",
            f"{SSH} {PEER} 'rm -rf /srv/backup; cp -a {ROOT} /srv/backup'",
            f"rsync -a -e '{SSH}' --exclude=/logs --delete {ROOT}/ {PEER}:{ROOT}/",
            f"{SSH} {PEER} '{NGINX} -t'",
            f"{SSH} {PEER} '{NGINX} -s reload'",
        ]
        times = []
        for _ in range(ROUNDS):
            self.edit()
            times.append(sum(self.shell(self.pair.web1, f"{step} > /dev/null 2>&1") for step in steps))
        return median(times)

    def floor(self) -> float:
        """(c): both tests, SIGHUP until new workers, and one rsync over a kept connection."""
        mux = f"{SSH} -o ControlPath=/run/bench-%C -o ControlMaster=auto -o ControlPersist=300"
        self.shell(self.pair.web1, f"{mux} {PEER} true")
        times = []
        for _ in range(ROUNDS):
            self.edit()
            total = self.shell(self.pair.web1, f"{NGINX} -t 2> /dev/null") + self.shell(
                self.pair.web2, f"{NGINX} -t 2> /dev/null"
            )
            names = "printf './conf/vhosts/v00003.conf\\0'"
            total += self.shell(
                self.pair.web1, f"{names} | rsync -a --files-from=- --from0 -e '{mux}' {ROOT} {PEER}:/srv/stage"
            )
            times.append(total + self._reload())
        return median(times)

    def _reload(self) -> float:
        peer = self.pair.web2
        base = set(peer.nginx_workers())
        main = peer.nginx_main()
        started = time.perf_counter()
        peer.run(["kill", "-HUP", str(main)])
        while not set(peer.nginx_workers()) - base:
            time.sleep(0.001)
        return time.perf_counter() - started


def cpu_seconds(proc: Path) -> float:
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def help_ratio() -> tuple[float, float]:
    """Median seconds of a bare interpreter and of `ngxsync --help`, in turns."""
    ngxsync = Path(sys.executable).parent / "ngxsync"
    bare, helped = [], []
    for _ in range(30):
        bare.append(seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)))
        helped.append(seconds(lambda: subprocess.run([ngxsync, "--help"], check=True, stdout=subprocess.DEVNULL)))
    return median(bare), median(helped)


def measure(pair: Pair, size: int) -> dict[str, float]:
    bench = Bench(pair, size)
    print(f"{size} vhosts ...", file=sys.stderr, flush=True)
    result = {"size": float(size), "a": bench.crontab_rsync(), "b": bench.nginx_sync(), "c": bench.floor()}
    ready = {"ready": Bench(pair, size).ready()} if size == READY_SIZE else {}
    return {**Bench(pair, size).ngxsync(), **result, **ready}


def size_rows(results: list[dict[str, float]]) -> Iterator[str]:
    yield "| vhosts | ngxsync: served | ngxsync: proven | (a) crontab rsync | (b) nginx-sync's steps | (c) floor | goal |"
    yield "|---|---|---|---|---|---|---|"
    for r in results:
        goals = [
            f"{what} / {beside} = {r[what] / r[beside]:.2f} (at most {limit})"
            + ("" if r[what] / r[beside] <= limit else " MISSED")
            for what, limit, beside in GOALS[int(r["size"])]
        ]
        times = " | ".join(f"{r[key] * 1000:.0f} ms" for key in ("served", "proven", "a", "b", "c"))
        yield f"| {int(r['size']):,} | {times} | {'; '.join(goals)} |"


PARTS: dict[str, Callable[[Pair], list[str]]] = {
    "meaning": lambda pair: [row(*measured) for measured in bench_meaning.measure(pair)],
    "drift": lambda pair: [row(*measured) for measured in bench_drift.measure(pair)],
    "liveness": bench_liveness.rows,
}
DOCUMENT = PROJECT / "docs" / "benchmarks.md"


def row(what: str, measured_s: float, goal: str) -> str:
    return (
        f"| {what} | {measured_s * 1000:.0f} ms | {goal}{'' if measured_s <= float(goal.split()[-2]) else ' MISSED'} |"
    )


def with_rows(text: str, rows: list[str]) -> str:
    """The document with these rows of its last table put anew, or added."""
    names = {_name(line) for line in rows}
    return "".join(f"{line}\n" for line in [*(line for line in text.splitlines() if _name(line) not in names), *rows])


def _name(line: str) -> str:
    """What a row of that table is about, without what it says of this run."""
    return line.split(" | ")[0].split(" (")[0]


def part_rows(names: Iterable[str]) -> list[str]:
    with opened_pair() as pair:
        found = []
        for name in names:
            pair.reset()
            found += PARTS[name](pair)
        return found


def report(results: list[dict[str, float]], bare: float, helped: float) -> str:
    last = results[-1]
    lines = [
        "# Benchmarks",
        "",
        f"`make bench`: medians of {ROUNDS}, settle time (200 ms) included, a pair of hosts in namespaces on one machine",
        f"({os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}). Compare within a run only.",
        "",
        *size_rows(results),
        "",
        "(a) tests nothing and reloads nothing. (b) opens a connection for each step, and proves nothing.",
        "(c) is `nginx -t` on both hosts, SIGHUP until new workers, and one rsync over a kept connection.",
        "Proven includes 200 ms in which new workers must stay alive.",
        "",
        "| what | measured | goal |",
        "|---|---|---|",
    ]
    if "idle_share" in last:
        lines += [
            f"| idle daemon over {int(last['size']):,} vhosts: share of a core | {last['idle_share'] * 100:.2f} % | at most 0.2 % |",
            f"| idle daemon: resident | {last['idle_mb']:.0f} MB | at most 80 MB |",
        ]
    for each in results:
        if "ready" in each:
            limit = f"at most {READY_S:g} s" + ("" if each["ready"] <= READY_S else " MISSED")
            lines.append(f"| `ready` over {int(each['size']):,} vhosts | {each['ready'] * 1000:.0f} ms | {limit} |")
    lines.append(
        f"| `--help` / bare interpreter | {helped / bare:.1f} ({helped * 1000:.0f} ms / {bare * 1000:.0f} ms) | at most 3 |"
    )
    return "\n".join(lines) + "\n"


@contextmanager
def opened_pair() -> Iterator[Pair]:
    pair = make_pair()
    try:
        yield pair
    finally:
        pair.close()


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in PARTS:
        rows = part_rows(arguments)
        print("\n".join(rows))
        DOCUMENT.write_text(with_rows(DOCUMENT.read_text(), rows))
        return
    sizes = [int(argument) for argument in arguments] or list(SIZES)
    bare, helped = help_ratio()
    with opened_pair() as pair:
        results = [measure(pair, size) for size in sizes]
    text = report(results, bare, helped)
    if sizes == list(SIZES):
        text = with_rows(text, part_rows(PARTS))
        DOCUMENT.write_text(text)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What is known is not read: neither by the next command on the master, nor by the agent's scan on the peer (seen by strace)."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.hosts import PROJECT, Host, wait_until
from tests.pair import BASE_TREE, ROOT, Pair, write_tree

LOG = "/tmp/strace.log"


STRACE = ["strace", "-f", "-qq", "-e", "signal=none", "-e", "trace=open,openat", "-o", LOG]


def opened(host: Host) -> set[str]:
    """What of the tree was opened, directories aside."""
    calls = [line for line in host.path(LOG).read_text().splitlines() if "O_DIRECTORY" not in line]
    assert calls
    return {name for line in calls for name in re.findall(rf'"({ROOT}/[^"]*)"', line)}


@contextmanager
def traced(host: Host, pid: int) -> Iterator[None]:
    """That process, and all that it starts."""
    tracer = host.popen([*STRACE, "-p", str(pid)])
    status = host.path(f"/proc/{pid}/status")
    wait_until(lambda: "TracerPid:\t0\n" not in status.read_text(), "strace holds it")
    yield
    host.signal_to(tracer, signal.SIGINT)
    tracer.wait(45)


# where the running nginx keeps its pid file: the agent asks the main configuration file for that alone, on the master
MAIN = {f"{ROOT}/conf/nginx.conf"}


def knows_all(host: Host, name: str) -> bool:
    file = host.path(f"/var/lib/ngxsync/{name}")
    return file.exists() and {f"{ROOT}/{path}" for path in BASE_TREE} <= set(json.loads(file.read_text())["marks"])


def test_a_second_diff_reads_no_file(pair: Pair) -> None:
    """On neither host; and a file that was edited is read, and nothing else."""
    assert pair.ngxsync("sync", "--yes").returncode == 0

    def is_settled() -> bool:  # what was written in the last 2 s is read once more
        assert pair.ngxsync("diff").returncode == 0
        return knows_all(pair.web1, "master/hash-cache.json") and knows_all(pair.web2, "peer/cache.json")

    wait_until(is_settled, "all files are known")
    diff = [*STRACE, sys.executable, "-m", "ngxsync", "diff"]
    with traced(pair.web2, pair.web2.sshd_pid()):
        assert pair.web1.run(diff, env={"PYTHONPATH": str(PROJECT)}).returncode == 0
    assert (opened(pair.web1), opened(pair.web2)) == (MAIN, set())
    write_tree(pair.web1, ROOT, {"html/index.html": "<h1>It Works</h1>\n"})
    write_tree(pair.web2, ROOT, {"html/index.html": "<h1>IT works</h1>\n"})
    with traced(pair.web2, pair.web2.sshd_pid()):
        assert pair.web1.run([*diff, "--name-only"], env={"PYTHONPATH": str(PROJECT)}, check=False).returncode == 1
    read = {f"{ROOT}/html/index.html"}
    assert (opened(pair.web1), opened(pair.web2)) == (MAIN | read, read)

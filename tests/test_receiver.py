"""rsync on the peer ends when its connection is dead, and only then: by an ordinary key and behind the gate, on a real pair."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxsync.agent.manifest import PROTOCOL
from ngxsync.agent.receiver import GRACE_S
from ngxsync.edges.bundle import Bundle
from ngxsync.edges.link import RECEIVER, Way
from ngxsync.edges.rsync import rsync_argv
from tests import faults
from tests.agent import BOOT
from tests.door import agent_call, close_door, install_agent, key_options, ssh, write_policy
from tests.door import public_key as key_of
from tests.hosts import Host, wait_until
from tests.pair import ROOT, Pair, write_tree
from tests.resident import by_hand, site
from tests.steps import rsync_rename

STATE = "/var/lib/ngxsync"
RUN = "00000001-web1"
STAGE = f"{ROOT}/.ngxsync/{RUN}/stage"
SILENCE_S = 4  # rsync's --timeout here, which counts while ssh logs in, too; the receiver waits for 1.5 times as long
ENDS_S = 1.5 * SILENCE_S + 1.0
LONG_S = 60  # where the end is not to come of silence
BUSY_S = 15.0  # what ends at once has ended by then, however busy the machine
SOURCE = "/srv/the 'source' $x"
SHELL = "/srv/shell"
# --bwlimit is for the sender alone: the gate would refuse it
SCRIPT = f"""#!/bin/bash
words=()
for word; do [[ $word == --bwlimit=* ]] || words+=("$word"); done
exec {shlex.join(["ssh", *key_options()])} "${{words[@]}}"
"""
ODD = "/srv/a stage, it's $(id) ä"


class Transfer:
    """One rsync on web1 into a stage on web2, by the door that a key opens there."""

    def __init__(self, pair: Pair, *, gate: bool) -> None:
        self.pair = pair
        if gate:
            close_door(pair)
            request = {"protocol": PROTOCOL, "state_dir": STATE, "run": RUN, "trees": [ROOT], "written_by": "web1"}
            answer = ssh(pair, agent_call("stage"), input=json.dumps(request) + "\n").stdout
            self.dest = json.loads(answer)["stages"][ROOT]
            self.stage = Path(pair.web2.path(STAGE))
        else:
            install_agent(pair.web2)
            self.dest = ODD
            self.stage = Path(pair.web2.path(ODD))
            self.stage.mkdir()
        self.silence_s = SILENCE_S
        self.source = Path(pair.web1.path(SOURCE))
        self.source.mkdir()
        script = pair.web1.path(SHELL)
        script.write_text(SCRIPT)
        script.chmod(0o755)

    def begin(self, *names: str, options: tuple[str, ...] = ()) -> None:
        """Sends these files of the source."""
        receiver = Way().command([f"{Bundle.of_package().folder(STATE)}/{RECEIVER}", str(self.silence_s), "rsync"])
        dest = f"root@web2:{self.dest}"
        argv = rsync_argv(Path(SOURCE), dest, SHELL, receiver=receiver, silence_s=self.silence_s)
        argv[1:1] = options
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = self.pair.web1.popen(argv, **pipes)
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"./{name}\0" for name in names))
        self.process.stdin.close()

    def begin_slowly(self) -> None:
        """A file that takes 10 s; it stands in the middle of it."""
        (self.source / "big").write_bytes(bytes(1_000_000))
        self.begin("big", options=("--bwlimit=100",))
        wait_until(lambda: [file for file in self.stage.glob(".big.*") if file.stat().st_size], "some bytes are there")

    def end(self) -> tuple[int, str]:
        """(exit status, what rsync wrote)."""
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            said = stream.read()
        return self.process.wait(45), said

    def kill(self) -> None:
        """The sender dies with its ssh, if it has not ended by itself."""
        web1 = self.pair.web1
        faults.kill(web1, [pid for pid, line in web1.commands().items() if "rsync" in line])
        self.end()


@pytest.fixture(params=["ordinary", "gate"])
def transfer(pair: Pair, request: pytest.FixtureRequest) -> Transfer:
    return Transfer(pair, gate=request.param == "gate")


def raise_if_any_left(host: Host, timeout_s: float) -> None:
    wait_until(lambda: not faults.agents(host), f"{[host.commands()[p] for p in faults.agents(host)]} end", timeout_s)


def test_a_frozen_connection_leaves_no_process_and_no_half_file(transfer: Transfer) -> None:
    web2 = transfer.pair.web2
    transfer.begin_slowly()
    with faults.frozen(web2):
        raise_if_any_left(web2, ENDS_S + GRACE_S + BUSY_S)
        assert list(transfer.stage.iterdir()) == []
    transfer.kill()


def test_a_sender_that_is_slow_arrives(transfer: Transfer) -> None:
    started = time.monotonic()
    transfer.begin_slowly()
    assert transfer.end()[0] == 0
    assert time.monotonic() - started > ENDS_S
    assert (transfer.stage / "big").stat().st_size == 1_000_000
    raise_if_any_left(transfer.pair.web2, BUSY_S)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_disk_that_is_slow_is_no_dead_connection(transfer: Transfer, size: int) -> None:
    """rsync stands still for longer than a dead connection would be waited for, whether bytes wait for it or not."""
    host = transfer.pair.web2
    for name in ("a", "b"):
        (transfer.source / name).write_bytes(bytes(size))
    with SlowRename(host, ENDS_S + 1):
        started = time.monotonic()
        transfer.begin("a", "b")
        status, said = transfer.end()
    assert status == 0, said
    assert time.monotonic() - started > ENDS_S
    assert {file.name: file.stat().st_size for file in transfer.stage.iterdir()} == {"a": size, "b": size}


class SlowRename:
    """The first rename of what sshd starts takes so long."""

    def __init__(self, host: Host, seconds: float) -> None:
        self.host = host
        call = rsync_rename()
        quiet = ["-f", "-qq", "-o", "/dev/null", "-e", "signal=none"]
        argv = ["strace", *quiet, "-e", f"trace={call}", "-e", f"inject={call}:delay_enter={int(seconds * 1e6)}:when=1"]
        self._strace = host.popen([*argv, "-p", str(host.sshd_pid())])

    def __enter__(self) -> None:
        status = self.host.path(f"/proc/{self.host.sshd_pid()}/status")
        wait_until(lambda: "TracerPid:\t0\n" not in status.read_text(), "strace holds sshd")

    def __exit__(self, *_error: object) -> None:
        self.host.signal_to(self._strace, signal.SIGTERM)
        self._strace.wait(45)


def test_a_master_that_dies_leaves_nothing(transfer: Transfer) -> None:
    transfer.silence_s = LONG_S
    transfer.begin_slowly()
    transfer.kill()
    raise_if_any_left(transfer.pair.web2, BUSY_S)
    assert list(transfer.stage.iterdir()) == []


def test_a_cut_connection_leaves_nothing(transfer: Transfer) -> None:
    transfer.silence_s = LONG_S
    transfer.begin_slowly()
    assert faults.cut(transfer.pair.web2)
    raise_if_any_left(transfer.pair.web2, BUSY_S)
    assert transfer.end()[0] in (12, 255)


def test_rsync_does_not_outlive_who_looks_after_it(transfer: Transfer) -> None:
    host = transfer.pair.web2
    transfer.silence_s = LONG_S
    transfer.begin_slowly()
    supervising = [pid for pid, line in host.commands().items() if f"{STATE}/agent/" in line]
    assert len(supervising) == 1
    with faults.frozen(host):
        faults.kill(host, supervising)
        raise_if_any_left(host, BUSY_S)
    transfer.kill()


def test_rsyncs_own_exit_status_arrives(pair: Pair) -> None:
    transfer = Transfer(pair, gate=False)
    (transfer.source / "file").write_text("x")
    transfer.dest = f"{ODD}/gone/stage"
    transfer.begin("file")
    assert transfer.end()[0] == 11  # "error in file I/O"; its words do not always get through ssh before it ends
    raise_if_any_left(pair.web2, BUSY_S)


def test_a_missing_rsync_behind_the_gate_is_named(pair: Pair) -> None:
    close_door(pair)
    assert by_hand(pair, "--yes").exit == 0
    write_policy(pair.web2, key_of(pair), rsync="/usr/bin/no-rsync")
    write_tree(pair.web1, ROOT, site("next"))
    run = by_hand(pair)
    assert (run.exit, run.code) == (4, "no-rsync"), run
    assert "apt-get install rsync" in run.text


# requests and answers that stop in the middle, with a shorter time to wait for more

QUICK = BOOT.replace("sys.exit(", "from ngxsync.agent import main as module; module.WAIT_S = 1; sys.exit(")


@pytest.fixture
def status(pair: Pair) -> Iterator[subprocess.Popen[str]]:
    argv = ["python3", "-I", "-S", "-c", QUICK, "status"]
    process = pair.web2.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.wait(45)
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def test_half_a_request_is_not_waited_for_for_ever(status: subprocess.Popen[str]) -> None:
    assert status.stdin is not None
    status.stdin.write('{"protocol": 1, ')
    status.stdin.flush()
    assert status.wait(40) == -signal.SIGALRM


def test_an_answer_that_nobody_takes_is_not_kept_for_ever(status: subprocess.Popen[str]) -> None:
    """As much is answered as was asked with: more than any pipe holds."""
    assert status.stdin is not None
    status.stdin.write(json.dumps({"protocol": "x" * 1_000_000}) + "\n")
    status.stdin.flush()
    assert status.wait(40) == -signal.SIGALRM

"""The link to a peer, over a real sshd on loopback: what works, and what a person is told when it does not."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ngxsync.agent.manifest import PROTOCOL
from ngxsync.core.errors import AgentFailed, ConfigError, PeerUnreachable
from ngxsync.core.ssh import LinkSettings, parse_jump, render_ssh_config
from ngxsync.edges.bundle import MAIN, Bundle
from ngxsync.edges.link import Link
from ngxsync.edges.link.folder import PrivateFolder
from ngxsync.edges.link.wire import Channel, send
from tests.host import PATIENCE_S
from tests.sshd import Sshd, descendants, free_port, make_key

AGENT = b"""
import json, os, sys, time

def main(arguments):
    request = json.loads(sys.stdin.read() or "{}")
    if "fifo" in request:
        with open(request["fifo"], "w") as fifo:
            fifo.write("begun")
        time.sleep(60)
    sys.stderr.write(request.get("complain", ""))
    if "status" in request:
        return request["status"]
    answer = {"ok": request.get("ok", True), "verb": arguments[0], "pid": os.getpid(), "file": __file__}
    answer["locale"] = os.environ["LC_ALL"]
    answer["echo"] = request.get("echo", "") * request.get("times", 1)
    print(json.dumps(answer))
    return 0
"""
OF_PROTOCOL_2 = b"""
import json, sys

def main(arguments):
    request = json.loads(sys.stdin.read())
    said = {"what": "protocol 2 is spoken here, %s was asked" % request["protocol"], "where": "", "state": "", "next": ""}
    wrong = {"ok": False, "code": "protocol", "speaks": [1, 2], "message": said}
    print(json.dumps({"ok": True, "spoken": 2} if request["protocol"] == 2 else wrong))
    return 0
"""
BUNDLE = Bundle({"__main__.py": MAIN.encode(), "ngxsync_agent/__init__.py": b"", "ngxsync_agent/main.py": AGENT})
MakeLink = Callable[..., Link]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def make_link(tmp_path: Path) -> Iterator[MakeLink]:
    """Links that are closed at the end, each to a peer without an agent."""
    links: list[Link] = []

    def make(sshd: Sshd, bundle: Bundle = BUNDLE, **changed: object) -> Link:
        settings = sshd.settings(**{"state_dir": str(tmp_path / "state"), **changed})
        links.append(Link(settings, tmp_path / "run", bundle))
        return links[-1]

    yield make
    for link in links:
        link.close()


@pytest.fixture
def link(make_link: MakeLink, sshd: Sshd) -> Link:
    return make_link(sshd)


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def processes_naming(text: str, *, at_start: bool = False) -> list[int]:
    """Those with this in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words.startswith(text) if at_start else text in words:
            found.append(int(entry.parent.name))
    return found


# calls


def test_an_installed_agent_answers_and_stays(link: Link, tmp_path: Path) -> None:
    first = link.call("echo", {"echo": "é\n\udcff"}, timeout_s=10, install=True)
    assert (first["verb"], first["echo"]) == ("echo", "é\n\udcff")
    folder = tmp_path / "state" / "agent" / BUNDLE.hash
    assert first["file"] == f"{folder}/ngxsync_agent/main.py"
    assert os.readlink(tmp_path / "state/agent/current") == BUNDLE.hash
    for path in (tmp_path / "state", tmp_path / "state/agent", folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert sorted(os.listdir(folder.parent)) == sorted([BUNDLE.hash, "current", "ngxsync-agent"])
    assert link.call("echo", {}, timeout_s=10)["file"] == first["file"]
    command = [f"{folder.parent}/ngxsync-agent", "status"]
    assert not os.path.islink(command[0]), "keepalived would keep the path of this release"
    said = subprocess.run(command, input=b"not read", capture_output=True, check=True).stdout
    assert b'"verb": "status"' in said


def test_a_missing_agent_runs_once_and_leaves_nothing(make_link: MakeLink, tmp_path: Path) -> None:
    there = tmp_path / "tmp"
    there.mkdir()
    with Sshd(tmp_path / "sshd", environment=f"TMPDIR={there}") as sshd:
        link = make_link(sshd)
        answer = link.call("echo", {"echo": "x"}, timeout_s=10)
        assert answer["echo"] == "x"
        assert answer["file"].startswith(f"{there}/ngxsync-")
        with pytest.raises(AgentFailed):
            link.call("echo", {"status": 3}, timeout_s=10)
    assert list(there.iterdir()) == []
    assert not (tmp_path / "state").exists()


def test_a_run_from_a_temporary_folder_is_tidied_up_after_a_cut(make_link: MakeLink, tmp_path: Path) -> None:
    there, fifo = tmp_path / "tmp", tmp_path / "fifo"
    there.mkdir()
    os.mkfifo(fifo)
    with Sshd(tmp_path / "sshd", environment=f"TMPDIR={there}") as sshd, ThreadPoolExecutor(1) as pool:
        link = make_link(sshd)
        running = pool.submit(link.call, "echo", {"fifo": str(fifo)}, timeout_s=60)
        assert fifo.read_text() == "begun"
        (folder,) = there.iterdir()
        for pid in sshd.sessions():
            if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(PeerUnreachable):
            running.result()
        for pid in processes_naming(f"/usr/bin/python3 -I -S -B {folder}", at_start=True):
            os.kill(pid, signal.SIGTERM)
        until(lambda: not folder.exists(), "the folder goes with the run")


def test_a_damaged_installation_is_made_anew(link: Link, tmp_path: Path) -> None:
    link.call("echo", {}, timeout_s=10, install=True)
    (tmp_path / "state/agent" / BUNDLE.hash / "__main__.py").unlink()
    assert link.call("echo", {"echo": "y"}, timeout_s=10, install=True)["echo"] == "y"
    assert (tmp_path / "state/agent" / BUNDLE.hash / "__main__.py").read_text() == MAIN
    assert sorted(os.listdir(tmp_path / "state/agent")) == sorted([BUNDLE.hash, "current", "ngxsync-agent"])


def test_an_older_agent_is_asked_again_in_its_own_protocol(
    make_link: MakeLink, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: the number is remembered."""
    files = {"__main__.py": MAIN.encode(), "ngxsync_agent/__init__.py": b"", "ngxsync_agent/main.py": OF_PROTOCOL_2}
    link = make_link(sshd, Bundle(files))
    request = {"protocol": PROTOCOL}
    assert link.call("hello", request, timeout_s=10, install=True) == {"ok": True, "spoken": 2}
    asked: list[bytes] = []
    sending = send

    def noting(channel: Channel, data: bytes, **more: bool) -> None:
        asked.append(data)
        sending(channel, data, **more)

    monkeypatch.setattr("ngxsync.edges.link.send", noting)
    assert link.call("hello", request, timeout_s=10) == {"ok": True, "spoken": 2}
    assert asked == [b'{"protocol": 2}\n']


def test_a_refusal_of_the_agent_is_an_answer(link: Link) -> None:
    assert link.call("transact", {"ok": False}, timeout_s=10)["ok"] is False


def test_large_requests_answers_and_complaints_do_not_block_each_other(link: Link) -> None:
    request = {"echo": "0123456789", "times": 500_000, "complain": "c" * 3_000_000, "padding": "p" * 5_000_000}
    assert len(link.call("echo", request, timeout_s=30)["echo"]) == 5_000_000


def test_noise_of_the_login_shell_is_tolerated(make_link: MakeLink, tmp_path: Path) -> None:
    noise = 'ForceCommand echo \'{"ok": "welcome"}\'; echo; echo oops >&2; eval "$SSH_ORIGINAL_COMMAND"'
    with Sshd(tmp_path / "sshd", extra=noise) as sshd:
        assert make_link(sshd).call("echo", {"echo": "x"}, timeout_s=10)["echo"] == "x"
        ours, theirs = make_link(sshd, Bundle.of_package()).whoami_both()
        assert ours == theirs


def test_both_stacks_reach_the_same_host_as_the_same_user(make_link: MakeLink, sshd: Sshd) -> None:
    link = make_link(sshd, Bundle.of_package())
    ours, theirs = link.whoami_both()
    assert ours == theirs
    assert ours.startswith(f"{link.settings.user}@")
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in ours


def test_another_python_is_found_where_the_usual_one_is_missing(make_link: MakeLink, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3.9").symlink_to("/usr/bin/python3")
    hide = 'ForceCommand eval "$(printf %s "$SSH_ORIGINAL_COMMAND" | sed \'s| /usr/bin/python3 | /gone/python3 |\')"'
    with Sshd(tmp_path / "sshd", extra=hide, environment=f"PATH={tmp_path}/bin:/bin") as sshd:
        for name in ("python3", *(f"python3.{minor}" for minor in range(10, 14))):
            (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
            (tmp_path / "bin" / name).chmod(0o755)
        link = make_link(sshd)
        assert link.call("echo", {"echo": "x"}, timeout_s=10)["echo"] == "x"


def test_a_peer_without_python_is_told_so(make_link: MakeLink, tmp_path: Path) -> None:
    hide = 'ForceCommand eval "$(printf %s "$SSH_ORIGINAL_COMMAND" | sed \'s|python|gone|g\')"'
    with Sshd(tmp_path / "sshd", extra=hide) as sshd, pytest.raises(AgentFailed) as caught:
        make_link(sshd).call("echo", {}, timeout_s=10)
    assert caught.value.code == "python"
    assert "web2 has no Python 3.6 or newer" in str(caught.value)
    assert "install python3" in str(caught.value)


def test_no_answer_shows_what_the_agent_said_without_its_escapes(link: Link) -> None:
    with pytest.raises(AgentFailed) as caught:
        link.call("echo", {"status": 3, "complain": "\x1b]0;title\x07boom\x1b[2J"}, timeout_s=10)
    text = str(caught.value)
    assert "boom" in text
    assert "status 3" in text
    assert all(char.isprintable() or char == "\n" for char in text)


# at the same time, again, and ahead of time


def test_five_threads_may_open_and_call_at_once(link: Link) -> None:
    link_calls = [str(number) for number in range(15)]
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda n: link.call("echo", {"echo": n}, timeout_s=20)["echo"], link_calls))
    assert answers == link_calls


def waiting_agents(sshd: Sshd, link: Link) -> list[int]:
    ours = processes_naming(f"/usr/bin/python3 -I -S {BUNDLE.folder(link.settings.state_dir)}", at_start=True)
    return [pid for pid in ours if pid in sshd.sessions()]


def test_a_warm_interpreter_is_the_one_that_answers(link: Link, sshd: Sshd) -> None:
    link.call("echo", {}, timeout_s=10, install=True)
    link.warm("echo")
    link.warm("echo")
    until(lambda: len(waiting_agents(sshd, link)) == 1, "one interpreter waits")
    waiting = waiting_agents(sshd, link)
    assert link.call("echo", {}, timeout_s=10)["pid"] == waiting[0]
    assert link.call("echo", {}, timeout_s=10)["pid"] != waiting[0]


def test_a_warm_interpreter_that_died_is_replaced(link: Link, sshd: Sshd) -> None:
    link.call("echo", {}, timeout_s=10, install=True)
    link.warm("echo")
    until(lambda: len(waiting_agents(sshd, link)) == 1, "one interpreter waits")
    os.kill(waiting_agents(sshd, link)[0], signal.SIGKILL)
    until(lambda: link._warm["echo"][1].exit_status_ready(), "its end has been told")
    assert link.call("echo", {"echo": "x"}, timeout_s=10)["echo"] == "x"


def test_a_warm_interpreter_ends_with_the_link(link: Link, sshd: Sshd) -> None:
    link.call("echo", {}, timeout_s=10, install=True)
    link.warm("echo")
    until(lambda: len(waiting_agents(sshd, link)) == 1, "one interpreter waits")
    link.close()
    until(lambda: waiting_agents(sshd, link) == [], "it ends with the link")


def test_a_connection_that_is_asked_for_while_the_link_closes_is_not_left_open(link: Link) -> None:
    class Meeting:
        """The link is closed by another thread in the last moment in which this one has the lock."""

        def __init__(self) -> None:
            self._lock = threading.Lock()
            self.acquire, self.release = self._lock.acquire, self._lock.release

        def __enter__(self) -> None:
            self._lock.acquire()

        def __exit__(self, *_error: object) -> None:
            closing = threading.Thread(target=link.close)
            closing.start()
            closing.join()
            self._lock.release()

    link.call("hello", {}, timeout_s=30)
    wire, lock = link._wire, Meeting()
    assert wire is not None
    link._lock = lock  # type: ignore[assignment]
    with pytest.raises(PeerUnreachable, match="closed meanwhile"):
        link.call("hello", {}, timeout_s=30)
    assert not wire.is_open


def test_a_warm_interpreter_that_nobody_uses_ends(link: Link, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ngxsync.edges.link.WARM_S", 0.5)
    link.call("echo", {}, timeout_s=10, install=True)
    link.warm("echo")
    until(lambda: len(waiting_agents(sshd, link)) == 1, "one interpreter waits")
    until(lambda: waiting_agents(sshd, link) == [], "it ends by itself")
    assert link.call("echo", {"echo": "x"}, timeout_s=10)["echo"] == "x"


def test_an_answer_beyond_all_measure_is_refused(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ngxsync.edges.link.wire.ANSWER_LIMIT", 1_000_000)
    with pytest.raises(AgentFailed, match="larger than"):
        link.call("echo", {"echo": "x" * 1000, "times": 3000}, timeout_s=10)
    assert link.call("echo", {"echo": "x"}, timeout_s=10)["echo"] == "x"


def begun(link: Link, tmp_path: Path, pool: ThreadPoolExecutor, timeout_s: float) -> Callable[[], object]:
    """A call that is known to run on the peer; what is returned waits for its end."""
    link.call("echo", {}, timeout_s=10, install=True)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    future = pool.submit(link.call, "transact", {"fifo": str(fifo)}, timeout_s=timeout_s)
    assert fifo.read_text() == "begun"
    return future.result


def test_a_connection_cut_in_a_call_says_so_and_the_next_call_works(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        result = begun(link, tmp_path, pool, 60)
        started = time.monotonic()
        sshd.cut()
        with pytest.raises(PeerUnreachable) as caught:
            result()
    assert time.monotonic() - started < 30
    assert caught.value.code == "cut"
    assert "the old or the new state, nothing between" in str(caught.value)
    assert link.call("echo", {"echo": "again"}, timeout_s=10)["echo"] == "again"


def test_a_frozen_peer_ends_in_time_and_the_next_call_works(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        result = begun(link, tmp_path, pool, 1.0)
        started = time.monotonic()
        sshd.freeze()
        with pytest.raises(PeerUnreachable) as caught:
            result()
    assert time.monotonic() - started < 20
    assert caught.value.code == "cut"
    assert "none within 1 s" in str(caught.value)
    sshd.cut()
    assert link.call("echo", {"echo": "again"}, timeout_s=10)["echo"] == "again"


def test_a_connection_that_froze_between_calls_is_replaced(link: Link, sshd: Sshd) -> None:
    link.call("echo", {}, timeout_s=10)
    sshd.freeze()
    started = time.monotonic()
    assert link.call("echo", {"echo": "again"}, timeout_s=60)["echo"] == "again"
    assert time.monotonic() - started < 40, "the call did not wait for all its time"


def test_an_agent_killed_in_a_call_leaves_the_outcome_open(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        result = begun(link, tmp_path, pool, 60)
        os.kill(waiting_agents(sshd, link)[0], signal.SIGKILL)
        with pytest.raises(PeerUnreachable) as caught:
            result()
    assert caught.value.code == "cut"
    assert "ended by a signal" in str(caught.value)


# what a person is told

BOTH = pytest.mark.parametrize("stack", ["fabric", "openssh"])


def refused(link: Link, stack: str) -> PeerUnreachable:
    connect = {"fabric": lambda: link.call("hello", {}, timeout_s=5), "openssh": link.ensure_master}[stack]
    with pytest.raises(PeerUnreachable) as caught:
        connect()
    assert link.settings.where in str(caught.value)
    assert "web2 unchanged, nothing was sent" in str(caught.value)
    return caught.value


@BOTH
def test_an_unknown_host_key_is_refused(make_link: MakeLink, sshd: Sshd, tmp_path: Path, stack: str) -> None:
    known = tmp_path / "known_hosts"
    known.touch()
    error = refused(make_link(sshd, known_hosts=known), stack)
    assert error.code == "host-key-unknown"
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> {known}" in str(error)
    assert known.read_text() == ""


@BOTH
def test_a_changed_host_key_is_refused(make_link: MakeLink, sshd: Sshd, tmp_path: Path, stack: str) -> None:
    known, other = tmp_path / "known_hosts", make_key(tmp_path / "other")
    kind, key = Path(f"{other}.pub").read_text().split()[:2]
    known.write_text(f"[127.0.0.1]:{sshd.port} {kind} {key}\n")
    error = refused(make_link(sshd, known_hosts=known), stack)
    assert error.code == "host-key-changed"
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}' -f {known}" in str(error)


@BOTH
def test_a_key_that_the_peer_does_not_accept(make_link: MakeLink, sshd: Sshd, tmp_path: Path, stack: str) -> None:
    error = refused(make_link(sshd, identity=make_key(tmp_path / "stranger")), stack)
    assert error.code == "auth"
    assert "stranger.pub to the authorized_keys" in str(error)


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_public_key_is_named_as_one(make_link: MakeLink, sshd: Sshd, mode: int) -> None:
    public = Path(f"{sshd.identity}.pub")
    public.chmod(mode)
    error = refused(make_link(sshd, identity=public), "fabric")
    assert error.code == "identity-public"
    assert f"{public} is a public key\n" in str(error)
    assert "next: name the private one in `identity`: the file without .pub" in str(error)


@BOTH
def test_a_key_that_others_can_read(make_link: MakeLink, sshd: Sshd, tmp_path: Path, stack: str) -> None:
    identity = Path(shutil.copy(sshd.identity, tmp_path / "open"))
    identity.chmod(0o640)
    error = refused(make_link(sshd, identity=identity), stack)
    assert error.code == "identity-open"
    assert f"next: chmod 600 {identity}" in str(error)


@BOTH
def test_a_refused_port(make_link: MakeLink, sshd: Sshd, stack: str) -> None:
    error = refused(make_link(sshd, port=free_port()), stack)
    assert error.code == "refused"
    assert "start sshd on web2" in str(error)


@BOTH
def test_a_server_that_accepts_and_says_nothing(make_link: MakeLink, sshd: Sshd, stack: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        error = refused(make_link(sshd, port=silent.getsockname()[1], connect_timeout_s=1.0), stack)
        assert time.monotonic() - started < 20
    assert error.code == "silent"


def test_who_waited_for_a_connection_that_failed_does_not_try_again(make_link: MakeLink, sshd: Sshd) -> None:
    """Else a sync, which connects ahead of its first question, takes twice connect_timeout to say that nobody is there."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = make_link(sshd, port=silent.getsockname()[1], connect_timeout_s=2.0)
        with ThreadPoolExecutor() as pool:
            ahead = pool.submit(link.warm, "scan")
            with silent.accept()[0]:
                assert refused(link, "fabric").code == "silent"
            assert isinstance(ahead.exception(), PeerUnreachable)
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: make_key(path, passphrase="secret"), "identity-locked"),
        (lambda path: path, "identity"),
        (lambda path: path.touch(0o600) or path, "identity"),
    ],
    ids=["passphrase", "missing", "empty"],
)
def test_a_key_that_cannot_be_used(
    make_link: MakeLink, sshd: Sshd, tmp_path: Path, make: Callable[[Path], Path], code: str
) -> None:
    error = refused(make_link(sshd, identity=make(tmp_path / "key")), "fabric")
    assert error.code == code
    assert "Errno" not in str(error)
    advice = "ngxsync peer install web2" if code == "identity" else "ssh-keygen -p"
    assert advice in str(error)


@pytest.mark.parametrize(
    "text",
    [None, "@cert-authority * ssh-ed25519 AAAA\n", "* ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAABAAAAAA=\n"],
    ids=["missing", "of-another-kind", "damaged"],
)
def test_a_file_of_host_keys_that_cannot_be_used(
    make_link: MakeLink, sshd: Sshd, tmp_path: Path, text: str | None
) -> None:
    known = tmp_path / "known_hosts"
    if text:
        known.write_text(text)
    assert refused(make_link(sshd, known_hosts=known), "fabric").code == "known-hosts"


def test_a_rsa_host_key_and_a_hashed_line_are_fine(make_link: MakeLink, tmp_path: Path) -> None:
    sshd = Sshd(tmp_path / "sshd")
    sshd.host_key = make_key(tmp_path / "rsa_key", "rsa")
    with sshd:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(sshd.known_hosts)], check=True, capture_output=True)
        link = make_link(sshd)
        assert link.call("echo", {"echo": "x"}, timeout_s=10)["echo"] == "x"
        link.ensure_master()


# jump host


def test_a_jump_host_is_passed_by_both_stacks(make_link: MakeLink, sshd: Sshd, tmp_path: Path) -> None:
    with Sshd(tmp_path / "hop") as hop:
        public = Path(f"{sshd.identity}.pub").read_text()
        (hop.folder / "authorized_keys").write_text(public)
        known = tmp_path / "known hosts 100%"
        known.write_text(sshd.known_hosts.read_text() + hop.known_hosts.read_text())
        link = make_link(sshd, Bundle.of_package(), jump=f"127.0.0.1:{hop.port}", known_hosts=known)
        assert link.call("hello", {}, timeout_s=10)["ok"]
        ours, theirs = link.whoami_both()
        assert ours == theirs
        assert len(hop.sessions()) > 0
        link.close()
        assert processes_naming(str(tmp_path / "run")) == []


@BOTH
def test_the_host_key_of_the_jump_host_is_checked_too(
    make_link: MakeLink, sshd: Sshd, tmp_path: Path, stack: str
) -> None:
    with Sshd(tmp_path / "hop") as hop:
        (hop.folder / "authorized_keys").write_text(Path(f"{sshd.identity}.pub").read_text())
        error = refused(make_link(sshd, jump=f"127.0.0.1:{hop.port}"), stack)
    assert error.code == "jump"
    assert "the jump host did not connect us" in str(error)
    until(lambda: processes_naming(str(tmp_path / "run")) == [], "no ssh is left")


# what is left behind


def test_refused_connections_leave_no_socket_and_no_thread(make_link: MakeLink, sshd: Sshd, tmp_path: Path) -> None:
    link = make_link(sshd, identity=make_key(tmp_path / "stranger"))
    refused(link, "fabric")
    until(lambda: "Thread-" not in str([t.name for t in threading.enumerate()]), "threads of the first end")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(4):
        refused(link, "fabric")
    until(lambda: "Thread-" not in str([t.name for t in threading.enumerate()]), "no thread is left")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_kept_connection_is_opened_once_and_again_after_a_cut(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    link.ensure_master()
    first = processes_naming(str(tmp_path / "run")) or processes_naming(link.rsync_shell())
    link.ensure_master()
    assert processes_naming(link.rsync_shell()) == first
    assert len(first) == 1
    sshd.cut()
    until(lambda: processes_naming(link.rsync_shell()) == [], "ssh notices the cut")
    link.ensure_master()
    assert subprocess.run([*link.rsync_shell().split(), link.alias, "true"], check=False).returncode == 0


def test_close_leaves_no_process_and_no_file_and_may_be_repeated(link: Link, tmp_path: Path) -> None:
    link.call("echo", {}, timeout_s=10)
    link.ensure_master()
    config = Path(link.rsync_shell().split()[-1])
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    link.close()
    link.close()
    until(lambda: processes_naming(str(config)) == [], "the kept connection ends")
    assert not config.parent.exists()
    assert list((tmp_path / "run").iterdir()) == []
    assert [pid for pid in descendants(os.getpid()) if Path(f"/proc/{pid}/comm").read_text().strip() == "ssh"] == []


# settings


def test_leftovers_swept(make_link: MakeLink, sshd: Sshd, tmp_path: Path) -> None:
    """What a killed process left goes, what lives stays. The short name keeps the folder short enough for a socket."""
    living = make_link(sshd)
    before = set((tmp_path / "run").iterdir())
    script = f"""
import os, pathlib, signal
from ngxsync.edges.link.openssh import OpenSsh
from ngxsync.core.ssh import LinkSettings
from pathlib import PosixPath
kept = OpenSsh({sshd.settings()!r}, pathlib.Path({str(tmp_path / "run")!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(set((tmp_path / "run").iterdir()) - before) == 1
    make_link(sshd).close()
    assert set((tmp_path / "run").iterdir()) == before
    assert living.call("hello", {}, timeout_s=20)["ok"]
    living.ensure_master()


def test_leftovers_in_the_folder_for_long_names_are_swept_where_they_are_our_own(tmp_path: Path) -> None:
    runtime = tmp_path / ("long" * 30)
    script = f"""
import os, pathlib, signal
from ngxsync.edges.link.folder import PrivateFolder
print(PrivateFolder(pathlib.Path({str(runtime)!r})).path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    left = Path(done.stdout.strip())
    assert (left.parent, left.name.startswith("ngxsync-link-")) == (Path("/tmp"), True)
    foreign, loose = (Path(tempfile.mkdtemp(prefix="ngxsync-link-", dir="/tmp")) for _ in range(2))
    link = left.with_name(f"{left.name}-link")
    try:
        os.chown(foreign, 65534, 65534)
        loose.chmod(0o755)
        link.symlink_to(tmp_path)
        living = PrivateFolder(runtime)
        PrivateFolder(runtime).remove()
        assert [path.exists() for path in (left, foreign, loose, link, living.path)] == [False, True, True, True, True]
        living.remove()
        assert not living.path.exists()
    finally:
        link.unlink()
        foreign.rmdir()
        loose.rmdir()


def test_odd_names_on_the_peer_are_read_as_utf_8_by_every_python(link: Link) -> None:
    """Python 3.6 would take file names for ASCII in the C locale, and every é for a difference."""
    assert link.call("echo", {}, timeout_s=10)["locale"] == "C.UTF-8"


def test_settings_reach_openssh_as_they_are() -> None:
    odd = Path("/etc/a b/100%h/key")
    settings = LinkSettings("web2", "2001:db8::12", 2222, "deploy", odd, odd, "hop@[2001:db8::1]:22", 2.5)
    text = render_ssh_config(settings, Path("/run/x y/config"), Path("/run/x y/mux"))
    shown = subprocess.run(["ssh", "-G", "-F", "/dev/stdin", "peer"], input=text, capture_output=True, text=True)
    lines = shown.stdout.splitlines()
    assert shown.stderr == ""
    assert {"hostname 2001:db8::12", "port 2222", "user deploy", "connecttimeout 3", "batchmode yes"} <= set(lines)
    assert {"stricthostkeychecking true", "identitiesonly yes", "updatehostkeys false"} <= set(lines)
    assert "controlpath /run/x y/mux" in lines


@pytest.mark.parametrize(
    ("text", "parts"),
    [("hop", ("", "hop", 22)), ("a@hop:2222", ("a", "hop", 2222)), ("[2001:db8::1]:22", ("", "2001:db8::1", 22))],
)
def test_jump_hosts_are_read(text: str, parts: tuple[str, str, int]) -> None:
    assert parse_jump(text) == parts


@pytest.mark.parametrize("text", ["", "-oProxyCommand=x", "a b", "hop:0", "hop:70000", "2001:db8::1", "hop:ssh"])
def test_what_is_no_jump_host_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_jump(text)


@pytest.mark.parametrize("changed", [{"host": "-oProxyCommand=x"}, {"user": 'a"b'}, {"identity": Path('/a"b')}])
def test_settings_that_ssh_would_misread_are_refused(sshd: Sshd, tmp_path: Path, changed: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Link(sshd.settings(**changed), tmp_path / "run", BUNDLE)
    assert list((tmp_path / "run").iterdir()) == []


def test_the_bundle_holds_the_agent_and_its_hash_follows_every_byte() -> None:
    bundle = Bundle.of_package()
    assert {"__main__.py", "ngxsync_agent/__init__.py", "ngxsync_agent/manifest.py"} <= set(bundle.files)
    assert "ngxsync_agent/boot.py" not in bundle.files
    assert len(bundle.hash) == 16
    changed = {**bundle.files, "ngxsync_agent/manifest.py": bundle.files["ngxsync_agent/manifest.py"] + b"\n"}
    assert Bundle(changed).hash != bundle.hash

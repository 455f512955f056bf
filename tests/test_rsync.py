"""Transfers into a stage by a real rsync over a real sshd: odd names, and what each failure is called."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ngxsync.core.errors import NgxsyncError, PeerUnreachable, SourceChanged, TransferFailed
from ngxsync.edges.bundle import Bundle
from ngxsync.edges.link import Link
from ngxsync.edges.rsync import failure, rsync_argv, send
from tests.sshd import Sshd, descendants

ODD_NAMES = [
    "plain",
    "with space",
    "line\nbreak",
    "-dash",
    "--delete",
    "#hash",
    ";semicolon",
    "$(touch owned)",
    "*",
    "back\\slash",
    "quote'\"",
    "sub/- x/#y",
    "é",
    os.fsdecode(b"not-utf8-\xff"),
]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def link(sshd: Sshd, tmp_path: Path) -> Iterator[Link]:
    link = Link(sshd.settings(), tmp_path / "run", Bundle({}))
    link.ensure_master()
    yield link
    link.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "live tree"
    folder.mkdir()
    return folder


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    folder = tmp_path / "the 'stage' $x"
    folder.mkdir()
    return folder


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_exactly_the_named_files_arrive_whatever_they_are_called(link: Link, source: Path, stage: Path) -> None:
    for name in ODD_NAMES:
        write(source / name, os.fsencode(name))
    write(source / "sub/not planned")
    send(link.rsync_shell(), source, ODD_NAMES, f"{link.alias}:{stage}", timeout_s=30)
    assert below(stage) == set(ODD_NAMES)
    for name in ODD_NAMES:
        assert (stage / name).read_bytes() == os.fsencode(name)


def test_bytes_alone_arrive_the_plan_gives_the_rest(link: Link, source: Path, stage: Path) -> None:
    write(source / "setuid").chmod(0o4750)
    (source / "link").symlink_to("/no/where")
    write(source / "folder/inside")
    (source / "folder").chmod(0o500)
    try:
        send(link.rsync_shell(), source, ["setuid", "link", "folder/inside"], f"peer:{stage}", timeout_s=30)
    finally:
        (source / "folder").chmod(0o700)
    assert below(stage) == {"setuid", "folder/inside"}
    assert stat.S_IMODE((stage / "setuid").stat().st_mode) & 0o7000 == 0


def test_an_older_attempt_of_equal_size_and_time_is_sent_over(link: Link, source: Path, stage: Path) -> None:
    for path, content in ((source / "a", b"new"), (stage / "a", b"old")):
        os.utime(write(path, content), ns=(1, 1))
    send(link.rsync_shell(), source, ["a"], f"peer:{stage}", timeout_s=30)
    assert (stage / "a").read_bytes() == b"new"


def test_bytes_are_counted_and_progress_ends_with_all(link: Link, source: Path, stage: Path) -> None:
    write(source / "big", os.urandom(3_000_000))
    seen: list[tuple[int, int]] = []
    result = send(
        link.rsync_shell(),
        source,
        ["big"],
        f"peer:{stage}",
        timeout_s=30,
        progress=lambda done, share: seen.append((done, share)),
    )
    assert 3_000_000 < result.bytes_sent < 3_100_000
    assert seen[-1] == (3_000_000, 100)


@pytest.mark.parametrize("name", ["gone", "folder/gone", "file/below"])
def test_a_planned_file_that_is_gone_means_scan_again(link: Link, source: Path, stage: Path, name: str) -> None:
    write(source / "file")
    with pytest.raises(SourceChanged) as caught:
        send(link.rsync_shell(), source, ["file", name], f"peer:{stage}", timeout_s=30, where="root@web2")
    assert caught.value.code == "source-changed"
    assert str(caught.value).startswith("root@web2: some files did not arrive")
    assert "scanned again" in str(caught.value)


def test_a_missing_stage_is_no_change_of_the_source(link: Link, source: Path, tmp_path: Path) -> None:
    write(source / "file")
    with pytest.raises(TransferFailed) as caught:
        send(link.rsync_shell(), source, ["file"], f"peer:{tmp_path}/gone/stage", timeout_s=30)
    assert caught.value.code == "transfer"
    assert f"{tmp_path}/gone/stage" in str(caught.value)
    assert "the peer's live tree is unchanged" in str(caught.value)


def test_a_frozen_peer_ends_in_time_and_leaves_no_process(link: Link, sshd: Sshd, source: Path, stage: Path) -> None:
    write(source / "file")
    sshd.freeze()
    before = set(descendants(os.getpid()))
    started = time.monotonic()
    with pytest.raises(PeerUnreachable) as caught:
        send(link.rsync_shell(), source, ["file"], f"peer:{stage}", timeout_s=1)
    assert time.monotonic() - started < 20
    assert caught.value.code == "timeout"
    assert set(descendants(os.getpid())) - before <= set(all_of(sshd))
    sshd.cut()


def all_of(sshd: Sshd) -> list[int]:
    assert sshd._process
    return [sshd._process.pid, *sshd.sessions()]


def test_a_cut_connection_is_no_fault_of_the_files(link: Link, sshd: Sshd, source: Path, stage: Path) -> None:
    with (source / "big").open("wb") as big:
        big.truncate(4 << 30)
    with ThreadPoolExecutor(1) as pool:
        moving: list[int] = []
        result = pool.submit(
            send,
            link.rsync_shell(),
            source,
            ["big"],
            f"peer:{stage}",
            timeout_s=60,
            progress=lambda done, _: (moving.append(done), sshd.cut() if len(moving) == 1 else None)[0],
        )
        with pytest.raises(PeerUnreachable) as caught:
            result.result()
    assert moving
    assert caught.value.code == "unreachable"
    assert not (stage / "big").exists()


def test_an_unknown_host_key_stops_rsync_too(sshd: Sshd, source: Path, stage: Path, tmp_path: Path) -> None:
    write(source / "file")
    (tmp_path / "known").touch()
    link = Link(sshd.settings(known_hosts=tmp_path / "known"), tmp_path / "other", Bundle({}))
    with pytest.raises(PeerUnreachable) as caught:
        send(link.rsync_shell(), source, ["file"], f"peer:{stage}", timeout_s=30)
    link.close()
    assert "Host key verification failed" in str(caught.value)
    assert below(stage) == set()


def test_a_noisy_login_shell_is_named(source: Path, stage: Path, tmp_path: Path) -> None:
    write(source / "file")
    noise = 'ForceCommand echo welcome to web2; eval "$SSH_ORIGINAL_COMMAND"'
    with Sshd(tmp_path / "noisy", extra=noise) as sshd:
        link = Link(sshd.settings(), tmp_path / "other", Bundle({}))
        with pytest.raises(TransferFailed) as caught:
            send(link.rsync_shell(), source, ["file"], f"peer:{stage}", timeout_s=30)
        link.close()
    assert caught.value.code == "noisy-shell"
    assert ".bashrc" in str(caught.value)


def test_a_peer_without_rsync_is_named(source: Path, stage: Path, tmp_path: Path) -> None:
    write(source / "file")
    with Sshd(tmp_path / "bare", environment="PATH=/nonexistent") as sshd:
        link = Link(sshd.settings(), tmp_path / "other", Bundle({}))
        with pytest.raises(TransferFailed) as caught:
            send(link.rsync_shell(), source, ["file"], f"peer:{stage}", timeout_s=30)
        link.close()
    assert caught.value.code == "no-rsync"
    assert "install rsync" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "complaint", "kind", "code"),
    [
        (11, "rsync: [receiver] write failed: No space left on device (28)", TransferFailed, "no-room"),
        (12, "rsync: [receiver] mkstemp failed: Read-only file system (30)", TransferFailed, "no-room"),
        (23, "rsync: [sender] send_files failed to open x: Permission denied (13)", TransferFailed, "transfer"),
        (23, "rsync: [receiver] mkstemp x failed: No such file or directory (2)", TransferFailed, "transfer"),
        (23, "rsync: [sender] link_stat x failed: No such file or directory (2)", SourceChanged, "source-changed"),
        (23, "rsync: [sender] read errors mapping x: No data available (61)", SourceChanged, "source-changed"),
        (24, "file has vanished: x", SourceChanged, "source-changed"),
        (12, "rsync: connection unexpectedly closed", PeerUnreachable, "unreachable"),
        (30, "io timeout after 30 seconds", PeerUnreachable, "unreachable"),
        (255, "client_loop: send disconnect: Broken pipe", PeerUnreachable, "unreachable"),
        (1, "rsync: --mkpath: unknown option", TransferFailed, "transfer"),
        (99, "", TransferFailed, "transfer"),
    ],
)
def test_each_way_to_fail_has_its_name(status: int, complaint: str, kind: type[NgxsyncError], code: str) -> None:
    error = failure(status, complaint, "root@web2")
    assert type(error) is kind
    assert error.code == code
    assert error.message.where == "root@web2"
    assert error.message.state
    assert error.message.next
    assert complaint in str(error)


def test_what_the_peer_wrote_cannot_steer_the_terminal() -> None:
    text = str(failure(23, "rsync: \x1b]0;owned\x07\x9b2J bad \u202e name", "root@web2"))
    assert all(char.isprintable() or char == "\n" for char in text)


def test_the_live_tree_and_the_deletions_are_none_of_rsyncs_business() -> None:
    argv = rsync_argv(Path("/usr/local/nginx"), "peer:/stage", "ssh -F x")
    assert not [word for word in argv if "delete" in word or "inplace" in word or "ignore-errors" in word]
    assert not [word for word in argv if word in ("--links", "--owner", "--group", "--perms", "--times", "--devices")]
    shown = subprocess.run([*argv[:-3], "--version"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr

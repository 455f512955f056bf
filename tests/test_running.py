"""Running drift: whether nginx has read what is on its disk, on a real nginx, and what its log says by time."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent import errorlog
from ngxsync.agent.asread import AsRead, Reading
from ngxsync.agent.running import last_refusal
from ngxsync.core.answers import RUNNING
from ngxsync.core.shapes import misfit
from tests.agent import STATE, Agent
from tests.hosts import Host, wait_until
from tests.pair import ROOT, Pair

VHOST = f"{ROOT}/conf/vhosts/default.conf"


@pytest.fixture
def host(pair: Pair) -> Host:
    """Its workers are older than what a test then edits, by more than the clocks' ticks."""
    begun = time.time()
    wait_until(lambda: time.time() > begun + 0.05, "a moment later")
    return pair.web2


def look(host: Host) -> dict[str, Any]:
    found = dict(Agent(host).call("facts", users=[], groups=[])["running"])
    assert misfit(found, RUNNING) == ""
    return found


def reload(host: Host) -> None:
    """Until the workers of before are told to go, and others serve."""
    before = set(host.nginx_workers())
    main = host.nginx_main()
    assert main
    host.run(["kill", "-HUP", str(main)])
    wait_until(lambda: (now := set(host.nginx_workers())) and not now & before, "other workers serve")


def touch(host: Host, path: str = VHOST) -> None:
    with host.path(path).open("a") as stream:
        stream.write("# edited\n")


def test_edited_right_after_a_reload(host: Host) -> None:
    """Two tenths of a second are told apart; and an edit right before a reload is none."""
    touch(host)
    reload(host)
    found = look(host)
    assert found["state"] == "running", found
    wait_until(lambda: time.time() > found["loaded"] + 0.1, "a tenth of a second later")
    touch(host)
    stale = look(host)
    assert (stale["state"], stale["file"], stale["refused"], stale["needs_restart"]) == ("stale", VHOST, "", False)
    assert stale["changed"] - found["loaded"] > 0
    assert abs(stale["loaded"] - found["loaded"]) < 0.02
    reload(host)
    assert look(host)["state"] == "running"


def test_a_link_that_leads_to_another_old_file(host: Host) -> None:
    """sites-enabled: neither the file nor its directory is young, the link is; and so where a folder is a link."""
    host.run(["sh", "-c", f"cd {ROOT}/conf && mv vhosts v1 && cp -a v1 v2 && ln -s v1 vhosts && mkdir enabled"])
    conf = host.path(f"{ROOT}/conf/nginx.conf")
    conf.write_text(conf.read_text().replace("vhosts/*.conf;", "vhosts/*.conf; include enabled/*;"))
    host.path(f"{ROOT}/conf/map.inc").write_text("map $uri $old { default 1; }\n")
    reload(host)
    assert look(host)["state"] == "running"
    host.run(["ln", "-sfn", "v2", f"{ROOT}/conf/vhosts"])
    assert look(host)["file"] == VHOST
    reload(host)
    assert look(host)["state"] == "running"
    host.run(["ln", "-s", "../map.inc", f"{ROOT}/conf/enabled/map.inc"])
    assert look(host)["file"] == f"{ROOT}/conf/enabled/map.inc"


def test_a_refused_reload_is_told_in_nginx_s_own_words(host: Host) -> None:
    taken = host.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("0.0.0.0", 8080))
    taken.listen()
    with taken:
        vhost = host.path(VHOST)
        vhost.write_text(vhost.read_text().replace("listen 80 ", "listen 8080; listen 80 "))
        host.run(["kill", "-HUP", str(host.nginx_main())])
        wait_until(lambda: "still could not bind" in host.error_log(), "nginx gives up")
        found = look(host)
        assert (found["state"], found["file"]) == ("stale", VHOST)
        assert found["refused"] == "bind() to 0.0.0.0:8080 failed (98: Address already in use)"


@pytest.mark.parametrize("how", ["renamed over", "moved away", "deleted"])
def test_a_replaced_binary(host: Host, how: str) -> None:
    host.stop_nginx()
    program = host.path("/srv/nginx")
    shutil.copy2("/usr/sbin/nginx", program)
    host.run(["/srv/nginx", "-p", ROOT, "-c", "conf/nginx.conf"])
    wait_until(lambda: len(host.nginx_workers()) == 2, "its workers run")
    found = look(host)
    assert found["state"] == "running", found
    if how != "deleted":
        shutil.copy2("/usr/sbin/nginx", host.path("/srv/new"))
        if how == "moved away":
            program.rename(host.path("/srv/nginx.old"))
        host.path("/srv/new").rename(program)
    else:
        program.unlink()
    found = look(host)
    assert (found["state"], found["file"], found["binary_replaced"]) == ("stale", "/srv/nginx", True), found
    assert "restart" in found["why"]
    assert found["start"].startswith("/srv/nginx -p")
    reload(host)
    assert look(host)["state"] == "stale", "a reload does not run it"


@pytest.mark.parametrize("level", ["notice", "error"])
def test_workers_that_died_hide_nothing(host: Host, level: str) -> None:
    conf = host.path(f"{ROOT}/conf/nginx.conf")
    conf.write_text(conf.read_text().replace("processes 2", "processes 1").replace(" notice;", f" {level};"))
    host.stop_nginx()
    host.start_nginx()
    loaded = wait_until(lambda: host.nginx_workers() and look(host), "it serves")["loaded"]
    touch(host)
    (worker,) = host.nginx_workers()
    host.run(["kill", "-KILL", str(worker)])
    wait_until(lambda: host.nginx_workers() not in ([], [worker]), "it is born again")
    found = look(host)
    assert (found["state"], found["file"]) == ("stale", VHOST), found
    assert (found["why"] == "", found["loaded"] <= loaded + 0.02) == (False, True), found


def test_one_of_two_workers_died(host: Host) -> None:
    loaded = look(host)["loaded"]
    touch(host)
    host.run(["kill", "-KILL", str(host.nginx_workers()[0])])
    wait_until(lambda: len(host.nginx_workers()) == 2, "it is born again")
    found = look(host)
    assert (found["state"], found["why"]) == ("stale", "")
    assert abs(found["loaded"] - loaded) < 0.02


def test_workers_that_are_shutting_down_are_counted(host: Host) -> None:
    assert look(host)["draining"] == 0
    with host.socket() as connection:
        connection.connect(("127.0.0.1", 80))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Half:")
        wait_until(lambda: b"" if "client" in host.error_log() else b"x", "the request is being read")
        reload(host)
        found = wait_until(lambda: (now := look(host))["draining"] == 1 and now, "one goes on with its request")
        assert found["state"] == "running"
        assert abs(found["draining_since"] - found["loaded"]) < 1
    wait_until(lambda: look(host)["draining"] == 0, "the request has ended")
    assert look(host)["draining_since"] is None


def test_down_and_unknown(host: Host) -> None:
    host.stop_nginx()
    found = look(host)
    assert found["state"] == "down"
    assert found["start"].endswith(f"-p {ROOT} -c {ROOT}/conf/nginx.conf")


# the log by time


def stamp(at: float) -> str:
    return time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(at))


LEVELS = ("error", "emerg", "alert", "notice")


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(LEVELS)), max_size=30),
    ago=st.integers(0, 40),
    length=st.none() | st.integers(0, 10),
    block=st.integers(20, 200),
    cut=st.integers(0, 30),
)
def test_entries_since_finds_what_a_whole_reading_finds(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, str]],
    ago: int,
    length: int | None,
    block: int,
    cut: int,
) -> None:
    """However long the blocks are that are read, wherever the log was rotated, and whether it is read to its end."""
    folder, start = tmp_path_factory.mktemp("log"), 1_790_000_000
    lines, at = [], start
    for number, (later, level) in enumerate(steps):
        at += later
        lines.append((at, level, f"text {number}"))
    texts = [f"{stamp(at)} [{level}] 7#7: {text}\n" for at, level, text in lines]
    write_log(folder / "error.log.1", texts[:cut], lines[:cut][-1][0] if lines[:cut] else start)
    write_log(folder / "error.log", texts[cut:], at)
    since = start + ago + 0.5
    until = None if length is None else since + length
    serious = [(at, text) for at, level, text in lines if level in ("emerg", "alert")]
    wanted = [text for at, text in serious if int(since) <= at and (until is None or at <= until)]
    before, errorlog.BLOCK = errorlog.BLOCK, block
    try:
        found = errorlog.entries_since([str(folder / "error.log")], since, ("emerg", "alert"), until)
    finally:
        errorlog.BLOCK = before
    assert [entry.text for entry in found] == wanted


def write_log(file: Path, lines: list[str], at: float) -> None:
    file.write_text("".join(lines))
    os.utime(file, (at, at))


def test_the_last_refusal() -> None:
    def entry(text: str) -> errorlog.Entry:
        return errorlog.Entry(0.0, "emerg", 7, text, "/log")

    assert last_refusal([]) == ""
    assert last_refusal([entry("bind() failed"), entry("still could not bind()")]) == "bind() failed"


def test_what_holds_the_same_again_is_nothing_new_to_nginx(host: Host) -> None:
    """From the first look after a reload on; before it, and in another place than ngxsync's own, times alone tell."""
    before = host.path(VHOST).read_text()
    host.path(VHOST).write_text(before)
    assert look(host)["state"] == "stale"
    host.run(["install", "-d", "-m", "0700", f"{STATE}/peer"])
    reload(host)
    assert look(host)["state"] == "running"
    kept = host.path(f"{STATE}/peer/asread.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    wait_until(lambda: time.time() > kept.stat().st_mtime + 0.05, "a moment later")

    host.path(VHOST).write_text(before)  # touched
    assert look(host)["state"] == "running"
    touch(host)
    assert look(host)["file"] == VHOST
    host.path(VHOST).write_text(before)  # and back
    assert look(host)["state"] == "running"
    added = f"{ROOT}/conf/vhosts/added.conf"
    host.path(added).write_text("server { listen 82; }\n")
    assert look(host)["file"] == added
    host.path(added).unlink()
    assert look(host)["state"] == "running"

    touch(host)
    reload(host)
    assert look(host)["state"] == "running"
    host.path(VHOST).write_text(before)  # as it was before that reload: nginx runs the other
    wait_until(lambda: look(host)["state"] == "stale", "it is not what nginx read last")


def test_a_file_that_is_gone_is_still_served(host: Host) -> None:
    host.run(["install", "-d", "-m", "0700", f"{STATE}/peer"])
    extra = f"{ROOT}/conf/vhosts/extra.conf"
    host.path(extra).write_text("server { listen 81; }\n")
    reload(host)
    assert look(host)["state"] == "running"
    host.path(extra).unlink()
    found = look(host)
    assert (found["state"], found["file"]) == ("stale", extra)
    assert found["why"] == f"{extra} is gone since nginx read it"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"reading": [1, 2, 3]}', '{"reading": null, "files": []}'])
def test_a_damaged_note_of_what_it_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "asread.json").write_text(text)
    (tmp_path / "file").write_text("x")
    as_read = AsRead(str(tmp_path), Reading(1, 2, 3.0))
    assert as_read.files is None
    as_read.keep([str(tmp_path / "file"), str(tmp_path / "none")], time.time() + 1)
    again = AsRead(str(tmp_path), Reading(1, 2, 3.0))
    assert again.is_as_read(str(tmp_path / "file"))
    assert not again.is_as_read(str(tmp_path / "none"))
    assert AsRead(str(tmp_path), Reading(1, 2, 3.5)).files is None
    assert AsRead("", Reading(1, 2, 3.0)).files is None

"""The commands on a real pair: every exit status by a real cause, with the text that a person sees."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import PROJECT, Host, wait_until
from tests.pair import ROOT, Pair, manifest_of, write_tree
from tests.terminal import Terminal

VHOST = "server {\n    listen 8081;\n    server_name one.test;\n    return 200 one;\n}\n"
KEY = "-----BEGIN PRIVATE KEY-----\nTOPSECRET\n-----END PRIVATE KEY-----\n"
RUN_KEYS = [
    *("schema", "command", "run", "outcome", "code", "exit", "peers"),
    *("trigger", "snapshot", "started", "duration_s", "problems", "message"),
]
PEER_KEYS = [
    *("name", "outcome", "code", "exit", "snapshot", "accepted", "changes", "reload", "bytes_sent"),
    *("timings", "warnings", "problems", "message", "run"),
]


def write(host: Host, name: str, text: str) -> Path:
    file = host.path(f"{ROOT}/{name}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def first_sync(pair: Pair) -> None:
    done = pair.ngxsync("sync", "--yes")
    assert done.returncode == 0, done.stderr


def said(done: subprocess.CompletedProcess[str], status: int) -> str:
    """What a failure said, on standard error alone."""
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout == ""
    return done.stderr


# 0 and 1


def test_a_sync_tells_what_it_did(pair: Pair) -> None:
    first_sync(pair)
    write(pair.web1, "conf/vhosts/one.conf", VHOST)
    done = pair.ngxsync("sync")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run 00000002-")
    assert " sync: applied, " in done.stdout
    assert "\n  web2  applied, 1 change (1 created), " in done.stdout
    assert " sent, reloaded, accepted " in done.stdout
    assert manifest_of(pair.web1) == manifest_of(pair.web2)
    assert pair.web2.get("/", port=8081) == (200, "one")


def test_a_dry_run_shows_the_plan_and_changes_nothing(pair: Pair) -> None:
    write(pair.web2, "html/theirs.html", "old\n")
    write(pair.web1, "html/new.html", "new\n")
    before = manifest_of(pair.web2)
    done = pair.ngxsync("sync", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "web2: 2 changes (1 created, 1 deleted)\n  would be deleted:\n"
        f"    - {ROOT}/html/theirs.html  deleted (first-contact)\n"
        f"  would be created or changed:\n    + {ROOT}/html/new.html  created\n"
    )
    assert done.stdout.endswith("\nnothing was changed: a dry run\n")
    assert manifest_of(pair.web2) == before
    assert pair.ngxsync("history").stdout == "no runs yet\n"
    assert list(pair.web2.path("/var/lib/ngxsync").iterdir()) == []


def test_1_nginx_does_not_run_there(pair: Pair) -> None:
    pair.web2.stop_nginx()
    write(pair.web1, "html/new.html", "new\n")
    text = said(pair.ngxsync("sync", "--yes"), 1)
    assert "  web2  not-proven" in text
    assert "applied, but nginx does not run there" in text
    assert "next: start nginx on web2" in text


# 3


def test_3_the_configuration_here_is_broken(pair: Pair) -> None:
    first_sync(pair)
    write(pair.web1, "conf/vhosts/one.conf", "server { listn 8081; }\n")
    before = manifest_of(pair.web2)
    problem = f'{ROOT}/conf/vhosts/one.conf:1: unknown directive "listn"; did you mean "listen"?'
    text = said(pair.ngxsync("sync"), 3)
    assert " sync: refused (master-invalid), " in text
    assert f"  {problem}\n  nginx on web1 does not accept its configuration\n    now: no peer was changed\n" in text
    assert manifest_of(pair.web2) == before
    checked = said(pair.ngxsync("validate"), 3)
    assert checked.startswith(f"{problem}\nnginx on web1 does not accept")
    assert "  decided by: /usr/sbin/nginx -t (" in checked
    status = pair.ngxsync("status", "--exit-code")
    assert (status.returncode, problem in status.stdout) == (3, True)


def test_validate_accepts_and_shows_warnings(pair: Pair) -> None:
    done = pair.ngxsync("validate")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{ROOT}/conf/nginx.conf: accepted\n  decided by: /usr/sbin/nginx -t (")
    write(pair.web1, "conf/vhosts/a.conf", VHOST)
    write(pair.web1, "conf/vhosts/b.conf", VHOST)
    warned = pair.ngxsync("validate")
    assert warned.returncode == 0
    assert 'warning: conflicting server name "one.test" on 0.0.0.0:8081, ignored\n' in warned.stdout
    answer = json.loads(pair.ngxsync("validate", "--json").stdout)
    assert (answer["outcome"], answer["exit"], answer["decided_by"]) == ("valid", 0, "nginx")
    assert [problem["level"] for problem in answer["problems"]] == ["warning"]


# 4


def test_4_the_key_does_not_let_us_in(pair: Pair) -> None:
    pair.web2.path("/root/.ssh/authorized_keys").write_text("")
    text = said(pair.ngxsync("sync"), 4)
    assert "web2 does not let root in with the key /etc/ngxsync/id_ed25519" in text
    assert "now: web2 unchanged, nothing was sent" in text
    assert "add /etc/ngxsync/id_ed25519.pub to the authorized_keys of root on web2" in text
    assert "-> web2: unreachable since " in pair.ngxsync("status").stdout
    assert said(pair.ngxsync("diff"), 4).count("does not let root in") == 1


def test_4_the_host_key_is_not_known(pair: Pair) -> None:
    pair.web1.path("/etc/ngxsync/known_hosts").write_text("")
    text = said(pair.ngxsync("sync"), 4)
    assert "the host key of web2 is not known: /etc/ngxsync/known_hosts has no line for 192.0.2.2" in text
    assert "ssh-keyscan -p 22 192.0.2.2 >> /etc/ngxsync/known_hosts" in text


def test_4_the_peer_is_down(pair: Pair) -> None:
    pair.web2.run(["kill", str(pair.web2.sshd_pid())])
    wait_until(lambda: not pair.web2.sshd_pid(), "sshd ended")
    text = said(pair.ngxsync("sync"), 4)
    assert "root@192.0.2.2:22: no sshd listens there" in text
    assert "next: start sshd on web2, or correct host and port" in text


# 5 and 6


def test_5_the_peer_refuses(pair: Pair) -> None:
    first_sync(pair)
    pair.web1.path("/etc/ngxsync/only-here.conf").write_text("return 200 here;\n")
    write(
        pair.web1, "conf/vhosts/one.conf", "server {\n    listen 8081;\n    include /etc/ngxsync/only-here.conf;\n}\n"
    )
    before = manifest_of(pair.web2)
    text = said(pair.ngxsync("sync"), 5)
    assert "  web2  refused" in text
    assert (
        f'{ROOT}/conf/vhosts/one.conf:3: open() "/etc/ngxsync/only-here.conf" failed (2: No such file or directory)'
        in text
    )
    assert "now: web2 unchanged" in text
    assert manifest_of(pair.web2) == before
    assert pair.ngxsync("status", "--exit-code").returncode == 5


def test_5_without_a_view_it_says_that_it_was_put_back(pair: Pair) -> None:
    pair.write_config(peer="rehearse = live")
    first_sync(pair)
    pair.web1.path("/etc/ngxsync/only-here.conf").write_text("return 200 here;\n")
    write(pair.web1, "conf/vhosts/one.conf", "server { listen 8081; include /etc/ngxsync/only-here.conf; }\n")
    before = manifest_of(pair.web2)
    text = said(pair.ngxsync("sync"), 5)
    assert f"nginx on web2 refused it after it was applied: {ROOT}/conf/vhosts/one.conf:1: open()" in text
    assert "now: web2 runs what it ran before, its old files are back" in text
    assert manifest_of(pair.web2) == before


def test_6_the_port_is_taken_there(pair: Pair) -> None:
    first_sync(pair)
    before = manifest_of(pair.web2)
    write(pair.web1, "conf/vhosts/one.conf", VHOST)
    with pair.web2.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("0.0.0.0", 8081))
        holder.listen()
        text = said(pair.ngxsync("sync"), 6)
    assert "  web2  undone" in text
    assert "bind() to 0.0.0.0:8081 failed (98: Address already in use)" in text
    assert "now: web2 runs what it ran before, its old files are back" in text
    assert manifest_of(pair.web2) == before
    assert pair.ngxsync("status", "--exit-code").returncode == 6
    again = pair.ngxsync("sync")  # by a person: quarantine or not
    assert again.returncode == 0, again.stderr


# 8


def test_8_paused(pair: Pair) -> None:
    first_sync(pair)
    write(pair.web1, "html/new.html", "new\n")
    pair.ngxsync("pause", "--for", "1h", "web2 is worked on", env={"SUDO_USER": "anna"})
    text = said(pair.ngxsync("sync"), 8)
    assert (
        "web2: paused by anna: web2 is worked on\n      now: web2 unchanged\n      next: `ngxsync resume` ends it"
        in text
    )
    assert pair.ngxsync("diff", "--stat").returncode == 1, "looking is not paused"
    forced = pair.ngxsync("sync", "--force", "paused")
    assert (forced.returncode, "web2  applied" in forced.stdout) == (0, True)


def test_8_a_guard_and_its_override(pair: Pair) -> None:
    first_sync(pair)
    write(pair.web2, "html/index.html", "edited on web2\n")
    pair.write_config(sync="on_drift = hold")
    text = said(pair.ngxsync("sync"), 8)
    assert "  web2  held (drift)" in text
    assert "ngxsync sync --force drift" in text
    assert pair.ngxsync("sync", "--force", "drift").returncode == 0
    assert pair.web2.path(f"{ROOT}/html/index.html").read_text() == "<h1>It works</h1>\n"


def test_8_a_first_sync_that_deletes_asks_and_nobody_is_there(pair: Pair) -> None:
    write(pair.web2, "html/theirs.html", "old\n")
    before = manifest_of(pair.web2)
    text = said(pair.ngxsync("sync"), 8)
    assert f"  would be deleted:\n    - {ROOT}/html/theirs.html  deleted (first-contact)\n" in text
    assert "awaiting-first-sync (first-contact)" in text
    assert "nobody said yes" in text
    assert "now: web2 unchanged" in text
    assert manifest_of(pair.web2) == before
    assert list(pair.web2.path("/var/lib/ngxsync").iterdir()) == []  # not even the agent
    assert pair.ngxsync("sync", "--yes").returncode == 0
    assert manifest_of(pair.web1) == manifest_of(pair.web2)


def test_a_later_ngxsync_brings_its_agent_also_where_there_is_nothing_to_apply(pair: Pair) -> None:
    first_sync(pair)
    agents = pair.web2.path("/var/lib/ngxsync/agent")
    assert (agents / "current" / "__main__.py").is_file()
    shutil.rmtree(agents)
    assert pair.ngxsync("sync").returncode == 0
    assert (agents / "current" / "__main__.py").is_file()


def test_8_answered_no_and_0_answered_yes(pair: Pair) -> None:
    write(pair.web2, "html/theirs.html", "old\n")
    before = manifest_of(pair.web2)
    with Terminal(pair, "sync") as terminal:
        terminal.wait_for("Make web2 like this host, keeping there what is replaced? [y/N]: ")
        assert f"- {ROOT}/html/theirs.html  deleted" in terminal.shown
        terminal.type("n\n")
        assert terminal.end() == 8, terminal.shown
    assert manifest_of(pair.web2) == before
    with Terminal(pair, "sync") as terminal:
        terminal.wait_for("[y/N]: ")
        terminal.type("\x04")  # Ctrl-D: the end of input
        assert terminal.end() == 8, terminal.shown
    with Terminal(pair, "sync") as terminal:
        terminal.wait_for("[y/N]: ")
        terminal.type("y\n")
        assert terminal.end() == 0, terminal.shown
    assert manifest_of(pair.web1) == manifest_of(pair.web2)


def test_7_what_another_run_leaves_there_meanwhile_cannot_be_put_right(pair: Pair) -> None:
    """Between comparison and stage, while a person thinks."""
    write(pair.web2, "html/theirs.html", "old\n")
    with Terminal(pair, "sync") as terminal:
        terminal.wait_for("[y/N]: ")
        journal = pair.web2.path("/var/lib/ngxsync/peer/journal")
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.write_text("damaged\n")
        terminal.type("y\n")
        assert terminal.end() == 7, terminal.shown
    assert "  web2  broken" in terminal.shown
    assert "the journal of an interrupted run cannot be read" in terminal.shown
    assert pair.ngxsync("status", "--exit-code").returncode == 7


# 9 and 130


def test_9_another_run_has_the_lock(pair: Pair) -> None:
    write(pair.web2, "html/theirs.html", "old\n")
    with Terminal(pair, "sync") as terminal:
        terminal.wait_for("[y/N]: ")
        text = said(pair.ngxsync("sync", "--wait", "1s", "--yes"), 9)
        assert "another run is at work: lock of process " in text
        assert "run 00000001-" in text
        assert "now: nothing changed" in text
        answer = json.loads(pair.ngxsync("sync", "--wait", "0s", "--json").stdout)
        assert (answer["exit"], answer["code"]) == (9, "locked")
        assert "-> web2: unknown\n" in pair.ngxsync("status").stdout, "the lock says nothing about web2"
        terminal.type("n\n")
        assert terminal.end() == 8


def test_a_run_that_fails_here_leaves_the_memory_to_the_run_that_has_the_lock(pair: Pair) -> None:
    write(pair.web2, "html/theirs.html", "old\n")
    with Terminal(pair, "sync") as terminal:
        terminal.wait_for("[y/N]: ")
        good = pair.web1.path(f"{ROOT}/conf/nginx.conf").read_text()
        write(pair.web1, "conf/nginx.conf", "broken\n")
        said(pair.ngxsync("sync"), 3)
        assert "-> web2: unknown\n" in pair.ngxsync("status").stdout
        write(pair.web1, "conf/nginx.conf", good)
        terminal.type("n\n")
        assert terminal.end() == 8
    assert "-> web2: awaiting-first-sync since " in pair.ngxsync("status").stdout


def test_a_full_disk_is_told_and_no_bug(pair: Pair) -> None:
    first_sync(pair)
    pair.web1.run(["mount", "-t", "tmpfs", "-o", "size=4k,mode=700", "none", "/var/lib/ngxsync/master"])
    try:
        pair.web1.run(["sh", "-c", "dd if=/dev/zero of=/var/lib/ngxsync/master/fill bs=4k count=9 2>&1 || true"])
        text = said(pair.ngxsync("sync"), 2)
        assert "the disk is full" in text
        assert "next: make room there" in text
        assert pair.ngxsync("diff").returncode == 0  # it only reads
    finally:
        pair.web1.unmount("/var/lib/ngxsync/master")


def test_130_ctrl_c_before_anything_changed(pair: Pair) -> None:
    write(pair.web2, "html/theirs.html", "old\n")
    before = manifest_of(pair.web2)
    with Terminal(pair, "sync") as asked:
        asked.wait_for("[y/N]: ")
        with Terminal(pair, "sync") as waiting:  # for the first one's lock, a minute long
            locks = pair.web1.path("/var/lib/ngxsync/master/sequence")
            wait_until(lambda: locks.read_text() == "2", "the second run has its number")
            waiting.interrupt()
            assert waiting.end(timeout_s=30) == 130
        asked.interrupt()
        assert asked.end(timeout_s=30) == 130
        assert "ngxsync: interrupted\n  now: nothing changed\n" in asked.shown
    assert manifest_of(pair.web2) == before
    assert pair.ngxsync("history").stdout == "no runs yet\n"
    assert "-> web2: unknown\n" in pair.ngxsync("status").stdout


def test_ctrl_c_later_waits_for_the_peers_answer(pair: Pair) -> None:
    first_sync(pair)
    slow = f"/bin/sh -c 'touch /run/reloading; sleep 4; kill -HUP $(cat {ROOT}/logs/nginx.pid)'"
    pair.write_config(nginx=f"reload = {slow}")
    write(pair.web1, "conf/vhosts/one.conf", VHOST)
    with Terminal(pair, "sync") as terminal:
        wait_until(pair.web2.path("/run/reloading").exists, "web2 reloads")
        terminal.interrupt()
        terminal.wait_for("interrupted: waiting for web2's answer, which is safe to wait for")
        assert terminal.end() == 0, terminal.shown
    assert "web2  applied, 1 change (1 created)" in terminal.shown
    assert pair.web2.get("/", port=8081) == (200, "one")
    assert ": applied" in pair.ngxsync("history", "--limit", "1").stdout


def test_progress_is_for_terminals(pair: Pair) -> None:
    first_sync(pair)
    write(pair.web1, "conf/vhosts/one.conf", VHOST)
    with Terminal(pair, "sync") as terminal:
        terminal.wait_for("web2: testing, applying, proving")
        assert terminal.end() == 0
    write(pair.web1, "conf/vhosts/two.conf", VHOST.replace("8081", "8082"))
    done = pair.ngxsync("sync", env={"TERM": "xterm", "FORCE_COLOR": "1"})
    assert (done.stderr, "\x1b" in done.stdout) == ("", False)


# JSON


def test_the_keys_of_a_run(pair: Pair) -> None:
    write(pair.web1, "conf/vhosts/one.conf", VHOST)
    for arguments, outcome, status in (
        (["diff"], "pending", 1),
        (["sync", "--dry-run"], "pending", 0),
        (["sync"], "applied", 0),
    ):
        done = pair.ngxsync(*arguments, "--json")
        answer = json.loads(done.stdout)
        assert list(answer) == RUN_KEYS
        (peer,) = answer["peers"]
        assert list(peer) == PEER_KEYS + (["stat", "meaning"] if arguments == ["diff"] else [])
        assert (answer["schema"], answer["command"], answer["outcome"]) == (1, arguments[0], outcome)
        assert (done.returncode, answer["exit"], done.stderr, done.stdout.count("\n")) == (status, status, "", 1)
        assert peer["changes"] == [{"path": f"{ROOT}/conf/vhosts/one.conf", "kind": "created", "cause": "pending"}]


def test_a_failed_run_has_the_same_keys(pair: Pair) -> None:
    write(pair.web1, "conf/nginx.conf", "broken\n")
    done = pair.ngxsync("sync", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, list(answer), answer["code"]) == (3, RUN_KEYS, "master-invalid")
    assert answer["problems"][0]["file"] == f"{ROOT}/conf/nginx.conf"


# diff


def test_diff_of_equal_hosts(pair: Pair) -> None:
    done = pair.ngxsync("diff")
    assert (done.returncode, done.stdout, done.stderr) == (0, "web1 -> web2: no changes\n", "")
    assert list(pair.web2.path("/var/lib/ngxsync").iterdir()) == [], "nothing is installed for a diff"


def test_diff_of_a_path_that_nobody_has_says_so(pair: Pair) -> None:
    """A typo, or what is never sent, must not look equal; a file of the peer alone and a folder are there."""
    write(pair.web2, "html/theirs.html", "new\n")
    for path in ("conf/ngnix.conf", "logs/error.log"):
        done = pair.ngxsync("diff", f"{ROOT}/{path}")
        note = f"note: {ROOT}/{path}: neither web1 nor web2 has it, or it is left out of every sync\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, "web1 -> web2: no changes\n", note)
    for path in ("conf", "html/theirs.html", ".."):
        assert pair.ngxsync("diff", f"{ROOT}/{path}").stderr == ""


def test_diff_sees_other_bytes_of_equal_size_and_time(pair: Pair) -> None:
    first_sync(pair)
    file = write(pair.web2, "html/index.html", "<h1>It worts</h1>\n")
    stamp = pair.web1.path(f"{ROOT}/html/index.html").stat().st_mtime_ns
    os.utime(file, ns=(stamp, stamp))
    done = pair.ngxsync("diff")
    assert done.returncode == 1
    assert done.stdout == (
        f"web1 -> web2: 1 change (1 content): 1 drift\n~ {ROOT}/html/index.html  content (drift)\n"
        f"diff --git a{ROOT}/html/index.html b{ROOT}/html/index.html\n"
        f"--- a{ROOT}/html/index.html\n+++ b{ROOT}/html/index.html\n@@ -1 +1 @@\n-<h1>It worts</h1>\n+<h1>It works</h1>\n"
    )


def make_many_differences(pair: Pair) -> None:
    write(pair.web1, "conf/vhosts/one.conf", VHOST)
    write(pair.web1, "conf/vhosts/default.conf", "server { listen 80; }")  # no newline at its end
    write(pair.web1, "html/we\nird \x1b[31m näme.html", "odd\n")
    write(pair.web1, "html/empty.html", "")
    write(pair.web2, "html/gone.html", "gone\n")
    pair.web1.path(f"{ROOT}/html/latin").write_bytes(b"caf\xe9\n")


def test_patch_takes_what_diff_says(pair: Pair, tmp_path: Path) -> None:
    make_many_differences(pair)
    done = pair.ngxsync("diff", text=False)
    assert done.returncode == 1
    subprocess.run(["cp", "-a", f"{pair.web2.path(ROOT)}/.", str(tmp_path)], check=True)
    strip = f"-p{1 + ROOT.count('/')}"
    applied = subprocess.run(["patch", strip, "-d", str(tmp_path)], input=done.stdout, capture_output=True)
    assert applied.returncode == 0, applied.stdout + applied.stderr

    def contents(top: Path) -> dict[str, bytes]:
        files = (file for folder in ("conf", "html") for file in (top / folder).rglob("*") if file.is_file())
        return {str(file.relative_to(top)): file.read_bytes() for file in files}

    assert contents(tmp_path) == contents(pair.web1.path(ROOT))


def test_odd_names_and_contents_are_harmless_on_a_terminal(pair: Pair) -> None:
    make_many_differences(pair)
    with Terminal(pair, "diff", "--no-pager") as terminal:
        assert terminal.end() == 1
    assert f"\x1b[32m+ {ROOT}/html/we\\nird \\x1b[31m näme.html  created\x1b[0m\n" in terminal.shown
    assert "\x1b[31m näme" not in terminal.shown
    assert "\x1b[32m+caf\\xe9\x1b[0m\n" in terminal.shown
    names = pair.ngxsync("diff", "--name-only").stdout
    assert f"{ROOT}/html/we\\nird \\x1b[31m näme.html\n" in names
    assert "\x1b" not in names


def test_secrets_are_never_shown(pair: Pair) -> None:
    first_sync(pair)
    write(pair.web1, "conf/new.key", KEY)
    write(pair.web1, "conf/users", "anna:TOPSECRET\n")
    write(
        pair.web1,
        "conf/vhosts/one.conf",
        VHOST.replace("return", "auth_basic x; auth_basic_user_file users;\n    return"),
    )
    write(pair.web2, "conf/old.key", KEY.replace("TOP", "OLD"))
    write(pair.web2, "conf/olduser", "bert:OLDSECRET\n")
    theirs = write(
        pair.web2, "conf/vhosts/default.conf", "server { listen 80; auth_basic x; auth_basic_user_file olduser; }\n"
    )
    assert theirs.exists()
    for arguments in (["diff"], ["diff", "--json"], ["diff", "--verbose", "--stat"]):
        done = pair.ngxsync(*arguments)
        assert done.returncode == 1
        assert "SECRET" not in done.stdout + done.stderr
    text = pair.ngxsync("diff").stdout
    for name, change in (
        ("new.key", "absent -> "),
        ("users", "absent -> "),
        ("old.key", "-> absent"),
        ("olduser", "-> absent"),
    ):
        (line,) = [line for line in text.splitlines() if line.startswith(f"Secret files differ: {ROOT}/conf/{name} ")]
        assert change in line


def test_a_secret_that_nginx_names_by_another_way_is_one(pair: Pair) -> None:
    """Also while only the peer has the file: what this host's nginx names is a secret there too."""
    pair.web1.path("/srv/www").symlink_to(ROOT)
    named = VHOST.replace("return", "auth_basic x; auth_basic_user_file /srv/www/conf/users;\n    return")
    write(pair.web1, "conf/vhosts/one.conf", named)
    file = write(pair.web1, "conf/users", "anna:TOPSECRET\n")
    hidden = f"Secret files differ: {ROOT}/conf/users "
    text = pair.ngxsync("diff").stdout
    assert hidden in text
    assert "SECRET" not in text
    first_sync(pair)
    file.unlink()
    text = pair.ngxsync("diff").stdout
    assert hidden in text
    assert "SECRET" not in text


def test_diff_of_modes_links_and_times(pair: Pair) -> None:
    first_sync(pair)
    pair.web1.path(f"{ROOT}/conf/mime.types").chmod(0o600)
    pair.web1.path(f"{ROOT}/html/link").symlink_to("index.html")
    os.utime(pair.web1.path(f"{ROOT}/html/index.html"), (5, 5))
    done = pair.ngxsync("diff")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith("web1 -> web2: 3 changes (")
    assert "1 mtime" in done.stdout.splitlines()[0]
    assert sorted(done.stdout.splitlines()[1:]) == [
        f"+ {ROOT}/html/link  created",
        f"~ {ROOT}/conf/mime.types  mode 0644 -> 0600",
    ]
    assert f"~ {ROOT}/html/index.html  mtime 2023-11-14 " in pair.ngxsync("diff", "--verbose").stdout
    limited = pair.ngxsync("diff", f"{ROOT}/conf")
    assert (
        limited.stdout == f"web1 -> web2: 1 change (1 mode): 1 pending\n~ {ROOT}/conf/mime.types  mode 0644 -> 0600\n"
    )
    assert pair.ngxsync("diff", f"{ROOT}/conf/vhosts").returncode == 0


def test_a_time_of_change_alone_differs(pair: Pair) -> None:
    first_sync(pair)
    os.utime(pair.web1.path(f"{ROOT}/html/index.html"), (5, 5))
    done = pair.ngxsync("diff")
    assert (done.returncode, done.stdout) == (1, "web1 -> web2: 1 change (1 mtime): 1 pending\n")


def test_many_files_come_in_batches(pair: Pair) -> None:
    write_tree(pair.web2, ROOT, {f"html/many/{number}.html": f"{number}\n" for number in range(1_050)})
    done = pair.ngxsync("diff")
    assert done.returncode == 1
    assert done.stdout.count("\ndiff --git ") == 1_050
    assert all(f"\n-{number}\n" in done.stdout for number in range(1_050))


# status and history after real runs


def test_status_and_history_after_a_run(pair: Pair) -> None:
    first_sync(pair)
    write(pair.web1, "conf/vhosts/one.conf", VHOST)
    pair.ngxsync("sync")
    status = pair.ngxsync("status", "--exit-code")
    assert status.returncode == 0
    assert status.stdout.startswith("web1 -> web2: in-sync since ")
    assert ", proven\n  last run: 00000002-" in status.stdout
    assert "\n  next: nothing to do\n" in status.stdout
    listed = pair.ngxsync("history").stdout
    assert [line.split("-")[0] for line in listed.splitlines() if not line.startswith(" ")] == ["00000002", "00000001"]
    whole = pair.ngxsync("history", "2").stdout
    assert f"    + {ROOT}/conf/vhosts/one.conf  created\n    took: " in whole


def test_status_knows_the_daemon(pair: Pair) -> None:
    first_sync(pair)
    with pair.daemon():
        shown = pair.ngxsync("status").stdout
        assert "note: the daemon runs (process " in shown
        assert "next full comparison by schedule: 20" in shown
    assert "the daemon does not run" in pair.ngxsync("status").stdout


@pytest.mark.parametrize("command", ["sync", "diff", "validate"])
def test_a_host_without_another(pair: Pair, command: str) -> None:
    """One file serves both hosts, and each leaves itself out; alone in it there is nothing to do, and that is no success."""
    file = pair.web1.path("/etc/ngxsync/config.ini")
    file.write_text(file.read_text().replace(pair.web2.address, pair.web1.address))
    text = said(pair.ngxsync(command), 2)
    assert text.startswith("/etc/ngxsync/config.ini: every peer in it is this host itself\n  now: nothing changed\n")


@pytest.mark.parametrize("command", [["sync"], ["diff"], ["diff", "--json"], ["check"]])
def test_this_host_is_no_peer_of_its_own(pair: Pair, command: list[str]) -> None:
    pair.write_config(more=f"[peer self]\nhost = {pair.web1.address}\nidentity = /etc/ngxsync/id_ed25519\n")
    done = pair.ngxsync(*command, "--peer", "self")
    assert done.returncode == 2
    assert "no such peer: self is this host itself" in done.stdout + done.stderr


OTHERS = """
import sys, pathlib
from ngxsync.edges import configfile, local
print(*[peer.host for peer in local.others(configfile.read_config(pathlib.Path(sys.argv[1])))])
"""


@contextmanager
def other_files(host: Host, **texts: str) -> Iterator[None]:
    """These files of the host's /etc hold something else meanwhile."""
    before = {name: host.path(f"/etc/{name}").read_text() for name in texts}
    try:
        for name, text in texts.items():
            host.path(f"/etc/{name}").write_text(text)
        yield
    finally:
        for name, text in before.items():
            host.path(f"/etc/{name}").write_text(text)


def others_of(pair: Pair, *hosts: str) -> list[str]:
    """Which of these, each a peer's `host`, web1 takes for another host."""
    peers = (f"[peer p{n}]\nhost = {host}\nidentity = /k\n" for n, host in enumerate(hosts))
    pair.web1.path("/etc/ngxsync/names.ini").write_text("".join(peers))
    argv = [sys.executable, "-c", OTHERS, "/etc/ngxsync/names.ini"]
    return pair.web1.run(argv, env={"PYTHONPATH": str(PROJECT)}, timeout=30).stdout.split()


@pytest.mark.parametrize(
    "line",
    ["192.0.2.1 www web1.example.com web1", "127.0.1.1 web1.example.com web1", "127.0.0.1 WEB1.example.com web1"],
)
def test_this_host_is_known_by_name(pair: Pair, line: str) -> None:
    """As another server would be: by its address; where its own name leads to loopback, as on Debian, by that name."""
    names = ["Web1", "web1.example.com", "192.0.2.1"]
    trials = ["localhost", "127.0.0.1", "127.0.0.2", "::1", "trial"]
    with other_files(pair.web1, hosts=f"127.0.0.1 localhost trial\n{line}\n192.0.2.2 web2\n"):
        assert others_of(pair, *names, *trials, "web2", "web9", "192.0.2.2") == [*trials, "web2", "web9", "192.0.2.2"]


def test_a_name_server_that_does_not_answer_stops_nothing(pair: Pair) -> None:
    """The resolver alone takes 40 s; the name of a peer that nobody knows is none of this host's, its own name is."""
    silent = "import socket; s = socket.socket(type=2); s.bind(('', 53)); print(flush=True); input()"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    resolver = f"nameserver {pair.web2.address}\noptions timeout:20 attempts:2\n"
    with (
        pair.web2.popen([sys.executable, "-c", silent], **pipes) as server,
        other_files(pair.web1, **{"hosts": "", "resolv.conf": resolver}),
    ):
        assert server.stdout is not None
        server.stdout.readline()
        assert others_of(pair, "web1", "web2.example.com", "192.0.2.1") == ["web2.example.com"]
        server.communicate("\n")


def test_the_most_serious_peer_decides_and_the_other_is_served(pair: Pair) -> None:
    """web9 does not exist; web2 is compared and synced all the same."""
    dead = "[peer web9]\nhost = 192.0.2.9\nidentity = /etc/ngxsync/id_ed25519\nconnect_timeout = 1s\n"
    pair.write_config(more=dead)
    write(pair.web1, "html/new.html", "new\n")
    compared = pair.ngxsync("diff", "--stat")
    assert compared.returncode == 4
    assert compared.stdout == f"web1 -> web2: 1 change (1 created): 1 pending\n+ {ROOT}/html/new.html  created\n"
    assert (
        "root@192.0.2.9:22: no answer within 1 s" in compared.stderr or "192.0.2.9:22: no connection" in compared.stderr
    )
    text = said(pair.ngxsync("sync"), 4)
    assert "  web2  applied, 1 change (1 created)" in text
    assert "  web9  unreachable" in text
    assert pair.web2.path(f"{ROOT}/html/new.html").read_text() == "new\n"
    status = pair.ngxsync("status", "--exit-code")
    assert status.returncode == 4
    assert status.stdout.index("-> web9: unreachable") < status.stdout.index("-> web2: in-sync")
    assert pair.ngxsync("sync", "--peer", "web2").returncode == 0

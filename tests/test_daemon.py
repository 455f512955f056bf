"""The daemon on a real pair: what an administrator does on web1 is live, equal and proven on web2; and what goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ngxsync.core.model import PeerResult
from ngxsync.daemon.pauses import EndedPauses
from ngxsync.daemon.preparing import make_batch
from ngxsync.daemon.reports import is_news
from ngxsync.edges.state import MasterState
from tests.hosts import Host, wait_until
from tests.observation import too_open
from tests.pair import BASE_TREE, ROOT, Daemon, Pair, make_pair, manifest_of, write_tree
from tests.steps import BY_NAME, stopped_at

QUIET = "check_every = no\nschedule = no"  # only events wake the daemon
WATCHDOG_USEC = 400_000  # systemd's patience with it
SHOP = "server {\n    listen 80;\n    server_name shop;\n    location / { return 200 'shop 1'; }\n}\n"
LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+[+-]\d\d:\d\d (debug|info|warning|error): ")


@contextmanager
def synced(pair: Pair, *, sync: str = QUIET, peer: str = "") -> Iterator[Daemon]:
    """The daemon at work, web2 equal and accepted; on both there is a vhost `shop` and a linked folder more."""
    for host in (pair.web1, pair.web2):
        write_tree(host, ROOT, {"conf/vhosts/shop.conf": SHOP, "html/v1/a.html": "v1", "html/v2/a.html": "v2"})
        link = host.path(f"{ROOT}/html/current")
        link.symlink_to("v1")
        os.utime(link, ns=(0, 0), follow_symlinks=False)
    pair.write_config(sync=sync)
    first = pair.ngxsync("sync", "--yes")
    assert first.returncode == 0, first.stdout + first.stderr
    pair.write_config(sync=sync, peer=peer)
    with pair.daemon() as daemon:
        daemon.wait_for("web2 in-sync")
        yield daemon


def answer(host: Host, path: str, name: str) -> tuple[int, str]:
    try:
        return host.get(path, name)
    except OSError as error:
        return 0, str(error)


def wait_for_answer(host: Host, path: str, name: str, expected: tuple[int, str]) -> None:
    wait_until(lambda: answer(host, path, name) == expected, f"{host.name} answers {path} of {name} with {expected}")


def wait_until_equal(pair: Pair) -> None:
    """Bytes, modes, owners, links, times."""
    hidden = ("logs", ".ngxsync", ".git")
    wait_until(
        lambda: manifest_of(pair.web1, without=hidden) == manifest_of(pair.web2, without=hidden),
        "web2 equals web1",
        every_s=0.1,
    )


def write(host: Host, path: str, text: str) -> None:
    file = host.path(f"{ROOT}/{path}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def lines_with(daemon: Daemon, text: str) -> list[str]:
    return [line for line in daemon.log().splitlines() if text in line]


def last_status(daemon: Daemon) -> str:
    """What `systemctl status` shows."""
    return [message for message in daemon.messages() if message.startswith("STATUS=")][-1].removeprefix("STATUS=")


def shell(host: Host, command: str) -> None:
    host.run(["sh", "-ec", f"cd {ROOT}\n{command}"])


GIT = "git -c init.defaultBranch=main -c user.name=a -c user.email=a@b"
BRANCH = f"""
cd conf && {GIT} init -q && {GIT} add -A && {GIT} commit -qm one && {GIT} checkout -qb two
sed 's/shop 1/shop 2/' vhosts/shop.conf > /tmp/x && cat /tmp/x > vhosts/shop.conf && {GIT} commit -qam two
"""

# what is done: the command, what nginx on web2 answers then (path, name, status, body), whether it had to reload
EDITS: dict[str, tuple[str, tuple[str, str, int, str], bool]] = {
    "a new vhost": (
        "printf 'server { listen 80; server_name new; return 200 new; }' > conf/vhosts/new.conf",
        ("/", "new", 200, "new"),
        True,
    ),
    "a changed vhost": (
        "sed 's/shop 1/shop 2/' conf/vhosts/shop.conf > /tmp/x && cat /tmp/x > conf/vhosts/shop.conf",
        ("/", "shop", 200, "shop 2"),
        True,
    ),
    "a deleted vhost": ("rm conf/vhosts/shop.conf", ("/", "shop", 200, "<h1>It works</h1>\n"), True),
    "a renamed vhost": ("mv conf/vhosts/shop.conf conf/vhosts/store.conf", ("/", "shop", 200, "shop 1"), True),
    "a chmod": ("chmod 0640 html/v1/a.html && chgrp www-data html/v1/a.html", ("/v1/a.html", "x", 200, "v1"), False),
    "a retargeted symlink": ("ln -sfn v2 html/current", ("/current/a.html", "x", 200, "v2"), False),
    "an edit of html only": ("printf new > html/index.html", ("/", "x", 200, "new"), False),
    "sed -i": ("sed -i 's/shop 1/shop 2/' conf/vhosts/shop.conf", ("/", "shop", 200, "shop 2"), True),
    "vi": (
        "vim.tiny -es -u NONE -c '%s/shop 1/shop 2/' -c wq conf/vhosts/shop.conf",
        ("/", "shop", 200, "shop 2"),
        True,
    ),
    "git checkout of a branch": ("cd conf && git checkout -q main", ("/", "shop", 200, "shop 1"), True),
    "tar x of 1,000 files": ("tar xf /srv/docs.tar -C html", ("/docs/999.html", "x", 200, "999"), False),
}


# what goes before it
BEFORE = {
    "git checkout of a branch": BRANCH,
    "tar x of 1,000 files": """
cd /srv && mkdir docs && for n in $(seq 1000); do printf $n > docs/$n.html; done && tar cf docs.tar docs && rm -r docs
""",
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_live_and_equal_and_reloads_only_where_needed(pair: Pair, edit: str) -> None:
    command, (path, name, status, body), reloads = EDITS[edit]
    with synced(pair) as daemon:
        if edit in BEFORE:
            shell(pair.web1, BEFORE[edit])
            wait_until_equal(pair)
        before, already = pair.web2.reload_count(), len(lines_with(daemon, "applied"))
        shell(pair.web1, command)
        wait_until_equal(pair)
        wait_for_answer(pair.web2, path, name, (status, body))
        wait_until(lambda: len(lines_with(daemon, "applied")) > already, "the run is in the log")
        assert (pair.web2.reload_count() > before) == reloads
        words = "reloaded" if reloads else "no reload needed"
        assert words in lines_with(daemon, "applied")[-1]
    assert daemon.process.returncode == 0
    assert all(LINE.match(line) for line in daemon.log().splitlines())
    assert not lines_with(daemon, "error:")


def test_a_broken_edit_is_refused_and_the_next_good_one_goes_through(pair: Pair) -> None:
    with synced(pair) as daemon:
        before, mark = manifest_of(pair.web2), pair.web2.nginx_workers()
        write(pair.web1, "conf/vhosts/shop.conf", SHOP.replace("server_name", "server_nam"))
        daemon.wait_for("refused")
        (line,) = lines_with(daemon, "refused")
        assert "shop.conf:3: unknown directive" in line
        assert "error: " in line
        wait_until(lambda: any(m.startswith("STATUS=refused here") for m in daemon.messages()), "systemd is told")
        assert manifest_of(pair.web2) == before
        assert pair.web2.nginx_workers() == mark
        wait_until(lambda: pair.ngxsync("status", "--exit-code").returncode == 3, "so says status", every_s=0.2)
        write(pair.web1, "conf/vhosts/shop.conf", SHOP.replace("shop 1", "shop 3"))
        wait_for_answer(pair.web2, "/", "shop", (200, "shop 3"))
        wait_until_equal(pair)
        wait_until(lambda: last_status(daemon) == "in-sync: web2", "systemd is told")
    assert pair.ngxsync("status", "--exit-code").returncode == 0


def test_what_only_the_peer_refuses_is_told_once_and_tried_again(pair: Pair) -> None:
    pair.web1.path("/srv/only-here.conf").write_text("return 200 'included';\n")
    with synced(pair, sync="check_every = 1s\nschedule = no") as daemon:
        before = manifest_of(pair.web2)
        text = SHOP.replace("return 200 'shop 1';", "include /srv/only-here.conf;")
        write(pair.web1, "conf/vhosts/shop.conf", text)
        daemon.wait_for("web2 refused")
        tried = pair.web2.path("/var/lib/ngxsync/peer/runs")
        runs = len(list(tried.iterdir()))
        wait_until(lambda: len(list(tried.iterdir())) >= runs + 2, "it is tried again and again")
        assert len(lines_with(daemon, "refused")) == 1
        assert manifest_of(pair.web2) == before
        pair.web2.path("/srv/only-here.conf").write_text("return 200 'included there';\n")
        wait_for_answer(pair.web2, "/", "shop", (200, "included there"))


def test_a_peer_that_was_away_gets_what_it_missed_once_it_is_back(pair: Pair) -> None:
    with synced(pair, peer="connect_timeout = 3s") as daemon:
        pair.web2.vanish_from(pair.web1)
        write(pair.web1, "html/index.html", "while away")
        daemon.wait_for("web2 unreachable")
        write(pair.web1, "html/index.html", "while still away")
        wait_until(lambda: "STATUS=unreachable: web2" in daemon.messages(), "systemd is told")
        pair.web2.return_to(pair.web1)
        wait_for_answer(pair.web2, "/", "x", (200, "while still away"))
        wait_until_equal(pair)
        daemon.wait_for("web2 applied")
    assert len(lines_with(daemon, "unreachable")) == 1


def test_a_dead_peer_delays_no_other() -> None:
    pair = make_pair(3)
    try:
        pair.write_config(sync=QUIET, peer="connect_timeout = 5s")
        assert pair.ngxsync("sync", "--yes").returncode == 0
        with pair.daemon() as daemon:
            daemon.wait_for("web2 in-sync")
            daemon.wait_for("web3 in-sync")
            pair.web2.vanish_from(pair.web1)
            for text in ("one", "two"):
                write(pair.web1, "html/index.html", text)
                wait_for_answer(pair.web3, "/", "x", (200, text))
                assert not lines_with(daemon, "web2 unreachable")
            daemon.wait_for("web2 unreachable")
            wait_until(lambda: last_status(daemon) == "unreachable: web2; in-sync: web3", "systemd is told")
    finally:
        pair.close()


def test_what_was_done_on_one_peer_is_recorded_though_another_was_given_up() -> None:
    pair = make_pair(3)
    try:
        pair.write_config(sync=QUIET)
        assert pair.ngxsync("sync", "--yes").returncode == 0
        with pair.daemon() as daemon:
            daemon.wait_for("web2 in-sync")
            daemon.wait_for("web3 in-sync")
            pair.web3.vanish_from(pair.web1)
            write(pair.web1, "html/index.html", "on web2 alone")
            daemon.wait_for("web2 applied")
            daemon.signal(signal.SIGHUP)
            daemon.wait_for("configuration taken")
            assert not lines_with(daemon, "web3 unreachable")
            assert "change" in pair.ngxsync("history").stdout
            assert "html/index.html" in pair.ngxsync("history", recorded_of(daemon, "web2 applied")).stdout
    finally:
        pair.close()


def recorded_of(daemon: Daemon, text: str) -> str:
    """The run that this line of the log is about."""
    found = re.search(r"run (\d{8}-[0-9a-f]+)", lines_with(daemon, text)[0])
    assert found is not None
    return found[1]


def test_sighup_takes_a_new_configuration(pair: Pair) -> None:
    with synced(pair) as daemon:
        assert "earlier" not in pair.ngxsync("status").stdout
        pair.write_config(sync=f"{QUIET}\nexclude = /html/private/")
        pid = daemon.host.pid_inside(daemon.process)
        forgotten = (
            f"works with an earlier /etc/ngxsync/config.ini: it takes what was changed there with: kill -HUP {pid}"
        )
        assert forgotten in pair.ngxsync("status").stdout
        daemon.signal(1)
        daemon.wait_for("configuration taken")
        wait_until(lambda: daemon.messages().count("READY=1") == 2, "it is ready again")
        assert "earlier" not in pair.ngxsync("status").stdout
        told = daemon.messages()
        assert told.index("RELOADING=1") < len(told) - told[::-1].index("READY=1")
        assert any(re.fullmatch(r"MONOTONIC_USEC=\d+", message) for message in told)
        write(pair.web1, "html/private/secret.html", "mine")
        write(pair.web1, "html/open.html", "ours")
        wait_for_answer(pair.web2, "/open.html", "x", (200, "ours"))
        assert not pair.web2.path(f"{ROOT}/html/private").exists()


def test_sighup_keeps_the_old_configuration_where_the_new_one_is_wrong(pair: Pair) -> None:
    with synced(pair) as daemon:
        pair.write_config(sync=f"{QUIET}\nsettel = 1s")
        daemon.signal(1)
        daemon.wait_for("was not taken")
        assert "did you mean settle" in lines_with(daemon, "was not taken")[0]
        wait_until(lambda: daemon.messages().count("READY=1") == 2, "it is ready again")
        assert "did you mean settle" in last_status(daemon)
        write(pair.web1, "html/index.html", "as before")
        wait_for_answer(pair.web2, "/", "x", (200, "as before"))


def test_sigterm_waits_for_the_answer_of_a_transaction(pair: Pair) -> None:
    script = pair.web2.path("/srv/reload")
    script.write_text("#!/bin/sh\nsleep 2\nkill -HUP $(cat /usr/local/nginx/logs/nginx.pid)\n")
    script.chmod(0o755)
    with synced(pair, peer="reload = /srv/reload") as daemon:
        write(pair.web1, "conf/vhosts/shop.conf", SHOP.replace("shop 1", "shop 2"))
        journal = pair.web2.path("/var/lib/ngxsync/peer/journal")
        wait_until(journal.exists, "the transaction has begun")
        daemon.stop()
        assert daemon.process.returncode == 0
        assert answer(pair.web2, "/", "shop") == (200, "shop 2")
        assert not journal.exists()
        applied, stopped = lines_with(daemon, "web2 applied"), lines_with(daemon, "stopped")
        assert applied
        assert daemon.log().index(applied[0]) < daemon.log().index(stopped[0])
    assert "applied" in pair.ngxsync("history").stdout


def test_sigterm_gives_up_what_has_not_begun(pair: Pair) -> None:
    with synced(pair, sync=f"{QUIET}\nsettle = 25s\nmax_wait = 25s") as daemon:
        before = manifest_of(pair.web2)
        write(pair.web1, "html/index.html", "too late")
        run_folder = pair.web2.path(f"{ROOT}/.ngxsync")
        wait_until(lambda: list(run_folder.glob("*/stage/html/index.html")), "the run works ahead")
        daemon.stop(20.0)
        assert daemon.process.returncode == 0
        assert manifest_of(pair.web2) == before
        assert not lines_with(daemon, "error:")
    assert pair.ngxsync("status", "--exit-code").returncode == 0


def test_a_command_that_is_ended_with_the_daemon_is_run_once_more(pair: Pair) -> None:
    """systemd ends what the daemon leaves behind: the event is not noted as told."""
    with synced(pair):
        pass
    told = pair.web1.path("/srv/told")
    pair.write_config(sync=QUIET, more="[ngxsync]\non_event = cat >>/srv/told; exec sleep 600\n")
    with pair.daemon() as daemon:
        daemon.wait_for("web2 in-sync")
        write(pair.web1, "conf/vhosts/shop.conf", "server { listen 80 }\n")
        wait_until(lambda: told.exists() and told.read_text().endswith("\n"), "the command has its event")
        daemon.stop()
    pair.write_config(sync=QUIET, more="[ngxsync]\non_event = cat >>/srv/told\n")
    with pair.daemon():
        wait_until(lambda: told.read_text().splitlines()[1:], "a command is run")
    first, second = told.read_text().splitlines()[:2]
    assert first == second


def test_an_edit_without_an_event_is_found_by_check_every(pair: Pair) -> None:
    """Here a write through a hard link from outside the tree; what lies in one file system has to be below the root."""
    with synced(pair, sync="check_every = 1s\nschedule = no\nexclude = /outside/") as daemon:
        pair.web1.run(["sh", "-c", f"cd {ROOT} && mkdir outside && ln html/index.html outside/index.html"])
        write(pair.web1, "outside/index.html", "found")
        wait_for_answer(pair.web2, "/", "x", (200, "found"))
        daemon.wait_for(", check]")


def test_an_edit_is_found_without_a_watcher(pair: Pair) -> None:
    with synced(pair, sync="on_change = no\ncheck_every = 1s\nschedule = no") as daemon:
        write(pair.web1, "html/index.html", "found")
        wait_for_answer(pair.web2, "/", "x", (200, "found"))
        daemon.wait_for(", check]")


def test_a_replaced_tree_is_watched_again(pair: Pair) -> None:
    for host in (pair.web1, pair.web2):
        write_tree(host, "/srv/site", {"page.html": "one"})
    with synced(pair, sync=f"{QUIET}\ntrees = {ROOT}\n  /srv/site") as daemon:
        pair.web1.run(["sh", "-c", "cd /srv && mv site old && cp -a old site && echo two > site/page.html"])
        daemon.wait_for("watching the trees anew")
        daemon.wait_for("web2 held (replaced-root)")
        page = pair.web2.path("/srv/site/page.html")
        assert page.read_text() == "one"
        assert pair.ngxsync("sync", "--force", "replaced-root").returncode == 0
        assert page.read_text() == "two\n"
        pair.web1.path("/srv/site/page.html").write_text("three")
        wait_until(lambda: page.read_text() == "three", "an edit in the new tree is there")


def fed(daemon: Daemon) -> int:
    return daemon.messages().count("WATCHDOG=1")


def test_a_daemon_that_can_watch_nothing_says_so_works_on_and_watches_again_when_it_may(pair: Pair) -> None:
    for host in (pair.web1, pair.web2):
        write_tree(host, "/srv/site", {"page.html": "one"})
    pair.write_config(sync=f"{QUIET}\ntrees = {ROOT}\n  /srv/site")
    assert pair.ngxsync("sync", "--yes").returncode == 0
    argv = ["env", f"WATCHDOG_USEC={WATCHDOG_USEC}", sys.executable, "-m", "ngxsync", "run"]
    with pair.service(argv) as daemon:
        daemon.wait_for("web2 in-sync")
        pid = str(pair.web1.pid_inside(daemon.process))
        pair.web1.run(["prlimit", "--pid", pid, "--nofile=3:"])
        pair.web1.run(["sh", "-c", "cd /srv && mv site old && cp -a old site"])
        daemon.wait_for("inotify: cannot watch")
        daemon.wait_for("changes there are seen at check_every and schedule only")
        pair.web1.run(["prlimit", "--pid", pid, "--nofile=1024:"])
        # a daemon that is started anew could watch no more than this one
        before = fed(daemon)
        wait_until(lambda: fed(daemon) >= before + 3, "the watchdog is fed")
        assert pair.ngxsync("sync", "--force", "replaced-root").returncode == 0
        daemon.signal(1)
        wait_until(lambda: daemon.messages().count("READY=1") == 2, "it has read the configuration again")
        pair.web1.path("/srv/site/page.html").write_text("two")
        page = pair.web2.path("/srv/site/page.html")
        wait_until(lambda: page.read_text() == "two", "it watches again")


def test_the_watchdog_is_not_fed_once_a_thread_has_died(pair: Pair) -> None:
    """Of a bug, which is planted here: systemd starts such a daemon anew."""
    planted = (
        "from ngxsync.__main__ import main\n"
        "from ngxsync.daemon.worker import Worker\n"
        "Worker._warm = lambda self: 1 / 0\n"
        "main()"
    )
    assert pair.ngxsync("sync", "--yes").returncode == 0
    argv = ["env", f"WATCHDOG_USEC={WATCHDOG_USEC}", sys.executable, "-c", planted, "run"]
    with pair.service(argv) as daemon:
        daemon.wait_for("web2 in-sync")
        wait_until(lambda: fed(daemon) >= 3, "the watchdog is fed")
        write(pair.web1, "html/index.html", "edited")
        daemon.wait_for("ZeroDivisionError")
        before, died = fed(daemon), time.monotonic()
        wait_until(lambda: time.monotonic() > died + 10 * WATCHDOG_USEC / 1e6, "systemd's patience is over")
        assert fed(daemon) <= before + 1, "one may have been on its way"


def test_a_disk_that_cannot_be_written_ends_with_a_status_after_which_it_is_started_again(pair: Pair) -> None:
    pair.web1.run(["mount", "-t", "tmpfs", "-o", "ro", "none", "/var/lib/ngxsync"])
    ended = pair.ngxsync("run")
    pair.web1.unmount("/var/lib/ngxsync")
    assert ended.returncode == 4
    assert "Read-only file system" in ended.stderr


def test_what_it_keeps_is_nobody_elses_however_it_was_started(pair: Pair) -> None:
    with synced(pair):
        assert too_open(pair.web1) == []
        assert too_open(pair.web2) == []


def test_a_second_daemon_does_not_start(pair: Pair) -> None:
    with synced(pair) as daemon:
        second = pair.ngxsync("run")
        assert second.returncode == 9
        assert f"another daemon is at work: process {pair.web1.pid_inside(daemon.process)}, since 20" in second.stderr
    with pair.daemon() as daemon:
        daemon.wait_for("web2 in-sync")


def test_a_pause_ends_by_itself_and_a_run_follows(pair: Pair) -> None:
    with synced(pair) as daemon:
        assert pair.ngxsync("pause", "--for", "8s", "new disk").returncode == 0
        write(pair.web1, "html/index.html", "after the pause")
        daemon.wait_for("web2 paused")
        assert answer(pair.web2, "/", "x") == (200, BASE_TREE["html/index.html"])
        wait_for_answer(pair.web2, "/", "x", (200, "after the pause"))
        daemon.wait_for(", resume]")


def test_a_pause_holds_also_a_run_that_has_begun(pair: Pair) -> None:
    """Once `pause` has returned nothing changes the peer, however far a run was with looking and sending."""
    with synced(pair) as daemon, stopped_at(pair, BY_NAME["plan"], 0) as stop:
        write(pair.web1, "html/index.html", "saved before the pause")
        stop.wait()
        assert pair.ngxsync("pause", "new disk").returncode == 0
        stop.release()
        daemon.wait_for("web2 paused")
        assert answer(pair.web2, "/", "x") == (200, BASE_TREE["html/index.html"])


def test_a_pause_holds_also_a_run_that_waits_for_the_end_of_a_burst(pair: Pair) -> None:
    with synced(pair, sync=f"{QUIET}\nsettle = 6s\nmax_wait = 6s") as daemon:
        write(pair.web1, "html/index.html", "saved before the pause")
        record = pair.web1.path("/var/lib/ngxsync/master/peers/web2.json")
        wait_until(lambda: json.loads(record.read_text()).get("open_run"), "the run is about to ask web2")
        lock = pair.web2.path("/var/lib/ngxsync/peer/transaction.lock")
        wait_until(lambda: lock.stat().st_size, "web2 waits for the word to begin")
        assert pair.ngxsync("pause", "new disk").returncode == 0
        daemon.wait_for("web2 paused")
        assert answer(pair.web2, "/", "x") == (200, BASE_TREE["html/index.html"])


def test_a_pause_that_the_daemon_never_met_is_followed_by_a_run(pair: Pair) -> None:
    with synced(pair):
        write(pair.web2, "html/index.html", "edited on web2")  # of which no event tells web1
        assert pair.ngxsync("pause", "a look at web2").returncode == 0
        assert pair.ngxsync("sync").returncode == 8
        assert answer(pair.web2, "/", "x") == (200, "edited on web2")
        assert pair.ngxsync("resume").returncode == 0
        wait_for_answer(pair.web2, "/", "x", (200, BASE_TREE["html/index.html"]))
        wait_until(lambda: "web2: in-sync" in pair.ngxsync("status").stdout, "status says in-sync")


@pytest.mark.parametrize("for_s", [None, 60.0])
def test_each_pause_is_followed_by_a_run_however_short(tmp_path: Path, for_s: float | None) -> None:
    now = [1000.0]
    state = MasterState(tmp_path, lambda: now[0])
    pauses = EndedPauses(state, ("web2", "web3"))
    pauses.look()
    state.pause("web2", "root", "between two looks", for_s)
    now[0] += 100
    state.resume("web2")
    assert "web2" in pauses.look()
    assert pauses.look() == ()
    state.pause("web2", "root", "longer", for_s)
    now[0] += 1
    assert "web2" not in pauses.look()
    assert pauses.look() == ()
    if for_s is None:
        state.resume()
    now[0] += 100
    assert "web2" in pauses.look()
    assert pauses.look() == ()


def test_a_first_contact_is_held_and_the_daemon_goes_on(pair: Pair) -> None:
    pair.write_config(sync="check_every = 1s\nschedule = no")
    write(pair.web2, "html/theirs.html", "whose is it")
    before = manifest_of(pair.web2)
    with pair.daemon() as daemon:
        daemon.wait_for("web2 awaiting-first-sync")
        write(pair.web1, "html/index.html", "one")
        assert manifest_of(pair.web2) == before
        assert pair.ngxsync("sync", "--yes").returncode == 0
        daemon.wait_for("web2 in-sync")
        assert len(lines_with(daemon, "awaiting-first-sync")) == 1
        write(pair.web1, "html/index.html", "two")
        wait_for_answer(pair.web2, "/", "x", (200, "two"))


def test_what_was_undone_is_not_tried_again_at_every_check(pair: Pair) -> None:
    with synced(pair, sync="check_every = 1s\nschedule = no", peer="prove_timeout = 2s") as daemon:
        before, busy = manifest_of(pair.web2), pair.web2.socket()
        with busy:
            busy.bind(("0.0.0.0", 8080))
            busy.listen()
            write(pair.web1, "conf/vhosts/shop.conf", SHOP.replace("listen 80;", "listen 80; listen 8080;"))
            daemon.wait_for("web2 undone")
            assert manifest_of(pair.web2) == before
            reloads, looked = pair.web2.reload_count(), scans(pair)
            wait_until(lambda: scans(pair) >= looked + 2, "two checks more")
            assert pair.web2.reload_count() == reloads
            assert len(lines_with(daemon, "undone")) == 1
        write(pair.web1, "conf/vhosts/shop.conf", SHOP.replace("shop 1", "shop 2"))
        wait_for_answer(pair.web2, "/", "shop", (200, "shop 2"))


def scans(pair: Pair) -> int:
    """How many runs the daemon has begun."""
    return int(pair.web1.path("/var/lib/ngxsync/master/sequence").read_text())


def test_after_a_failed_undo_nothing_happens_until_a_person_syncs(pair: Pair) -> None:
    script = pair.web2.path("/srv/reload")
    script.write_text("#!/bin/sh\npkill -KILL nginx\n")
    script.chmod(0o755)
    sync = "check_every = 1s\nschedule = no"
    with synced(pair, sync=sync, peer="prove_timeout = 2s\nreload = /srv/reload") as daemon:
        write(pair.web1, "conf/vhosts/shop.conf", SHOP.replace("shop 1", "shop 2"))
        daemon.wait_for("web2 broken")
        journal = pair.web2.path("/var/lib/ngxsync/peer/journal")
        looked = scans(pair)
        wait_until(lambda: scans(pair) >= looked + 2, "two checks more")
        assert journal.exists()
        assert len(lines_with(daemon, "broken")) == 1
        assert pair.ngxsync("status", "--exit-code").returncode == 7
        script.write_text("#!/bin/sh\nkill -HUP $(cat /usr/local/nginx/logs/nginx.pid)\n")
        pair.web2.start_nginx()
        result = pair.ngxsync("sync")
        assert result.returncode == 0, result.stdout + result.stderr
        assert not journal.exists()
        wait_for_answer(pair.web2, "/", "shop", (200, "shop 2"))


def test_names_cannot_forge_a_line_of_the_log(pair: Pair) -> None:
    with synced(pair) as daemon:
        write(pair.web1, "conf/vhosts/a\n<3>2026-01-01 all is lost \x1b[31m.conf", "nonsense;\n")
        daemon.wait_for("refused")
        assert all(LINE.match(line) for line in daemon.log().splitlines())
        assert "\x1b" not in daemon.log()


TRIGGERS: dict[str, tuple[list[str], tuple[str, tuple[str, ...], bool]]] = {
    "a change": (["change"], ("change", (), False)),
    "the schedule reads every file again": (["change", "schedule"], ("schedule", (), True)),
    "a retry is for its peer alone": (["retry web2"], ("retry", ("web2",), False)),
    "two retries": (["retry web3", "resume web2", "retry web2"], ("resume", ("web3", "web2"), False)),
    "a retry and a change are for all": (["retry web2", "change"], ("change", (), False)),
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_several_triggers_make_one_run(name: str) -> None:
    triggers, (trigger, peers, full) = TRIGGERS[name]
    options = make_batch(triggers).options()
    assert (options.trigger, options.peers, options.full, options.by_person) == (trigger, peers, full, False)


GONE = PeerResult("web2", "unreachable", "timeout", 4)
GOOD = PeerResult("web2", "in-sync", snapshot="a")
NEWS: dict[str, tuple[PeerResult | None, PeerResult, bool]] = {
    "the first result": (None, GOOD, True),
    "a quiet check": (GOOD, replace(GOOD, snapshot="b"), False),
    "in sync after an edit": (replace(GOOD, outcome="applied"), GOOD, False),
    "another edit": (replace(GOOD, outcome="applied"), replace(GOOD, outcome="applied"), True),
    "an outage goes on": (GONE, replace(GONE, snapshot="b"), False),
    "an outage of another kind": (GONE, replace(GONE, code="auth"), True),
    "back again": (GONE, GOOD, True),
    "the same refusal": (PeerResult("w", "refused", "refused", 5, "a"), PeerResult("w", "refused", "", 5, "a"), False),
    "another refusal": (PeerResult("w", "refused", "", 5, "a"), PeerResult("w", "refused", "", 5, "b"), True),
    "refused here, then there": (PeerResult("w", "refused", "", 3), PeerResult("w", "refused", "", 5), True),
}


@pytest.mark.parametrize("name", NEWS)
def test_only_news_is_logged(name: str) -> None:
    previous, result, expected = NEWS[name]
    assert is_news(previous, result) == expected


def test_the_daemon_takes_little_while_idle(pair: Pair) -> None:
    with synced(pair) as daemon:
        status = Path(f"/proc/{daemon.host.pid}/root/proc/{pair.web1.pid_inside(daemon.process)}/status").read_text()
        (resident,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
        assert int(resident) < 80 * 1024

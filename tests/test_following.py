"""follow = running and soak: the peers get what this host's own nginx runs, and not before; on a real pair and as values."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent.directives import NamedFile
from ngxsync.agent.manifest import FILE, Entry
from ngxsync.core.checkup import FAILED, OK, WARNING
from ngxsync.core.config import load_config
from ngxsync.core.errors import Message
from ngxsync.core.following import (
    Following,
    Found,
    Kept,
    Serving,
    judge_follow,
    kept_from_json,
    kept_to_json,
    newer_files,
)
from ngxsync.core.model import Projection, Snapshot
from ngxsync.daemon.reloads import Reloads
from ngxsync.edges.serving import RunningNginx
from ngxsync.flow.following import judge
from ngxsync.flow.interfaces import Named
from tests.hosts import Host, wait_until
from tests.pair import ROOT, Daemon, Pair
from tests.test_daemon import QUIET, answer, wait_for_answer, write
from tests.test_running import reload

VHOST = f"{ROOT}/conf/vhosts/shop.conf"
SHOP = "server {{ listen 80; server_name shop; location / {{ return 200 '{}'; }} }}\n"


@contextmanager
def following(pair: Pair, sync: str) -> Iterator[Daemon]:
    """The daemon at work, web2 equal and accepted, nginx on web1 older than nothing."""
    assert pair.ngxsync("sync", "--yes").returncode == 0
    pair.write_config(sync=f"{QUIET}\n{sync}")
    with pair.daemon() as daemon:
        daemon.wait_for("web2 in-sync")
        yield daemon


def hangup(host: Host) -> None:
    host.run(["kill", "-HUP", str(host.nginx_main())])


def sync(pair: Pair, *options: str) -> tuple[int, str]:
    done = pair.ngxsync("sync", *options)
    return done.returncode, done.stdout + done.stderr


def status(pair: Pair) -> dict[str, Any]:
    return dict(json.loads(pair.ngxsync("status", "--json").stdout)["peers"][0])


def test_an_edit_waits_for_a_reload_here_and_then_all_of_it_goes(pair: Pair) -> None:
    with following(pair, "follow = running") as daemon:
        write(pair.web1, "html/first.html", "content alone goes at once")
        wait_for_answer(pair.web2, "/first.html", "x", (200, "content alone goes at once"))
        write(pair.web1, "conf/vhosts/shop.conf", SHOP.format("one"))
        daemon.wait_for("held (follow)")
        write(pair.web1, "html/second.html", "waits")
        exit_status, said = sync(pair)
        assert exit_status == 8, said
        assert f"a file that it loads was changed since: {VHOST} (at " in said
        assert "reload nginx on web1; or without it: ngxsync sync --force follow" in said
        assert answer(pair.web2, "/second.html", "x")[0] == 404
        hangup(pair.web1)
        wait_for_answer(pair.web2, "/", "shop", (200, "one"))
        wait_for_answer(pair.web2, "/second.html", "x", (200, "waits"))
        pair.web1.path(VHOST).unlink()
        daemon.wait_for(f"a file that it loads was changed since: {VHOST} (gone)")
        exit_status, said = sync(pair)
        assert (exit_status, "(gone)" in said) == (8, True), "what was read is kept for other processes"
        exit_status, said = sync(pair, "--force", "follow")
        assert exit_status == 0, said
        assert not pair.web2.path(VHOST).exists()


def test_what_this_host_s_nginx_refused_is_never_followed(pair: Pair) -> None:
    taken = pair.web1.socket()
    taken.bind(("0.0.0.0", 8080))
    taken.listen()
    with taken, following(pair, "follow = running") as daemon:
        write(pair.web1, "conf/vhosts/shop.conf", SHOP.format("two").replace("80;", "8080;"))
        daemon.wait_for("held (follow)")
        hangup(pair.web1)
        daemon.wait_for("a reload was refused: bind() to 0.0.0.0:8080 failed (98: Address already in use)")
        assert "8080 failed" in status(pair)["message"]["what"]
        pair.web1.stop_nginx()
        exit_status, said = sync(pair)
        assert (exit_status, "nginx does not run on web1" in said) == (8, True), said
        assert "follow: FAILED (nginx does not run on web1" in pair.ngxsync("check").stdout
        assert not pair.web2.path(VHOST).exists()


def test_a_soak_ends_by_itself_unless_nginx_complains(pair: Pair) -> None:
    with following(pair, "soak = 2s") as daemon:
        write(pair.web1, "conf/vhosts/shop.conf", SHOP.format("good"))
        daemon.wait_for("held (follow)")
        reloaded = time.time()
        hangup(pair.web1)
        wait_for_answer(pair.web2, "/", "shop", (200, "good"))
        daemon.wait_for("web2 applied")
        assert status(pair)["accepted_at"] > reloaded + 2
        pair.write_config(sync=f"{QUIET}\nsoak = 1h")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("configuration taken")
        daemon.wait_for(", hup]")  # a run that judged before the reload would take the page along
        reload(pair.web1)
        write(pair.web1, "html/page.html", "new")
        daemon.wait_for(" first (soak = 1h")
        assert " is to run it until " in status(pair)["message"]["what"]
        worker = pair.web1.nginx_workers()[0]
        pair.web1.run(["kill", "-SEGV", str(worker)])
        wait_until(lambda: "on signal 11" in pair.web1.error_log(), "nginx complains")
        write(pair.web1, "html/page.html", "newer")
        daemon.wait_for(f"error.log: [alert] worker process {worker} exited on signal 11")
        noticed = time.time()
        wait_until(lambda: time.time() > noticed + 1, "the log tells whole seconds")
        hangup(pair.web1)
        wait_until(
            lambda: " is to run it until " in status(pair)["message"]["what"], "another soak begins", every_s=0.2
        )
        exit_status, said = sync(pair, "--force", "soak")
        assert (exit_status, answer(pair.web2, "/page.html", "x")) == (0, (200, "newer")), said


def end_of_soak(daemon: Daemon) -> float:
    """As its log tells it, epoch seconds."""
    daemon.wait_for(" first (soak = ")
    told = re.search(r"is to run it until (.+?) first \(soak = ", daemon.log())
    assert told
    return time.mktime(time.strptime(told[1], "%Y-%m-%d %H:%M:%S"))


def test_a_soak_outlives_the_daemon_that_began_it(pair: Pair) -> None:
    with following(pair, "soak = 1h") as daemon:
        write(pair.web1, "conf/vhosts/shop.conf", SHOP.format("good"))
        hangup(pair.web1)
        end = end_of_soak(daemon)
        told = time.time()
    wait_until(lambda: time.time() > told + 3, "the end of a soak that begins now is another one")
    with pair.daemon() as daemon:
        assert abs(end_of_soak(daemon) - end) <= 1, "it did not begin anew"
    assert answer(pair.web2, "/", "shop") != (200, "good")


# the decision, as values


SERVING = Serving("running", main="boot 7 70", mark="boot 7 70 80", loaded=1000.0, age_s=50.0)
CONF, HTML, OUTSIDE = f"{ROOT}/conf/nginx.conf", f"{ROOT}/html/a", "/etc/ssl/a.pem"
NAMED = Named((NamedFile(OUTSIDE, "certificate", "ssl_certificate", CONF, 3, True),), lambda path: "/conf/" in path)


class Nginx:
    """A nginx and its log as plain values."""

    def __init__(self, changed: Mapping[str, float], kept: Kept | None = None, log: tuple[float, str] | None = None):
        self.changed, self.kept, self.log = changed, kept, log
        self.marks, self.refuses = [SERVING.mark], False

    def serving(self) -> Serving:
        return SERVING

    def mark(self) -> str:
        """Each of `marks` once, then the last for ever."""
        return self.marks.pop(0) if len(self.marks) > 1 else self.marks[0]

    def files(self, patterns: Any) -> Mapping[str, Found]:
        return {path: Found(at, path, (int(at),)) for path, at in self.changed.items() if path in patterns}

    def refusal(self, since: float) -> str:
        return ""

    def has_refused(self) -> bool:
        return self.refuses

    def complaint(self, serving: Serving, until: float, logs: Any) -> str:
        return self.log[1] if self.log and serving.loaded <= self.log[0] < until else ""

    def unread_logs(self) -> tuple[str, ...]:
        return ("syslog:server=x",)

    def recall(self) -> Kept | None:
        return self.kept

    def remember(self, kept: Kept) -> None:
        self.kept = kept_from_json(json.loads(json.dumps(kept_to_json(kept))))


def judged(nginx: Nginx, *, conf: str = "a", serving: Serving = SERVING, soak: str = "0s") -> tuple[str, str]:
    config = load_config(f"[sync]\nfollow = running\nsoak = {soak}\n[peer b]\nhost = b\nidentity = /k\n", "c.ini")
    manifest = {path: Entry(FILE, 0o644, "root", "root", 1, 1, conf) for path in (CONF, HTML) if conf}
    snapshot = Snapshot(manifest, Projection(((ROOT, ()),)))
    found = judge(nginx, serving, snapshot, NAMED, config, "web1")
    (hold,) = found.hold("web2") or (None,)
    assert hold is None or (hold.message.state, hold.code) == ("web2 unchanged", found.code)
    return found.code, hold.message.what if hold else ""


OLD = {CONF: 900.0, HTML: 900.0, OUTSIDE: 900.0}


def test_what_is_older_than_the_workers_goes() -> None:
    assert judged(Nginx(OLD)) == ("", "")
    assert judged(Nginx({**OLD, CONF: 1000.01})) == ("", ""), "within the ticks of two clocks"
    assert judged(Nginx({**OLD, HTML: 2000.0})) == ("", ""), "nginx loads no page"


@pytest.mark.parametrize("path", [CONF, OUTSIDE])
def test_what_is_younger_than_the_workers_is_held_by_name(path: str) -> None:
    code, what = judged(Nginx({**OLD, path: 1001.0}))
    assert (code, f"{path} (at " in what) == ("follow", True)


def test_once_seen_it_is_known_what_the_workers_read() -> None:
    nginx = Nginx(OLD)
    assert judged(nginx) == ("", "")
    nginx.changed = {**OLD, CONF: 2000.0}
    assert judged(nginx) == ("", ""), "touched only, or put back as it was"
    assert judged(nginx, conf="b")[0] == "follow"
    del nginx.changed[CONF]
    assert "nginx.conf (gone)" in judged(nginx)[1]
    reloaded = replace(SERVING, mark="boot 7 70 90", loaded=3000.0)
    assert judged(nginx, serving=reloaded) == ("", ""), "it was gone when they were born"


def test_workers_born_again_run_what_those_before_them_ran() -> None:
    nginx = Nginx(OLD)
    assert judged(nginx) == ("", "")
    again = replace(SERVING, mark="boot 7 70 95", loaded=100.0, is_known=False)
    assert judged(nginx, serving=again) == ("", "")
    assert judged(nginx, conf="b", serving=again)[0] == "follow"
    assert judged(Nginx(OLD), serving=again)[0] == "follow", "nothing is known of those before"
    assert judged(nginx, serving=replace(again, main="boot 8 70"))[0] == "follow", "another nginx"


@pytest.mark.parametrize(
    ("serving", "said"),
    [
        (Serving("down"), "nginx does not run on web1, so nothing proves what is saved"),
        (Serving("unknown", why="2 main processes"), "what nginx runs here: 2 main processes, so"),
    ],
)
def test_without_an_nginx_nothing_is_proven(serving: Serving, said: str) -> None:
    code, what = judged(Nginx(OLD), serving=serving)
    assert (code, said in what) == ("follow", True), what


def test_check_says_whether_anything_can_be_followed() -> None:
    assert judge_follow("web1", Serving("down"), 0.0, ()).state == FAILED
    assert judge_follow("web1", SERVING, 60.0, ("stderr",)).state == WARNING
    assert judge_follow("web1", SERVING, 0.0, ("stderr",)).state == OK
    assert judge_follow("web1", SERVING, 60.0, ()).what == "the peers follow what nginx runs here, 1m00s later"


def test_a_soak() -> None:
    nginx = Nginx(OLD)
    code, what = judged(nginx, soak="60s")
    assert (code, "(its error log goes to syslog:server=x, which is not read)" in what) == ("soak", True)
    assert judged(nginx, soak="60s", serving=replace(SERVING, age_s=60.0)) == ("", "")
    nginx.log = (1010.0, "/log: [crit] late news of an old line")
    assert judged(nginx, soak="60s") == ("", ""), "it was over"
    bad = Nginx(OLD, log=(1059.0, "/log: [crit] no"))
    assert judged(bad, soak="60s", serving=replace(SERVING, age_s=70.0))[0] == "soak"
    bad.log = None
    assert "[crit] no" in judged(bad, soak="60s", serving=replace(SERVING, age_s=9000.0))[1], "until the next reload"
    assert judged(bad, soak="60s", serving=replace(SERVING, mark="x", age_s=61.0)) == ("", "")
    assert judged(Nginx(OLD, log=(1060.0, "later")), soak="60s", serving=replace(SERVING, age_s=70.0)) == ("", "")


def test_what_is_waited_for_is_looked_for() -> None:
    """A reload whose workers stay, the end of a soak, a reload that was refused while one is waited for; each once."""
    nginx, found, now = Nginx(OLD), list[str](), [100.0]
    reloads = Reloads(nginx, found.append, lambda: now[0])
    reloads.look()
    assert found == ["reload"], "not started: nothing was served before"
    nginx.marks = ["short-lived", "next", "next"]
    reloads.look()
    assert found == ["reload"], "its workers died"
    reloads.look()
    reloads.look()
    nginx.marks = [""]
    reloads.look()
    assert found == ["reload", "reload"], "that it went down lets nothing go"
    nginx.marks, nginx.refuses = ["next"], True
    reloads.look()
    reloads.note(Following("follow", Message("not read"), is_unread=True))
    reloads.look()
    assert found == ["reload"] * 3
    reloads.note(Following("soak", Message("soaking"), wait_s=60.0))
    reloads.look()
    now[0] += 60
    reloads.look()
    reloads.look()
    assert found == ["reload"] * 3 + ["soak"]


paths = st.sampled_from(["/a", "/b", "/c"])
identities = st.dictionaries(paths, st.sampled_from([("/x", "1"), ("/x", "2")]))


@given(kept=identities, now=identities, times=st.dictionaries(paths, st.floats(0, 2000)))
def test_newer_is_what_differs_from_what_they_read(kept: Any, now: Any, times: dict[str, float]) -> None:
    found = {path: Found(times.get(path, 0.0), path, ()) for path in now}
    known = newer_files(SERVING, Kept(SERVING.main, SERVING.mark, kept), now, found)
    assert {item.path for item in known} == {path for path in {*kept, *now} if kept.get(path) != now.get(path)}
    assert all((item.since is None) == (item.path not in now) for item in known)
    unknown = newer_files(SERVING, None, now, found)
    assert {item.path for item in unknown} == {path for path in now if found[path].changed > 1000.02}
    assert [item.since for item in unknown] == sorted((item.since for item in unknown if item.since), reverse=True)


def test_what_was_kept_survives_and_damage_is_nothing(tmp_path: Path) -> None:
    nginx = RunningNginx({}, tmp_path / "master" / "running.json")
    assert nginx.recall() is None
    kept = Kept("m", "k", {"/a": ("/a", "sha"), "/b": ("/b", 1, 2, 3)}, "complaint", True)
    nginx.remember(kept)
    assert nginx.recall() == kept
    (tmp_path / "master" / "running.json").write_text('{"files": []}')
    assert nginx.recall() is None


def test_files_by_patterns_and_links(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "a.conf").write_text("a")
    (tmp_path / "current").symlink_to("v1")
    (tmp_path / "b.conf").symlink_to("v1/a.conf")
    (tmp_path / "d.conf").mkdir()
    found = RunningNginx({}, tmp_path / "k").files([f"{tmp_path}/current/*.conf", f"{tmp_path}/*.conf", "/nowhere"])
    real = f"{tmp_path}/v1/a.conf"
    assert {path: file.real for path, file in found.items()} == {
        f"{tmp_path}/current/a.conf": real,
        f"{tmp_path}/b.conf": real,
    }
    assert all(
        file.changed >= (tmp_path / "current").lstat().st_ctime for path, file in found.items() if "current" in path
    )

"""`ngxsync ready` on a real pair: not ready for each cause, with its name and what mends it, and ready again within one check."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.hosts import Host, wait_until
from tests.pair import LONG_AGO_NS, ROOT, Pair, write_tree

SITE = "conf/vhosts/site.conf"
SITE_TEXT = """\
server {
    listen 80;
    server_name site.test;
    root html;
    if (-f /srv/maintenance) { return 503; }
    location /private { auth_basic x; auth_basic_user_file /srv/users; }
}
server {
    listen 443 ssl;
    server_name tls.test;
    ssl_certificate /srv/tls/site.crt;
    ssl_certificate_key /srv/tls/site.key;
    return 200;
}
"""
UNIT = "/etc/systemd/system/multi-user.target.wants/ngxsync-recover.service"
STATE = "/var/lib/ngxsync"


def ready(pair: Pair, *arguments: str) -> tuple[int, dict[str, Any]]:
    """(exit status, the peer's part of the JSON)."""
    done = pair.ngxsync("ready", "--json", *arguments)
    told = json.loads(done.stdout)
    assert told["exit"] == done.returncode, done.stdout + done.stderr
    (peer,) = told["peers"]
    return done.returncode, peer


def make_certificate(pair: Pair, days: int = 30) -> None:
    """The same on both hosts."""
    pair.web1.run(["mkdir", "-p", "/srv/tls"])
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", "/srv/tls/site.key", "-out", "/srv/tls/site.crt"]
    pair.web1.run([*argv, "-days", str(days), "-subj", "/CN=tls.test", *files])
    copy(pair, "/srv/tls/site.key", "/srv/tls/site.crt")


def copy(pair: Pair, *paths: str) -> None:
    for path in paths:
        there = pair.web2.path(path)
        there.parent.mkdir(exist_ok=True)
        there.write_bytes(pair.web1.path(path).read_bytes())


def reload(host: Host) -> None:
    """SIGHUP, until the workers are others."""
    before = set(host.nginx_workers())
    host.run(["kill", "-HUP", str(host.nginx_main())])
    wait_until(lambda: len(set(host.nginx_workers()) - before) == 2, f"{host.name}: new workers")


def edit(host: Host, path: str, text: str) -> None:
    """Written anew with its old time: only what is in it tells."""
    file = host.path(f"{ROOT}/{path}")
    file.write_text(text)
    os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))


def sync(pair: Pair, status: int = 0) -> None:
    done = pair.ngxsync("sync", "--force", "drift", "--force", "conflict")
    assert done.returncode == status, done.stdout + done.stderr


def make_ready(pair: Pair) -> None:
    """A pair with TLS and passwords outside the trees, in sync, both nginx running it."""
    pair.write_config(peer="connect_timeout = 1s")
    write_tree(pair.web1, ROOT, {SITE: SITE_TEXT})
    make_certificate(pair)
    for host in pair.hosts:
        host.path("/srv/users").write_text("user:{PLAIN}x\n")
    reload(pair.web1)
    sync(pair)


@dataclass(frozen=True)
class Expected:
    """One of the reasons has this code, this host, and this text; the command has these further arguments."""

    code: str
    where: str
    text: str
    arguments: tuple[str, ...] = ()


INDEX = "<h1>It works</h1>\n"


def master_edited(pair: Pair) -> Iterator[Expected]:
    edit(pair.web1, "html/index.html", "other")
    yield Expected("pending", "web2", "1 path differs: /usr/local/nginx/html/index.html")
    edit(pair.web1, "html/index.html", INDEX)


def peer_edited(pair: Pair) -> Iterator[Expected]:
    edit(pair.web2, "html/index.html", "other")
    yield Expected("drift", "web2", "1 path differs: /usr/local/nginx/html/index.html")
    edit(pair.web2, "html/index.html", INDEX)


def master_not_reloaded(pair: Pair) -> Iterator[Expected]:
    edit(pair.web1, SITE, SITE_TEXT + "# a comment\n")
    sync(pair)
    yield Expected("stale-running", "web1", f"nginx has not loaded {ROOT}/{SITE}, changed ")
    reload(pair.web1)


def peer_not_reloaded(pair: Pair) -> Iterator[Expected]:
    text = pair.web2.path(f"{ROOT}/{SITE}").read_text()
    edit(pair.web2, SITE, text + "# theirs\n")
    reload(pair.web2)
    edit(pair.web2, SITE, text)
    yield Expected("stale-running", "web2", f"nginx has not loaded {ROOT}/{SITE}, changed ")
    reload(pair.web2)


def peer_is_down(pair: Pair) -> Iterator[Expected]:
    pair.web2.stop_nginx()
    yield Expected("nginx-down", "web2", "nginx does not run")
    pair.web2.start_nginx()


def certificate_is_missing(pair: Pair) -> Iterator[Expected]:
    pair.web2.path("/srv/tls/site.crt").unlink()
    yield Expected("files-outside-the-trees", "web2", "web2 lacks /srv/tls/site.crt")
    copy(pair, "/srv/tls/site.crt")
    reload(pair.web2)


def listen_is_foreign(pair: Pair) -> Iterator[Expected]:
    text = pair.web1.path(f"{ROOT}/{SITE}").read_text()
    edit(pair.web1, SITE, text.replace("listen 80;", "listen 80; listen 192.0.2.1:88;"))
    reload(pair.web1)
    sync(pair, 5)
    yield Expected(
        "listen", "web2", f"nginx cannot listen on 192.0.2.1, which is not an address of it now ({ROOT}/{SITE}:2)"
    )
    edit(pair.web1, SITE, text)
    reload(pair.web1)


def peer_answers_otherwise(pair: Pair) -> Iterator[Expected]:
    pair.web2.path("/srv/maintenance").touch()
    yield Expected("probe", "web2", "http://site.test:80 answers 503, on web1 200", ("--probe",))
    pair.web2.path("/srv/maintenance").unlink()


def nothing_recovers(pair: Pair) -> Iterator[Expected]:
    link = os.readlink(pair.web2.path(UNIT))
    pair.web2.path(UNIT).unlink()
    yield Expected(
        "recovery", "web2", "nothing recovers at boot: not installed: it is put there at the first sync as root"
    )
    pair.web2.path(UNIT).symlink_to(link)


def journal_is_open(pair: Pair) -> Iterator[Expected]:
    journal = pair.web2.path(f"{STATE}/peer/journal")
    journal.write_text("{}")
    yield Expected("journal", "web2", "run (its journal is damaged) is at work there, or was left unfinished")
    journal.unlink()


def not_proven(pair: Pair) -> Iterator[Expected]:
    pair.web2.stop_nginx()
    edit(pair.web1, "html/index.html", "new")
    sync(pair, 1)
    pair.web2.start_nginx()
    yield Expected("not-proven", "web2", "nginx there was never seen to run what was accepted")
    sync(pair)


def peer_has_vanished(pair: Pair) -> Iterator[Expected]:
    pair.web2.vanish_from(pair.web1)
    yield Expected("unreachable", "web2", "")
    pair.web2.return_to(pair.web1)


def rolled_back(pair: Pair) -> Iterator[Expected]:
    done = pair.ngxsync("rollback", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    yield Expected("rolled-back", "web2", "1 path differs: ")
    sync(pair)


CAUSES: tuple[Callable[[Pair], Iterator[Expected]], ...] = (
    master_edited,
    peer_edited,
    master_not_reloaded,
    peer_not_reloaded,
    peer_is_down,
    certificate_is_missing,
    listen_is_foreign,
    peer_answers_otherwise,
    nothing_recovers,
    journal_is_open,
    not_proven,
    rolled_back,
    peer_has_vanished,
)


def test_not_ready_for_each_cause_and_ready_again_when_it_is_mended(pair: Pair) -> None:
    make_ready(pair)
    status, found = ready(pair)
    assert (status, found["reasons"], found["warnings"]) == (0, [], []), found
    for cause in CAUSES:
        steps = cause(pair)
        expected = next(steps)
        status, found = ready(pair, *expected.arguments)
        named = [
            reason
            for reason in found["reasons"]
            if (reason["code"], reason["where"]) == (expected.code, expected.where)
        ]
        assert status == 1, (cause.__name__, found)
        assert named, (cause.__name__, found)
        assert expected.text in named[0]["what"], (cause.__name__, found)
        assert named[0]["next"], (cause.__name__, found)
        assert found["ages"]["proven"] is not None, cause.__name__
        assert next(steps, None) is None
        status, found = ready(pair)
        assert (status, found["reasons"]) == (0, []), (cause.__name__, found)


def test_the_daemon_looks_after_an_edit_and_at_each_check(pair: Pair) -> None:
    """What it finds shows in `status`, which asks nobody; the log has one line where the verdict is another."""
    make_ready(pair)
    pair.write_config(peer="connect_timeout = 1s", sync="check_every = 1s")
    with pair.daemon() as daemon:
        wait_for_status(pair, lambda peer, _: peer["outcome"] == "in-sync" and peer["ready"]["ready"])
        pair.web2.stop_nginx()
        daemon.wait_for("web2: not ready to take over: web2: nginx does not run [nginx-down]")
        peer, _ = wait_for_status(pair, lambda peer, _: peer["outcome"] == "nginx-down")
        assert peer["message"]["next"].startswith("start nginx on web2: /usr/sbin/nginx")
        pair.web2.start_nginx()
        daemon.wait_for("web2: ready to take over, after ")
        wait_for_status(pair, lambda peer, _: peer["outcome"] == "in-sync")

        pair.web2.run(["sh", "-c", "cp -p /usr/sbin/nginx /usr/sbin/.nginx && mv /usr/sbin/.nginx /usr/sbin/nginx"])
        peer, _ = wait_for_status(pair, lambda peer, _: peer["outcome"] == "stale-running")
        assert "only a restart runs it" in peer["message"]["what"]
        assert peer["message"]["next"] == "restart nginx on web2"
        pair.web2.stop_nginx()
        pair.web2.start_nginx()

        edit(pair.web1, SITE, SITE_TEXT + "# here, and not loaded\n")
        wait_for_status(pair, lambda _, notes: any("web1: nginx has not loaded" in note for note in notes))
        text = pair.ngxsync("status").stdout
        assert "web1 -> web2: in-sync since " in text
        assert "  ready:    no, looked " in text
        assert f"note: web1: nginx has not loaded {ROOT}/{SITE}, changed " in text
        reload(pair.web1)
        wait_for_status(pair, lambda peer, notes: peer["ready"]["ready"] and len(notes) == 1)
    told = [line for line in daemon.log().splitlines() if "to take over" in line]
    verdicts = ["not ready" in line for line in told]
    assert verdicts == [number % 2 == 0 for number in range(len(told))] or verdicts[1:] == [
        number % 2 == 0 for number in range(len(told) - 1)
    ], told


def wait_for_status(pair: Pair, is_so: Callable[[dict[str, Any], list[str]], bool]) -> tuple[dict[str, Any], list[str]]:
    """The peer and the notes of `ngxsync status --json`, as soon as they are so."""
    latest: list[Any] = []

    def look() -> bool:
        told = json.loads(pair.ngxsync("status", "--json").stdout)
        latest[:] = [told["peers"][0], told["notes"]]
        return is_so(told["peers"][0], told["notes"])

    try:
        wait_until(look, "status says so", 20.0)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{latest}") from None
    return latest[0], latest[1]

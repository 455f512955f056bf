"""`ngxsync ready` on a real pair: not ready for each cause, with its name and what mends it, and ready again within one check."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests import test_leaning as leaning
from tests.console import Console, console
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


@dataclass(frozen=True)
class Scene:
    """The pair, and who types on web1."""

    pair: Pair
    console: Console

    @property
    def web1(self) -> Host:
        return self.pair.web1

    @property
    def web2(self) -> Host:
        return self.pair.web2


@pytest.fixture
def scene(pair: Pair) -> Iterator[Scene]:
    """A pair with TLS and passwords outside the trees, in sync, both nginx running it."""
    with console(pair) as opened:
        scene = Scene(pair, opened)
        make_ready(scene)
        yield scene


def ready(scene: Scene, *arguments: str) -> tuple[int, dict[str, Any]]:
    """(exit status, the peer's part of the JSON)."""
    done = scene.console.ngxsync("ready", "--json", *arguments)
    told = json.loads(done.stdout)
    assert told["exit"] == done.returncode, done.stdout + done.stderr
    (peer,) = told["peers"]
    return done.returncode, peer


def make_certificate(pair: Pair) -> None:
    """The same on both hosts."""
    pair.web1.run(["mkdir", "-p", "/srv/tls"])
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", "/srv/tls/site.key", "-out", "/srv/tls/site.crt"]
    pair.web1.run([*argv, "-days", "90", "-subj", "/CN=tls.test", *files])
    copy(pair, "/srv/tls/site.key", "/srv/tls/site.crt")


def copy(pair: Pair, *paths: str) -> None:
    for path in paths:
        there = pair.web2.path(path)
        there.parent.mkdir(exist_ok=True)
        there.write_bytes(pair.web1.path(path).read_bytes())


def reload(host: Host) -> None:
    """SIGHUP, until the workers are others, and none of the old ones serves any more."""
    before = set(host.nginx_workers())

    def is_over() -> bool:
        now = set(host.nginx_workers())
        return len(now) == 2 and not now & before

    host.run(["kill", "-HUP", str(host.nginx_main())])
    wait_until(is_over, f"{host.name}: new workers")


def edit(host: Host, path: str, text: str) -> None:
    """Written anew with its old time: only what is in it tells."""
    file = host.path(f"{ROOT}/{path}")
    file.write_text(text)
    os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))


def sync(scene: Scene, status: int = 0) -> None:
    done = scene.console.ngxsync("sync", "--force", "drift", "--force", "conflict")
    assert done.returncode == status, done.stdout + done.stderr


def make_ready(scene: Scene) -> None:
    pair = scene.pair
    pair.write_config(peer="connect_timeout = 3s")
    write_tree(pair.web1, ROOT, {SITE: SITE_TEXT})
    make_certificate(pair)
    for host in pair.hosts:
        host.path("/srv/users").write_text("user:{PLAIN}x\n")
    reload(pair.web1)
    sync(scene)


@dataclass(frozen=True)
class Expected:
    """One of the reasons has this code, this host, and this text; the command has these further arguments."""

    code: str
    where: str
    text: str
    arguments: tuple[str, ...] = ()


INDEX = "<h1>It works</h1>\n"


def master_edited(scene: Scene) -> Iterator[Expected]:
    edit(scene.web1, "html/index.html", "other")
    yield Expected("pending", "web2", "1 path differs: /usr/local/nginx/html/index.html")
    edit(scene.web1, "html/index.html", INDEX)


def peer_edited(scene: Scene) -> Iterator[Expected]:
    edit(scene.web2, "html/index.html", "other")
    yield Expected("drift", "web2", "1 path differs: /usr/local/nginx/html/index.html")
    edit(scene.web2, "html/index.html", INDEX)


def master_not_reloaded(scene: Scene) -> Iterator[Expected]:
    edit(scene.web1, SITE, SITE_TEXT + "# a comment\n")
    sync(scene)
    yield Expected("stale-running", "web1", f"nginx has not loaded {ROOT}/{SITE}, changed ")
    reload(scene.web1)


def peer_not_reloaded(scene: Scene) -> Iterator[Expected]:
    text = scene.web2.path(f"{ROOT}/{SITE}").read_text()
    edit(scene.web2, SITE, text + "# theirs\n")
    reload(scene.web2)
    assert ready(scene)[1]["code"] == "drift"  # a tick of the clock lies between the reload and what follows
    edit(scene.web2, SITE, text)
    yield Expected("stale-running", "web2", f"nginx has not loaded {ROOT}/{SITE}, changed ")
    reload(scene.web2)


def port_is_taken(scene: Scene) -> Iterator[Expected]:
    """A person's reload there is refused, as its error log says, and nginx goes on with what it ran."""
    text = scene.web2.path(f"{ROOT}/{SITE}").read_text()
    with scene.web2.socket() as taken:
        taken.bind(("", 8088))
        taken.listen()
        edit(scene.web2, SITE, text.replace("listen 80;", "listen 80; listen 8088;"))
        scene.web2.run(["kill", "-HUP", str(scene.web2.nginx_main())])
        wait_until(lambda: "still could not bind" in scene.web2.error_log(), "the reload is refused")
        yield Expected("stale-running", "web2", "bind() to 0.0.0.0:8088 failed (98: Address already in use)")
    edit(scene.web2, SITE, text)
    reload(scene.web2)


def peer_is_down(scene: Scene) -> Iterator[Expected]:
    scene.web2.stop_nginx()
    yield Expected("nginx-down", "web2", "nginx does not run")
    scene.web2.start_nginx()


def certificate_is_missing(scene: Scene) -> Iterator[Expected]:
    scene.web2.path("/srv/tls/site.crt").unlink()
    yield Expected("files-outside-the-trees", "web2", "web2 lacks /srv/tls/site.crt")
    copy(scene.pair, "/srv/tls/site.crt")
    reload(scene.web2)


def certificate_has_expired(scene: Scene) -> Iterator[Expected]:
    """Another one than here, which ended yesterday; and its key fits."""
    key = load_pem_private_key(scene.web2.path("/srv/tls/site.key").read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    scene.web2.path("/srv/tls/site.crt").write_bytes(leaning.make_certificate(key, time.time() - 86400))
    yield Expected("certificates", "web2", "/srv/tls/site.crt has expired, ")
    copy(scene.pair, "/srv/tls/site.crt")


def key_is_of_another_certificate(scene: Scene) -> Iterator[Expected]:
    scene.web2.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "/srv/tls/site.key"])
    yield Expected("certificates", "web2", "/srv/tls/site.key is not the key of /srv/tls/site.crt ")
    copy(scene.pair, "/srv/tls/site.key")


def passwords_cannot_be_read(scene: Scene) -> Iterator[Expected]:
    scene.web2.path("/srv/users").chmod(0o600)
    yield Expected("files-that-nginx-reads", "web2", "www-data cannot read /srv/users")
    scene.web2.path("/srv/users").chmod(0o644)


def passwords_are_others(scene: Scene) -> Iterator[Expected]:
    scene.web2.path("/srv/users").write_text("somebody:{PLAIN}else\n")
    yield Expected("files-outside-the-trees", "web2", "web2 has others: /srv/users")
    copy(scene.pair, "/srv/users")


def listen_is_foreign(scene: Scene) -> Iterator[Expected]:
    text = scene.web1.path(f"{ROOT}/{SITE}").read_text()
    edit(scene.web1, SITE, text.replace("listen 80;", "listen 80; listen 192.0.2.1:88;"))
    reload(scene.web1)
    sync(scene, 5)
    yield Expected(
        "listen", "web2", f"nginx cannot listen on 192.0.2.1, which is not an address of it now ({ROOT}/{SITE}:2)"
    )
    edit(scene.web1, SITE, text)
    reload(scene.web1)


def peer_answers_otherwise(scene: Scene) -> Iterator[Expected]:
    scene.web2.path("/srv/maintenance").touch()
    yield Expected("probe", "web2", "http://site.test:80 answers 503, on web1 200", ("--probe",))
    scene.web2.path("/srv/maintenance").unlink()


def nothing_recovers(scene: Scene) -> Iterator[Expected]:
    link = os.readlink(scene.web2.path(UNIT))
    scene.web2.path(UNIT).unlink()
    yield Expected(
        "recovery", "web2", "nothing recovers at boot: not installed: it is put there at the first sync as root"
    )
    scene.web2.path(UNIT).symlink_to(link)


def journal_is_open(scene: Scene) -> Iterator[Expected]:
    journal = scene.web2.path(f"{STATE}/peer/journal")
    journal.write_text("{}")
    yield Expected("journal", "web2", "run (its journal is damaged) is at work there, or was left unfinished")
    journal.unlink()


def not_proven(scene: Scene) -> Iterator[Expected]:
    scene.web2.stop_nginx()
    edit(scene.web1, "html/index.html", "new")
    sync(scene, 1)
    scene.web2.start_nginx()
    yield Expected("not-proven", "web2", "nginx there was never seen to run what was accepted")
    sync(scene)


def peer_has_vanished(scene: Scene) -> Iterator[Expected]:
    scene.web2.vanish_from(scene.web1)
    yield Expected("unreachable", "web2", "")
    scene.web2.return_to(scene.web1)


def rolled_back(scene: Scene) -> Iterator[Expected]:
    done = scene.console.ngxsync("rollback", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    yield Expected("rolled-back", "web2", "1 path differs: ")
    sync(scene)


CAUSES: tuple[Callable[[Scene], Iterator[Expected]], ...] = (
    master_edited,
    peer_edited,
    master_not_reloaded,
    peer_not_reloaded,
    port_is_taken,
    peer_is_down,
    certificate_is_missing,
    certificate_has_expired,
    key_is_of_another_certificate,
    passwords_cannot_be_read,
    passwords_are_others,
    listen_is_foreign,
    peer_answers_otherwise,
    nothing_recovers,
    journal_is_open,
    not_proven,
    rolled_back,
    peer_has_vanished,
)


def test_not_ready_for_each_cause_and_ready_again_when_it_is_mended(scene: Scene) -> None:
    status, found = ready(scene)
    assert (status, found["reasons"], found["warnings"]) == (0, [], []), found
    for cause in CAUSES:
        steps = cause(scene)
        expected = next(steps)
        status, found = ready(scene, *expected.arguments)
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
        status, found = ready(scene)
        assert (status, found["reasons"]) == (0, []), (cause.__name__, found)


def test_a_time_of_change_alone_is_minded_nowhere(scene: Scene) -> None:
    for host in (scene.web1, scene.web2):
        host.run(["touch", f"{ROOT}/{SITE}", f"{ROOT}/html/index.html"])
        assert ready(scene)[0] == 0
    sync(scene)
    assert ready(scene)[0] == 0


def test_the_daemon_looks_after_an_edit_and_at_each_check(scene: Scene) -> None:
    """What it finds shows in `status`, which asks nobody; the log has one line where the verdict is another."""
    scene.pair.write_config(peer="connect_timeout = 3s", sync="check_every = 1s")
    with scene.pair.daemon() as daemon:
        wait_for_status(scene, lambda peer, _: peer["outcome"] == "in-sync" and is_ready(peer))
        scene.web2.stop_nginx()
        daemon.wait_for("web2: not ready to take over: web2: nginx does not run [nginx-down]")
        peer, _ = wait_for_status(scene, lambda peer, _: peer["outcome"] == "nginx-down")
        assert peer["message"]["next"].startswith("start nginx on web2: /usr/sbin/nginx")
        scene.web2.start_nginx()
        daemon.wait_for("web2: ready to take over, after ")
        wait_for_status(scene, lambda peer, _: peer["outcome"] == "in-sync" and is_ready(peer))

        scene.web2.run(["sh", "-c", "cp -p /usr/sbin/nginx /usr/sbin/.nginx && mv /usr/sbin/.nginx /usr/sbin/nginx"])
        peer, _ = wait_for_status(scene, lambda peer, _: peer["outcome"] == "stale-running")
        assert "only a restart runs it" in peer["message"]["what"]
        assert peer["message"]["next"] == "restart nginx on web2"
        scene.web2.stop_nginx()
        scene.web2.start_nginx()
        wait_for_status(scene, lambda peer, _: peer["outcome"] == "in-sync" and is_ready(peer))

        edit(scene.web1, SITE, SITE_TEXT + "# here, and not loaded\n")
        wait_for_status(scene, lambda _, notes: any("web1: nginx has not loaded" in note for note in notes))
        text = scene.console.ngxsync("status").stdout
        assert "web1 -> web2: in-sync since " in text
        assert "  ready:    no, looked " in text
        assert f"note: web1: nginx has not loaded {ROOT}/{SITE}, changed " in text
        reload(scene.web1)
        wait_for_status(scene, lambda peer, notes: is_ready(peer) and not any("web1:" in note for note in notes))
    told = [line for line in daemon.log().splitlines() if "to take over" in line]
    verdicts = ["not ready" in line for line in told]
    assert verdicts == [number % 2 == 0 for number in range(len(told))] or verdicts[1:] == [
        number % 2 == 0 for number in range(len(told) - 1)
    ], told


def is_ready(peer: dict[str, Any]) -> bool:
    """Nobody has looked yet at what was accepted just now: null."""
    return bool(peer["ready"] and peer["ready"]["ready"])


def wait_for_status(
    scene: Scene, is_so: Callable[[dict[str, Any], list[str]], bool]
) -> tuple[dict[str, Any], list[str]]:
    """The peer and the notes of `ngxsync status --json`, as soon as they are so."""
    latest: list[Any] = []

    def look() -> bool:
        told = json.loads(scene.console.ngxsync("status", "--json").stdout)
        latest[:] = [told["peers"][0], told["notes"]]
        return is_so(told["peers"][0], told["notes"])

    try:
        wait_until(look, "status says so")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{latest}") from None
    return latest[0], latest[1]

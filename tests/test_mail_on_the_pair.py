"""Mail on a real pair: what the daemon tells of, once each, over its restart; and that the password stays in its file."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator

import pytest

from tests import faults
from tests.host import PATIENCE_S
from tests.hosts import Host, wait_until
from tests.mailserver import PASSWORD, USER, HostMail, mail_in
from tests.pair import ROOT, Pair
from tests.processes import shown_by_processes

STATE = "/var/lib/ngxsync"
MAIL = f"""
[mail]
to = admin@example.org
from = web@example.org
smtp_host = localhost
smtp_port = 2525
security = none
user = {USER}
password_file = /etc/ngxsync/mail-password

[ngxsync]
on_event = cat >>/run/events
"""
SYNC = "check_every = no\nschedule = no\non_drift = hold"
VHOST = f"{ROOT}/conf/vhosts/default.conf"
FORMS = (PASSWORD.encode(), base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()), base64.b64encode(PASSWORD.encode()))


@pytest.fixture
def server(pair: Pair) -> Iterator[HostMail]:
    password = pair.web1.path("/etc/ngxsync/mail-password")
    password.write_text(PASSWORD)
    password.chmod(0o600)
    pair.write_config(sync=SYNC, more=MAIL)
    with mail_in(pair.web1) as server:
        yield server


def shown(server: HostMail) -> str:
    return "\n".join(f"{mail['Subject']}\n{mail.get_content()}" for mail in server.mails)


def wait_for_mail(server: HostMail, number: int, timeout_s: float = PATIENCE_S) -> str:
    wait_until(lambda: len(server.mails) >= number, f"mail {number} came", timeout_s, 0.05)
    return str(server.mails[number - 1].get_content().replace("\r\n", "\n"))


def spooled(host: Host) -> list[str]:
    return [file.name for file in host.path(f"{STATE}/spool/new").glob("*.json")]


def write(host: Host, path: str, text: str) -> None:
    host.path(path).write_text(text)


def test_what_the_daemon_tells_of(pair: Pair, server: HostMail) -> None:
    """A refusal, its end, a hold: each once, also over a restart; and where the password is not."""
    good = pair.web1.path(VHOST).read_text()
    assert pair.ngxsync("sync", "--yes").returncode == 0
    with shown_by_processes(pair.web1) as by_processes:
        with pair.daemon() as daemon:
            daemon.wait_for("web2 in-sync")
            write(pair.web1, VHOST, good + "nonsense;\n")
            text = wait_for_mail(server, 1)
            assert re.search(r"^web1: refused", text, re.MULTILINE), text
            assert f"{VHOST}:10" in text or "nonsense" in text
            assert "ngxsync validate" in text
            log = daemon.log()
        with pair.daemon() as daemon:
            daemon.wait_for("refused")
            write(pair.web2, f"{ROOT}/html/index.html", "edited on web2")
            write(pair.web1, VHOST, good)
            text = wait_for_mail(server, 2)
            both = text + (wait_for_mail(server, 3) if "held" not in text else "")
            for needed in ("web1: well", "web1 -> web2: held (drift)", "ngxsync pull", "ngxsync sync --force drift"):
                assert needed in both, both
            assert pair.ngxsync("status").stdout.count("nobody is told") == 0
            assert "nonsense" not in both.partition("held (drift)")[2]
            log += daemon.log()
        assert spooled(pair.web1) == []
    assert any(b"ngxsync" in text for text in by_processes)
    assert not [text for text in by_processes if any(form in text for form in FORMS)]
    assert len(server.mails) <= 3, shown(server)
    events = [json.loads(line) for line in pair.web1.path("/run/events").read_text().splitlines()]
    told = [(event["kind"], event["word"]) for event in events if event["word"] != "stale-running"]
    assert told[0] == ("failure", "refused")
    assert sorted(told[1:]) == [("drift", "held"), ("recovered", "well")]
    assert "stale-running" not in shown(server), "an edit here that is not reloaded yet is nothing to wake people for"
    kept = [file.read_bytes() for file in pair.web1.path(f"{STATE}").rglob("*") if file.is_file()]
    assert not any(form in text for form in FORMS for text in (log.encode(), *kept))


def test_the_command(pair: Pair, server: HostMail) -> None:
    """A test mail; a password that others can read; a spool that is flushed where no daemon runs; nobody to tell."""
    done = pair.ngxsync("notify", "--test")
    assert (done.returncode, done.stderr) == (0, "")
    assert "took a test mail for admin@example.org (in clear text, logged in as" in done.stdout
    assert "  now: " in done.stdout
    assert "  next: " in done.stdout
    password = pair.web1.path("/etc/ngxsync/mail-password")
    password.chmod(0o644)
    done = pair.ngxsync("notify", "--test")
    assert done.returncode == 2
    assert "/etc/ngxsync/mail-password: [mail] password_file: others can read it" in done.stderr
    password.chmod(0o600)
    write(pair.web1, "/etc/ngxsync/mail-password", "wrong")
    done = pair.ngxsync("notify", "--test")
    assert done.returncode == 1
    assert f"localhost:2525: the server refused the login of {USER}" in done.stderr
    assert "wrong" not in done.stdout + done.stderr
    write(pair.web1, "/etc/ngxsync/mail-password", PASSWORD)

    assert pair.ngxsync("notify", "INSTANCE", "web", "BACKUP", "99").returncode == 0  # as keepalived calls it
    wait_until(lambda: spooled(pair.web1), "the agent left the event")
    assert "not told yet, since no daemon runs" in pair.ngxsync("status").stdout
    assert pair.ngxsync("notify", "--flush").returncode == 0
    assert re.fullmatch(r"[-\d]+ [:\d]+ 192\.0\.2\.1 change to backup", server.subjects[1]), server.subjects
    assert spooled(pair.web1) == []
    pair.write_config(sync=SYNC)
    assert "nobody is told by mail" in pair.ngxsync("status").stdout
    assert any("nobody is told" in note for note in json.loads(pair.ngxsync("status", "--json").stdout)["notes"])
    done = pair.ngxsync("notify", "--test")
    assert (done.returncode, "`to` is not set" in done.stderr) == (2, True)


def test_a_full_disk_is_told_of(pair: Pair, server: HostMail) -> None:
    """What cannot be left in the spool goes by mail all the same; with room again nothing is told twice."""
    disk = faults.Disk(pair.web1)
    assert pair.ngxsync("sync", "--yes").returncode == 0
    with pair.daemon() as daemon:
        daemon.wait_for("web2 in-sync")
        with disk.full():
            pair.web2.path(VHOST).unlink()
            shutil.move(pair.web1.path(f"{ROOT}/html/index.html"), pair.web1.path(f"{ROOT}/html/moved.html"))
            text = wait_for_mail(server, 1)
            assert "disk is full" in text or "No space left" in text, text
            assert "cannot be" in daemon.log()
        text = wait_for_mail(server, 2, 60.0)
    assert "web1 -> web2: held (drift)" in shown(server) or "well" in shown(server), shown(server)
    assert spooled(pair.web1) == []
    assert len(server.subjects) == len(set(server.subjects))

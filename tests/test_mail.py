"""Mail by a real SMTP server on loopback: what arrives, what is refused, and that the password is nowhere else."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest

from ngxsync.agent import spool as agent_spool
from ngxsync.core.config import Config, load_config
from ngxsync.core.errors import ConfigError
from ngxsync.core.letter import trial_letter
from ngxsync.core.memory import PeerRecord
from ngxsync.core.pairoptions import MailConfig
from ngxsync.daemon.mailer import Mailer, flush
from ngxsync.daemon.post import Knowledge, Post
from ngxsync.daemon.telling import Telling
from ngxsync.edges import smtp
from ngxsync.edges.eventcommand import run_command
from ngxsync.edges.smtp import MailFailed
from ngxsync.edges.spool import OUTBOX, Spool
from tests.hosts import PROJECT, wait_until
from tests.mailserver import PASSWORD, USER, MailServer, free_port, mail_server, make_certificate

CONFIG = """\
[peer web1]
host = 192.0.2.1
identity = /etc/ngxsync/key
[peer web2]
host = 192.0.2.2
identity = /etc/ngxsync/key
[vrrp]
vip = 192.0.2.100/24
[ngxsync]
state_dir = {state}
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "mail-password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    return file


def config_for(tmp_path: Path, server: MailServer | int, **options: object) -> Config:
    port = server if isinstance(server, int) else server.port
    mail = MailConfig(("admin@example.org",), "web@example.org", "localhost", port, "none")
    config = load_config(CONFIG.format(state=tmp_path / "state"), "config.ini")
    return replace(config, mail=replace(mail, **options))  # type: ignore[arg-type]


def post_of(config: Config) -> Post:
    spool, own = Spool(config.state_dir), config.peers[0]
    return Post(config, spool, "web1", own, Knowledge(lambda: (PeerRecord("web2", word="in-sync"),)))


def leave(config: Config, **event: object) -> None:
    agent_spool.leave(str(config.state_dir), {"kind": "role", "role": "master", "vips": ["192.0.2.100"], **event})


def failure(number: int = 0, **more: object) -> dict[str, object]:
    told = {"word": "refused", "code": "refused", "exit": 5, "what": f"no {number}", "next": "mend it", "where": "web2"}
    return {"kind": "failure", "peer": "web2", **told, **more}


def told(config: Config, *, seconds: float = 8.0) -> bool:
    return flush(Spool(config.state_dir), post_of(config), seconds)


def text_of(server: MailServer, index: int = 0) -> str:
    return server.mails[index].get_content().replace("\r\n", "\n")


def test_a_role_change_arrives_as_the_tutorial_has_it(tmp_path: Path) -> None:
    with mail_server() as server:
        config = config_for(tmp_path, server)
        leave(config, at=1000000000.0, before="backup", instance="VI_1")
        assert told(config)
        (mail,) = server.mails
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1000000000))
        assert mail["Subject"] == f"{moment} 192.0.2.1 change to master"
        first, *rest = text_of(server).splitlines()
        assert first == mail["Subject"]
        assert (mail["From"], mail["To"]) == ("web@example.org", "admin@example.org")
        for needed in ("holds the VIP now", "192.0.2.100", "web2: in-sync", "ngxsync ready", "instance VI_1", "backup"):
            assert needed in "\n".join(rest)
        assert Spool(config.state_dir).names() == []


def test_a_mail_is_ascii_on_its_way_and_says_the_same() -> None:
    """Not every server takes eight bits, and of an encoded word more than 75 characters are none."""
    subject, body = "2026 wëb1: " + "ü" * 140, "näme\n" + "long " * 300 + "\n.\nFrom here\n"
    mail = smtp.make_mail(MailConfig(("a@example.org",), "web@example.org"), "web1", subject, body, "m")
    raw = mail.as_bytes()
    assert raw.isascii()
    assert max(map(len, raw.split(b"\r\n"))) <= 78
    read = message_from_bytes(raw, policy=default)
    assert (read["Subject"], read.get_content().replace("\r\n", "\n")) == (subject, body)
    plain = smtp.make_mail(MailConfig(("a@example.org",), "web@example.org"), "web1", "s", "word " * 36 + "\n", "m")
    assert b"word " * 36 in plain.as_bytes(), "a plain line can be read as it is"


def test_starttls_and_login(tmp_path: Path, certificate: Path, password_file: Path) -> None:
    with mail_server(certificate, security="starttls", login=True) as server:
        config = config_for(
            tmp_path, server, security="starttls", ca_file=certificate, user=USER, password_file=password_file
        )
        assert post_of(config).deliver(trial_letter).refused == ()
        assert server.logins[-1][1], "the password went before the connection was secured"
        assert "test of ngxsync" in server.mails[0]["Subject"]


def test_tls_from_the_start(tmp_path: Path, certificate: Path, password_file: Path) -> None:
    with mail_server(certificate, security="tls", login=False) as server:
        config = config_for(tmp_path, server, security="tls", ca_file=certificate)
        post_of(config).deliver(trial_letter)
        assert len(server.raw) == 1


@pytest.mark.parametrize(
    "what", ["unknown signer", "other name", "expired", "no starttls", "wrong password", "sender", "nobody"]
)
def test_what_the_server_or_we_refuse(what: str, tmp_path: Path, certificate: Path, password_file: Path) -> None:
    options: dict[str, object] = {"security": "starttls", "ca_file": certificate}
    given, serve = certificate, {"security": "starttls"}
    code, needed = "certificate", "not good for localhost"
    if what == "unknown signer":
        options["ca_file"] = None
    elif what == "other name":
        given = make_certificate(tmp_path, "elsewhere")
        options["ca_file"] = given
    elif what == "expired":
        given = make_certificate(tmp_path, days=-1)
        options["ca_file"] = given
        needed = "certificate has expired"
    elif what == "no starttls":
        serve, code, needed = {"security": "none"}, "tls", "offers no STARTTLS"
    elif what == "wrong password":
        password_file.write_text("wr0ng pass\n")
        options |= {"user": USER, "password_file": password_file}
        serve["login"] = True  # type: ignore[assignment]
        code, needed = "login", f"refused the login of {USER}"
    elif what == "sender":
        serve["login"] = True  # type: ignore[assignment]
        code, needed = "address", "as the sender"
    else:
        serve["refused"] = ("admin@example.org",)  # type: ignore[assignment]
        code, needed = "address", "none of the addresses"
    with mail_server(given, **serve) as server:  # type: ignore[arg-type]
        with pytest.raises(MailFailed) as caught:
            post_of(config_for(tmp_path, server, **options)).deliver(trial_letter)
        assert server.raw == []
    message = caught.value.message
    assert (caught.value.code, caught.value.exit_status) == (code, 1)
    assert needed in message.what
    assert message.where == f"localhost:{server.port}"
    assert message.state == "nothing was sent"
    assert message.next
    assert ("date" in message.next) == (what == "expired")
    assert "wr0ng" not in str(message)


@pytest.mark.parametrize("fault", ["open", "missing", "empty", "fifo"])
def test_a_password_file_that_is_none(fault: str, tmp_path: Path, password_file: Path) -> None:
    import os

    if fault == "open":
        password_file.chmod(0o640)
    elif fault == "empty":
        password_file.write_text("\n")
    else:
        password_file.unlink()
        if fault == "fifo":
            os.mkfifo(password_file, 0o600)
    with mail_server() as server:
        config = config_for(tmp_path, server, user=USER, password_file=password_file)
        with pytest.raises(ConfigError) as caught:
            post_of(config).deliver(trial_letter)
    assert caught.value.message.where == str(password_file)
    assert caught.value.message.next


@pytest.mark.parametrize("how", ["as it came", "blanks", "cut off"])
def test_a_server_that_repeats_the_password(how: str, tmp_path: Path, password_file: Path) -> None:
    """A hostile one: what it says goes to no log with the password in it."""
    repeated = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())
    if how == "blanks":
        password_file.write_text("two  blanks\n")
        repeated = b"two  blanks"
    elif how == "cut off":
        repeated = b"x" * 230 + repeated
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 here\r\n")
                connection.recv(1000)
                connection.sendall(b"250-here\r\n250 AUTH PLAIN\r\n")
                connection.recv(1000)
                connection.sendall(b"535 you said " + repeated + b"\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        config = config_for(tmp_path, listener.getsockname()[1], user=USER, password_file=password_file)
        with pytest.raises(MailFailed) as caught:
            post_of(config).deliver(trial_letter)
        thread.join()
    assert PASSWORD not in str(caught.value)
    for part in (repeated.decode(), "blanks", "xxxx"):
        assert part not in repr(caught.value)
        assert part not in str(caught.value)
    assert caught.value.__cause__ is None


def ascii64(text: str) -> bytes:
    return base64.b64encode(text.encode()) + b"\r\n"


ASKS_USER, ASKS_PASSWORD = b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n"
BOTH = ascii64(f"\0{USER}\0{PASSWORD}")
# what the server offers; then what it hears and says to it, after which the mail goes, or what we say of it
DIALOGS: dict[str, tuple[bytes, list[tuple[bytes, bytes]], str]] = {
    "LOGIN": (b"AUTH LOGIN", [(b"AUTH LOGIN " + ascii64(USER), ASKS_PASSWORD), (ascii64(PASSWORD), b"235 in\r\n")], ""),
    "LOGIN, deaf to what comes with it": (
        b"AUTH LOGIN",
        [
            (b"AUTH LOGIN " + ascii64(USER), ASKS_USER),
            (ascii64(USER), ASKS_PASSWORD),
            (ascii64(PASSWORD), b"235 in\r\n"),
        ],
        "",
    ),
    "PLAIN, deaf to what comes with it": (
        b"AUTH PLAIN LOGIN",
        [(b"AUTH PLAIN " + BOTH, b"334 \r\n"), (BOTH, b"235 in\r\n")],
        "",
    ),
    "a way that nobody here knows": (b"AUTH XOAUTH2", [], "no way to log in that is known here"),
    "no way": (b"SIZE 1000", [], "cannot do it"),
    "one of ASCII alone": (b"AUTH CRAM-MD5", [(b"AUTH CRAM-MD5\r\n", b"334 PDE+\r\n")], "ASCII alone"),
    "not now": (b"AUTH PLAIN", [(b"AUTH PLAIN " + BOTH, b"454 later\r\n")], "454 later"),
}


@pytest.mark.parametrize("name", DIALOGS)
def test_ways_to_log_in(name: str, tmp_path: Path, password_file: Path) -> None:
    offered, dialog, why = DIALOGS[name]
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                connection.sendall(b"220 here\r\n")
                lines.readline()
                connection.sendall(b"250-here\r\n250 " + offered + b"\r\n")
                for _, answer in dialog:
                    heard.append(lines.readline())
                    connection.sendall(answer)
                for line in lines:
                    answers = {b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n", b".\r\n": b"250 ok\r\n"}
                    word = line.split()[0].upper() if line.split() else b""
                    if word in (b"MAIL", b"RCPT", b"DATA", b"QUIT", b".", b"RSET", b"AUTH", b"*"):
                        connection.sendall(answers.get(line, answers.get(word, b"250 ok\r\n")))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        config = config_for(tmp_path, listener.getsockname()[1], user=USER, password_file=password_file)
        if why:
            with pytest.raises(MailFailed, match=why) as caught:
                post_of(config).deliver(trial_letter)
            assert ("tried again" in caught.value.message.next) == (name == "not now")
            assert caught.value.message.next
        else:
            assert post_of(config).deliver(trial_letter) == smtp.Sent()
        assert heard == [line for line, _ in dialog]


def test_an_answer_without_end_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "LONGEST_ANSWER", 10_000)
    said = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            nonlocal said
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                while said < 100 << 20:
                    connection.sendall(b"220-and\r\n" * 1000)
                    said += 9000

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(MailFailed, match="closed the connection"):
            post_of(config_for(tmp_path, listener.getsockname()[1])).deliver(trial_letter)
        thread.join()
    assert said < 50 << 20, "it was heard to the end"


def test_a_server_that_speaks_ever_so_slowly(tmp_path: Path) -> None:
    """A byte now and then keeps every time-out of a single answer from ending it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                while True:
                    connection.sendall(b"2")
                    time.sleep(0.05)

        thread = threading.Thread(target=serve)
        thread.start()
        mail = config_for(tmp_path, listener.getsockname()[1]).mail
        begun = time.monotonic()
        with pytest.raises(MailFailed):
            smtp.send(mail, smtp.make_mail(mail, "web1", "s", "b", "m"), "web1", longest_s=0.5)
        assert time.monotonic() - begun < 20
        thread.join()


def test_a_burst_is_one_mail(tmp_path: Path) -> None:
    with mail_server() as server:
        config = config_for(tmp_path, server)
        for number in range(49):
            leave(config, **failure(number))
        leave(config, role="backup")
        assert told(config)
        (mail,) = server.mails
        assert mail["Subject"].endswith("192.0.2.1 change to backup (and 49 more)")
        text = text_of(server)
        assert all(f"no {number}" in text for number in range(49))


EVIL = 'x\r\nBcc: evil@example.org\r\n\r\n<b>\x1b]0;owned\x07\u202e.conf\udcff"'


def test_nothing_of_a_name_gets_into_headers_or_a_terminal(tmp_path: Path) -> None:
    with mail_server() as server:
        config = config_for(tmp_path, server)
        leave(
            config, **failure(what=EVIL, where=EVIL, host=EVIL, peer=EVIL, state=EVIL, next=EVIL, word=EVIL, code=EVIL)
        )
        assert told(config)
        leave(config, role=EVIL, before=EVIL, host=EVIL, vips=[EVIL], instance=EVIL)
        assert told(config)
        for raw, mail in zip(server.raw, server.mails, strict=True):
            assert mail["Bcc"] is None
            assert mail.keys() == [
                "From",
                "To",
                "Subject",
                "Date",
                "Message-ID",
                "Auto-Submitted",
                "Content-Type",
                "Content-Transfer-Encoding",
                "MIME-Version",
            ]
            assert b"\x1b" not in raw
            text = mail.get_content()
            assert all(char.isprintable() or char in "\r\n" for char in text), text
            assert "\nBcc" not in text.replace("\r", "")
            assert mail["Subject"].isprintable()


def test_what_is_no_event_keeps_no_mail_from_going(tmp_path: Path) -> None:
    with mail_server() as server:
        config = config_for(tmp_path, server)
        leave(config)
        folder = config.state_dir / "spool" / "new"
        (folder / "0.json").write_bytes(b"\xff\0")
        (folder / "1.json").write_text('{"kind": "role", "at": 1, "exit": Infinity}')
        (folder / "2.json").mkdir()
        (folder / "3.json").symlink_to("/dev/zero")
        (folder / "4\x1b.json").write_text("[" * 100_000)
        os.mkfifo(folder / "5.json")
        assert told(config)
        assert len(server.raw) == 1
        assert sorted(each.name for each in folder.iterdir()) == ["2.json"]


def test_the_server_is_away_and_comes_back(tmp_path: Path) -> None:
    """Kept over a restart of the daemon, told late; the reason is in the notes of `status` meanwhile."""
    from ngxsync.cli.status import mail_notes

    port = free_port()
    config = config_for(tmp_path, port)
    leave(config, **failure(7))
    assert told(config, seconds=3.0)
    (note,) = mail_notes(config, is_tended=True)
    assert "1 try since" in note or "tries since" in note
    assert "refused" in note.lower()
    kept = json.loads((config.state_dir / "spool" / OUTBOX).read_text())
    assert kept["tries"] >= 1
    with mail_server(port=port) as server:
        assert told(config, seconds=30.0)
        assert "no 7" in text_of(server)
    assert mail_notes(config, is_tended=True) == []


@pytest.fixture
def mailer(tmp_path: Path) -> Iterator[tuple[Mailer, Telling, MailServer, Config]]:
    with mail_server() as server:
        config = config_for(tmp_path, server)
        config = replace(config, on_event=f"cat >>{tmp_path}/events; echo $PATH$FOO >>{tmp_path}/environment")
        spool = Spool(config.state_dir)
        telling = Telling(spool, "web1", ["web2"])
        mailer = Mailer(spool, post_of(config), telling, 86400.0)
        telling.wake = mailer.wake
        mailer.start()
        yield mailer, telling, server, config
        mailer.stop()


def test_the_daemons_part(mailer: tuple[Mailer, Telling, MailServer, Config], tmp_path: Path) -> None:
    """A role change is with the server within 5 s though nobody wakes us; a flush beside sends nothing; the command gets each
    event once."""
    _, _, server, config = mailer
    wait_until(lambda: not told(config), "the daemon holds the spool")
    begun = time.monotonic()
    leave(config)
    assert not told(config)
    wait_until(lambda: server.raw, "the mail is there", 8.0)
    assert server.seen[0] - begun < 5.0
    wait_until(lambda: (tmp_path / "events").exists(), "the command ran")
    (event,) = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert (event["schema"], event["kind"], event["role"], event["vips"]) == (1, "role", "master", ["192.0.2.100"])
    assert len(server.raw) == 1


def test_killed_between_the_mail_and_its_note(tmp_path: Path) -> None:
    """At most one mail twice: it has the same Message-ID, and says that it may be the second."""
    with mail_server(slow_s=60.0) as server:
        config = config_for(tmp_path, server)
        leave(config, **failure(3))
        file = tmp_path / "config.ini"
        text = CONFIG.format(state=config.state_dir) + (
            f"[mail]\nto = admin@example.org\nsmtp_port = {server.port}\nsecurity = none\n"
        )
        file.write_text(text)
        argv = [sys.executable, "-m", "ngxsync", "notify", "--flush", "--config", str(file)]
        with subprocess.Popen(argv, cwd=PROJECT) as process:
            wait_until(lambda: server.raw, "the server has the mail")
            process.kill()
        assert told(config)
        assert told(config)
        first, second = server.mails
        assert first["Message-ID"].partition("@")[0] == second["Message-ID"].partition("@")[0]
        assert "interrupted" not in first.get_content()
        assert "you may have had them already" in second.get_content()
    assert notes_of(config) == []


def notes_of(config: Config) -> list[str]:
    from ngxsync.cli.status import mail_notes

    return mail_notes(config, is_tended=True)


def test_one_of_two_is_refused_and_one_is_to_wait(tmp_path: Path) -> None:
    """The others have it at once; whom it was not taken for yet gets the same mail later, alone, also over a restart; `status`
    names whom the server does not want."""
    from ngxsync.cli.notify import send_test

    a, b, c = (f"{name}@example.org" for name in "abc")
    with mail_server(refused=(c,), deferred=[b]) as server:
        config = config_for(tmp_path, server, to=(a, b, c))
        leave(config, **failure(1))
        assert told(config, seconds=3.0)
        assert server.whom == [[a]]
        post = post_of(config)
        post.open()
        assert post.owed_to() == (b,)
        refused, owed = notes_of(config)
        assert "takes no mail for c@example.org: 550 no such user; next: correct `to`" in refused
        assert "took no mail for b@example.org yet" in owed
        assert told(config, seconds=20.0)
        assert server.whom == [[a], [b]]
        assert server.mails[0]["Message-ID"] == server.mails[1]["Message-ID"]
        assert len(notes_of(config)) == 1
        server.refused, server.deferred = (), [b]
        assert send_test(config) == 1, "not all have it"
        leave(config, **failure(2))
        assert told(config)
        assert notes_of(config) == []
        assert server.whom[-1] == [a, b, c]


def test_all_are_to_wait(tmp_path: Path) -> None:
    with mail_server(deferred=["admin@example.org"]) as server:
        with pytest.raises(MailFailed) as caught:
            post_of(config_for(tmp_path, server)).deliver(trial_letter)
        assert caught.value.code == "deferred"
        assert "450 not now" in caught.value.message.what
        assert "tried again" in caught.value.message.next


def test_a_server_that_takes_a_mail_and_does_not_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes again, and says that it may be the second."""
    monkeypatch.setattr(smtp, "TAKING_S", 0.5)
    port = free_port()
    config = config_for(tmp_path, port)
    leave(config, **failure(4))
    with mail_server(port=port, slow_s=60.0) as server:
        assert told(config, seconds=4.0)
        assert len(server.raw) == 1
    with mail_server(port=port) as server:
        assert told(config, seconds=20.0)
        assert "you may have had them already" in server.mails[0].get_content()


def test_what_is_left_while_another_ends_is_not_forgotten(tmp_path: Path) -> None:
    """Many at once, as keepalived's notify starts them where no daemon runs: one tells, the others go, and all is told."""
    with mail_server() as server:
        config = config_for(tmp_path, server)

        def one(number: int) -> None:
            leave(config, **failure(number, word=f"word{number}"))
            told(config, seconds=30.0)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
            time.sleep(0.3)  # some come while the first gathers, some while it sends
        for thread in threads:
            thread.join()
        text = "".join(mail.get_content() for mail in server.mails)
        assert [text.count(f"no {number}\n".replace("\n", "\r\n")) for number in range(8)] == [1] * 8, text
        assert len(server.mails) <= 2


def test_what_is_left_while_the_daemon_ends_is_not_forgotten(tmp_path: Path) -> None:
    """It sends its last mail; who leaves something meanwhile finds the spool held, and a daemon that takes no word any more."""
    with mail_server(slow_s=3.0) as server:
        config = config_for(tmp_path, server)
        spool = Spool(config.state_dir)
        mailer = Mailer(spool, post_of(config), Telling(spool, "web1", ["web2"]), None)
        mailer.start()
        mailer.stop()
        leave(config, role="backup")
        ending = threading.Thread(target=mailer.finish)
        ending.start()
        wait_until(lambda: server.raw, "the last mail is on its way", 8.0)
        leave(config, role="master")
        assert not told(config)
        ending.join()
        assert [" change to master" in mail.get_content() for mail in server.mails] == [False, True]
        assert spool.names() == []


def test_what_is_left_in_the_instant_of_a_look_is_not_forgotten(tmp_path: Path) -> None:
    """Where the kernel's clock of files stands still for some milliseconds, the folder looks as it did before."""
    config = config_for(tmp_path, 1)
    post, new = post_of(config), config.state_dir / "spool/new"
    new.mkdir(parents=True)
    post.take()
    seen = new.stat().st_mtime_ns
    leave(config)
    os.utime(new, ns=(seen, seen))
    post.take()
    assert post.waiting() == 1


def test_a_new_configuration_while_the_command_runs(tmp_path: Path) -> None:
    """The command gets each event once, and what came meanwhile still waits for its mail."""
    config = replace(config_for(tmp_path, 1), on_event=f"cat >>{tmp_path}/events; sleep 2; echo >>{tmp_path}/ended")
    spool = Spool(config.state_dir)
    former, later = (Mailer(spool, post_of(config), Telling(spool, "web1", ["web2"]), None) for _ in range(2))
    leave(config, at=1.0)
    former.start()
    wait_until((tmp_path / "events").exists, "the command runs")
    former.stop()
    later.start()
    wait_until(lambda: not former.is_alive(), "the former has ended")
    leave(config, at=2.0)
    later.wake()
    wait_until(lambda: not spool.names(), "it is taken")
    wait_until((tmp_path / "ended").exists, "the first command has ended")
    time.sleep(0.5)
    assert [each["event"]["at"] for each in spool.read(OUTBOX)["waiting"]] == [1.0, 2.0]
    wait_until(lambda: (tmp_path / "ended").read_text() == "\n\n", "the second command has ended")
    time.sleep(0.5)
    later.stop()
    found = [json.loads(line)["at"] for line in (tmp_path / "events").read_text().splitlines()]
    assert found == [1.0, 2.0]


def test_a_command_during_which_all_is_killed_runs_once_more(tmp_path: Path) -> None:
    config = replace(config_for(tmp_path, 1), on_event="true")
    leave(config, at=1.0)
    killed, next_one = post_of(config), post_of(config)
    killed.open()
    killed.take()
    event = killed.next_call()
    assert event is not None
    next_one.open()
    assert next_one.next_call() == event
    next_one.note_called(event)
    assert next_one.next_call() is None


def test_a_command_that_hangs_delays_no_mail(tmp_path: Path) -> None:
    """It is ended when its time is over, with what it started; its failure is a word in the log, and no event is tried twice."""
    begun = time.monotonic()
    why = run_command("sleep 77 & echo left >&2; wait", {"kind": "role"}, 0.3)
    assert "did not end within 0.3 s" in why
    assert time.monotonic() - begun < 30
    assert run_command("cat >/dev/null; exit 3", {}) == "exit status 3"
    assert run_command("echo 'x\x1b[2J' >&2; exit 1", {}).isprintable()
    assert run_command("exit 0", {"what": "x" * 200_000}) == ""
    assert run_command("yes >&2", {}, 20.0) == "it wrote more than 1 MB of errors, and was ended"
    assert run_command("seq 9999 >&2; echo last >/dev/stderr; exit 3", {}).startswith("exit status 3: ")
    environment = tmp_path / "environment"
    assert run_command(f"env >{environment}; pwd >>{environment}", {}) == ""
    names = {line.partition("=")[0] for line in environment.read_text().splitlines()}
    assert names <= {"PATH", "HOME", "SHELL", "LC_ALL", "PWD", "OLDPWD", "_", "SHLVL", "/"}
    assert not any("77" in process_line(pid) for pid in Path("/proc").glob("[0-9]*") if b"sleep" in cmdline(pid))


def cmdline(pid: Path) -> bytes:
    try:
        return (pid / "cmdline").read_bytes()
    except OSError:
        return b""


def process_line(pid: Path) -> str:
    return cmdline(pid).replace(b"\0", b" ").decode("utf-8", "replace")

"""A mail.rc becomes [mail]: by its own account and server, with what was not safe about it; its password in no text."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.cli.init import init
from ngxsync.cli.mailimport import tell
from ngxsync.core.config import load_config
from ngxsync.core.draft import render_mail
from ngxsync.core.errors import ConfigError
from ngxsync.core.mailrc import MailRc, has_server, parse_mailrc
from ngxsync.core.pairoptions import MailConfig

TUTORIAL = """\
# the tutorial's
set hold
set from=web@example.com smtp=smtp.example.com
set smtp-auth-user=web@example.com smtp-auth-password=Secr3t smtp-auth=login
set ssl-verify=ignore
"""
PEER = "[peer web2]\nhost = 192.0.2.2\nidentity = /etc/ngxsync/key\n"


def parsed(text: str, *, is_open: bool = False) -> MailRc:
    return parse_mailrc(text, "/etc/mail.rc", "/etc/ngxsync/mail-password", is_open=is_open)


def config_of(found: MailRc) -> MailConfig:
    return load_config(f"{PEER}\n{render_mail(found.draft)}", "config.ini").mail


def test_the_tutorials() -> None:
    found = parsed(TUTORIAL, is_open=True)
    mail = config_of(found)
    assert (mail.to, mail.sender) == (("web@example.com",), "web@example.com")
    assert (mail.smtp_host, mail.smtp_port, mail.security) == ("smtp.example.com", 25, "none")
    assert (mail.user, str(mail.password_file), found.password) == (
        "web@example.com",
        "/etc/ngxsync/mail-password",
        "Secr3t",
    )
    told = "\n".join(tell(found))
    for needed in ("clear text", "every user of this host can read the password", "does not say to whom"):
        assert needed in told
    assert "Secr3t" not in told + repr(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("set smtp=smtp://h.example.com:587 smtp-use-starttls from=a@b", ("h.example.com", 587, "starttls", "", "")),
        ("set smtp=smtps://h.example.com:465 from=a@b", ("h.example.com", 465, "tls", "", "")),
        ("set smtp=h.example.com:465 from=a@b", ("h.example.com", 465, "tls", "", "")),
        (
            "set v15-compat\nset mta=smtps://u%40b:p%3Aw@h.example.com:466 from=a@b",
            ("h.example.com", 466, "tls", "u@b", "p:w"),
        ),
        ("set mta=submissions://u:p@h from=a@b", ("h", 465, "tls", "u", "p")),
        ("set mta=smtp://u@h:587 password-u@h='x y' smtp-use-starttls from=a@b", ("h", 587, "starttls", "u", "x y")),
        (
            'set from="Web <a@b>" smtp=\'h\' smtp-auth-user=u \\\n  smtp-auth-password="a \\" b"',
            ("h", 25, "none", "u", 'a " b'),
        ),
        ("account q {\nset smtp=h from=a@b smtp-auth-user=u smtp-auth-password=p\n}", ("h", 25, "none", "u", "p")),
        ("set smtp=other from=a@b\nset smtp=h\nunset smtp-auth-user", ("h", 25, "none", "", "")),
        ("set smtp=h from=a@b smtp-auth-user=u smtp-auth-password=p smtp-auth=none", ("h", 25, "none", "", "")),
        ("set smtp=[2001:db8::1]:26 from=a@b", ("2001:db8::1", 26, "none", "", "")),
        ('set smtp=h from="a@b(John Doe)" smtp-auth-user=u', ("h", 25, "none", "u", "")),
        ('set smtp=h from="a@b (Alerts), c@d"', ("h", 25, "none", "", "")),
        ('set smtp=SMTPS://h from="\\"Web, Alerts\\" <a@b>"', ("h", 465, "tls", "", "")),
        ("\ufeffset smtp=h from=a@b", ("h", 25, "none", "", "")),
        # s-nail: for this account or server alone, the narrower counts
        (
            "set mta=submission://h from=a@b\nset smtp-use-starttls-h user-h=joe password-h=no password-joe@h=yes",
            ("h", 587, "starttls", "joe", "yes"),
        ),
        ("set smtp=h from=a@b smtp-auth-user-a@b=joe smtp-auth-password-a@b=p", ("h", 25, "none", "joe", "p")),
        ("set mta=smtp://joe@h from=a@b smtp-auth-joe@h=none", ("h", 25, "none", "", "")),
        # the account that it goes on with
        (
            "account g {\nset smtp=g from=c@d\n}\naccount q {\nset smtp=smtps://q from=a@b\n"
            "set smtp-auth-user=u smtp-auth-password=p\n}\naccount q",
            ("q", 465, "tls", "u", "p"),
        ),
    ],
)
def test_ways_to_say_it(text: str, expected: tuple[str, int, str, str, str]) -> None:
    found = parsed(text)
    mail = config_of(found)
    assert (mail.smtp_host, mail.smtp_port, mail.security, mail.user, found.password) == expected
    assert mail.sender == "a@b"


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("set hold", "names no mail server"),
        ("set sendmail=/usr/sbin/sendmail mta=/usr/bin/x", "names no mail server"),
        ("set smtp='h from=a@b", "a quote in line 1 does not end"),
        ("set smtp=gopher://h from=a@b", "none that is known"),
        ("set smtp=h", "no address"),
        ("set smtp=u:geheim@ from=a@b", "none that is known"),
    ],
)
def test_what_cannot_be_taken_over(text: str, needed: str) -> None:
    with pytest.raises(ConfigError, match=needed) as caught:
        parsed(text)
    assert "geheim" not in str(caught.value)


@given(st.text(max_size=200))
def test_whatever_stands_there_it_is_read_or_refused(text: str) -> None:
    for more in ("", "set smtp=h from=a@b smtp-auth-user=u smtp-auth-password=pass\n"):
        has_server(more + text)
        with suppress(ConfigError):
            config_of(parsed(more + text))


def test_it_is_added_to_a_configuration_that_is_there(tmp_path: Path) -> None:
    config, mailrc = tmp_path / "config.ini", tmp_path / "mail.rc"
    config.write_text(PEER)
    mailrc.write_text(TUTORIAL)
    done = CliRunner().invoke(init, ["--from-mail-rc", str(mailrc), "--config", str(config)])
    assert done.exception is None, done.output
    assert "next: ngxsync notify --test" in done.output
    assert "Secr3t" not in done.output + config.read_text()
    assert load_config(config.read_text(), str(config)).mail.smtp_host == "smtp.example.com"
    password = tmp_path / "mail-password"
    assert (password.read_text(), password.stat().st_mode & 0o777) == ("Secr3t\n", 0o600)
    assert (tmp_path / "config.ini.old").read_text() == PEER
    again = CliRunner().invoke(init, ["--from-mail-rc", str(mailrc), "--config", str(config)])
    assert isinstance(again.exception, ConfigError)
    assert "[mail]" in again.exception.message.next


@pytest.mark.parametrize("server", ["smtp.example.com;smtp-auth-password=Secr3t", "$Secr3t", "Secr3t.exämple.org"])
def test_a_server_that_is_none_is_not_quoted(server: str) -> None:
    """Settings may have run together there, the password among them."""
    with pytest.raises(ConfigError) as raised:
        parsed(f"set from=a@b.example\nset smtp={server}\n")
    assert "Secr3t" not in str(raised.value)
    assert "mail server" in str(raised.value)

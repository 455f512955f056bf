"""Reads an existing mail.rc (mailx, s-nail): by which server and account mails went, and what was surprising about it. Pure.

No text of ours quotes a value of it: any of them may be, or have in it, a password.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from ngxsync.core.draft import NOTHING, DraftMail
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.options import read_host
from ngxsync.core.pairoptions import PORTS, read_mail_address

URL = re.compile(r"(?:([A-Za-z]+)://)?(?:(.*)@)?(\[[0-9A-Fa-f:.]+\]|[^:/@\s]+)(?::([0-9]{1,5}))?/?")
TLS_SCHEMES, PLAIN_SCHEMES = ("smtps", "submissions"), ("", "smtp", "submission")
# scheme: port where none is named
STANDARD = {"submission": 587, "submissions": 465, "smtps": 465}
KNOWN_AUTH = ("", "login", "plain", "none")


@dataclass(frozen=True)
class MailRc:
    """`draft` has no password; `surprises` are what ngxsync does otherwise, or what was not safe."""

    draft: DraftMail
    password: str = field(repr=False)
    surprises: tuple[str, ...]


def has_server(text: str) -> bool:
    """Whether it says by which server mail goes at all."""
    try:
        return bool(_server(_settings(text)[0]))
    except ValueError:
        return True  # that is for `parse_mailrc` to say


def parse_mailrc(text: str, file: str, password_file: str, *, is_open: bool) -> MailRc:
    """`is_open`: every user of this host can read the file. Raises ConfigError where it names no server that we know."""
    try:
        settings, account = _settings(text)
        return _made(settings, account, file, password_file, is_open)
    except ValueError as error:
        hint = "correct it, or write [mail] by hand: config.example.ini has every option"
        raise ConfigError(Message(str(error), file, NOTHING, hint)) from None


def _settings(text: str) -> tuple[dict[str, str], str]:
    """({name: value, "" where it is merely set}, the account that they are of, "" for the file's own)."""
    accounts: dict[str, dict[str, str]] = {"": {}}
    current = used = ""
    for number, line in _lines(text):
        try:
            words = shlex.split(line.replace("=$'", "='").replace('=$"', '="'))
        except ValueError:
            raise ValueError(f"a quote in line {number} does not end") from None
        if words[:1] == ["account"] and words[-1] == "{":
            current = words[1]
            accounts[current] = {}
        elif words[:1] == ["account"] and len(words) == 2:
            used = words[1]
        elif words == ["}"]:
            current = ""
        elif words[:1] in (["set"], ["se"]):
            pairs = (word.partition("=") for word in words[1:])
            accounts[current].update((_modern(name), value) for name, _, value in pairs)
            for name in [name for name in accounts[current] if name.startswith("no") and name[2:] in accounts[current]]:
                accounts[current].pop(name[2:])
        elif words[:1] in (["unset"], ["uns"]):
            for name in words[1:]:
                accounts[current].pop(_modern(name), None)
    if _server({**accounts[""], **accounts.get(used, {})}):
        return {**accounts[""], **accounts.get(used, {})}, ""
    chosen = next((name for name, own in accounts.items() if _server({**accounts[""], **own})), "")
    return {**accounts[""], **accounts[chosen]}, chosen


def _lines(text: str) -> Iterator[tuple[int, str]]:
    begun, first = "", 0
    for number, line in enumerate(text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n"), 1):
        first = first if begun else number
        whole = begun + line.strip() if begun else line.strip()
        if whole.endswith("\\") and not whole.endswith("\\\\"):
            begun = whole[:-1]
            continue
        begun = ""
        if whole and not whole.startswith("#"):
            yield first, whole


def _modern(name: str) -> str:
    """The older names of the same."""
    return re.sub(r"\Assl-(verify|ca-file)(?=-|\Z)", r"tls-\1", name)


def _server(settings: Mapping[str, str]) -> str:
    """Where mail is sent by SMTP, "" where it is handed to a program of this host."""
    mta = settings.get("mta", "")
    return mta if "://" in mta and not mta.startswith(("file://", "test://")) else settings.get("smtp", "")


def _made(settings: Mapping[str, str], account: str, file: str, password_file: str, is_open: bool) -> MailRc:
    found = URL.fullmatch(_server(settings))
    if not _server(settings):
        raise ValueError("it names no mail server (set smtp=, or set mta=smtps://)")
    scheme, userinfo, host, port = found.groups() if found else ("?", None, "", None)
    scheme = (scheme or "").lower()
    host = host.strip("[]")
    if found is None or scheme not in (*TLS_SCHEMES, *PLAIN_SCHEMES) or not _is_host(host):
        raise ValueError("its mail server is none that is known here (smtp=HOST, smtps://HOST:PORT)")
    surprises: list[str] = []
    settings = _of_this_server(settings, userinfo, host)
    number, security = _way(scheme, port, settings, surprises)
    user, password = _account(userinfo, settings)
    sender = _sender(settings, user)
    login = settings.get("smtp-auth", "")
    if login not in KNOWN_AUTH:
        surprises.append("it logs in by another way than login or plain; ngxsync uses one of these two")
    if account:
        surprises.append("the server is that of its account, which the mail command had to be told with -A")
    surprises += _unsafe(settings, security, user, password, file, is_open)
    surprises.append(
        f"it does not say to whom: `to` is {sender}, the account itself; change it to who shall be woken at night"
    )
    draft = DraftMail(
        file,
        sender,
        sender,
        host,
        0 if number == PORTS[security] else number,
        security,
        user,
        password_file if user and password else "",
        settings.get("tls-ca-file", ""),
    )
    return MailRc(draft, password if user else "", tuple(surprises))


def _is_host(text: str) -> bool:
    """Without the words of what is wrong with it, which would quote it."""
    try:
        read_host(text)
    except ValueError:
        return False
    return True


def _way(scheme: str, port: str | None, settings: Mapping[str, str], surprises: list[str]) -> tuple[int, str]:
    """(port, security) as the mail command has them."""
    number = int(port) if port else STANDARD.get(scheme, 25)
    if scheme in TLS_SCHEMES:
        return number, "tls"
    if "smtp-use-starttls" in settings:
        return number, "starttls"
    if number == 465:
        surprises.append("port 465 wants TLS from the start, and it asks for none: security is tls")
        return number, "tls"
    return number, "none"


def _of_this_server(settings: Mapping[str, str], userinfo: str | None, host: str) -> dict[str, str]:
    """With what is said for this server and account alone in its place: NAME-USER@HOST before NAME-HOST before NAME.

    Older ones say it for the address in `from`.
    """
    own = dict(settings)
    names = ("smtp-auth-user", "user", "smtp-auth", "smtp-use-starttls", "tls-verify", "tls-ca-file")
    for name in (*names, "smtp-auth-password", "password"):
        user = unquote((userinfo or "").partition(":")[0]) or own.get("smtp-auth-user", "") or own.get("user", "")
        accounts = (f"{user}@{host}", user, _address(own.get("from", "")), host)
        found = next((settings[key] for each in accounts if (key := f"{name}-{each}") in settings), None)
        own |= {} if found is None else {name: found}
    return own


def _account(userinfo: str | None, settings: Mapping[str, str]) -> tuple[str, str]:
    """(user, password); s-nail has them in the URL."""
    user, _, password = (userinfo or "").partition(":")
    user = unquote(user) or settings.get("smtp-auth-user", "") or settings.get("user", "")
    found = unquote(password) or settings.get("smtp-auth-password", "") or settings.get("password", "")
    return ("", "") if settings.get("smtp-auth") == "none" else (user, found)


def _address(text: str) -> str:
    """The first address of `Name <a@b>`, `a@b (Name)` or `a@b, c@d`."""
    text = re.sub(r"\([^()]*\)", " ", re.sub(r'"[^"]*"', " ", text))
    inside = re.search(r"<([^<>]+)>", text)
    return (inside[1] if inside else text.partition(",")[0]).strip()


def _sender(settings: Mapping[str, str], user: str) -> str:
    try:
        return read_mail_address(_address(settings.get("from", "")) or user)
    except ValueError:
        raise ValueError("it has no address in `set from=`") from None


def _unsafe(
    settings: Mapping[str, str], security: str, user: str, password: str, file: str, is_open: bool
) -> Iterator[str]:
    if security == "none":
        what = "the password crosses the network in clear text" if password else "mails go in clear text"
        yield f"{what}: where the server has it, set security = starttls (or tls) in [mail]"
    elif settings.get("tls-verify", "") in ("ignore", "warn", "ask"):
        yield (
            "the server's certificate was not verified (ssl-verify): ngxsync does verify it, for the name in smtp_host; "
            "where another has signed it than the system knows, name it in `ca_file`"
        )
    if password and is_open:
        yield f"every user of this host can read the password in {file}: chmod 600 {file}, or take it out there, and change it"
    if user and not password:
        yield "it has a user and no password: write it into a file for root alone, and name that in password_file"

"""`init --from-mail-rc`: an existing mail.rc becomes [mail], its password a file of root's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ngxsync.cli.setup import write_password
from ngxsync.core.config import load_config
from ngxsync.core.draft import NOTHING, render_mail
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.inifile import parse_ini
from ngxsync.core.mailrc import MailRc, has_server, parse_mailrc
from ngxsync.edges.configfile import DEFAULT_FILE, write_private

USUAL = ("/etc/mail.rc", "/etc/s-nail.rc", "/etc/nail.rc", "~/.mailrc")
PASSWORD = "mail-password"


def read(name: str, config: Path) -> MailRc:
    """`name` "" takes the first of the usual files that names a server. Raises ConfigError."""
    file = Path(name) if name else _usual()
    return parse_mailrc(_text(file), str(file), str(config.with_name(PASSWORD)), is_open=_is_open(file))


def _usual() -> Path:
    places = [Path(place).expanduser() for place in USUAL]
    there = [place for place in places if place.is_file()]
    found = next((place for place in there if has_server(_text(place))), None)
    if found is None:
        looked = f"none of them names a mail server: {', '.join(map(str, there))}" if there else "there is no mail.rc"
        hint = "name the file, or write [mail] by hand: config.example.ini has every option"
        raise ConfigError(Message(looked, "", NOTHING, hint))
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(Message(f"it cannot be read: {error.strerror}", str(file), NOTHING, "name another")) from None


def _is_open(file: Path) -> bool:
    return bool(file.stat().st_mode & 0o044)


def tell(found: MailRc) -> Iterator[str]:
    """The lines for a person; the password is in none of them."""
    draft = found.draft
    yield f"From {draft.source}:"
    way = {"none": "in clear text", "starttls": "by STARTTLS", "tls": "by TLS"}[draft.security]
    port = f", port {draft.smtp_port}" if draft.smtp_port else ""
    yield f"  mail       by {draft.smtp_host}{port}, {way}, from {draft.sender} to {draft.to}"
    if draft.user:
        yield f"  login      {draft.user}"
    if draft.password_file:
        yield f"  password   now in {draft.password_file}, which root alone can read"
    yield from (f"  - {text}" for text in found.surprises)


def add_to(config: Path, name: str) -> list[str]:
    """Adds [mail] to a config.ini that has none; the old one is kept beside it. Raises ConfigError, with the section to
    write by hand where it has one."""
    try:
        text = config.read_bytes().decode("utf-8")
    except FileNotFoundError:
        hint = "ngxsync init --peer HOST --from-mail-rc writes a whole one"
        raise ConfigError(Message("there is no configuration yet", str(config), NOTHING, hint)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(Message(f"it cannot be read: {error}", str(config), NOTHING, "run as root")) from None
    found = read(name, config)
    section = render_mail(found.draft)
    if "mail" in parse_ini(text).sections:
        hint = f"compare it with what {found.draft.source} says, and take over what is better:\n{section}"
        raise ConfigError(Message("it has a [mail] already", str(config), NOTHING, hint))
    new = f"{text.rstrip()}\n\n{section}"
    load_config(new, str(config))
    write_password(found)
    write_private(config.with_name(f"{config.name}.old"), text)
    write_private(config, new)
    given = "" if config == DEFAULT_FILE else f" --config {config}"
    return [
        *tell(found),
        f"Written: [mail] at the end of {config}; the file as it was is {config.name}.old",
        f"next: ngxsync notify --test{given}, then systemctl reload ngxsync",
    ]

"""Hands one mail to the SMTP server that config.ini names. The one importer of smtplib, ssl and email, all of them late.

STARTTLS and TLS verify the server's certificate, for its name; a server that offers no STARTTLS is an error and never
means clear text. A password is in no error of ours, whatever the server answers.
"""

from __future__ import annotations

import base64
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ngxsync.core.errors import Message, NgxsyncError
from ngxsync.core.pairoptions import MailConfig
from ngxsync.core.wording import one_line

if TYPE_CHECKING:
    import smtplib
    import ssl
    from email.message import EmailMessage

STEP_S = 30.0  # for one answer of the server: some let a stranger wait before they greet
TAKING_S = 120.0  # for its word that it has the mail: some look at its content first
LONGEST_S = 180.0  # for all of it, however slowly it speaks
BYE_S = 5.0
LAST_S = 10.0  # where the daemon ends, perhaps with its host
LONGEST_PLAIN = 200  # characters of a line that needs no encoding
LONGEST_ANSWER = 1 << 20  # bytes
OUT_OF_TIME = (9, 10)  # openssl/x509_vfy.h: not valid yet, has expired
SHOWN = 300  # characters of what a server says
AGAIN = "it is tried again; at once with ngxsync notify --test"


class MailFailed(NgxsyncError):
    """The server did not take the mail, or there is none. `code` says at which step."""

    exit_status = 1
    code = "mail"


@dataclass(frozen=True)
class Sent:
    """`refused` are addresses that the server did not want, each with its reason; those it `deferred` it may take later. The
    others have it."""

    refused: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()


def make_mail(mail: MailConfig, host: str, subject: str, body: str, mark: str) -> EmailMessage:
    """`mark` names the mail, so that one that is sent again is known for the same."""
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import formatdate

    is_plain = body.isascii() and max(map(len, body.split("\n"))) <= LONGEST_PLAIN
    message = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
    domain = _domain(host)
    message["From"] = mail.sender or f"ngxsync@{domain}"
    message["To"] = ", ".join(mail.to)
    message["Subject"] = one_line(subject)
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = f"<ngxsync.{mark}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(body, charset="utf-8", cte="7bit" if is_plain else "quoted-printable")
    return message


def _domain(host: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", host).strip("-.") or "localhost"


def send(
    mail: MailConfig,
    message: EmailMessage,
    host: str,
    password: str = "",
    longest_s: float = LONGEST_S,
    to: tuple[str, ...] = (),
) -> Sent:
    """Raises MailFailed, with what to do: its code is `deferred` where the server may take it later, `unanswered` where it may
    have taken it. `host` is what this host calls itself: nobody is asked for its full name. `to`: these alone, of `to`."""
    import smtplib

    where = f"{mail.smtp_host}:{mail.smtp_port}"
    try:
        with _connected(mail, host, where, longest_s) as server:
            if mail.user:
                _log_in(server, mail, password, where)
            refused = _hand_over(server, message, to or mail.to, mail, longest_s)
    except MailFailed as error:
        raise MailFailed(_hushed(error.message, mail.user, password), code=error.code) from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise MailFailed(_hushed(_message(error, mail, where), mail.user, password), code=_code(error)) from None
    deferred = tuple(address for address, answer in refused.items() if _is_for_now(answer[0]))
    told = (Message(f"{a}: {_said(answer)}") for a, answer in refused.items() if a not in deferred)
    return Sent(tuple(_hushed(each, mail.user, password).what for each in told), deferred)


def _hand_over(
    server: smtplib.SMTP, message: EmailMessage, to: tuple[str, ...], mail: MailConfig, longest_s: float
) -> dict[str, tuple[int, bytes]]:
    """Whom it was not taken for, with the server's words."""
    import smtplib

    _wait(server, min(TAKING_S, longest_s))
    try:
        return server.send_message(message, to_addrs=list(to))
    except (smtplib.SMTPServerDisconnected, TimeoutError) as error:
        where = f"{mail.smtp_host}:{mail.smtp_port}"
        raise MailFailed(
            replace(_message(error, mail, where), state="it may have been sent"), code="unanswered"
        ) from None


def _is_for_now(code: int) -> bool:
    return 400 <= code < 500


@contextmanager
def _connected(mail: MailConfig, host: str, where: str, longest_s: float) -> Iterator[smtplib.SMTP]:
    """A connection as secure as it is configured, ended after `longest_s` whatever the server does."""
    import smtplib

    context = None if mail.security == "none" else _context(mail)
    name, step_s = _domain(host), min(STEP_S, longest_s / 2)
    is_tls = {"context": context} if mail.security == "tls" else {}
    kind = _bounded(smtplib.SMTP_SSL if is_tls else smtplib.SMTP)
    server: smtplib.SMTP = kind(local_hostname=name, timeout=step_s, **is_tls)
    server._host = mail.smtp_host  # type: ignore[attr-defined] # what a certificate is for; connecting does not set it
    is_over = threading.Event()
    threading.Thread(target=_cut, args=(server, is_over, longest_s), name="mail time-out", daemon=True).start()
    try:
        _raise_if_unwilling(server.connect(mail.smtp_host, mail.smtp_port))
        server.ehlo_or_helo_if_needed()
        if mail.security == "starttls":
            if not server.has_extn("starttls"):
                hint = "set `security` in [mail] to what the server has: tls, or none where the way to it is trusted"
                raise MailFailed(Message("the server offers no STARTTLS", where, "nothing was sent", hint), code="tls")
            server.starttls(context=context)
        yield server
        with suppress(smtplib.SMTPException, OSError):  # it has the mail: how it says good-bye is its own matter
            _wait(server, min(BYE_S, step_s))
            server.quit()
    finally:
        is_over.set()
        server.close()


class _Heard:
    """What a server says, line by line; an answer that does not end is none."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.left = LONGEST_ANSWER

    def readline(self, size: int) -> bytes:
        line: bytes = self._stream.readline(size)
        self.left -= len(line)
        if self.left < 0:
            raise OSError("an answer without end")
        return line

    def close(self) -> None:
        self._stream.close()


def _bounded(kind: type[smtplib.SMTP]) -> Any:
    """The same, with answers that do not fill the memory."""

    class Bounded(kind):  # type: ignore[misc, valid-type]
        file: Any = None

        def getreply(self) -> tuple[int, bytes]:
            if self.file is None:
                self.file = _Heard(self.sock.makefile("rb"))
            self.file.left = LONGEST_ANSWER
            return super().getreply()  # type: ignore[no-any-return]

    return Bounded


def _wait(server: smtplib.SMTP, step_s: float) -> None:
    """So long for each answer from here on."""
    if server.sock is not None:
        server.sock.settimeout(step_s)


def _raise_if_unwilling(greeting: tuple[int, bytes]) -> None:
    import smtplib

    if greeting[0] != 220:
        raise smtplib.SMTPConnectError(*greeting)


def _cut(server: smtplib.SMTP, is_over: threading.Event, longest_s: float) -> None:
    wait_s = longest_s
    while not is_over.wait(wait_s):
        wait_s = 0.5  # it may not be connected yet
        with suppress(OSError, AttributeError):
            server.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]


def _context(mail: MailConfig) -> ssl.SSLContext:
    import ssl

    try:
        return ssl.create_default_context(cafile=str(mail.ca_file) if mail.ca_file else None)
    except OSError as error:
        what = f"no certificates can be read from it: {error.strerror or type(error).__name__}"
        hint = "name a PEM file in `ca_file` of [mail], or take the option out"
        raise MailFailed(Message(what, str(mail.ca_file), "nothing was sent", hint), code="ca-file") from None


def _log_in(server: smtplib.SMTP, mail: MailConfig, password: str, where: str) -> None:
    """PLAIN or LOGIN, in UTF-8; what else smtplib knows where the server has neither."""
    server.ehlo_or_helo_if_needed()
    offered = server.esmtp_features.get("auth", "").upper().split()
    if "PLAIN" in offered:
        both = _encoded(f"\0{mail.user}\0{password}")
        code, answer = server.docmd("AUTH", f"PLAIN {both}")
        if code == 334:  # one that does not hear what comes with the command
            code, answer = server.docmd(both)
    elif "LOGIN" in offered:
        code, answer = server.docmd("AUTH", "LOGIN " + _encoded(mail.user))
        for _ in range(2):
            if code == 334:
                code, answer = server.docmd(_encoded(mail.user if _asks_for_user(answer) else password))
    else:
        server.login(mail.user, password)
        return
    if code not in (235, 503):
        secret = (
            f"the password file ({mail.password_file})" if mail.password_file else "`password_file`, which is not set,"
        )
        hint = f"look at `user` and {secret} in [mail]; then ngxsync notify --test"
        if _is_for_now(code):
            hint = AGAIN
        what = f"the server refused the login of {one_line(mail.user)}: {_said((code, answer))}"
        raise MailFailed(Message(what, where, "nothing was sent", hint), code="login")


def _asks_for_user(challenge: bytes) -> bool:
    try:
        return base64.b64decode(challenge).lower().startswith(b"user")
    except ValueError:
        return False


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode("ascii")


# errors


def _message(error: Exception, mail: MailConfig, where: str) -> Message:
    import smtplib
    import ssl

    state, again = "nothing was sent", AGAIN
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"the server's certificate is not good for {mail.smtp_host}: {error.verify_message}"
        hint = "correct smtp_host, or name who signed it in `ca_file` of [mail]"
        if error.verify_code in OUT_OF_TIME:
            hint = "the server needs a new one, or the clock of this host is wrong (see: date)"
        return Message(what, where, state, hint)
    if isinstance(error, ssl.SSLError):
        hint = "see whether `security` and smtp_port in [mail] belong together: tls 465, starttls 587"
        return Message(f"no TLS with the server: {error.reason or 'it speaks none'}", where, state, hint)
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        told = "; ".join(f"{address}: {_said(answer)}" for address, answer in error.recipients.items())
        if _code(error) == "deferred":
            return Message(f"the server takes it for none of the addresses yet: {told}", where, state, again)
        return Message(f"the server wants none of the addresses: {told}", where, state, "correct `to` in [mail]")
    if isinstance(error, smtplib.SMTPSenderRefused) and not _is_for_now(error.smtp_code):
        what = f"the server does not want {error.sender} as the sender: {_said((error.smtp_code, error.smtp_error))}"
        return Message(what, where, state, "set `from` in [mail] to the address of the account, and log in with `user`")
    if isinstance(error, smtplib.SMTPResponseException):
        return Message(f"the server said no: {_said((error.smtp_code, error.smtp_error))}", where, state, again)
    if isinstance(error, smtplib.SMTPServerDisconnected):
        hint = "see whether `security` and smtp_port in [mail] belong together: tls 465, starttls 587, none 25"
        return Message("the server closed the connection, or took too long", where, state, hint)
    if isinstance(error, UnicodeError | smtplib.SMTPNotSupportedError) or type(error) is smtplib.SMTPException:
        what, hint = _impossible(error)
        return Message(what, where, state, hint)
    if isinstance(error, socket.gaierror):
        return Message(
            f"no such host: {error.strerror}", where, state, f"correct smtp_host in [mail], or mend DNS; {again}"
        )
    if isinstance(error, TimeoutError):
        return Message("the server does not answer in time", where, state, again)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return Message(f"no connection to the mail server: {reason}", where, state, again)


def _impossible(error: Exception) -> tuple[str, str]:
    """What the server does not offer, and what to do."""
    import smtplib

    if isinstance(error, UnicodeError):
        return "its login takes ASCII alone", "give the account a name and a password without other letters"
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return f"the server cannot do it: {error}", "look at `user` and the addresses in [mail]"
    what = "the server offers no way to log in that is known here (PLAIN, LOGIN, CRAM-MD5)"
    return what, "see what the server wants: a password of its own for programs, or another port"


def _code(error: Exception) -> str:
    import smtplib
    import ssl

    if isinstance(error, ssl.SSLError):
        return "certificate" if isinstance(error, ssl.SSLCertVerificationError) else "tls"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "deferred" if all(_is_for_now(code) for code, _ in error.recipients.values()) else "address"
    if isinstance(error, smtplib.SMTPSenderRefused):
        return "deferred" if _is_for_now(error.smtp_code) else "address"
    return "mail-refused" if isinstance(error, smtplib.SMTPResponseException) else "mail-unreachable"


def _said(answer: Any) -> str:
    code, text = answer
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return one_line(f"{code} {words}")


def _hushed(message: Message, user: str, password: str) -> Message:
    """Without what a server repeats of what it was given, and cut."""
    forms = [password, one_line(password), _encoded(password), repr(password)[1:-1], _encoded(f"\0{user}\0{password}")]
    if password and any(form in message.what for form in forms):
        return replace(message, what="the server refused it, in words that have the password in them")
    return replace(message, what=message.what[:SHOWN])

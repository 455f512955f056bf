"""A real SMTP server for the tests: STARTTLS or TLS with a certificate made here, login, and what it refuses.

`python -m tests.mailserver FOLDER PORT` serves inside a host, and writes each mail into FOLDER.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.hosts import PROJECT, Host

USER, PASSWORD = "web@example.org", "s3cret pässword"


@dataclass
class MailServer:
    """`raw` are the mails as they came, `whom` each was for; `answer` what it says after the content; `seen` when each came
    (monotonic). `deferred` it takes mail for at the second time."""

    port: int = 0
    raw: list[bytes] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    answer: str = "250 OK"
    slow_s: float = 0.0
    logins: list[tuple[str, bool]] = field(default_factory=list)
    refused: tuple[str, ...] = ()
    deferred: list[str] = field(default_factory=list)
    whom: list[list[str]] = field(default_factory=list)
    folder: Path | None = None

    @property
    def mails(self) -> list[EmailMessage]:
        return [message_from_bytes(raw, policy=default) for raw in self.raw]  # type: ignore[misc]

    async def handle_RCPT(
        self, _server: Any, _session: Session, envelope: Envelope, address: str, _options: Any
    ) -> str:
        if address in self.refused:
            return "550 no such user"
        if address in self.deferred:
            self.deferred.remove(address)
            return "450 not now"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Session, envelope: Envelope) -> str:
        if self.slow_s and not self.raw:
            self.raw.append(envelope.original_content or b"")
            await asyncio.sleep(self.slow_s)  # the mail is there, and the client does not know
        elif self.answer.startswith("250"):
            self.seen.append(time.monotonic())
            self.raw.append(envelope.original_content or b"")
            self.whom.append(list(envelope.rcpt_tos))
            if self.folder is not None:
                temporary = self.folder / f".{len(self.raw):04d}"
                temporary.write_bytes(self.raw[-1])
                temporary.rename(self.folder / f"{len(self.raw):04d}.eml")
        return self.answer

    def authenticate(self, _server: Any, session: Session, _envelope: Any, mechanism: str, data: Any) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        self.logins.append((mechanism, session.ssl is not None))
        return AuthResult(success=good, handled=good)


@contextmanager
def mail_server(
    certificate: Path | None = None, *, security: str = "none", login: bool = False, port: int = 0, **options: Any
) -> Iterator[MailServer]:
    """On a free port of loopback. `certificate` holds key and certificate."""
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    handler = MailServer(port or free_port(), **options)
    more: dict[str, Any] = {}
    if login:
        more = {
            "authenticator": handler.authenticate,
            "auth_required": True,
            "auth_require_tls": security == "starttls",
        }
    if security == "starttls":
        more |= {"tls_context": context, "require_starttls": True}
    controller = Controller(
        handler,
        hostname="127.0.0.1",
        port=handler.port,
        ssl_context=context if security == "tls" else None,
        **more,
    )
    controller.start()
    try:
        yield handler
    finally:
        controller.stop()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificate(folder: Path, name: str = "localhost", days: int = 2) -> Path:
    """Key and certificate, signed by itself, in one file; it is also what `ca_file` names. `days` below 0: expired."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=30))
    builder = builder.not_valid_after(now + timedelta(days=days))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / f"{name}{days}.pem"
    file.write_bytes(secret + builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return file


class HostMail:
    """The server inside a host: `mails` are those that came so far."""

    def __init__(self, host: Host, port: int = 2525, address: str = "127.0.0.1") -> None:
        self.folder = host.path("/run/mail")
        self.folder.mkdir(exist_ok=True)
        argv = [sys.executable, "-m", "tests.mailserver", "/run/mail", str(port), address]
        self.process = host.popen(argv, env={"PYTHONPATH": str(PROJECT)}, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    @property
    def mails(self) -> list[EmailMessage]:
        files = sorted(self.folder.glob("*.eml"))
        return [message_from_bytes(file.read_bytes(), policy=default) for file in files]  # type: ignore[misc]

    @property
    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.mails]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def mail_in(host: Host) -> Iterator[HostMail]:
    server = HostMail(host)
    try:
        yield server
    finally:
        server.close()


def main(folder: str, port: str, address: str) -> None:
    """For who logs in, without TLS: the way to it is the host's own."""
    handler = MailServer(int(port), folder=Path(folder))
    login: dict[str, Any] = {"authenticator": handler.authenticate, "auth_required": True, "auth_require_tls": False}
    controller = Controller(handler, hostname=address, port=int(port), **login)
    controller.start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])

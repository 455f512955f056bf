"""What the files of this host say of its mail, as named checks. Pure; whether the server takes it, a test mail shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address

from ngxsync.core.checkup import FAILED, OK, WARNING, Check, check_of_message
from ngxsync.core.errors import Message
from ngxsync.core.pairoptions import MailConfig


def judge_mail(host: str, mail: MailConfig, password_problem: Message | None) -> Iterator[Check]:
    """Nothing where nobody is told: `status` says that."""
    if not mail.to:
        return
    if password_problem is not None:
        yield check_of_message(host, "mail", password_problem, FAILED)
        return
    told = f"to {', '.join(mail.to)} by {mail.smtp_host}:{mail.smtp_port} ({mail.security})"
    if mail.user and mail.password_file is None:
        hint = "write its password into a file for root alone, and name that in `password_file` of [mail]"
        yield Check(host, "mail", FAILED, f"{told}: `user` is set, and no password", hint)
    elif mail.user and mail.security == "none" and not _is_here(mail.smtp_host):
        hint = "set `security` in [mail] to starttls or tls"
        yield Check(host, "mail", WARNING, f"{told}: the password crosses the network in clear text", hint)
    else:
        yield Check(host, "mail", OK, f"{told}; ngxsync notify --test tries it")


def _is_here(smtp_host: str) -> bool:
    with suppress(ValueError):
        return ip_address(smtp_host).is_loopback
    return smtp_host == "localhost"

"""[vrrp] and [mail] of config.ini as values, and the readers of their options: what a pair has beyond its trees."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

PORTS = {"starttls": 587, "tls": 465, "none": 25}
KINDS = ("failures", "drift", "roles")


@dataclass(frozen=True)
class VrrpConfig:
    """`vips` are as configured, addresses with or without a prefix; empty: this pair has no VIP that we know of.

    The rest is what `keepalived render` writes. `virtual_router_id` 0 and `password_file` None: not set.
    """

    vips: tuple[str, ...] = ()
    require_vip: bool = True
    virtual_router_id: int = 0
    advert_int_s: float = 1.0
    password_file: Path | None = None
    unicast: bool = False
    nopreempt: bool = False
    preempt_delay_s: float = 0.0
    check_interval_s: float = 2.0
    check_weight: int = -5
    check_fall: int = 3
    check_rise: int = 2
    check_url: str = ""
    notify: str = "script"  # or "fifo"

    @property
    def decides(self) -> bool:
        """Whether only who holds the VIP pushes."""
        return bool(self.vips) and self.require_vip

    @property
    def addresses(self) -> tuple[str, ...]:
        """The VIPs in their normal form, without a prefix: what an interface carries."""
        return tuple(str(ip_interface(vip).ip) for vip in self.vips)


@dataclass(frozen=True)
class MailConfig:
    """`to` empty: nobody is told by mail. `user` is "" where the server wants none."""

    to: tuple[str, ...] = ()
    sender: str = ""
    smtp_host: str = "localhost"
    smtp_port: int = PORTS["starttls"]
    security: str = "starttls"  # tls, none
    user: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    on: tuple[str, ...] = KINDS
    remind_every_s: float | None = 86400.0


def make_vrrp(values: Mapping[str, Any]) -> VrrpConfig:
    """Of the values of [vrrp], each read or None."""
    return VrrpConfig(
        vips=values["vip"] or (),
        require_vip=values["require_vip"],
        virtual_router_id=values["virtual_router_id"] or 0,
        advert_int_s=values["advert_int"],
        password_file=_path(values["password_file"]),
        unicast=values["unicast"],
        nopreempt=values["nopreempt"],
        preempt_delay_s=values["preempt_delay"],
        check_interval_s=values["check_interval"],
        check_weight=values["check_weight"],
        check_fall=values["check_fall"],
        check_rise=values["check_rise"],
        check_url=values["check_url"] or "",
        notify=values["notify"],
    )


def make_mail(values: Mapping[str, Any]) -> MailConfig:
    """Of the values of [mail], each read or None."""
    return MailConfig(
        to=values["to"] or (),
        sender=values["from"] or "",
        smtp_host=values["smtp_host"],
        smtp_port=values["smtp_port"] or PORTS[values["security"]],
        security=values["security"],
        user=values["user"] or "",
        password_file=_path(values["password_file"]),
        ca_file=_path(values["ca_file"]),
        on=values["on"],
        remind_every_s=values["remind_every"],
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def vrrp_texts(vrrp: VrrpConfig) -> dict[str, Any]:
    """Field by field under the names of the options; {} where the pair has no VIP, since the section needs one."""
    named = {("vip" if field == "vips" else field): value for field, value in vars(vrrp).items()}
    return {**named, "virtual_router_id": named["virtual_router_id"] or None} if vrrp.vips else {}


def mail_texts(mail: MailConfig) -> dict[str, Any]:
    """Field by field under the names of the options."""
    return {("from" if field == "sender" else field): value for field, value in vars(mail).items()}


# readers: the text of a value to what is used; ValueError with "what is wrong, what is allowed"


def read_vips(text: str) -> tuple[str, ...]:
    """Addresses, each with or without a prefix, one a line."""
    vips = tuple(line.strip() for line in text.split("\n") if line.strip())
    for vip in vips:
        try:
            address = ip_interface(vip).ip
        except ValueError:
            raise ValueError(f"{vip!r} is no address, allowed is e.g. 192.0.2.100 or 192.0.2.100/24") from None
        if address.is_loopback or address.is_multicast or address.is_unspecified or "%" in vip:
            raise ValueError(f"{vip} cannot move between hosts, allowed is an address of their network")
    addresses = [ip_interface(vip).ip for vip in vips]
    twice = next((str(each) for each in addresses if addresses.count(each) > 1), None)
    if twice:
        raise ValueError(f"{twice} is there twice, allowed is each once")
    return vips


def read_router_id(text: str) -> int:
    return _number(text, 1, 255)


def read_priority(text: str) -> int:
    return _number(text, 1, 254)


def read_weight(text: str) -> int:
    return _number(text, -253, 253)


def read_times(text: str) -> int:
    return _number(text, 1, 99)


def _number(text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"-?[0-9]{1,3}", text) or not least <= int(text) <= most:
        raise ValueError(f"{text!r} is out of range, allowed is {least} to {most}")
    return int(text)


def read_interface(text: str) -> str:
    if not re.fullmatch(r"[^\s/\"']{1,15}", text) or text in (".", ".."):
        raise ValueError(f"{text!r} is no interface, allowed is one's name, e.g. eth0")
    return text


def read_mail_address(text: str) -> str:
    if (
        not re.fullmatch(r"[^\s@<>()\[\]\\,;:\"]+(@[A-Za-z0-9.-]+)?", text)
        or not text.isprintable()
        or text.startswith("-")
    ):
        raise ValueError(f"{text!r} is no mail address, allowed is e.g. admin@example.org")
    return text


def read_mail_addresses(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    several = next((line for line in lines if re.search(r"@.*[,;\s].*@", line)), None)
    if several is not None:
        raise ValueError(f"{several!r} is no mail address, allowed are several as a list, one a line")
    found = tuple(read_mail_address(line) for line in lines)
    if len(set(found)) < len(found):
        raise ValueError("an address is there twice, allowed is each once")
    return found


def read_kinds(text: str) -> tuple[str, ...]:
    words = tuple(re.split(r"[\s,]+", text.strip()))
    unknown = next((word for word in words if word not in KINDS), None)
    if unknown is not None or len(set(words)) < len(words):
        raise ValueError(f"{unknown or text!r} is unknown or there twice, allowed are {', '.join(KINDS)}")
    return words


def read_user_name(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has a character that cannot be printed, allowed is the name of the account")
    return text

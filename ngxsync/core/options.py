"""The sections and options of config.ini, each with the reader of its value and its default (DESIGN 9).

A reader takes the text of a value and gives what the program uses; it raises ValueError with "what is wrong, what is
allowed". A default is written as a user would write it and goes through the same reader.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from ngxsync.agent.manifest import is_clean
from ngxsync.core import pairoptions
from ngxsync.core.cronfields import check_fields

SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
LONGEST_S = 365 * 86400
LONGEST_WAIT_S = (
    30  # a peer that is ready to apply waits for the burst's end, a minute at most (GO_S in agent/verbs.py)
)


@dataclass(frozen=True)
class Option:
    """`default` None: there is none that could be written down; the value is then None, or what config.py says."""

    read: Callable[[str], Any]
    default: str | None = None
    required: bool = False


def read_path(text: str) -> str:
    if not is_clean(text):
        raise ValueError(f"{text!r} is no path, allowed is an absolute one without '..', '//' or a slash at its end")
    return text


def read_tree(text: str) -> str:
    if read_path(text) == "/":
        raise ValueError("/ is a whole machine, allowed is a directory in it")
    return text


def read_conf(text: str) -> str:
    return text if text.startswith("/") and read_path(text) else _read_relative(text)


def _read_relative(text: str) -> str:
    if posixpath.normpath(text) != text or text.split("/")[0] in ("..", "."):
        raise ValueError(f"{text!r} is no path, allowed is an absolute one or one below root, without '.' or '..'")
    return text


def read_trees(text: str) -> tuple[str, ...]:
    lines = read_list(text)
    joined = next((line for line in lines if re.search(r",\s*/", line)), None)
    if joined is not None:
        raise ValueError(f"{joined!r} looks like several trees, allowed is one a line, the further ones indented")
    trees = tuple(read_tree(line) for line in lines)
    for tree in trees:
        outer = next((other for other in trees if other != tree and tree.startswith(other + "/")), None)
        if outer:
            raise ValueError(f"{tree} lies in {outer}, allowed are trees that are apart: {outer} carries it already")
    return trees


def read_content(text: str) -> tuple[str, ...]:
    if text == "no":
        raise ValueError("'no' is no path, allowed are paths; to reload after every change, set reload_when = always")
    return tuple(read_conf(line) for line in read_list(text))


def read_list(text: str) -> tuple[str, ...]:
    """One a line, in order. Raises ValueError where one is there twice."""
    lines = tuple(line.strip() for line in text.split("\n") if line.strip())
    twice = next((line for number, line in enumerate(lines) if line in lines[:number]), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is there twice, allowed is each once")
    return lines


def read_patterns(text: str) -> tuple[str, ...]:
    from ngxsync.core.excludes import compile_excludes  # imports pathspec, which most commands never need

    patterns = read_list(text)
    compile_excludes(patterns)
    return patterns


def read_peer_patterns(text: str) -> tuple[str, ...]:
    taken_back = next((pattern for pattern in read_list(text) if pattern.startswith("!")), None)
    if taken_back:
        raise ValueError(
            f"{taken_back!r} would send to one peer what the others never get, allowed are patterns that add to "
            "[sync] exclude; take a pattern back in [sync] exclude, and add it for the peers that must not get it"
        )
    return read_patterns(text)


def read_duration(text: str) -> float:
    """Seconds. More than 0: no option means anything by an instant."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not found:
        raise ValueError(f"{text!r} is no duration, allowed is a number with ms, s, m, h or d, e.g. 200ms or 10m")
    seconds = float(Decimal(found[1]) * UNITS[found[2]])
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(f"{text} is out of range, allowed is more than 0 and at most 365d")
    return seconds


def read_delay(text: str) -> float:
    """Seconds, 0 for none."""
    return 0.0 if re.fullmatch(r"0(\.0+)?(ms|s|m|h|d)", text) else read_duration(text)


def read_wait(text: str) -> float:
    """Seconds, as long as a peer that is ready to apply may be kept waiting."""
    seconds = read_duration(text)
    if seconds > LONGEST_WAIT_S:
        said = f"{text} is longer than a peer that is ready may be kept waiting, allowed is at most {LONGEST_WAIT_S}s"
        raise ValueError(said)
    return seconds


def read_count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not int(text):
        raise ValueError(f"{text!r} is no number of runs, allowed is 1 to 99999")
    return int(text)


def read_size(text: str) -> int:
    """Bytes."""
    found = re.fullmatch(r"([0-9]{1,9})([KMG])", text)
    if not found or not int(found[1]):
        raise ValueError(f"{text!r} is no size, allowed is a whole number with K, M or G, e.g. 500M or 2G")
    return int(found[1]) * SIZES[found[2]]


def read_share(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if not found or float(found[1]) > 100:
        raise ValueError(f"{text!r} is no share, allowed is 0% to 100%, or no")
    return float(found[1])


def read_schedule(text: str) -> str:
    """Five fields of a crontab, one space between."""
    wrong = check_fields(text)
    if wrong:
        raise ValueError(f"{text!r} is no schedule: {wrong}; e.g. 30 3 * * *, or no")
    return " ".join(text.split())


def read_yes_no(text: str) -> bool:
    return _one_of("yes", "no")(text) == "yes"


def read_command(text: str) -> str:
    """SIGHUP, or a command of one line."""
    if "\n" in text:
        raise ValueError("it has more than one line, allowed is one command")
    if text.lower() in ("sighup", "hup", "no", "none") and text != "SIGHUP":
        raise ValueError(f"{text!r} is no command, allowed is SIGHUP or a command such as systemctl reload nginx")
    return text


def read_event_command(text: str) -> str:
    """A command of one line, by the shell."""
    if "\n" in text:
        raise ValueError("it has more than one line, allowed is one command")
    return text


def read_binary(text: str) -> str:
    if text != "auto" and not is_clean(text):
        raise ValueError(f"{text!r} is no path, allowed is auto or an absolute path, e.g. /usr/local/nginx/sbin/nginx")
    return text


def read_host(text: str) -> str:
    is_name = re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", text)
    if not is_name and not (re.fullmatch(r"[A-Za-z0-9:.%_-]+", text) and _is_address(text)):
        raise ValueError(f"{text!r} is no host, allowed is a name or an address; user and port have their own options")
    return text


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def read_port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"{text!r} is no port, allowed is 1 to 65535")
    return int(text)


def read_user(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]*\$?", text):
        raise ValueError(f"{text!r} is no user, allowed is the name of an account on the peer")
    return text


def read_jump(text: str) -> str:
    if not re.fullmatch(
        r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:]+\])(:\d{1,5})?", text
    ):
        raise ValueError(f"{text!r} is no jump host, allowed is one, as host, user@host or user@host:port")
    return text


def read_url(text: str) -> str:
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and url.hostname and url.port != 0 and text.isprintable()
    except ValueError:
        good = False
    if not good or " " in text:
        named = "what stands here" if "@" in text else repr(text)  # a password is quoted nowhere
        raise ValueError(f"{named} is no URL, allowed is http://HOST[:PORT]/PATH or https://")
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is unknown, allowed is {' or '.join(words)}")
        return text

    return read


def _or_no(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """`no` switches off: the value is then None."""

    def read_or_no(text: str) -> Any:
        try:
            return None if text == "no" else read(text)
        except ValueError as error:
            told = str(error)
            raise ValueError(told if "or no" in told else f"{told}, or no") from None

    return read_or_no


NGINX = {
    "root": Option(read_tree, "/usr/local/nginx"),
    "binary": Option(read_binary, "auto"),
    "conf": Option(read_conf, "conf/nginx.conf"),
    "reload": Option(read_command, "SIGHUP"),
    "reload_when": Option(_one_of("auto", "always"), "auto"),
    "content": Option(read_content, "html"),
    "prove_timeout": Option(read_duration),
    "rehearse": Option(_one_of("overlay", "live"), "overlay"),
}
SYNC = {
    "trees": Option(read_trees),
    "exclude": Option(read_patterns),
    "on_change": Option(read_yes_no, "yes"),
    "settle": Option(read_duration, "200ms"),
    "max_wait": Option(read_wait, "5s"),
    "check_every": Option(_or_no(read_duration), "10m"),
    "schedule": Option(_or_no(read_schedule), "30 3 * * *"),
    "max_delete": Option(_or_no(read_share), "30%"),
    "on_drift": Option(_one_of("heal", "hold"), "heal"),
    "follow": Option(_one_of("saved", "running"), "saved"),
    "soak": Option(read_delay, "0s"),
    "keep_runs": Option(read_count, "20"),
    "keep_for": Option(read_duration, "14d"),
    "keep_size": Option(read_size, "2G"),
}
PEER = {
    "host": Option(read_host, required=True),
    "port": Option(read_port, "22"),
    "user": Option(read_user, "root"),
    "identity": Option(read_path, required=True),
    "known_hosts": Option(read_path, "/etc/ngxsync/known_hosts"),
    "jump": Option(read_jump),
    "state_dir": Option(read_path),
    "exclude": Option(read_peer_patterns),
    "connect_timeout": Option(read_duration, "5s"),
    "probe": Option(read_url),
    "reload": Option(read_command),
    "prove_timeout": Option(read_duration),
    "rehearse": Option(_one_of("overlay", "live")),
    "interface": Option(pairoptions.read_interface),
    "priority": Option(pairoptions.read_priority),
}
VRRP = {
    "vip": Option(pairoptions.read_vips),
    "require_vip": Option(read_yes_no, "yes"),
    "virtual_router_id": Option(pairoptions.read_router_id),
    "advert_int": Option(read_duration, "1s"),
    "password_file": Option(read_path),
    "unicast": Option(read_yes_no, "no"),
    "nopreempt": Option(read_yes_no, "no"),
    "preempt_delay": Option(read_delay, "0s"),
    "check_interval": Option(read_duration, "2s"),
    "check_weight": Option(pairoptions.read_weight, "-5"),
    "check_fall": Option(pairoptions.read_times, "3"),
    "check_rise": Option(pairoptions.read_times, "2"),
    "check_url": Option(read_url),
    "notify": Option(_one_of("script", "fifo"), "script"),
}
MAIL = {
    "to": Option(pairoptions.read_mail_addresses),
    "from": Option(pairoptions.read_mail_address),
    "smtp_host": Option(read_host, "localhost"),
    "smtp_port": Option(read_port),
    "security": Option(_one_of(*pairoptions.PORTS), "starttls"),
    "user": Option(pairoptions.read_user_name),
    "password_file": Option(read_path),
    "ca_file": Option(read_path),
    "on": Option(pairoptions.read_kinds, ", ".join(pairoptions.KINDS)),
    "remind_every": Option(_or_no(read_duration), "1d"),
}
NGXSYNC = {
    "state_dir": Option(read_path, "/var/lib/ngxsync"),
    "log_format": Option(_one_of("text", "json"), "text"),
    "on_event": Option(read_event_command),
}
SECTIONS = {"nginx": NGINX, "sync": SYNC, "vrrp": VRRP, "mail": MAIL, "ngxsync": NGXSYNC}

"""What the facts of two hosts say together: is the peer able to run what the master runs? Pure, as judge_host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ngxsync.core.checkup import FAILED, OK, WARNING, Check
from ngxsync.core.config import PeerConfig

Facts = Mapping[str, Any]
CLOCK_S = 2.0  # more than this is worth a word: runs are told apart by people by their time
SHOWN = 5


def judge_same_host(master: str, whoami: tuple[str, str], user: str, host: str) -> Check:
    """Both ssh stacks reach one host as one user, and that host is not this one. whoami is "user@host boot-id" of both.

    `master` is "host boot-id" of this one: containers share the boot id, so the name counts too.
    """
    name = "both ssh stacks"
    ours, theirs = whoami
    if ours != theirs:
        told = f"fabric reaches {ours.split(' ')[0]} and OpenSSH reaches {theirs.split(' ')[0]}"
        return Check(host, name, FAILED, told, "see what DNS, /etc/hosts or a balancer make of the address")
    account, _, reached = ours.partition("@")
    if reached == master:
        told = "they reach this very machine"
        return Check(host, name, WARNING, told, "correct `host` in the configuration, unless this is a trial")
    told = f"{account}@{reached.partition(' ')[0]} by fabric and by OpenSSH"
    if account != user:
        hint = f"two accounts with one number? see `getent passwd` on {host}"
        return Check(host, name, WARNING, f"{told}, and {user} logs in", hint)
    return Check(host, name, OK, told)


def judge_gate(host: str, has_gate: bool) -> Check:
    """Whether the key is a restricted one."""
    if has_gate:
        return Check(host, "restricted key", OK, "it calls the agent and fills a stage, and opens no shell")
    told = "whoever gets this key has a shell there"
    return Check(host, "restricted key", WARNING, told, f"ngxsync peer install {host}")


def judge_config(peer: PeerConfig, file: str, ours: Facts, theirs: Facts) -> Check | None:
    """One config.ini serves all hosts of a pair (README). None where that of the peer is not known.

    So it is with an agent of an earlier release, or one that runs without root.
    """
    marks = ours.get("config"), theirs.get("config")
    if "config" not in theirs or marks[0] is None or (marks[1] is None and theirs["hello"]["uid"] != 0):
        return None
    host, name = peer.name, "same config.ini"
    hint = f"it goes to both, by you: scp -p {file} root@{peer.host}:{file}; then there: systemctl reload ngxsync"
    if marks[1] is None:
        return Check(
            host, name, WARNING, "there is none that can be read: after a takeover that host sends nothing", hint
        )
    other = sorted(option for option in {*marks[0], *marks[1]} if marks[0].get(option) != marks[1].get(option))
    if not other:
        return Check(host, name, OK, "it says the same there")
    more = f", and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
    told = f"it says something else there: {', '.join(other[:SHOWN])}{more}"
    return Check(host, name, WARNING, told, hint)


def judge_rsync(host: str, version: str) -> Check:
    if not version:
        hint = "install rsync there, or put it into the PATH of logins without a terminal"
        return Check(host, "rsync", FAILED, "it is not there", hint)
    return Check(host, "rsync", OK, version)


def judge_nginx_versions(host: str, master: Facts, peer: Facts) -> Check | None:
    """None where one of them has no nginx: that is told elsewhere."""
    if not master["found"] or not peer["found"]:
        return None
    if master["version"] != peer["version"]:
        told = f"{peer['version']} there, {master['version']} here"
        return Check(host, "same nginx", WARNING, told, "install the same version on both: directives differ")
    missing = sorted(_options(master["build"]) - _options(peer["build"]))
    if missing:
        told = f"both are {peer['version']}, built without {', '.join(missing[:SHOWN])} there"
        return Check(host, "same nginx", WARNING, told, "what needs these modules is refused there")
    return Check(host, "same nginx", OK, str(peer["version"]))


def _options(build: str) -> set[str]:
    """The modules of `nginx -V`."""
    return {word for word in build.split() if word.startswith("--with-") and word.partition("=")[0].endswith("_module")}


def judge_clock(host: str, difference_s: float, accuracy_s: float) -> Check:
    """`difference_s` is the peer's clock less ours, known to within `accuracy_s`."""
    if abs(difference_s) - accuracy_s > CLOCK_S:
        way = "ahead of" if difference_s > 0 else "behind"
        told = f"{abs(difference_s):.1f} s {way} this host's"
        return Check(host, "clock", WARNING, told, "let NTP set both clocks (chrony, systemd-timesyncd)")
    return Check(host, "clock", OK, "within 2 s of this host's")


def judge_users(host: str, missing: list[str]) -> Check:
    if missing:
        commands = [f"{kind}add --system {name}" for kind, _, name in (text.partition(" ") for text in missing)]
        hint = f"on {host}: {'; '.join(commands)}"
        return Check(host, "users and groups", FAILED, f"{host} has no {', no '.join(missing)}", hint)
    return Check(host, "users and groups", OK, "all that the trees and nginx name are there")


def judge_listens(host: str, master: Facts, peer: Facts) -> Check:
    """`listen` on an address that the peer does not have now fails `nginx -t` there, unless ip_nonlocal_bind is 1."""
    name = "listen addresses"
    own = set(peer["addresses"])
    foreign = [
        (address, file, line) for address, file, line in master["nginx"].get("listens", ()) if address not in own
    ]
    refused = [item for item in foreign if peer["nonlocal_bind6" if ":" in item[0] else "nonlocal_bind"] != "1"]
    if refused:
        kinds = sorted(
            {"net.ipv6.ip_nonlocal_bind" if ":" in item[0] else "net.ipv4.ip_nonlocal_bind" for item in refused}
        )
        told = "; ".join(
            f"{file}:{line}: {host} does not have {address} now" for address, file, line in refused[:SHOWN]
        )
        hint = f"nginx there refuses it until, on {host}: " + "; ".join(
            f"echo '{kind} = 1' >> /etc/sysctl.d/90-nginx.conf; sysctl -w {kind}=1" for kind in kinds
        )
        return Check(host, name, WARNING, told, hint)
    if foreign:
        told = f"{', '.join(item[0] for item in foreign[:SHOWN])} may be bound there before they are"
        return Check(host, name, OK, told)
    return Check(host, name, OK, "none that the peer lacks")

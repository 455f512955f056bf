"""How alike two hosts are in what no sync makes equal: nginx's build, OpenSSL, its user, limits, the kernel. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ngxsync.core.checkup import OK, WARNING, Check
from ngxsync.core.judge_pair import judge_nginx_versions

Facts = Mapping[str, Any]
EQUAL = ("net.ipv4.ip_local_port_range", "net.ipv6.bindv6only", "net.ipv6.conf.all.disable_ipv6")
AT_LEAST = ("net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog")


def judge_parity(host: str, master: Facts, peer: Facts) -> Iterator[Check]:
    """What an agent of an earlier release does not say is not judged."""
    if not (master["nginx"]["found"] and peer["nginx"]["found"]):
        return
    found = [
        judge_nginx_versions(host, master["nginx"], peer["nginx"]),
        judge_openssl(host, master["nginx"], peer["nginx"]),
        judge_user(host, master["nginx"], peer["nginx"]),
        judge_limits(host, master, peer),
        judge_sysctls(host, master, peer),
    ]
    yield from filter(None, found)


def judge_openssl(host: str, master: Facts, peer: Facts) -> Check | None:
    """Releases of one series (3.0) know the same protocols and ciphers."""
    ours, theirs = running_openssl(master.get("openssl", "")), running_openssl(peer.get("openssl", ""))
    if not ours or not theirs:
        return None
    told = f"{theirs} there, {ours} here"
    if ours.split(".")[:2] != theirs.split(".")[:2]:
        return Check(host, "same OpenSSL", WARNING, told, "protocols and ciphers differ: run the same release on both")
    return Check(host, "same OpenSSL", OK, theirs if ours == theirs else told)


def running_openssl(told: str) -> str:
    """ "OpenSSL 3.0.11 19 Sep 2023 (running with OpenSSL 3.0.15 3 Sep 2024)" as "OpenSSL 3.0.15"."""
    found = re.findall(r"([A-Za-z]+ [0-9]+\.[0-9][0-9A-Za-z.]*)", told)
    return str(found[-1]).replace("with ", "") if found else ""


def judge_user(host: str, master: Facts, peer: Facts) -> Check | None:
    """A `user` in the configuration is synced; without one it is what was compiled in."""
    if master.get("user") or "user" not in master:
        return None
    ours, theirs = (_compiled(facts["build"], "--user=") or "nobody" for facts in (master, peer))
    if ours != theirs:
        told = f"nginx's workers are {theirs} there, {ours} here"
        return Check(host, "worker user", WARNING, told, "name it with `user` in the configuration")
    return Check(host, "worker user", OK, theirs)


def _compiled(build: str, option: str) -> str:
    return next((word[len(option) :].strip("'") for word in build.split() if word.startswith(option)), "")


def judge_limits(host: str, master: Facts, peer: Facts) -> Check | None:
    """Open files that a worker may have; `worker_rlimit_nofile` sets it on both alike."""
    ours, theirs = (facts.get("limits", {}).get("nofile") for facts in (master, peer))
    if not ours or not theirs:
        return None
    set_by = master["limits"].get("worker_rlimit_nofile")
    soft = [each[0] if each[0] >= 0 else 1 << 62 for each in (ours, theirs)]
    if not set_by and soft[1] < soft[0]:
        told = f"nginx may have {theirs[0]} files open there, {_limit(ours[0])} here"
        return Check(host, "limits", WARNING, told, "set worker_rlimit_nofile, or LimitNOFILE= in nginx's unit there")
    return Check(host, "limits", OK, f"{set_by or _limit(theirs[0])} open files")


def _limit(number: int) -> str:
    return "any number of" if number < 0 else str(number)


def judge_sysctls(host: str, master: Facts, peer: Facts) -> Check | None:
    """The kernel's settings that nginx feels."""
    ours, theirs = (facts.get("sysctls") for facts in (master, peer))
    if ours is None or theirs is None:
        return None
    names = [name for name in (*EQUAL, *AT_LEAST) if name in ours and name in theirs]
    less = [name for name in names if name in AT_LEAST and _number(theirs[name]) < _number(ours[name])]
    other = [name for name in names if name in EQUAL and theirs[name] != ours[name]]
    if less or other:
        told = ", ".join(f"{name} is {theirs[name]} there, {ours[name]} here" for name in [*other, *less])
        hint = f"on {host}: " + "; ".join(f"sysctl -w {name}='{ours[name]}'" for name in [*other, *less])
        return Check(host, "kernel settings", WARNING, told, f"{hint}, and in /etc/sysctl.d")
    return Check(host, "kernel settings", OK, "as here")


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def parity_digest(master: Facts, peer: Facts) -> str:
    """What changes when one of the hosts is upgraded or set up otherwise: what `judge_parity` looks at."""
    seen = [[facts["nginx"].get(key) for key in ("version", "build", "openssl", "user")] for facts in (master, peer)]
    seen += [[facts.get("sysctls"), facts.get("limits")] for facts in (master, peer)]
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

"""The verb vrrp: what `keepalived check` wants to know of a host. Nothing is changed, and no keepalived has to be there.

Of keepalived.conf only what concerns VRRP is told, as statements, each password as its length and a salted hash of what counts of it.
"""

import hashlib
import os
import socket
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from . import firewall, vrrpfiles
from .addresses import carried_addresses, own_addresses
from .rulewalk import AH, MULTICAST, VRRP, Packet
from .vrrplines import Statement, top_blocks, unclosed
from .vrrpscripts import scripts

Answer = Dict[str, Any]

BLOCKS = ("global_defs", "vrrp_script", "vrrp_track_process", "vrrp_sync_group", "vrrp_instance")
COUNTING = 8  # characters of a password


def vrrp(request: Answer) -> Answer:
    """`salt`: of the caller, the same for both hosts. `partners`: the other host's addresses, as far as it knows them."""
    running = vrrpfiles.find_running()
    read, why = _read(running)
    statements = list(concerning(read.statements))
    known = running or vrrpfiles.Running(0, [], "/", vrrpfiles.PATH)
    carried = _carried()
    partners = request.get("partners", [])
    way = {address: interface_to(address, carried) for address in partners}
    return {
        "ok": True,
        "host": socket.gethostname(),
        "uid": os.geteuid(),
        "version": vrrpfiles.version(running),
        "running": {"pid": running.pid, "args": running.args} if running else None,
        "file": read.file,
        "why": why,
        "statements": [[each.file, each.line, masked(each.words, request["salt"])] for each in statements],
        "problems": [list(each) for each in read.problems],
        "complaints": [] if why else vrrpfiles.complaints(running, read.file, _passwords(statements)),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "down": down(),
        "addresses": own_addresses(),
        "carried": carried,
        "scripts": scripts(statements, known.path),
        "firewall": firewall.drops(list(packets(statements, partners, carried, way))),
    }


def _read(running: Optional[vrrpfiles.Running]) -> Tuple[vrrpfiles.Read, str]:
    """With why its main file could not be read, "" where it was."""
    try:
        return vrrpfiles.read(running), ""
    except OSError as error:
        path = error.filename or vrrpfiles.DEFAULT
        return vrrpfiles.Read(path, [], []), error.strerror or str(error)


def concerning(statements: List[Statement]) -> Iterator[Statement]:
    """Those of VRRP: what a host balances, and for whom, is nobody's business here. A block without an end is told without one."""
    endless = unclosed(statements)
    for header, inside in top_blocks(statements):
        if header.words[0] in BLOCKS:
            yield header
            yield header._replace(words=["{"])
            for each in inside:
                yield each
            if header is not endless:
                yield header._replace(words=["}"])
        elif header is endless:
            yield header._replace(words=header.words[:1])
            yield header._replace(words=["{"])


def _passwords(statements: List[Statement]) -> List[str]:
    found = [(each.words, _password_at(each.words)) for each in statements]
    return [word for words, at in found if at for word in words[at:]]


def _password_at(words: List[str]) -> int:
    """Where what follows auth_pass, or what was meant for it, begins; 0 where nothing does."""
    return next((at for at, word in enumerate(words[:-1], 1) if word.lower().startswith("auth_p")), 0)


def masked(words: List[str], salt: str) -> List[str]:
    """A password as how long it is, and a hash by which two of the same call compare."""
    at = _password_at(words)
    if not at:
        return words
    password = os.fsencode(words[at])
    digest = hashlib.sha256(salt.encode("utf-8") + b"\n" + password[:COUNTING]).hexdigest()
    return words[:at] + [str(len(password)), digest]


def down() -> List[str]:
    """The interfaces that are switched off, or have no carrier."""
    found = []
    for _, name in socket.if_nameindex():
        try:
            with open("/sys/class/net/%s/operstate" % name) as stream:
                found += [name] if stream.read().strip() in ("down", "lowerlayerdown", "notpresent") else []
        except OSError:
            continue
    return sorted(found)


def _carried() -> List[List[str]]:
    """[interface, address]."""
    try:
        return [[each.interface, each.address] for each in carried_addresses()]
    except OSError:
        return []


def interface_to(address: str, carried: Sequence[List[str]]) -> str:
    """By which interface this host reaches it; "" where it does not. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((address, 9))
            own = asking.getsockname()[0]
    except OSError:
        return ""
    return next((interface for interface, each in carried if each == own), "")


def packets(
    statements: List[Statement],
    partners: List[str],
    carried: Sequence[List[str]] = (),
    way: Optional[Dict[str, str]] = None,
) -> Iterator[Packet]:
    """The adverts that must come in, and go out, for each instance.

    `carried` are [interface, address] of this host; `way` is by which interface a partner is reached, "" by none: by no
    other its multicast comes.
    """
    groups, common = dict(MULTICAST), ""
    for header, inside in top_blocks(statements):
        if header.words[0] == "global_defs":
            for family in (4, 6):
                groups[family] = _value(inside, "vrrp_mcast_group%d" % family) or groups[family]
            common = _value(inside, "vrrp_version") or common
        if header.words[0] != "vrrp_instance" or not _value(inside, "interface"):
            continue
        interface, own = _value(inside, "interface"), _value(inside, "unicast_src_ip")
        vips = _lines_of(inside, "virtual_ipaddress")
        family = 6 if vips and ":" in vips[0] else 4
        here = [address for _, address in carried]
        peers = [each for each in _lines_of(inside, "unicast_peer") if each not in here]  # one file may serve both
        is_ah = [each for header, lines in top_blocks(inside) for each in lines if each.words == ["auth_type", "AH"]]
        is_v3 = family == 6 or (_value(inside, "version") or common) == "3"  # which knows no authentication
        protocol = AH if is_ah and not is_v3 else VRRP
        if peers and not own:  # keepalived takes the interface's first then
            found = [address for each, address in carried if each == interface and address not in vips]
            own = next((each for each in found if (":" in each) == (family == 6) and not each.startswith("fe80:")), "")
        known = way or {}
        others = [
            each for each in partners if (":" in each) == (family == 6) and known.get(each, "") in (interface, "")
        ]
        for peer in peers or others or [""]:
            group = _value(inside, "mcast_dst_ip") or groups[family]
            to_us, to_them = (own, peer) if peers else (group, group)
            # whom a multicast of IPv6 comes from is a link-local address that nobody knows here
            source = peer if peers or family == 4 else ""
            yield Packet(family, "in", interface, source, to_us, protocol)
            yield Packet(family, "out", interface, own if peers or family == 4 else "", to_them, protocol)


def _value(inside: List[Statement], name: str) -> str:
    return next((each.words[1] for each in inside if each.words[0] == name and len(each.words) > 1), "")


def _lines_of(inside: List[Statement], name: str) -> List[str]:
    """The addresses of a block, without their prefix and options."""
    found = [lines for header, lines in top_blocks(inside) if header.words[0] == name]
    return [each.words[0].split("/")[0] for lines in found for each in lines if each.words[0] not in "{}"]

"""Which addresses this host has, and since when, as the kernel lists them: no program is asked, none can be missing."""

import hashlib
import socket
import struct
import time
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from .known import boot_id

# linux/netlink.h, rtnetlink.h, if_addr.h
GETADDR, NEWADDR, ERROR, DONE = 22, 20, 2, 3
REQUEST_DUMP, INTERRUPTED = 0x301, 0x10
ADDRESS, LOCAL, CACHEINFO = 1, 2, 6
BUFFER = 1 << 18
TRIES = 20
CENTI = 100
WRAP = 1 << 32

# `stamp`: hundredths of a second after boot at which it was put there: removed and put back it has another one
Carried = NamedTuple("Carried", [("interface", str), ("address", str), ("stamp", int)])


def own_addresses() -> List[str]:
    """All addresses of this host, lo included."""
    found = {"127.0.0.1"}
    last = ""
    for line in _lines("/proc/net/fib_trie"):
        if line.startswith("|-- "):
            last = line[4:]
        elif line.startswith("/32 host LOCAL"):
            found.add(last)
    for line in _lines("/proc/net/if_inet6"):
        found.add(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])))
    return sorted(found)


def _lines(path: str) -> List[str]:
    try:
        with open(path) as stream:
            return [line.strip() for line in stream]
    except OSError:
        return []


def carried_addresses() -> List[Carried]:
    """The addresses of all interfaces but lo. Raises OSError where the kernel does not tell."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.settimeout(5.0)
        for _ in range(TRIES):
            found = _listed(kernel)
            if found is not None:
                return found
    raise OSError("the addresses changed all the while that they were listed")


def _listed(kernel: socket.socket) -> Optional[List[Carried]]:
    """None where they changed meanwhile: of a list in parts one that was there all the time may be missing then."""
    kernel.send(struct.pack("=IHHIIBBBBI", 24, GETADDR, REQUEST_DUMP, 1, 0, 0, 0, 0, 0, 0))
    found: List[Carried] = []
    is_whole = True
    while True:
        for kind, flags, body in _messages(kernel.recv(BUFFER)):
            is_whole = is_whole and not flags & INTERRUPTED
            if kind == DONE:
                return found if is_whole else None
            if kind == ERROR:
                raise OSError("the kernel does not list the addresses")
            carried = _carried(body) if kind == NEWADDR else None
            if carried is not None:
                found.append(carried)


def _messages(data: bytes) -> Iterator[Tuple[int, int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind, flags = struct.unpack_from("=IHH", data, at)
        yield kind, flags, data[at + 16 : at + length]
        at += (max(length, 16) + 3) & ~3


def _carried(body: bytes) -> Optional[Carried]:
    family, index = body[0], struct.unpack_from("=I", body, 4)[0]
    attributes: Dict[int, bytes] = {}
    at = 8
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        attributes[kind] = body[at + 4 : at + length]
        at += (max(length, 4) + 3) & ~3
    raw = attributes.get(LOCAL) or attributes.get(ADDRESS)
    try:
        interface = socket.if_indextoname(index)
        address = socket.inet_ntop(family, raw) if raw else ""
    except (OSError, ValueError):
        return None  # it went this moment, or is of a family of its own
    if interface == "lo" or not address:
        return None
    stamp = struct.unpack_from("=I", attributes.get(CACHEINFO, b"\0" * 16), 8)[0]
    return Carried(interface, address, stamp)


def held(vips: Iterable[str], carried: Optional[List[Carried]] = None) -> List[Carried]:
    """Those of these addresses (in their normal form) that an interface of this host carries. Raises OSError."""
    wanted = set(vips)
    return [each for each in (carried_addresses() if carried is None else carried) if each.address in wanted]


def tenure_of(vips: List[str], carried: List[Carried]) -> str:
    """Names the time, without a break, for which this host has carried all of these; "" where it does not.

    By the kernel's own record of when each was put there, and the boot: nobody had to be watching.
    """
    stamps = {each.address: "%s %s %d" % each for each in held(vips, carried)}
    if not vips or set(stamps) != set(vips):
        return ""
    text = "\n".join([boot_id()] + [stamps[vip] for vip in sorted(stamps)])
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def part_of(vips: Iterable[str], carried: List[Carried]) -> str:
    """As `tenure_of`, of those that are here, were it not all; "" where none is."""
    here = held(vips, carried)
    return tenure_of(sorted({each.address for each in here}), here)


def since(carried: List[Carried], now: float) -> float:
    """When the last of them was put there, in seconds since the epoch; `now` is this moment."""
    up = int(time.monotonic() * CENTI)
    return now - min((up - each.stamp) % WRAP for each in carried) / float(CENTI)

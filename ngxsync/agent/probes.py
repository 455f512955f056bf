"""The verb probe: each server name of this host's own nginx asked at this host's own address, as a client would after a failover.

Nothing of the request says what is asked, but how long it may take: names, addresses and ports are those of the live configuration.
"""

import hashlib
import socket
import ssl
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional

from .addresses import own_addresses
from .nginx import NGINX_ERRORS, find_nginx
from .servers import Listen, Server, asked_name, explicit, servers

Answer = Dict[str, Any]
Target = NamedTuple("Target", [("name", str), ("listen", Listen), ("address", str), ("host", str)])

EACH_S = 2.0
ALL_S = 10.0
AT_ONCE = 16
LONGEST_LINE = 4096
NOT_OURS = "not an address of this host"
UNNAMED = "a regular expression"


def probe(request: Answer) -> Answer:
    """`probes`: [{listen, port, tls, status, certificate, error, names}], names that were answered alike together.

    `certificate` is the sha256 of the leaf's DER; `error` is refused, timeout, closed, tls or unreachable, and status is 0 then.
    `unprobed`: [[listen or name, why]]; `left`: how many there was no time for; `why` it could not be done at all.
    """
    try:
        nginx = find_nginx(request["nginx"])
    except NGINX_ERRORS as error:
        return {"ok": True, "probes": [], "unprobed": [], "left": 0, "why": str(error)}
    unprobed: List[List[str]] = []
    targets = targets_of(servers(nginx.conf, nginx.prefix), own_addresses(), unprobed)
    found = ask_all(targets, min(ALL_S, request.get("wait_s", ALL_S)))
    left = len(targets) - len(found)
    return {"ok": True, "probes": together(targets, found), "unprobed": unprobed, "left": left, "why": ""}


def together(targets: List[Target], answers: List[Answer]) -> List[Answer]:
    """10,000 names that answer alike are one entry: the master reads it each time."""
    groups: Dict[Any, Answer] = {}
    for target, answer in zip(targets, answers):
        listen = target.listen
        key = (listen.text, listen.tls, answer["status"], answer["certificate"], answer["error"])
        group = groups.setdefault(key, dict(answer, listen=listen.text, port=listen.port, tls=listen.tls, names=[]))
        group["names"].append(target.name)
    return list(groups.values())


def targets_of(found: List[Server], own: List[str], unprobed: List[List[str]]) -> List[Target]:
    """What is asked: each `listen` with each name, once. What cannot be is added to `unprobed`."""
    named = explicit(found)
    targets: Dict[Any, Target] = {}
    known = set()
    for server in found:
        for listen in server.listens:
            address = listen.why and "" or address_of(listen, own, named)
            for name in server.names:
                host = asked_name(name, address)
                why = listen.why or (NOT_OURS if not address else "" if host else UNNAMED)
                if not why:
                    targets.setdefault((name, listen.text, listen.tls), Target(name, listen, address, host))
                elif (listen.text, name, why) not in known:
                    known.add((listen.text, name, why))
                    unprobed.append([name if why == UNNAMED else listen.text, why])
    return list(targets.values())


def address_of(listen: Listen, own: List[str], named: Dict[int, List[str]]) -> str:
    """Where to knock: the address of the `listen` itself, where it is ours ("" else: another host may have it). For all of them one
    that no other server has for itself, loopback last."""
    if listen.address not in ("", "::"):
        return listen.address if listen.address in own or listen.address.startswith("127.") else ""
    is_v6 = listen.address == "::"
    loopback = "::1" if is_v6 else "127.0.0.1"
    usable = [
        address
        for address in own
        if (":" in address) == is_v6 and not address.startswith(("127.", "fe80:")) and address != "::1"
    ]
    free = [address for address in usable if address not in named.get(listen.port, [])]
    return (free or [loopback])[0]


def ask_all(targets: List[Target], limit_s: float) -> List[Answer]:
    """The answers that came within the time, in the order of the targets: those after the first that is missing are left out,
    so that two hosts tell of the same ones."""
    end = time.monotonic() + limit_s
    context = _context()
    answers: Dict[int, Answer] = {}
    waiting = iter(range(len(targets)))
    lock = threading.Lock()

    def work() -> None:
        while time.monotonic() < end:
            with lock:
                number = next(waiting, None)
            if number is None:
                return
            found = ask(targets[number], context, min(EACH_S, end - time.monotonic()))
            if found["error"] == "timeout" and end - time.monotonic() > EACH_S:  # a busy moment is no answer yet
                found = ask(targets[number], context, EACH_S)
            answers[number] = found

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(AT_ONCE, len(targets)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    found: List[Answer] = []
    for number in range(len(targets)):
        if number not in answers:
            break
        found.append(answers[number])
    return found


def _context() -> ssl.SSLContext:
    """Whatever it shows is looked at: nobody is trusted by it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        context.set_ciphers("ALL:@SECLEVEL=0")
    except ssl.SSLError:
        pass
    return context


def ask(target: Target, context: ssl.SSLContext, limit_s: float) -> Answer:
    """status, certificate and error of one HEAD /."""
    listen = target.listen
    answer: Answer = {"status": 0, "certificate": "", "error": ""}
    end = time.monotonic() + limit_s
    try:
        with socket.create_connection((target.address, listen.port), limit_s) as connection:
            if listen.proxied:
                connection.sendall(b"PROXY UNKNOWN\r\n")
            if not listen.tls:
                answer["status"] = _status(connection, target.host, end)
            else:
                _left(connection, end)
                with context.wrap_socket(connection, server_hostname=_sni(target.host)) as secured:
                    answer["certificate"] = hashlib.sha256(secured.getpeercert(True) or b"").hexdigest()
                    answer["status"] = _status(secured, target.host, end)
    except socket.timeout:
        answer["error"] = "timeout"
    except ConnectionRefusedError:
        answer["error"] = "refused"
    except ssl.SSLError:
        answer["error"] = "tls" if not answer["certificate"] else "closed"
    except ConnectionError:
        answer["error"] = "closed"
    except (OSError, ValueError):
        answer["error"] = "unreachable"
    return answer


def _sni(host: str) -> Optional[str]:
    """None where TLS has no name for it."""
    try:
        host.encode("idna")
    except UnicodeError:
        return None
    return None if host.startswith("[") else host


def _status(connection: socket.socket, host: str, end: float) -> int:
    """Of the first line of the answer. Raises ConnectionError where there is none, socket.timeout after the time."""
    lines = ("HEAD / HTTP/1.1", "Host: " + host, "User-Agent: ngxsync-probe", "Connection: close", "", "")
    _left(connection, end)
    connection.sendall("\r\n".join(lines).encode("utf-8", "surrogateescape"))
    text = b""
    while b"\n" not in text and len(text) < LONGEST_LINE:
        _left(connection, end)
        part = connection.recv(LONGEST_LINE)
        if not part:
            break
        text += part
    words = text.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ConnectionError("no answer of HTTP")
    return int(words[1])


def _left(connection: socket.socket, end: float) -> None:
    """A server that sends a byte now and then keeps no time-out of its own from passing."""
    left = end - time.monotonic()
    if left <= 0:
        raise socket.timeout()
    connection.settimeout(left)

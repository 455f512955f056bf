"""`check-nginx --url`: whether this host's own nginx answers it, asked by address and in bounded time.

A name is never resolved, which could hang: it is asked at 127.0.0.1, and sent as Host. So nothing leaves this host.
"""

import _socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Tuple

LONGEST_LINE = 4096


class Odd(Exception):
    """A URL that cannot be asked: our user's mistake, not nginx's."""


def parse(url: str) -> "Tuple[bool, str, int, str, str]":
    """(by TLS, address, port, Host, path) of a URL. Raises Odd."""
    scheme, sign, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    if scheme not in ("http", "https") or not sign or "@" in place or not url.isprintable() or " " in url:
        raise Odd("--url %s is none that can be asked: http://127.0.0.1/ is" % url)
    name, port = place, ""
    if place.startswith("["):
        name, _, port = place[1:].partition("]")
        port = port.lstrip(":")
    elif ":" in place:
        name, _, port = place.rpartition(":")
    is_tls = scheme == "https"
    if not name or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        raise Odd("--url %s has no host or port" % url)
    return is_tls, _address_of(name), int(port or (443 if is_tls else 80)), place, slash + path.partition("#")[0] or "/"


def _address_of(name: str) -> str:
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, name)
        except OSError:
            continue
        if name.startswith("127.") or name == "::1":
            return name
        from .addresses import own_addresses

        if name in own_addresses():
            return name
        raise Odd("--url names %s, which is not on this host" % name)
    return "127.0.0.1"


def ask(url: str, timeout_s: float) -> str:
    """ "" where it answers 2xx or 3xx, else what is wrong. Raises Odd."""
    is_tls, address, port, host, path = parse(url)
    end = time.monotonic() + timeout_s
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    connection = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
    try:
        connection.settimeout(timeout_s)
        connection.connect((address, port))
        request = "GET %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: ngxsync-check\r\nConnection: close\r\n\r\n" % (path, host)
        if is_tls:
            status = _by_tls(connection, host, request.encode("ascii", "replace"), end)
        else:
            connection.sendall(request.encode("ascii", "replace"))
            status = _first_line(connection.recv, connection.settimeout, end)
    except OSError as error:
        is_late = "timed out" in str(error)
        return "%s %s" % (
            url,
            "did not answer in time" if is_late else "does not answer: %s" % (error.strerror or error),
        )
    finally:
        connection.close()
    words = status.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return "%s answers something that is no HTTP" % url
    return "" if 200 <= int(words[1]) < 400 else "%s answers %d" % (url, int(words[1]))


def _first_line(receive: "Any", set_timeout: "Any", end: float) -> bytes:
    """A server that sends a byte now and then gets no more time by it."""
    text = b""
    while b"\n" not in text and len(text) < LONGEST_LINE:
        left = end - time.monotonic()
        if left <= 0:
            raise OSError("timed out")
        set_timeout(left)
        part = receive(1024)
        if not part:
            break
        text += part
    return text.partition(b"\n")[0]


def _by_tls(connection: "_socket.socket", host: str, request: bytes, end: float) -> bytes:
    import socket
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it asks itself, by address
    try:  # and what is too old for browsers, or for this host's policy, is served all the same
        context.set_ciphers("ALL:@SECLEVEL=0")
        setattr(context, "minimum_version", -2)  # noqa: B010 - MINIMUM_SUPPORTED, which Python 3.6 does not know
    except (OSError, ValueError, AttributeError):
        pass
    plain = socket.socket(fileno=connection.detach())
    plain.settimeout(max(0.05, end - time.monotonic()))
    name = host if host.startswith("[") else host.partition(":")[0]
    with context.wrap_socket(plain, server_hostname=name.strip("[]")) as secured:
        secured.sendall(request)
        return _first_line(secured.recv, secured.settimeout, end)

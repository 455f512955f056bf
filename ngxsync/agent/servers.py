"""Which servers an nginx configuration has: where each listens, and which names it answers to."""

import os
from typing import Dict, Iterator, List, NamedTuple, Tuple

from .directives import Directive, included, open_file, parse

Listen = NamedTuple(
    "Listen",
    [
        ("text", str),  # as the configuration has it, with its port: equal on both hosts
        ("address", str),  # "" is all of IPv4, "::" all of IPv6
        ("port", int),
        ("tls", bool),
        ("proxied", bool),  # a PROXY line comes before all else
        ("why", str),  # why nobody can ask there, "" where one can
    ],
)
Server = NamedTuple("Server", [("names", Tuple[str, ...]), ("listens", Tuple[Listen, ...])])

LOCAL_NAMES = {"localhost": "127.0.0.1", "ip6-localhost": "::1"}


def servers(conf: str, prefix: str) -> List[Server]:
    """The `server` blocks of `http`, in the order in which nginx reads them."""
    conf = os.path.join(prefix, conf)
    around: List[str] = []
    found: List[Tuple[List[str], List[Tuple[str, ...]], List[bool]]] = []
    for item in expanded(conf, os.path.dirname(conf), "", 0, (conf,)):
        del around[item.depth :]
        if around == ["http", "server"]:
            names, listens, is_tls = found[-1]
            if item.name == "server_name":
                names += item.args
            elif item.name == "listen" and item.args:
                listens.append(item.args)
            elif item.name == "ssl" and item.args == ("on",):  # before nginx 1.25
                is_tls.append(True)
        if item.block:
            around.append(item.name)
            if around == ["http", "server"]:
                found.append(([], [], []))
    usual = ("80" if os.geteuid() == 0 else "8000",)
    return [
        Server(tuple(names) or ("",), tuple(listen_of(args, bool(is_tls)) for args in listens or [usual]))
        for names, listens, is_tls in found
    ]


def expanded(file: str, conf_dir: str, context: str, depth: int, above: Tuple[str, ...]) -> Iterator[Directive]:
    """All directives with what they include in its place, each with its depth in the whole; `above` ends circles."""
    try:
        with open_file(file) as stream:
            directives = parse(stream.read(), file, context)
    except OSError:
        return
    for item in directives:
        yield item._replace(depth=item.depth + depth)
        if item.name == "include" and item.args:
            for path in included(item, conf_dir):
                if path not in above:
                    yield from expanded(path, conf_dir, item.context, item.depth + depth, above + (path,))


def listen_of(args: Tuple[str, ...], is_tls: bool = False) -> Listen:
    """One `listen` directive."""
    host, port = _host_and_port(args[0])
    address = LOCAL_NAMES.get(host, host)
    why = ""
    if args[0].startswith("unix:"):
        why = "a socket"
    elif "quic" in args:
        why = "QUIC"
    elif not port:
        why = "no port"
    elif address and ":" not in address and not address.replace(".", "").isdigit():
        why = "a host name"
    text = args[0] if args[0].startswith("unix:") else "%s:%d" % ("[%s]" % host if ":" in host else host or "*", port)
    return Listen(text, address, port, is_tls or "ssl" in args, "proxy_protocol" in args, why)


def _host_and_port(text: str) -> Tuple[str, int]:
    """("", 80) of "*"; a range of ports begins with the one that is told."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest[1:]
    elif text.isdigit() or text.partition("-")[0].isdigit() and "." not in text and ":" not in text:
        host, port = "", text
    else:
        host, _, port = text.partition(":")
    number = (port or "80").partition("-")[0]
    return "" if host == "*" else host, int(number) if number.isdigit() and int(number) < 65536 else 0


def asked_name(name: str, address: str) -> str:
    """The host name with which a server is asked by one of its names; "" where only nginx knows one (a regular expression)."""
    if not name:
        return "[%s]" % address if ":" in address else address
    if name == "$hostname":
        return os.uname().nodename
    if name.startswith("~"):
        return ""
    if name.startswith("*."):
        return "ngxsync-probe" + name[1:]
    if name.endswith(".*"):
        return name[:-1] + "test"
    return name.lstrip(".")


def explicit(found: List[Server]) -> Dict[int, List[str]]:
    """{port: addresses that some `listen` names}: there another server answers than where all addresses are listened on."""
    result: Dict[int, List[str]] = {}
    for server in found:
        for listen in server.listens:
            result.setdefault(listen.port, []).append(listen.address)
    return result

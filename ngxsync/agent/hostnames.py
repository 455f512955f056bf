"""Host names in a configuration that this host cannot resolve: nginx looks each up when it starts, and gives up over one."""

import os
import queue
import re
import socket
import threading
import time
from typing import Any, Dict, Iterable, List

from .directives import Directive

IN_ALL_S = 2.0
THREADS = 32
LIMIT = 500
PASSES = ("proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass")
NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?\Z")
NUMBERS = re.compile(r"[0-9.]+\Z")
SYSLOG = "syslog:server="


def names(directives: Iterable[Directive]) -> Dict[str, List[Any]]:
    """{host name: [file, line] of what names it first}. No variables, addresses, sockets, or names of upstreams."""
    directives = list(directives)
    upstreams = {d.args[0] for d in directives if d.name == "upstream" and d.block and d.args}
    found: Dict[str, List[Any]] = {}
    for each in directives:
        for value in _targets(each):
            host = host_of(value)
            if host and host not in upstreams and host not in found and len(found) < LIMIT:
                found[host] = [each.file, each.line]
    return found


def _targets(each: Directive) -> List[str]:
    """What a directive names that nginx looks up at start."""
    if not each.args:
        return []
    if each.name in PASSES:
        return [each.args[0]]
    if each.name == "server" and each.context == "upstream" and not each.block:
        return [] if "resolve" in each.args else [each.args[0]]
    if each.name == "resolver":
        return [arg for arg in each.args if "=" not in arg]
    if each.name in ("access_log", "error_log") and each.args[0].startswith(SYSLOG):
        return [each.args[0][len(SYSLOG) :].split(",")[0]]
    return []


def host_of(value: str) -> str:
    """The host of scheme://host:port/path, or host:port; "" where it is none that is looked up."""
    rest = value.split("://", 1)[-1]
    if "$" in value or rest.startswith(("unix:", "[")):
        return ""
    host = rest.split("/")[0].rsplit(":", 1)[0] if ":" in rest.split("/")[0] else rest.split("/")[0]
    return host if NAME.match(host) and not NUMBERS.match(host) else ""


def unresolved(found: Dict[str, List[Any]]) -> List[List[Any]]:
    """[host, file, line] of those for which nobody knows an address, or nobody says so in time."""
    waiting: "queue.Queue[str]" = queue.Queue()
    for host in found:
        waiting.put(host)
    known = set()

    def ask() -> None:
        while True:
            try:
                host = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                socket.getaddrinfo(os.fsencode(host), None, 0, socket.SOCK_STREAM)
                known.add(host)
            except (OSError, UnicodeError):
                pass

    # the resolver waits for half a minute where its servers are away: nobody waits for these threads
    threads = [threading.Thread(target=ask, daemon=True) for _ in range(min(THREADS, len(found)))]
    end = time.monotonic() + IN_ALL_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [[host, file, line] for host, (file, line) in found.items() if host not in known]

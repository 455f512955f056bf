"""Kinds of broken nginx configuration, each an edit of a good tree, with what nginx says to it.

The tree is the tutorial's: conf/nginx.conf includes mime.types and vhosts/*.conf (tests/broken/base is such a tree).
Each edit stands on its own: it fits any tree of that form whose other vhosts leave the ports 8082 to 8089 alone.
Proven with nginx 1.22.1 of Debian 12 in test_nginxconf.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

BROKEN = Path(__file__).parent / "broken"
BASE = BROKEN / "base"
MAIN = "conf/nginx.conf"
VHOST = "conf/vhosts/broken.conf"
OUTSIDE = "/opt/ngxsync-test"  # outside every tree: what is there is on the master only
MASTER_ADDRESS = "192.0.2.1"
STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"


@dataclass(frozen=True)
class BrokenCase:
    """One edit. `files` maps paths below the tree to their new text (UTF-8).

    `refused_by` is "master" or "peer" (then the master's nginx takes it). `file`, below the tree, and `line` are where
    nginx says so; "" and None where it names no place. `outside` must be made on the master before, and only there:
    absolute path to the file it is a copy of, "" for an empty directory.
    """

    name: str
    files: Mapping[str, str]
    refused_by: str
    expect: str
    file: str
    line: int | None
    outside: Mapping[str, str] = field(default_factory=dict)


def _pem(name: str) -> str:
    return (BROKEN / "pem" / name).read_text()


def _main(old: str, new: str) -> dict[str, str]:
    """An edit of the main configuration file."""
    text = (BASE / MAIN).read_text()
    if old not in text:
        raise ValueError(f"not in {MAIN}: {old}")
    return {MAIN: text.replace(old, new, 1)}


def _server(body: str) -> dict[str, str]:
    """A vhost whose body begins at line 4."""
    return {VHOST: f"server {{\n    listen 8082;\n    server_name broken.example.com;\n{body}\n}}\n"}


def _at_vhost(name: str, text: str, expect: str, line: int | None) -> BrokenCase:
    return BrokenCase(name, {VHOST: text}, "master", expect, VHOST if line else "", line)


def _in_server(name: str, body: str, expect: str, line: int | None = 4, **more: str) -> BrokenCase:
    return BrokenCase(name, {**_server(body), **more}, "master", expect, VHOST if line else "", line)


def _in_main(name: str, old: str, new: str, expect: str, line: int | None) -> BrokenCase:
    return BrokenCase(name, _main(old, new), "master", expect, MAIN if line else "", line)


_TLS = "    listen 8083 ssl;\n    ssl_certificate {};\n    ssl_certificate_key {};"
_TWO_DEFAULTS = "server {\n    listen 8082 default_server;\n}\nserver {\n    listen 8082 default_server;\n}\n"
_SNIPPET = {"conf/snippets/port.conf": "listen 8084;\n"}

SYNTAX = (
    _in_server("unknown-directive", "    gzpi on;", 'unknown directive "gzpi"'),
    _at_vhost(
        "semicolon-swallowed",
        "server {\n    listen 8082\n    server_name x;\n}\n",
        'invalid parameter "server_name"',
        3,
    ),
    _in_server("semicolon-missing", "    root html\n    index a.html;", 'invalid number of arguments in "root"', 5),
    _in_server("semicolon-before-brace", "    root html", 'unexpected "}"', 5),
    _at_vhost("semicolon-at-end", "gzip on", 'unexpected end of file, expecting ";" or "}"', 1),
    _at_vhost("brace-missing", "server {\n    listen 8082;\n", 'unexpected end of file, expecting "}"', 3),
    _at_vhost("brace-too-many", "server {\n    listen 8082;\n}\n}\n", 'unexpected "}"', 4),
    _at_vhost(
        "brace-for-semicolon", "server {\n    listen 8082 {\n    }\n}\n", 'directive "listen" is not terminated', 2
    ),
    _at_vhost("block-without-brace", "server;\n", 'directive "server" has no opening "{"', 1),
    _in_server("quote-open", '    add_header X "open;', "unexpected end of file", 6),
    _in_server(
        "arguments-too-many", "    keepalive_timeout 1 2 3;", 'invalid number of arguments in "keepalive_timeout"'
    ),
    _in_server("flag", "    gzip maybe;", 'invalid value "maybe" in "gzip" directive'),
    _in_server("context", "    worker_processes 2;", '"worker_processes" directive is not allowed here'),
    _in_server("brace-in-regex", "    location ~ ^/[0-9]{4}/ {\n    }", 'unknown directive "4}/"'),
    _in_server("parameter-too-long", f"    add_header X {'a' * 5000};", 'too long parameter "aaaa'),
    _at_vhost("byte-order-mark", "\ufeffserver {\n    listen 8082;\n}\n", 'unknown directive "\ufeffserver"', 1),
)
INCLUDES = (
    _in_server("include-missing", "    include absent.conf;", "/conf/absent.conf"),
    _in_server("include-variable", "    include $host.conf;", "/conf/$host.conf"),
    _in_server("include-folder", "    include vhosts;", "Is a directory", None),
    BrokenCase(
        "snippet-in-another-context",
        {**_server("    include snippets/port.conf;\n    location / { include snippets/port.conf; }"), **_SNIPPET},
        "master",
        '"listen" directive is not allowed here',
        "conf/snippets/port.conf",
        1,
    ),
)
MEANING = (
    _at_vhost("default-server-twice", _TWO_DEFAULTS, "a duplicate default server for 0.0.0.0:8082", 5),
    _in_server("listen-twice", "    listen 8082;", "a duplicate listen 0.0.0.0:8082"),
    _in_server("root-twice", "    root html;\n    root other;", '"root" directive is duplicate', 5),
    _in_server(
        "root-and-alias", "    location /a { root html;\n    alias html; }", '"alias" directive is duplicate', 5
    ),
    _in_server("location-twice", "    location /a { }\n    location /a { }", 'duplicate location "/a"', 5),
    _in_server("regex", '    location ~ "(" { }', "pcre2_compile() failed"),
    _in_server("size", "    client_max_body_size 10Q;", '"client_max_body_size" directive invalid value'),
    _in_server("duration", "    keepalive_timeout soon;", '"keepalive_timeout" directive invalid value'),
    _in_server("port", "    listen 99999;", 'invalid port in "99999"'),
    _in_server("listen-parameter", "    listen 8083 ssll;", 'invalid parameter "ssll"'),
    _in_server("return-code", "    return abc text;", 'invalid return code "abc"'),
    _in_server("variable", "    return 200 $nosuch;", 'unknown "nosuch" variable', None),
    _in_server("if-condition", "    if ($host ~~ a) { return 404; }", 'unexpected "~~" in condition'),
    _in_server("log-format", "    access_log logs/x.log nosuch;", 'unknown log format "nosuch"'),
    _in_server("log-folder", "    access_log nosuch/x.log;", "/nosuch/x.log", None),
    _in_server("limit-zone", "    limit_req zone=nosuch;", 'zero size shared memory zone "nosuch"', None),
    _in_server(
        "proxy-regex-uri",
        "    location ~ a {\n        proxy_pass http://127.0.0.1/b;\n    }",
        '"proxy_pass" cannot have URI part in location given by regular expression',
        5,
    ),
    _in_server("proxy-host", "    location / { proxy_pass http://nosuch.invalid; }", "host not found in upstream"),
    _at_vhost("upstream-host", "upstream x {\n    server nosuch.invalid;\n}\n", "host not found in upstream", 2),
    _at_vhost("upstream-empty", "upstream x {\n}\n", "no servers are inside upstream", 2),
    _at_vhost("upstream-twice", "upstream x { server 127.0.0.1; }\n" * 2, 'duplicate upstream "x"', 2),
    _at_vhost("map-conflict", "map $host $x {\n    a 1;\n    a 2;\n}\n", 'conflicting parameter "a"', 3),
)
TLS = (
    _in_server("certificate-missing", _TLS.format("absent.crt", "absent.key"), "/conf/absent.crt", None),
    _in_server("certificate-none", "    listen 8083 ssl;", 'no "ssl_certificate" is defined', 1),
    _in_server(
        "certificate-damaged",
        _TLS.format("tls/damaged.crt", "tls/one.key"),
        "/conf/tls/damaged.crt",
        None,
        **{"conf/tls/damaged.crt": "not a certificate\n", "conf/tls/one.key": _pem("one.key")},
    ),
    _in_server(
        "key-mismatch",
        _TLS.format("tls/one.crt", "tls/two.key"),
        "key values mismatch",
        None,
        **{"conf/tls/one.crt": _pem("one.crt"), "conf/tls/two.key": _pem("two.key")},
    ),
    _in_server(
        "dhparam-missing",
        _TLS.format("tls/one.crt", "tls/one.key") + "\n    ssl_dhparam absent.pem;",
        "/conf/absent.pem",
        None,
        **{"conf/tls/one.crt": _pem("one.crt"), "conf/tls/one.key": _pem("one.key")},
    ),
)
MAIN_FILE = (
    BrokenCase("empty-file", {MAIN: ""}, "master", 'no "events" section in configuration', "", None),
    _in_main("events-missing", "events {\n    worker_connections 128;\n}\n", "", 'no "events" section', None),
    _in_main("module-missing", "", "load_module modules/absent.so;\n", "/modules/absent.so", 1),
    _in_main("module-late", "http {\n", "load_module modules/absent.so;\nhttp {\n", "is specified too late", 9),
    _in_main("stream-without-module", "http {\n", "stream {\n}\nhttp {\n", 'unknown directive "stream"', 9),
    _in_main("user-missing", "", "user nosuchuser;\n", 'getpwnam("nosuchuser") failed', 1),
    _in_main("http-twice", "http {\n", "http { }\nhttp {\n", '"http" directive is duplicate', 10),
)
PEER_ONLY = (
    BrokenCase(
        "peer-lacks-certificate",
        _server(_TLS.format(f"{OUTSIDE}/one.crt", f"{OUTSIDE}/one.key")),
        "peer",
        f"{OUTSIDE}/one.crt",
        "",
        None,
        {f"{OUTSIDE}/{name}": str(BROKEN / "pem" / name) for name in ("one.crt", "one.key")},
    ),
    BrokenCase(
        "peer-lacks-address",
        _server(f"    listen {MASTER_ADDRESS}:8085;"),
        "peer",
        f"bind() to {MASTER_ADDRESS}:8085 failed",
        "",
        None,
    ),
    BrokenCase(
        "peer-lacks-module",
        _main("", f"load_module {OUTSIDE}/ngx_stream_module.so;\n"),
        "peer",
        f"{OUTSIDE}/ngx_stream_module.so",
        MAIN,
        1,
        {f"{OUTSIDE}/ngx_stream_module.so": STREAM_MODULE},
    ),
    BrokenCase(
        "peer-lacks-include",
        _server(f"    include {OUTSIDE}/mime.types;"),
        "peer",
        f"{OUTSIDE}/mime.types",
        VHOST,
        4,
        {f"{OUTSIDE}/mime.types": str(BASE / "conf/mime.types")},
    ),
    BrokenCase(
        "peer-lacks-log-folder",
        _server(f"    access_log {OUTSIDE}/logs/x.log;"),
        "peer",
        f"{OUTSIDE}/logs/x.log",
        "",
        None,
        {f"{OUTSIDE}/logs": ""},
    ),
)

# Of this one nginx dies (signal 11) without a word, so what the user reads is our own explanation.
INCLUDE_CYCLE = BrokenCase(
    "include-cycle",
    {VHOST: "# round and round\ninclude parts/a.conf;\n", "conf/parts/a.conf": "include vhosts/broken.conf;\n"},
    "master",
    "includes itself without end",
    VHOST,
    2,
)

CASES = (*SYNTAX, *INCLUDES, *MEANING, *TLS, *MAIN_FILE, *PEER_ONLY)

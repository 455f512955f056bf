"""The verb probe: which servers a configuration has, where each is asked, and what a real nginx answers."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxsync.agent.probes import NOT_OURS, UNNAMED, address_of, ask_all, targets_of
from ngxsync.agent.servers import Listen, Server, asked_name, listen_of, servers
from ngxsync.core.answers import checked
from tests.agent import Agent
from tests.pair import NGINX_CONF, ROOT, Pair, write_tree
from tests.test_ready import reload

OWN = ["127.0.0.1", "192.0.2.2", "192.0.2.9", "2001:db8::2", "::1", "fe80::1"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("80", Listen("*:80", "", 80, False, False, "")),
        ("*:81 default_server", Listen("*:81", "", 81, False, False, "")),
        ("443 ssl http2", Listen("*:443", "", 443, True, False, "")),
        ("192.0.2.2", Listen("192.0.2.2:80", "192.0.2.2", 80, False, False, "")),
        ("192.0.2.2:8080 proxy_protocol", Listen("192.0.2.2:8080", "192.0.2.2", 8080, False, True, "")),
        ("8000-8010", Listen("*:8000", "", 8000, False, False, "")),
        ("[::]:80 ipv6only=on", Listen("[::]:80", "::", 80, False, False, "")),
        ("[2001:db8::2]", Listen("[2001:db8::2]:80", "2001:db8::2", 80, False, False, "")),
        ("localhost:80", Listen("localhost:80", "127.0.0.1", 80, False, False, "")),
        ("web2.example.com:80", Listen("web2.example.com:80", "web2.example.com", 80, False, False, "a host name")),
        ("443 quic", Listen("*:443", "", 443, False, False, "QUIC")),
        ("192.0.2.2:http", Listen("192.0.2.2:0", "192.0.2.2", 0, False, False, "no port")),
    ],
)
def test_a_listen(words: str, expected: Listen) -> None:
    assert listen_of(tuple(words.split())) == expected


def test_a_socket_is_not_asked() -> None:
    assert listen_of(("unix:/run/x.sock",)).why == "a socket"


@settings(deadline=None)
@given(st.text(alphabet="[]:*.-0123456789abcunix/", max_size=30))
def test_whatever_a_listen_says_it_is_a_port_or_a_reason(text: str) -> None:
    found = listen_of((text,))
    assert found.why or 0 < found.port < 65536


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("example.com", "example.com"),
        ("_", "_"),
        ("*.example.com", "ngxsync-probe.example.com"),
        (".example.com", "example.com"),
        ("www.example.*", "www.example.test"),
        ("~^www\\d+$", ""),
        ("", "192.0.2.2"),
    ],
)
def test_by_which_name_a_server_is_asked(name: str, asked: str) -> None:
    assert asked_name(name, "192.0.2.2") == asked


def test_servers_are_those_of_http_with_all_that_they_include(tmp_path: Path) -> None:
    (tmp_path / "listen.conf").write_text("listen 81;\nserver_name c;\ninclude listen.conf;\n")
    (tmp_path / "site.conf").write_text(
        "server { server_name a b; location / { return 200; } }\nserver { listen 82; }\n"
    )
    (tmp_path / "nginx.conf").write_text(
        "stream { server { listen 9; } }\n"
        "http {\n upstream u { server 127.0.0.1:5; }\n include site.conf;\n"
        " server { if ($host) { set $listen 1; } include listen.conf; ssl on; server_name d; }\n}\n"
    )
    found = servers("nginx.conf", str(tmp_path))
    assert [server.names for server in found] == [("a", "b"), ("",), ("c", "d")]
    assert [[listen.text for listen in server.listens] for server in found] == [["*:80"], ["*:82"], ["*:81"]]
    assert [server.listens[0].tls for server in found] == [False, False, True]


@pytest.mark.parametrize(
    ("listen", "named", "address"),
    [
        ("80", {}, "192.0.2.2"),
        ("80", {80: ["192.0.2.2"]}, "192.0.2.9"),
        ("80", {80: ["192.0.2.2", "192.0.2.9"]}, "127.0.0.1"),
        ("80", {81: ["192.0.2.2"]}, "192.0.2.2"),
        ("[::]:80", {}, "2001:db8::2"),
        ("[::]:80", {80: ["2001:db8::2"]}, "::1"),
        ("127.0.0.5:80", {}, "127.0.0.5"),
        ("192.0.2.9:80", {}, "192.0.2.9"),
        ("198.51.100.1:80", {}, ""),
    ],
)
def test_where_it_is_asked(listen: str, named: dict[int, list[str]], address: str) -> None:
    """Never at an address that another server of the same port has for itself, and never at another host's."""
    assert address_of(listen_of((listen,)), OWN, named) == address


def test_an_address_of_another_host_is_not_asked() -> None:
    unprobed: list[list[str]] = []
    found = [server_of(("a", "~b"), "80", "198.51.100.1:80")]
    targets = targets_of(found, OWN, unprobed)
    assert [(target.name, target.address) for target in targets] == [("a", "192.0.2.2")]
    assert sorted(unprobed) == [["198.51.100.1:80", NOT_OURS], ["198.51.100.1:80", NOT_OURS], ["~b", UNNAMED]]


def server_of(names: tuple[str, ...], *listens: str) -> Server:
    return Server(names, tuple(listen_of((listen,)) for listen in listens))


def test_no_time_is_no_answer() -> None:
    targets = targets_of([server_of(("a", "b"), "80")], OWN, [])
    assert ask_all(targets, 0.0) == []


def certificate(pair: Pair, name: str, folder: str, *, days: int = 30) -> str:
    """Makes NAME.crt and NAME.key on both hosts, the same; its fingerprint."""
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt"]
    pair.web1.run([*argv, "-days", str(days), "-subj", f"/CN={name}", *files])
    for suffix in ("key", "crt"):
        content = pair.web1.path(f"{folder}/{name}.{suffix}").read_bytes()
        for host in pair.hosts:
            host.path(f"{folder}/{name}.{suffix}").write_bytes(content)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pair.web1.path(f"{folder}/{name}.crt").read_text())).hexdigest()


SITES = """\
server { listen 80; server_name ok.test; return 200; }
server { listen 80; server_name gone.test; return 444; }
server { listen 80; server_name denied.test; deny all; }
server { listen 127.0.0.1:81; server_name local.test; return 204; }
server { listen 443 ssl; server_name tls.test *.tls.test; ssl_certificate tls.crt; ssl_certificate_key tls.key; return 301 /x; }
server { listen 82 proxy_protocol; server_name "~^p(.*)$" proxied.test; return 410; }
"""


def test_a_real_nginx_is_asked_for_each_name(pair: Pair) -> None:
    host = pair.web2
    fingerprint = certificate(pair, "tls", f"{ROOT}/conf")
    write_tree(host, ROOT, {"conf/vhosts/sites.conf": SITES})
    reload(host)
    agent = Agent(host)
    answer = agent.call("probe")
    checked("probe", {}, answer, "web2", "root@web2")
    found = {(name, p["listen"]): (p["status"], p["error"]) for p in answer["probes"] for name in p["names"]}
    assert found == {
        ("_", "*:80"): (200, ""),
        ("ok.test", "*:80"): (200, ""),
        ("gone.test", "*:80"): (0, "closed"),
        ("denied.test", "*:80"): (403, ""),
        ("local.test", "127.0.0.1:81"): (204, ""),
        ("tls.test", "*:443"): (301, ""),
        ("*.tls.test", "*:443"): (301, ""),
        ("proxied.test", "*:82"): (410, ""),
    }
    assert {each["certificate"] for each in answer["probes"]} == {"", fingerprint}
    assert (answer["unprobed"], answer["left"]) == ([["~^p(.*)$", UNNAMED]], 0)
    host.stop_nginx()
    assert {each["error"] for each in agent.call("probe")["probes"]} == {"refused"}


def test_a_server_that_is_silent_has_not_answered(pair: Pair) -> None:
    host = pair.web2
    host.stop_nginx()
    write_tree(host, ROOT, {"conf/nginx.conf": NGINX_CONF, "conf/vhosts/default.conf": "server { listen 90; }\n"})
    with host.socket() as silent:
        silent.bind(("", 90))
        silent.listen()
        (found,) = Agent(host).call("probe", wait_s=60.0)["probes"]
    assert (found["status"], found["error"]) == (0, "timeout")

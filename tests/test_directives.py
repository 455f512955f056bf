"""Which files a configuration names: the table, the lexer, the walk along includes, what is excluded by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent.directives import (
    Directive,
    NamedFile,
    included,
    loads,
    named_files,
    parse,
    read_all,
    read_main,
    self_excludes,
)

CONF_DIR, PREFIX = "/etc/nginx", "/usr/share/nginx"


def name_files(text: str, context: str = "") -> list[NamedFile]:
    return named_files(parse(text.encode(), "/etc/nginx/nginx.conf", context), CONF_DIR, PREFIX)


def words(text: str) -> list[tuple[str, ...]]:
    return [(item.name, *item.args) for item in parse(text.encode(), "f")]


@pytest.mark.parametrize(
    ("text", "path", "role", "is_loaded"),
    [
        ("include conf.d/*.conf;", "/etc/nginx/conf.d/*.conf", "include", True),
        ("include /a/b.conf;", "/a/b.conf", "include", True),
        ("ssl_certificate tls/../a.crt;", "/etc/nginx/a.crt", "certificate", True),
        ("ssl_certificate_key a.key;", "/etc/nginx/a.key", "key", True),
        ("proxy_ssl_certificate a.crt;", "/etc/nginx/a.crt", "certificate", True),
        ("grpc_ssl_trusted_certificate a.crt;", "/etc/nginx/a.crt", "data", True),
        ("uwsgi_ssl_crl a.crl;", "/etc/nginx/a.crl", "data", True),
        ("ssl_dhparam dh.pem;", "/etc/nginx/dh.pem", "data", True),
        ("ssl_session_ticket_key t.key;", "/etc/nginx/t.key", "key", True),
        ("ssl_password_file p;", "/etc/nginx/p", "key", True),
        ("auth_basic_user_file htpasswd;", "/etc/nginx/htpasswd", "auth", False),
        ("js_import main from js/main.js;", "/etc/nginx/js/main.js", "data", True),
        ("js_import js/main.js;", "/etc/nginx/js/main.js", "data", True),
        ("js_path js/lib;", "/etc/nginx/js/lib/", "data", True),
        ("load_module modules/x.so;", "/usr/share/nginx/modules/x.so", "module", True),
        ("content_by_lua_file lua/x.lua;", "/usr/share/nginx/lua/x.lua", "data", True),
        ("set_by_lua_file $r lua/x.lua $a;", "/usr/share/nginx/lua/x.lua", "data", True),
        ('lua_package_path "$prefix/lua/?.lua;;";', "/usr/share/nginx/lua/", "data", True),
        ("perl_modules perl/lib;", "/usr/share/nginx/perl/lib/", "data", True),
        ("xslt_stylesheet x.xslt p=1;", "/usr/share/nginx/x.xslt", "data", True),
        ("geoip_country /usr/share/GeoIP.dat utf8;", "/usr/share/GeoIP.dat", "data", True),
        ("error_log logs/error.log warn;", "/usr/share/nginx/logs/error.log", "log", False),
        ("access_log logs/a.log main buffer=32k if=$x;", "/usr/share/nginx/logs/a.log", "log", False),
        ("pid logs/nginx.pid;", "/usr/share/nginx/logs/nginx.pid", "pid", False),
        ("client_body_temp_path body 1 2;", "/usr/share/nginx/body/", "temp", False),
        ("proxy_cache_path /var/cache/x/ keys_zone=x:1m;", "/var/cache/x/", "cache", False),
        ("keyval_zone zone=a:32k state=/var/a.json;", "/var/a.json", "cache", False),
        ("listen unix:/run/nginx.sock ssl;", "/run/nginx.sock", "socket", False),
        ("root html;", "/usr/share/nginx/html", "root", False),
        ("location /a { alias /srv/a/; }", "/srv/a", "root", False),
        ("working_directory /var/core;", "/var/core/", "root", False),
        ("google_perftools_profiles /var/prof;", "/var/prof", "log", False),
        ("geo $x { include geo.conf; }", "/etc/nginx/geo.conf", "include", True),
        ("map $a $b { include map.conf; }", "/etc/nginx/map.conf", "include", True),
    ],
)
def test_a_directive_names_its_file(text: str, path: str, role: str, is_loaded: bool) -> None:
    (named,) = name_files(text)
    assert (named.path, named.role, named.is_loaded) == (path, role, is_loaded)


@pytest.mark.parametrize(
    "text",
    [
        "access_log off;",
        "access_log syslog:server=127.0.0.1,tag=x combined;",
        "access_log logs/$host.log;",
        "error_log stderr;",
        "error_log memory:32m debug;",
        "ssl_certificate $cert;",
        "ssl_certificate data:$cert;",
        "ssl_certificate_key engine:pkcs11:slot;",
        'proxy_ssl_certificate "";',
        "root /srv/$host;",
        "listen 80;",
        "geoip_country GeoIP.dat;",  # counts from where nginx was started
        "pid;",
        "map $a $b { root 1; pid logs/x; }",
        "types { text/html root; }",
        "geo $x { include; }",
        "# pid x;",
        "server_name root pid;",
    ],
)
def test_nothing_is_named(text: str) -> None:
    assert name_files(text) == []


def test_the_entries_of_a_file_that_a_map_includes_are_values() -> None:
    assert name_files("root 1;\npid 2;\ninclude more.map;\n", context="map")[0].path == "/etc/nginx/more.map"
    assert len(name_files("root 1;\npid 2;\ninclude more.map;\n", context="map")) == 1


def test_a_name_comes_with_the_place_that_names_it() -> None:
    (named,) = name_files("events { }\nhttp {\n  server { root\n html; }\n}")
    assert (named.directive, named.file, named.line) == ("root", "/etc/nginx/nginx.conf", 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a \"b; c\" 'd{}';", [("a", "b; c", "d{}")]),
        (r'a "b \"c\" \\ \. \t";', [("a", 'b "c" \\ \\. \t')]),
        (r"a b\;c;", [("a", "b\\;c")]),
        ("a ${b}c{ d; }", [("a", "${b}c"), ("d",)]),
        ("a $b{ d; }", [("a", "$b"), ("d",)]),
        ("a b#c; # d;\ne;", [("a", "b#c"), ("e",)]),
        ("a b'c;", [("a", "b'c")]),
        ("a '';", [("a", "")]),
        ("a b}c;", [("a", "b}c")]),
        ("if ($a = b) { c; }", [("if", "($a", "=", "b)"), ("c",)]),
        ("a\r\nb;\r\n", [("a", "b")]),
        ("a b", []),
        ("} a;", [("a",)]),
        ("a \\", []),
    ],
)
def test_words(text: str, expected: list[tuple[str, ...]]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    "code",
    [
        "-- don't { count this\n ngx.say(1)",
        "--[[ a } b\n ]] x = { y = {} }",
        'x = "}" y = \'}\' z = "\\"}"',
        "x = [[ } ]] y = [==[ ]] } ]==]",
        "if a then b = {c} end",
    ],
)
@pytest.mark.parametrize("head", ["content_by_lua_block {", "content_by_lua_block{", "set_by_lua_block $r {"])
def test_lua_code_is_passed_over(head: str, code: str) -> None:
    found = parse(f"{head} {code} }}\nroot html;".encode(), "f")
    assert [item.name for item in found] == [head.split("{")[0].split()[0], "root"]
    assert (found[1].depth, found[1].line) == (0, 2 + code.count("\n"))


def test_structure_and_lines() -> None:
    found = parse(b'a;\nb {\n  "c\nd" e;\n  f { g; }\n}\nh;', "f")
    assert [(d.name, d.line, d.block, d.depth, d.context) for d in found] == [
        ("a", 1, False, 0, ""),
        ("b", 2, True, 0, ""),
        ("c\nd", 3, False, 1, "b"),
        ("f", 5, True, 1, "b"),
        ("g", 5, False, 2, "f"),
        ("h", 7, False, 0, ""),
    ]


def test_bytes_outside_utf8_survive() -> None:
    (named,) = named_files(parse(b"include caf\xe9.conf;", "f"), "/etc/nginx", "/p")
    assert named.path.encode("utf-8", "surrogateescape") == b"/etc/nginx/caf\xe9.conf"


argument = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)


@given(st.lists(st.tuples(st.sampled_from(["a", "b_c"]), st.lists(argument, max_size=3), st.booleans()), max_size=8))
def test_what_is_quoted_is_read_back(items: list[tuple[str, list[str], bool]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = "".join(f"{name} {' '.join(map(quoted, args))}{' {' if block else ';'}\n" for name, args, block in items)
    depths = [sum(block for _, _, block in items[:i]) for i in range(len(items))]
    found = parse(text.encode(), "f")
    assert [(d.name, list(d.args), d.block) for d in found] == items
    assert [d.depth for d in found] == depths


bare = st.text("a}#$\x0b\xa0", min_size=1, max_size=4).filter(lambda text: text[0] not in "}#")
gaps = st.sampled_from([" ", "\n", "\t", "\r\n", "\n# a b; {\n", " #\n\n "])


@given(st.lists(st.tuples(gaps, st.one_of(bare, st.sampled_from([";", "{", "}"]))), max_size=12))
def test_quotes_change_nothing_where_none_are_needed(parts: list[tuple[str, str]]) -> None:
    quoted = [(gap, word if word in ";{}" else f"'{word}'") for gap, word in parts]
    one, other = ("".join(gap + word for gap, word in each).encode() for each in (parts, quoted))
    assert parse(one, "f") == parse(other, "f")


@given(st.binary(max_size=60))
def test_no_bytes_break_the_lexer(text: bytes) -> None:
    assert all(isinstance(item, Directive) for item in parse(text, "f"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Nested includes, all relative to the main file's directory, with a cycle and a file that is not there."""
    files = {
        "conf/nginx.conf": "include main/*.conf;\npid logs/a.pid;\nhttp { include http/all.conf;include none.conf; }\n",
        "conf/main/1.conf": "user www;\n",
        "conf/main/2.conf": "error_log logs/2.log;\ninclude main/*.conf;\n",
        "conf/main/.hidden.conf": "user nobody;\n",
        "conf/http/all.conf": "include http/site.conf;\nmap $a $b { include data/x.map; }\n",
        "conf/http/site.conf": "server { root html; include http/all.conf; pid no; }\n",
        "conf/data/x.map": "root 1;\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_main_context_along_its_includes(tree: Path) -> None:
    unread: list[str] = []
    found = read_main("conf/nginx.conf", str(tree), unread=unread)
    assert [(name, args) for name, args, _, _ in found if name not in ("include", "http")] == [
        ("pid", ("logs/a.pid",)),
        ("user", ("www",)),
        ("error_log", ("logs/2.log",)),
    ]
    assert ("error_log", ("logs/2.log",), f"{tree}/conf/main/2.conf", 1) in found
    assert unread == []


def test_the_whole_configuration_ends_in_spite_of_cycles(tree: Path) -> None:
    unread: list[str] = []
    found = read_all(f"{tree}/conf/nginx.conf", str(tree), unread=unread)
    named = named_files(found, f"{tree}/conf", str(tree))
    assert {item.path for item in named if item.role == "root"} == {f"{tree}/html"}
    assert f"{tree}/conf/data/x.map" in {item.path for item in named}
    assert unread == [f"{tree}/conf/none.conf: No such file or directory"]


def test_a_main_file_that_is_not_there_is_told() -> None:
    unread: list[str] = []
    assert read_main("/nowhere/nginx.conf", "/p", unread=unread) == []
    assert unread == ["/nowhere/nginx.conf: No such file or directory"]


def test_geo_includes_one_file_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "a1").write_text("")
    (tmp_path / "a2").write_text("")
    include = Directive("include", ("a*",), "f", 1, False, 1, "map")
    assert included(include, str(tmp_path)) == [f"{tmp_path}/a1", f"{tmp_path}/a2"]
    assert included(include._replace(context="geo"), str(tmp_path)) == [f"{tmp_path}/a*"]


def test_what_nginx_loads() -> None:
    is_read = loads(name_files("include html/*.conf; js_path html/js; geoip_city /x/g.dat; auth_basic_user_file pw;"))
    assert is_read("/etc/nginx/html/a.conf")
    assert is_read("/etc/nginx/html/js/deep/a.js")
    assert is_read("/x/g.dat")
    assert not is_read("/etc/nginx/html/b/a.conf")  # a star matches no slash
    assert not is_read("/etc/nginx/html/index.html")
    assert not is_read("/etc/nginx/pw")
    assert not loads([])("/etc/nginx/html/a.conf")


def test_what_is_excluded_by_itself() -> None:
    text = """
        pid run/nginx.pid; error_log /var/log/nginx/error.log; access_log logs/[a].log; proxy_temp_path /var/tmp/p;
        proxy_cache_path cache/one keys_zone=a:1m; listen unix:/usr/share/nginx/run/n.sock; root html;
        """
    assert self_excludes(name_files(text), ["/usr/share/nginx", "/var/log", "/srv"]) == {
        "/usr/share/nginx": ["cache/one/", "logs/[a].log", "run/n.sock", "run/nginx.pid"],
        "/var/log": ["nginx/error.log"],
        "/srv": [],
    }


@pytest.mark.parametrize("folder", ["/etc/nginx", "/etc/nginx/conf.d", "/etc", "/"])
def test_a_cache_never_excludes_the_tree_or_what_nginx_loads(folder: str) -> None:
    named = name_files(f"include conf.d/*.conf; proxy_cache_path {folder} keys_zone=a:1m;")
    assert self_excludes(named, ["/etc/nginx"]) == {"/etc/nginx": []}

"""What a difference means for nginx, on a realistic configuration: crossplane, includes, pairs, order, places, risks."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import pytest

from ngxsync.cli.difference import render_meaning
from ngxsync.core.meaning import Finding, about_files, compare_trees
from ngxsync.core.nginxtree import Expansion, Node, Parsed, make_node
from ngxsync.core.said import value_of
from ngxsync.edges.nginxconf import parse_text
from tests.realistic import ROOT, files

Files = Mapping[str, str]


class InMemory:
    """core.nginxtree.Source over texts."""

    def __init__(self, texts: Files, parsed: dict[str, Parsed]) -> None:
        self._texts, self._parsed = texts, parsed

    def included(self, pattern: str) -> list[str]:
        depth = pattern.count("/")
        return sorted(p for p in self._texts if p.count("/") == depth and fnmatch.fnmatchcase(p, pattern))

    def parsed(self, path: str) -> tuple[str, Parsed] | None:
        text = self._texts.get(path)
        if text is None:
            return None
        if text not in self._parsed:
            self._parsed[text] = parse_text(text.encode("utf-8", "surrogateescape"))
        return path, self._parsed[text]


def meaning(before: Files, after: Files) -> list[Finding]:
    parsed: dict[str, Parsed] = {}
    known: dict[tuple[str, int], tuple[Node, ...]] = {}
    old, new = (Expansion(f"{ROOT}/nginx.conf", InMemory(texts, parsed), known) for texts in (before, after))
    found = about_files(
        compare_trees(old.nodes, new.nodes),
        {path: parsed for path, parsed in old.files.items() if new.files.get(path) is not parsed},
        {path: parsed for path, parsed in new.files.items() if old.files.get(path) is not parsed},
    )
    for finding in found:
        assert_places(finding, before, after)
    return found


def assert_places(finding: Finding, before: Files, after: Files) -> None:
    """The line that is named has the directive's name on it, on both sides."""
    if finding.kind in ("formatting", "text"):
        return
    for place, texts in ((finding.before_at, before), (finding.after_at, after)):
        if place is not None and finding.what != "***":
            line = texts[place[0]].split("\n")[place[1] - 1]
            is_group = finding.what.startswith(("order of", "default server"))
            first = (finding.before if texts is before else finding.after).split(", ")[0] if is_group else finding.what
            assert line.split()[0].rstrip(";").strip("'\"") == first.split()[0].strip('"'), (line, finding)


def edited(name: str, *replacements: tuple[str, str], base: Files | None = None) -> dict[str, str]:
    """The realistic files with texts replaced in one of them, each exactly once."""
    texts = dict(base or files())
    for old, new in replacements:
        assert texts[f"{ROOT}/{name}"].count(old) == 1, old
        texts[f"{ROOT}/{name}"] = texts[f"{ROOT}/{name}"].replace(old, new)
    return texts


def told(before: Files, after: Files) -> list[str]:
    """The lines, without the places, which `meaning` has looked at."""
    lines = render_meaning(meaning(before, after), "web1", "web2")
    return [line.strip().split("  web1:")[0].split("  web2:")[0] for line in lines]


def test_equal_configurations_differ_in_nothing() -> None:
    texts = files()
    assert sum(text.count("\n") for text in texts.values()) > 300
    assert meaning(texts, files()) == []


def test_comments_and_white_space_are_said_to_be_only_that() -> None:
    after = edited(
        "vhosts/shop.conf",
        ("    root  html/shop;\n", "\n# where it lies\n    root\n        'html/shop';   # here\n"),
        ("error_page 404 /404.html;", "error_page\t404   /404.html ;"),
    )
    assert told(files(), after) == ["formatting only comments, white space or quotes"]


def test_a_server_in_another_file_is_one_move() -> None:
    texts = files()
    first, second = texts[f"{ROOT}/vhosts/shop.conf"].split("\n\nserver", 1)
    after = {**texts, f"{ROOT}/vhosts/shop.conf": first + "\n", f"{ROOT}/vhosts/tls.conf": f"# moved\nserver{second}"}
    (finding,) = meaning(texts, after)
    assert (finding.kind, finding.what) == ("moved", "server shop.test (listen 443, [::]:443)")
    assert (finding.before_at, finding.after_at) == ((f"{ROOT}/vhosts/shop.conf", 14), (f"{ROOT}/vhosts/tls.conf", 2))


def test_a_pair_of_regex_locations_in_another_order_is_a_change() -> None:
    texts = files()
    shop = texts[f"{ROOT}/vhosts/shop.conf"]
    start, end = shop.index("    location ~ \\.php$"), shop.index("    location ~* ")
    php, media = shop[start:end].split("\n\n", 1)
    after = {**texts, f"{ROOT}/vhosts/shop.conf": f"{shop[:start]}{media.rstrip()}\n\n{php}\n\n{shop[end:]}"}
    (finding,) = meaning(texts, after)
    assert (finding.kind, finding.what) == ("changed", "order of regex locations")
    assert finding.before == "location ~ \\.php$, location ~ ^/media/.*\\.(?:jpg|png|webp)$"
    assert finding.after == "location ~ ^/media/.*\\.(?:jpg|png|webp)$, location ~ \\.php$"


SHOP, API = "server shop.test (listen 443, [::]:443)", "server api.shop.test (listen 443)"
EDITS = [
    ("snippets/tls.conf", "TLSv1.2 TLSv1.3", "TLSv1.3"),
    f"changed    {API} > ssl_protocols: TLSv1.2 TLSv1.3 -> TLSv1.3, and so in 1 more",
    ("vhosts/shop.conf", "burst=3 nodelay", "burst=9"),
    f"changed    {SHOP} > location = /login > limit_req: zone=login burst=3 nodelay -> zone=login burst=9  [access]",
    ("vhosts/shop.conf", "certs/shop.pem", "certs/new.pem"),
    f"changed    {SHOP} > ssl_certificate: certs/shop.pem -> certs/new.pem  [certificates]",
    ("vhosts/shop.conf", "        deny all;\n", ""),
    f"lost       {SHOP} > location /admin/ > deny: all  [access]",
    ("vhosts/api.conf", "    server_name", "    listen 8443 ssl;\n    server_name"),
    "gained     server api.shop.test (listen 443, 8443) > listen: 8443 ssl  [listen]",
    ("upstreams.conf", "    server 127.0.0.1:9102;\n", ""),
    "lost       upstream pool_api > server: 127.0.0.1:9102  [upstreams]",
    ("upstreams.conf", "9001 weight=3 max_fails=2", "9001 max_fails=2 weight=3"),
    "reordered  upstream pool_main > server: 127.0.0.1:9001 weight=3 max_fails=2 -> 127.0.0.1:9001 max_fails=2 weight=3 "
    "(nginx does not mind)",
    ("maps/hosts.conf", "static.shop.test   pool_static", "static.shop.test   pool_main"),
    "changed    map $host $backend > static.shop.test: pool_static -> pool_main",
    ("vhosts/shop.conf", "Basic VE9QU0VDUkVU", "Basic T1RIRVI="),
    f"changed    {SHOP} > location /admin/ > proxy_set_header: Authorization *** -> Authorization *** (what differs is not shown)",
    ("vhosts/lua.conf", "it's { fine }", "it's { good }"),
    "changed    server lua.shop.test (listen 8080) > location /hello > content_by_lua_block: Lua code of 5 lines "
    "-> Lua code of 5 lines (what differs is not shown)",
]


@pytest.mark.parametrize(("edit", "line"), list(zip(EDITS[::2], EDITS[1::2], strict=True)))
def test_one_edit_is_one_finding(edit: tuple[str, str, str], line: str) -> None:
    name, old, new = edit
    assert told(files(), edited(name, (old, new))) == [line]


def test_what_may_be_a_password_is_not_shown() -> None:
    lines = told(files(), edited("maps/hosts.conf", ("TOPSECRET-1", "TOPSECRET-2")))
    assert lines == [f"{kind}  map $http_x_api_key $api_client > ***: ***" for kind in ("gained   ", "lost     ")]


REWRITES = "    set $section front;\n    rewrite ^/old/(.*)$ /new/$1 permanent;\n"
SWAPPED_REWRITES = "    rewrite ^/old/(.*)$ /new/$1 permanent;\n    set $section front;\n"
REGEX_KEYS = "    ~^beta\\d+\\.       pool_beta;\n    ~^beta             pool_main;\n"
SWAPPED_KEYS = "    ~^beta             pool_main;\n    ~^beta\\d+\\.       pool_beta;\n"
KEY_LINE = "~^beta\\d+\\. pool_beta, ~^beta pool_main -> ~^beta pool_main, ~^beta\\d+\\. pool_beta"
HASHED = "    server 127.0.0.1:9101;\n    server 127.0.0.1:9102;\n"
SWAPPED_HASHED = "    server 127.0.0.1:9102;\n    server 127.0.0.1:9101;\n"
FREE = "    server 127.0.0.1:9002;\n    server 127.0.0.1:9003 backup;\n"
SWAPPED_FREE = "    server 127.0.0.1:9003 backup;\n    server 127.0.0.1:9002;\n"
RULES = "        allow 10.0.0.0/8;\n        deny all;\n"
SWAPPED_RULES = "        deny all;\n        allow 10.0.0.0/8;\n"
OLD_REWRITE = "rewrite ^/old/(.*)$ /new/$1 permanent"
ORDERS = [
    ("vhosts/shop.conf", REWRITES, SWAPPED_REWRITES),
    f"changed    {SHOP} > order of rewrite directives: set $section front, {OLD_REWRITE} -> {OLD_REWRITE}, set $section front",
    ("maps/hosts.conf", REGEX_KEYS, SWAPPED_KEYS),
    f"changed    map $host $backend > order of regex keys: {KEY_LINE}",
    ("upstreams.conf", HASHED, SWAPPED_HASHED),
    "changed    upstream pool_api > order of servers of a hash: server 127.0.0.1:9101, server 127.0.0.1:9102 "
    "-> server 127.0.0.1:9102, server 127.0.0.1:9101  [upstreams]",
    ("vhosts/shop.conf", RULES, SWAPPED_RULES),
    f"changed    {SHOP} > location /admin/ > order of allow and deny: allow 10.0.0.0/8, deny all -> deny all, allow 10.0.0.0/8  [access]",
    ("upstreams.conf", FREE, SWAPPED_FREE),
    "reordered  upstream pool_main > order of directives: server 127.0.0.1:9002, server 127.0.0.1:9003 backup "
    "-> server 127.0.0.1:9003 backup, server 127.0.0.1:9002 (nginx does not mind)",
]


@pytest.mark.parametrize(("edit", "line"), list(zip(ORDERS[::2], ORDERS[1::2], strict=True)))
def test_another_order_is_a_change_where_nginx_minds_it(edit: tuple[str, str, str], line: str) -> None:
    name, old, new = edit
    assert told(files(), edited(name, (old, new))) == [line]


def test_who_answers_by_default_is_told_said_or_by_its_place() -> None:
    change = "changed    default server of *:80: server shop.test (listen 80, [::]:80) -> "
    said = told(files(), edited("vhosts/site5.conf", ("listen 80;", "listen 80 default_server;")))
    assert said == [
        f"{change}server site5.test (listen 80)  [listen]",
        "changed    server site5.test (listen 80) > listen: 80 -> 80 default_server  [listen]",
    ]
    first = {**files(), f"{ROOT}/vhosts/a.conf": "server { listen *:80; server_name a.test; }\n"}
    assert told(files(), first) == [
        f"{change}server a.test (listen *:80)  [listen]",
        "gained     server a.test (listen *:80): 2 directives  [listen]",
    ]


def test_servers_that_are_tried_in_order() -> None:
    """Regex names, and a name that two have on one port: the first is taken."""
    for one, other in (("~^r1", "~^r2"), ("www.x.test", "www.x.test")):
        site, text = f"{ROOT}/vhosts/site%s.conf", "server { listen 81; server_name %s; return 20%d; }\n"
        before = {**files(), site % 1: text % (one, 1), site % 2: text % (other, 2)}
        after = {**before, site % 1: before[site % 2], site % 2: before[site % 1]}
        lines = told(before, after)
        (line,) = (line for line in lines if "order of servers with regex or equal names: " in line)
        assert line.startswith("changed")


def test_servers_elsewhere_are_reordered_alone() -> None:
    """But for who is the default."""
    one, other = "server { listen 81; server_name a.test; }", "server { listen 82; server_name b.test; }"
    place = f"{ROOT}/vhosts/site1.conf"
    before, after = {**files(), place: f"{one}\n{other}\n"}, {**files(), place: f"{other}\n{one}\n"}
    names = (
        "server a.test (listen 81), server b.test (listen 82)",
        "server b.test (listen 82), server a.test (listen 81)",
    )
    assert told(before, after) == [f"reordered  order of directives: {' -> '.join(names)} (nginx does not mind)"]
    same = [{path: text.replace("listen 82", "listen 81") for path, text in side.items()} for side in (before, after)]
    lines = told(*same)
    assert [line.split("(")[-1].split(")")[0] for line in lines] == [
        "listen 81",
        "nginx minds who is the default, not the rest",
    ]
    assert lines[0].startswith("changed    default server of *:81: server a.test")


def test_directives_in_a_file_of_their_own_are_moves() -> None:
    pair = "    ssl_certificate      certs/api.pem;\n    ssl_certificate_key  certs/api.key;\n"
    after = edited("vhosts/api.conf", (pair, "    include snippets/pair.conf;\n"))
    assert told(files(), {**after, f"{ROOT}/snippets/pair.conf": pair}) == [
        f"gained     {API} > include: snippets/pair.conf",
        f"moved      {API} > ssl_certificate",
        f"moved      {API} > ssl_certificate_key",
    ]


def test_a_block_that_is_called_otherwise_is_the_same_block() -> None:
    assert told(files(), edited("vhosts/shop.conf", ("location /admin/", "location ^~ /admin/"))) == [
        f"changed    {SHOP} > location: /admin/ -> ^~ /admin/  [upstreams, access]"
    ]
    assert told(files(), edited("vhosts/site2.conf", ("site2.test *.site2.test", "other.test"))) == [
        "changed    server other.test (listen 80) > server_name: site2.test *.site2.test -> other.test"
    ]


@pytest.mark.parametrize(
    ("directive", "shown"),
    [
        ('proxy_set_header Authorization "Basic QUJD"', "Authorization ***"),
        ("proxy_set_header Authorization $http_authorization", "Authorization $http_authorization"),
        ("proxy_set_header X-Api-Key abc", "X-Api-Key ***"),
        ("proxy_set_header X-Any 'Bearer abc.def'", '"Bearer ***"'),
        ("add_header Set-Cookie 'id=abc; Path=/'", "Set-Cookie ***"),
        ("proxy_pass http://anna:abc@10.0.0.1/x", "http://***@10.0.0.1/x"),
        ("set $db_password abc", "$db_password ***"),
        ("secure_link_md5 '$secure_link_expires$uri abc'", "***"),
        ("secure_link_secret abc", "***"),
        ("env DB_PASSWORD=abc", "DB_PASSWORD=***"),
        ("return 301 https://x.test/?a=1&access_token=abc&b=2", "https://x.test/?a=1&access_token=***&b=2"),
        ("auth_ldap_binddn_passwd abc", "***"),
        ("server_tokens off", "off"),
        ("proxy_hide_header Set-Cookie", "Set-Cookie"),
        ("ssl_certificate_key certs/private.key", "certs/private.key"),
    ],
)  # fmt: skip
def test_what_of_a_directive_is_hidden(directive: str, shown: str) -> None:
    (item,) = parse_text(f"{directive};".encode()).items
    value = value_of(make_node(item.name, item.args, "/f", 1, None), ("server", ()))
    assert value.endswith(shown)
    assert "abc" not in value
    assert "QUJD" not in value


def test_a_condition_on_a_secret_does_not_show_it() -> None:
    old, new = ("$http_authorization != 'Basic QUJD'", "$http_authorization != 'Basic REVG'")
    base = edited("vhosts/api.conf", ('$api_client = ""', old))
    (line,) = told(base, edited("vhosts/api.conf", (old, new), base=base))
    assert (
        line
        == f"changed    {API} > location /v2/ > if: $http_authorization != *** -> $http_authorization != *** (what differs is not shown)"
    )

"""What a difference means for nginx, on a realistic configuration: crossplane, includes, pairs, order, places, risks."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import pytest

from ngxsync.cli.difference import render_meaning
from ngxsync.core.meaning import Finding, about_files, compare_trees
from ngxsync.core.nginxtree import Expansion, Node, Parsed
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
    assert told(files(), after) == ["formatting  only comments, white space or quotes"]


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
    "reordered  upstream pool_main > server: 127.0.0.1:9001 weight=3 max_fails=2 -> 127.0.0.1:9001 max_fails=2 weight=3",
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

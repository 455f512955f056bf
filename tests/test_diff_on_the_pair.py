"""`ngxsync diff` on a real pair: what it means for nginx, with the right line on both hosts; the pager; what is in the JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ngxsync.cli.pager import pager_of
from tests.hosts import Host
from tests.pair import ROOT, Pair, write_tree
from tests.realistic import files
from tests.terminal import Terminal

SHOP, API = "server shop.test (listen 443, [::]:443)", "server api.shop.test (listen 443)"


def make_realistic(pair: Pair) -> None:
    texts = {path.removeprefix(f"{ROOT}/"): text for path, text in files().items()}
    for host in pair.hosts:
        write_tree(host, ROOT, texts)


def edit(host: Host, name: str, old: str, new: str) -> None:
    file = host.path(f"{ROOT}/conf/{name}")
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def line_at(host: Host, place: dict[str, Any] | None) -> str:
    return host.path(place["file"]).read_text().splitlines()[place["line"] - 1].strip() if place else ""


def test_what_edits_on_both_hosts_mean(pair: Pair) -> None:
    make_realistic(pair)
    edit(pair.web1, "snippets/tls.conf", "TLSv1.2 TLSv1.3", "TLSv1.3")
    edit(pair.web1, "vhosts/shop.conf", "# the shop itself", "# the shop\n# itself\n")
    edit(pair.web1, "vhosts/shop.conf", "Basic VE9QU0VDUkVU", "Basic T1RIRVI=")
    edit(pair.web1, "maps/hosts.conf", "~^beta             pool_main", "~^beta\tpool_main")
    edit(pair.web2, "vhosts/api.conf", "listen 443 ssl http2;", "listen 443 ssl http2;\n    listen 8443 ssl;")
    pair.web1.path(f"{ROOT}/conf/vhosts/site8.conf").rename(pair.web1.path(f"{ROOT}/conf/vhosts/site9.conf"))
    (peer,) = json.loads(pair.ngxsync("diff", "--json").stdout)["peers"]
    told = {(found["kind"], found["where"][-1] if found["where"] else "", found["what"]) for found in peer["meaning"]}
    assert told == {
        ("changed", API, "ssl_protocols"),
        ("changed", "location /admin/", "proxy_set_header"),
        ("lost", API, "listen"),
        ("moved", "http", "server site8.test (listen 80)"),
        ("formatting", "", f"{ROOT}/conf/maps/hosts.conf"),
    }
    for found in peer["meaning"]:
        if found["kind"] != "formatting":
            word = found["what"].split()[0]
            lines = line_at(pair.web2, found["before_at"]), line_at(pair.web1, found["after_at"])
            assert all(line.startswith(f"{word} ") for line in lines if line), (found, lines)
            assert lines[0] if found["kind"] == "lost" else all(lines)
    text = pair.ngxsync("diff", "--stat").stdout
    assert "what it means for nginx on web2:\n  changed " in text
    conf = f"{ROOT}/conf/vhosts"
    assert f"  lost       {API} > listen: 8443 ssl  [listen]  web2:{conf}/api.conf:3\n" in text
    assert "VE9Q" not in text
    assert "T1RI" not in text
    assert "\ndiff --git " not in text
    limited = pair.ngxsync("diff", "--stat", f"{ROOT}/conf/maps").stdout
    formatting = "formatting only comments, white space or quotes"
    place = f"{ROOT}/conf/maps/hosts.conf:1"
    assert limited.splitlines()[2:] == [
        "what it means for nginx on web2:",
        f"  {formatting}  web2:{place} -> web1:{place}",
    ]


def test_what_the_peer_alone_includes_is_asked_for_too(pair: Pair) -> None:
    make_realistic(pair)
    edit(pair.web2, "vhosts/api.conf", "listen 443 ssl http2;", "listen 443 ssl http2;\n    include only/here.conf;")
    write_tree(pair.web2, ROOT, {"conf/only/here.conf": "\nadd_header X-Only here;\n"})
    (peer,) = json.loads(pair.ngxsync("diff", "--json").stdout)["peers"]
    lost = {found["what"]: line_at(pair.web2, found["before_at"]) for found in peer["meaning"]}
    assert lost == {"include": "include only/here.conf;", "add_header": "add_header X-Only here;"}
    assert "+++ /dev/null\n@@ -1,2 +0,0 @@\n-\n-add_header X-Only here;\n" in pair.ngxsync("diff").stdout


def test_a_pager_on_a_terminal(pair: Pair) -> None:
    edit(pair.web1, "vhosts/default.conf", "root html;", "root html;  # here")
    place = f"{ROOT}/conf/vhosts/default.conf"
    with Terminal(pair, "diff", PAGER="sed 's/^/page: /'") as terminal:
        assert terminal.end() == 1
    assert "page: \x1b[31m-    root html;\x1b[0m\npage: \x1b[32m+    root html;  # here\x1b[0m\n" in terminal.shown
    with Terminal(pair, "diff", PAGER="head -n 1", NO_COLOR="1") as terminal:
        assert terminal.end() == 1
    assert terminal.shown == "web1 -> web2: 1 change (1 content): 1 first-contact\n"
    with Terminal(pair, "diff", "--no-pager", PAGER="false", NO_COLOR="1") as terminal:
        assert terminal.end() == 1
    assert f"\n~ {place}  content (first-contact)\n" in terminal.shown
    assert terminal.shown.endswith(
        '+    root html;  # here\n     location = /hostname {\n         return 200 "$hostname\\n";\n     }\n'
    )


@pytest.mark.parametrize(
    ("environment", "less", "pager"),
    [
        ({}, "/usr/bin/less", "less"),
        ({}, None, ""),
        ({"PAGER": "more -s"}, None, "more -s"),
        ({"PAGER": ""}, "/usr/bin/less", ""),
        ({"PAGER": "cat"}, "/usr/bin/less", ""),
    ],
)
def test_which_pager(environment: dict[str, str], less: str | None, pager: str) -> None:
    assert pager_of(environment, lambda _name: less) == pager

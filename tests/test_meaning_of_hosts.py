"""Both hosts' configurations in memory: links, includes, what the peer alone has, what is read, fetched and parsed."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from ngxsync.agent.manifest import Entry, Manifest
from ngxsync.cli.difference import render_meaning
from ngxsync.core.meaning import Finding
from ngxsync.core.model import Change
from ngxsync.core.nginxtree import Parsed
from ngxsync.core.patch import LARGEST_TEXT, is_secret
from ngxsync.core.plan import make_plan
from ngxsync.edges.nginxconf import parse_text
from ngxsync.flow.contents import Content
from ngxsync.flow.meaning import Parts, find_meaning

TREE = "/etc/nginx"
MAIN = f"{TREE}/nginx.conf"
SITE = "server { listen 80; server_name %s; }\n"
Tree = Mapping[str, str | bytes]  # "-> target" is a link

BASE: Tree = {
    MAIN: "events {}\nhttp {\n    include sites-enabled/*;\n    include /usr/share/nginx/more.conf;\n}\n",
    f"{TREE}/sites-available/a": SITE % "a.test",
    f"{TREE}/sites-available/b": SITE % "b.test",
    f"{TREE}/sites-enabled/a": "-> ../sites-available/a",
    "/usr/share/nginx/more.conf": "gzip on;\n",
    "/var/www/index.html": "hello\n",
}


def data_of(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def manifest_of(tree: Tree) -> Manifest:
    return {path: entry_of(data_of(text)) for path, text in tree.items() if not path.startswith("/usr")}


def entry_of(data: bytes) -> Entry:
    if data.startswith(b"-> "):
        return Entry("link", 0o777, "root", "root", 0, 0, data[3:].decode())
    return Entry("file", 0o644, "root", "root", 0, len(data), hashlib.sha256(data).hexdigest())


@dataclass
class Hosts:
    """flow.meaning.Disk of the master; and what the peer was asked for, and how often something was parsed."""

    own: Tree
    theirs: Tree
    links: Mapping[str, str] = field(default_factory=lambda: {"/opt/nginx": TREE})  # of folders outside the trees
    fetched: list[str] = field(default_factory=list)
    parsed: int = 0

    def read(self, path: str) -> Content | None:
        return content_of(path, data_of(self.own[path])) if path in self.own else None

    def real_path(self, path: str) -> str:
        link = next((link for link in self.links if path.startswith(link)), "")
        return self.links.get(link, "") + path[len(link) :]

    def glob(self, pattern: str) -> list[str]:
        return [path for path in self.own if fnmatch.fnmatchcase(path, pattern)]

    def parse(self, text: bytes) -> Parsed:
        self.parsed += 1
        return parse_text(text)

    def fetch(self, changes: Iterable[Change]) -> dict[str, Content]:
        paths = [change.path for change in changes]
        self.fetched += paths
        return {path: content_of(path, data_of(self.theirs[path])) for path in paths}

    def meaning(self, conf: str = MAIN) -> list[str]:
        own, theirs = manifest_of(self.own), manifest_of(self.theirs)
        parts = Parts(conf, (TREE, "/var/www"), self, self.parse, self.fetch)
        plan = make_plan(own, theirs, None, lambda _path: False)
        return [line_of(finding) for finding in find_meaning(parts, own, theirs, plan)]


def content_of(path: str, data: bytes) -> Content:
    return Content(None, is_secret=True) if is_secret(path, data, ()) else Content(data)


def line_of(finding: Finding) -> str:
    places = [place for place in (finding.before_at, finding.after_at) if place]
    where = " -> ".join(f"{file.removeprefix(TREE + '/')}:{line}" for file, line in places)
    return f"{finding.kind} {finding.what} {where}{f' ({finding.note})' if finding.note else ''}"


def test_the_peers_files_are_ours_with_its_own_in_them() -> None:
    theirs = {**BASE, f"{TREE}/sites-available/a": SITE % "a.test old.test", "/var/www/index.html": "hallo\n"}
    hosts = Hosts(BASE, theirs)
    assert hosts.meaning() == ["changed server_name sites-available/a:1 -> sites-available/a:1"]
    assert hosts.fetched == [f"{TREE}/sites-available/a"], "nothing that nginx does not read"
    assert hosts.parsed == 2, "what differs, on both sides"


def test_a_link_is_a_site_that_comes_or_goes() -> None:
    own = {**BASE, f"{TREE}/sites-enabled/b": "-> /etc/nginx/sites-available/b"}
    hosts = Hosts(own, BASE)
    assert hosts.meaning() == ["gained server b.test (listen 80) sites-available/b:1"]
    assert Hosts(BASE, own).meaning() == ["lost server b.test (listen 80) sites-available/b:1"]
    assert hosts.fetched == []


def test_what_only_the_peer_includes_is_found_whatever_leads_there() -> None:
    theirs = {
        **BASE,
        MAIN: data_of(BASE[MAIN]).replace(b"sites-enabled", b"other").decode(),
        f"{TREE}/other/one.conf": "include deep/[xy].conf;\n",
        f"{TREE}/deep/x.conf": SITE % "x.test",
        f"{TREE}/deep/.y.conf": SITE % "hidden.test",
    }
    hosts = Hosts(BASE, theirs)
    assert hosts.meaning() == [
        "changed default server of *:80 deep/x.conf:1 -> sites-available/a:1",
        "gained include nginx.conf:3",
        "gained server a.test (listen 80) sites-available/a:1",
        "lost server x.test (listen 80) deep/x.conf:1",
        "lost include nginx.conf:3",
        "lost include other/one.conf:1",
    ]
    assert hosts.fetched == [MAIN, f"{TREE}/other/one.conf", f"{TREE}/deep/x.conf"]


def test_a_configuration_that_nginx_reaches_by_another_way_is_the_trees() -> None:
    theirs = {**BASE, f"{TREE}/sites-available/a": SITE % "other.test"}
    assert Hosts(BASE, theirs).meaning("/opt/nginx/nginx.conf") == Hosts(BASE, theirs).meaning() != []
    linked = Hosts(BASE, theirs, {TREE: "/srv/real"})
    assert linked.meaning("/srv/real/nginx.conf") == Hosts(BASE, theirs).meaning(), "the tree itself is a link"


def test_the_same_file_under_another_name_is_a_move_and_not_fetched() -> None:
    own = {path.replace("sites-available/a", "sites-available/z"): text for path, text in BASE.items()}
    own[f"{TREE}/sites-enabled/a"] = "-> ../sites-available/z"
    hosts = Hosts(own, BASE)
    assert hosts.meaning() == ["moved server a.test (listen 80) sites-available/a:1 -> sites-available/z:1"]
    assert (hosts.fetched, hosts.parsed) == ([], 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"# caf\xe9\nserver { listen 80; }\n", "line 1 is not UTF-8"),
        ("server {\n listen 80;\n", 'line 2: unexpected end of file, expecting "}"'),
        ("# a\rserver { listen 80; }\n", "a carriage return stands within a line"),
        ("# -----BEGIN PRIVATE KEY-----\n", "it is a secret"),
        ("#" * (LARGEST_TEXT + 1), "it is too large, or gone meanwhile"),
        (
            "content_by_lua_block {\n  local s = [[it's]]\n}\nroot /x;\nset $a 'x}';\n",
            "line 4 is not what crossplane takes it for",
        ),
    ],
)
def test_what_cannot_be_read_is_compared_as_text_and_the_reason_said(text: str | bytes, reason: str) -> None:
    edited = {**BASE, f"{TREE}/sites-available/a": text}
    told = f"text {TREE}/sites-available/a sites-available/a:1 -> sites-available/a:1 ({reason})"
    assert Hosts(edited, BASE).meaning() == [told]
    assert Hosts(BASE, edited).meaning() == [told]


def test_what_an_unreadable_file_includes_is_compared_all_the_same() -> None:
    base = {**BASE, MAIN: b"# caf\xe9\n" + data_of(BASE[MAIN])}
    edited = {**base, f"{TREE}/sites-available/a": SITE % "new.test"}
    assert Hosts(edited, base).meaning() == ["changed server_name sites-available/a:1 -> sites-available/a:1"]


def test_an_edit_that_nginx_does_not_read_means_nothing() -> None:
    assert Hosts(BASE, {**BASE, f"{TREE}/sites-available/b": "rubbish {"}).meaning() == []


def test_a_peer_cannot_keep_this_host_busy_with_its_configuration() -> None:
    deep = {**BASE, f"{TREE}/sites-available/a": "a {" * 5_000 + "}" * 5_000}
    assert Hosts(BASE, deep).meaning() == [
        f"text {TREE}/sites-available/a sites-available/a:1 -> sites-available/a:1 (line 1 stands in more than 100 blocks)"
    ]
    doubled = {f"{TREE}/d/{n}": f"include d/{n + 1}; include d/{n + 1};\n" for n in range(60)}
    chained = {f"{TREE}/d/{n}": f"include d/{n + 1};\n" for n in range(2_000)}
    for more in (doubled, chained):
        theirs = {**BASE, **more, f"{TREE}/d/{len(more)}": "gzip on;\n", f"{TREE}/sites-available/a": "include d/0;\n"}
        hosts = Hosts(BASE, theirs)
        assert hosts.meaning() == [f"text {MAIN} nginx.conf:1 -> nginx.conf:1 (its includes go on and on)"]
        assert len(hosts.fetched) < 110


def test_what_a_peer_writes_is_harmless_on_a_terminal() -> None:
    own, theirs = manifest_of(BASE), {**BASE, f"{TREE}/sites-available/a": SITE % "a.test '\x1b[31mred\nlost all'"}
    hosts = Hosts(BASE, theirs)
    parts = Parts(MAIN, (TREE,), hosts, hosts.parse, hosts.fetch)
    plan = make_plan(own, manifest_of(theirs), None, lambda _path: False)
    (line,) = render_meaning(find_meaning(parts, own, manifest_of(theirs), plan), "web1", "web2")
    assert 'server_name: a.test "\\x1b[31mred\\nlost all" -> a.test' in line
    assert line.isprintable()

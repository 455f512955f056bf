"""Broken configuration against the real nginx and crossplane; explanations, hints, and the reader of named files."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ngxsync.agent.directives import named_files, parse
from ngxsync.agent.nginxtest import parse_nginx_t
from ngxsync.core.model import Problem
from ngxsync.edges.nginxconf import ConfReader, Payloads, explain, parse_text, with_hints
from tests.broken_cases import BASE, CASES, INCLUDE_CYCLE, MAIN, MASTER_ADDRESS, OUTSIDE, PEER_ONLY, VHOST, BrokenCase
from tests.host import PATIENCE_S

BLOCKED_S = 2.0  # for a thread that the other one may have to wait for

NGINX = "/usr/sbin/nginx"
CONF = Path(MAIN)
BY_MASTER = [case for case in CASES if case.refused_by == "master"]

# what crossplane sees in its default mode; in all other cases it is content with what nginx refuses
SEEN_BY_CROSSPLANE = {
    "semicolon-missing": 4,
    "semicolon-before-brace": 4,
    "semicolon-at-end": 1,
    "brace-missing": 2,
    "brace-too-many": 4,
    "brace-for-semicolon": 2,
    "block-without-brace": 1,
    "quote-open": 4,
    "arguments-too-many": 4,
    "flag": 4,
    "context": 4,
    "include-missing": 4,
    "include-variable": 4,
    "include-folder": 4,
    "peer-lacks-include": 4,
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "nginx"
    shutil.copytree(BASE, root)
    (root / "logs").mkdir()
    return root


def write(tree: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)


def problems_of(output: str) -> tuple[Problem, ...]:
    return tuple(Problem(**problem) for problem in parse_nginx_t(output))


def check_by_nginx(tree: Path, *addresses: str, as_root: bool = False) -> tuple[bool, tuple[Problem, ...]]:
    """nginx's own verdict, in a network of its own, where all ports are free and no name is resolved.

    Who is not root is root of a user namespace for making the network; `as_root`: for nginx too.
    """
    user, group = os.geteuid(), os.getegid()
    own = ["unshare", "--net", *(["--map-root-user"] if user else [])]
    back = f"unshare --user --map-user={user} --map-group={group}" if user and not as_root else ""
    network = "ip link set lo up" + "".join(f" && ip address add {address}/32 dev lo" for address in addresses)
    script = f'{network} && exec {back} "$0" -t -p "$1" -c "$2"'
    argv = [*own, "sh", "-c", script, NGINX, str(tree), str(tree / MAIN)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"})
    return done.returncode == 0, problems_of(done.stderr)


def assert_refused(case: BrokenCase, tree: Path) -> None:
    is_good, problems = check_by_nginx(tree, as_root=case.name == "user-missing")
    first = next(problem for problem in problems if problem.level == "error")
    assert not is_good
    assert case.expect in first.text
    assert (first.file, first.line) == (str(tree / case.file) if case.file else "", case.line or 0)


def test_the_good_tree_passes(tree: Path) -> None:
    assert check_by_nginx(tree) == (True, ())
    assert explain(CONF, tree) == ()


def test_cases_have_names_of_their_own_and_are_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(BY_MASTER) >= 30
    assert len(PEER_ONLY) >= 3


@pytest.mark.parametrize("case", BY_MASTER, ids=lambda case: case.name)
def test_nginx_refuses(case: BrokenCase, tree: Path) -> None:
    write(tree, dict(case.files))
    assert_refused(case, tree)


@pytest.mark.parametrize("case", PEER_ONLY, ids=lambda case: case.name)
def test_only_the_peer_refuses(case: BrokenCase, tree: Path, tmp_path: Path) -> None:
    outside = str(tmp_path / "outside")
    write(tree, {name: text.replace(OUTSIDE, outside) for name, text in case.files.items()})
    for name, source in case.outside.items():
        made = Path(name.replace(OUTSIDE, outside))
        made.parent.mkdir(exist_ok=True)
        if source:
            shutil.copyfile(source, made)
        else:
            made.mkdir()
    assert check_by_nginx(tree, MASTER_ADDRESS) == (True, ())
    write(tree, dict(case.files))
    assert_refused(case, tree)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_crossplane_says(case: BrokenCase, tree: Path) -> None:
    write(tree, dict(case.files))
    places = [(problem.file, problem.line) for problem in explain(CONF, tree)]
    line = SEEN_BY_CROSSPLANE.get(case.name)
    assert places == ([(str(tree / VHOST), line)] if line else [])


def test_the_place_of_a_problem_after_an_include_is_its_own(tree: Path) -> None:
    write(tree, {"conf/part.conf": "gzip on;\n", VHOST: "server {\n  include part.conf;\n  gzip maybe;\n}\n"})
    assert [str(problem) for problem in explain(CONF, tree)] == [
        f'{tree}/{VHOST}:3: invalid value "maybe" in "gzip" directive, it must be "on" or "off"'
    ]


def test_a_circle_of_includes_that_kills_nginx_is_explained(tree: Path) -> None:
    write(tree, dict(INCLUDE_CYCLE.files))
    is_good, problems = check_by_nginx(tree)
    assert (is_good, problems) == (False, ())
    (problem,) = explain(CONF, tree)
    a, b = f"{tree}/{VHOST}", f"{tree}/conf/parts/a.conf"
    assert str(problem) in (
        f"{a}:2: includes itself without end: {a} includes {b} includes {a}",
        f"{b}:1: includes itself without end: {b} includes {a} includes {b}",
    )


def test_several_problems_are_told_at_once(tree: Path) -> None:
    write(tree, {VHOST: "server {\n  gzip maybe;\n  keepalive_timeout 1 2 3;\n}\nserver {\n  worker_processes 1;\n}\n"})
    assert [problem.line for problem in explain(CONF, tree)] == [2, 3, 6]


def test_a_main_file_that_is_not_there(tree: Path) -> None:
    (problem,) = explain(Path("conf/none.conf"), tree)
    assert str(problem) == f'{tree}/conf/none.conf: cannot read "{tree}/conf/none.conf": No such file or directory'


def test_blocks_nested_without_end(tree: Path) -> None:
    write(tree, {VHOST: "a {\n" * 5000 + "}\n" * 5000})
    assert [problem.text for problem in explain(CONF, tree)] == ["blocks are nested too deep to be read"]


VALID = {
    "include-in-if": "server { location / { if ($host) { include if.inc; } limit_except GET { include deny.inc; } } }",
    "include-in-server-if": "server { if ($host) { include if.inc; } }",
    "latin-1": "server { add_header X \udce9; }",
}


@pytest.mark.parametrize("name", VALID)
def test_no_false_alarm_on_what_nginx_takes(name: str, tree: Path) -> None:
    write(tree, {"conf/if.inc": "return 404;\n", "conf/deny.inc": "deny all;\n"})
    (tree / VHOST).write_text(VALID[name], errors="surrogateescape")
    assert check_by_nginx(tree) == (True, ())
    assert explain(CONF, tree) == ()


def test_no_false_alarm_on_newer_places(tree: Path) -> None:
    stream = "stream {\n upstream u { resolver 127.0.0.1; }\n server { listen 1; server_name a; set $b c; }\n}\n"
    write(tree, {MAIN: "events { }\n" + stream + "http { upstream u { resolver_timeout 1s; } }\n"})
    assert explain(CONF, tree) == ()


def test_lua_that_crossplane_misreads_is_a_warning(tree: Path) -> None:
    write(tree, {VHOST: "server {\n  content_by_lua_block {\n    -- don't\n    ngx.say([[}]])\n  }\n}\n"})
    assert {problem.level for problem in explain(CONF, tree)} == {"warning"}


def test_hints_for_what_nginx_refused(tree: Path) -> None:
    write(tree, {VHOST: "server {\n  ssl_certficate a;\n}\n"})
    _, problems = check_by_nginx(tree)
    assert [problem.text for problem in with_hints(problems)] == [
        'unknown directive "ssl_certficate"; did you mean "ssl_certificate"?'
    ]


@pytest.mark.parametrize("text", ['unknown directive "stream"', 'unknown directive "xyzzyx"', '"gzpi" is odd'])
def test_no_hint(text: str) -> None:
    assert with_hints([Problem(text)]) == (Problem(text),)


NGINX_SAID = """\
nginx: [alert] could not open error log file: open() "/var/log/nginx/error.log" failed (13: Permission denied)
2026/11/22 21:51:19 [warn] 4242#4242: the "user" directive makes sense only if the master process runs with super-user \
privileges, ignored in /usr/local/nginx/conf/nginx.conf:1
nginx: [warn] conflicting server name "a b" on 0.0.0.0:80, ignored
nginx: [notice] signal process started
nginx: [emerg] unknown directive "server
 name" in /usr/local/nginx/conf/vhosts/in /a:7.conf:12
nginx: [emerg] bind() to 192.0.2.1:80 failed (99: Cannot assign requested address)
nginx: [emerg] bind() to 192.0.2.1:80 failed (99: Cannot assign requested address)
nginx: invalid option: "x"
nginx: the configuration file /usr/local/nginx/conf/nginx.conf syntax is ok
nginx: configuration file /usr/local/nginx/conf/nginx.conf test failed
"""


def test_what_nginx_says() -> None:
    main = "/usr/local/nginx/conf/nginx.conf"
    warned = 'the "user" directive makes sense only if the master process runs with super-user privileges, ignored'
    assert problems_of(NGINX_SAID) == (
        Problem(
            'could not open error log file: open() "/var/log/nginx/error.log" failed (13: Permission denied)',
            level="warning",
        ),
        Problem(warned, main, 1, "warning"),
        Problem('conflicting server name "a b" on 0.0.0.0:80, ignored', level="warning"),
        Problem('unknown directive "server\n name"', "/usr/local/nginx/conf/vhosts/in /a:7.conf", 12),
        Problem("bind() to 192.0.2.1:80 failed (99: Cannot assign requested address)"),
        Problem('invalid option: "x"'),
    )


@pytest.mark.parametrize("output", ["", "sh: 1: nginx: not found\n"])
def test_what_is_none_of_nginx_is_no_problem_of_the_configuration(output: str) -> None:
    assert problems_of(output) == ()


# where each relative name begins is asked of nginx itself: its complaint shows the whole path
ASKED = {
    "load_module none/x;": "main",
    "error_log none/x;": "main",
    "pid none/x;": "main",
    "access_log none/x;": "http",
    "client_body_temp_path none/x;": "http",
    "proxy_temp_path none/x;": "http",
    "proxy_cache_path none/x keys_zone=a:1m;": "http",
    "include none/x;": "http",
    "map $host $a { include none/x; }": "http",
    "geo $a { include none/x; }": "http",
    "server { listen 1 ssl; ssl_certificate none/x; ssl_certificate_key y; }": "http",
    "ssl_password_file none/x;": "tls",
    "ssl_certificate tls/one.crt; ssl_certificate_key none/x;": "http-tls",
    "ssl_dhparam none/x;": "tls",
    "ssl_crl none/x;": "tls",
    "ssl_trusted_certificate none/x;": "tls",
    "ssl_verify_client on; ssl_client_certificate none/x;": "tls",
    "ssl_session_ticket_key none/x;": "tls",
    "ssl_stapling on; ssl_stapling_file none/x;": "tls",
    "proxy_pass https://[::1]; proxy_ssl_certificate none/x; proxy_ssl_certificate_key y;": "location",
    "proxy_pass https://[::1]; proxy_ssl_verify on; proxy_ssl_trusted_certificate none/x;": "location",
    "grpc_pass grpcs://[::1]:1; grpc_ssl_certificate none/x; grpc_ssl_certificate_key y;": "location",
    "uwsgi_pass suwsgi://[::1]:1; uwsgi_ssl_verify on; uwsgi_ssl_trusted_certificate none/x;": "location",
}
_PEM = BASE.parent / "pem"


def around(text: str, context: str) -> str:
    pair = f"ssl_certificate {_PEM}/one.crt; ssl_certificate_key {_PEM}/one.key; "
    text = text.replace("tls/one.crt", f"{_PEM}/one.crt")
    if context == "main":
        return f"{text}\nevents {{ }}\n" + ("" if text.startswith("pid") else "pid logs/pid;\n")
    servers = {
        "tls": f"listen 1 ssl; {pair}{text}",
        "http-tls": f"listen 1 ssl; {text}",
        "location": f"location / {{ {text} }}",
    }
    inner = f"server {{ {servers[context]} }}" if context in servers else text
    return f"events {{ }}\npid logs/pid;\nhttp {{ {inner} }}\n"


@pytest.mark.parametrize("text", ASKED)
def test_the_table_resolves_a_name_as_nginx_does(text: str, tree: Path) -> None:
    conf = around(text, ASKED[text])
    write(tree, {MAIN: conf})
    is_good, problems = check_by_nginx(tree)
    said = " ".join(problem.text for problem in problems)
    (named,) = [
        item for item in named_files(parse(conf.encode(), "f"), str(tree / "conf"), str(tree)) if "/none/x" in item.path
    ]
    assert not is_good
    assert f'"{named.path.rstrip("/")}"' in said


@pytest.fixture
def reader(tmp_path: Path) -> ConfReader:
    return ConfReader(tmp_path / "cache", now=in_an_hour)


def in_an_hour() -> float:
    """A clock for which all files are old enough to be kept."""
    return time.time() + 3600


def paths(reader: ConfReader, tree: Path, role: str = "root") -> list[str]:
    found = reader.named_files(CONF, tree)
    return sorted({os.path.relpath(item.path, tree) for item in found if item.role == role})


def test_the_reader_finds_what_the_base_names(reader: ConfReader, tree: Path) -> None:
    found = {(item.role, os.path.relpath(item.path, tree)) for item in reader.named_files(CONF, tree)}
    assert found == {
        ("log", "logs/error.log"),
        ("pid", "logs/nginx.pid"),
        ("include", "conf/mime.types"),
        ("log", "logs/access.log"),
        *(("temp", f"{name}_temp") for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")),
        ("include", "conf/vhosts/*.conf"),
        ("root", "html"),
    }


def test_the_reader_follows_every_change(reader: ConfReader, tree: Path) -> None:
    assert paths(reader, tree) == ["html"]
    write(tree, {VHOST: "server { root one; }"})
    assert paths(reader, tree) == ["html", "one"]
    before = (tree / VHOST).stat()
    write(tree, {VHOST: "server { root two; }"})
    os.utime(tree / VHOST, ns=(before.st_atime_ns, before.st_mtime_ns))  # equal size and mtime
    assert paths(reader, tree) == ["html", "two"]
    (tree / VHOST).unlink()
    assert paths(reader, tree) == ["html"]


def test_an_unchanged_configuration_is_answered_by_the_same_object(reader: ConfReader, tree: Path) -> None:
    assert reader.named_files(CONF, tree) is reader.named_files(CONF, tree)


def test_what_changed_just_now_is_not_kept(tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ConfReader(cache, now=time.time).named_files(CONF, tree)
    assert not cache.exists()


def test_the_cache_on_disk_is_private_and_used(reader: ConfReader, tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert paths(reader, tree) == ["html"]
    assert cache.stat().st_mode & 0o777 == 0o600
    assert [name for name in os.listdir(tmp_path) if name.startswith("cache")] == ["cache"]
    cache.write_text(cache.read_text().replace('/html"', '/from-cache"'))
    assert paths(ConfReader(cache), tree) == ["from-cache"]
    other = tree.parent / "other"
    shutil.copytree(tree, other)
    assert paths(ConfReader(cache), other) == ["html"]  # another configuration's cache is not taken


@pytest.mark.parametrize("damage", ["", "{", "[9]\n", "null\n[1]\n"])
def test_a_damaged_cache_is_as_good_as_none(damage: str, reader: ConfReader, tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    paths(reader, tree)
    cache.write_text(damage)
    assert paths(ConfReader(cache), tree) == ["html"]
    head = f'[1, "{tree}/{MAIN}", "{tree}"]\n'
    cache.write_text(head + damage)
    assert paths(ConfReader(cache), tree) == ["html"]


def test_cycles_links_and_files_that_are_not_there_end(reader: ConfReader, tree: Path) -> None:
    write(tree, {VHOST: "include vhosts/*.conf;\ninclude none.conf;\nserver { include vhosts/broken.conf; root a; }"})
    write(tree, {"available/b": "server { root b; }"})
    (tree / "conf/vhosts/b.conf").symlink_to("../../available/b")
    (tree / "conf/vhosts/loop.conf").symlink_to("loop.conf")
    assert paths(reader, tree) == ["a", "b", "html"]
    assert "available/b" in paths(reader, tree, "include")


def test_files_that_crossplane_cannot_read_are_read_all_the_same(reader: ConfReader, tree: Path) -> None:
    write(tree, {VHOST: "server {\n content_by_lua_block {\n -- don't {\n }\n root lua;\n}\n"})
    (tree / "conf/vhosts/latin.conf").write_bytes(b"server { root caf\xe9; }")
    assert paths(reader, tree) == ["caf\udce9", "html", "lua"]


def test_entries_of_maps_name_nothing(reader: ConfReader, tree: Path) -> None:
    write(tree, {VHOST: "map $host $a { root 1; include maps/a; }\n", "conf/maps/a": "root 2;\ninclude maps/b;\n"})
    assert paths(reader, tree) == ["html"]
    assert {"conf/maps/a", "conf/maps/b"} <= set(paths(reader, tree, "include"))


def test_crossplane_and_our_lexer_read_the_same(tree: Path) -> None:
    for file in (BASE / MAIN, Path("/etc/nginx/nginx.conf"), Path("/etc/nginx/sites-available/default")):
        shutil.copyfile(file, tree / MAIN)
        mine = named_files(parse((tree / MAIN).read_bytes(), str(tree / MAIN)), f"{tree}/conf", str(tree))
        theirs = [item for item in ConfReader().named_files(CONF, tree) if item.file == str(tree / MAIN)]
        assert set(theirs) == set(mine)


def test_a_pipe_among_the_files_keeps_nobody_waiting(tmp_path: Path) -> None:
    """nginx waits at it; what explains the refusal, and what finds the named files, must not."""
    (tmp_path / "conf.d").mkdir()
    os.mkfifo(tmp_path / "conf.d" / "pipe.conf")
    (tmp_path / "nginx.conf").write_text("events {} http { include conf.d/*.conf; }")
    problems = explain(Path("nginx.conf"), tmp_path)
    assert [str(problem) for problem in problems] == [
        f"{tmp_path}/conf.d/pipe.conf: it is no regular file: whoever reads it may wait for ever"
    ]
    assert ConfReader().named_files(Path("nginx.conf"), tmp_path)


def test_what_the_reader_parsed_is_not_parsed_again(tree: Path) -> None:
    """And says the same: one text is one payload."""
    kept: Payloads = {}
    ConfReader(payloads=kept).named_files(Path(MAIN), tree)
    files = [file for file in tree.rglob("*") if file.is_file() and file.read_bytes() in kept]
    assert tree / MAIN in files
    for file in files:
        text = file.read_bytes()
        assert parse_text(text, kept) == parse_text(text)
    other = parse_text(b"gzip on;", {b"gzip on;": [{"directive": "kept", "args": [], "line": 1}]})
    assert "not what crossplane takes it for" in other.problem, "taken from what was kept, and looked at all the same"


def test_two_threads_may_ask_at_once_and_each_is_told_what_it_found(tmp_path: Path) -> None:
    """The preparing loop, a peer's thread and a look share one reader; what began before an edit takes no other's answer away."""
    conf = tmp_path / "nginx.conf"
    conf.write_text("error_log before.log;\n")
    former_reads, later_ends, former_ended = threading.Event(), threading.Event(), threading.Event()

    class Cache(type(tmp_path)):  # type: ignore[misc]
        @property
        def parent(self) -> Path:
            """Where what was found is about to be kept."""
            if threading.current_thread() is not former:
                later_ends.set()
                former_ended.wait(BLOCKED_S)
            return Path(super().parent)

    def now() -> float:
        if threading.current_thread() is former and not former_reads.is_set():
            former_reads.set()
            later_ends.wait(BLOCKED_S)
        return time.time()

    def ask() -> None:
        found.append([item.path for item in reader.named_files(conf, tmp_path)])
        former_ended.set()

    found: list[list[str]] = []
    reader = ConfReader(Cache(tmp_path / "cache"), now=now)
    former = threading.Thread(target=ask)
    former.start()
    assert former_reads.wait(PATIENCE_S)
    conf.write_text("error_log after.log;\n")
    assert [item.path for item in reader.named_files(conf, tmp_path)] == [str(tmp_path / "after.log")]
    former.join()
    assert found == [[str(tmp_path / "before.log")]]
    assert [item.path for item in reader.named_files(conf, tmp_path)] == [str(tmp_path / "after.log")]

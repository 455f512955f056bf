"""Excludes: what git would ignore, what the built-in list leaves out, and that narrowing equals scanning."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ngxsync.agent.asked import _is_rule
from ngxsync.agent.manifest import Entry
from ngxsync.agent.scan import scan
from ngxsync.core.config import load_config
from ngxsync.core.excludes import (
    BUILTIN,
    compile_excludes,
    effective_patterns,
    is_excluded,
    literal_pattern,
    make_projection,
    narrow,
)
from ngxsync.core.model import Projection

# a directory ends with a slash; names from few letters, so that random patterns hit
PATHS = (
    *("a", "b", "ab", "a b", "a.b", "c/", "c/a", "c/b", "c/ab", "c/d/", "c/d/a", "c/d/e/", "c/d/e/a", "d/", "d/c/"),
    *(
        "d/c/a",
        "d/c/d/",
        "d/c/d/b",
        "logs/",
        "logs/a",
        "logs/d/",
        "logs/d/a.b",
        "x\ny/",
        "x\ny/a",
        "b\n",
        "!a",
        "#a",
        "[a]",
    ),
)


@pytest.fixture(scope="module")
def git_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("git")
    make_tree(root)
    subprocess.run(["git", "init", "-q", root], check=True)
    return root


def make_tree(root: Path) -> None:
    for path in PATHS:
        if path.endswith("/"):
            (root / path).mkdir(parents=True, exist_ok=True)
    for path in PATHS:
        if not path.endswith("/"):
            (root / path).write_text("")


def ignored_by_git(root: Path, patterns: list[str]) -> set[str]:
    (root / ".gitignore").write_text("".join(f"{pattern}\n" for pattern in patterns))
    clean = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    asked = "".join(f"{path.rstrip('/')}\0" for path in PATHS)
    argv = ["git", "-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", "-z", "--stdin"]
    done = subprocess.run(argv, cwd=root, env=clean, input=asked, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    said = set(done.stdout.split("\0"))
    return {path for path in PATHS if path.rstrip("/") in said}


segments = st.sampled_from(
    ["a", "b", "c", "d", "ab", "*", "?", "**", "a*", "*b", "a?b", "[ab]", "[!a]", "[a-c]", "logs", "[]a]"]
)
git_patterns = st.builds(
    lambda negated, anchored, parts, is_dir: negated + anchored + "/".join(parts) + is_dir,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(segments, min_size=1, max_size=3),
    st.sampled_from(["", "/"]),
)


@given(st.lists(git_patterns, min_size=1, max_size=4))
@example(["/logs/**", "!/logs/**/"])
@example(["c/**/"])
@example(["c/*", "!c/d"])
@example(["c", "!c/a"])
@example(["c[!x]a"])
@example(["*/**"])
@example(["**/"])
@example(["\\!a", "\\#a", "\\[a\\]"])
@example(["a\\ b"])
@example(["/c/a", "/a.b", "/c/d", "!/c/d/a", "/d/c"])
@settings(max_examples=150, deadline=None)
def test_patterns_exclude_what_git_ignores(git_tree: Path, patterns: list[str]) -> None:
    rules = compile_excludes(patterns)
    assert {path for path in PATHS if is_excluded(path, rules)} == ignored_by_git(git_tree, patterns)


@given(st.lists(git_patterns, max_size=4))
@settings(max_examples=50, deadline=None)
def test_the_agent_scans_what_the_patterns_leave(tmp_path_factory: pytest.TempPathFactory, patterns: list[str]) -> None:
    root = tmp_path_factory.mktemp("tree")
    make_tree(root)
    projection = Projection(((str(root), compile_excludes(patterns)),))
    rules = projection.trees[0][1]
    left = {f"{root}/{path.rstrip('/')}" for path in PATHS if not is_excluded(path, rules)}
    found = scan(json.loads(json.dumps(projection.as_json()))).manifest
    assert set(found) == left | {str(root)}


def test_thousands_of_paths_are_few_rules_that_an_agent_takes() -> None:
    names = [f"logs/{'x' * 200}.v{number}.test.log" for number in range(3000)]
    rules = compile_excludes([*BUILTIN, *map(literal_pattern, names)])
    assert len(rules) < len(BUILTIN) + 100
    assert all(_is_rule(*rule) for rule in rules)
    bare = compile_excludes(list(map(literal_pattern, names)))
    assert all(is_excluded(name, bare) and not is_excluded(name.replace(".", "x"), bare) for name in names)


@pytest.mark.parametrize(
    "pattern",
    ["", "#comment", "/", "!", "[a", "a\\", "[[:alpha:]]", "[a\\]b]", "[z-a]"],
    ids=lambda pattern: f"<{pattern}>",
)
def test_what_has_no_like_is_refused_and_named(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)^'.*'.*(allowed|written)") as caught:
        compile_excludes([pattern])
    assert str(caught.value).startswith(repr(pattern))


def test_sets_that_python_may_read_otherwise_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rules = compile_excludes(["[[a]x", "[a&&b]y", "[a||b]z"])
    assert [is_excluded(path, rules) for path in ("[x", "ax", "&y", "|z", "cx")] == [True, True, True, True, False]


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=[]), min_size=1, max_size=6).filter(
        lambda t: t.strip("/")
    )
)
@example(" a ")
@example("a\n")
@example("!a[b]*?\\ ")
@example("caf\udce9")
def test_a_literal_pattern_matches_its_path_and_no_other(name: str) -> None:
    path = "/".join(part for part in name.split("/") if part)
    rules = compile_excludes([literal_pattern(path)])
    assert is_excluded(path, rules)
    assert is_excluded(path + "/below", rules)
    assert not any(is_excluded(other, rules) for other in ("other/" + path, path + "x", "x" + path))


SENT = [
    *("conf/nginx.conf", "conf.d/", "logs/", "logs/site/", "html/logs/access.log", "html/4913/", "html/sedentary/"),
    *(
        "html/.well-known/acme",
        "conf/.htpasswd",
        "conf/.htpasswd.backup",
        "html/.gitignore",
        "html/modules/a.js",
        "html/a_temp/b",
    ),
]
LEFT_OUT = [
    *(
        "logs/access.log",
        "logs/site/x.log",
        "proxy_temp/",
        "proxy_temp/1/x",
        "conf/x.pid",
        "sbin/nginx",
        "modules/ngx.so",
    ),
    *(
        "conf/.nginx.conf.swp",
        "conf/.nginx.conf.swx",
        "conf/4913",
        "conf/nginx.conf~",
        "conf/sedAb12Cd",
        "html/.~tmp~/a",
    ),
    *(
        "html/.index.html.Ab12Cd",
        "html/.git/HEAD",
        ".ngxsync/run/a",
        "html/deep/.ngxsync/a",
        "conf/#a.conf#",
        "conf/.#a.conf",
    ),
]


@pytest.mark.parametrize("path", SENT)
def test_sent_without_any_configuration(path: str) -> None:
    assert not is_excluded(path, compile_excludes(effective_patterns([])))


@pytest.mark.parametrize("path", LEFT_OUT)
def test_left_out_without_any_configuration(path: str) -> None:
    assert is_excluded(path, compile_excludes(effective_patterns([])))


@pytest.mark.parametrize("pattern", [pattern for pattern in BUILTIN if not pattern.startswith("!")])
def test_every_built_in_pattern_can_be_taken_back(pattern: str) -> None:
    assert set(effective_patterns([f"!{pattern}"])) == {*BUILTIN, ".ngxsync"} - {pattern}


def test_taking_back_and_negating() -> None:
    assert not is_excluded("logs/access.log", compile_excludes(effective_patterns(["!/logs/**"])))
    rules = compile_excludes(effective_patterns(["/html/*", "!/html/index.html", "!*.pid", "/conf/x.pid"]))
    assert [is_excluded(path, rules) for path in ("html/a", "html/index.html", "a.pid", "conf/x.pid")] == [
        *(True, False, False, True)
    ]


@pytest.mark.parametrize("attempt", ["!.ngxsync", "!.ngxsync/", "!/.ngxsync/", "!**", "!*"])
def test_nothing_takes_the_own_folder_back(attempt: str) -> None:
    rules = compile_excludes(effective_patterns([attempt]))
    assert is_excluded(".ngxsync/", rules)
    assert is_excluded("html/.ngxsync/run/a", rules)


def config_with(exclude: str, peer_exclude: str):
    options = f"exclude = {exclude}\n" if exclude else ""
    peer = f"exclude = {peer_exclude}\n" if peer_exclude else ""
    return load_config(f"[sync]\ntrees = /t\n  /u\n{options}[peer p]\nhost = p\nidentity = /k\n{peer}", "c.ini")


def test_a_projection_has_each_tree_with_its_own_excludes() -> None:
    config = config_with("/configured", "/peer")
    made = make_projection(config, config.peers[0], {"/t": ["/implied"]})
    of = dict(made.trees)
    assert made.roots == ("/t", "/u")
    assert [is_excluded(path, of["/t"]) for path in ("configured", "peer", "implied")] == [True, True, True]
    assert [is_excluded(path, of["/u"]) for path in ("configured", "peer", "implied")] == [True, True, False]
    assert not is_excluded("peer", dict(make_projection(config).trees)["/t"])


def test_a_configured_negation_ends_what_the_nginx_configuration_implies() -> None:
    config = config_with("!/cache/", "")
    rules = dict(make_projection(config, None, {"/t": ["/cache/"]}).trees)["/t"]
    assert not is_excluded("cache/a", rules)


peer_patterns = st.lists(git_patterns.map(lambda pattern: pattern.lstrip("!")), max_size=3)


@given(st.lists(git_patterns, max_size=3), peer_patterns)
@settings(max_examples=60, deadline=None)
def test_narrowing_equals_scanning_with_the_additional_excludes(
    tmp_path_factory: pytest.TempPathFactory, common: list[str], additional: list[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    make_tree(root)
    of_all = Projection(((str(root), compile_excludes(effective_patterns(common))),))
    of_peer = Projection(((str(root), compile_excludes(effective_patterns(common, (), additional))),))
    assert narrow(scan(of_all.as_json()).manifest, of_peer) == scan(of_peer.as_json()).manifest


def test_narrowing_leaves_out_what_lies_in_no_tree() -> None:
    entry = Entry("dir", 0o755, "root", "root", 0, 0, "")
    manifest = {"/t": entry, "/t/a": entry, "/tt": entry, "/u": entry}
    assert narrow(manifest, Projection((("/t", ()),))).keys() == {"/t", "/t/a"}

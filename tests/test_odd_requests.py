"""Whatever is asked of the agent: paths that climb out, wrong types, regexes that are none end as a Failure, and nothing is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxsync.agent.asked import NEEDED
from tests.agent import STATE, Agent
from tests.pair import ROOT, Pair, manifest_of, snapshot_inodes

CLIMBING = [
    "/etc/passwd",
    f"{ROOT}/../../../etc/passwd",
    f"{ROOT}/conf/../../../../etc/passwd",
    "conf/nginx.conf",
    "../conf",
    "",
    "/",
    "//etc/passwd",
    f"{ROOT}/conf/",
    f"{ROOT}/./conf",
    f"{ROOT}/a\0b",
    f"{ROOT}/" + "a/" * 2100 + "b",
    f"{ROOT}/\ud800",
    f"{ROOT}x/conf",
]
ODD = [
    None,
    True,
    -1,
    1.5,
    2**70,
    float("nan"),
    float("inf"),
    "../../etc",
    "\x1b]0;x\x07",
    [],
    {},
    [None],
    {"": 1},
    [[[]]],
    "a\0b",
]
FILE = ["file", 420, "root", "root", 0, 0, "0" * 64]


@pytest.fixture
def agent(pair: Pair) -> Iterator[Agent]:
    """web2's, which accepted its trees; no test changes anything outside its state, nor in the tree."""
    agent = Agent(pair.web2)
    assert agent.transact(agent.plan({}))["outcome"] == "in-sync"
    outside = snapshot_inodes(pair.web2, "/etc/passwd", "/etc/shadow", "/root/.ssh", "/srv"), manifest_of(pair.web2)
    yield agent
    found = snapshot_inodes(pair.web2, "/etc/passwd", "/etc/shadow", "/root/.ssh", "/srv"), manifest_of(pair.web2)
    assert found == outside


def raise_if_done(answer: dict[str, Any], asked: object) -> None:
    """A Failure in four parts, which is no bug and shows nothing of any file."""
    assert (answer["ok"], answer.get("code") == "bug") == (False, False), (asked, answer)
    assert set(answer["message"]) == {"what", "where", "state", "next"}, (asked, answer)
    assert "root:x:0" not in json.dumps(answer)


def honest(agent: Agent) -> dict[str, dict[str, Any]]:
    """A good request of each verb."""
    plan = agent.plan({})
    common = agent.request()
    return {
        "scan": {**common, "generation": None, "users": ["root"], "groups": []},
        "stage": {**common, "run": "00000009-odd", "trees": [ROOT]},
        "show": {**common, "paths": [f"{ROOT}/conf/nginx.conf"]},
        "facts": common,
        "history": {**common, "run": "00000009-odd", "path": f"{ROOT}/conf/nginx.conf"},
        "transact": {**plan, "run": "00000010-odd", "generation": agent.generation},
        "recover": {**common, "wait_s": 1.0},
        "status": common,
        "validate": common,
        "which": common,
    }


def called(agent: Agent, verb: str, request: dict[str, Any]) -> dict[str, Any]:
    from tests.agent import agent_argv

    done = agent.host.run(agent_argv(verb), input=json.dumps(request) + "\n", check=False, timeout=100)
    assert done.returncode == 0, done
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_no_path_leads_out_of_the_trees(agent: Agent) -> None:
    for path in CLIMBING:
        good = honest(agent)
        for verb, field in (("show", "paths"), ("stage", "trees")):
            if verb == "stage" and path == f"{ROOT}x/conf":
                continue  # a tree may be anywhere, in its clean form
            raise_if_done(called(agent, verb, {**good[verb], field: [path]}), (verb, path))
        raise_if_done(called(agent, "history", {**good["history"], "path": path}), path)
        for change in ({"path": path, "before": None, "after": FILE}, {"path": path, "before": FILE, "after": None}):
            request = {**good["transact"], "changes": [change]}
            raise_if_done(called(agent, "transact", {**request, "delta": {path: change["after"]}}), path)
        if not path.startswith("/etc"):
            trees = [{"path": path, "exclude": []}]
            if path not in ("/", f"{ROOT}x/conf"):
                raise_if_done(
                    called(agent, "scan", {**good["scan"], "projection": {"trees": trees, "owners": True}}), path
                )


def test_no_field_of_a_wrong_type_is_a_bug(agent: Agent) -> None:
    for verb, request in honest(agent).items():
        for field in set(request) & {*NEEDED[verb], "paths", "projection", "nginx", "run", "path"}:
            for odd in ODD:
                harmless = odd in ([], {}) and field in ("paths", "changes", "delta")
                if not harmless and (field in ("projection", "nginx") or not isinstance(odd, str)):
                    raise_if_done(called(agent, verb, {**request, field: odd}), (verb, field, odd))
            if field in NEEDED[verb]:
                raise_if_done(
                    called(agent, verb, {name: request[name] for name in request if name != field}), (verb, field)
                )


@pytest.mark.parametrize(
    "rule",
    [["(", True], ["[z-a]", True], ["x{99999999999}", True], [7, True], ["x"], ["x", 1], "x", ["(" * 5000, True]],
)
def test_an_exclude_that_is_none_is_refused(agent: Agent, rule: Any) -> None:
    request = honest(agent)["scan"]
    request["projection"] = {"trees": [{"path": ROOT, "exclude": [rule]}], "owners": True}
    raise_if_done(called(agent, "scan", request), rule)


def test_a_request_that_is_none_is_refused(agent: Agent) -> None:
    from tests.agent import agent_argv

    for text in ("[" * 100_000, "null", "[]", '"x"', "{", '{"protocol": 99}', "\0\1\2", '{"state_dir": 1e999}'):
        done = agent.host.run(agent_argv("scan"), input=text + "\n", check=False)
        answer = json.loads(done.stdout.splitlines()[-1])
        assert (answer["ok"], answer["code"] in ("agent", "protocol")) == (False, True), (text[:50], answer)


def test_a_link_in_the_tree_shows_nothing_behind_it(agent: Agent) -> None:
    """A folder that became a link, and a file that became one: neither is followed."""
    tree = agent.host.path(ROOT)
    (tree / "html" / "link").symlink_to("/etc")
    (tree / "html" / "shadow").symlink_to("/etc/shadow")
    try:
        paths = [f"{ROOT}/html/link/passwd", f"{ROOT}/html/shadow"]
        answer = agent.call("show", paths=paths)
        assert [answer["files"][path]["text"] for path in paths] == [None, None]
        assert Path("/etc/passwd").exists()
        raise_if_done(agent.call("show", paths=[ROOT]), ROOT)
    finally:
        (tree / "html" / "link").unlink()
        (tree / "html" / "shadow").unlink()


def test_the_state_folder_of_a_request_is_a_clean_path(agent: Agent) -> None:
    for odd in ("", "peer", "../x", f"{STATE}/../../srv/x", "/srv/a\0b"):
        for verb in ("scan", "stage", "status", "recover"):
            raise_if_done(called(agent, verb, {**honest(agent)[verb], "state_dir": odd}), (verb, odd))

"""Whatever is asked of the agent: paths that climb out, wrong types, regexes that are none end as a Failure, and nothing is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxsync.agent.asked import NEEDED
from tests.agent import STATE, Agent
from tests.hosts import PROJECT, Host
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


# a process of its own for each request, without the start of an interpreter: there are hundreds
FORKING = f"""
import json, os, sys
sys.path.insert(0, {str(PROJECT)!r})
from ngxsync.agent import main
for verb in main.VERBS:
    main.work_of(verb)
for line in sys.stdin.buffer:
    verb, request = json.loads(line)
    asked, said = os.memfd_create("asked"), os.memfd_create("said")
    os.write(asked, json.dumps(request).encode() + bytes([10]))
    os.lseek(asked, 0, os.SEEK_SET)
    child = os.fork()
    if not child:
        os.dup2(asked, 0)
        os.dup2(said, 1)
        sys.stdin, sys.stdout = open(0), open(1, "w")
        os._exit(main.main([verb]))
    status = os.waitpid(child, 0)[1]
    answers = os.pread(said, 1 << 24, 0).decode().splitlines()
    print(json.dumps([status, answers[-1:]]), flush=True)
    os.close(asked)
    os.close(said)
"""


class Asked:
    """Requests to one host's agent, each to a fork of one process; `raise_if_done` looks at its answer."""

    def __init__(self, host: Host) -> None:
        argv = [sys.executable, "-I", "-S", "-c", FORKING]
        self._process = host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.communicate(timeout=60)

    def raise_if_done(self, verb: str, request: dict[str, Any], asked: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([verb, request]) + "\n")
        self._process.stdin.flush()
        status, answers = json.loads(self._process.stdout.readline())
        assert (status, len(answers)) == (0, 1), asked
        raise_if_done(json.loads(answers[0]), asked)


def test_no_path_leads_out_of_the_trees(agent: Agent) -> None:
    good = honest(agent)
    with Asked(agent.host) as ask:
        for path in CLIMBING:
            ask.raise_if_done("show", {**good["show"], "paths": [path]}, ("show", path))
            if path != f"{ROOT}x/conf":  # a tree may be anywhere, in its clean form
                ask.raise_if_done("stage", {**good["stage"], "trees": [path]}, ("stage", path))
            ask.raise_if_done("history", {**good["history"], "path": path}, path)
            for change in (
                {"path": path, "before": None, "after": FILE},
                {"path": path, "before": FILE, "after": None},
            ):
                request = {**good["transact"], "changes": [change], "delta": {path: change["after"]}}
                ask.raise_if_done("transact", request, path)
            if not path.startswith("/etc") and path not in ("/", f"{ROOT}x/conf"):
                projection = {"trees": [{"path": path, "exclude": []}], "owners": True}
                ask.raise_if_done("scan", {**good["scan"], "projection": projection}, path)


def test_no_field_of_a_wrong_type_is_a_bug(agent: Agent) -> None:
    with Asked(agent.host) as ask:
        for verb, request in honest(agent).items():
            for field in set(request) & {*NEEDED[verb], "paths", "projection", "nginx", "run", "path"}:
                for odd in ODD:
                    harmless = odd in ([], {}) and field in ("paths", "changes", "delta")
                    if not harmless and (field in ("projection", "nginx") or not isinstance(odd, str)):
                        ask.raise_if_done(verb, {**request, field: odd}, (verb, field, odd))
                if field in NEEDED[verb]:
                    lacking = {name: request[name] for name in request if name != field}
                    ask.raise_if_done(verb, lacking, (verb, field))


@pytest.mark.parametrize(
    "rule",
    [["(", True], ["[z-a]", True], ["x{99999999999}", True], [7, True], ["x"], ["x", 1], "x", ["(" * 5000, True]],
)
def test_an_exclude_that_is_none_is_refused(agent: Agent, rule: Any) -> None:
    request = honest(agent)["scan"]
    request["projection"] = {"trees": [{"path": ROOT, "exclude": [rule]}], "owners": True}
    with Asked(agent.host) as ask:
        ask.raise_if_done("scan", request, rule)


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
    good = honest(agent)
    with Asked(agent.host) as ask:
        for odd in ("", "peer", "../x", f"{STATE}/../../srv/x", "/srv/a\0b"):
            for verb in ("scan", "stage", "status", "recover"):
                ask.raise_if_done(verb, {**good[verb], "state_dir": odd}, (verb, odd))

"""The gate's decisions, for any bytes and any request; and what a real one runs, opens and asks, under strace."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxsync.agent.gaterules import (
    FIELDS,
    LONGEST_S,
    TIMES,
    VERBS,
    Call,
    Receive,
    Refusal,
    Refused,
    ask,
    checked,
)
from ngxsync.agent.manifest import is_clean, tree_of
from ngxsync.edges.bundle import Bundle
from ngxsync.edges.link import Way
from ngxsync.edges.rsync import names_input, rsync_argv
from tests.door import POLICY, REFUSED
from tests.hosts import PROJECT

STATE = "/var/lib/ngxsync"
TREES = ["/usr/local/nginx", "/srv/a b"]
KEEP = {"runs": 20, "for_s": 1209600.0, "size": 2147483648}
RULES: dict[str, Any] = {"state_dir": STATE, "trees": TREES, "nginx": dict(POLICY["nginx"]), "keep": KEEP}
RUN = "00000001-ab12"
STAGED = {"run": RUN, "stages": [[tree, f"{tree}/.ngxsync/{RUN}/stage"] for tree in sorted(TREES)]}
RECEIVE = f"rsync --server -WIRe.LsfxCIvu --timeout=30 --stats --no-implied-dirs . {RUN}/1/".encode()
CALL = b"env LC_ALL=C.UTF-8 /usr/bin/python3 -I -S '/var/lib/it'\"'\"'s/agent/0123' transact"

# what turns one word into two, or a word into a command, in some shell
TRICKS = [
    *(bytes([byte]) for byte in b"\n\r\t \0;&|<>()$`\\\"'*?[]#~=%{}!-/."),
    b"$(id)",
    b"`id`",
    b"&& id",
    b"\xc2\xa0",
]
TRICKS += [
    b"\xe2\x80\xa8",
    b"--sender",
    b" --server",
    b"../",
    b"-e",
    b"''",
    b"/etc",
    b"'\"'\"'",
    b"\xff",
    b" install",
    b"gate",
]


def as_words(command: bytes) -> list[str]:
    return shlex.split(command.decode("utf-8", "surrogateescape"))


def raise_if_too_much(command: bytes | None) -> None:
    """Whatever was said: one of our verbs, our stage, or nothing; and only where the words are those of a master."""
    decision = ask(command, STAGED)
    if isinstance(decision, Refusal):
        assert decision.why
        return
    assert command is not None
    words = as_words(command)
    if isinstance(decision, Call):
        assert decision.verb in VERBS
        assert [words[0], words[1], words[3], words[4], words[6]] == [
            "env",
            "LC_ALL=C.UTF-8",
            "-I",
            "-S",
            decision.verb,
        ]
        assert len(words) == 7
    else:
        assert isinstance(decision, Receive)
        assert [decision.tree, decision.folder] in STAGED["stages"]
        assert words[:2] == ["rsync", "--server"]
        assert words[-2] == "."
        assert re.fullmatch(rf"{RUN}/[01]/", words[-1])
        assert not {"--sender", "--daemon"} & set(words)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("folder", [f"{STATE}/agent/0123", "/srv/it's a `state` $(id) ä/agent/x"], ids=["plain", "odd"])
def test_what_the_master_calls_passes(verb: str, folder: str) -> None:
    assert ask(Way().command([folder, verb]).encode(), STAGED) == Call(verb)


def test_what_the_masters_rsync_says_passes(tmp_path: Path) -> None:
    """Recorded from rsync itself, with and without progress."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\nshift\nprintf %s "$*" >"$SAID"\n')
    shell.chmod(0o755)
    for progress in (False, True):
        for number, tree in enumerate(sorted(TREES)):
            argv = rsync_argv(tmp_path, f"peer:{RUN}/{number}/", str(shell), progress=progress)
            env = {**os.environ, "SAID": str(tmp_path / "said"), "RSYNC_PROTECT_ARGS": "1"}
            subprocess.run(argv, input=names_input(["x"]), env=env, capture_output=True, check=False)
            said = (tmp_path / "said").read_bytes()
            assert ask(said, STAGED) == Receive(RUN, tree, f"{tree}/.ngxsync/{RUN}/stage", 30)


@pytest.mark.parametrize("staged", [None, {"run": "00000002-x", "stages": []}, {"run": RUN, "stages": []}])
def test_without_the_runs_own_stage_nothing_is_received(staged: Any) -> None:
    assert isinstance(ask(RECEIVE, staged), Refusal)


def test_no_command_and_a_huge_one_are_refused() -> None:
    for command in (None, b"", b"x" * 10_000_000, CALL.replace(b"it'", b"i" * 10_000 + b"'")):
        assert isinstance(ask(command, STAGED), Refusal)


@given(st.binary(max_size=300))
def test_any_bytes(command: bytes) -> None:
    raise_if_too_much(command)


@settings(max_examples=1000)
@given(st.data())
def test_mutations_of_what_passes(data: st.DataObject) -> None:
    command = bytearray(data.draw(st.sampled_from([CALL, RECEIVE])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(command)))
        width = data.draw(st.integers(0, 3))
        command[at : at + width] = data.draw(st.sampled_from(TRICKS) | st.binary(max_size=3))
    raise_if_too_much(bytes(command))


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from([*as_words(CALL), *as_words(RECEIVE), "--sender", "install", "gate", "id"]), max_size=9)
)
def test_known_words_in_any_order(words: list[str]) -> None:
    raise_if_too_much(" ".join(words).encode())
    raise_if_too_much(shlex.join(words).encode())


# requests

VALID: dict[str, dict[str, Any]] = {
    "hello": {"protocol": 2},
    "scan": {"state_dir": STATE, "projection": {"trees": [{"path": TREES[0], "exclude": []}], "owners": True}},
    "stage": {"state_dir": STATE, "run": RUN, "trees": TREES, "restore": {f"{TREES[0]}/html/x": "0" * 64}},
    "show": {
        "state_dir": STATE,
        "paths": [f"{TREES[0]}/conf/nginx.conf"],
        "nginx": {**RULES["nginx"], "prove_timeout_s": 10.0},
        "projection": {"trees": [], "owners": False},
    },
    "probe": {"state_dir": STATE, "nginx": {**RULES["nginx"], "test_timeout_s": 60}, "wait_s": 10.0},
    "history": {"state_dir": STATE, "run": RUN, "path": f"{TREES[1]}/x"},
    "transact": {
        "state_dir": STATE,
        "run": RUN,
        "nginx": {**RULES["nginx"], "test_timeout_s": 60},
        "projection": {"trees": [{"path": TREES[1], "exclude": [["^x$", True]]}], "owners": True},
        "changes": [],
        "unknown": "of a later release",
    },
}
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["/etc", *TREES, STATE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def raise_if_it_names_more(verb: str, request: Any) -> None:
    """What passes names nothing but what the policy names."""
    try:
        known = checked(verb, request, RULES)
    except Refused:
        return
    assert set(known) <= set(FIELDS)
    assert known.get("state_dir", STATE) == STATE
    assert {tree["path"] for tree in known.get("projection", {"trees": []})["trees"]} <= set(TREES)
    assert set(known.get("trees", [])) <= set(TREES)
    named = [*known.get("paths", []), *known.get("restore", {}), *([known["path"]] if "path" in known else [])]
    assert all(is_clean(path) and tree_of(path, TREES) for path in named)
    if "nginx" in known:
        assert {key: value for key, value in known["nginx"].items() if key not in TIMES} == RULES["nginx"]
        assert all(0 <= known["nginx"][key] <= LONGEST_S for key in TIMES if key in known["nginx"])
    assert re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}", known.get("run", RUN))


@pytest.mark.parametrize("verb", VALID)
def test_a_masters_request_passes_without_what_is_not_known(verb: str) -> None:
    known = checked(verb, VALID[verb], RULES)
    assert known == {name: value for name, value in VALID[verb].items() if name != "unknown"}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "hello"])
def test_a_request_that_names_no_state_folder_is_refused(verb: str) -> None:
    with pytest.raises(Refused):
        checked(verb, {}, RULES)


@settings(max_examples=500)
@given(st.sampled_from(VERBS), st.dictionaries(st.sampled_from(sorted(FIELDS)), ANYTHING, max_size=6))
def test_any_request(verb: str, request: dict[str, Any]) -> None:
    raise_if_it_names_more(verb, request)
    raise_if_it_names_more(verb, {"state_dir": STATE, **request})


@settings(max_examples=1000)
@given(st.data())
def test_mutations_of_a_request(data: st.DataObject) -> None:
    verb = data.draw(st.sampled_from(sorted(VALID)))
    request = json.loads(json.dumps(VALID[verb]))
    place: Any = request
    while isinstance(place, dict | list) and place:
        key = data.draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            place[key] = data.draw(ANYTHING)
            break
        place = place[key]
    raise_if_it_names_more(verb, request)


@pytest.mark.parametrize("name", KEEP)
def test_nobody_makes_the_peer_forget(name: str) -> None:
    """A stolen key could else push once with keep_runs = 1, and what was replaced before would be gone."""
    request = {"state_dir": STATE, "keep": {**KEEP, name: KEEP[name] * 2}}
    assert checked("status", request, RULES) == request
    smaller: list[Any] = [KEEP[name] - 1, 0, -1, float("nan"), True, None, "9", []]
    for less in smaller:
        with pytest.raises(Refused, match="to keep less than was installed"):
            checked("status", {**request, "keep": {**KEEP, name: less}}, RULES)
    assert checked("status", request, {**RULES, "keep": {}}) == request  # a policy of before


def test_a_request_too_deep_to_be_shown_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Refused, match="nested too deeply"):
        checked("stage", {"state_dir": STATE, "run": RUN, "trees": deep}, RULES)
    with pytest.raises(Refused) as caught:
        checked("stage", {"state_dir": STATE, "run": RUN, "trees": ["x" * 1_000_000]}, RULES)
    assert len(str(caught.value)) <= 500


INSTALLERS = {"agent", "comment", "dry_run", "key", "policy", "purge", "user"}  # of verbs that no gate lets through


def test_each_field_that_the_agent_reads_has_its_rule() -> None:
    """A new field is passed on only where somebody said here what it may name."""
    texts = [path.read_text() for path in (PROJECT / "ngxsync/agent").glob("*.py")]
    read = {name for text in texts for name in re.findall(r'\brequest(?:\.get\(|\[)"([a-z_]+)"', text)}
    assert read - INSTALLERS == set(FIELDS) & read
    assert set(FIELDS) <= read
    settings_read = {name for text in texts for name in re.findall(r'settings(?:\.get\(|\[)"([a-z_]+)"', text)}
    assert settings_read == set(RULES["nginx"]) | set(TIMES)


# a real one

NAME = "0" * 64  # of whatever key it is
CALLS = "execve,openat,open,creat,unlink,unlinkat,rename,renameat,renameat2,connect,mkdir,mkdirat,symlink,symlinkat"
CALLS += ",link,linkat,chmod,fchmodat,chown,fchownat,lchown,truncate,mknod,mknodat,mount,setxattr,kill,ptrace"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with this agent and a policy; its modules are compiled."""
    state = tmp_path_factory.mktemp("state")
    bundle = Bundle.of_package()
    for name, content in bundle.files.items():
        path = state / "agent" / bundle.hash / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (state / "agent/current").symlink_to(bundle.hash)
    (state / "peer").mkdir(mode=0o700)
    (state / "agent/doors").mkdir(mode=0o700)
    (state / f"agent/doors/{NAME}.json").write_text(json.dumps(POLICY))
    (state / f"agent/doors/{NAME}.json").chmod(0o600)
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", state / "agent" / bundle.hash], check=True)
    return state


def gate_argv(state: Path) -> list[str]:
    return ["/usr/bin/python3", "-I", "-S", f"{state}/agent/current", "gate", NAME]


def traced(state: Path, command: bytes, request: bytes = b"") -> tuple[int, list[str]]:
    """(exit status, system calls) of one session."""
    log = state / "trace"
    argv = ["strace", "-f", "-qq", "-s", "300", "-o", str(log), "-e", f"trace={CALLS}", *gate_argv(state)]
    env = {
        b"PATH": b"/usr/bin:/bin",
        b"SSH_ORIGINAL_COMMAND": command,
        b"SSH_CONNECTION": b"192.0.2.1 4711 192.0.2.2 22",
    }
    done = subprocess.run(argv, env=env, input=request, capture_output=True, check=False)
    lines = [line.partition(" ")[2].strip() for line in log.read_text(errors="replace").splitlines()]
    return done.returncode, lines


HARMLESS = (
    "/usr/",
    "/lib",
    "/etc/ld.so.",
    "/etc/localtime",
    "/proc/self/",
    "/dev/null",
    "/etc/nsswitch",
    "/pyvenv.cfg",
)


def raise_if_it_did_more(state: Path, calls: list[str]) -> None:
    """One program, its own modules and policy read, its own log written, syslog told."""
    assert [call for call in calls if call.startswith("execve")][1:] == []
    for call in calls:
        paths = re.findall(r'"((?:[^"\\]|\\.)*)"', call)
        if call.startswith(("execve", "+++", "---")) or " = -1 " in call:
            continue
        if call.startswith("connect"):
            assert "/dev/log" in call, call
            continue
        assert call.startswith("openat"), call
        is_log = paths[0] == f"{state}/peer/gate.log"
        assert is_log or re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", call) is None, call
        assert paths[0] == f"{NAME}.json" or paths[0].startswith((f"{state}/agent/", f"{state}/peer/", *HARMLESS)), call


TRIED = [
    b"id",
    b"",
    CALL + b"; id >/tmp/x",
    CALL.replace(b"transact", b"install"),
    CALL.replace(b"transact", b"gate"),
    CALL.replace(b"env", b"/tmp/env"),
    b"env LC_ALL=C.UTF-8 /usr/bin/python3 -I -S -c 'import os; os.unlink(\"/x\")'",
    b"rsync --server --sender -logDtpre.iLsfxCIvu . /etc",
    RECEIVE,  # no stage is open
    RECEIVE.replace(RUN.encode(), b"../../etc"),
    b"\xff\xfe\n\r\t$(id)`id`|id&",
    "\u2028\u202eid\u0000".replace("\u0000", "").encode() * 3000,
]


@pytest.mark.parametrize("number", range(len(TRIED)))
def test_a_refused_session_does_nothing_but_tell_of_it(installed: Path, number: int) -> None:
    status, calls = traced(installed, TRIED[number], b'{"state_dir": "/etc", "run": "../../etc/passwd"}\n')
    assert status == REFUSED
    raise_if_it_did_more(installed, calls)


@pytest.mark.parametrize("verb", ["show", "facts", "transact", "recover", "stage", "scan", "status", "history"])
def test_a_refused_request_does_nothing_but_tell_of_it(installed: Path, verb: str) -> None:
    request = {"state_dir": "/srv/evil", "run": "x", "nginx": {"binary": "/srv/evil"}, "paths": ["/etc/shadow"]}
    call = Way().command([f"{installed}/agent/0123", verb]).encode()
    status, calls = traced(installed, call, json.dumps(request).encode() + b"\n")
    assert status == REFUSED
    raise_if_it_did_more(installed, calls)

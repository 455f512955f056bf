"""Two releases back: what an older agent answered is understood, and what an older master asked is answered as it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ngxsync import __version__
from ngxsync.agent.manifest import PROTOCOL, RELEASE, SPEAKS, entry_from_json
from ngxsync.core.answers import checked
from ngxsync.core.config import PeerConfig, load_config
from ngxsync.core.errors import AgentFailed
from ngxsync.core.gate import common_protocol
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import PeerResult, Projection, Snapshot
from ngxsync.core.standing import Held, Message, Standing
from ngxsync.edges.state import MasterState
from ngxsync.flow.interfaces import Named, Options, Prepared, Validation
from ngxsync.flow.peer_run import PeerRun
from tests.agent import agent_argv
from tests.exchanges import FOLDER, port_taken, recorded
from tests.hosts import Host
from tests.pair import ROOT, Pair

OLDER = [number for number in SPEAKS if number != PROTOCOL]


def test_each_older_protocol_that_is_spoken_was_recorded() -> None:
    assert [int(folder.name) for folder in sorted(FOLDER.iterdir())] == OLDER
    assert tuple(range(max(1, PROTOCOL - 2), PROTOCOL + 1)) == SPEAKS
    assert __version__ == RELEASE
    for number in OLDER:
        found = {(kept["verb"], kept["answer"].get("outcome", "")) for kept in recorded(number)}
        verbs = {"hello", "scan", "stage", "show", "recover", "status", "facts"}
        outcomes = {"applied", "refused", "undone", "held"}
        assert {(verb, "") for verb in verbs} | {("transact", outcome) for outcome in outcomes} <= found


# an older agent, today's master


class OldPeer:
    """flow.interfaces.Peer: gives the answers that were recorded, by verb, each checked against what is asked today."""

    def __init__(self, config: PeerConfig, kept: Iterable[dict[str, Any]]) -> None:
        self.config = config
        self.answers = {each["verb"]: each["answer"] for each in kept}

    def call(
        self, verb: str, request: dict[str, Any], *, go: Callable[[], None] | None = None, **_: Any
    ) -> dict[str, Any]:
        if go is not None:
            go()
        if verb == "facts" and verb not in self.answers:  # parity at a first contact: no run fails over it
            raise AgentFailed(Message("it was not recorded", self.config.name))
        answer = self.answers[verb]
        if answer.get("outcome") == "applied":  # an id is also one of the excludes, and those are today's
            answer = {**answer, "id": request["id"]}
        return checked(verb, json.loads(json.dumps(request)), answer, self.config.name, "root@web2")

    def warm(self, _verb: str) -> None:
        pass

    def send(self, _tree: Path, names: Iterable[str], _stage: str, _progress: Any) -> int:
        return len(list(names))


class OldMaster:
    name, owners = "web1", True

    def ask(self, _verb: str, _request: Any) -> dict[str, Any]:
        return {"ok": False}

    def standing(self) -> Standing:
        return Standing()

    def received(self, _known: str) -> None: ...


def run_of(kept: list[dict[str, Any]], state: Path) -> PeerResult:
    """A run of today's flow to whom the old agent answers: scan, stage, transact."""
    asked = kept[-1]["request"]
    config = load_config(f"[nginx]\nroot = {ROOT}\n[peer web2]\nhost = 192.0.2.2\nidentity = /k\n", "config.ini")
    trees = [
        (tree["path"], tuple((regex, out) for regex, out in tree["exclude"])) for tree in asked["projection"]["trees"]
    ]
    manifest = {path: entry_from_json(fields) for path, fields in asked["delta"].items()}
    scanned = next(each["answer"] for each in kept if each["verb"] == "scan")
    snapshot = Snapshot(manifest, Projection(tuple(trees)), roots=scanned["roots"])
    memory = MasterState(state, time.time)
    accepted = scanned["accepted"]["id"] if scanned["accepted"] else ""
    memory.save_peer(PeerRecord("web2", generation=asked["generation"], accepted=accepted))
    if asked["generation"]:
        live = {path: entry_from_json(fields) for path, fields in scanned["changed"].items()}
        memory.save_accepted("web2", asked["generation"], live)
    prepared = Prepared(asked["run"], snapshot, Validation(True), Named())
    peer = OldPeer(config.peers[0], kept)
    return PeerRun(config, OldMaster(), peer, memory, prepared, Options(by_person=True)).sync()  # type: ignore[arg-type]


def transactions(number: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """(outcome, the exchanges from its stage to itself) of each."""
    kept = recorded(number)
    ends = [place for place, each in enumerate(kept) if each["verb"] == "transact"]
    return [(kept[end]["answer"]["outcome"], kept[end - 2 : end + 1]) for end in ends]


@pytest.mark.parametrize("number", OLDER)
def test_an_older_agent_is_understood(number: int, tmp_path: Path) -> None:
    exits = {"applied": 0, "refused": 5, "undone": 6}
    for outcome, kept in transactions(number):
        if outcome == "held":
            with pytest.raises(Held) as caught:
                run_of(kept, tmp_path / outcome)
            assert caught.value.code == "generation"
            continue
        result = run_of(kept, tmp_path / outcome)
        assert (result.outcome, result.exit) == (outcome, exits[outcome])
        assert {change.path for change in result.changes} == {
            change["path"] for change in kept[-1]["request"]["changes"]
        }


@pytest.mark.parametrize("number", OLDER)
def test_each_answer_of_an_older_agent_is_one_to_its_request(number: int) -> None:
    for kept in recorded(number):
        assert checked(kept["verb"], kept["request"], kept["answer"], "web2", "root@web2") == kept["answer"]


# an older master, today's agent


@pytest.mark.parametrize("number", OLDER)
def test_an_older_master_is_answered(pair: Pair, number: int) -> None:
    """The same requests in the same order on the same trees: as it was, or with more beside it."""
    names: dict[str, str] = {}
    for kept in recorded(number):
        answer = answered(pair.web2, kept, names)
        if kept["answer"].get("generation"):
            names[kept["answer"]["generation"]] = answer["generation"]
        raise_if_other(kept["answer"], answer, kept["verb"])


def answered(host: Host, kept: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    for path, text in kept["staged"].items():
        file = host.path(f"{ROOT}/.ngxsync/{kept['request']['run']}/stage/{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    request = json.dumps(kept["request"])
    for recorded_name, name in names.items():
        request = request.replace(recorded_name, name)
    with port_taken(host, kept["taken"]):
        done = host.run(agent_argv(kept["verb"]), input=request + "\n")
    return dict(json.loads(done.stdout.splitlines()[-1]))


# what a later agent may tell otherwise, or differs from host to host
FREE = {
    "now",
    "at",
    "since",
    "boot_id",
    "python",
    "executable",
    "generation",
    "protocol",
    "timings",
    "message",
    "roots",
}
FREE |= {
    "warnings",
    "recovery_unit",
    "free",
    "free_inodes",
    "pid",
    "lines",
    "reason",
    "what",
    "seconds",
    "build",
    "rsync",
    "speaks",
    "release",
    "loaded",
}
# of the machine and its packages, which are others wherever the tests run
FREE |= {"sysctls", "limits", "openssl", "version", "selinux"}


def raise_if_other(before: Any, now: Any, place: str) -> None:
    """Every key that was there is there, of its type; what decides is equal."""
    assert type(now) is type(before), place
    if isinstance(before, dict):
        assert set(before) <= set(now), place
        for key in before:
            if key not in FREE:
                raise_if_other(before[key], now[key], f"{place}.{key}")
            else:
                assert type(now[key]) is type(before[key]) or isinstance(now[key], int | float), f"{place}.{key}"
    elif isinstance(before, list):
        assert len(before) == len(now), place
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            raise_if_other(one, other, f"{place}[{number}]")
    else:
        assert now == before, place


# numbers


def test_the_agent_says_what_it_speaks(pair: Pair) -> None:
    for number in SPEAKS:
        assert asked_in(pair, number)["ok"] is True
    for unknown in (0, PROTOCOL + 1, "2", None, [1]):
        answer = asked_in(pair, unknown)
        assert (answer["ok"], answer["code"]) == (False, "protocol")
        assert (answer["speaks"], answer["release"]) == (list(SPEAKS), RELEASE)


def asked_in(pair: Pair, number: Any) -> dict[str, Any]:
    done = pair.web2.run(agent_argv("hello"), input=json.dumps({"protocol": number}) + "\n")
    return dict(json.loads(done.stdout))


def test_the_highest_common_number_is_taken() -> None:
    later = [PROTOCOL, PROTOCOL + 1, PROTOCOL + 2]
    assert common_protocol({"speaks": later}, "web2", "root@web2") == PROTOCOL
    assert common_protocol({"speaks": [1, 2]}, "web2", "root@web2") == 2
    with pytest.raises(
        AgentFailed, match=r"release older than 0\.1\.0"
    ):  # the first release does not say, and is too old
        common_protocol({}, "web2", "root@web2")


@pytest.mark.parametrize(
    ("speaks", "release", "hint"),
    [
        ([PROTOCOL + 3, PROTOCOL + 4], "9.1.0", "upgrade ngxsync on this host"),
        ([-1, 0], "0.0.1", "put this release's agent there: ngxsync peer install web2"),
    ],
    ids=["later", "earlier"],
)
def test_without_a_common_number_both_are_named(speaks: list[int], release: str, hint: str) -> None:
    with pytest.raises(AgentFailed) as caught:
        common_protocol({"speaks": speaks, "release": release}, "web2", "root@web2")
    ours = " and ".join(map(str, SPEAKS))
    told = f"the agent on web2 (release {release}) speaks protocol {speaks[0]} and {speaks[1]}, "
    assert caught.value.message.what == told + f"ngxsync here (release {__version__}) {ours}"
    assert (caught.value.code, caught.value.exit_status) == ("protocol", 4)
    assert caught.value.message.next == hint

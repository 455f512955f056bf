"""What answers and errors come to: one outcome and one exit status a run, however many peers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ngxsync.agent.manifest import Entry, snapshot_id
from ngxsync.core import model
from ngxsync.core.config import PeerConfig, load_config
from ngxsync.core.errors import Held, Message
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import PeerResult, Plan, Projection, RunResult, Snapshot
from ngxsync.core.standing import Standing
from ngxsync.edges.state import MasterState
from ngxsync.flow.interfaces import Named, Options, Prepared, Validation
from ngxsync.flow.outcomes import failed
from ngxsync.flow.pipeline import Pipeline

NOBODY: Any = None  # no step of these asks a host


def over(*peers: PeerResult) -> RunResult:
    """The result of a run that came to these on its peers."""
    pipeline = Pipeline(NOBODY, NOBODY, {}, NOBODY, random_hex=str)
    prepared = Prepared("00000007-ab", Snapshot({}, Projection(())), Validation(True), Named())
    return pipeline.result(prepared, peers, Options(), 0.0)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("one", "other", "outcome", "status"),
    [
        ((model.IN_SYNC, 0), (model.PENDING, 0), model.PENDING, 0),  # a dry run
        ((model.IN_SYNC, 0), (model.APPLIED, 0), model.APPLIED, 0),
        ((model.IN_SYNC, 0), (model.IN_SYNC, 0), model.IN_SYNC, 0),
        ((model.APPLIED, 0), (model.NOT_PROVEN, 1), model.NOT_PROVEN, 1),
        ((model.UNREACHABLE, 4), (model.HELD, 8), model.HELD, 8),
        ((model.HELD, 8), (model.REFUSED, 5), model.REFUSED, 5),
        ((model.UNDONE, 6), (model.BROKEN, 7), model.BROKEN, 7),
    ],
)
def test_the_worst_peer_names_the_run(
    one: tuple[str, int], other: tuple[str, int], outcome: str, status: int, first: int
) -> None:
    peers = [PeerResult(name, word, exit=exit) for name, (word, exit) in (("web2", one), ("web3", other))]
    run = over(*(peers if first == 0 else peers[::-1]))
    assert (run.outcome, run.exit) == (outcome, status)


def test_a_run_over_no_peer_is_in_sync() -> None:
    assert (over().outcome, over().exit) == (model.IN_SYNC, 0)


def test_a_run_that_loses_the_vip_on_its_way_is_on_standby_and_no_failure_that_people_are_told() -> None:
    found = failed("web2", Held(Message("web1 does not hold the VIP"), code="standby"), {}, Plan())
    assert (found.outcome, found.code, found.exit) == ("standby", "standby", 8)


CONFIG_TEXT = "[nginx]\nroot = /tree\n[peer web2]\nhost = web2\nidentity = /key\n"
CONFIG = load_config(CONFIG_TEXT, "config.ini")
PAGE = Entry("file", 0o644, "root", "root", 1, 2, "0" * 64)


class Here:
    """A master with one page, which nginx accepts."""

    name, owners = "web1", True

    def named(self) -> Named:
        return Named()

    def scan(self, projection: Projection, *, full: bool) -> Snapshot:
        return Snapshot({"/tree/page": PAGE}, projection)

    def validate(self) -> Validation:
        return Validation(True)

    def warm(self) -> None:
        pass

    def settle(self, wait_s: float) -> None:
        pass

    def ask(self, _verb: str, _request: Mapping[str, Any]) -> dict[str, Any]:
        return {"ok": False}

    def standing(self) -> Standing:
        return Standing()

    def received(self, _known: str) -> None: ...


class There:
    """A peer with an empty tree, which gives these answers to one transaction after the other."""

    config: PeerConfig = CONFIG.peers[0]

    def __init__(self, answers: list[dict[str, Any]]) -> None:
        self.answers = answers

    def call(self, verb: str, request: dict[str, Any], **_options: Any) -> dict[str, Any]:
        if verb == "transact":
            return {"problems": [], "id": request["id"], **self.answers.pop(0)}
        if verb == "stage":
            return {"ok": True, "stages": {"/tree": "/tree/.ngxsync/stage"}}
        if verb == "show":
            return {"ok": True, "state": "unknown", "answer": None}
        empty: dict[str, Any] = {
            "changed": {},
            "base": "none",
            "base_manifest": None,
            "empty": True,
            "accepted": None,
            "journal": None,
        }
        lists: dict[str, Any] = {key: [] for key in ("specials", "kept_apart", "unread", "missing_users")}
        own = {"id": snapshot_id({}, request["projection"]), "roots": {}, "now": time.time()}
        return {"ok": True, **empty, **lists, **own}

    def warm(self, verb: str) -> None:
        pass

    def send(self, *_arguments: Any) -> int:
        return 0


def failure(code: str, state: str = "unchanged", outcome: str = "failed") -> dict[str, Any]:
    message = {"what": "it is so", "where": "", "state": state, "next": "mend it"}
    kept = {"edited": ["/tree/page"], "warnings": ["a disk is slow"]}
    return {"ok": False, "outcome": outcome, "code": code, "message": message, **kept}


def test_an_agent_too_old_to_say_whether_it_carries_the_vip_is_not_written_to(tmp_path: Path) -> None:
    """Behind a gate it stays as it was installed, and would refuse nothing."""
    config = load_config(f"{CONFIG_TEXT}[vrrp]\nvip = 192.0.2.100\n", "config.ini")
    there = There([])
    pipeline = Pipeline(config, Here(), {"web2": there}, MasterState(tmp_path, time.time), random_hex=lambda: "ab")
    result = pipeline.run(Options(by_person=True))
    assert (result.exit, result.code) == (8, "vip"), result
    assert result.peers[0].message is not None
    assert result.peers[0].message.next == "ngxsync peer install web2"


DONE = {"ok": True, "outcome": "applied", "code": "", "generation": "g", "proven": True, "at": 1.0, "warnings": ["new"]}
TOLD = ("a disk is slow", "/tree/page was edited meanwhile: the edit is kept in the store there")


def synced(tmp_path: Path, *answers: dict[str, Any]) -> PeerResult:
    state = MasterState(tmp_path / "master", time.time)
    pipeline = Pipeline(CONFIG, Here(), {"web2": There(list(answers))}, state, random_hex=lambda: "ab")
    return pipeline.run(Options()).peers[0]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (failure("disk", "its old files are back"), 4),
        (failure("type-change", outcome="held"), 8),
        ({**failure("recovered", outcome="undone"), "ok": True}, 4),
    ],
    ids=["failed", "held", "recovered"],
)
def test_where_an_edit_is_kept_is_told_though_there_is_no_verdict(
    tmp_path: Path, answer: dict[str, Any], status: int
) -> None:
    result = synced(tmp_path, answer)
    assert (result.exit, result.warnings) == (status, TOLD)


def test_what_a_run_met_before_it_was_planned_anew_is_told(tmp_path: Path) -> None:
    result = synced(tmp_path, failure("peer-changed"), DONE)
    assert (result.outcome, result.warnings) == (model.APPLIED, (*TOLD, "new"))


class Torn(Here):
    """A pull here dies in the middle of its exchange, just before the trees are scanned for the third time."""

    scans = mark = 0
    is_half = False

    def settle(self, wait_s: float) -> int:  # type: ignore[override]
        self.mark += self.is_half
        self.is_half = False
        return self.mark

    def scan(self, projection: Projection, *, full: bool) -> Snapshot:
        self.scans += 1
        self.is_half |= self.scans == 3
        return Snapshot({"/tree/half": PAGE}, projection) if self.is_half else super().scan(projection, full=full)


def test_what_a_run_here_left_half_done_is_not_sent_where_it_is_planned_anew(tmp_path: Path) -> None:
    there = There([failure("peer-changed"), DONE])
    state = MasterState(tmp_path / "master", time.time)
    (result,) = Pipeline(CONFIG, Torn(), {"web2": there}, state, random_hex=lambda: "ab").run(Options()).peers
    assert [change.path for change in result.changes] == ["/tree/page"]


@pytest.mark.parametrize(
    ("state", "said"), [("unchanged", "web2 unchanged"), ("its old files are back", "web2: its old files are back")]
)
def test_a_failure_says_what_the_peer_is_like_now(tmp_path: Path, state: str, said: str) -> None:
    message = synced(tmp_path, failure("disk", state)).message
    assert message is not None
    assert message.state == said


class Late(There):
    """A run whose connection was cut waits there for a lock while it is asked for; it is accepted before this call."""

    def __init__(self, begins_before: str) -> None:
        super().__init__([DONE])
        self.begins_before = begins_before
        self.accepted: dict[str, Any] | None = None

    def call(self, verb: str, request: dict[str, Any], **options: Any) -> dict[str, Any]:
        if verb == self.begins_before and self.accepted is None:
            marks = {"run": LATE, "generation": "g1", "id": snapshot_id({}, request["projection"]), "kind": "sync"}
            self.accepted = {
                **marks,
                "written_by": "web1",
                "projection": request["projection"],
                "at": 1.0,
                "proven": True,
            }
        if verb == "show" and self.accepted is not None:
            return {"ok": True, "state": "done", "answer": {**self.accepted, "ok": True}}
        if verb == "transact" and request["generation"] != (self.accepted or {}).get("generation"):
            return {"problems": [], "id": request["id"], **failure("generation", outcome="held")}
        answer = super().call(verb, request, **options)
        if verb == "scan":
            is_known = request["generation"] == (self.accepted or {}).get("generation")
            answer.update(accepted=self.accepted, base_manifest={} if is_known and request["want_base"] else None)
        return answer


LATE = "00000001-ab"


@pytest.mark.parametrize("begins_before", ["scan", "transact"])
def test_a_run_of_its_own_that_begins_late_is_no_other_masters(tmp_path: Path, begins_before: str) -> None:
    """Else what this host wrote itself would hold it until a person decides."""
    state = MasterState(tmp_path / "master", time.time)
    state.save_peer(PeerRecord("web2", generation="g0", open_run=LATE))
    pipeline = Pipeline(CONFIG, Here(), {"web2": Late(begins_before)}, state, random_hex=lambda: "ab")
    (result,) = pipeline.run(Options()).peers
    assert (result.outcome, result.code) == (model.APPLIED, ""), result


@pytest.mark.parametrize(("held_by", "word"), [("a look", model.REFUSED), ("a run", model.APPLIED)])
def test_what_failed_here_is_told_of_a_peer_that_is_just_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_by: str, word: str
) -> None:
    """A look has the peer's lock for a moment, and then status says what failed; a run that ended meanwhile knows more."""
    state = MasterState(tmp_path / "master", time.time)
    pipeline = Pipeline(CONFIG, NOBODY, {}, state, random_hex=str)
    held = ExitStack()
    held.enter_context(state.lock("web2", 0.0))

    def it_ends(_seconds: float) -> None:
        if held_by == "a run":
            state.note_result("web2", "00000002-ab", PeerResult("web2", model.APPLIED))
        held.close()

    monkeypatch.setattr("ngxsync.edges.state.time.sleep", it_ends)
    refused = RunResult("00000001-ab", "change", outcome=model.REFUSED, exit=3)
    pipeline.note_failed("web2", refused, Options())
    assert state.load_peer("web2").last_outcome == word

"""What makes a peer not ready, from recorded values; what is remembered of a look; and how it is said."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxsync.agent.manifest import Entry
from ngxsync.core.carrying import Carrying
from ngxsync.core.checkup import FAILED, OK, WARNING, Check
from ngxsync.core.look import Look, Nginx, Seen, joined, look_from_json, unreachable
from ngxsync.core.memory import PeerRecord, record_from_json, record_to_json
from ngxsync.core.model import Change
from ngxsync.core.readiness import (
    Content,
    Findings,
    Reason,
    judge_content,
    judge_listens,
    judge_probes,
    judge_recovery,
    judge_running,
    of_checks,
)
from ngxsync.core.verdict import (
    Verdict,
    json_verdicts,
    nagios_status,
    render_change,
    render_nagios,
    render_verdict,
    status_text,
)

ACCEPTED = {"generation": "g", "run": "00000001-ab", "written_by": "web9", "proven": True, "kind": "sync"}
PAGE = Entry("file", 0o644, "root", "root", 1, 2, "0" * 64)


def change(path: str, kind: str = "content", cause: str = "pending") -> Change:
    return Change(path, kind, PAGE, PAGE, PAGE, cause)


def codes(found: Findings) -> tuple[list[str], list[str]]:
    return [reason.code for reason in found.reasons], [reason.code for reason in found.warnings]


CONTENT = Content("yours", (), ACCEPTED, None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (CONTENT, []),
        (replace(CONTENT, changes=(change("/a", "mtime"),)), []),
        (replace(CONTENT, changes=(change("/a"), change("/b", "mtime"))), ["pending"]),
        (replace(CONTENT, changes=(change("/a"), change("/b", cause="drift"))), ["drift"]),
        (replace(CONTENT, changes=(change("/a", cause="conflict"), change("/b", cause="drift"))), ["conflict"]),
        (replace(CONTENT, changes=(change("/a"),), accepted={**ACCEPTED, "kind": "rollback"}), ["rolled-back"]),
        (replace(CONTENT, accepted={**ACCEPTED, "kind": "rollback"}), []),
        (replace(CONTENT, accepted={**ACCEPTED, "proven": False}), ["not-proven"]),
        (replace(CONTENT, standing="generation"), ["generation"]),
        (replace(CONTENT, standing="first-contact", accepted=None), ["first-contact"]),
        (replace(CONTENT, journal={"run": "00000002-cd", "phase": "open"}), ["journal"]),
        (replace(CONTENT, broken="it could not be put back"), ["broken"]),
    ],
)
def test_content(content: Content, expected: list[str]) -> None:
    found = judge_content("web2", content)
    assert codes(found) == (expected, [])
    assert all(reason.where == "web2" and reason.next for reason in found.reasons)


def test_what_holds_a_difference_is_said_with_it() -> None:
    found = judge_content("web2", replace(CONTENT, changes=(change("/a"), change("/b")), held="soaks until 12:00"))
    assert found.reasons[0].what == "2 paths differ: /a, /b; soaks until 12:00"


RUNNING = {"state": "running", "pid": 1, "draining": 0, "draining_since": None}
STALE = {**RUNNING, "state": "stale", "file": "/n/nginx.conf", "changed": 1e9, "why": "", "refused": ""}
NGINX = {"found": True, "pid": 1}


@pytest.mark.parametrize(
    ("running", "reasons", "what", "hint"),
    [
        (RUNNING, [], "", ""),
        (STALE, ["stale-running"], "nginx has not loaded /n/nginx.conf, changed 2001-09-", "on web2: nginx -t, then nginx -s reload"),
        ({**STALE, "refused": "bind() failed"}, ["stale-running"], "; its error log: bind() failed", "on web2: nginx -t"),
        ({**STALE, "why": "it was replaced", "needs_restart": True}, ["stale-running"], "it was replaced", "restart nginx on web2"),
        ({**RUNNING, "state": "down", "start": "/usr/sbin/nginx"}, ["nginx-down"], "does not run", "start nginx on web2: /usr/sbin/nginx"),
        ({**RUNNING, "state": "unknown", "why": "two of them"}, ["nginx-unknown"], "two of them", "look at nginx on web2"),
        (None, ["nginx-unknown"], "of an earlier release", "ngxsync peer install web2"),
    ],
)  # fmt: skip
def test_what_nginx_runs(running: Any, reasons: list[str], what: str, hint: str) -> None:
    found = judge_running("web2", {"nginx": NGINX, **({"running": running} if running else {})})
    assert codes(found) == (reasons, [])
    if reasons:
        assert what in found.reasons[0].what
        assert found.reasons[0].next.startswith(hint)


def test_an_older_agent_knows_at_least_that_nginx_is_down() -> None:
    assert codes(judge_running("web2", {"nginx": {"found": True, "pid": 0}})) == (["nginx-down"], [])


def test_workers_that_pile_up_are_told() -> None:
    assert codes(
        judge_running("web2", {"nginx": NGINX, "running": {**RUNNING, "draining": 3, "draining_since": 1e9}})
    ) == (
        [],
        ["draining"],
    )


@pytest.mark.parametrize(
    ("unit", "result", "expected"),
    [
        ("installed", "success", ([], [])),
        ("installed", "", ([], [])),
        ("installed", "exit-code", (["recovery"], [])),
        ("not installed: this host has no systemd", "", ([], ["recovery"])),
        ("not installed: it is put there at the first sync as root", "", (["recovery"], [])),
        ("not installed: the state directory is /srv/x, not /var/lib/ngxsync", "", (["recovery"], [])),
    ],
)
def test_recovery_at_boot(unit: str, result: str, expected: tuple[list[str], list[str]]) -> None:
    assert codes(judge_recovery("web2", {"recovery_unit": unit, "recovery_result": result})) == expected


VIP, VIP6 = ["192.0.2.100", "/n/vip.conf", 2], ["2001:db8::100", "/n/vip.conf", 3]


@pytest.mark.parametrize(
    ("bind", "state", "own", "bound", "expected"),
    [
        ("0", "running", ["192.0.2.100", "2001:db8::100"], [], ([], [])),
        ("1", "running", [], [], ([], [])),
        ("0", "running", [], [], (["listen", "listen"], [])),
        ("0", "running", [], [VIP, VIP6], ([], ["listen", "listen"])),
        ("0", "running", [], [VIP], (["listen"], ["listen"])),
        ("0", "stale", [], [VIP, VIP6], (["listen", "listen"], [])),
    ],
)
def test_addresses_that_the_peer_lacks(
    bind: str, state: str, own: list[str], bound: list[Any], expected: tuple[list[str], list[str]]
) -> None:
    peer = {"addresses": own, "nonlocal_bind": bind, "nonlocal_bind6": bind, "nginx": {"listens": bound}}
    found = judge_listens("web2", {"nginx": {"listens": [VIP, VIP6]}}, {**peer, "running": {"state": state}})
    assert codes(found) == expected


def asked(name: str, status: int = 200, **more: Any) -> dict[str, Any]:
    common = {"listen": "*:443" if more.get("tls") else "*:80", "port": 443 if more.get("tls") else 80, "tls": False}
    return {"names": [name], "status": status, "certificate": "", "error": "", **common, **more}


def answer(*probes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"probes": list(probes), "unprobed": [], "left": 0, "why": "", **more}


@pytest.mark.parametrize(
    ("ours", "theirs", "what"),
    [
        (asked("a"), asked("a"), ""),
        (asked("a", 502), asked("a", 502), ""),
        (asked("a", 0, error="closed"), asked("a", 0, error="closed"), ""),
        (asked("a"), asked("b", 500), ""),  # a name that is asked on one of them alone
        (asked("a"), asked("a", 403), "http://a:80 answers 403, on web1 200"),
        (asked("a"), asked("a", 0, error="refused"), "http://a:80 answers connection refused, on web1 200"),
        (asked("a", 0, error="timeout"), asked("a"), "http://a:80 answers 200, on web1 no answer in time"),
        (
            asked("a", tls=True, certificate="1"),
            asked("a", tls=True, certificate="2"),
            "https://a:443 shows another certificate than on web1",
        ),
        (asked("", 200), asked("", 404), "http://(no name):80 answers 404, on web1 200"),
    ],
)
def test_probes(ours: dict[str, Any], theirs: dict[str, Any], what: str) -> None:
    found = judge_probes("web1", "web2", answer(ours), answer(theirs))
    assert [reason.what for reason in found.reasons] == ([what] if what else [])
    assert found.warnings == ()


def test_a_thousand_other_answers_are_no_thousand_reasons() -> None:
    ours, theirs = ({**asked("", status), "names": [f"v{n}.test" for n in range(1000)]} for status in (200, 502))
    found = judge_probes("web1", "web2", answer(ours), answer(theirs))
    assert len(found.reasons) == 21
    assert found.reasons[-1].what == "980 further names answer otherwise"


def test_what_was_not_asked_is_told() -> None:
    theirs = answer(unprobed=[["192.0.2.9:80", "not an address of this host"]], left=7)
    found = judge_probes("web1", "web2", answer(), theirs)
    assert codes(found) == ([], ["not-probed", "not-probed"])
    assert "192.0.2.9:80 (not an address of this host)" in found.warnings[0].what
    assert codes(judge_probes("web1", "web2", answer(), answer(why="no nginx"))) == (["probe"], [])


def test_the_judges_of_check_are_those_of_ready() -> None:
    checks = [
        Check("web2", "files outside the trees", FAILED, "x", "y"),
        Check("web2", "same nginx", WARNING),
        Check("a", "b", OK),
    ]
    assert codes(of_checks(checks)) == (["files-outside-the-trees"], ["same-nginx"])
    assert of_checks(checks).reasons == (Reason("files-outside-the-trees", "files outside the trees: x", "web2", "y"),)


# what is remembered

DOWN = Reason("nginx-down", "nginx does not run", "web2", "start it")
WRONG = Reason("probe", "http://a:80 answers 500, on web1 200", "web2", "look")
NO = Findings((DOWN,))
YES = Findings()


def test_a_verdict_is_dated_from_when_it_became_so() -> None:
    first = joined(Seen(100.0, "g", YES, Findings()), None)
    assert (first.since, first.ready_at, first.probed_at) == (100.0, 100.0, 100.0)
    second = joined(Seen(110.0, "g", YES), first)
    assert (second.since, second.ready_at, second.probed_at) == (100.0, 110.0, 100.0)
    third = joined(Seen(120.0, "g", NO), second)
    assert (third.since, third.ready_at, third.is_ready) == (120.0, 110.0, False)
    fourth = joined(Seen(130.0, "g", NO), third)
    assert (fourth.since, fourth.ready_at) == (120.0, 110.0)


def test_probes_count_for_the_snapshot_that_they_were_made_of() -> None:
    first = joined(Seen(100.0, "g", YES, Findings((WRONG,))), None)
    assert [reason.code for reason in joined(Seen(101.0, "g", YES), first).reasons] == ["probe"]
    assert joined(Seen(102.0, "g", YES, Findings()), first).is_ready
    other = joined(Seen(103.0, "h", YES), first)
    assert (other.is_ready, other.probed_at, other.probed("h")) == (True, None, None)


def test_since_when_nginx_is_stale_or_down() -> None:
    down = {"state": "down", "start": "nginx"}
    first = joined(Seen(100.0, "g", NO, None, {"web2": down, "web1": STALE}), None)
    second = joined(Seen(200.0, "g", NO, None, {"web2": down, "web1": STALE}), first)
    assert {host: (nginx.state, nginx.since) for host, nginx in second.nginx.items()} == {
        "web2": ("down", 100.0),
        "web1": ("stale", 1e9),
    }
    third = joined(Seen(300.0, "g", YES, None, {"web2": RUNNING}), second)
    assert (third.nginx["web2"].since, third.nginx["web2"].reason) == (300.0, None)


def test_a_peer_that_does_not_answer_leaves_what_was_known_of_its_nginx() -> None:
    known = joined(Seen(100.0, "g", YES, Findings(), {"web2": RUNNING}), None)
    lost = unreachable(known, 200.0, Reason("unreachable", "no route", "web2", "look"))
    assert (lost.is_ready, lost.since, lost.ready_at, lost.nginx) == (False, 200.0, 100.0, known.nginx)
    assert unreachable(None, 5.0, DOWN).since == 5.0


LOOK = Look(
    at=100.0,
    generation="g",
    since=50.0,
    reasons=(DOWN, WRONG),
    warnings=(Reason("paused", "paused by x: y", "web2", "ngxsync resume"),),
    ready_at=40.0,
    probed_at=60.0,
    probes=(WRONG,),
    nginx={"web2": Nginx("down", 90.0, DOWN)},
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def test_a_record_keeps_its_look() -> None:
    record = PeerRecord("web2", generation="g", look=LOOK)
    assert record_from_json(json.loads(json.dumps(record_to_json(record)))) == record


@settings(deadline=None)
@given(st.sampled_from(sorted(asdict(LOOK))), ANYTHING)
def test_a_damaged_look_is_none_and_costs_nothing_else(name: str, value: Any) -> None:
    data = json.loads(json.dumps(record_to_json(PeerRecord("web2", generation="g", look=LOOK))))
    data["look"][name] = value
    found = record_from_json(data)
    assert found.generation == "g"
    if found.look is not None:
        status_text(found.look, 1.0)
        render_verdict(Verdict("web1", "web2", found.look), 1.0)
        json_verdicts([Verdict("web1", "web2", found.look)], 1.0)


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1, True, "1"])
def test_a_time_that_is_none_is_no_look(time: Any) -> None:
    data = json.loads(json.dumps(asdict(LOOK)))
    assert look_from_json(data) == LOOK
    assert look_from_json({**data, "probed_at": time}) is None


@settings(deadline=None)
@given(ANYTHING)
def test_whatever_lies_there_is_a_look_or_none(value: Any) -> None:
    assert look_from_json(value) is None


# how it is said

READY = replace(LOOK, reasons=(), warnings=(), ready_at=88.0, probed_at=60.0)


@pytest.mark.parametrize(
    ("look", "text"),
    [
        (READY, "web1 -> web2: ready, proven 12s ago, probed 40s ago"),
        (replace(READY, ready_at=100.0, probed_at=None), "web1 -> web2: ready, proven just now"),
        (
            replace(READY, warnings=LOOK.warnings),
            "web1 -> web2: ready, proven 12s ago, probed 40s ago; warning: web2: paused by x: y [paused]",
        ),
        (
            LOOK,
            "web1 -> web2: not ready: web2: nginx does not run [nginx-down]; web2: http://a:80 answers 500, on web1 200 [probe]; "
            "next: start it; last ready 1m00s ago, probed 40s ago",
        ),
        (
            replace(LOOK, reasons=(DOWN,) * 5, ready_at=None, probed_at=None),
            "web1 -> web2: not ready: "
            + "web2: nginx does not run [nginx-down]; " * 3
            + "and 2 more; next: start it; never ready",
        ),
        (
            replace(LOOK, reasons=(Reason("x", "an \x1b[31mescape\nof a host"),), ready_at=None, probed_at=None),
            "web1 -> web2: not ready: an \\x1b[31mescape of a host [x]; never ready",
        ),
    ],
)
def test_one_line_a_peer(look: Look, text: str) -> None:
    assert render_verdict(Verdict("web1", "web2", look), 100.0) == text


def test_nagios() -> None:
    ready, warned, down = (
        Verdict("web1", name, look) for name, look in (("web2", READY), ("web3", READY), ("w'=4", LOOK))
    )
    warned = replace(warned, look=replace(READY, warnings=(Reason("listen", "a|b", "web3"),)))
    assert [nagios_status(found) for found in ([ready], [ready, warned], [ready, warned, down])] == [0, 1, 2]
    assert render_nagios([ready], 100.0) == (
        "OK - web2 ready, proven 12s ago, probed 40s ago | 'web2 reasons'=0 'web2 warnings'=0 'web2 proven'=12s 'web2 probed'=40s"
    )
    text = render_nagios([ready, warned, down], 100.0)
    assert text.startswith("CRITICAL - ")
    assert "a/b [listen]" in text
    assert text.count("|") == 1
    assert "'w4 reasons'=2" in text


def test_the_json_keeps_its_keys() -> None:
    told = json_verdicts([Verdict("web1", "web2", LOOK), Verdict("web1", "web3", READY)], 100.0)
    assert list(told) == ["schema", "command", "run", "outcome", "code", "exit", "peers"]
    assert (told["outcome"], told["code"], told["exit"]) == ("not-ready", "nginx-down", 1)
    peer, other = told["peers"]
    keys = [
        "name",
        "outcome",
        "code",
        "exit",
        "snapshot",
        "accepted",
        "changes",
        "ready",
        "reasons",
        "warnings",
        "ages",
        "vrrp",
    ]
    assert list(peer) == keys
    both = (Carrying("web1", 99.0, "master", ("192.0.2.100",), 90.0, 7), Carrying("web2", 99.0, "backup"))
    (whole,) = json_verdicts([Verdict("web1", "web2", replace(READY, vrrp=both))], 100.0)["peers"]
    assert [(each["host"], each["role"], each["since"], each["keepalived"]) for each in whole["vrrp"]] == [
        ("web1", "master", 90.0, 7),
        ("web2", "backup", None, 0),
    ]
    assert peer["reasons"][0] == {
        "code": "nginx-down",
        "what": "nginx does not run",
        "where": "web2",
        "next": "start it",
    }
    assert peer["ages"] == {"looked": 0.0, "proven": 60.0, "probed": 40.0, "verdict": 50.0}
    assert (other["outcome"], other["exit"]) == ("ready", 0)


def test_the_log_says_why_and_for_how_long() -> None:
    assert render_change("web2", READY, LOOK).startswith(
        "web2: not ready to take over: web2: nginx does not run [nginx-down]"
    )
    assert render_change("web2", LOOK, replace(READY, at=170.0)) == "web2: ready to take over, after 2m00s of not"
    assert render_change("web2", None, READY) == "web2: ready to take over"

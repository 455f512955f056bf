"""What people and programs are shown: the JSON keys, the texts, names made harmless, patches that apply."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from datetime import UTC
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent.manifest import FILE, Entry
from ngxsync.core.errors import Message
from ngxsync.core.model import (
    Change,
    Pause,
    PeerResult,
    PeerStatus,
    Plan,
    Problem,
    RunResult,
    StatusReport,
)
from ngxsync.core.patch import LARGEST_TEXT, is_secret, unified
from ngxsync.core.render import ADVICE, json_run, json_status, log_line, render_plan, render_run, render_status
from ngxsync.core.wording import human_duration, human_size, one_line, safe_name, safe_text, short_id

ENTRY = Entry(FILE, 0o644, "root", "root", 1, 1, "a")
NASTY = "/t/x\x1b[2J\n\u202e\udcff\\y"
HARMLESS = r"/t/x\x1b[2J\n\u202e\xff\\y"
CHANGES = (
    Change("/t/conf/new.conf", "created", None, ENTRY),
    Change("/t/conf/nginx.conf", "content", ENTRY, ENTRY, cause="drift"),
    Change(NASTY, "deleted", ENTRY, None),
)
APPLIED = PeerResult(
    "web2",
    "applied",
    snapshot="0123456789abcdef" * 4,
    accepted="0123456789abcdef" * 4,
    changes=CHANGES,
    warnings=("a hard link was broken",),
    reload="reloaded",
    bytes_sent=4300,
    timings={"stage": 0.1},
)
REFUSED = PeerResult(
    "web3",
    "refused",
    "peer-refused",
    5,
    changes=CHANGES[:1],
    message=Message("nginx refused the new configuration", "web3:/t", "web3 unchanged", "mend it"),
    problems=(
        Problem('unknown directive "lisen"', "/t/conf/new.conf", 3, "error"),
        Problem("low limit", level="warning"),
    ),
)
RUN = RunResult(
    "00000007-ab", "sync", "0123456789abcdef" * 4, 5, "refused", "peer-refused", (APPLIED, REFUSED), (), None, 1.5, 0.84
)

RUN_KEYS = [
    "schema",
    "command",
    "run",
    "outcome",
    "code",
    "exit",
    "peers",
    "trigger",
    "snapshot",
    "started",
    "duration_s",
    "problems",
    "message",
]
PEER_KEYS = ["name", "outcome", "code", "exit", "snapshot", "accepted", "changes"]


def test_the_text_of_a_run() -> None:
    assert render_run(RUN) == (
        "run 00000007-ab sync: refused (peer-refused), 840ms\n"
        "  web2  applied, 3 changes (1 created, 1 content, 1 deleted), 4.2K sent, reloaded, accepted 0123456789ab\n"
        "    warning: a hard link was broken\n"
        "  web3  refused (peer-refused), 1 change (1 created)\n"
        '    /t/conf/new.conf:3: unknown directive "lisen"\n'
        "    warning: low limit\n"
        "    web3:/t: nginx refused the new configuration\n"
        "      now: web3 unchanged\n"
        "      next: mend it"
    )


def test_a_dry_run_has_no_id() -> None:
    assert render_run(RunResult("", "sync", outcome="pending")).startswith("sync: pending, ")


def test_a_run_that_the_master_itself_refuses_names_file_and_line() -> None:
    message = Message("nginx -t refuses", "web1", "web2 unchanged", "mend it")
    problem = Problem("unexpected }", "/t/conf/a.conf", 7)
    run = RunResult("00000008-ab", "change", "", 3, "refused", "master-invalid", (), (problem,), message)
    text = render_run(run)
    assert "  /t/conf/a.conf:7: unexpected }" in text
    assert "  web1: nginx -t refuses\n    now: web2 unchanged\n    next: mend it" in text


def test_the_line_for_the_journal() -> None:
    assert log_line(RUN, APPLIED) == (
        "web2 applied, 3 changes (1 created, 1 content, 1 deleted), 4.2K sent, reloaded, accepted 0123456789ab,"
        " 840ms [run 00000007-ab, sync]"
    )
    assert log_line(RUN, REFUSED).endswith('[run 00000007-ab, sync]: /t/conf/new.conf:3: unknown directive "lisen"')
    gone = PeerResult("web2", "unreachable", message=Message("no answer\nfor 5 s", "root@web2", "web2 unknown", "look"))
    assert log_line(RUN, gone).endswith(": root@web2: no answer for 5 s")


def test_the_json_of_a_run_keeps_its_keys() -> None:
    found = json.loads(json.dumps(json_run("sync", RUN)))
    assert list(found) == RUN_KEYS
    assert [list(peer)[:7] for peer in found["peers"]] == [PEER_KEYS] * 2
    assert list(found["peers"][0])[7:] == ["reload", "bytes_sent", "timings", "warnings", "problems", "message", "run"]
    assert (found["schema"], found["command"], found["run"], found["exit"]) == (1, "sync", "00000007-ab", 5)
    assert found["peers"][1]["changes"] == [{"path": "/t/conf/new.conf", "kind": "created", "cause": "pending"}]
    assert list(found["peers"][1]["message"]) == ["what", "where", "state", "next"]
    assert list(found["peers"][1]["problems"][0]) == ["text", "file", "line", "level"]
    assert found["peers"][0]["message"] is None


def test_json_keeps_every_name_exactly() -> None:
    assert json.loads(json.dumps(json_run("diff", RUN)))["peers"][0]["changes"][2]["path"] == NASTY


def test_a_plan_shows_deletions_first_and_counts_what_it_leaves_out() -> None:
    assert render_plan(Plan(CHANGES), "web2") == (
        "web2: 3 changes (1 created, 1 content, 1 deleted)\n"
        "  would be deleted:\n"
        f"    - {HARMLESS}  deleted\n"
        "  would be created or changed:\n"
        "    + /t/conf/new.conf  created\n"
        "    ~ /t/conf/nginx.conf  content (drift)"
    )
    many = Plan(tuple(Change(f"/t/{n}", "deleted", ENTRY, None) for n in range(7)))
    assert render_plan(many, "web2", limit=5).endswith("/t/4  deleted\n    and 2 more (ngxsync diff lists all)")
    assert render_plan(Plan(), "web2") == "web2: no changes"


NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
REPORT = StatusReport(
    "web1",
    NOW,
    (
        PeerStatus(
            "web2", "in-sync", NOW - 90, "0123456789abcdef", NOW - 90, True, "00000007-ab", NOW - 5, "in-sync", 0
        ),
        PeerStatus("web3", "paused", NOW - 60, exit=8, pause=Pause("ann", "moving\ndisks", NOW - 60, NOW + 7200)),
        PeerStatus("web4", "broken", exit=7, message=Message("the undo failed", "web4", "web4 is mixed", "log in")),
    ),
    (("check", NOW + 600),),
    ("the recovery unit is missing on web3",),
)


def test_status_shows_the_worst_first_each_with_what_to_do() -> None:
    assert render_status(REPORT, UTC) == (
        "web1 -> web4: broken\n"
        "  web4: the undo failed\n"
        "    now: web4 is mixed\n"
        "    next: log in\n"
        "web1 -> web3: paused since 2027-01-15 07:59:00 (1m00s ago)\n"
        "  paused:   by ann since 2027-01-15 07:59:00 (1m00s ago), until 2027-01-15 10:00:00 (in 2h00m): moving disks\n"
        "  next: ngxsync resume\n"
        "web1 -> web2: in-sync since 2027-01-15 07:58:30 (1m30s ago)\n"
        "  accepted: 0123456789ab 2027-01-15 07:58:30 (1m30s ago), proven\n"
        "  last run: 00000007-ab 2027-01-15 07:59:55 (5.0s ago): in-sync\n"
        "  next: nothing to do\n"
        "next check: 2027-01-15 08:10:00 (in 10m00s)\n"
        "note: the recovery unit is missing on web3"
    )


def test_the_json_of_status_keeps_its_keys() -> None:
    found = json.loads(json.dumps(json_status(REPORT)))
    assert list(found) == [
        "schema",
        "command",
        "run",
        "outcome",
        "code",
        "exit",
        "peers",
        "host",
        "now",
        "next_fires",
        "notes",
        "vrrp",
    ]
    assert list(found["peers"][0])[:7] == PEER_KEYS
    assert list(found["peers"][0])[7:] == [
        "since",
        "accepted_at",
        "proven",
        "last_run",
        "pause",
        "message",
        "next",
        "ready",
    ]
    assert (found["outcome"], found["exit"]) == ("broken", 7)
    assert [peer["outcome"] for peer in found["peers"]] == ["broken", "paused", "in-sync"]
    assert found["peers"][1]["pause"] == {
        "who": "ann",
        "reason": "moving\ndisks",
        "since": NOW - 60,
        "until": NOW + 7200,
    }


def test_every_status_word_has_its_advice() -> None:
    words = """in-sync pending drifted conflict held paused refused undone broken not-proven stale-running nginx-down
        unreachable awaiting-first-sync standby unknown"""
    assert sorted(ADVICE) == sorted(words.split())
    for word, advice in ADVICE.items():
        assert f"  next: {advice}" in render_status(StatusReport("web1", NOW, (PeerStatus("web2", word),)), UTC)


def test_names_are_made_harmless() -> None:
    assert safe_name(NASTY) == HARMLESS
    assert safe_name("/t/straße ☃.conf") == "/t/straße ☃.conf"
    assert safe_name("\x9b31m\x7f\r") == r"\x9b31m\x7f\r"


@given(st.text(st.characters(codec=None), max_size=20), st.text(st.characters(codec=None), max_size=20))
def test_harmless_names_are_one_printable_line_and_stay_different(one: str, other: str) -> None:
    assert safe_name(one).isprintable()
    assert one_line(one).isprintable()
    safe_name(one).encode("utf-8")
    assert (safe_name(one) == safe_name(other)) == (one == other)


def test_foreign_text_cannot_pose_as_ours() -> None:
    message = Message("nginx said: x\n  next: rm -rf /\x1b[31m", "web2", "unchanged", "mend it")
    text = render_run(RunResult("r", "sync", message=message))
    assert "\x1b" not in text
    assert "\n  next: rm" not in text
    assert safe_text("a\r\nb\tc\n") == "a\n    b    c"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (1000, "1.0K"), (4300, "4.2K"), (20 << 20, "20M"), (3 << 30, "3.0G")]
)
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0ms"),
        (0.0004, "0ms"),
        (0.34, "340ms"),
        (0.9996, "1.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (125, "2m05s"),
        (3599.7, "1h00m"),
        (11400, "3h10m"),
        (86399.6, "1d0h"),
        (187200, "2d4h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_short_ids() -> None:
    assert short_id("0123456789abcdef") == "0123456789ab"


def patched(folder: Path, path: str, before: bytes | None, text: str) -> bytes | None:
    """What GNU patch makes of the file."""
    file = os.path.join(os.fsencode(folder), os.fsencode(path))
    os.makedirs(os.path.dirname(file), exist_ok=True)
    if before is not None:
        with open(file, "wb") as stream:
            stream.write(before)
    command = ["patch", "--strip=1", "--batch", "--forward", "--directory", str(folder)]
    subprocess.run(command, input=text.encode("utf-8", "surrogateescape"), check=True, capture_output=True)
    if not os.path.exists(file):
        return None
    with open(file, "rb") as stream:
        return stream.read()


@pytest.mark.parametrize("path", ["conf/a.conf", "a b/é\n\udcff", 'q"uo\\te', "-dash", "#hash", "tab\tname"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"a\nb\nc\n", b"a\nB\nc\n"),
        (b"a\nb", b"a\nb\n"),
        (b"a\n", b"a"),
        (b"a", b"b"),
        (b"a\r\nb\x0cc\x0b\xe2\x80\xa8d\n", b"a\nb\x0cC\x0b\xe2\x80\xa8d\r\n"),
        (b"latin \xe9\n", b"latin \xe8\n"),
        (b"-- x\n", b"++ x\n"),
        (None, b"new\n"),
        (None, b"new"),
        (None, b""),
        (b"old\n", None),
        (b"old", None),
        (b"", None),
        (b"", b"x\n"),
    ],
)
def test_patch_makes_of_the_one_the_other(tmp_path: Path, path: str, before: bytes | None, after: bytes | None) -> None:
    assert patched(tmp_path, path, before, unified(f"/{path}", before, after)) == after


def test_the_text_of_a_difference() -> None:
    assert unified("/t/a.conf", b"listen 80;\n", b"listen 81;") == (
        "diff --git a/t/a.conf b/t/a.conf\n"
        "--- a/t/a.conf\n"
        "+++ b/t/a.conf\n"
        "@@ -1 +1 @@\n"
        "-listen 80;\n"
        "+listen 81;\n"
        "\\ No newline at end of file\n"
    )
    assert unified("/t/a.conf", b"same", b"same") == ""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


@pytest.mark.parametrize("content", [b"a\0b", b"x" * (LARGEST_TEXT + 1)])
def test_binary_and_huge_files_are_told_by_size_and_hash(content: bytes) -> None:
    text = unified("/t/x\x1b", content, None)
    assert text == f"Binary files differ: /t/x\\x1b {human_size(len(content))} sha256 {digest(content)} -> absent\n"


def test_a_secret_is_told_by_size_and_hash_alone() -> None:
    key = b"-----BEGIN EC PRIVATE KEY-----\nsecret stuff\n"
    assert is_secret("/t/a", key, ())
    assert is_secret("/t/htpasswd", b"ann:x", {"/t/htpasswd"})
    assert is_secret("/t/htpasswd", None, {"/t/htpasswd"})
    assert not is_secret("/t/a.conf", b"listen 80;", {"/t/htpasswd"})
    text = unified("/t/a", key, b"other", secret=True)
    assert unified("/t/a", key, b"other") == text
    assert unified("/t/a", b"other", key).startswith("Secret files differ")
    assert text == f"Secret files differ: /t/a 44B sha256 {digest(key)} -> 5B sha256 {digest(b'other')}\n"

"""`ngxsync history`: the runs, what each replaced on the peers, and the old content, as a person sees it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.agent import STATE, Agent
from tests.pair import ROOT, Pair, write_tree
from tests.resident import SITE, Resident, site

KEY = "-----BEGIN PRIVATE KEY-----\nTOPSECRET\n-----END PRIVATE KEY-----\n"
PASSWORDS = "anna:$apr1$x7k2$0123456789abcdefghij\n"


def test_what_a_run_replaced_and_its_old_text(pair: Pair, synced: Resident) -> None:
    for text in ("one", "two"):
        write_tree(pair.web1, ROOT, site(text))
        assert synced.sync().exit == 0
    shown = pair.ngxsync("history", "3")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"\n  web2 had, and keeps:\n    ~ {ROOT}/{SITE}  content\n" in shown.stdout
    text = pair.ngxsync("history", "3", f"{ROOT}/{SITE}")
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout.startswith(f"web2: ~ {ROOT}/{SITE}  content\ndiff --git ")
    assert "return 200 'one'" in text.stdout.split("\n-server", 1)[1].split("\n+", 1)[0]
    assert "\n+server { listen 80; server_name site.example.com; return 200 'two'; }\n" in text.stdout


def test_the_list_marks_what_each_peer_has_now(pair: Pair, synced: Resident) -> None:
    for text in ("one", "two"):
        write_tree(pair.web1, ROOT, site(text))
        assert synced.sync().exit == 0
    lines = pair.ngxsync("history").stdout.splitlines()
    assert [line for line in lines if "<-" in line] == ["  web2  applied, 1 change (1 content)  <- web2 has this now"]
    assert lines[1].endswith("<- web2 has this now"), "the newest"
    assert pair.ngxsync("rollback", "--yes").returncode == 0
    lines = pair.ngxsync("history").stdout.splitlines()
    assert ("rollback: applied" in lines[0], lines[1].endswith("<- web2 has this now")) == (True, True), lines


def test_secrets_by_hash_alone_and_what_is_no_text(pair: Pair, synced: Resident) -> None:
    """Also where the configuration that named the password file is gone with it."""
    named = "server { listen 8085; auth_basic x; auth_basic_user_file users; }\n"
    files = {"conf/vhosts/named.conf": named, "conf/users": PASSWORDS, "conf/a.key": KEY, "html/text": "old\n"}
    write_tree(pair.web1, ROOT, files)
    pair.web1.path(f"{ROOT}/html/link").symlink_to("text")
    assert synced.sync().exit == 0
    for name in files:
        pair.web1.path(f"{ROOT}/{name}").unlink()
    pair.web1.path(f"{ROOT}/html/link").unlink()
    assert synced.sync("max-delete", by_person=True).exit == 0
    shown = pair.ngxsync("history", "3", ROOT)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "TOPSECRET" not in shown.stdout
    assert "0123456789abcdef" not in shown.stdout
    assert f"Secret files differ: {ROOT}/conf/users {len(PASSWORDS)}B sha256 " in shown.stdout
    assert f"Secret files differ: {ROOT}/conf/a.key {len(KEY)}B sha256 " in shown.stdout
    assert f"web2: - {ROOT}/html/link  deleted\n" in shown.stdout
    assert "\n-old\n" in shown.stdout
    assert "TOPSECRET" not in pair.ngxsync("history", "3", "--json", ROOT).stdout


def test_edits_made_there_are_among_it(pair: Pair, synced: Resident) -> None:
    write_tree(pair.web2, ROOT, {"html/index.html": "edited on web2\n"})
    assert synced.sync().exit == 0
    shown = pair.ngxsync("history", "2", f"{ROOT}/html/index.html")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\n-edited on web2\n+<h1>It works</h1>\n" in shown.stdout


def test_what_is_not_kept_or_not_there(pair: Pair, synced: Resident) -> None:
    for text in ("one", "two"):
        write_tree(pair.web1, ROOT, site(text))
        assert synced.sync().exit == 0
    nothing = pair.ngxsync("history", "3", f"{ROOT}/html/index.html")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "replaced and deleted nothing there" in nothing.stderr
    outside = pair.ngxsync("history", "3", "/etc/passwd")
    assert (outside.returncode, "lies in no tree" in outside.stderr) == (2, True)
    for blob in pair.web2.path("/var/lib/ngxsync/peer/blobs").glob("*/*"):
        blob.unlink()
    shown = pair.ngxsync("history", "3")
    assert f"    ~ {ROOT}/{SITE}  content (its old content is not kept any more)\n" in shown.stdout
    text = pair.ngxsync("history", "3", f"{ROOT}/{SITE}")
    assert (text.returncode, text.stdout.count("\n"), "not kept any more" in text.stdout) == (0, 1, True)
    answer = json.loads(pair.ngxsync("history", "3", "--json").stdout)
    (path,) = answer["replaced"][0]["paths"]
    assert (path["path"], path["kept"], path["before"]["kind"]) == (f"{ROOT}/{SITE}", False, "file")


def test_a_peer_that_does_not_answer_hides_nothing_of_this_hosts_record(pair: Pair, synced: Resident) -> None:
    write_tree(pair.web1, ROOT, {"html/index.html": "new\n"})
    assert synced.sync().exit == 0
    pair.web2.run(["kill", str(pair.web2.sshd_pid())])
    shown = pair.ngxsync("history", "2")
    assert shown.returncode == 0
    assert f"~ {ROOT}/html/index.html  content" in shown.stdout
    assert "no sshd listens there" in shown.stderr
    assert pair.ngxsync("history", "2", f"{ROOT}/html/index.html").returncode == 4
    answer = json.loads(pair.ngxsync("history", "2", f"{ROOT}/html/index.html", "--json").stdout)
    assert (answer["exit"], answer["code"], answer["outcome"]) == (4, "refused", "applied")
    assert answer["message"]["what"] == "no sshd listens there"


# the agent, asked without a master


@pytest.fixture
def agent(pair: Pair) -> Agent:
    """web2 with two generations of a page, its first content in the store."""
    made = Agent(pair.web2)
    for text in ("one\n", "two\n"):
        answer = made.transact(made.plan({"html/index.html": text}))
        assert answer["ok"], answer
    return made


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_stage_from_the_store_is_a_copy_and_lies_in_the_stage(agent: Agent) -> None:
    page = f"{ROOT}/html/new/deep/page.html"
    asked = {page: sha256("one\n"), f"{ROOT}/lost": sha256("never seen")}
    answer = agent.call("stage", run="000009-test", trees=[ROOT], restore=asked)
    assert (answer["ok"], answer["missing"]) == (True, [f"{ROOT}/lost"])
    staged = agent.host.path(f"{ROOT}/.ngxsync/000009-test/stage/html/new/deep/page.html")
    (blob,) = agent.host.path(f"{STATE}/peer/blobs").glob(f"*/{sha256('one' + chr(10))}")
    assert (staged.read_text(), staged.stat().st_mode & 0o777, staged.stat().st_nlink) == ("one\n", 0o600, 1)
    assert staged.stat().st_ino != blob.stat().st_ino
    assert not agent.host.path(page).exists()


@pytest.mark.parametrize(
    "asked",
    [
        {"/etc/passwd": sha256("one\n")},
        {f"{ROOT}/../x": sha256("one\n")},
        {ROOT: sha256("one\n")},
        {f"{ROOT}/x": "../../accepted.json"},
    ],
    ids=["outside", "climbing", "the-tree", "no-hash"],
)
def test_what_no_rollback_asks_for_is_not_staged(agent: Agent, asked: dict[str, str]) -> None:
    answer = agent.call("stage", run="000009-test", trees=[ROOT], restore=asked)
    assert (answer["ok"], answer["code"]) == (False, "agent"), answer
    assert not agent.host.path("/usr/local/x").exists()


@pytest.mark.parametrize("run", ["../accepted", "", 7, "000001-test/../../x"])
def test_what_is_no_run_is_not_looked_for(agent: Agent, run: Any) -> None:
    answer = agent.call("history", run=run)
    assert (answer["ok"], answer["code"]) == (False, "agent"), answer


@pytest.mark.parametrize("more", [{"kind": "other"}, {"restores": "../x"}, {"taken_back": {"relative": [None]}}])
def test_what_no_rollback_records_is_not_begun(agent: Agent, more: dict[str, Any]) -> None:
    answer = agent.call("transact", **{**agent.plan({"html/index.html": "three\n"}), **more})
    assert (answer["ok"], answer["code"]) == (False, "agent"), answer
    assert agent.host.path(f"{ROOT}/html/index.html").read_text() == "two\n"


def test_snapshots_by_number_and_what_a_recovery_found(agent: Agent) -> None:
    """By sequence number, whatever the clock said; an edit that an undo met is listed, and its bytes are kept."""
    listed = agent.call("history")
    assert [each["sequence"] for each in listed["snapshots"]] == [1, 2]
    assert [each["run"] for each in listed["snapshots"]] == listed["runs"] == ["000001-test", "000002-test"]
    file = agent.host.path(f"{STATE}/peer/runs/000001-test.json")
    answer = json.loads(file.read_text())
    file.write_text(json.dumps({**answer, "at": answer["at"] + 10**8}))
    assert [each["run"] for each in agent.call("history")["snapshots"]] == ["000001-test", "000002-test"]
    (change,) = agent.call("history", run="000002-test")["changes"]
    assert (change[0], change[1][6], change[2][6], change[3]) == (
        f"{ROOT}/html/index.html",
        sha256("one\n"),
        sha256("two\n"),
        True,
    )
    edit = [f"{ROOT}/html/index.html", 0o100640, 33, 33, 1_600_000_000_000_000_001, sha256("one\n")]
    agent.host.path(f"{STATE}/peer/runs/000002-test.edits.json").write_text(json.dumps([edit]))
    (found,) = agent.call("history", run="000002-test")["edits"]
    entry = ["file", 0o640, "www-data", "www-data", 1_600_000_000_000_000_001, 4, sha256("one\n")]
    assert found == [f"{ROOT}/html/index.html", entry, True]

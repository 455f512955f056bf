"""`ngxsync history`: the runs, what each replaced on the peers, and the old content, as a person sees it."""

from __future__ import annotations

import json

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

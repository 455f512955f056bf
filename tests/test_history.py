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

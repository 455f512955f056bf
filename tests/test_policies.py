"""Policies on the real pair: what is a host's own, drift that waits for a person, and what is not tried again unasked."""

from __future__ import annotations

import json
from typing import Any

from tests.hosts import Host
from tests.pair import ROOT, Pair, write_tree
from tests.resident import STATE, Resident, by_hand, raise_if_not_held, raise_if_not_in_sync, served, site
from tests.test_status_at_night import night

OWN = "conf/vhosts/own-*.conf"
ONE, TWO, SHARED = (f"{ROOT}/conf/vhosts/{name}" for name in ("own-1.conf", "own-2.conf", "own-both.conf"))


def asked(pair: Pair, *arguments: str) -> dict[str, Any]:
    return dict(json.loads(pair.ngxsync(*arguments, "--json").stdout))


def own_files(host: Host) -> dict[str, str]:
    return {path: host.path(path).read_text() for path in (ONE, TWO, SHARED) if host.path(path).exists()}


def test_what_is_a_host_s_own_is_left_alone_by_everything_in_both_directions(synced: Resident) -> None:
    """An exclude of one peer: sync, diff, status at night, rollback and pull; edited, created and deleted on either side."""
    pair = synced.pair
    pair.write_config(peer=f"exclude = /{OWN}")
    write_tree(pair.web1, ROOT, site("first"))
    assert synced.sync().exit == 0
    write_tree(
        pair.web1, ROOT, {ONE.removeprefix(f"{ROOT}/"): "# web1's\n", SHARED.removeprefix(f"{ROOT}/"): "# web1's\n"}
    )
    write_tree(
        pair.web2, ROOT, {TWO.removeprefix(f"{ROOT}/"): "# web2's\n", SHARED.removeprefix(f"{ROOT}/"): "# web2's\n"}
    )
    here, there = own_files(pair.web1), own_files(pair.web2)

    raise_if_not_in_sync(synced)
    assert asked(pair, "diff")["exit"] == 0
    assert night(pair.web2)["word"] == "in-sync"
    write_tree(pair.web1, ROOT, site("second"))
    assert (synced.sync().exit, served(pair.web2)) == (0, "second")
    assert pair.ngxsync("rollback", "--yes").returncode == 0
    assert served(pair.web2) == "first"
    assert pair.ngxsync("sync", "--yes").returncode == 0
    write_tree(pair.web2, ROOT, site("edited on web2"))
    found = asked(pair, "pull", "--yes")
    assert (found["exit"], [change["path"] for change in found["peers"][0]["changes"]]) == (
        0,
        [f"{ROOT}/conf/vhosts/site.conf"],
    )

    assert (own_files(pair.web1), own_files(pair.web2)) == (here, there)
    pair.web2.path(TWO).unlink()
    raise_if_not_in_sync(synced)


def test_drift_that_waits_is_told_by_status_and_diff_until_a_person_decides(synced: Resident) -> None:
    pair = synced.pair
    pair.write_config(sync="on_drift = hold")
    write_tree(pair.web2, ROOT, {"html/index.html": "edited on web2"})

    raise_if_not_held(synced.sync(trigger="change"), "drift")
    raise_if_not_held(synced.sync(trigger="schedule", full=True), "drift")

    (told,) = asked(pair, "status")["peers"]
    assert (told["outcome"], "1 path changed on web2" in told["message"]["what"]) == ("held", True)
    assert "ngxsync pull" in told["message"]["next"]
    assert "ngxsync sync --force drift" in told["message"]["next"]
    (peer,) = asked(pair, "diff")["peers"]
    assert [(change["path"], change["cause"]) for change in peer["changes"]] == [(f"{ROOT}/html/index.html", "drift")]
    assert pair.web2.get("/")[1] == "edited on web2"
    assert by_hand(pair, "--force", "drift").exit == 0
    assert asked(pair, "status")["peers"][0]["outcome"] == "in-sync"


def test_what_was_undone_is_tried_again_when_something_changed_there_by_schedule_and_by_a_person(
    synced: Resident,
) -> None:
    """And by nothing else, a reload of this host's own nginx included."""
    pair = synced.pair
    pair.write_config(peer="probe = http://127.0.0.1/nowhere\nprove_timeout = 1s")
    write_tree(pair.web1, ROOT, site("probed"))
    assert synced.sync(trigger="change").outcome == "undone"

    def is_tried(**options: Any) -> bool:
        before = pair.web2.reload_count()
        run = synced.sync(**options)
        assert (run.exit, run.outcome) == (6, "undone"), run
        is_tried = pair.web2.reload_count() > before
        assert is_tried == (run.code != "quarantine"), run
        return is_tried

    assert not any(is_tried(trigger=trigger) for trigger in ("change", "check", "reload"))
    assert is_tried(trigger="schedule")
    assert not is_tried(trigger="check")
    assert is_tried(by_person=True)
    write_tree(pair.web2, ROOT, {"html/more.html": "somebody's own"})
    assert is_tried(trigger="check")


def test_what_was_refused_is_not_rehearsed_again_at_each_event(synced: Resident) -> None:
    pair = synced.pair
    pair.web1.path("/srv/only-here.conf").write_text("return 200 here;\n")
    write_tree(pair.web1, ROOT, {"conf/vhosts/site.conf": "server { listen 80; include /srv/only-here.conf; }\n"})
    assert synced.sync(trigger="change").code == "refused"

    def is_tried(trigger: str) -> bool:
        before = len(list(pair.web2.path(f"{STATE}/peer/runs").iterdir()))
        assert synced.sync(trigger=trigger).code == "refused"
        return len(list(pair.web2.path(f"{STATE}/peer/runs").iterdir())) > before

    assert {trigger: is_tried(trigger) for trigger in ("change", "check", "schedule", "retry")} == {
        "change": False,
        "check": True,
        "schedule": True,
        "retry": True,
    }

"""Each guard: what it holds, what it lets through, what it tells a person, and how it is overridden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ngxsync.agent.manifest import DIR, FILE, LINK, Entry, Manifest
from ngxsync.core.errors import ConfigError
from ngxsync.core.guards import FORCEABLE, NEVER_FORCED, GuardSettings, Hold, PeerFacts, apply_force, check_guards
from ngxsync.core.model import Projection, Snapshot
from ngxsync.core.plan import make_plan

ROOT = "/usr/local/nginx"
CONF = f"{ROOT}/conf/nginx.conf"
SETTINGS = GuardSettings((f"{ROOT}/html",), CONF, master_name="web1")
PLACE = {ROOT: {"real": ROOT, "dev": 8, "ino": 2, "mounts": []}}


def entry(content: str = "a", mtime: int = 1) -> Entry:
    return Entry(FILE, 0o644, "root", "root", mtime, 1, content)


FOLDER = Entry(DIR, 0o755, "root", "root", 0, 0, "")
LINKED = Entry(LINK, 0o777, "root", "root", 1, 0, "elsewhere")


def tree(**files: Entry) -> Manifest:
    """A small installation; `files` are added below conf/."""
    base = {ROOT: FOLDER, f"{ROOT}/conf": FOLDER, CONF: entry(), f"{ROOT}/html": FOLDER, f"{ROOT}/html/index": entry()}
    return {**base, **{f"{ROOT}/conf/{name}": value for name, value in files.items()}}


def held(
    master: Manifest,
    peer: Manifest,
    base: Manifest | None = None,
    settings: GuardSettings = SETTINGS,
    *,
    accepted: bool = True,
    master_roots: Mapping[str, Any] = PLACE,
    **facts: Any,
) -> tuple[Hold, ...]:
    """The holds of a sync from web1 to web2; without `base` the peer is as it was accepted."""
    known = (peer if base is None else base) if accepted else None
    plan = make_plan(master, peer, known, lambda path: True, main_conf=settings.main_conf)
    snapshot = Snapshot(master, Projection(((ROOT, ()),)), (), master_roots)
    return check_guards(plan, snapshot, PeerFacts("web2", peer, **facts), settings)


def codes(holds: tuple[Hold, ...]) -> list[str]:
    return [hold.code for hold in holds]


def test_an_ordinary_edit_is_not_held() -> None:
    peer = tree(site=entry("old"), gone=entry())
    place = {"roots": PLACE, "recorded_peer": PLACE, "recorded_master": PLACE}
    assert held(tree(site=entry("new"), more=entry()), peer, **place) == ()


def test_nothing_to_do_is_never_held() -> None:
    assert held(tree(), tree(), missing_users=("www",), roots={}, recorded_peer=PLACE, recorded_master={}) == ()


def test_an_emptied_tree_is_held() -> None:
    holds = held({ROOT: FOLDER}, tree())
    assert "emptied-root" in codes(holds)
    message = holds[0].message
    assert message.what == "the tree is empty here, and web2 has 4 entries in it"
    assert message.where == ROOT
    assert message.state == "web2 unchanged"
    assert message.next == "if it is meant to be empty: ngxsync sync --force emptied-root"


def test_a_tree_that_is_gone_is_held() -> None:
    assert "emptied-root" in codes(held({}, tree()))
    assert codes(held({}, {ROOT: FOLDER})) == ["emptied-root"]


@pytest.mark.parametrize("side", ["web1", "web2"])
@pytest.mark.parametrize(
    ("now", "code"),
    [
        ({"real": "/mnt/other"}, "replaced-root"),
        ({"real": "/mnt/other", "dev": 9, "ino": 5}, "replaced-root"),
        ({"ino": 5}, "replaced-root"),
        ({"dev": 9, "ino": 5}, "device"),
        ({"dev": 9, "fsid": "other"}, "device"),
        ({"mounts": ["html"]}, "mounts"),
    ],
)
def test_a_tree_that_is_another_place_is_held_on_either_host(side: str, now: dict[str, Any], code: str) -> None:
    changed = {ROOT: {**PLACE[ROOT], **now}}
    mine, theirs = (changed, PLACE) if side == "web1" else (PLACE, changed)
    holds = held(tree(new=entry()), tree(), master_roots=mine, roots=theirs, recorded_master=PLACE, recorded_peer=PLACE)
    assert codes(holds) == [code]
    assert holds[0].message.where == f"{side}:{ROOT}"
    assert f"ngxsync sync --force {code}" in holds[0].message.next


def test_a_file_system_that_came_back_under_another_number_is_the_same() -> None:
    """Loop devices, btrfs and the like get their numbers anew at each boot."""
    now, then = ({ROOT: {**PLACE[ROOT], "dev": dev, "fsid": "5f0a"}} for dev in (8, 9))
    assert held(tree(new=entry()), tree(), roots=now, recorded_peer=then) == ()


def test_mounts_that_came_and_went_are_named() -> None:
    now, then = ({ROOT: {**PLACE[ROOT], "mounts": mounts}} for mounts in (["html"], ["conf"]))
    [hold] = held(tree(new=entry()), tree(), roots=now, recorded_peer=then)
    assert hold.message.what.endswith("(new: html; gone: conf)")


def test_the_first_run_has_no_place_to_compare_with() -> None:
    assert held(tree(new=entry()), tree(), roots=PLACE) == ()


def test_deleting_the_main_configuration_file_is_held() -> None:
    master = tree()
    del master[CONF]
    [hold] = held(master, tree())
    assert (hold.code, hold.message.where) == ("main-file", f"web2:{CONF}")


def sites(count: int, where: str = "conf") -> Manifest:
    return {f"{ROOT}/{where}/{number}": entry() for number in range(count)}


@pytest.mark.parametrize(
    ("there", "deleted", "limit", "holds"),
    [
        (4, 4, 1.0, []),  # fewer than five are never held
        (5, 5, 30.0, ["max-delete"]),
        (100, 30, 30.0, []),
        (97, 30, 30.0, []),  # 30 of 100: exactly the limit, with the three other entries outside content
        (96, 30, 30.0, ["max-delete"]),
        (50, 50, None, []),
        (50, 50, 100.0, []),
    ],
)
def test_too_many_deletions_are_held(there: int, deleted: int, limit: float | None, holds: list[str]) -> None:
    files = sites(there)
    kept = dict(list(files.items())[deleted:])
    settings = replace(SETTINGS, max_delete_pct=limit)
    assert codes(held({**tree(), **kept}, {**tree(), **files}, settings=settings)) == holds


def test_deletions_are_counted_apart_inside_and_outside_content() -> None:
    pages, confs = sites(200, "html"), sites(5)
    [hold] = held({**tree(), **pages}, {**tree(), **pages, **confs})
    assert hold.message.what == "5 of 8 entries outside content would be deleted, more than max_delete = 30%"
    [hold] = held({**tree(), **confs}, {**tree(), **pages, **confs})
    assert hold.message.what.startswith(f"200 of 202 entries in {ROOT}/html would be deleted")
    assert hold.message.where.endswith("and 195 more")


DRIFTED = (tree(x=entry("old"), y=entry("mine")), tree(x=entry("theirs"), y=entry("theirs")))
ACCEPTED = tree(x=entry("old"), y=entry("old"))


def test_drift_and_conflict_are_healed_by_default_and_held_on_request() -> None:
    assert held(*DRIFTED, ACCEPTED) == ()
    holds = held(*DRIFTED, ACCEPTED, settings=replace(SETTINGS, on_drift="hold"))
    assert codes(holds) == ["drift", "conflict"]
    assert holds[0].message.where == f"web2:{ROOT}/conf/x"
    assert holds[1].message.where == f"web2:{ROOT}/conf/y"


def test_a_touched_file_is_no_drift() -> None:
    peer = tree(x=entry(mtime=9))
    assert held(tree(x=entry()), peer, tree(x=entry()), settings=replace(SETTINGS, on_drift="hold")) == ()


def test_first_contact_with_a_peer_that_has_its_own_is_held() -> None:
    [hold] = held(tree(x=entry("ours")), tree(x=entry("theirs")), accepted=False)
    assert hold.code == "first-contact"
    assert hold.message.what == "1 path on web2 never came from here and would be replaced"


def test_an_empty_or_equal_peer_is_accepted_without_asking() -> None:
    assert held(tree(), {}, accepted=False) == ()
    assert held(tree(), {ROOT: FOLDER._replace(mode=0o700)}, accepted=False) == ()
    assert held(tree(x=entry(mtime=2)), tree(x=entry(mtime=1)), accepted=False) == ()


@pytest.mark.parametrize(
    "kept", [{"specials": (f"{ROOT}/conf/site/sock",)}, {"kept_apart": (f"{ROOT}/conf/site/log",)}]
)
def test_a_directory_that_still_holds_what_a_sync_leaves_alone_is_held(kept: dict[str, Any]) -> None:
    peer, master = tree(site=FOLDER), tree(site=LINKED)
    assert held(master, peer) == ()
    [hold] = held(master, peer, **kept)
    assert (hold.code, hold.message.where) == ("type-change", f"web2:{ROOT}/conf/site")
    assert "cannot give way to a link" in hold.message.what
    [blocker] = next(iter(kept.values()))
    assert blocker in hold.message.what


def test_a_socket_where_a_file_should_be_is_held() -> None:
    holds = held(tree(site=entry()), tree(), specials=(f"{ROOT}/conf/site", f"{ROOT}/conf/other"))
    assert codes(holds) == ["type-change"]


def test_users_that_the_peer_lacks_are_named() -> None:
    [hold] = held(tree(x=entry()), tree(), missing_users=("www", "deploy"))
    assert (hold.code, hold.message.where) == ("missing-user", "web2")
    assert hold.message.what.endswith("www, deploy")


def test_all_reasons_are_told_at_once() -> None:
    holds = held({ROOT: FOLDER}, {**tree(), **sites(20)}, accepted=False, missing_users=("www",))
    assert codes(holds) == ["emptied-root", "main-file", "max-delete", "first-contact", "missing-user"]
    for hold in holds:
        message = hold.message
        assert message.what
        assert message.where
        assert message.state == "web2 unchanged"
        assert message.next.endswith(f"ngxsync sync --force {hold.code}")
        assert hold.code in FORCEABLE


def test_a_hostile_name_cannot_speak_for_us() -> None:
    name = "x\n  now: all is well\x1b[2J"
    [hold] = held(tree(**{name: entry("ours")}), tree(**{name: entry("theirs")}), accepted=False)
    assert "\n" not in hold.message.where
    assert "\x1b" not in hold.message.where
    assert hold.message.where.endswith(r"x\n  now: all is well\x1b[2J")


def test_force_lifts_the_named_holds_alone() -> None:
    holds = held({ROOT: FOLDER}, {**tree(), **sites(20)})
    assert codes(holds) == ["emptied-root", "main-file", "max-delete"]
    assert codes(apply_force(holds, ["emptied-root", "max-delete"])) == ["main-file"]
    assert apply_force(holds, []) == holds
    assert apply_force((), ["drift"]) == ()


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("max-deletes", "did you mean --force max-delete?"),
        ("m", "the codes are: first-contact, "),
        ("drift,conflict", "once for each reason"),
        ("", "the codes are: "),
    ],
)
def test_an_unknown_or_ambiguous_force_is_refused(code: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_force((), [code])
    assert hint in caught.value.message.next
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("code", NEVER_FORCED)
def test_what_nobody_may_override(code: str) -> None:
    with pytest.raises(ConfigError, match=f"{code} cannot be overridden"):
        apply_force((), [code])

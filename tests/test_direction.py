"""Which way a pair goes: by the VIP that a host carries, or without one by who was promoted; what is never overwritten then."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.hosts import Host, wait_until
from tests.pair import BASE_TREE, ROOT, Pair, write_tree
from tests.resident import STATE, Resident, are_equal, by_hand, raise_if_not_held, resident, served, site

VIP = "192.0.2.100"
VRRP = f"\n[vrrp]\nvip = {VIP}/24\n"
SHARED = "\n[peer web1]\nhost = 192.0.2.1\nidentity = /etc/ngxsync/id_ed25519\n"


def give(host: Host) -> None:
    """As keepalived does on becoming master."""
    host.run(["ip", "address", "add", f"{VIP}/24", "dev", "eth0"])


def take(host: Host) -> None:
    host.run(["ip", "address", "delete", f"{VIP}/24", "dev", "eth0"])


@contextmanager
def locked(host: Host, path: str) -> Iterator[None]:
    """Another process there has this lock."""
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    lock = host.popen(["python3", "-c", hold, path], **pipes)
    assert lock.stdout is not None
    assert lock.stdin is not None
    assert lock.stdout.readline() == "held\n"
    try:
        yield
    finally:
        lock.stdin.close()
        lock.wait(45)
        lock.stdout.close()


@pytest.fixture
def holding(unmet: Resident) -> Resident:
    """web1 holds the VIP, and has synced."""
    give(unmet.pair.web1)
    unmet.pair.write_config(more=VRRP)
    assert unmet.sync().exit == 0
    return unmet


def test_without_the_vip_nothing_is_pushed_by_anybody(holding: Resident) -> None:
    pair = holding.pair
    take(pair.web1)
    write_tree(pair.web1, ROOT, site("edited"))

    for run in (holding.sync(), holding.sync(by_person=True), by_hand(pair, "--yes")):
        assert (run.exit, run.outcome, run.code) == (8, "standby", "standby"), run
        assert f"web1 does not hold the VIP {VIP}: it is on standby" in run.text
        assert "no peer was changed" in run.text
    assert not pair.web2.path(f"{ROOT}/conf/vhosts/site.conf").exists()
    rollback = pair.ngxsync("rollback", "--yes")
    told = rollback.stdout + rollback.stderr
    assert (rollback.returncode, "ngxsync rollback --force standby" in told) == (8, True), rollback
    status = pair.ngxsync("status", "--exit-code")
    assert (status.returncode, "web1 -> web2: standby" in status.stdout) == (8, True), status.stdout
    assert "nothing to do" in status.stdout

    assert re.match(r"web1: VRRP BACKUP.*; keepalived does not run\n", status.stdout)

    forced = by_hand(pair, "--force", "standby")  # nobody holds it: a person may know better
    assert forced.exit == 0, forced
    assert are_equal(pair)


def test_who_carries_the_vip_is_not_written_to_even_by_who_carries_it_too(holding: Resident) -> None:
    pair = holding.pair
    write_tree(pair.web1, ROOT, site("edited"))
    give(pair.web2)
    for run in (holding.sync(), holding.sync("standby", "drift", by_person=True)):
        assert (run.exit, run.code, run.peer["outcome"]) == (8, "vip", "held"), run
        assert f"web2 carries the VIP {VIP}" in run.text
        assert "web2 unchanged" in run.text
    assert not pair.web2.path(f"{ROOT}/conf/vhosts/site.conf").exists()
    assert pair.ngxsync("sync", "--force", "vip").returncode == 2
    ready = pair.ngxsync("ready")
    assert ready.returncode == 1
    assert f"web1 and web2 both carry the VIP {VIP}: neither is written to by the other [vip]" in ready.stdout
    status = json.loads(pair.ngxsync("status", "--json").stdout)
    assert [(host["host"], host["role"], host["vips"]) for host in status["vrrp"]] == [
        ("web1", "master", [VIP]),
        ("web2", "master", [VIP]),
    ]
    take(pair.web2)
    assert holding.sync().exit == 0
    assert are_equal(pair)


def test_the_vip_that_comes_at_the_last_moment_is_seen_under_the_lock(holding: Resident) -> None:
    """The peer looks again just before its first exchange, whatever its scan said."""
    pair = holding.pair
    write_tree(pair.web1, ROOT, site("edited"))
    with locked(pair.web2, f"{STATE}/peer/mixed.lock"):
        holding.begin()
        wait_until(lambda: list(pair.web2.path(f"{ROOT}/.ngxsync").glob("*/prep/*")), "the run is prepared on web2")
        give(pair.web2)
    run = holding.answer()
    assert (run.exit, run.code, run.peer["outcome"]) == (8, "vip", "held"), run
    assert "it carries the VIP" in run.text
    assert served(pair.web2) == BASE_TREE["html/index.html"]


def test_a_vip_that_was_away_while_a_run_waited_is_no_unbroken_tenure(holding: Resident) -> None:
    """web2 served and was edited meanwhile, and nothing there has noted it."""
    pair = holding.pair
    numbers = pair.web1.path(f"{STATE}/master/sequence")
    before = numbers.read_text()
    with locked(pair.web1, f"{STATE}/master/locks/peer-web2.lock"):
        holding.begin()
        wait_until(lambda: numbers.read_text() != before, "the run has looked whether the VIP is here")
        take(pair.web1)
        write_tree(pair.web2, ROOT, {"html/index.html": "edited while web2 served"})
        give(pair.web1)
    raise_if_not_held(holding.answer(), "drift", "has not held the VIP all the time")
    assert pair.web2.get("/") == (200, "edited while web2 served")


def test_drift_is_healed_only_while_the_vip_was_held_all_the_time(holding: Resident) -> None:
    pair = holding.pair
    write_tree(pair.web2, ROOT, {"html/index.html": "by a passer-by"})
    assert holding.sync().exit == 0
    assert are_equal(pair)

    take(pair.web1)  # for however short a time: web2 may have served meanwhile
    give(pair.web1)
    write_tree(pair.web2, ROOT, {"html/index.html": "edited while web2 served"})
    held = holding.sync()
    raise_if_not_held(held, "drift", "has not held the VIP all the time", "ngxsync pull", "--force drift")
    assert pair.web2.get("/") == (200, "edited while web2 served")
    by_person = holding.sync(by_person=True)
    assert (by_person.exit, by_person.code) == (8, "drift"), by_person

    pulled = pair.ngxsync("pull", "--yes")
    assert pulled.returncode == 0, pulled.stdout + pulled.stderr
    assert pair.web1.get("/") == (200, "edited while web2 served")
    assert holding.sync().exit == 0
    write_tree(pair.web2, ROOT, {"html/index.html": "by a passer-by"})
    assert holding.sync().exit == 0  # accepted again in this tenure
    assert are_equal(pair)


def note_role(host: Host) -> None:
    """As the daemon of that host, or a notify there."""
    turn = (
        "import sys; sys.path.insert(0, sys.argv[1]); from ngxsync_agent import addresses, role; v = ['192.0.2.100']; "
    )
    turn += (
        "role.turn('/var/lib/ngxsync', 'master', v, addresses.tenure_of(v, addresses.carried_addresses()), told=True)"
    )
    host.run(["python3", "-c", turn, f"{STATE}/agent/current"])


@pytest.mark.parametrize("by", ["itself", "a run on it"])
def test_what_was_edited_on_a_peer_that_held_the_vip_meanwhile_is_held_though_this_host_never_lost_it(
    holding: Resident, by: str
) -> None:
    """After a split brain: this host had it all the time, and so had the other for a while, as somebody has seen."""
    pair = holding.pair
    give(pair.web2)
    if by == "itself":
        note_role(pair.web2)
    else:
        assert holding.sync().code == "vip"
    write_tree(pair.web2, ROOT, {"html/index.html": "edited while both served"})
    take(pair.web2)
    held = holding.sync()
    raise_if_not_held(held, "drift", "web2 has held the VIP since it was accepted there")
    assert holding.sync("drift").exit == 0
    assert are_equal(pair)
    write_tree(pair.web2, ROOT, {"html/index.html": "by a passer-by"})
    assert holding.sync().exit == 0  # accepted since then


def test_the_daemon_follows_the_vip_as_it_comes_and_goes(pair: Pair) -> None:
    pair.write_config(more=f"{VRRP}\n[ngxsync]\non_event = (cat; echo) >>/srv/events\n")
    with pair.daemon() as daemon:
        wait_until(lambda: "STATUS=standby here" in "\n".join(daemon.messages()), "it is on standby")
        give(pair.web1)
        daemon.wait_for("in-sync")
        write_tree(pair.web1, ROOT, site("1"))
        wait_until(lambda: served(pair.web2) == "1", "the VIP came, and what was saved goes")
        events = wait_until(lambda: spooled(pair.web1), "it is told")
        assert [(event["role"], event["vips"]) for event in events] == [("master", [VIP])], events
        take(pair.web1)
        wait_until(lambda: len(spooled(pair.web1)) == 2, "it is noticed")
        assert spooled(pair.web1)[-1]["role"] == "backup"
        write_tree(pair.web1, ROOT, site("2"))
        daemon.signal(signal.SIGUSR1)  # keepalived's word changes nothing where nothing has changed
        daemon.signal(signal.SIGHUP)
        wait_until(
            lambda: daemon.log().count("it is on standby") >= 3, "a configuration that is read again finds the same"
        )
        assert served(pair.web2) == "1", daemon.log() + pair.web2.error_log()
        assert len(spooled(pair.web1)) == 2


def spooled(host: Host) -> list[dict[str, object]]:
    """The role events that were told, in order."""
    file = host.path("/srv/events")
    lines = file.read_text().split("\n") if file.exists() else []
    found = [json.loads(line) for line in lines if line]
    return [event for event in found if event["kind"] == "role"]


def share(pair: Pair) -> None:
    """All hosts have the same config.ini, key and known_hosts, and let each other in."""
    config = pair.web1.path("/etc/ngxsync/config.ini").read_text() + SHARED
    known = pair.web1.path("/etc/ngxsync/known_hosts").read_text()
    known += "192.0.2.1,web1 " + pair.web1.path("/etc/ssh/test_host_key.pub").read_text()
    key = pair.web1.path("/etc/ngxsync/id_ed25519").read_text()
    allowed = pair.web2.path("/root/.ssh/authorized_keys").read_text()
    for host in pair.hosts:
        for path, text in (("config.ini", config), ("known_hosts", known), ("id_ed25519", key)):
            host.path(f"/etc/ngxsync/{path}").write_text(text)
            host.path(f"/etc/ngxsync/{path}").chmod(0o600)
        host.path("/root/.ssh/authorized_keys").write_text(allowed)
        host.path("/root/.ssh/authorized_keys").chmod(0o600)


def test_a_promoted_backup_pushes_and_the_old_master_is_held_until_a_person_decides(pair: Pair) -> None:
    share(pair)
    assert by_hand(pair, "--yes").exit == 0
    with pair.daemon() as daemon:
        daemon.wait_for("in-sync")

    nobody = pair.ngxsync("promote", host=pair.web1)
    assert "web1 is the one that pushes\n" in nobody.stdout, nobody
    write_tree(pair.web1, ROOT, {**site("never sent"), "html/kept.html": "by web1"})  # and then it is gone
    pair.web1.run(["ip", "link", "set", "eth0", "down"])
    promoted = pair.ngxsync("promote", host=pair.web2, timeout=120)
    assert promoted.returncode == 0, promoted
    assert "web2 is the one that pushes (until now web1 did)" in promoted.stdout
    write_tree(pair.web2, ROOT, site("edited on web2"))

    pair.web1.reset_network()
    returned = by_hand(pair)
    raise_if_not_held(returned, "generation", "web2 was promoted by a person")
    assert served(pair.web2) == BASE_TREE["html/index.html"]  # nothing of web1's is there
    undecided = pair.ngxsync("promote", "--json", host=pair.web2)
    assert (json.loads(undecided.stdout)["peers"][0]["code"], undecided.returncode) == ("first-contact", 0), undecided
    kept = pair.ngxsync("pull", f"{ROOT}/html/kept.html", "--yes", host=pair.web2)
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert by_hand(pair, "--yes", "--force", "generation", host=pair.web2).exit == 0  # the person's choice
    assert served(pair.web1) == "edited on web2"
    assert pair.web1.path(f"{ROOT}/html/kept.html").read_text() == "by web1"
    with pair.daemon() as daemon:  # from now on web1 receives
        wait_until(lambda: "STATUS=standby here" in "\n".join(daemon.messages()), "web1 is on standby")
        daemon.wait_for("web2 syncs to web1")  # which the log may say a moment later


def test_a_master_that_returns_equal_does_not_take_the_direction_back(pair: Pair) -> None:
    pair.write_config(peer="connect_timeout = 3s")
    share(pair)
    assert by_hand(pair, "--yes").exit == 0
    pair.web1.run(["ip", "link", "set", "eth0", "down"])
    assert "web2 is the one that pushes" in pair.ngxsync("promote", host=pair.web2).stdout
    pair.web1.reset_network()

    with pair.daemon() as daemon:
        daemon.wait_for("(generation)")
        assert "web2 was promoted by a person" in daemon.log()
    write_tree(pair.web2, ROOT, {"html/index.html": "edited on the promoted host"})
    with pair.daemon() as daemon:
        daemon.wait_for("(generation)")
    assert pair.web2.get("/") == (200, "edited on the promoted host")

    write_tree(pair.web2, ROOT, BASE_TREE)
    turned = pair.ngxsync("promote", host=pair.web1)  # a person may turn it back
    assert "web2  in-sync" in turned.stdout, turned
    standby = by_hand(pair, host=pair.web2)
    assert (standby.exit, standby.code) == (8, "standby"), standby


def test_of_two_that_were_promoted_none_takes_the_other_over_by_itself(pair: Pair) -> None:
    """web2 was the master and has accepted nothing from anybody; both were promoted while they differed."""
    pair.write_config(peer="connect_timeout = 3s")
    share(pair)
    assert by_hand(pair, "--yes", host=pair.web2).exit == 0
    pair.web2.run(["ip", "link", "set", "eth0", "down"])
    assert "web1 is the one that pushes" in pair.ngxsync("promote", host=pair.web1).stdout
    pair.web2.reset_network()
    write_tree(pair.web2, ROOT, {"html/index.html": "saved on web2"})
    assert "web2 is the one that pushes" in pair.ngxsync("promote", host=pair.web2).stdout
    write_tree(pair.web2, ROOT, BASE_TREE)
    with pair.daemon() as daemon:
        daemon.wait_for("(generation)")
        assert "web2 was promoted by a person" in daemon.log()
    assert by_hand(pair, host=pair.web2).exit == 0  # a person decides
    assert by_hand(pair).code == "standby"


def test_two_equal_hosts_wait_for_a_person_to_say_which_of_them_pushes(unmet: Resident) -> None:
    """Else each daemon would take the other host over, and both would be on standby."""
    pair = unmet.pair
    share(pair)
    with resident(pair) as shared:
        undecided = shared.sync()
        raise_if_not_held(undecided, "first-contact", "nobody has said yet which of them pushes", "`ngxsync sync`")
        assert not pair.web2.path(f"{STATE}/peer/accepted.json").exists()
        assert by_hand(pair, "--yes").exit == 0
        assert shared.sync().outcome == "in-sync"
    assert by_hand(pair, host=pair.web2).code == "standby"


def test_an_old_master_takes_no_peer_back_that_another_host_took_over(pair: Pair) -> None:
    """Of three hosts: web3 was promoted while web1 was away, and has web2 now. Equal trees alone say nothing against it."""
    share(pair)
    assert by_hand(pair, "--yes").exit == 0
    file = pair.web2.path(f"{STATE}/peer/accepted.json")
    taken_over = {**json.loads(file.read_text()), "generation": "0123456789abcdef", "written_by": "web3"}
    file.write_text(json.dumps(taken_over))
    with resident(pair) as returned:
        raise_if_not_held(returned.sync(), "generation", "web3 wrote there last", "`ngxsync promote` here")
    assert json.loads(file.read_text()) == taken_over
    assert "web2  in-sync" in pair.ngxsync("promote").stdout  # a person may


def test_what_is_a_hosts_own_goes_to_no_other_one_from_there_either(pair: Pair) -> None:
    pair.write_config(peer="exclude = /html/own.html", more=VRRP)
    share(pair)
    give(pair.web2)
    write_tree(pair.web2, ROOT, {"html/own.html": "web2's", "html/index.html": "edited on web2"})
    sent = by_hand(pair, "--yes", host=pair.web2)
    assert (sent.exit, sent.changes) == (0, {f"{ROOT}/html/index.html": "content"}), sent
    take(pair.web2)
    give(pair.web1)
    assert by_hand(pair).exit == 0
    assert pair.web2.path(f"{ROOT}/html/own.html").read_text() == "web2's"


def test_on_the_host_that_was_synced_to_a_person_promotes_and_does_not_sync_by_mistake(pair: Pair) -> None:
    """Else both would have been written to by the other, and both would be on standby."""
    share(pair)
    assert by_hand(pair, "--yes").exit == 0
    write_tree(pair.web1, ROOT, {"html/index.html": "newer"})
    for arguments in (("--yes",), ("--yes", "--force", "standby")):
        mistaken = by_hand(pair, *arguments, host=pair.web2)
        assert (mistaken.exit, mistaken.code, mistaken.data["peers"]) == (8, "standby", []), mistaken
        assert "web2 is on standby" in mistaken.text
    ready = pair.ngxsync("ready", host=pair.web2)
    assert (ready.returncode, "web1 syncs to web2: web2 is on standby [standby]" in ready.stdout) == (1, True), ready
    assert by_hand(pair).exit == 0
    assert are_equal(pair)


def test_what_is_pulled_on_a_standby_host_does_not_turn_the_direction(pair: Pair) -> None:
    share(pair)
    assert by_hand(pair, "--yes").exit == 0
    for page in ("newer", "newest"):  # the second finds the record of a pull
        write_tree(pair.web1, ROOT, {"html/index.html": page})
        pulled = pair.ngxsync("pull", "--yes", "--take", "peer", host=pair.web2)
        assert pulled.returncode == 0, pulled.stdout + pulled.stderr
        assert pair.web2.get("/") == (200, page)
        assert by_hand(pair, host=pair.web2).code == "standby"
    assert by_hand(pair).exit == 0
    assert are_equal(pair)


@pytest.mark.parametrize("way", ["sync", "pull"])
def test_an_edit_that_was_taken_back_on_the_host_that_served_is_not_made_again_by_the_one_that_returns(
    pair: Pair, way: str
) -> None:
    """What web1 has of it came from web2: by web1's own base alone it would pass for an edit of web1's."""
    pair.write_config(more=VRRP)
    share(pair)
    give(pair.web1)
    assert by_hand(pair, "--yes").exit == 0
    take(pair.web1)
    give(pair.web2)
    write_tree(pair.web2, ROOT, {"html/index.html": "a mistake"})
    host = pair.web2 if way == "sync" else pair.web1
    assert pair.ngxsync(way, "--yes", host=host).returncode == 0
    assert pair.web1.get("/") == (200, "a mistake")
    write_tree(pair.web2, ROOT, BASE_TREE)  # and web1 is not reached
    take(pair.web2)
    give(pair.web1)
    write_tree(pair.web1, ROOT, site("edited on web1"))

    raise_if_not_held(by_hand(pair), "drift", "has not held the VIP all the time")
    assert pair.web2.get("/") == (200, BASE_TREE["html/index.html"])
    assert pair.ngxsync("pull", "--yes").returncode == 0
    assert pair.web1.get("/") == (200, BASE_TREE["html/index.html"])
    assert by_hand(pair).exit == 0
    assert are_equal(pair)
    write_tree(pair.web1, ROOT, {"html/index.html": "a mistake"})  # from now on it is web1's own
    assert by_hand(pair).exit == 0

"""`ngxsync check` on a real pair, whole and broken in the ways in which pairs are; nothing is left on the peer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ngxsync.core import judge_host, judge_pair
from ngxsync.core.checkup import FAILED, OK, WARNING, Check
from tests.hosts import PROJECT, Host
from tests.pair import ROOT, Pair, snapshot_inodes

WATCHED = ("/var/lib/ngxsync", "/usr/local/sbin", "/tmp", "/run", "/etc/systemd/system", "/root/.ssh", ROOT)
PYTHONS = "ls /usr/bin/python3* /usr/local/bin/python3* /usr/libexec/platform-python 2>/dev/null"


def checks_of(pair: Pair, *arguments: str) -> tuple[int, dict[tuple[str, str], Check]]:
    """(exit status, {(host, name): the worst check of that name})."""
    done = pair.ngxsync("check", "--json", *arguments)
    told = json.loads(done.stdout)
    assert "checks" in told, done.stdout + done.stderr
    found: dict[tuple[str, str], Check] = {}
    order = (OK, WARNING, FAILED)
    for fields in [*told["checks"], *(each for peer in told["peers"] for each in peer["checks"])]:
        check = Check(**fields)
        old = found.get((check.host, check.name))
        if old is None or order.index(check.state) > order.index(old.state):
            found[check.host, check.name] = check
    return done.returncode, found


@contextmanager
def hidden(host: Host, *programs: str) -> Iterator[None]:
    """These programs are there and cannot be run; `reset` would mend it too."""
    for program in programs:
        host.run(["mount", "--bind", "/dev/null", program])
    try:
        yield
    finally:
        for program in programs:
            host.unmount(program)


def real_paths(host: Host, command: str) -> list[str]:
    listed = host.run(["sh", "-c", f"for p in $({command}); do readlink -f $p; done"], check=False).stdout.split()
    return sorted(set(listed))


def test_a_sound_pair_passes_and_nothing_is_left_on_the_peer(pair: Pair) -> None:
    before, home = snapshot_inodes(pair.web2, *WATCHED), sorted(pair.web2.path("/root").iterdir())
    done = pair.ngxsync("check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert done.stdout.count("WARNING") == 1
    assert "  restricted key: WARNING (whoever gets this key has a shell there)\n" in done.stdout
    assert "    hint: ngxsync peer install web2\n" in done.stdout
    assert done.stdout.startswith("web1\n  configuration: OK (/etc/ngxsync/config.ini)\n")
    assert "\nweb2\n  key: OK (/etc/ngxsync/id_ed25519)\n  connection: OK (root@192.0.2.2:22)\n" in done.stdout
    assert "  both ssh stacks: OK (root@web2 by fabric and by OpenSSH)\n" in done.stdout
    assert "by itself, for nginx writes there: /logs/access.log /logs/error.log /logs/nginx.pid" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" OK")
    after = snapshot_inodes(pair.web2, *WATCHED)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    changed = {path for path in changed if not path.startswith(f"{PROJECT}/")}  # a clone below /tmp
    assert changed <= {"/tmp"}, "a temporary folder came and went, and nothing else"
    assert sorted(pair.web2.path("/root").iterdir()) == home


def test_json_has_the_keys_of_the_contract(pair: Pair) -> None:
    told = json.loads(pair.ngxsync("check", "--json").stdout)
    assert {key: told[key] for key in ("schema", "command", "run", "outcome", "code", "exit")} == {
        "schema": 1,
        "command": "check",
        "run": "",
        "outcome": "ok",
        "code": "",
        "exit": 0,
    }
    (peer,) = told["peers"]
    assert list(peer) == ["name", "outcome", "code", "exit", "snapshot", "accepted", "changes", "checks"]
    assert all(list(check) == ["host", "name", "state", "what", "hint"] for check in told["checks"] + peer["checks"])


def test_a_wrong_configuration_and_an_unknown_peer_are_usage(pair: Pair) -> None:
    done = pair.ngxsync("check", "--peer", "web3")
    assert done.returncode == 2
    assert "web2" in done.stderr
    pair.write_config(sync="setle = 1s")
    done = pair.ngxsync("check")
    assert done.returncode == 2
    assert "did you mean settle?" in done.stderr


@pytest.mark.parametrize(
    ("spoil", "name", "what", "hint"),
    [
        ("rm /etc/ngxsync/id_ed25519", "key", "no such file", "ngxsync peer install"),
        ("chmod 644 /etc/ngxsync/id_ed25519", "key", "others can read it", "chmod 600 /etc/ngxsync/id_ed25519"),
        (
            "cd /etc/ngxsync; ssh-keygen -y -f id_ed25519 >/tmp/k; cat /tmp/k >id_ed25519; chmod 644 id_ed25519",
            "key",
            "no private key",
            "without .pub",
        ),
        ("echo x >/etc/ngxsync/id_ed25519", "key", "no private key", "without .pub"),
        ("ssh-keygen -q -p -N secret -f /etc/ngxsync/id_ed25519", "key", "passphrase", "ssh-keygen -p -N ''"),
        (
            "rm /etc/ngxsync/id_ed25519; ssh-keygen -q -t ed25519 -N '' -f /etc/ngxsync/id_ed25519",
            "connection",
            "does not let root in",
            "authorized_keys of root on web2",
        ),
        (": >/etc/ngxsync/known_hosts", "connection", "is not known", "ssh-keyscan -p 22 192.0.2.2"),
        (
            "ssh-keygen -q -t ed25519 -N '' -f /tmp/k; printf '192.0.2.2 ' | cat - /tmp/k.pub >/etc/ngxsync/known_hosts",
            "connection",
            "shows another host key",
            "ssh-keygen -R '192.0.2.2'",
        ),
    ],
)
def test_access_that_fails_says_why_and_ends_there(pair: Pair, spoil: str, name: str, what: str, hint: str) -> None:
    pair.web1.run(["sh", "-c", spoil])
    status, checks = checks_of(pair)
    assert status == 1
    found = checks["web2", name]
    assert found.state == FAILED
    assert what in found.what
    assert hint in found.hint
    assert ("web2", "agent") not in checks


def test_a_dead_sshd_is_no_connection(pair: Pair) -> None:
    pair.web2.run(["kill", str(pair.web2.sshd_pid())])
    status, checks = checks_of(pair)
    assert status == 1
    assert "no sshd listens there" in checks["web2", "connection"].what


def test_a_peer_without_python(pair: Pair) -> None:
    with hidden(pair.web2, *real_paths(pair.web2, PYTHONS)):
        status, checks = checks_of(pair)
    assert status == 1
    assert checks["web2", "connection"].state == OK
    assert checks["web2", "agent"].state == FAILED
    assert "has no Python 3.6 or newer" in checks["web2", "agent"].what
    assert checks["web2", "agent"].hint == "install python3 there"


def test_a_peer_without_rsync(pair: Pair) -> None:
    with hidden(pair.web2, *real_paths(pair.web2, "which -a rsync")):
        status, checks = checks_of(pair)
    assert status == 1
    assert checks["web2", "rsync"].state == FAILED
    assert checks["web1", "rsync"].state == OK


def test_a_peer_without_nginx(pair: Pair) -> None:
    pair.web2.stop_nginx()
    with hidden(pair.web2, *real_paths(pair.web2, "which -a nginx")):
        status, checks = checks_of(pair)
    assert status == 1
    assert checks["web2", "nginx"].state == FAILED
    assert checks["web2", "rehearsal"].state == FAILED


def test_nginx_that_does_not_run_is_a_warning(pair: Pair) -> None:
    pair.web2.stop_nginx()
    status, checks = checks_of(pair)
    assert status == 0
    assert checks["web2", "nginx"].state == WARNING
    assert "it does not run; a sync would end as not-proven" in checks["web2", "nginx"].what


def test_a_broken_configuration_of_the_master_fails_with_its_line(pair: Pair) -> None:
    pair.web1.path(f"{ROOT}/conf/vhosts/bad.conf").write_text("server {\n    lisen 80;\n}\n")
    status, checks = checks_of(pair)
    found = checks["web1", "nginx accepts its configuration"]
    assert (status, found.state) == (1, FAILED)
    assert f"{ROOT}/conf/vhosts/bad.conf:2: " in found.what


def test_a_broken_configuration_of_the_peer_is_what_a_sync_mends(pair: Pair) -> None:
    pair.web2.path(f"{ROOT}/conf/vhosts/bad.conf").write_text("server {\n    lisen 80;\n}\n")
    status, checks = checks_of(pair)
    assert (status, checks["web2", "nginx accepts its configuration"].state) == (0, WARNING)


def test_a_configuration_outside_the_trees_is_never_synced(pair: Pair) -> None:
    pair.write_config(sync=f"trees = {ROOT}/html")
    status, checks = checks_of(pair)
    assert (status, checks["web1", "nginx"].state) == (1, FAILED)
    assert "that lies in no tree" in checks["web1", "nginx"].what


def test_a_tree_that_cannot_be_read_whole(pair: Pair) -> None:
    pair.web1.path(f"{ROOT}/html/index.html").chmod(0)
    argv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *_program("check")]
    done = pair.web1.run(argv, check=False, env={"PYTHONPATH": str(Path(__file__).parent.parent)})
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"tree: FAILED ({ROOT}/html/index.html: Permission denied)" in done.stdout


def _program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ngxsync", *arguments]


def test_a_tree_that_is_not_there_yet_on_the_peer(pair: Pair) -> None:
    pair.web1.path("/srv/site").mkdir()
    pair.write_config(sync=f"trees = {ROOT}\n    /srv/site")
    status, checks = checks_of(pair)
    assert (status, checks["web2", "tree"].state) == (0, WARNING)
    assert checks["web2", "tree"].what == "/srv/site is not there yet"


def test_a_tree_that_cannot_be_written(pair: Pair) -> None:
    pair.web2.run(["mount", "--bind", ROOT, ROOT])
    pair.web2.run(["mount", "-o", "remount,bind,ro", ROOT])
    status, checks = checks_of(pair)
    assert (status, checks["web2", "rights"].state) == (1, FAILED)
    assert checks["web2", "rights"].what == f"root cannot write {ROOT}"


@pytest.mark.parametrize(("size", "state", "status"), [("8m", FAILED, 1), ("20m", WARNING, 0), ("64m", OK, 0)])
def test_room_on_the_peer(pair: Pair, size: str, state: str, status: int) -> None:
    with pair.web1.path(f"{ROOT}/html/film").open("wb") as film:
        film.truncate(10 << 20)
    pair.web2.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/srv"])
    pair.web2.path("/srv/state").mkdir()
    pair.write_config(peer="state_dir = /srv/state")
    got, checks = checks_of(pair)
    assert (got, checks["web2", "space"].state) == (status, state)
    assert state == OK or checks["web2", "space"].what.startswith("its records: ")


def test_an_address_that_only_the_master_has(pair: Pair) -> None:
    pair.web1.path(f"{ROOT}/conf/vhosts/own.conf").write_text("server {\n    listen 192.0.2.1:8080;\n}\n")
    status, checks = checks_of(pair)
    found = checks["web2", "listen addresses"]
    assert (status, found.state) == (0, WARNING)
    assert f"{ROOT}/conf/vhosts/own.conf:2: web2 does not have 192.0.2.1 now" in found.what
    assert "sysctl -w net.ipv4.ip_nonlocal_bind=1" in found.hint
    try:
        pair.web2.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_nonlocal_bind"])
        assert checks_of(pair)[1]["web2", "listen addresses"].state == OK
    finally:
        pair.web2.run(["sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_nonlocal_bind"])


def test_a_user_that_the_peer_lacks(pair: Pair) -> None:
    pair.web1.run(["useradd", "--system", "--no-create-home", "shop"])
    try:
        pair.web1.run(["chown", "shop", f"{ROOT}/html/index.html"])
        status, checks = checks_of(pair)
    finally:
        pair.web1.run(["userdel", "shop"])
    assert (status, checks["web2", "users and groups"].state) == (1, FAILED)
    assert "web2 has no user shop" in checks["web2", "users and groups"].what


def test_the_user_of_nginx_counts_too(pair: Pair) -> None:
    pair.web1.run(["useradd", "--system", "--no-create-home", "shop"])
    try:
        conf = pair.web1.path(f"{ROOT}/conf/nginx.conf")
        conf.write_text(conf.read_text().replace("user www-data;", "user shop;"))
        checks = checks_of(pair)[1]
    finally:
        pair.web1.run(["userdel", "shop"])
    assert "web2 has no user shop" in checks["web2", "users and groups"].what


def test_files_outside_the_trees(pair: Pair) -> None:
    conf = "server {\n    listen 81;\n    auth_basic on;\n    auth_basic_user_file /srv/users/list;\n}\n"
    pair.web1.path(f"{ROOT}/conf/vhosts/auth.conf").write_text(conf)
    pair.web1.path("/srv/users").mkdir()
    pair.web1.path("/srv/users/list").write_text("ann:TOP-SECRET\n")
    status, checks = checks_of(pair)
    found = checks["web2", "files outside the trees"]
    assert (status, found.state) == (0, WARNING), "the peer's own configuration does not name it: it does not tell"
    assert "shows only when a sync is tested there: /srv/users/list" in found.what

    pair.web2.path(f"{ROOT}/conf/vhosts/auth.conf").write_text(conf)
    status, checks = checks_of(pair)
    found = checks["web2", "files outside the trees"]
    assert (status, found.state, found.what) == (1, FAILED, "web2 lacks /srv/users/list")
    assert found.hint == "to sync them add to [sync] trees: /srv/users"

    pair.web2.path("/srv/users").mkdir()
    pair.web2.path("/srv/users/list").write_text("ann:ANOTHER\n")
    done = pair.ngxsync("check")
    assert done.returncode == 0
    assert "files outside the trees: WARNING (web2 has others: /srv/users/list)" in done.stdout
    assert "TOP-SECRET" not in done.stdout + pair.ngxsync("check", "--json").stdout

    pair.web2.path("/srv/users/list").write_text("ann:TOP-SECRET\n")
    assert checks_of(pair)[1]["web2", "files outside the trees"].what == "1, the same on both"


def test_after_a_sync_it_says_what_was_accepted(pair: Pair) -> None:
    assert pair.ngxsync("sync").returncode == 0
    status, checks = checks_of(pair)
    assert status == 0
    assert " from web1, proven" in checks["web2", "accepted"].what


def test_the_old_line_that_still_runs(pair: Pair) -> None:
    file = pair.web1.path("/etc/cron.d/pair-test")
    file.write_text(f"0 3 * * * root rsync -a {ROOT} 192.0.2.2:/usr/local\n0 4 * * * root rsync -a /home nas:/\n")
    try:
        status, checks = checks_of(pair)
    finally:
        file.unlink()
    assert (status, checks["web1", "crontab"].state) == (0, WARNING)
    assert checks["web1", "crontab"].what == f"rsync still runs: 0 3 * * * root rsync -a {ROOT} 192.0.2.2:/usr/local"
    assert "/etc/cron.d/pair-test" in checks["web1", "crontab"].hint


def test_one_config_ini_for_both_hosts(pair: Pair) -> None:
    """Where this host is listed too; what a value is leaves neither host."""
    assert ("web2", "same config.ini") not in checks_of(pair)[1]
    listed = "\n[peer web1]\nhost = 192.0.2.1\nidentity = /etc/ngxsync/id_ed25519\n"
    pair.write_config(
        sync="check_every = 7m\nexclude =\n  /a\n  /b", peer="probe = http://TOP:SECRET@localhost/", more=listed
    )
    ours, theirs = pair.web1.path("/etc/ngxsync/config.ini"), pair.web2.path("/etc/ngxsync/config.ini")

    none = checks_of(pair)[1]["web2", "same config.ini"]
    assert (none.state, "after a takeover that host sends nothing" in none.what) == (WARNING, True)
    theirs.write_text("# by hand\n" + ours.read_text().replace("  /b\n", "    /b\n\n"))
    assert checks_of(pair)[1]["web2", "same config.ini"].state == OK
    theirs.write_text(
        ours.read_text().replace("TOP:SECRET", "ME:OTHER").replace("check_every = 7m\n", "") + "\n[mail]\nto = a@b\n"
    )
    other = checks_of(pair)[1]["web2", "same config.ini"]
    assert other.state == WARNING
    assert other.what == "it says something else there: [mail] to, [peer web2] probe, [sync] check_every"
    copied = "scp -p /etc/ngxsync/config.ini root@192.0.2.2:/etc/ngxsync/config.ini"
    assert other.hint == f"it goes to both, by you: {copied}; then there: systemctl reload ngxsync"
    assert "SECRET" not in pair.ngxsync("check", "--json").stdout


# what a pair of hosts on one machine cannot be: judged from facts


def facts(**other: Any) -> dict[str, Any]:
    sound = {
        "hello": {"host": "web2", "uid": 0, "boot_id": "b", "python": "3.11.2"},
        "nginx": {"found": True, "conf_exists": True, "outside": [], "listens": []},
        "rehearsal": {"possible": True, "passed": True, "problems": [], "seconds": 0.01},
        "trees": {
            ROOT: {
                "exists": True,
                "folder": True,
                "real": ROOT,
                "free": 1 << 40,
                "free_inodes": 1 << 20,
                "writable": True,
            }
        },
        "state": {"exists": True, "folder": True, "real": "/s", "free": 1 << 40, "free_inodes": None, "writable": True},
        "recovery_unit": "installed",
        "journal": None,
        "lock": None,
        "accepted": None,
        "addresses": ["127.0.0.1", "192.0.2.2"],
        "nonlocal_bind": "0",
        "nonlocal_bind6": "0",
    }
    return {**sound, **other}


@pytest.mark.parametrize(
    ("difference_s", "accuracy_s", "state", "what"),
    [
        (0.1, 0.1, OK, "within 2 s of this host's"),
        (-2.05, 0.1, OK, "within 2 s of this host's"),
        (4.5, 0.1, WARNING, "4.5 s ahead of this host's"),
        (-3600.0, 0.2, WARNING, "3600.0 s behind this host's"),
    ],
)
def test_clocks(difference_s: float, accuracy_s: float, state: str, what: str) -> None:
    found = judge_pair.judge_clock("web2", difference_s, accuracy_s)
    assert (found.state, found.what) == (state, what)
    assert state == OK or "NTP" in found.hint


def test_selinux() -> None:
    assert judge_host.judge_selinux("web2", "").what == "not there"
    assert judge_host.judge_selinux("web2", "0").state == OK
    assert judge_host.judge_selinux("web2", "1").state == WARNING


def test_a_peer_that_allows_no_private_view() -> None:
    closed = facts(rehearsal={"possible": False, "why": "no private view can be made (unshare: not permitted)"})
    found = judge_host.judge_rehearsal("web2", closed, rehearse="overlay")
    assert found.state == FAILED
    assert "rehearse = live" in found.hint
    assert judge_host.judge_rehearsal("web2", closed, rehearse="live").state == WARNING
    assert judge_host.judge_rehearsal("web2", facts(), rehearse="live").hint != "", "it could be safer"
    here = judge_host.judge_rehearsal("web1", closed, rehearse="live", is_master=True)
    assert (here.state, "applied" in here.what) == (WARNING, False)


def test_who_logs_in_without_being_root() -> None:
    plain = facts(hello={"host": "web2", "uid": 1000})
    assert judge_host.judge_rights("web2", plain, user="deploy", owners=False).state == OK
    assert judge_host.judge_rights("web2", plain, user="deploy", owners=True).state == FAILED


def test_an_unfinished_run() -> None:
    left = facts(journal={"run": "00000007-ab", "phase": "applied"})
    assert judge_host.judge_journal("web2", left).what == "run 00000007-ab was left unfinished (applied)"
    damaged = judge_host.judge_journal("web2", facts(journal={"run": "", "phase": "damaged"}))
    assert damaged.state == FAILED
    assert damaged.hint == "`ngxsync-agent recover` on web2 says what to do"
    busy = facts(journal=left["journal"], lock={"run": "00000007-ab"})
    assert judge_host.judge_journal("web2", busy).state == OK


def test_the_recovery_unit() -> None:
    told = "not installed: this host has no systemd"
    assert judge_host.judge_recovery("web2", facts(recovery_unit=told)).state == WARNING
    first = "not installed: it is put there at the first sync as root"
    assert judge_host.judge_recovery("web2", facts(recovery_unit=first)).state == OK
    after = facts(recovery_unit=first, accepted={"id": "x" * 64})
    assert judge_host.judge_recovery("web2", after).state == WARNING


def test_two_stacks_that_reach_different_hosts() -> None:
    found = judge_pair.judge_same_host("web1 boot", ("root@web2 b", "root@web9 c"), "root", "web2")
    assert (found.state, found.what) == (FAILED, "fabric reaches root@web2 and OpenSSH reaches root@web9")
    assert judge_pair.judge_same_host("web1 b", ("root@web1 b", "root@web1 b"), "root", "web2").state == WARNING
    assert judge_pair.judge_same_host("web1 b", ("root@web2 b", "root@web2 b"), "root", "web2").state == OK


def test_other_versions_of_nginx() -> None:
    ours = {"found": True, "version": "nginx/1.22.1", "build": "--with-http_v2_module --with-http_geoip_module=dynamic"}
    assert judge_pair.judge_nginx_versions("web2", ours, {"found": False}) is None
    older = judge_pair.judge_nginx_versions("web2", ours, {**ours, "version": "nginx/1.18.0"})
    assert older is not None
    assert older.what == "nginx/1.18.0 there, nginx/1.22.1 here"
    less = judge_pair.judge_nginx_versions("web2", ours, {**ours, "build": "--with-http_v2_module"})
    assert less is not None
    assert "built without --with-http_geoip_module=dynamic there" in less.what


def test_many_sshds_one_machine_is_only_a_trial(pair: Pair) -> None:
    """The harness itself: its hosts share a boot id, so that the host's name has to count."""
    boots = {host.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout for host in pair.hosts}
    assert len(boots) == 1

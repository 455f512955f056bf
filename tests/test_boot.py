"""The backup loses its power in the middle of a run and is started again, its master being gone (TRANSACTION, recovery).

web2 is a container with a real systemd, killed outright. ngxsync-recover.service, put there by the first sync, has to be
done before nginx and keepalived begin, and what nginx then reads is exactly old or new.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.agent import STATE, Agent
from tests.container import UNITS, Container, make_container_pair
from tests.hosts import Host, wait_until
from tests.moments import JOURNAL, MOMENTS, is_accepted_by, let_go_on, stop_at, strace_argv, wait_until_stopped
from tests.pair import BASE_TREE, ROOT, manifest_of, write_tree
from tests.resident import left_in_stages
from tests.test_recovery import NEW, OLD, difference

RECOVER = "ngxsync-recover.service"
AGENT = ("/usr/bin/python3", "-I", "-S", f"{STATE}/agent/current", "transact")


class Backup:
    """web2 after its first sync, alternating between two states that differ in every kind of change."""

    def __init__(self, host: Container) -> None:
        self.host, self.agent = host, Agent(host)
        self.states: dict[str, dict[str, Any]] = {}
        self.agent.generation = self.agent.scan()["accepted"]["generation"]
        for name, wanted in (("OLD", OLD), ("NEW", NEW)):
            answer = self.agent.transact(self.agent.plan(wanted))
            assert answer["outcome"] == "applied", answer
            self.states[name] = manifest_of(host)

    def name(self) -> str:
        """Which of the two the tree is, "between" where it is neither."""
        found = manifest_of(self.host)
        return next((name for name, manifest in self.states.items() if manifest == found), "between")

    def is_between(self) -> bool:
        return self.name() == "between"

    def plan(self) -> dict[str, Any]:
        return self.agent.plan(OLD if self.name() == "NEW" else NEW)

    def stop_at(self, moment: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        """A run of the installed agent that has just done that call and does nothing more."""
        self.agent.generation = self.agent.scan()["accepted"]["generation"]
        request = self.plan()
        return stop_at(moment, self.host, AGENT, request), request

    def lose_power_at(self, moment: str) -> dict[str, Any]:
        """The request of the run that was under way."""
        process, request = self.stop_at(moment)
        self.host.cut_power()
        with process:
            process.kill()
        return request

    def raise_if_not(self, name: str) -> None:
        """Exactly that state, served, accepted, and nothing left over."""
        assert difference(self.states[name], manifest_of(self.host)) == {}
        assert self.host.get("/v") == (200, name.lower())
        assert not self.host.path(JOURNAL).exists()
        assert left_in_stages(self.host) == []
        scanned = self.agent.scan()
        assert (scanned["id"], scanned["journal"]) == (scanned["accepted"]["id"], None)


def moments_us(host: Container, unit: str) -> tuple[int, int]:
    """When systemd began to start the unit in this boot, and when its main process ended (0: it runs)."""
    names = ("InactiveExitTimestampMonotonic", "ExecMainExitTimestampMonotonic")
    began, ended = (int(host.property_of(unit, name)) for name in names)
    return began, ended


def raise_if_not_recovered_first(host: Container) -> None:
    """Recovery ended before nginx, its test included, and keepalived began."""
    _, recovered = moments_us(host, RECOVER)
    assert recovered
    for unit in ("nginx.service", "keepalived.service"):
        assert host.property_of(unit, "ActiveState") == "active", host.log_of(unit)
        assert moments_us(host, unit)[0] >= recovered, unit


@contextmanager
def drop_in(host: Container, text: str) -> Iterator[None]:
    """As long as this lasts, changes the recovery's unit from the next boot on."""
    file = host.path(f"{UNITS}/{RECOVER}.d/test.conf")
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    try:
        yield
    finally:
        host.path(f"{UNITS}/{RECOVER}.d/test.conf").unlink()


@pytest.fixture(scope="module")
def booted() -> Iterator[Backup]:
    pair = make_container_pair(Host, Container)
    try:
        first = pair.ngxsync("sync")
        assert first.returncode == 0, first.stdout + first.stderr
        pair.web1.vanish_from(pair.web2)  # from here on the backup is alone
        web2 = pair.web2
        assert isinstance(web2, Container)
        yield Backup(web2)
    finally:
        pair.close()


@pytest.fixture
def backup(booted: Backup) -> Backup:
    """Up, and in one of its two states."""
    if not booted.host.is_on():
        booted.host.boot()
    assert not booted.is_between()
    return booted


def test_the_first_sync_leaves_a_unit_that_the_next_boot_runs_first(backup: Backup) -> None:
    name = backup.name()
    backup.host.shut_down()
    backup.host.boot()
    raise_if_not_recovered_first(backup.host)
    assert "recover: nothing was open" in backup.host.log_of(RECOVER)
    backup.raise_if_not(name)


@pytest.mark.parametrize("moment", MOMENTS)
def test_power_lost_in_the_middle_is_mended_before_nginx_starts(backup: Backup, moment: str) -> None:
    old = backup.name()
    new = "OLD" if old == "NEW" else "NEW"
    request = backup.lose_power_at(moment)
    assert backup.is_between() == (moment == "first-exchange" or moment == "between-exchanges")

    backup.host.boot()

    raise_if_not_recovered_first(backup.host)
    assert backup.host.property_of(RECOVER, "Result") == "success"
    ending = "finished" if is_accepted_by(moment) else "undone"
    assert f"recover: run {request['run']}: {ending}" in backup.host.log_of(RECOVER)
    backup.raise_if_not(old if ending == "undone" else new)
    assert backup.agent.call("show", run=request["run"])["state"] == "done"


def test_recover_by_hand_at_any_time_and_twice(backup: Backup) -> None:
    """While a run is under way it waits, and says for whom; called again there is nothing to do."""
    process, _ = backup.stop_at("between-exchanges")
    # as `ssh web2 ngxsync-agent recover` has it: standard input stays open, and nobody writes
    asked = backup.host.popen(["ngxsync-agent", "recover"], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert asked.stdout is not None
    try:
        assert re.match(
            r"recover: process \d+ \(run \S+, from web1\) is at work here since .*: waiting for its end",
            asked.stdout.readline(),
        )
        assert backup.is_between()
    finally:
        let_go_on(backup.host, process)
    out, _ = asked.communicate(timeout=60)
    assert out == "recover: nothing was open\n"
    for _ in range(2):
        done = backup.host.run(["ngxsync-agent", "recover"])
        assert done.stdout == "recover: nothing was open\n"
    backup.raise_if_not(backup.name())


def test_a_recovery_that_fails_keeps_nginx_from_nothing_and_is_seen(backup: Backup) -> None:
    """A backup that serves the best it has is better than none: nginx starts, the unit has failed, status says what to do."""
    old = backup.name()
    backup.lose_power_at("applied")
    vhosts = backup.host.path(f"{ROOT}/conf/vhosts")
    subprocess.run(["chattr", "+i", vhosts], check=True)
    try:
        backup.host.boot()

        assert backup.host.property_of(RECOVER, "Result") == "exit-code"
        assert backup.host.property_of(RECOVER, "ExecMainStatus") == "7"
        assert RECOVER in backup.host.systemctl("--failed", "--plain")
        log = backup.host.log_of(RECOVER)
        assert f"recover: could not put back: {ROOT}/conf/vhosts/" in log
        assert "next: mend the cause, then run `ngxsync-agent recover` here" in log
        for unit in ("nginx.service", "keepalived.service"):
            assert backup.host.property_of(unit, "ActiveState") == "active"
            assert moments_us(backup.host, unit)[0] >= moments_us(backup.host, RECOVER)[1]
        assert backup.host.get("/")[0] == 200
        told = backup.host.run(["ngxsync-agent", "status"]).stdout
        assert told.startswith("web2 as a peer of ngxsync: broken\n")
        assert "recovery installed; it failed at this boot (exit-code): `journalctl -u ngxsync-recover`" in told
        assert told.endswith("\nnext: mend the cause, then `ngxsync-agent recover`\n")
    finally:
        subprocess.run(["chattr", "-i", backup.host.path(f"{ROOT}/conf/vhosts")], check=True)

    assert "undone" in backup.host.run(["ngxsync-agent", "recover"]).stdout
    backup.raise_if_not(old)


def test_power_lost_again_during_the_recovery(backup: Backup) -> None:
    old = backup.name()
    backup.lose_power_at("between-exchanges")
    recover = " ".join([*strace_argv("renameat2", "", 2), "/usr/local/sbin/ngxsync-agent", "recover"])
    with drop_in(backup.host, f"[Service]\nExecStart=\nExecStart={recover}\n"):
        backup.host.switch_on()
        wait_until_stopped(backup.host)
        for unit in ("nginx.service", "keepalived.service"):
            assert backup.host.property_of(unit, "ActiveState") == "inactive", "it waits for the recovery"
        backup.host.cut_power()
        assert backup.is_between()

    backup.host.boot()

    raise_if_not_recovered_first(backup.host)
    backup.raise_if_not(old)


CHECKED = """\
global_defs {
    script_user root
    enable_script_security
}
vrrp_script nginx {
    script "/usr/local/sbin/ngxsync-agent check-nginx --interval 1"
    interval 1
}
vrrp_script other {
    script "/usr/local/sbin/ngxsync-agent check-nginx --root /srv/other --interval 1"
    interval 1
}
"""


STARTED = "nginx was dead and was started (%s)"


def lines(host: Container) -> list[str]:
    """What the agent told syslog in this boot."""
    told = host.run(["journalctl", "--boot", "--output=cat", "--no-pager", "--identifier=ngxsync"]).stdout
    return told.splitlines()


def started_by(host: Container, conf: str) -> tuple[int, str]:
    """The main process of the nginx with this configuration, and the unit that it is in."""

    def found() -> list[int]:
        titles = host.commands().items()
        pids = [pid for pid, title in titles if title.startswith("nginx: master process") and conf in title]
        return pids if len(pids) == 1 else []  # a worker just forked has its parent's title

    (pid,) = wait_until(found, f"nginx of {conf} runs")
    return pid, host.path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("/")[2]


def test_nginx_that_keepalived_had_started_outlives_keepalived(backup: Backup) -> None:
    """By its own unit where one runs this nginx; else in one of its own, though Debian's unit runs the same program."""
    host = backup.host
    write_tree(host, "/srv/other", {**BASE_TREE, "conf/vhosts/default.conf": "server { listen 8081; root html; }\n"})
    conf = host.path("/etc/keepalived/keepalived.conf")
    before = conf.read_text()
    tracked = before.replace(
        "advert_int 200", "advert_int 200\n    track_script {\n        nginx\n        other\n    }"
    )
    conf.write_text(CHECKED + tracked)
    ends_all = host.path(f"{UNITS}/keepalived.service.d/test.conf")
    ends_all.parent.mkdir()
    ends_all.write_text("[Service]\nKillMode=control-group\n")
    try:
        host.systemctl("daemon-reload")
        host.systemctl("restart", "keepalived")
        other, other_unit = started_by(host, "/srv/other/conf/nginx.conf")
        first = host.property_of("nginx", "MainPID")
        host.systemctl("kill", "--signal=KILL", "nginx")
        wait_until(lambda: lines(host).count(STARTED % "nginx.service") == 1, "its unit is started again, and told")
        main, unit = started_by(host, "-c conf/nginx.conf")
        assert (unit, host.property_of(unit, "MainPID")) == ("nginx.service", str(main))
        assert str(main) != first
        assert re.fullmatch(r"ngxsync-nginx-[0-9a-f]{8}\.service", other_unit)
        host.systemctl("restart", "keepalived")
        assert started_by(host, "-c conf/nginx.conf") == (main, unit)
        assert started_by(host, "/srv/other/conf/nginx.conf") == (other, other_unit)
        assert host.get("/", port=8081)[0] == 200
        host.systemctl("kill", "--signal=KILL", other_unit)  # a unit that went with its nginx is made again
        wait_until(lambda: lines(host).count(STARTED % other_unit) == 2, "it is started again, and told")
        assert host.property_of(other_unit, "MainPID") not in ("0", str(other))
        assert lines(host).count(STARTED % "nginx.service") == 1
        named = host.path(f"{UNITS}/web.service")  # a unit that is called like no nginx, and that nobody has noted
        named.write_text("[Service]\nType=forking\nExecStart=/usr/sbin/nginx -p /srv/other -c conf/nginx.conf\n")
        host.systemctl("daemon-reload")
        host.systemctl("kill", "--signal=KILL", other_unit)
        wait_until(lambda: lines(host).count(STARTED % "web.service") == 1, "its own unit is started")
        assert started_by(host, "-p /srv/other -c conf")[1] == "web.service"
        for noted, told in ((True, 2), (False, 3)):  # who has masked it wants it dead
            host.systemctl("mask", "--now", "nginx")
            if not noted:
                host.run(["sh", "-c", "rm /run/ngxsync-agent/usr-local-nginx-*.nginx"])
            down = host.run(["ngxsync-agent", "check-nginx", "--interval", "20"], check=False)
            assert (down.returncode, "a person has masked nginx.service" in down.stderr) == (1, True), down
            host.systemctl("unmask", "nginx")
            wait_until(lambda count=told: lines(host).count(STARTED % "nginx.service") == count, "it is started again")
    finally:
        host.systemctl("unmask", "nginx")
        host.run(["systemctl", "stop", "web"], check=False)
        host.path(f"{UNITS}/web.service").unlink(missing_ok=True)
        conf.write_text(before)
        ends_all.unlink()
        ends_all.parent.rmdir()
        host.systemctl("daemon-reload")
        host.systemctl("restart", "keepalived")
        host.systemctl("stop", "ngxsync-nginx-*.service")

"""systemd/ngxsync.service as README installs it, under a real systemd: its whole job, within its limits (issue 3).

web1 and web2 are containers. web2 has KillUserProcesses=yes, so that whatever a login leaves behind is ended with it.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from typing import Any

import pytest

from tests.container import UNITS, Container, make_container_pair
from tests.hosts import PROJECT, wait_until
from tests.pair import ROOT, Pair, manifest_of, write_tree
from tests.resident import STATE, are_equal, served, site
from tests.test_cuts import PROBE, Probe

UNIT = "ngxsync.service"
# nobody listens there: what matters is that the unit's limits let it be tried
TOLD = f"""
[mail]
to = admin@example.org
smtp_port = 9
security = none

[ngxsync]
on_event = cat >{STATE}/told
"""
# quicker than the unit, so that the test need not wait for minutes
DROP_IN = "[Service]\nRestartSec=100ms\nWatchdogSec=6s\n"
PROGRAM = """\
#!/opt/ngxsync/bin/python
import sys
from ngxsync.__main__ import main
sys.exit(main())
"""


def install(host: Container) -> None:
    """As README says, but that this checkout and its libraries are shown instead of copied."""
    folder = host.path("/opt/ngxsync")
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    host.shown_at = {"/opt/ngxsync/source": str(PROJECT), "/opt/ngxsync/libraries": sysconfig.get_path("purelib")}
    for place in host.shown_at:
        host.path(place).mkdir()
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "ngxsync.pth").write_text("".join(f"{place}\n" for place in host.shown_at))
    (folder / "bin/ngxsync").write_text(PROGRAM)
    (folder / "bin/ngxsync").chmod(0o755)
    host.path("/usr/local/bin/ngxsync").symlink_to("/opt/ngxsync/bin/ngxsync")
    shutil.copy(PROJECT / "systemd" / UNIT, host.path(UNITS))
    host.path(f"{UNITS}/{UNIT}.d").mkdir()
    host.path(f"{UNITS}/{UNIT}.d/test.conf").write_text(DROP_IN)


def scopes_of(host: Container) -> str:
    """The agent's own scopes, blank between them."""
    lines = host.systemctl("list-units", "--plain", "--no-legend", "ngxsync-*.scope").splitlines()
    return " ".join(line.split()[0] for line in lines)


def logins_on(host: Container) -> set[int]:
    """sshd's processes that serve somebody; the daemon comes back at once, by others."""
    return {pid for pid, command in host.commands().items() if command.startswith("sshd: root")}


class Service:
    """ngxsync.service on web1."""

    def __init__(self, pair: Pair, web1: Container, web2: Container) -> None:
        self.pair, self.web1, self.web2 = pair, web1, web2

    def entries(self) -> list[dict[str, Any]]:
        """What the daemon itself wrote to the journal: MESSAGE, PRIORITY and the rest."""
        lines = self.web1.run(["journalctl", "--boot", "--output=json", "--no-pager", f"_SYSTEMD_UNIT={UNIT}"]).stdout
        return [json.loads(line) for line in lines.splitlines()]

    def wait_for(self, text: str, since: int) -> dict[str, Any]:
        """The first entry with this text that is not among the first `since`."""
        found = wait_until(lambda: [e for e in self.entries()[since:] if text in e["MESSAGE"]], text, every_s=0.1)
        return found[0]

    def edit(self, text: str) -> None:
        write_tree(self.web1, ROOT, site(text))

    def wait_until_served(self, text: str, timeout_s: float = 40.0) -> None:
        try:
            wait_until(lambda: served(self.web2) == text, f"web2 serves {text!r}", timeout_s, 0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.web1.log_of(UNIT)}") from None

    def main_pid(self) -> int:
        return int(self.web1.property_of(UNIT, "MainPID"))


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    pair = make_container_pair(Container, Container, boot=False)
    try:
        web1, web2 = pair.hosts
        assert isinstance(web1, Container)
        assert isinstance(web2, Container)
        install(web1)
        web2.path("/etc/systemd/logind.conf.d").mkdir(parents=True)
        web2.path("/etc/systemd/logind.conf.d/test.conf").write_text(
            "[Login]\nKillUserProcesses=yes\nKillExcludeUsers=\n"
        )
        web1.boot()
        web2.boot()
        yield Service(pair, web1, web2)
    finally:
        pair.close()


@pytest.fixture
def service(running: Service) -> Service:
    """Active, its configuration the minimal one, both trees in the base state."""
    running.pair.write_config()
    running.web1.path(f"{ROOT}/conf/vhosts/broken.conf").unlink(missing_ok=True)
    running.edit("start")
    running.web1.systemctl("reset-failed", UNIT, check=False)
    if running.web1.property_of(UNIT, "ActiveState") != "active":
        done = running.web1.run(["ngxsync", "sync", "--yes"])
        assert "web2" in done.stdout
        running.web1.systemctl("enable", "--now", UNIT)
    running.wait_until_served("start")
    # while nginx reloads, workers of before answer too, and "start" may be theirs: of the state before the last test's
    wait_until(lambda: are_equal(running.pair), "and its run is concluded")
    return running


def test_it_reaches_active_and_does_its_job(service: Service) -> None:
    assert service.web1.property_of(UNIT, "ActiveState") == "active"
    assert service.web1.property_of(UNIT, "NRestarts") == "0"
    wait_until(lambda: "in-sync" in service.web1.property_of(UNIT, "StatusText"), "`systemctl status` shows it")
    seen = len(service.entries())

    service.edit("edited")

    service.wait_until_served("edited")
    entry = service.wait_for("applied", seen)
    assert entry["PRIORITY"] == "6"
    assert re.match(r"web2 applied, 1 change .*reloaded", entry["MESSAGE"]), entry["MESSAGE"]
    run = re.findall(r"run ([\w-]+)", entry["MESSAGE"])[0]
    assert [e["MESSAGE"] for e in service.entries() if run in e["MESSAGE"]] == [entry["MESSAGE"]], "one line a run"
    wait_until(lambda: are_equal(service.pair), "all is equal")
    done = service.web1.run(["ngxsync", "status"])
    assert done.stdout.startswith("web1 -> web2: in-sync")


def test_a_broken_edit_is_refused_here_and_one_that_only_the_peer_refuses_there(service: Service) -> None:
    service.pair.write_config(more=TOLD)
    service.web1.systemctl("reload", UNIT)
    before, seen = manifest_of(service.web2), len(service.entries())
    broken = f"{ROOT}/conf/vhosts/broken.conf"

    write_tree(service.web1, ROOT, {"conf/vhosts/broken.conf": "server {\n    listen 81;\n    nonsense on;\n}\n"})
    entry = service.wait_for("refused", seen)
    assert f"{broken}:3: unknown directive" in entry["MESSAGE"]
    told = service.web1.path(f"{STATE}/told")

    def words() -> list[tuple[str, str]]:
        lines = told.read_text().splitlines(keepends=True) if told.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [(event["word"], event["peer"]) for event in events]

    wait_until(lambda: ("refused", "") in words(), "the command of on_event ran within the limits")
    assert "Connection refused" in service.wait_for("the mail is kept", seen)["MESSAGE"]
    assert entry["PRIORITY"] == "3"

    seen = len(service.entries())
    service.web1.path("/etc/only-here.conf").write_text("# not on web2\n")
    write_tree(service.web1, ROOT, {"conf/vhosts/broken.conf": "include /etc/only-here.conf;\n"})
    entry = service.wait_for("refused", seen)
    assert entry["MESSAGE"].startswith("web2 refused")
    assert f"{broken}:1" in entry["MESSAGE"]
    assert entry["PRIORITY"] == "3"
    assert manifest_of(service.web2) == before

    service.web1.path(broken).unlink()
    service.edit("mended")
    service.wait_until_served("mended")


def test_reload_reads_the_configuration_anew(service: Service) -> None:
    service.pair.write_config(sync="settle = 300ms")
    seen, pid = len(service.entries()), service.main_pid()
    service.web1.systemctl("reload", UNIT)
    service.wait_for("configuration taken", seen)
    service.pair.write_config(sync="settel = 300ms")
    seen = len(service.entries())
    service.web1.systemctl("reload", UNIT)
    entry = service.wait_for("the new configuration was not taken", seen)
    assert "did you mean settle" in entry["MESSAGE"]
    assert entry["PRIORITY"] == "3"
    assert service.main_pid() == pid
    assert service.web1.property_of(UNIT, "ActiveState") == "active"
    service.edit("goes on")
    service.wait_until_served("goes on")


def test_it_stops_cleanly_and_starts_again(service: Service) -> None:
    service.web1.systemctl("stop", UNIT, timeout=45)
    assert service.web1.property_of(UNIT, "Result") == "success"
    wait_until(lambda: service.entries()[-1]["MESSAGE"] == "stopped", "it is the last that the journal has of it")
    assert not [line for line in service.web1.commands().values() if "ngxsync" in line], "no ssh or helper is left"
    service.edit("while it was down")
    assert served(service.web2) == "start"
    service.web1.systemctl("start", UNIT)
    service.wait_until_served("while it was down")


def test_killed_it_is_started_again_and_catches_up(service: Service) -> None:
    pid = service.main_pid()
    service.edit("edited in the instant of its death")
    service.web1.run(["kill", "-KILL", str(pid)])
    service.wait_until_served("edited in the instant of its death")
    wait_until(lambda: service.main_pid() not in (0, pid), "systemd started it again")
    assert int(service.web1.property_of(UNIT, "NRestarts")) >= 1


@pytest.mark.timeout(180)
def test_one_that_hangs_is_started_again_by_the_watchdog(service: Service) -> None:
    pid = service.main_pid()
    service.web1.run(["kill", f"-{signal.SIGSTOP.value}", str(pid)])
    service.edit("edited while it hung")
    service.wait_until_served("edited while it hung", 120.0)
    assert service.main_pid() != pid
    assert "Watchdog timeout" in service.web1.log_of(UNIT)


def test_a_transaction_outlives_the_login_that_began_it(service: Service) -> None:
    """KillUserProcesses=yes: the whole session is ended in the middle of the proof, and the run is concluded all the same."""
    service.pair.write_config(peer=f"probe = {PROBE}\nprove_timeout = 30s")
    service.web1.systemctl("reload", UNIT)
    probe = Probe(service.web2)
    try:
        service.edit("edited before the login ends")
        asked = probe.wait()
        assert re.fullmatch(r"ngxsync-\d+\.scope", scopes_of(service.web2))
        sessions = [line.split()[0] for line in service.web2.run(["loginctl", "--no-legend"]).stdout.splitlines()]
        assert sessions, "sshd's sessions are known to logind"
        logins = logins_on(service.web2)
        service.web2.run(["loginctl", "terminate-session", *sessions])
        wait_until(lambda: not logins & logins_on(service.web2), "it is gone")
        assert service.web2.path(f"{STATE}/peer/journal").exists(), "the run is still in its proof"
        probe.answer(asked)
        service.wait_until_served("edited before the login ends")
        wait_until(lambda: not service.web2.path(f"{STATE}/peer/journal").exists(), "the run is concluded")
        assert json.loads(service.web2.path(f"{STATE}/peer/accepted.json").read_text())["proven"] is True
    finally:
        probe.close()
        service.pair.write_config()
        service.web1.systemctl("reload", UNIT)
    service.edit("and the next one")
    service.wait_until_served("and the next one")
    wait_until(lambda: not scopes_of(service.web2), "its scope ends with it")


def test_a_peer_that_is_rebooted_in_the_middle_ends_on_one_state_and_then_gets_the_edit(service: Service) -> None:
    """In good order: systemd ends the agent's scope and nginx, each when it pleases."""
    service.pair.write_config(peer=f"probe = {PROBE}\nprove_timeout = 30s")
    service.web1.systemctl("reload", UNIT)
    before = manifest_of(service.web2)
    probe = Probe(service.web2)
    try:
        service.edit("edited before the reboot")
        with probe.wait():
            service.web2.shut_down()
    finally:
        probe.close()
    service.pair.write_config()
    service.web2.boot()
    assert service.web2.property_of("ngxsync-recover.service", "Result") == "success"
    assert not service.web2.path(f"{STATE}/peer/journal").exists()
    assert manifest_of(service.web2) in (before, manifest_of(service.web1))
    service.web1.systemctl("reload", UNIT)
    service.wait_until_served("edited before the reboot", 60.0)

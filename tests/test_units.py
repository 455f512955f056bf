"""The unit files as systemd reads them, and what the service's limits leave possible."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parent.parent / "systemd"
SERVICE = UNITS / "ngxsync.service"
RECOVER = UNITS / "ngxsync-recover.service"


def values(unit: Path, option: str) -> list[str]:
    """All values of an option that may be given several times, split at blanks."""
    lines = unit.read_text().splitlines()
    return [word for line in lines if line.startswith(option + "=") for word in line.split("=", 1)[1].split()]


@pytest.mark.parametrize("unit", [SERVICE, RECOVER], ids=lambda unit: unit.name)
def test_systemd_has_nothing_to_complain_of(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    # the program is not installed where the tests run, and systemd looks whether it exists
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text()))
    result = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert result.stdout + result.stderr == ""
    assert result.returncode == 0


def test_the_service_is_exposed_no_more_than_its_job_needs() -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=40", "--no-pager", str(SERVICE)]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-200:] + result.stderr


def test_nginx_can_be_tested_in_a_view_with_the_rights_of_the_service(tmp_path: Path) -> None:
    """nginx -t over overlays in an own mount namespace, with only the unit's capabilities and its read-only paths."""
    kept = [name.removeprefix("CAP_").lower() for name in values(SERVICE, "CapabilityBoundingSet")]
    paths = [path.removeprefix("-") for path in values(SERVICE, "ReadOnlyPaths")]
    binds = [f"mount --bind {p} {p} && mount -o remount,bind,ro {p}" for p in paths if Path(p).is_dir()]
    (tmp_path / "nginx.conf").write_text(
        f"error_log {tmp_path}/logs/error.log; pid {tmp_path}/nginx.pid; events {{}} "
        f"http {{ client_body_temp_path {tmp_path}/body; server {{ listen 127.0.0.1:81; }} }}\n"
    )
    (tmp_path / "logs").mkdir(mode=0o2775)
    program = f"""
from ngxsync.agent.view import Test, run_in_view
argv = ["nginx", "-t", "-p", {str(tmp_path)!r}, "-c", {str(tmp_path / "nginx.conf")!r}]
verdict = run_in_view(
    Test(program="/usr/sbin/nginx", argv=argv, actions=[], like=None, timeout_s=30.0)
)
print(verdict.status, verdict.output)
"""
    capabilities = ",".join(["-all", *("+" + name for name in kept)])
    limited = f'exec setpriv --no-new-privs --inh-caps=-all --bounding-set={capabilities} /usr/bin/python3 -c "$0"'
    argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", " && ".join([*binds, limited]), program]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=UNITS.parent)
    assert result.stdout.startswith("0 "), result.stdout + result.stderr
    assert "test is successful" in result.stdout
    assert not (tmp_path / "body").exists(), "the test wrote outside its view"


def test_the_view_can_be_made_with_the_system_calls_and_namespaces_of_the_service() -> None:
    assert {"mnt", "net"} <= set(values(SERVICE, "RestrictNamespaces"))
    names = values(SERVICE, "SystemCallFilter")
    allowed = system_calls(name for name in names if not name.startswith("~"))
    denied = system_calls(name.removeprefix("~") for name in names if name.startswith("~"))
    needed = {"unshare", "setns", "mount", "chroot", "syncfs", "renameat2", "prlimit64", "inotify_add_watch", "setuid"}
    assert needed <= allowed - denied


def system_calls(sets: Iterable[str]) -> set[str]:
    """The system calls of these sets, the sets in them resolved."""
    result: set[str] = set()
    for name in sets:
        argv = ["systemd-analyze", "syscall-filter", "--no-pager", name]
        lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n")[1:]
        words = {line.strip() for line in lines if line.strip() and not line.strip().startswith("#")}
        result |= {word for word in words if not word.startswith("@")}
        result |= system_calls(sorted(word for word in words if word.startswith("@")))
    return result


def test_a_wrong_configuration_or_a_second_daemon_is_not_tried_again_for_ever() -> None:
    assert values(SERVICE, "RestartPreventExitStatus") == ["2", "9"]


def test_recovery_comes_before_all_that_would_read_a_half_applied_tree() -> None:
    assert {"nginx.service", "keepalived.service"} <= set(values(RECOVER, "Before"))
    assert values(RECOVER, "RequiresMountsFor") == ["/var/lib/ngxsync"]
    assert values(RECOVER, "ExecStart") == ["/usr/local/sbin/ngxsync-agent", "recover"]

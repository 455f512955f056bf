"""What is asked of systemd: ngxsync-recover.service, without which P1 does not cover power loss, and a scope for a transaction.

The unit is put there at the first sync as root, and only for the standard state directory: a trial changes nothing of the host.
"""

import os
import subprocess
from typing import List, Tuple

STANDARD_STATE = "/var/lib/ngxsync"
NAME = "ngxsync-recover.service"
FOLDER = "/etc/systemd/system"

TEXT = """\
# Put here by ngxsync-agent, again where it is changed: `systemctl edit ngxsync-recover` is the place for changes.
[Unit]
Description=ngxsync: recover the nginx trees after a crash
Before=nginx.service keepalived.service
After=remote-fs.target
RequiresMountsFor=/var/lib/ngxsync

[Service]
Type=oneshot
TimeoutStartSec=2min
ExecStart=/usr/local/sbin/ngxsync-agent recover

[Install]
WantedBy=multi-user.target
"""


def state(state_dir: str) -> str:
    """For people: installed, or why not."""
    if os.path.islink(os.path.join(FOLDER, "multi-user.target.wants", NAME)):
        return "installed"
    if not os.path.isdir(FOLDER):
        return "not installed: this host has no systemd"
    if state_dir != STANDARD_STATE:
        return "not installed: the state directory is %s, not %s" % (state_dir, STANDARD_STATE)
    return "not installed: it is put there at the first sync as root"


def result() -> str:
    """What systemd knows of the recovery at this boot: success, exit-code ...; "" where it cannot be asked."""
    if not os.path.isdir("/run/systemd/system"):
        return ""
    status, said = _run(["systemctl", "show", "--property=Result", "--value", NAME])
    return "" if status else said


def install(state_dir: str) -> bool:
    """True where it is there afterwards. Raises OSError."""
    if os.geteuid() != 0 or state_dir != STANDARD_STATE or not os.path.isdir(FOLDER):
        return False
    path, link = os.path.join(FOLDER, NAME), os.path.join(FOLDER, "multi-user.target.wants", NAME)
    try:
        with open(path) as stream:
            known = stream.read()
    except FileNotFoundError:
        known = ""
    if known == TEXT and os.path.islink(link):
        return True
    with open(path, "w") as stream:
        stream.write(TEXT)
    os.chmod(path, 0o644)
    os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
    if not os.path.islink(link):
        os.symlink(path, link)
    _tell_systemd()
    return True


def is_ours() -> bool:
    """There, and not a file of somebody else's under our name."""
    try:
        with open(os.path.join(FOLDER, NAME)) as stream:
            return stream.read().startswith(TEXT.splitlines()[0])
    except OSError:
        return False


def remove() -> None:
    """What was made by `systemctl edit` stays. Raises OSError."""
    path, link = os.path.join(FOLDER, NAME), os.path.join(FOLDER, "multi-user.target.wants", NAME)
    for each in (link, path):
        if os.path.lexists(each):
            os.unlink(each)
    _tell_systemd()


def _tell_systemd() -> None:
    if os.path.isdir("/run/systemd/system"):
        subprocess.run(["systemctl", "daemon-reload"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)


def leave_login() -> str:
    """Where systemd ends all processes of a login with it: into a scope of our own. "" or why that was not possible."""
    if not os.path.isdir("/run/systemd/system") or not _ends_processes():
        return ""
    why = own_scope()
    return why and "systemd may end this run with its login: %s" % why


def own_scope() -> str:
    """Out of the unit or login that this process came from, whose end would be its own: "" or why that was not possible."""
    if not os.path.isdir("/run/systemd/system"):
        return ""
    name = "ngxsync-%d.scope" % os.getpid()
    bus = ["busctl"] if os.geteuid() == 0 else ["busctl", "--user"]
    call = bus + ["call"] + _object("systemd1") + ["StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail"]
    ours = ["PIDs", "au", "1", str(os.getpid())]
    # of a process that ends before systemd has put it there a failed unit would stay; before systemd 236 it does
    done = _run(call + ["2"] + ours + ["CollectMode", "s", "inactive-or-failed", "0"])
    if done[0] != 0:
        done = _run(call + ["1"] + ours + ["0"])
    return "" if done[0] == 0 else done[1] or "busctl says %d" % done[0]


def _ends_processes() -> bool:
    return _run(["busctl", "get-property"] + _object("login1") + ["KillUserProcesses"]) == (0, "b true")


def _object(name: str) -> List[str]:
    return ["org.freedesktop." + name, "/org/freedesktop/" + name, "org.freedesktop.%s.Manager" % name]


def _run(argv: List[str]) -> Tuple[int, str]:
    """(exit status, output)."""
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=5
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 1, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()

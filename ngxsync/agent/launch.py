"""How nginx is started: by its own systemd unit, else in one of systemd's making, else as a daemon of nobody's.

Never as a child of keepalived or in its control group: a restart of keepalived would end it.
"""

import hashlib
import os
import subprocess
import tempfile
from typing import List, Tuple

from . import liveness, nginxunit
from .nginx import Nginx, main_directives
from .runnotes import Notes

START_S = 30.0


def unit_for(nginx: Nginx, notes: Notes) -> nginxunit.Unit:
    """The one that is started for it."""
    note = liveness.read_whole(notes.path + ".nginx") or liveness.read_whole(notes.path + ".was")
    lines = os.fsdecode(note).split("\n")
    return nginxunit.unit_for(nginx, lines[7] if len(lines) == 9 else "")


def launch(nginx: Nginx, unit: str) -> Tuple[str, str]:
    """(how, "" or why it failed)."""
    if not nginxunit.is_there():
        return "by itself", _alone(nginx)
    if unit:
        nginxunit.asked(["systemctl", "reset-failed", unit])  # how often it may be started is counted by us
        status, said = nginxunit.asked(["systemctl", "start", unit], START_S)
        return unit, "" if status == 0 else _last_line(said) or "systemctl says %d" % status
    return _transient(nginx)


def _transient(nginx: Nginx) -> Tuple[str, str]:
    """A service that ends with nginx; it begins with systemd's own environment, not keepalived's."""
    name = "ngxsync-nginx-%s.service" % hashlib.sha256(os.fsencode(nginx.conf)).hexdigest()[:8]
    nginxunit.asked(["systemctl", "reset-failed", name])
    kind = "simple" if is_in_foreground(nginx) else "forking"
    what = ["--property=Type=" + kind, "--property=KillMode=mixed"]
    about = ["--description=nginx of %s, started by ngxsync" % nginx.conf, "--unit=" + name, "--quiet"]
    status, said = nginxunit.asked(["systemd-run"] + about + what + ["--", nginx.build.binary] + nginx.args, START_S)
    return name, "" if status == 0 else _last_line(said) or "systemd-run says %d" % status


def is_in_foreground(nginx: Nginx) -> bool:
    try:
        found = main_directives(nginx.conf, nginx.prefix, nginx.args)
    except (OSError, ValueError):
        return False
    return ("daemon", ("off",)) in [(name, tuple(args)) for name, args in found]


def _alone(nginx: Nginx) -> str:
    """In a session of its own. One that stays in the foreground is left alone there, with nobody to hear what it says."""
    argv = [nginx.build.binary] + nginx.args
    with tempfile.TemporaryFile() as said:
        try:
            if is_in_foreground(nginx):
                _opened(argv, subprocess.DEVNULL)
                return ""
            process = _opened(argv, said.fileno())
            status = process.wait(START_S)
        except subprocess.TimeoutExpired:
            return "it did not become a daemon within %d s" % START_S
        except OSError as error:
            return str(error)
        said.seek(0)
        text = said.read(65536).decode("utf-8", "replace")
    return "" if status == 0 else _last_line(text) or "it exited with %d" % status


def _opened(argv: List[str], output: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        env=nginxunit.ENVIRONMENT,
        preexec_fn=_as_a_daemon,
    )


def _as_a_daemon() -> None:
    os.setsid()
    os.umask(0o022)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]

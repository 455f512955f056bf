"""Puts the agent onto a peer that has nothing of ours: edges/bundle.py sends this text, nothing imports it.

Arguments: mode ("install" or "temporary"), state folder, hash of the files, length of the files' JSON, verb and its
arguments. Standard input: that many bytes {"name": text}, then the request, which is left to the agent.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any, Dict, List

WAIT_S = 60
COMMAND = "ngxsync-agent"
STANDARD_STATE = "/var/lib/ngxsync"  # only there is the host's own command linked: a trial or a test has none
COMMAND_LINK = "/usr/local/sbin/" + COMMAND

# For people and keepalived, who send no request: over ssh their standard input stays open, and nobody would write to it.
# check-nginx says 100 and 101 here, not 0 and 1, which a spoilt interpreter or file says too: any nginx counts as alive then.
SCRIPT = """\
#!/bin/sh
LC_ALL=C.UTF-8
export LC_ALL
[ "$1" = check-nginx ] || exec AGENT "$@" </dev/null
NGXSYNC_SAYS=100 AGENT "$@" </dev/null
status=$?
case $status in
    100) exit 0 ;;
    101) exit 1 ;;
esac
for title in /proc/[0-9]*/cmdline; do
    { read -r line <"$title"; } 2>/dev/null || :
    case $line in
        "nginx: master process"*)
            echo "check-nginx: a fault of ngxsync (status $status); an nginx lives here" >&2
            exit 0
            ;;
    esac
done
exit 1
"""


def read(count: int) -> bytes:
    """Where nothing comes for WAIT_S this process ends by SIGALRM: a caller whose host has vanished never says so."""
    parts = []
    while count:
        signal.alarm(WAIT_S)
        part = os.read(0, min(count, 65536))
        if not part:
            sys.exit("ngxsync: the agent's files did not arrive whole")
        parts.append(part)
        count -= len(part)
    signal.alarm(0)
    return b"".join(parts)


def sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fill(folder: str, files: Dict[str, str]) -> None:
    for name in sorted(files):
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        mode = 0o700 if name == COMMAND else 0o600
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(files[name].encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
    for folder_path, _, _ in os.walk(folder):
        sync_folder(folder_path)


def is_whole(folder: str, files: Dict[str, str]) -> bool:
    for name in files:
        try:
            with open(os.path.join(folder, name), "rb") as file:
                if file.read() != files[name].encode("utf-8"):
                    return False
        except OSError:
            return False
    return True


def link(target: str, path: str) -> None:
    """Makes or replaces a symlink in one step."""
    temporary = "%s.new-%d" % (path, os.getpid())
    os.symlink(target, temporary)
    os.rename(temporary, path)


def install(state: str, name: str, files: Dict[str, str]) -> str:
    agents = os.path.join(state, "agent")
    for path in (state, agents):
        os.makedirs(path, mode=0o700, exist_ok=True)
    final = os.path.join(agents, name)
    current = os.path.join(agents, "current")
    script = SCRIPT.replace("AGENT", "%s -I -S %s" % (quoted(sys.executable), quoted(current)))
    temporary = tempfile.mkdtemp(prefix=".new-", dir=agents)
    try:
        fill(temporary, files)
        if not is_whole(final, files):
            if os.path.lexists(final):
                damaged = tempfile.mkdtemp(prefix=".old-", dir=agents)
                os.rename(final, damaged)
                shutil.rmtree(damaged, ignore_errors=True)
            os.rename(temporary, final)
        os.utime(final)  # young again: oldagents.py leaves it alone
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    link(name, current)
    put_command(agents, script)
    sync_folder(agents)
    if (
        os.getuid() == 0
        and state == STANDARD_STATE
        and (os.path.islink(COMMAND_LINK) or not os.path.lexists(COMMAND_LINK))
    ):
        os.makedirs(os.path.dirname(COMMAND_LINK), exist_ok=True)
        link(os.path.join(agents, COMMAND), COMMAND_LINK)
    return final


def put_command(agents: str, script: str) -> None:
    """What COMMAND_LINK leads to: keepalived keeps the path behind links that it was started with, and a release's folder goes."""
    path = os.path.join(agents, COMMAND)
    temporary = tempfile.mkdtemp(prefix=".new-", dir=agents)
    try:
        fill(temporary, {COMMAND: script})
        os.rename(os.path.join(temporary, COMMAND), path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def stop(number: int, _frame: Any) -> None:
    sys.exit(128 + number)


def run_once(files: Dict[str, str], arguments: List[str]) -> int:
    """Runs from a folder that does not outlive the call, whatever ends it but SIGKILL; its exit status."""
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    folder = tempfile.mkdtemp(prefix="ngxsync-")
    try:
        fill(folder, files)
        status = subprocess.call([sys.executable, "-I", "-S", "-B", folder] + arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return status if status >= 0 else 128 - status


def say_failure(error: OSError, state: str) -> None:
    """As an answer of the agent's, which is not there: nothing of what was asked has begun."""
    host = os.uname().nodename
    message = {
        "what": "the agent cannot be put there: %s" % (error.strerror or error),
        "where": error.filename or state,
        "state": "unchanged",
        "next": "on %s: df -h, df -i; is that file system mounted read-only?" % host,
    }
    sys.stdout.write("\n" + json.dumps({"ok": False, "code": "disk", "message": message}) + "\n")
    sys.stdout.flush()


def boot(mode: str, state: str, name: str, length: str, *arguments: str) -> int:
    os.umask(0o077)  # also for what Python compiles there
    files = json.loads(read(int(length)).decode("utf-8"))
    try:
        if mode == "temporary":
            return run_once(files, list(arguments))
        folder = install(state, name, files)
    except OSError as error:
        say_failure(error, state)
        return 0
    return os.execv(sys.executable, [sys.executable, "-I", "-S", folder] + list(arguments))


if __name__ == "__main__":
    sys.exit(boot(*sys.argv[1:]))

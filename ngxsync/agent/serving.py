"""Whether this host's nginx serves: its main process and a worker at work, by /proc alone."""

import os
import time
from typing import Any, Dict, NamedTuple

from . import liveness, nginx
from .liveness import MAIN, SINGLE, Process, serving_worker

BIRTH_S = 0.3  # workers just forked still have the title of the main process
POLL_S = 0.02

# `pid` 0: there is none; `kind` as in the note; `why`: it lives and serves nobody
Found = NamedTuple("Found", [("pid", int), ("start", int), ("kind", str), ("why", str)])
NONE = Found(0, 0, "", "")


def examine(settings: Dict[str, Any]) -> Found:
    """This nginx, as it is now. Raises what find_nginx raises, unless it is found without."""
    end = time.monotonic() + BIRTH_S
    while True:
        mains = nginx.main_processes(settings["conf"])
        for running in mains:
            if serving_worker(running.pid):
                return _found(running)
        if not mains:
            return _hidden(settings)
        if time.monotonic() > end:
            return _found(mains[0], _why_none_serves(mains[0].pid))
        time.sleep(POLL_S)


def _found(running: nginx.Running, why: str = "") -> Found:
    return Found(running.pid, running.start, MAIN, why)


def _why_none_serves(pid: int) -> str:
    workers = [child for child in liveness.children(pid) if nginx.read_title(child).startswith(nginx.WORKER_TITLE)]
    if any(Process(child).state in liveness.STOPPED for child in workers):
        return "its workers are stopped (SIGSTOP); SIGCONT lets them go on"
    return "its workers are shutting down" if workers else "it has no worker"


def _hidden(settings: Dict[str, Any]) -> Found:
    """One that no title tells: known by its pid file, or without a main process. NONE also where no nginx can be run."""
    try:
        found = nginx.find_nginx(settings)
    except nginx.NGINX_ERRORS:
        return NONE
    if found.running is not None:
        return _found(found.running, "" if serving_worker(found.running.pid) else _why_none_serves(found.running.pid))
    if found.single:
        process = Process(found.single)
        if process.start and process.state not in liveness.DEAD:
            why = "it is stopped (SIGSTOP)" if process.state in liveness.STOPPED else ""
            return Found(found.single, process.start, SINGLE, why)
    return _of_another_user(found)


def _of_another_user(found: nginx.Nginx) -> Found:
    """A main process that neither root nor the owner of its configuration runs: nothing of it may be executed, but it lives.

    Only where the pid file names it, since anybody can give a process the title of nginx.
    """
    path = nginx.pid_path(found.conf, found.prefix, found.build, found.args)
    running = nginx.read_running(nginx.read_pid(path))
    if running is None or not serving_worker(running.pid):
        return NONE
    prefix, conf = nginx.places_of(running.args, found.build)
    return _found(running) if os.path.realpath(conf) == os.path.realpath(found.conf) else NONE

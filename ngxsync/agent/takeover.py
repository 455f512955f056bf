"""What follows keepalived's word: the role is told, what is open is finished or undone, and a new master's nginx runs what is
on its disk. It acts on the state found: who carries the VIP is the master, whatever the word says.
"""

import json
import os
import re
import signal
import subprocess
import time
from typing import Any, Dict, List, Optional, Tuple

from . import addresses, liveness, nginxunit, role, running, runnotes, spool, starter, vrrpfiles
from .asread import place_of
from .errorlog import log_paths, mark_logs
from .nginx import NGINX_ERRORS, find_nginx, start_time
from .notice import Word, normal
from .proof import Reload
from .serving import examine
from .sharedfile import CONFIG
from .store import Busy, Damaged, Store

FOUND_S = 2.0  # the address comes and goes a moment before or after the word
POLL_S = 0.05
TURN_S = 20.0  # for a run under way here, or a check that starts nginx
PROGRAM = "/usr/local/bin/ngxsync"
USR1_BIT = 1 << (signal.SIGUSR1 - 1)

Trouble = Dict[str, str]


def follow(
    word: Word, vips: List[str], settings: Optional[Dict[str, str]], state_dir: str, notes: runnotes.Notes
) -> None:
    """All of it. What goes wrong in one part keeps none of the others from being done."""
    is_ours = not vips or not _is_of_others(word, vips)
    found = found_role(word, vips, is_ours)
    _attempt("the role", lambda: role.turn_as_found(state_dir, lambda: _look(word, vips, is_ours), vips, word.name))
    _attempt("the daemon", lambda: wake(state_dir))
    troubles = _attempt("nginx", lambda: _work(found, settings_here(settings, state_dir), state_dir)) or []
    text = "; ".join(trouble["what"] for trouble in troubles)
    if not troubles:
        notes.alive("nginx is well after the change of state")
    elif not notes.is_said(text):
        notes.say(text)
        _attempt("the spool", lambda: [spool.leave(state_dir, failure_of(trouble)) for trouble in troubles])
        _attempt("the daemon", lambda: wake(state_dir))


def _attempt(about: str, work: Any) -> Any:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - a full disk or a bug in one part keeps none of the others from being done
        runnotes.log("notify: %s: %s" % (about, error))
        return None


# the role


def found_role(word: Word, vips: List[str], is_ours: bool) -> str:
    """What this host is: by the addresses, which may need a moment. `is_ours`: the word is about these."""
    end = time.monotonic() + FOUND_S
    found, is_told = _as_found(word, vips, is_ours)
    while is_ours and not is_told and time.monotonic() < end:
        time.sleep(POLL_S)
        found, is_told = _as_found(word, vips, is_ours)
    if is_ours and not is_told:
        where = "is here" if found == role.MASTER else "is not here"
        runnotes.log("keepalived says %s, but %s %s" % (word.role, ", ".join(vips), where))
    return found


def _as_found(word: Word, vips: List[str], is_ours: bool) -> Tuple[str, bool]:
    """(what this host is now, whether keepalived said so)."""
    if not vips:
        return word.role, True
    try:
        is_here = _are_here(vips)
    except OSError:
        return (word.role if is_ours else role.BACKUP), is_ours
    if is_ours and is_here == (word.role == role.MASTER):
        return word.role, True
    return (role.MASTER if is_here else role.BACKUP), False


def _are_here(vips: List[str]) -> bool:
    return {each.address for each in addresses.held(vips)} == set(vips)


def _is_of_others(word: Word, vips: List[str]) -> bool:
    """It is about an instance that moves other addresses than ours, as keepalived.conf says: a fifo is told of each."""
    try:
        moved = {normal(each) for each in vrrpfiles.moved_by(word.kind, word.name)}
        return bool(moved) and not moved & set(vips)
    except OSError:
        return False
    except Exception as error:  # noqa: BLE001 - what cannot be read says nothing against it
        runnotes.log("notify: keepalived.conf: %s" % error)
        return False


def _look(word: Word, vips: List[str], is_ours: bool) -> role.Found:
    found, is_told = _as_found(word, vips, is_ours)
    carried = addresses.carried_addresses() if vips else []
    tenure = addresses.tenure_of(vips, carried) if found == role.MASTER else ""
    return role.Found(found, tenure, is_told, addresses.part_of(vips, carried))


# nginx


def settings_here(settings: Optional[Dict[str, str]], state_dir: str) -> Dict[str, Any]:
    """Those of the call, else of the latest run that was accepted here, else of the one nginx that runs."""
    whole: Dict[str, Any] = {"reload": "SIGHUP", "prove_timeout_s": 10.0}
    try:
        recorded = (Store(state_dir).accepted() or {}).get("settings") or {}
    except (Damaged, OSError):
        recorded = {}
    if settings is not None and recorded.get("conf", settings["conf"]) != settings["conf"]:
        recorded = {}
    found = settings or recorded or running.of_the_only_one() or _defaults()
    whole.update({name: recorded[name] for name in whole if name in recorded})
    return dict(whole, **{name: found[name] for name in ("root", "conf", "binary")})


def _defaults() -> Dict[str, Any]:
    asked = liveness.Asked([])
    return {"root": asked.root, "conf": asked.conf, "binary": asked.binary}


def _work(found: str, settings: Dict[str, Any], state_dir: str) -> List[Trouble]:
    """What could not be put right."""
    trouble = _recover(state_dir)
    if trouble is None and found == role.MASTER:
        trouble = _ensure_it_runs(settings, state_dir) or _ensure_it_is_fresh(settings, state_dir)
    return [trouble] if trouble else []


def _recover(state_dir: str) -> Optional[Trouble]:
    why = starter.recovered(state_dir)
    if not why:
        return None
    what = "what a run left half done cannot be finished or undone: %s" % why
    state = "the live tree may be half old, half new"
    return _trouble("broken", what, state, "`ngxsync-agent recover` here says what to do")


def _ensure_it_runs(settings: Dict[str, Any], state_dir: str) -> Optional[Trouble]:
    if _is_alive(settings):
        return None
    asked = liveness.Asked(["--root", settings["root"], "--conf", settings["conf"], "--binary", settings["binary"]])
    notes = runnotes.Notes(asked.note)
    lock = notes.lock(time.monotonic() + TURN_S)
    if lock is not None and lock != runnotes.UNLOCKED and not _is_alive(settings):
        notes.begin_start(lock)
        outcome = starter.start(settings, state_dir, notes)
        os.close(lock)
        if not outcome.is_running:
            return _trouble("nginx-down", outcome.what, "this host has the VIP and serves nothing", outcome.next)
    if _is_alive(settings):
        return None
    return _trouble("nginx-down", "nginx is dead here", "this host has the VIP and serves nothing", "start nginx")


def _is_alive(settings: Dict[str, Any]) -> bool:
    found = examine(settings)
    return found.pid > 0 and not found.why


def _ensure_it_is_fresh(settings: Dict[str, Any], state_dir: str) -> Optional[Trouble]:
    """It reads again what it has not read yet. A run under way here reloads it by itself; one that dies is undone first."""
    store = Store(state_dir)
    if not os.path.isdir(store.root):
        return _reload_if_stale(settings, state_dir)
    end = time.monotonic() + TURN_S
    while time.monotonic() < end:
        try:
            with store.lock("transaction", "notify", end - time.monotonic()):
                if not starter.is_left_open(store):
                    return _reload_if_stale(settings, state_dir)
        except (Busy, OSError):
            return None
        trouble = _recover(state_dir)
        if trouble:
            return trouble
    return None


def _reload_if_stale(settings: Dict[str, Any], state_dir: str) -> Optional[Trouble]:
    looked = running.state(settings, place_of(state_dir))
    if looked["state"] != "stale" or looked["needs_restart"]:
        return None
    try:
        nginx = find_nginx(settings)
    except NGINX_ERRORS as error:
        return _trouble("stale-running", "nginx cannot be looked at: %s" % error, "", "ngxsync-agent status")
    if nginx.running is None:
        return None
    marks = mark_logs(log_paths(nginx.conf, nginx)[0])
    proof = Reload(nginx.running, marks, settings["prove_timeout_s"], settings["reload"], "").run(lambda: None)
    if proof.outcome == "proven":
        runnotes.log("nginx had not read %s; it was reloaded and proven" % looked["file"])
        return None
    what = "nginx does not run what is on this host's disk: %s" % proof.reason
    return _trouble("stale-running", what, "it goes on with what it read before", starter.offer(state_dir))


def _trouble(word: str, what: str, state: str, next: str) -> Trouble:
    return {"word": word, "what": what, "state": state, "next": next}


def failure_of(trouble: Trouble) -> Dict[str, Any]:
    """As an event of the spool, about this host itself."""
    code = trouble["word"]
    return dict(trouble, kind="failure", peer="", code=code, exit=7 if code == "broken" else 1, run="", where="")


# the daemon


def wake(state_dir: str) -> None:
    """By SIGUSR1, unless it is of a release that would die of it; where none runs one sender is started."""
    pid = daemon_pid(state_dir)
    if pid:
        os.kill(pid, signal.SIGUSR1)
    elif os.access(PROGRAM, os.X_OK) and os.path.exists(CONFIG):
        null = subprocess.DEVNULL
        argv, environment = [PROGRAM, "notify", "--flush"], dict(nginxunit.ENVIRONMENT, HOME="/root")
        subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, cwd="/", env=environment, start_new_session=True)


def daemon_pid(state_dir: str) -> int:
    """The daemon's, where it lives and takes SIGUSR1; 0 else."""
    try:
        found = json.loads(liveness.read_whole(os.path.join(state_dir, "master", "daemon.json")).decode("ascii"))
        pid, start = int(found["pid"]), int(found["start_ticks"])
    except (ValueError, KeyError, TypeError):
        return 0
    if pid <= 0 or start_time(pid) != start:
        return 0
    caught = re.search(rb"^SigCgt:\s*([0-9a-f]+)", liveness.read_whole("/proc/%d/status" % pid), re.M)
    return pid if caught and int(caught.group(1), 16) & USR1_BIT else 0

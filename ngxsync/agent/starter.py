"""Starts nginx where it is dead: at most three times in ten minutes, never on a tree that is half replaced, never over a
configuration that fails its test. Called by who holds the lock of the notes; whoever waits for it does not hold it up.
"""

import contextlib
import hashlib
import os
import time
from typing import Any, Dict, Iterable, List, NamedTuple, Optional

from . import journal, launch, role, verbs
from .answers import Failure
from .directives import loads, named_files, read_all
from .errorlog import entries_since, log_paths
from .liveness import Process, processes, serving_worker
from .nginx import MASTER_TITLE, NGINX_ERRORS, WORKER_TITLE, Nginx, find_nginx, read_title
from .rehearsal import rehearse
from .running import last_refusal
from .runnotes import TRIES, UNFINISHED, WITHIN_S, Notes, now
from .serving import examine
from .store import Busy, Damaged, Store

LONGEST_S = 150  # recovery, test, start and a look at it
MIXED_S = 0.5
TEST_S = 20.0
SERVE_S = 10.0
LAST_AFTER_S = 60.0  # what passes by itself (a name that does not resolve at boot, a port) may take as long
STAYS_S = 0.2  # a worker that lives so long does not die of its birth
POLL_S = 0.02

# how it is with nginx after that, for people, and what they can do
Outcome = NamedTuple("Outcome", [("is_running", bool), ("what", str), ("next", str)])
MEND = "mend that; it is tried again when a file that nginx loads is changed, else in ten minutes; or start it by hand"


def text_of(outcome: Outcome) -> str:
    return outcome.what + ("; next: " + outcome.next if outcome.next else "")


def start(settings: Dict[str, Any], state_dir: str, notes: Notes) -> Outcome:
    """Tries once, unless it may not, and says how it went. Raises only what is a fault of ours."""
    outcome = _start(settings, state_dir, notes)
    if outcome.is_running:
        notes.alive(outcome.what, is_news=True)
    else:
        notes.say(text_of(outcome))
    return outcome


def _start(settings: Dict[str, Any], state_dir: str, notes: Notes) -> Outcome:
    tries = notes.tries()
    if tries and mark_of(tries[-1].files) == tries[-1].mark:
        why = next((each.why for each in reversed(tries) if each.why), "it ended again each time")
        if len(tries) >= TRIES:
            what = "nginx is dead; %d starts within %d minutes did not help: %s" % (TRIES, WITHIN_S // 60, why)
            return Outcome(False, what, MEND)
        if len(tries) == TRIES - 1 and tries[-1].why and now() - tries[-1].at < LAST_AFTER_S:
            what = "nginx is dead; %d starts did not help: %s" % (len(tries), why)
            return Outcome(False, what, "it is tried once more in a minute, or when a file that nginx loads is changed")
    why = recovered(state_dir)
    if why:
        what = "nginx is dead; it is not started on a tree that is half old, half new: %s" % why
        return Outcome(False, what, "`ngxsync-agent recover` here says what to do")
    store = Store(state_dir)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(store.lock("mixed", "start of nginx", MIXED_S))
        except Busy as busy:
            what = "nginx is dead; it is not started while run %s replaces files" % busy.holder.get("run", "?")
            return Outcome(False, what, "")
        except OSError:
            pass  # no state, or a disk on which no run could work either
        if is_left_open(store):
            what = "nginx is dead; it is not started before what a run left half done is finished or undone"
            return Outcome(
                False,
                what,
                "none needed where the next check starts it; else `ngxsync-agent recover` here says what to do",
            )
        return _start_whole_tree(settings, state_dir, notes)


def is_left_open(store: Store) -> bool:
    """A run is open whose owner died: the tree may be mixed, whoever has the lock "mixed".

    Whoever waits asks once more when it has its lock: the owner may have died meanwhile.
    """
    try:
        header = journal.read_header(store.journal)
        while header is not None:
            holder = store.holder("transaction") or {}
            # what a killed owner wrote into its lock stays there until the next one has written its own
            if holder.get("run") == header.get("run") and os.path.exists("/proc/%s" % holder["pid"]):
                return False
            before, header = header, journal.read_header(store.journal)
            if header == before:
                return True  # else its owner ended it since the first look, and then let go of its lock
    except (journal.Damaged, OSError):
        return True
    return False


def recovered(state_dir: str) -> str:
    """What a dead owner left open is finished or undone: "" or why that was not possible. One at work is left to its owner."""
    if not os.path.exists(Store(state_dir).journal):
        return ""
    try:
        answer = verbs.recover({"state_dir": state_dir, "wait_s": 0.0})
    except Failure as failure:
        answer = failure.answer()
    return "" if answer["ok"] or answer["code"] == "locked" else str(answer["message"]["what"])


def _start_whole_tree(settings: Dict[str, Any], state_dir: str, notes: Notes) -> Outcome:
    try:
        nginx = find_nginx(settings)
    except NGINX_ERRORS as error:
        return Outcome(False, "nginx is dead and cannot be run: %s" % error, "install it, or set --binary")
    if nginx.running is not None or nginx.single:
        return Outcome(True, "nginx was started by somebody else", "")
    unit = launch.unit_for(nginx, notes)
    if unit.is_masked:
        what = "nginx is dead; it is not started, since a person has masked %s" % unit.name
        return Outcome(False, what, "`systemctl unmask %s` lets it be started" % unit.name)
    files = watched_files(nginx)
    try:
        notes.add_try(UNFINISHED, files, mark_of(files))
    except OSError as error:
        return Outcome(
            False, "nginx is dead; it is not started, since no try can be noted: %s" % error, "start it by hand"
        )
    outcome = _test_and_launch(nginx, unit.name, settings, state_dir)
    notes.end_try("" if outcome.is_running else outcome.what.partition("; ")[2] or outcome.what)
    return outcome


def _test_and_launch(nginx: Nginx, unit: str, settings: Dict[str, Any], state_dir: str) -> Outcome:
    problem = _refusal(nginx)
    if problem is not None:
        if not problem["file"]:
            return Outcome(False, "nginx is dead; its test says: %s" % problem["text"], MEND)
        place = "%s in %s:%d" % (problem["text"], problem["file"], problem["line"])
        return Outcome(False, "nginx is dead; its configuration is refused: %s" % place, offer(state_dir))
    begun = time.time()
    how, failure = launch.launch(nginx, unit)
    if failure and examine(settings).pid and not _wait_until_it_serves(settings):
        return Outcome(True, "nginx was started by somebody else", "")  # since the look above
    if not failure:
        failure = _wait_until_it_serves(settings)
    if not failure:
        return Outcome(True, "nginx was dead and was started (%s)" % how, "")
    told = last_refusal(entries_since(log_paths(nginx.conf, nginx)[0], begun - 1, ("emerg",)))
    what = "nginx is dead; its start (%s) failed: %s" % (how, told or failure)
    left = " ".join(str(pid) for pid in orphans()) if "bind()" in what else ""
    hint = "workers whose main process was killed may hold it: `kill -QUIT %s`; then it is started again" % left
    return Outcome(False, what, hint if left else MEND)


def _refusal(nginx: Nginx) -> Optional[Dict[str, Any]]:
    """The first complaint of its test, in a private view where one can be made; None where it passes."""
    try:
        result = rehearse(nginx, [], TEST_S)
    except Failure:
        result = rehearse(nginx, None, TEST_S)
    if result["passed"]:
        return None
    return dict(next(problem for problem in result["problems"] if problem["level"] == "error"))


def orphans() -> List[int]:
    """Workers whose main process was killed: they hold its sockets and go on serving; nobody can reload them."""
    workers = [pid for pid in processes() if read_title(pid).startswith(WORKER_TITLE)]
    return [pid for pid in workers if not read_title(Process(pid).parent).startswith(MASTER_TITLE)]


def _wait_until_it_serves(settings: Dict[str, Any]) -> str:
    """ "" once a worker lives and goes on living, else why not."""
    end = time.monotonic() + SERVE_S
    why = "no process of it is there"
    while time.monotonic() < end:
        found = examine(settings)
        worker = serving_worker(found.pid) if found.pid and not found.why else 0
        if worker or (found.pid and not found.why):
            time.sleep(STAYS_S)
            again = examine(settings)
            if again.pid == found.pid and not again.why and serving_worker(found.pid) == worker:
                return ""
            why = "its workers die" if again.pid == found.pid else "it ends again"
        elif found.pid:
            why = found.why
        time.sleep(POLL_S)
    return why


def offer(state_dir: str) -> str:
    """How the last accepted configuration comes back: from whoever pushes to this host, or from the peer."""
    try:
        accepted = Store(state_dir).accepted()
    except (Damaged, OSError):
        accepted = None
    known = role.read(state_dir)
    is_master = known is not None and known["role"] == role.MASTER
    if accepted is not None and accepted.get("kind") != "pull" and not is_master:
        sender = accepted.get("written_by") or "the master"
        return (
            "`ngxsync sync` on %s sends the accepted one again (`ngxsync-agent status` says what was edited)" % sender
        )
    if is_master or os.path.isdir(os.path.join(state_dir, "master")):
        return "mend it, or `ngxsync pull --take peer` brings back what the peer accepted"
    return "mend it; `nginx -t` says the same"


# what a further try waits for


def watched_files(nginx: Nginx) -> List[str]:
    """All that decides whether it starts: the program, and what its configuration has it read; of a pattern its folder."""
    paths = {nginx.build.binary, nginx.conf}
    with contextlib.suppress(OSError, ValueError):
        directives = read_all(nginx.conf, nginx.prefix)
        named = named_files(directives, os.path.dirname(nginx.conf), nginx.prefix)
        is_loaded = loads(named)
        paths |= {directive.file for directive in directives}
        paths |= {item.path for item in named if item.role == "include" or is_loaded(item.path)}
    return sorted(os.path.dirname(path) if set(path) & set("*?[") else path for path in paths)


def mark_of(files: Iterable[str]) -> str:
    """Changes where one of them does."""
    digest = hashlib.sha256()
    for path in files:
        try:
            info = os.stat(path)
            seen = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        except OSError:
            seen = (0, 0, 0, 0)
        digest.update(("%s %d %d %d %d\n" % ((path,) + seen)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]

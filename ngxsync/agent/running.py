"""What nginx runs, against what is on its disk: whether the one has read the other, by the births of its processes.

Nothing is asked of nginx, and between two looks only what its files held is kept (asread.py). Births are told by the clock since
boot and files by the wall clock; where that was set by hand or stepped since, both are off by as much.
"""

import os
import shlex
import stat
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from .asread import AsRead, Reading
from .directives import Directive, loads, named_files, read_all
from .errorlog import Entry, death_in, entries_since, log_paths
from .nginx import NGINX_ERRORS, SHUTTING_DOWN, Nginx, Running, find_nginx, find_running, start_time
from .proof import Child, family, is_worker

Answer = Dict[str, Any]
Loaded = NamedTuple("Loaded", [("changed", float), ("path", str), ("needs_restart", bool)])

Read = NamedTuple("Read", [("nginx", Nginx), ("directives", List[Directive])])  # a whole configuration

CLOCK_BOOTTIME = 7  # time.CLOCK_BOOTTIME, which Python 3.6 does not name
TICKS = os.sysconf("SC_CLK_TCK")
SLACK_S = 0.02  # births are cut to a tick (10 ms), file times to one of the kernel's (at most 10 ms)
GENERATION_S = 0.5  # the workers of one reload are born within this
RESPAWN_S = 0.5  # a worker that died is born again within this, on a busy host too
FOLDER_LIMIT = 2000  # files below a directory that nginx loads from
CACHE_MANAGER = b"nginx: cache manager process"
DELETED = " (deleted)"  # what the kernel adds to the path of a running program whose file is gone
NO_RELOAD = "%s was replaced after nginx started: only a restart runs it, not a reload"
GONE = "%s is gone since nginx read it"
BORN_AGAIN = "its workers died and were born again, which reads no file: when nginx last read them is not known"
NOTHING: Answer = {
    "pid": 0,
    "since": None,
    "loaded": None,
    "file": "",
    "changed": None,
    "why": "",
    "start": "",
    "draining": 0,
    "draining_since": None,
    "binary_replaced": False,
    "needs_restart": False,
    "refused": "",
}


def of_the_only_one() -> Optional[Answer]:
    """Settings of the one nginx that runs here, for a record of an earlier release, which has none."""
    found = find_running()
    return {"binary": "auto", "root": found[1], "conf": found[2]} if found is not None else None


def state(settings: Optional[Answer], kept_in: str = "", read: Optional[Read] = None) -> Answer:
    """Whether nginx runs, and whether it has read what is on its disk; times in seconds since 1970.

    {state: running, stale, down, unknown; pid; since: its start; loaded: when the oldest worker that serves was born; file,
    changed: the youngest file that it loads, where it is stale; why: the reason where it is unknown, or stale by more than a file;
    needs_restart: no reload mends it;
    start: its command; draining: workers that are shutting down; draining_since: at the latest; binary_replaced; refused: the
    last [emerg] in its error log since `changed`, without its time}. `kept_in` is asread.place_of this host;
    `read` saves finding and reading what the caller has found and read.
    """
    if not settings:
        return dict(NOTHING, state="unknown", why="no run recorded which it is, and not exactly one runs here")
    try:
        nginx = read.nginx if read is not None else find_nginx(settings)
    except NGINX_ERRORS as error:
        return dict(NOTHING, state="unknown", why=str(error))
    if nginx.problem:
        return dict(NOTHING, state="unknown", why=nginx.problem)
    if nginx.running is not None:
        return _of_running(read or Read(nginx, read_all(nginx.conf, nginx.prefix)), nginx.running, kept_in)
    if nginx.single:
        why = "process %d runs without a main process (master_process off)" % nginx.single
        return dict(NOTHING, state="unknown", pid=nginx.single, why=why)
    return dict(NOTHING, state="down", start=start_command(nginx, nginx.build.binary))


def start_command(nginx: Nginx, program: str) -> str:
    return " ".join(shlex.quote(word) for word in [program] + nginx.args)


def _of_running(read: Read, running: Running, kept_in: str) -> Answer:
    nginx = read.nginx
    logs = log_paths(nginx.conf, nginx)[0]
    children = family(running.pid)
    since = birth(start_time(running.pid))
    loaded, is_known = loaded_at(running.pid, children, logs)
    draining = [ticks for (_, ticks), title in children.items() if SHUTTING_DOWN in title]
    program = replaced_program(running)
    answer = dict(
        NOTHING,
        state="running",
        pid=running.pid,
        since=since,
        loaded=loaded,
        start=start_command(nginx, program or nginx.build.binary),
        draining=len(draining),
        draining_since=_draining_since(draining, children),
    )
    found: Answer
    if program:
        found = {"file": program, "changed": _changed(program), "binary_replaced": True, "needs_restart": True}
        found["why"] = NO_RELOAD % program
    else:
        reading = Reading(running.pid, running.start, round(loaded - since, 2))
        newest = unread_file(loaded_files(read), since, loaded, AsRead(kept_in, reading))
        if newest is None:
            return answer
        is_gone = newest.path and not os.path.lexists(newest.path)
        why = GONE % newest.path if is_gone else "" if is_known else BORN_AGAIN
        why = NO_RELOAD % newest.path if newest.needs_restart else why
        found = {"file": newest.path, "changed": newest.changed, "why": why, "needs_restart": newest.needs_restart}
    changed = found["changed"]
    refused = last_refusal(entries_since(logs, changed, ("emerg",))) if changed is not None else ""
    return dict(answer, state="stale", refused=refused, **found)


# the processes


def birth(ticks: int) -> float:
    """A start time of /proc as seconds since 1970, by the clock of now."""
    return time.time() - time.clock_gettime(CLOCK_BOOTTIME) + ticks / TICKS


def loaded_at(pid: int, children: Dict[Child, bytes], logs: List[str]) -> Tuple[float, bool]:
    """(when the oldest of the processes that serve was born, True): they are born anew at each reload, after it has read all files.

    One that died alone and was born again is younger than the others. Where all were, the last reload that the log tells
    counts, else the start of nginx, and False.
    """
    since = birth(start_time(pid))
    serving = [birth(ticks) for (_, ticks), title in children.items() if serves(title)]
    if not serving:
        return since, True
    oldest = min(serving)
    near = entries_since(logs, oldest - 1 - RESPAWN_S, ("alert",), max(serving))
    told = [entry for entry in near if entry.pid == pid]
    deaths = [entry.at for entry in told if death_in(entry.text)]
    if len([at for at in deaths if any(_is_born_of(born, at) for born in serving)]) < len(serving):
        return oldest, True
    told = [entry for entry in entries_since(logs, since, ("notice",), oldest) if entry.pid == pid]
    reloads = [entry.at for entry in told if entry.text == "reconfiguring" and entry.at <= oldest]
    return max(reloads, default=since), bool(reloads)


def _is_born_of(born: float, death: float) -> bool:
    """A death is told in whole seconds."""
    return death - SLACK_S <= born < death + 1 + RESPAWN_S


def serves(title: bytes) -> bool:
    return (is_worker(title) or title.startswith(CACHE_MANAGER)) and SHUTTING_DOWN not in title


def _draining_since(draining: List[int], children: Dict[Child, bytes]) -> Optional[float]:
    """When the oldest that is shutting down was told to at the latest: when those were born that took its place."""
    if not draining:
        return None
    oldest = birth(min(draining))
    later = [birth(ticks) for (_, ticks), title in children.items() if is_worker(title)]
    return min((born for born in later if born > oldest + GENERATION_S), default=oldest)


def without_mark(path: str) -> str:
    return path[: -len(DELETED)] if path.endswith(DELETED) else path


def replaced_program(running: Running) -> str:
    """The path of its program where another file, or none, has it now; "" where all is well or nobody may look."""
    exe = "/proc/%d/exe" % running.pid
    if running.exe.endswith(DELETED):
        return without_mark(running.exe)
    if not running.exe or not os.path.isabs(running.program):
        return ""
    try:  # moved away, as `make install` of nginx does: its title still has the name that it was started by
        mine, there = os.stat(exe), os.stat("/proc/%d/root%s" % (running.pid, running.program))
    except FileNotFoundError:
        return running.program
    except OSError:
        return ""
    return "" if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino) else running.program


# the files


def loaded_files(read: Read) -> List[Loaded]:
    """Every file that this configuration has nginx read, with when it was last changed or put in its place."""
    nginx, directives = read
    named = named_files(directives, os.path.dirname(nginx.conf), nginx.prefix)
    is_loaded = loads(named)
    modules = {item.path for item in named if item.role == "module"}
    paths = {directive.file for directive in directives} | {item.path for item in named if is_loaded(item.path)}
    folders: Dict[str, float] = {}
    found = []
    for path in sorted({inner for named_path in paths | {nginx.conf} for inner in _files_at(named_path)}):
        changed = _changed(path)
        if changed is not None:  # a pattern, or what is not there: nginx -t says so
            changed = max(changed, links_above(os.path.dirname(path), folders))
            found.append(Loaded(changed, path, path in modules))
    return found or [Loaded(0.0, nginx.conf, False)]


def unread_file(files: List[Loaded], since: float, loaded: float, as_read: AsRead) -> Optional[Loaded]:
    """The file that nginx has not read, of several the one changed last after it; None where it has read them all."""

    def age_s(item: Loaded) -> float:
        return item.changed - (since if item.needs_restart else loaded)

    newer = [item for item in files if age_s(item) > SLACK_S]
    as_read.keep([item.path for item in files if item not in newer], loaded + SLACK_S)
    newer = [item for item in newer if not as_read.is_as_read(item.path)]
    gone = as_read.gone(item.path for item in files)
    if not newer and gone is not None:
        return Loaded(_changed(os.path.dirname(gone)) or loaded, gone, False)
    return max(newer, key=age_s, default=None)


def _files_at(path: str) -> Iterator[str]:
    """The path itself, or the files below a directory, without what editors leave."""
    if not path.endswith("/"):
        yield path
        return
    count = 0
    for folder, _, names in os.walk(path):
        for name in names:
            if not name.startswith(".") and not name.endswith("~"):
                count += 1
                yield os.path.join(folder, name)
        if count > FOLDER_LIMIT:
            return


def _changed(path: str) -> Optional[float]:
    """By ctime, which nobody sets: of the file, and of a link that was put in its place."""
    try:
        return max(os.stat(path).st_ctime, os.lstat(path).st_ctime)
    except OSError:
        return None


def links_above(folder: str, known: Dict[str, float]) -> float:
    """When the last link among the directories above a file was put there: another one leads to other files. 0.0 for none."""
    missing: List[str] = []
    while folder not in known and folder not in ("", "/"):
        missing.append(folder)
        folder = os.path.dirname(folder)
    latest = known.get(folder, 0.0)
    for each in reversed(missing):
        try:
            found = os.lstat(each)
            latest = max(latest, found.st_ctime if stat.S_ISLNK(found.st_mode) else 0.0)
        except OSError:
            pass
        known[each] = latest
    return latest


def last_refusal(entries: List[Entry]) -> str:
    """nginx's own words; that it gave up in the end says less than what it tried in vain."""
    texts = [entry.text for entry in entries if entry.text != "still could not bind()"]
    return texts[-1] if texts else ""


def serving_pids(pid: int) -> Set[int]:
    """The main process and those that run its present configuration."""
    return {pid} | {child for (child, _), title in family(pid).items() if serves(title)}

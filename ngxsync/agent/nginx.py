"""Which nginx: the main process that runs the live configuration, found once and checked (TRANSACTION, which nginx)."""

import os
import re
import subprocess
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .answers import Failure
from .binary import Build, find_binary, read_build
from .directives import parse, read_main

MASTER_TITLE = b"nginx: master process "
WORKER_TITLE = b"nginx: worker process"
SHUTTING_DOWN = b"is shutting down"

NGINX_ERRORS = (OSError, ValueError, subprocess.SubprocessError)  # of find_nginx

SETTLE_S = 1.0  # a child just forked still has its parent's title
POLL_S = 0.003

# `exe` is "" where the agent's user may not look; `args` are the options of the title that a test is called with; `program` is ""
# where the title is cut off, and tells none of that
Running = NamedTuple("Running", [("pid", int), ("start", int), ("exe", str), ("program", str), ("args", List[str])])
Nginx = NamedTuple(
    "Nginx",
    [
        ("build", Build),
        ("program", str),  # what a test executes
        ("args", List[str]),  # -p, -c, -g, -e: what its test is called with
        ("conf", str),
        ("prefix", str),
        ("running", Optional[Running]),
        ("problem", str),  # "" or why nothing may be done with this nginx (code which-nginx)
        ("single", int),  # pid of an nginx without a main process (master_process off), which nobody can reload; 0 else
    ],
)


def read_title(pid: int) -> bytes:
    """The process title: cmdline without its padding. b"" where the process is gone or has none."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb", buffering=0) as stream:
            return stream.read().rstrip(b"\0 ").replace(b"\0", b" ")
    except OSError:
        return b""


def start_time(pid: int) -> int:
    """Clock ticks since boot at which the process started, with its pid its identity; 0 where it is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb", buffering=0) as stream:
            text = stream.read()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])


def parse_title(title: bytes) -> Tuple[str, List[str]]:
    """(program, [-p, -c, -g, -e with their values]) of "nginx: master process PROGRAM ARGS".

    The title has lost its quoting: a value reaches to the next " -LETTER " or the end, so "-g daemon on; user x;" stays whole.
    """
    words = os.fsdecode(title[len(MASTER_TITLE) :])
    program, _, rest = words.partition(" -")
    return program.strip(), arguments_of("-" + rest if rest else "")


def arguments_of(text: str) -> List[str]:
    """-p, -c, -g and -e with their values, of options whose quoting is lost."""
    args: List[str] = []
    for option, value in re.findall(r"-([a-zA-Z])\s*(.*?)(?=\s+-[a-zA-Z](?:\s|$)|$)", text):
        if option in "pcge" and value:
            args += ["-" + option, value]
    return args


def value_of(args: List[str], option: str) -> str:
    return args[args.index(option) + 1] if option in args else ""


def find_nginx(settings: Dict[str, Any]) -> Nginx:
    """The nginx of a request's settings. Raises OSError or subprocess.SubprocessError where none can be run."""
    found = main_processes(settings["conf"])
    running = found[0] if found else _named_by_pid_file(settings)
    program, build = _program(settings, running)
    args = running.args if running in found and running is not None else _arguments(settings, build)
    prefix, conf = places_of(args, build)
    pid_file = pid_path(conf, prefix, build, args)
    single = 0 if running else _single(pid_file, build)
    return Nginx(build, program, args, conf, prefix, running, _problem(found, running, conf, pid_file), single)


def find_running() -> Optional[Tuple[str, str, str]]:
    """(binary, prefix, main configuration file) of the one nginx that root or we run here, None where it is not one.

    For who knows no configuration yet: without -p the prefix is the folder around it, since Debian compiles in another.
    One of a container or a chroot, whose files are others, is none.
    """
    found = set()
    for name in os.listdir("/proc"):
        running = read_running(int(name)) if name.isdigit() else None
        conf = _configuration_of(running) if running is not None and _user_of(running.pid) in (0, os.geteuid()) else ""
        if running is not None and conf and _identity(conf) and _seen_by(running.pid, conf) == _identity(conf):
            folder = os.path.dirname(conf)
            around = os.path.dirname(folder) if os.path.basename(folder) == "conf" else folder
            prefix = value_of(running.args, "-p") or around
            found.add((running.exe or running.program, os.path.normpath(prefix), os.path.normpath(conf)))
    return found.pop() if len(found) == 1 else None


def nginx_or_failure(settings: Dict[str, Any]) -> Nginx:
    """`find_nginx`, with a Failure (which-nginx) where none can be run."""
    try:
        return find_nginx(settings)
    except NGINX_ERRORS as error:
        raise Failure(
            "which-nginx",
            "nginx cannot be run: %s" % error,
            next="install nginx on %s, or set `binary` in [nginx]" % os.uname().nodename,
        )


def _program(settings: Dict[str, Any], running: Optional[Running]) -> Tuple[str, Build]:
    """What a test executes: the running one's own file, even where a newer one has taken its name."""
    if settings["binary"] == "auto" and running is not None and running.exe:
        program = "/proc/%d/exe" % running.pid
        return program, read_build(program, running.exe)
    binary = find_binary(settings)
    return binary, read_build(binary)


def _arguments(settings: Dict[str, Any], build: Build) -> List[str]:
    """-p and -c only where the build does not already give them: Debian's prefix is not its configuration's folder."""
    if os.path.realpath(places_of([], build)[1]) == os.path.realpath(settings["conf"]):
        return []
    return ["-p", settings["root"], "-c", settings["conf"]]


def places_of(args: List[str], build: Build) -> Tuple[str, str]:
    """(prefix, main configuration file) of an nginx of this build called with these options."""
    prefix = value_of(args, "-p").rstrip("/") or build.prefix
    return prefix, os.path.join(prefix, value_of(args, "-c") or build.conf_path)


def _problem(found: List[Running], running: Optional[Running], conf: str, pid_file: str) -> str:
    if os.path.lexists(pid_file + ".oldbin"):
        return "%s.oldbin is there: an upgrade of nginx is under way, or was left unfinished" % pid_file
    if len(found) > 1:
        pids = ", ".join(str(each.pid) for each in found)
        return "%d main processes of nginx use %s: %s" % (len(found), conf, pids)
    if running is not None and _root_of(running.pid) not in ("/", ""):
        return "nginx (process %d) runs in a chroot, %s" % (running.pid, _root_of(running.pid))
    return ""


def _root_of(pid: int) -> str:
    try:
        return os.readlink("/proc/%d/root" % pid)
    except OSError:
        return ""


def main_directives(conf: str, prefix: str, args: List[str]) -> List[Tuple[str, Tuple[str, ...]]]:
    """(name, arguments) of the main context; those of -g come first."""
    given = parse(os.fsencode(value_of(args, "-g")), "-g")
    return [(d.name, d.args) for d in given if d.depth == 0] + [(d[0], d[1]) for d in read_main(conf, prefix)]


def pid_path(conf: str, prefix: str, build: Build, args: List[str]) -> str:
    named = [values[0] for name, values in main_directives(conf, prefix, args) if name == "pid" and values]
    return os.path.join(prefix, named[0] if named else build.pid_path)


def read_pid(path: str) -> int:
    try:
        with open(path) as stream:
            return int(stream.read().strip() or "0")
    except (OSError, ValueError):
        return 0


def _named_by_pid_file(settings: Dict[str, Any]) -> Optional[Running]:
    """A main process whose title does not tell its configuration (cut off, or a wrapper's): then the pid file does."""
    _, build = _program(settings, None)
    args = _arguments(settings, build)
    prefix, conf = places_of(args, build)
    named = read_running(read_pid(pid_path(conf, prefix, build, args)))
    if named is None or not _is_trusted(named.pid, settings["conf"]):
        return None
    path = _configuration_of(named)
    if path and _seen_by(named.pid, path) is not None:
        return None  # it runs another configuration: the pid file is stale
    return named


def _single(pid_file: str, build: Build) -> int:
    """The process that the pid file names, where it is this nginx and has no title: it runs without a main process."""
    pid = read_pid(pid_file)
    title = read_title(pid) if pid > 0 else b""
    program = os.path.basename(os.fsdecode(title.split(b" ")[0]))
    return pid if program == os.path.basename(build.binary) and not title.startswith(b"nginx: ") else 0


def read_running(pid: int) -> Optional[Running]:
    """The nginx main process with this pid, None where it is none."""
    title = read_title(pid) if pid > 0 else b""
    if not title.startswith(MASTER_TITLE):
        return None
    try:
        exe = os.readlink("/proc/%d/exe" % pid)
    except PermissionError:
        exe = ""
    except OSError:
        return None
    program, args = parse_title(title)
    if _is_cut(pid, title):
        program, args = "", []
    return Running(pid, start_time(pid), exe, program, args)


def _is_cut(pid: int, title: bytes) -> bool:
    """It fills the room that nginx has for it, that of arguments and environment: started by `env -i` there is next to none."""
    try:
        with open("/proc/%d/stat" % pid, "rb", buffering=0) as stream:
            fields = stream.read().rpartition(b")")[2].split()
        room = int(fields[48]) - int(fields[45])  # env_end, arg_start; 0 for whom they are not told
        return room - len(title) in (2, 3)  # of a title a blank at its end is not read
    except (OSError, IndexError, ValueError):
        return False


def main_processes(conf: str) -> List[Running]:
    """Main processes that run this configuration file. Two of them are looked at again: one may be a worker being born."""
    end = time.monotonic() + SETTLE_S
    while True:
        processes = [read_running(int(name)) for name in os.listdir("/proc") if name.isdigit()]
        found = [each for each in processes if each is not None and _runs(each, conf)]
        if len(found) < 2 or time.monotonic() > end:
            return found
        time.sleep(POLL_S)


def _runs(running: Running, conf: str) -> bool:
    if not _is_trusted(running.pid, conf):
        return False
    path = _configuration_of(running)
    theirs, ours = _seen_by(running.pid, path) if path else None, _identity(conf)
    if ours is None:
        return os.path.normpath(path) == conf  # deleted: nginx runs on without it
    return theirs == ours


def _is_trusted(pid: int, conf: str) -> bool:
    """Its program will be executed by us with its options: whoever runs it must be able to do as much without us.

    Anybody can give a process the title of nginx.
    """
    try:
        owners = [0, os.geteuid(), os.stat(conf).st_uid]
    except OSError:
        owners = [0, os.geteuid()]
    return _user_of(pid) in owners


def _user_of(pid: int) -> int:
    """The effective user, -1 where it is gone. (/proc/PID itself belongs to root where a process only asks for it.)"""
    try:
        with open("/proc/%d/status" % pid, "rb") as stream:
            found = re.search(rb"^Uid:\s+\d+\s+(\d+)", stream.read(), re.M)
    except OSError:
        return -1
    return int(found.group(1)) if found else -1


def _configuration_of(running: Running) -> str:
    """The path of the main configuration that its title names, or that is compiled in; "" where that is unknown."""
    prefix, conf = value_of(running.args, "-p"), value_of(running.args, "-c")
    if not running.program:
        return ""  # the title is cut off
    if conf.startswith("/") or (conf and prefix):
        return os.path.join(prefix, conf)
    try:
        return places_of(running.args, read_build("/proc/%d/exe" % running.pid if running.exe else running.program))[1]
    except (OSError, subprocess.SubprocessError):
        return ""


def _seen_by(pid: int, path: str) -> Optional[Tuple[int, int]]:
    """(device, inode) of a path as that process sees it; as we see it where we may not look into its root."""
    try:
        os.stat("/proc/%d/root" % pid)
    except OSError:
        return _identity(path)
    return _identity("/proc/%d/root%s" % (pid, path))


def _identity(path: str) -> Optional[Tuple[int, int]]:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return (info.st_dev, info.st_ino)


def is_alive(running: Running) -> bool:
    return start_time(running.pid) == running.start and read_title(running.pid).startswith(MASTER_TITLE)

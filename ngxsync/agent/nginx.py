"""Which nginx: found once, from the pid file of the live configuration, and checked (TRANSACTION, which nginx)."""

import os
import re
import subprocess
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .answers import Failure
from .directives import read_main

MASTER_TITLE = b"nginx: master process "
WORKER_TITLE = b"nginx: worker process"
SHUTTING_DOWN = b"is shutting down"

Running = NamedTuple("Running", [("pid", int), ("start", int), ("exe", str), ("program", str), ("args", List[str])])
Build = NamedTuple(
    "Build",
    [("binary", str), ("text", str), ("prefix", str), ("conf_path", str), ("pid_path", str), ("error_log", str)],
)
# `problem` is "" or why nothing may be done with this nginx (code which-nginx)
Nginx = NamedTuple(
    "Nginx",
    [
        ("build", Build),
        ("args", List[str]),  # -p, -c, -g: what its test is called with
        ("conf", str),
        ("prefix", str),
        ("running", Optional[Running]),
        ("problem", str),
    ],
)


def read_title(pid: int) -> bytes:
    """The process title: cmdline without its padding. b"" where the process is gone or has none."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as stream:
            return stream.read().rstrip(b"\0 ").replace(b"\0", b" ")
    except OSError:
        return b""


def start_time(pid: int) -> int:
    """Clock ticks since boot at which the process started, with its pid its identity; 0 where it is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as stream:
            text = stream.read()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])


def parse_title(title: bytes) -> Tuple[str, List[str]]:
    """(program, [-p, -c, -g words with their values]) of "nginx: master process PROGRAM ARGS".

    The title has lost its quoting: a value reaches to the next " -LETTER " or the end, so "-g daemon on; user x;" stays whole.
    """
    words = os.fsdecode(title[len(MASTER_TITLE) :])
    program, _, rest = words.partition(" -")
    args: List[str] = []
    for option, value in re.findall(r"-([a-zA-Z])\s*(.*?)(?=\s+-[a-zA-Z](?:\s|$)|$)", "-" + rest if rest else ""):
        if option in "pcg" and value:
            args += ["-" + option, value]
    return program.strip(), args


def read_build(binary: str) -> Build:
    """`nginx -V`, with its compiled-in paths. Raises OSError or subprocess.SubprocessError where it cannot be run."""
    done = subprocess.run(
        [binary, "-V"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=10,
        env={"LC_ALL": "C"},
    )
    return parse_build(binary, done.stdout.decode("utf-8", "replace"))


def parse_build(binary: str, text: str) -> Build:
    def option(name: str, default: str) -> str:
        found = re.search(r"--%s=('[^']*'|\S+)" % name, text)
        return found.group(1).strip("'") if found else default

    prefix = option("prefix", "/usr/local/nginx").rstrip("/") or "/"
    conf_path, pid_path, error_log = (
        os.path.join(prefix, option(name, default))
        for name, default in (
            ("conf-path", "conf/nginx.conf"),
            ("pid-path", "logs/nginx.pid"),
            ("error-log-path", "logs/error.log"),
        )
    )
    return Build(binary, text, prefix, conf_path, pid_path, error_log)


def find_binary(settings: Dict[str, Any], candidate: Optional[str]) -> str:
    """`binary` where it is set, else the running one's, ROOT/sbin/nginx, or the first in PATH. Raises FileNotFoundError."""
    if settings["binary"] != "auto":
        return str(settings["binary"])
    if candidate:
        return candidate
    folders = [os.path.join(settings["root"], "sbin"), "/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"]
    for folder in folders + os.environ.get("PATH", "").split(":"):
        path = os.path.join(folder, "nginx")
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise FileNotFoundError("no nginx in %s" % ":".join(folders))


def find_nginx(settings: Dict[str, Any]) -> Nginx:
    """Raises FileNotFoundError where no binary is found, OSError or SubprocessError where it does not run."""
    conf = settings["conf"]
    masters = _masters_of(conf, settings["root"])
    program = masters[0].exe if masters and settings["binary"] == "auto" else None
    build = read_build(find_binary(settings, program))
    args, prefix = _arguments(settings, build)
    pid_file = pid_path(conf, prefix, build)
    named = _from_pid_file(pid_file)
    if named is not None and all(known.pid != named.pid for known in masters):
        if not _value(named.args, "-c") or _uses(named, conf, prefix):  # else a stale pid file that names another nginx
            masters.append(named)
    problem = ""
    if os.path.exists(pid_file + ".oldbin"):
        problem = "%s.oldbin is there: an upgrade of nginx is under way" % pid_file
    elif len(masters) > 1:
        problem = "%d main processes of nginx use %s: %s" % (len(masters), conf, ", ".join(str(m.pid) for m in masters))
    running = masters[0] if masters else None
    if running is not None:
        args = running.args
        prefix = _value(args, "-p") or build.prefix
        conf = os.path.join(prefix, _value(args, "-c")) if _value(args, "-c") else build.conf_path
    return Nginx(build, args, conf, prefix.rstrip("/") or "/", running, problem)


def _value(args: List[str], option: str) -> str:
    return args[args.index(option) + 1] if option in args else ""


def _arguments(settings: Dict[str, Any], build: Build) -> Tuple[List[str], str]:
    """-p and -c only where the build does not already give them: Debian's prefix is not its configuration's folder."""
    if os.path.realpath(build.conf_path) == os.path.realpath(settings["conf"]):
        return [], build.prefix
    return ["-p", settings["root"], "-c", settings["conf"]], settings["root"]


def pid_path(conf: str, prefix: str, build: Build) -> str:
    for name, args, _file, _line in read_main(conf, prefix):
        if name == "pid" and args:
            return os.path.join(prefix, args[0])
    return build.pid_path


def _from_pid_file(path: str) -> Optional[Running]:
    try:
        with open(path) as stream:
            return read_running(int(stream.read().strip() or "0"))
    except (OSError, ValueError):
        return None


def read_running(pid: int) -> Optional[Running]:
    """The nginx main process with this pid, None where it is none."""
    title = read_title(pid)
    if pid <= 0 or not title.startswith(MASTER_TITLE):
        return None
    try:
        exe = os.readlink("/proc/%d/exe" % pid)
    except OSError:
        return None
    program, args = parse_title(title)
    return Running(pid, start_time(pid), exe, program, args)


def _masters_of(conf: str, root: str) -> List[Running]:
    """Main processes whose title names this configuration, and who see the same file behind that name."""
    found = []
    for name in os.listdir("/proc"):
        running = read_running(int(name)) if name.isdigit() else None
        if running is not None and _uses(running, conf, root):
            found.append(running)
    return found


def _uses(running: Running, conf: str, root: str) -> bool:
    given = _value(running.args, "-c")
    if not given:
        return False  # its configuration is compiled in: the pid file tells
    path = os.path.join(_value(running.args, "-p") or root, given)
    try:
        seen = os.stat("/proc/%d/root%s" % (running.pid, path))
        ours = os.stat(conf)
    except OSError:
        return False
    return (seen.st_dev, seen.st_ino) == (ours.st_dev, ours.st_ino)


def is_alive(running: Running) -> bool:
    return start_time(running.pid) == running.start and read_title(running.pid).startswith(MASTER_TITLE)


def test_program(nginx: Nginx) -> str:
    """What to execute for a test: the running one's own file, even where a newer one has taken its name."""
    if nginx.running is None:
        return nginx.build.binary
    exe = nginx.running.exe
    return "/proc/%d/exe" % nginx.running.pid if exe.endswith(" (deleted)") else exe


def test_argv(nginx: Nginx) -> List[str]:
    return [nginx.build.binary, "-t"] + nginx.args


def nginx_or_failure(settings: Dict[str, Any]) -> Nginx:
    """The nginx of this host. Raises Failure (which-nginx)."""
    try:
        return find_nginx(settings)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        hint = "install nginx on this host, or set `binary`"
        raise Failure("which-nginx", "nginx cannot be run here: %s" % error, next=hint)

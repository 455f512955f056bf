"""Where this host's keepalived reads its configuration, and what stands there: the running one is asked first."""

import errno
import glob
import itertools
import os
import re
import signal
import stat
import subprocess
from typing import Dict, List, NamedTuple, Optional, Tuple

from .vrrplines import Problem, Reader, Statement, Text, top_blocks

DEFAULT = "/etc/keepalived/keepalived.conf"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST_FILES = 200
LARGEST = 1 << 20  # bytes of one file
ASK_S = 5.0
ENDING = {"--config-test", "-t", "--version", "-v", "--help", "-h"}  # with one of these it is no daemon
QUOTED = re.compile(r"('\s*auth_p\w*)\b.*", re.I)  # a line of the file that is wrong in itself
NO_TEST = re.compile(r"un(known|recognized) option \W*config-test", re.I)  # one older than 2.0
UNFINISHED = "it was ended by signal %d before it was through"
LONGEST, MOST_LINES = 300, 50  # of what keepalived says

Running = NamedTuple("Running", [("pid", int), ("args", List[str]), ("cwd", str), ("path", str)])
Read = NamedTuple("Read", [("file", str), ("statements", List[Statement]), ("problems", List[Problem])])


def find_running() -> Optional[Running]:
    """The main process of the keepalived in this network; a container may run its own."""
    network = _link("/proc/self/ns/net")
    found: Dict[int, Running] = {}
    parents: Dict[int, int] = {}
    for name in os.listdir("/proc"):
        args = _args(name) if name.isdigit() else []
        is_it = bool(args) and os.path.basename(args[0]) == "keepalived" and not ENDING & set(args)
        # whose network it is in nobody but root is told
        if is_it and _link("/proc/%s/ns/net" % name) in (network, ""):
            found[int(name)] = Running(int(name), args, _link("/proc/%s/cwd" % name) or "/", _path_of(name))
            parents[int(name)] = _parent(name)
    return next((found[pid] for pid in sorted(found) if parents[pid] not in found), None)


def _args(pid: str) -> List[str]:
    """The words that it was started with; none where it ended, or is a thread of the kernel."""
    text = _bytes("/proc/%s/cmdline" % pid)
    return [os.fsdecode(word) for word in text.rstrip(b"\0").split(b"\0")] if text else []


def _path_of(pid: str) -> str:
    """Where it looks for commands without a slash."""
    for each in _bytes("/proc/%s/environ" % pid).split(b"\0"):
        if each.startswith(b"PATH="):
            return os.fsdecode(each[5:])
    return PATH


def _parent(pid: str) -> int:
    fields = _bytes("/proc/%s/stat" % pid).rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(1 << 17)
    except OSError:
        return b""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def option_of(args: List[str], *names: str) -> str:
    """The value of the last of these options among a keepalived's own, "" without: -f FILE, -fFILE, --use-file=FILE."""
    value = ""
    for at, word in enumerate(args[1:], 1):
        name, has_value, rest = word.partition("=")
        if name.startswith("--"):
            if name[2:] in names:
                value = rest if has_value else (args[at + 1] if at + 1 < len(args) else "")
        elif word.startswith("-") and word[1:2] in names:
            value = word[2:] or (args[at + 1] if at + 1 < len(args) else "")
    return value


def config_id(running: Optional[Running]) -> str:
    """What @conditions are compared with: -i, or the first part of the host's name."""
    given = option_of(running.args, "i", "config-id") if running else ""
    return given or os.uname().nodename.split(".")[0]


def read(running: Optional[Running]) -> Read:
    """Raises OSError where the main file cannot be read."""
    named = option_of(running.args, "f", "use-file") if running else ""
    path = os.path.normpath(os.path.join(running.cwd if running else "/", named or DEFAULT))
    files = Files()
    reader = Reader(config_id(running), files.find)
    statements = list(reader.read(path, read_text(path)))
    passed_over = ([path] if os.stat(path).st_mode & 0o111 else []) + files.passed_over
    told = [Problem(each, 0, "it is executable, and keepalived reads no such file") for each in passed_over]
    return Read(path, statements, told + reader.problems)


def moved_by(kind: str, name: str) -> List[str]:
    """The addresses that this INSTANCE, or GROUP of them, moves; [] where nothing says so. Raises OSError."""
    blocks = list(top_blocks(read(find_running()).statements))
    names = {name}
    if kind == "GROUP":
        groups = [inside for header, inside in blocks if header.words == ["vrrp_sync_group", name]]
        names = {word for inside in groups for each in _lines_in(inside, "group") for word in each.words}
    instances = [
        inside for header, inside in blocks if header.words[0] == "vrrp_instance" and set(header.words[1:]) & names
    ]
    lines = [
        each for inside in instances for each in _lines_in(inside, "virtual_ipaddress", "virtual_ipaddress_excluded")
    ]
    return [each.words[0] for each in lines]


def _lines_in(inside: List[Statement], *names: str) -> List[Statement]:
    found = [lines for header, lines in top_blocks(inside) if header.words[0] in names]
    return [each for lines in found for each in lines if each.words not in (["{"], ["}"])]


class Files:
    """What includes find; so many in all."""

    def __init__(self) -> None:
        self._left = MOST_FILES
        self.passed_over: List[str] = []

    def find(self, pattern: str, folder: str) -> List[Text]:
        """As keepalived: by the shell's patterns, braces too; directories are passed over, executable files read as empty."""
        found: List[Text] = []
        for each in braces(os.path.join(folder, pattern)):
            for path in sorted(glob.glob(each)):
                if os.path.isdir(path):
                    continue
                self._left -= 1
                if self._left < 0:
                    raise OSError(errno.E2BIG, "there are more than %d files" % MOST_FILES)
                is_passed_over = bool(os.stat(path).st_mode & 0o111)
                if is_passed_over and path not in self.passed_over:
                    self.passed_over.append(path)
                found.append((os.path.normpath(path), "" if is_passed_over else read_text(path)))
        return found


def braces(pattern: str) -> List[str]:
    """ "{a,b{c,d}}" as the shell expands it."""
    expanded, before = [pattern], []  # type: List[str], List[str]
    while expanded != before:
        before = expanded
        parts = (part for each in before for part in _first_braces(each))
        expanded = list(dict.fromkeys(itertools.islice(parts, MOST_FILES)))
    return expanded


def _first_braces(pattern: str) -> List[str]:
    found = re.search(r"\{([^{}]*,[^{}]*)\}", pattern)
    if not found:
        return [pattern]
    begin, end = pattern[: found.start()], pattern[found.end() :]
    return [begin + part + end for part in found.group(1).split(",")]


def read_text(path: str) -> str:
    """Raises OSError; a fifo or a device in its place keeps nobody waiting."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        text = stream.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise OSError(errno.EFBIG, "it is larger than %d bytes" % LARGEST)
    return text.decode("utf-8", "surrogateescape")


def version(running: Optional[Running]) -> str:
    """ "2.2.7" of the program that runs, or that would; "" where there is none."""
    _, said = _asked(running, "--version")
    found = re.search(r"Keepalived v([0-9][0-9.]*)", said)
    return found.group(1) if found else ""


def complaints(running: Optional[Running], file: str, secrets: List[str]) -> List[str]:
    """What keepalived's own test of its configuration says, each line once, without these passwords; nothing where it passes."""
    given = option_of(running.args, "i", "config-id") if running else ""
    words = ("--config-test", "-l", "-f", file, *(["-i", given] if given else []))
    status, said = _asked(running, *words)
    if status == -signal.SIGTERM:
        # 2.2.7 takes itself for orphaned where a script's user is not root, unless it has no parent at all [measured]
        orphan = _asked(running, *words, before=("unshare", "--pid", "--fork", "--kill-child"))
        status, said = (status, said) if orphan[1].startswith("unshare:") else orphan
    if not status or NO_TEST.search(said):
        return []
    if status < 0:
        said += "\n" + UNFINISHED % -status
    said = QUOTED.sub(r"\1 ***'", said)
    for secret in secrets:
        said = said.replace(secret, "***") if secret else said
    lines = [line.strip()[:LONGEST] for line in said.splitlines() if line.strip()]
    return list(dict.fromkeys(lines))[:MOST_LINES]


def _asked(running: Optional[Running], *words: str, before: Tuple[str, ...] = ()) -> Tuple[int, str]:
    """(exit status, all that it said) of the program that runs, or that would; (0, "") where there is none, or no answer."""
    program = "/proc/%d/exe" % running.pid if running else ""
    try:
        done = subprocess.run(
            before + (program if os.access(program, os.X_OK) else "keepalived",) + words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": PATH, "LC_ALL": "C"},
            timeout=ASK_S,
        )
    except (OSError, subprocess.SubprocessError):
        return 0, ""
    return done.returncode, done.stdout.decode("utf-8", "replace")

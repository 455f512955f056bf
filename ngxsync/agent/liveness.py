"""check-nginx, which keepalived may call each second: while a note holds it looks into /proc, and nothing heavy is imported.

The note, in a folder of /run that is root's alone, names the main process that the slow look (verdict.py) has found. Exit status
0: nginx lives; 1: nginx fails. It fails only where nginx does: a fault of ours, or a wrong argument, moves no VIP.
"""

import os

TYPE_CHECKING = False  # typing alone takes as long as all of this
if TYPE_CHECKING:
    from typing import List, Optional, Tuple

FOLDER = "/run/ngxsync-agent"
STANDARD_ROOT = "/usr/local/nginx"
MASTER_TITLE = b"nginx: master process "  # as in nginx.py, which is heavy
WORKER_TITLE = b"nginx: worker process"
SHUTTING_DOWN = b"is shutting down"
DEAD, STOPPED = b"ZXx", b"Tt"  # states of /proc/PID/stat
MAIN, SINGLE = "main", "single"  # what a note names: a main process, or an nginx without one (master_process off)
VERSION = "1"
LARGEST = 16384
SHARE = 0.8  # of the interval: after that keepalived would end us and count it as a failure
SHORTEST_S = 0.3
LOOK_S = 0.1  # what is left for a slow look


class Asked:
    """The arguments. What is wrong among them is in `problems`, and its default counts."""

    def __init__(self, argv: "List[str]") -> None:
        self.root, self.conf, self.binary, self.url = STANDARD_ROOT, "conf/nginx.conf", "auto", ""
        self.interval_s = 2.0
        self.silent = ""  # why the URL did not answer, where it was asked
        self.problems = []  # type: List[str]
        self._take(list(argv))
        self.root = os.path.normpath(self.root)
        self.conf = os.path.normpath(os.path.join(self.root, self.conf))

    def _take(self, words: "List[str]") -> None:
        while words:
            option, equals, value = words.pop(0).partition("=")
            if option not in ("--root", "--conf", "--binary", "--url", "--interval"):
                self.problems.append("%s is no option of check-nginx" % option)
            elif not equals and not words:
                self.problems.append("%s has no value" % option)
            else:
                self._set(option[2:], value if equals else words.pop(0))

    def _set(self, name: str, value: str) -> None:
        if name == "interval":
            try:
                self.interval_s = float(value.rstrip("s"))
            except ValueError:
                self.interval_s = -1.0
            if not 0 < self.interval_s < 86400:
                self.problems.append("--interval %s is no number of seconds" % value)
                self.interval_s = 2.0
        elif "\n" in value or "\0" in value or not value or (name == "root" and not value.startswith("/")):
            self.problems.append("--%s %r cannot be used" % (name, value))
        else:
            setattr(self, name, value)

    @property
    def note(self) -> str:
        """The path of the note, without its ending."""
        return FOLDER + "/" + self.conf.replace("/", "-")[-200:].lstrip("-")

    def lines(self) -> "List[str]":
        return [VERSION, self.root, self.conf, self.binary]


class Process:
    """What /proc/PID/stat says, in one look. `start` is 0 where it is gone."""

    def __init__(self, pid: int) -> None:
        self.state, self.parent, self.start = b"X", 0, 0
        text = read("/proc/%d/stat" % pid)
        fields = text[text.rfind(b")") + 2 :].split()
        if len(fields) > 19:
            self.state, self.parent, self.start = fields[0], int(fields[1]), int(fields[19])

    def is_at_work(self) -> bool:
        return self.start > 0 and self.state not in DEAD and self.state not in STOPPED


def read(path: str) -> bytes:
    """b"" where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, LARGEST)
    except OSError:
        return b""
    finally:
        os.close(fd)


def read_whole(path: str) -> bytes:
    """b"" where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def known(asked: Asked) -> "Optional[Tuple[int, int, str, str]]":
    """(pid, start, kind, unit) of a note that is ours and about these arguments."""
    try:
        fd = os.open(asked.note + ".nginx", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        info = os.fstat(fd)
        lines = os.fsdecode(os.read(fd, LARGEST)).split("\n")
    finally:
        os.close(fd)
    is_ours = info.st_uid == os.geteuid() and info.st_mode & 0o170022 == 0o100000
    if not is_ours or lines[:4] != asked.lines() or len(lines) != 9 or lines[6] not in (MAIN, SINGLE):
        return None
    return int(lines[4]), int(lines[5]), lines[6], lines[7]


def holds(note: "Tuple[int, int, str, str]") -> bool:
    """The process that a note names lives, and serves."""
    pid, start, kind = note[:3]
    process = Process(pid)
    if process.start != start or not process.is_at_work():
        return False
    return kind == SINGLE or (read("/proc/%d/cmdline" % pid).startswith(MASTER_TITLE) and serving_worker(pid) > 0)


def serving_worker(pid: int) -> int:
    """A worker of this main process that is at work, 0 where there is none."""
    for child in children(pid):
        title = read("/proc/%d/cmdline" % child)
        if title.startswith(WORKER_TITLE) and SHUTTING_DOWN not in title and Process(child).is_at_work():
            return child
    return 0


def children(pid: int) -> "List[int]":
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid), "rb") as stream:
            return [int(word) for word in stream.read().split()]
    except FileNotFoundError:  # gone, or a kernel without CONFIG_PROC_CHILDREN
        return [child for child in processes() if Process(child).parent == pid]
    except OSError:
        return []


def processes() -> "List[int]":
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def any_serves() -> bool:
    """Some nginx of root's (or our own) here serves: all that can be told where we cannot look as we should."""
    for pid in processes():
        if read("/proc/%d/cmdline" % pid).startswith(MASTER_TITLE) and serving_worker(pid):
            try:
                if os.stat("/proc/%d" % pid).st_uid in (0, os.geteuid()):
                    return True
            except OSError:
                continue
    return False


def left_s(asked: Asked) -> float:
    """How long we may still take: counted from the start of this process, its interpreter's own included."""
    try:
        up = float(read("/proc/uptime").split()[0])
        used = up - Process(os.getpid()).start / float(os.sysconf("SC_CLK_TCK"))
    except (ValueError, IndexError):
        used = 0.1
    return max(SHORTEST_S, asked.interval_s * SHARE - max(0.0, used))


def tell(text: str) -> None:
    try:
        os.write(2, os.fsencode("check-nginx: %s\n" % text))
    except OSError:
        pass


def check(argv: "List[str]") -> int:
    """The exit status."""
    try:
        asked = Asked(argv)
        for problem in asked.problems:
            tell("%s; it is left out" % problem)
    except Exception as error:  # noqa: BLE001 - no mistake of ours moves the VIP
        tell("its arguments cannot be read: %r" % error)
        asked = Asked([])
    try:
        note = known(asked)
        if note is not None and holds(note):
            asked.silent = unanswered(asked)
            if not asked.silent:
                return 0
            os.rename(asked.note + ".nginx", asked.note + ".was")  # the slow look follows how it goes on
    except Exception as error:  # noqa: BLE001
        tell("the note about nginx cannot be used: %r" % error)
    try:
        from . import verdict

        return verdict.check(asked)
    except Exception as error:  # noqa: BLE001
        return last_look("a fault of ngxsync, %r" % error)


def last_look(why: str) -> int:
    """Where a fault of ours keeps us from a verdict."""
    if any_serves():
        tell("%s; some nginx serves here, so it counts as alive" % why)
        return 0
    tell("%s; no nginx serves here" % why)
    return 1


def unanswered(asked: Asked) -> str:
    """Why the URL does not answer; "" where it does, or none is given."""
    if not asked.url:
        return ""
    from . import loopback

    try:
        return loopback.ask(asked.url, left_s(asked) - LOOK_S)
    except loopback.Odd as error:
        tell("%s; it is left out" % error)
        return ""

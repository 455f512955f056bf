"""What check-nginx and notify keep in /run, until the next boot: which nginx, the tries to start it, what was said, a lock.

The folder is root's alone; where it cannot be written nothing is started, since tries that nobody counts are a loop.
"""

import errno
import fcntl
import json
import os
import stat
import syslog
import time
from typing import List, NamedTuple, Optional

from . import liveness

TRIES, WITHIN_S = 3, 600.0
STARTING = b"starting"
UNFINISHED = "it was not seen to its end"
POLL_S = 0.02
UNLOCKED = -1  # of `lock`: nothing can be written here
STANDARD_STATE = "/var/lib/ngxsync"
CLOCK_BOOTTIME = 7  # time.CLOCK_BOOTTIME, which Python 3.6 does not name

# `files`: what is looked at again before a further try, and `mark` what they were then; `why`: "" where it helped
Try = NamedTuple("Try", [("at", float), ("why", str), ("files", List[str]), ("mark", str)])


class Notes:
    """Those about one nginx. `path` is where they lie, without their endings."""

    def __init__(self, path: str) -> None:
        self.path = path

    # the lock: one looks and starts at a time

    def lock(self, end: float) -> Optional[int]:
        """Its descriptor, UNLOCKED where nothing can be written, None where another process has it until `end`."""
        try:
            make_folder()
            fd = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return UNLOCKED
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(fd, 0)
                return fd
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    return UNLOCKED
            if time.monotonic() >= end:
                os.close(fd)
                return None
            time.sleep(POLL_S)

    def begin_start(self, fd: int) -> None:
        """Others that find the lock held then know that nginx is dead."""
        os.pwrite(fd, STARTING, 0)

    def is_starting(self) -> bool:
        try:
            fd = os.open(self.path + ".lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except OSError:
            return os.pread(fd, len(STARTING), 0) == STARTING
        finally:
            os.close(fd)

    # which nginx

    def write_nginx(self, lines: List[str]) -> None:
        """Where it cannot be written the next check looks slowly again."""
        _write(self.path + ".nginx", "\n".join(lines + [""]).encode("utf-8", "surrogateescape"))

    # tries

    def tries(self) -> List[Try]:
        """Those of the last ten minutes; a record that is damaged is none."""
        try:
            found = [Try(*fields) for fields in json.loads(liveness.read_whole(self.path + ".tries").decode("ascii"))]
            return [each for each in found if _is_whole(each) and 0 <= now() - each.at < WITHIN_S]
        except (ValueError, TypeError):
            return []

    def add_try(self, why: str, files: List[str], mark: str) -> None:
        """Raises OSError: then nothing is to be tried."""
        kept = [each._replace(files=[]) for each in self.tries()] + [Try(now(), why, files, mark)]
        make_folder()
        put(self.path + ".tries", json.dumps([list(each) for each in kept[-TRIES:]]).encode("ascii"))

    def end_try(self, why: str) -> None:
        """How the latest one ended, and when."""
        tries = self.tries()
        if tries:
            self._keep(tries[:-1] + [tries[-1]._replace(at=now(), why=why)])

    def was_started(self, at: float) -> None:
        """nginx lives since then. Where our tries had failed before, somebody else has mended it: they count no more."""
        tries = self.tries()
        if tries and tries[-1].why not in ("", UNFINISHED) and tries[-1].at < at:
            self._keep([each for each in tries if not each.why])

    def _keep(self, tries: List[Try]) -> None:
        _write(self.path + ".tries", json.dumps([list(each) for each in tries]).encode("ascii"))

    # what was said

    def is_said(self, text: str) -> bool:
        """It was the last that was said, and nothing has ended it."""
        return liveness.read_whole(self.path + ".said") == os.fsencode(text)

    def say(self, text: str, level: int = syslog.LOG_ERR) -> None:
        """To syslog, once for as long as it stays so. Where that cannot be remembered it is not: each second is too often."""
        if not self.is_said(text) and _write(self.path + ".said", os.fsencode(text)):
            log(text, level)

    def alive(self, text: str, is_news: bool = False) -> None:
        """What was said is over; where nothing was, this is told only where it is news itself."""
        try:
            os.unlink(self.path + ".said")
        except OSError:
            if not is_news:
                return
        log(text, syslog.LOG_NOTICE)


def _is_whole(each: Try) -> bool:
    texts = [each.why, each.mark, *each.files] if isinstance(each.files, list) else [None]
    return isinstance(each.at, float) and all(isinstance(text, str) for text in texts)


def log(text: str, level: int = syslog.LOG_NOTICE) -> None:
    syslog.openlog("ngxsync", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(level, "".join(char if char.isprintable() else "?" for char in text)[:900])


def own_state_dir() -> str:
    """Where this agent is installed; the standard one where it runs as a part of the package."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    is_installed = str(__package__) == "ngxsync_agent"  # the package has a __main__.py too
    return os.path.dirname(os.path.dirname(folder)) if is_installed else STANDARD_STATE


def make_folder() -> None:
    """Raises OSError where it cannot be made, or is somebody else's."""
    try:
        os.mkdir(liveness.FOLDER, 0o700)
    except FileExistsError:
        pass
    info = os.lstat(liveness.FOLDER)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise FileExistsError(errno.EEXIST, "is no folder of ngxsync's own", liveness.FOLDER)


def _write(path: str, data: bytes) -> bool:
    try:
        make_folder()
        put(path, data)
        return True
    except OSError:
        return False


def put(path: str, data: bytes) -> None:
    """Whole or not at all. Raises OSError."""
    temporary = "%s.%d" % (path, os.getpid())
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
        os.rename(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


def now() -> float:
    """Seconds since boot: no clock that is set."""
    return time.clock_gettime(CLOCK_BOOTTIME)

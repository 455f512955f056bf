"""notify, as keepalived calls it at a change of state: it hands the word on and returns; takeover.py does what follows.

`notify [--vip A,B] TYPE NAME STATE PRIORITY` for one word, `notify [--vip A,B] --fifo PATH` reads them, one a line, to the end.
Words come twice, late or never: of each instance the newest alone is worked on, one at a time, and what counts is the state found.
"""

import hashlib
import json
import os
import re
import select
import signal
import socket
import sys
from typing import Callable, Dict, List, NamedTuple, Optional

from . import liveness, runnotes

PRIORITY = re.compile(r"-?\d+\Z")
ROLES = {"MASTER": "master", "BACKUP": "backup", "FAULT": "fault", "STOP": "stop", "DELETED": "stop"}
OTHERS = ("MASTER_RX_LOWER_PRI", "MASTER_PRIORITY", "BACKUP_PRIORITY")  # of an instance, and no change of its role
SERVERS = ("VS", "RS")  # of a fifo that IPVS has too
LONGEST_LINE = 4096
LAST_WORD_S = 2.0
ENDS_S = 600  # what follows a word has ended by then, whatever hangs
SAID_AT = "NGXSYNC_SAID_AT"  # in the environment: when a reader took this word
USAGE = "usage: ngxsync-agent notify [--vip A,B] TYPE NAME STATE PRIORITY | [--vip A,B] --fifo PATH"

Word = NamedTuple("Word", [("at", float), ("kind", str), ("name", str), ("role", str)])


class Asked:
    """The options and what is left of the arguments."""

    def __init__(self, argv: List[str]) -> None:
        self.vips: List[str] = []
        self.fifo = ""
        self.nginx: List[str] = []  # options as check-nginx takes them
        self.rest: List[str] = []
        words = list(argv)
        while words:
            option, equals, value = words.pop(0).partition("=")
            if option not in ("--vip", "--fifo", "--root", "--conf", "--binary"):
                self.rest.append(option + equals + value)
                continue
            value = value if equals else words.pop(0) if words else ""
            if option == "--vip":
                self.vips = [normal(each) for each in value.replace(",", " ").split()]
            elif option == "--fifo":
                self.fifo = value
            else:
                self.nginx += [option, value]

    def again(self, word: Word) -> List[str]:
        """The arguments of one call for this word."""
        options = (["--vip", ",".join(self.vips)] if self.vips else []) + self.nginx
        return options + [word.kind, word.name, word.role.upper(), "0"]


def normal(vip: str) -> str:
    """As the kernel has it, without a prefix; what is no address is carried by nobody."""
    address = vip.partition("/")[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, address))
        except (OSError, ValueError):
            continue
    return address


def parse_word(text: str) -> Optional[Word]:
    """A line of the fifo, or the arguments with blanks between them; None for what is no word of a role."""
    words = text.split()
    if words and PRIORITY.match(words[-1]):
        words.pop()
    if len(words) < 2 or words[0] not in ("INSTANCE", "GROUP") or words[-1] not in ROLES:
        return None
    name = " ".join(words[1:-1])  # which may have anything in it
    is_quoted = len(name) > 1 and name[0] == name[-1] == '"'
    return Word(runnotes.now(), words[0], (name[1:-1] if is_quoted else name)[:200], ROLES[words[-1]])


def is_of_no_role(text: str) -> bool:
    """What keepalived says as well, each time that it happens, and nobody here minds."""
    words = [word for word in text.split() if not PRIORITY.match(word)]
    return bool(words) and (words[0] in SERVERS or (words[0] in ("INSTANCE", "GROUP") and words[-1] in OTHERS))


def main(argv: List[str]) -> int:
    """The exit status. keepalived looks at none."""
    asked = Asked(argv)
    if asked.fifo:
        return _read_all(asked)
    word = parse_word(" ".join(asked.rest))
    if word is None and is_of_no_role(" ".join(asked.rest)):
        return 0
    if word is None:
        told = "notify: not understood: %s" % " ".join(asked.rest)[:200]
        runnotes.log(told)
        sys.stderr.write("%s\n%s\n" % (told, USAGE))
        return 2 if len(asked.rest) < 3 else 0
    said_at = os.environ.pop(SAID_AT, "")
    if (
        said_at
    ):  # by a reader, which has noted it: others that it handed on since are newer, however late this one begins
        word = word._replace(at=float(said_at))
    else:
        note_word(word)
    hand_on(_follow, asked, word)
    return 0


# the fifo


def _read_all(asked: Asked) -> int:
    try:
        fd = os.open(asked.fifo, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        runnotes.log("notify: %s cannot be read: %s" % (asked.fifo, error.strerror))
        sys.stderr.write("%s: %s\n" % (asked.fifo, error.strerror))
        return 1
    ended, ending = os.pipe()
    os.set_blocking(ending, False)
    signal.set_wakeup_fd(ending)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)  # a handler that raised could lose what was just read
    text = b""
    last_s: Optional[float] = (
        None  # how long it is still read once it is to end: keepalived may say STOP only after that
    )
    while True:
        ready = select.select([fd, ended] if last_s is None else [fd], [], [], last_s)[0]
        if ended in ready:
            last_s = LAST_WORD_S
        part = os.read(fd, 4096) if fd in ready else b""
        if not part and ended not in ready:
            break  # its other end is closed, or nothing more came
        text = _taken(asked, text + part)
    _taken(asked, text + b"\n")
    return 0


def _taken(asked: Asked, text: bytes) -> bytes:
    """Each whole line is handed on; what is left begins the next."""
    lines = text.split(b"\n")
    for line in lines[:-1]:
        said = line.decode("utf-8", "replace")
        word = parse_word(said)
        if word is not None:
            note_word(word)
            hand_on(_exec_current, asked, word)
        elif said.strip() and not is_of_no_role(said):
            runnotes.log("notify: not understood: %s" % said[:200])
    return lines[-1] if len(lines[-1]) < LONGEST_LINE else b""


def _exec_current(asked: Asked, word: Word) -> None:
    """By the agent of now: this reader may be older, and its folder gone."""
    current = os.path.join(runnotes.own_state_dir(), "agent", "current")
    if os.path.exists(os.path.join(current, "__main__.py")):
        os.environ[SAID_AT] = repr(word.at)  # no option: `current` may be of an earlier release
        os.execv(sys.executable, [sys.executable, "-I", "-S", current, "notify"] + asked.again(word))
    _follow(asked, word)


# one word


def note_word(word: Word) -> None:
    """The newest of this instance: who waits with an older one need not begin. Where it cannot be noted each is worked on."""
    try:
        runnotes.make_folder()
        if newest(word) is word:
            runnotes.put(_path(word, "word"), json.dumps(list(word)).encode("ascii"))
    except OSError:
        return


def newest(word: Word) -> Word:
    try:
        found = Word(*json.loads(liveness.read_whole(_path(word, "word")).decode("ascii")))
        is_newer = word.at < found.at <= runnotes.now()  # what an earlier boot left is not
        return found if is_newer and found.role in ROLES.values() else word
    except (ValueError, TypeError):
        return word


def is_done(word: Word) -> bool:
    """It was worked on, or a newer one was."""
    try:
        return word.at <= float(liveness.read_whole(_path(word, "done"))) <= runnotes.now()
    except ValueError:
        return False


def _path(word: Word, name: str) -> str:
    """Of one instance or group: another one's word takes no place of this one's."""
    about = hashlib.sha256(("%s %s" % (word.kind, word.name)).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return "%s/notify.%s.%s" % (liveness.FOLDER, about, name)


def hand_on(work: Callable[[Asked, Word], None], asked: Asked, word: Word) -> None:
    """In a process of nobody's, in a session of its own; this one goes on at once, and takes the next word too where none can be made."""
    try:
        child = os.fork()
    except OSError as error:
        runnotes.log("notify: %s of %s is not followed: %s" % (word.role, word.name, error.strerror))
        return
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.alarm(ENDS_S)
            os.umask(0o077)
            work(asked, word)
    except Exception as error:  # noqa: BLE001 - nobody listens but syslog
        runnotes.log("notify: a fault of ngxsync: %r" % error)
    finally:
        os._exit(0)


def _follow(asked: Asked, word: Word) -> None:
    """Under the lock, unless somebody has worked on a newer word meanwhile."""
    from . import takeover, unit

    unit.own_scope()
    notes = runnotes.Notes(liveness.FOLDER + "/notify")
    lock = notes.lock(float("inf"))
    word = newest(word)
    if lock != runnotes.UNLOCKED and is_done(word):
        return
    takeover.follow(word, asked.vips, _settings(asked), runnotes.own_state_dir(), notes)
    try:
        runnotes.put(_path(word, "done"), repr(word.at).encode("ascii"))
    except OSError:
        return


def _settings(asked: Asked) -> Optional[Dict[str, str]]:
    """As this call, or the one check-nginx of this host, names them; None where neither does."""
    from .verdict import settings_of

    if asked.nginx:
        return settings_of(liveness.Asked(asked.nginx))
    try:
        names = [name for name in os.listdir(liveness.FOLDER) if name.endswith(".nginx")]
    except OSError:
        return None
    if len(names) != 1:
        return None
    lines = os.fsdecode(liveness.read_whole(os.path.join(liveness.FOLDER, names[0]))).split("\n")
    return {"root": lines[1], "conf": lines[2], "binary": lines[3]} if len(lines) == 9 else None

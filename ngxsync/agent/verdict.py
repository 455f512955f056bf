"""The slow look of check-nginx, where no note holds: which nginx it is, whether it serves, and a start where it is dead.

A process of its own looks and starts, in a session of its own; this one waits for its word no longer than keepalived waits for us.
"""

import os
import select
import signal
import time
from typing import Any, Dict, Tuple

from . import liveness
from .liveness import Asked, tell
from .runnotes import UNLOCKED, Notes, own_state_dir
from .serving import NONE, Found, examine

LOOKED_S = 30  # by then it has ended; with a disk that hangs there would be one more for each check
LIVES, FAILS, STARTS, FAULT = "0", "1", "2", "?"  # what the one that looks says, each with a text


def settings_of(asked: Asked) -> Dict[str, Any]:
    """As in a request."""
    return {"root": asked.root, "conf": asked.conf, "binary": asked.binary}


def check(asked: Asked) -> int:
    """The exit status; nothing but nginx's failure makes it 1."""
    end = time.monotonic() + liveness.left_s(asked)
    _fill_standard()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _look(asked, end, writing)
    os.close(writing)
    word, text = _heard(reading, end)
    if text:
        tell(text)
    if word in (LIVES, FAILS):
        return 0 if word == LIVES else 1
    if word == STARTS or Notes(asked.note).is_starting():
        tell("nginx is dead, and a start is under way")
        return 1
    return liveness.last_look("it was not looked at in time" if time.monotonic() >= end else "what looked at it died")


def _fill_standard() -> None:
    """Called with one of 0 to 2 closed, a pipe of ours would have its number, and be lost below."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)


def _heard(reading: int, end: float) -> Tuple[str, str]:
    """The last word until the end, or until it is over, and its text."""
    heard = b""
    while True:
        left = end - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            break
        part = os.read(reading, 4096)
        if not part:
            break
        heard += part
    lines = os.fsdecode(heard).split("\n")[:-1]
    return (lines[-1][0], lines[-1][1:]) if lines else ("", "")


class Speaker:
    """The other end: whoever waits may be gone."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def say(self, word: str, text: str = "") -> None:
        try:
            os.write(self.fd, os.fsencode(word + text.replace("\n", " ") + "\n"))
        except OSError:
            return


def _look(asked: Asked, end: float, writing: int) -> None:
    """In the process that looks: it outlives whoever waits for it, and ends here."""
    speaker = Speaker(writing)
    try:
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.alarm(LOOKED_S)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        notes = Notes(asked.note)
        lock = notes.lock(end)
        if lock is not None:
            judge(asked, notes, speaker, lock)
    except Exception as error:  # noqa: BLE001 - a bug moves no VIP: whoever waits looks by itself
        speaker.say(FAULT, "a fault of ngxsync: %r" % error)
    finally:
        os._exit(0)


def judge(asked: Asked, notes: Notes, speaker: Speaker, lock: int) -> None:
    settings = settings_of(asked)
    found = examine(settings)
    why = found.why or (found.pid and (asked.silent or liveness.unanswered(asked)))
    if why:
        text = "nginx (process %d) lives, but %s" % (found.pid, why)
        notes.say(text)
        speaker.say(FAILS, text)
    elif found.pid:
        speaker.say(LIVES)
        notes.alive("nginx lives again")
        notes.was_started(found.start / float(os.sysconf("SC_CLK_TCK")))
        note(asked, notes, found)
    elif not os.path.exists(asked.conf) and liveness.any_serves():
        speaker.say(LIVES, "%s is not there, so which nginx is meant is not known; one serves" % asked.conf)
    elif lock == UNLOCKED:
        speaker.say(FAILS, "nginx is dead; it is not started, since %s cannot be written" % liveness.FOLDER)
    else:
        notes.begin_start(lock)
        speaker.say(STARTS)
        from . import starter, unit

        signal.alarm(starter.LONGEST_S)
        unit.own_scope()  # a restart of keepalived would end what is about to start nginx
        outcome = starter.start(settings, own_state_dir(), notes)
        found = examine(settings) if outcome.is_running else NONE
        if found.pid and not found.why:
            note(asked, notes, found)
        speaker.say(LIVES if outcome.is_running else FAILS, starter.text_of(outcome))


def note(asked: Asked, notes: Notes, found: Found) -> None:
    """For the next check, and for a start: the unit that runs it."""
    from . import nginxunit

    unit = nginxunit.unit_of(found.pid)
    notes.write_nginx(asked.lines() + [str(found.pid), str(found.start), found.kind, unit])

"""rsync, fed from the connection by us: it would never notice by itself that a connection froze.

rsync's own time-out does not end a receiver: each keep-alive that it sends counts as a sign of life. What counts here is what
comes. A sender that lives sends within its --timeout, if only a keep-alive, also while it waits for a slow disk of ours.
However this process ends, rsync then reads the end of its input, and ends too.

Also a program of its own: `receiver.py TIMEOUT_S rsync --server ...`, where the sender has --timeout=TIMEOUT_S. Each transfer
waits for it to begin: the modules typing and signal would double that.
"""

import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, NoReturn, Tuple

LONGEST_S = 3600.0  # of a transfer: as long as the master itself gives one
GRACE_S = 5.0  # for rsync, once its input has ended, to remove what it has half of
CHUNK = 1 << 16
SIGKILL = 9
SILENT = 30  # rsync(1): timeout in data send/receive
NOT_FOUND, NOT_RUN = 127, 126  # as a shell says it


def main(arguments: "List[str]") -> int:
    return receive(arguments[1:], dict(os.environ), int(arguments[0]))


def receive(argv: "List[str]", environment: "Dict[str, str]", timeout_s: int) -> int:
    """Runs rsync, its input by way of us; its exit status, or 30 where nothing came for 1.5 times the sender's --timeout."""
    child, writing, living = _start(argv, environment)
    ended = select.poll()
    ended.register(living)
    is_dead = not _pass_on(writing, living, 1.5 * timeout_s)
    os.close(writing)
    ended.poll(GRACE_S * 1000)
    os.killpg(child, SIGKILL)
    status = os.waitpid(child, 0)[1]
    if is_dead:
        return SILENT
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _start(argv: "List[str]", environment: "Dict[str, str]") -> "Tuple[int, int, int]":
    """(its number, which is that of a group of its own; where its input goes; what hangs up when all of the group has ended)."""
    reading, writing = os.pipe()
    living, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.dup2(reading, 0)
        os.set_inheritable(held, True)
        _become(argv, environment)
    os.close(reading)
    os.close(held)
    return child, writing, living


def _become(argv: "List[str]", environment: "Dict[str, str]") -> "NoReturn":
    try:
        os.execvpe(argv[0], argv, environment)
    except FileNotFoundError:
        status, why = NOT_FOUND, "not found"
    except OSError as error:
        status, why = NOT_RUN, str(error.strerror)
    sys.stderr.write("rsync: %s\n" % why)
    sys.stderr.flush()
    os._exit(status)


def _pass_on(writing: int, living: int, silence_s: float) -> bool:
    """Until the input or rsync ends; False where it fell silent, or went on for too long.

    While rsync takes nothing, since its disk is slow, no time counts.
    """
    waiting = select.poll()
    waiting.register(0, select.POLLIN)
    waiting.register(living)
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        ready = dict(waiting.poll(silence_s * 1000))
        if not ready:
            return False
        if living in ready:
            return True
        try:
            part = os.read(0, CHUNK)
            if not part:
                return True
            while part:
                part = part[os.write(writing, part) :]
        except (BrokenPipeError, ConnectionResetError):  # rsync reads no more, or sshd was killed
            return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

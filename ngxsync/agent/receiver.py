"""rsync, fed from the connection by us: it would never notice by itself that a connection froze.

rsync's own time-out does not end a receiver: each keep-alive that it sends counts as a sign of life. What counts here is what
comes. A sender that lives sends within its --timeout, if only a keep-alive, also while it waits for a slow disk of ours.
However this process ends, rsync then reads the end of its input, and ends too.

Also a program of its own, quick to begin: `receiver.py TIMEOUT_S rsync --server ...`, where the sender has --timeout=TIMEOUT_S.
"""

import os
import select
import signal
import sys
from typing import Dict, List, NoReturn, Tuple

LONGEST_S = 3600  # of a transfer: as long as the master itself gives one
GRACE_S = 5  # for rsync, once its input has ended, to remove what it has half of
CHUNK = 1 << 16
SILENT = 30  # rsync(1): timeout in data send/receive
NOT_FOUND, NOT_RUN = 127, 126  # as a shell says it


def main(arguments: List[str]) -> int:
    return receive(arguments[1:], dict(os.environ), int(arguments[0]))


def receive(argv: List[str], environment: Dict[str, str], timeout_s: int) -> int:
    """Runs rsync, its input by way of us; its exit status, or 30 where nothing came for 1.5 times the sender's --timeout."""
    child, writing = _start(argv, environment)
    signal.signal(signal.SIGALRM, lambda *_: _end(child))
    signal.alarm(LONGEST_S)
    is_silent = False
    try:
        is_silent = not _pass_on(writing, 1.5 * timeout_s)
        signal.alarm(GRACE_S)
    except BrokenPipeError:
        pass  # it needs no more input
    os.close(writing)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    _end(child)
    status = os.waitpid(child, 0)[1]
    if is_silent:
        return SILENT
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _start(argv: List[str], environment: Dict[str, str]) -> Tuple[int, int]:
    """(its number, which is that of a group of its own; where its input goes)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.dup2(reading, 0)
        _become(argv, environment)
    os.close(reading)
    return child, writing


def _become(argv: List[str], environment: Dict[str, str]) -> NoReturn:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and an ignored signal is passed on
    try:
        os.execvpe(argv[0], argv, environment)
    except FileNotFoundError:
        status, why = NOT_FOUND, "not found"
    except OSError as error:
        status, why = NOT_RUN, str(error.strerror)
    sys.stderr.write("rsync: %s\n" % why)
    sys.stderr.flush()
    os._exit(status)


def _pass_on(writing: int, silence_s: float) -> bool:
    """Until the input ends; False where it fell silent. Raises BrokenPipeError as soon as rsync reads no more.

    While rsync takes nothing, since its disk is slow, no time counts.
    """
    waiting = select.poll()
    waiting.register(0, select.POLLIN)
    waiting.register(writing, 0)  # told of errors alone
    while True:
        ready = dict(waiting.poll(silence_s * 1000))
        if not ready:
            return False
        if writing in ready:
            raise BrokenPipeError
        try:
            part = os.read(0, CHUNK)
        except ConnectionResetError:  # sshd was killed, and had not read all that rsync said
            return True
        if not part:
            return True
        while part:
            part = part[os.write(writing, part) :]


def _end(group: int) -> None:
    """Its leader is not yet waited for: the number is still its own."""
    os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

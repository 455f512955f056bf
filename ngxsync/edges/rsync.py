"""rsync moves the planned files, and nothing else, into a stage on the peer: never the live tree (DESIGN 4)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ngxsync.core.errors import Message, NgxsyncError, PeerUnreachable, SourceChanged, TransferFailed, tail
from ngxsync.core.gate import refusal_in

SILENCE_S = 30  # rsync gives up after so long without a byte
UNCHANGED = "the peer's live tree is unchanged"

# rsync(1), EXIT VALUES: what each means here
MEANING = {
    1: "rsync did not understand its options",
    2: "the two rsync do not understand each other",
    3: "rsync could not use the source or the stage folder",
    4: "one of the two rsync lacks a feature",
    5: "rsync could not start its protocol",
    6: "rsync could not write its log",
    10: "the connection failed",
    11: "a file could not be read or written",
    12: "the connection ended in the middle of rsync's protocol",
    13: "rsync could not report what went wrong",
    14: "rsync's processes lost each other",
    20: "rsync was interrupted",
    21: "rsync lost a process of its own",
    22: "rsync ran out of memory",
    23: "some files did not arrive",
    24: "files vanished while they were sent",
    25: "rsync stopped at a limit on deletions",
    30: "no byte moved for too long",
    35: "the connection took too long",
    127: "rsync is not there",
    255: "ssh did not connect or was cut off",
}
CONNECTION = {5, 10, 12, 14, 30, 35, 255}
NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded|Read-only file system")
NO_RSYNC = re.compile(r"rsync: (?:command )?not found|rsync: No such file|command not found.*rsync", re.IGNORECASE)
VANISHED = re.compile(r"vanished|\[sender\].*(?:No such file|Not a directory|Too many levels|No data available)")
PROGRESS = re.compile(rb"^\s*([\d,.']+)\s+(\d+)%")
NOISY = re.compile(r"is your shell clean|protocol version mismatch|unexpected tag|protocol incompatibility|overflow")
SENT = re.compile(r"Total bytes sent: ([\d,.']+)")


@dataclass(frozen=True)
class SendResult:
    """What one transfer cost: bytes over the wire, and seconds."""

    bytes_sent: int
    seconds: float


def rsync_argv(
    source: Path, dest: str, shell: str, *, receiver: str = "rsync", silence_s: int = SILENCE_S, progress: bool = False
) -> list[str]:
    """The command that sends the bytes of the files named on its standard input (NUL-separated, ./NAME) from source into dest.

    `dest` is HOST:FOLDER, an existing folder, or HOST:RUN/NUMBER for a peer's gate, which looks at these options (and at
    nothing else) in agent/gaterules.py; `shell` is what `-e` takes, `receiver` what is started there as rsync.
    Links, owners, modes and times come from the plan.
    """
    is_plain = not dest.partition(":")[2].startswith("/")
    return [
        "rsync",
        "--files-from=-",
        "--from0",
        # a stage that an earlier attempt left: equal size and mtime prove nothing
        "--ignore-times",
        "--whole-file",
        # parents are the stage's own business: theirs in the tree may be unwritable, or a link by now
        "--no-implied-dirs",
        # the folder reaches the peer's rsync without its shell; the gate reads it from the command
        "--no-protect-args" if is_plain else "--protect-args",
        f"--timeout={silence_s}",
        *([] if is_plain else [f"--rsync-path={receiver}"]),
        "--stats",
        *(["--info=progress2"] if progress else []),
        f"--rsh={shell}",
        "--",
        f"{source}/",
        f"{dest.rstrip('/')}/",
    ]


def names_input(names: Iterable[str]) -> bytes:
    """Paths relative to the source, as rsync reads them; `./` since it skips what begins with # or ; without a word."""
    return b"".join(b"./" + os.fsencode(name) + b"\0" for name in names)


def send(
    shell: str,
    source: Path,
    names: Iterable[str],
    dest: str,
    *,
    timeout_s: float,
    receiver: str = "rsync",
    silence_s: int = SILENCE_S,
    where: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> SendResult:
    """Sends these paths (relative to source, surrogateescape) into the existing folder HOST:FOLDER.

    `where` names the peer in messages; `progress` is given the bytes so far and their share of all in %.
    Raises SourceChanged, TransferFailed, and PeerUnreachable where the connection is to blame or the time is up.
    """
    started = time.monotonic()
    argv = rsync_argv(source, dest, shell, receiver=receiver, silence_s=silence_s, progress=progress is not None)
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(names_input(names))
        stdin.seek(0)
        environment = {**os.environ, "LC_ALL": "C"}
        process = subprocess.Popen(
            argv, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=environment, start_new_session=True
        )
        stats, in_time = attended(process, timeout_s, progress)
        stderr.seek(0)
        complaints = stderr.read().decode("utf-8", "replace")
    if not in_time:
        raise timed_out(where or dest, timeout_s)
    if process.returncode:
        raise failure(process.returncode, complaints, where or dest)
    sent = SENT.search(stats)
    return SendResult(count(sent[1]) if sent else 0, time.monotonic() - started)


def attended(
    process: subprocess.Popen[bytes], timeout_s: float, progress: Callable[[int, int], None] | None
) -> tuple[str, bool]:
    """(the last of what rsync wrote, whether it ended in time); rsync and its ssh are ended whatever happens."""
    over = threading.Event()

    def end() -> None:
        over.set()
        end_group(process)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    assert process.stdout is not None
    try:
        with process.stdout as output:
            stats = watched(output, progress)
        process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            end_group(process)
            process.wait()
    return stats, not over.is_set()


def watched(output: IO[bytes], progress: Callable[[int, int], None] | None) -> str:
    """Reads to the end, reporting each line of progress; the last 4 KB."""
    rest = b""
    while part := os.read(output.fileno(), 65536):
        rest = (rest + part)[-65536:]
        lines = re.split(rb"[\r\n]", part)
        found = [match for line in lines if (match := PROGRESS.match(line))]
        if progress and found:
            progress(count(found[-1][1].decode()), int(found[-1][2]))
    return rest[-4096:].decode("utf-8", "replace")


def end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def count(digits: str) -> int:
    return int(re.sub(r"\D", "", digits))


def timed_out(where: str, timeout_s: float) -> NgxsyncError:
    what = f"the transfer took longer than {timeout_s:g} s and was ended"
    advice = "it is tried again; is the connection slow, or the peer's disk?"
    return PeerUnreachable(Message(what, where, UNCHANGED, advice), code="timeout")


def failure(status: int, complaints: str, where: str) -> NgxsyncError:
    """The error for rsync's exit status and what it wrote (LC_ALL=C) on standard error."""
    meaning = MEANING.get(status, "rsync failed")
    said = tail(complaints)
    what = f"{meaning} (rsync ended with {status})" + (f": {said}" if said else "")

    def message(advice: str) -> Message:
        return Message(what, where, UNCHANGED, advice)

    if why := refusal_in(complaints):
        state = f"{UNCHANGED}; it is logged there"
        advice = "was it upgraded, or did another run begin there? ngxsync peer install puts the gate right"
        return TransferFailed(Message(f"the peer's gate refused it: {why}", where, state, advice), code="gate")
    if NO_ROOM.search(complaints):
        return TransferFailed(message("make room there: df -h, df -i; is it mounted read-only?"), code="no-room")
    if status == 127 or NO_RSYNC.search(complaints):
        return TransferFailed(message("install rsync on both hosts: apt-get install rsync"), code="no-rsync")
    if status == 24 or (status in (3, 23) and VANISHED.search(complaints)):
        return SourceChanged(message("none needed: the master's files changed meanwhile and are scanned again"))
    if status == 2 or (status == 12 and NOISY.search(complaints)):
        return TransferFailed(
            message("the login shell there must print nothing: look at its .bashrc"), code="noisy-shell"
        )
    if status in CONNECTION:
        return PeerUnreachable(message("it is tried again; by hand: ngxsync check"))
    return TransferFailed(message("mend what rsync complains of, then: ngxsync sync"))

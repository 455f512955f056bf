"""What the gate tells the host's own administrator: each refusal in syslog and in STATE/peer/gate.log, each session in syslog."""

import os
import syslog
import time

FILE = "gate.log"
LARGEST = 512 * 1024  # bytes; the one before is kept beside it
LONGEST = 300  # bytes of what a client said


def plain(text: bytes, longest: int = LONGEST) -> str:
    """Printable ASCII only, cut: nothing of a client's reaches a terminal or begins a line of its own."""
    shown = "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else "\\x%02x" % byte for byte in text[:longest])
    return shown + ("... (%d bytes)" % len(text) if len(text) > longest else "")


class Log:
    """Of one session: who it is from, and what was asked."""

    def __init__(self, state_dir: str, connection: bytes, command: bytes, policy_file: str) -> None:
        self.folder = os.path.join(state_dir, "peer")
        self.policy_file = policy_file
        self._from = plain(b":".join(connection.split()[:2]), 64) or "nowhere"
        self._asked = plain(command)
        syslog.openlog("ngxsync-gate", syslog.LOG_PID, syslog.LOG_AUTHPRIV)

    def accepted(self, what: str) -> None:
        syslog.syslog(syslog.LOG_INFO, "%s: %s" % (self._from, plain(os.fsencode(what))))

    def refused(self, why: str) -> None:
        """A log that cannot be written (a full disk) changes nothing about the refusal."""
        line = "refused %s: %s; asked: %s" % (self._from, plain(os.fsencode(why)), self._asked or "nothing")
        syslog.syslog(syslog.LOG_WARNING, line)
        try:
            self._append("%s %s\n" % (time.strftime("%Y-%m-%d %H:%M:%S"), line))
        except OSError:
            return

    def _append(self, line: str) -> None:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        path = os.path.join(self.folder, FILE)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            os.write(fd, line.encode("ascii"))
            if os.fstat(fd).st_size > LARGEST:
                os.rename(path, path + ".1")
        finally:
            os.close(fd)

"""Errors for people: what, where, what state things are in now, next step; each with a stable code and an exit status.

NgxsyncError
  ConfigError       2   usage or configuration of ngxsync
  StateError        2   ngxsync's own state directory cannot be read or written
  MasterInvalid     3   the master's nginx configuration is invalid
  PeerUnreachable   4   no connection, a cut one, or no answer in time
  TransferFailed    4   rsync did not deliver
    SourceChanged       the master's files changed meanwhile
  AgentFailed       4   the agent answered something that is none of its answers
  Held              8   a run stops before the peer changes, until a person decides
  Locked            9   another run holds the lock

What belongs to one module (a scan that failed, a refusal that is remembered) derives from them there.
Anything else that reaches the top is a bug: exit 70 and a traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """The four parts of every message. `state` says what things are like now, e.g. "web2 unchanged"."""

    what: str
    where: str = ""
    state: str = ""
    next: str = ""

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        rest = "".join(f"\n  {label}: {text}" for label, text in (("now", self.state), ("next", self.next)) if text)
        return f"{where}{self.what}{rest}"

    @property
    def in_one_line(self) -> str:
        """For a log."""
        return "; ".join(line.strip() for line in str(self).splitlines())


def tail(output: bytes | str, *, lines: int = 5) -> str:
    """The last lines that another program wrote, safe for a message: printable, 2,000 characters at most.

    Of a Python traceback that ends with what the operating system said (a full disk) that line alone: it is no bug.
    """
    text = output.decode("utf-8", "replace") if isinstance(output, bytes) else output
    kept = [line for line in text[-20_000:].splitlines() if line.strip()][-lines:]
    if kept and "Error: [Errno " in kept[-1]:
        kept = kept[-1:]
    clean = ("".join(char if char.isprintable() else " " for char in line).strip() for line in kept)
    return "; ".join(clean)[-2_000:]


class NgxsyncError(Exception):
    """Base of all errors that a user can cause or mend."""

    exit_status = 70
    code = "bug"
    warnings: tuple[str, ...] = ()  # what else a person has to hear of a run that ended so

    def __init__(self, message: Message | str, *, code: str = "") -> None:
        self.message = message if isinstance(message, Message) else Message(message)
        if code:
            self.code = code
        super().__init__(str(self.message))


class ConfigError(NgxsyncError):
    exit_status = 2
    code = "config"


class StateError(NgxsyncError):
    exit_status = 2
    code = "state"


class MasterInvalid(NgxsyncError):
    exit_status = 3
    code = "master-invalid"


class PeerUnreachable(NgxsyncError):
    exit_status = 4
    code = "unreachable"


class TransferFailed(NgxsyncError):
    exit_status = 4
    code = "transfer"


class SourceChanged(TransferFailed):
    """The master's files changed while they were sent: scan again at once, no back-off."""

    code = "source-changed"


class AgentFailed(NgxsyncError):
    exit_status = 4
    code = "agent"


class Held(NgxsyncError):
    exit_status = 8
    code = "held"


class Locked(NgxsyncError):
    exit_status = 9
    code = "locked"

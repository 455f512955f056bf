"""A crontab's rsync line as values for a configuration that does the same, or why it cannot be done alike."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from ngxsync.core.cronfields import check_fields
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.rsyncline import RsyncLine, make_trees, parse_rsync
from ngxsync.core.rsyncpatterns import make_patterns
from ngxsync.core.shellcommand import Command, parse_command

NAMED_SCHEDULES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
SSH_NAMES = {"p": "port", "i": "identityfile", "l": "user", "J": "proxyjump", "c": "ciphers"}
SSH_HARMLESS = "46aACkqTvxn"
SSH_HARMLESS_OPTIONS = re.compile(
    "batchmode|ciphers|compression|connectionattempts|connecttimeout|controlmaster|controlpath|"
    "controlpersist|identitiesonly|kexalgorithms|loglevel|macs|passwordauthentication|"
    "preferredauthentications|pubkeyauthentication|serveraliveinterval|serveralivecountmax|tcpkeepalive|"
    "gssapiauthentication|hashknownhosts|updatehostkeys"
)


@dataclass(frozen=True)
class CrontabJob:
    """What the line does. `exclude` is gitignore's; `identity`, `known_hosts` and `jump` are "" where not named.

    `surprises` are sentences on where the line did something else than it seems, or than ngxsync does.
    """

    schedule: str  # five fields
    trees: tuple[str, ...]
    host: str
    user: str
    port: int
    exclude: tuple[str, ...]
    identity: str
    known_hosts: str
    jump: str
    deletes: bool
    surprises: tuple[str, ...]


@dataclass(frozen=True)
class _Access:
    user: str = ""
    port: int = 22
    identity: str = ""
    known_hosts: str = ""
    jump: str = ""
    checks_host: bool = True


def find_rsync_lines(crontab_text: str) -> tuple[str, ...]:
    """The lines of a crontab that run rsync, comments left out."""
    lines = (line.strip() for line in crontab_text.splitlines())
    return tuple(line for line in lines if line[:1] != "#" and re.search(r"(?:^|[\s/;&|\"'(])rsync(?:\s|$)", line))


def parse_crontab_line(line: str, *, user: str = "root", read_text: Callable[[str], str] | None = None) -> CrontabJob:
    """`user` is whose crontab it is; `read_text` gives the text of an --exclude-from file, without it one is refused.

    Whether a source is a directory is for the caller to see. Raises ConfigError with the reason where ngxsync cannot do
    the same as the line.
    """
    try:
        return _parse(line.strip(), user, read_text or _refuse_to_read)
    except ValueError as error:
        raise ConfigError(
            Message(
                f"ngxsync cannot do the same as this line: {error}",
                line.strip(),
                "nothing was written, the crontab is as it was",
                "change the line that you give to init, or write config.ini by hand from config.example.ini",
            )
        ) from None


def _refuse_to_read(path: str) -> str:
    raise ValueError(f"its excludes are in {path}; write each as --exclude")


def _parse(line: str, user: str, read_text: Callable[[str], str]) -> CrontabJob:
    schedule, command_text = _split_schedule(line)
    command = parse_command(_cron_text(command_text))
    rsync = parse_rsync(command.arguments, read_text)
    access = _read_rsh(rsync.rsh or command.rsh or "ssh")
    return CrontabJob(
        schedule=schedule,
        trees=make_trees(rsync),
        host=rsync.host,
        user=rsync.user or access.user or command.user or user,
        port=access.port,
        exclude=make_patterns(rsync),
        identity=access.identity,
        known_hosts=access.known_hosts,
        jump=access.jump,
        deletes="delete" in rsync.flags,
        surprises=tuple(_surprises(rsync, command, access)),
    )


def _split_schedule(line: str) -> tuple[str, str]:
    """(five fields, the rest)."""
    if not line or line.startswith("#"):
        raise ValueError("it is a comment")
    word, *rest = line.split(None, 1)
    if word == "@reboot":
        raise ValueError("@reboot is no time; the daemon syncs when it starts, so give the line a schedule")
    if word in NAMED_SCHEDULES:
        return NAMED_SCHEDULES[word], "".join(rest)
    fields = line.split(None, 5)
    if len(fields) < 6:
        raise ValueError("it does not begin with five fields of a schedule")
    schedule = " ".join(fields[:5])
    wrong = check_fields(schedule)
    if wrong:
        raise ValueError(f"its schedule {schedule}: {wrong}")
    return schedule, fields[5]


def _cron_text(text: str) -> str:
    """What cron hands to the shell: a bare % ends the command."""
    if re.search(r"(?<!\\)%", text):
        raise ValueError("cron ends a command at a bare %, so this line never ran as it is written; write it as \\%")
    return text.replace("\\%", "%")


def _read_rsh(text: str) -> _Access:
    """What the options of -e 'ssh ...' say. Raises ValueError for one that has no like."""
    try:
        program, *words = shlex.split(text)
    except ValueError:
        raise ValueError(f"-e {text!r} is no command") from None
    if posixpath.basename(program) != "ssh":
        raise ValueError(f"-e {text} does not go over ssh")
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        letter = word[1:2]
        if re.fullmatch(f"-[{SSH_HARMLESS}]+", word):
            continue
        if not word.startswith("-") or letter not in ("o", *SSH_NAMES):
            raise ValueError(f"-e {text!r}: ngxsync does not know what {word} of ssh changes")
        value = word[2:] or (words.pop(0) if words else "")
        name = SSH_NAMES.get(letter, "")
        if letter == "o":
            name, _, value = re.sub(r"\s*=\s*|\s+", "=", value, count=1).partition("=")
        found.setdefault(name.lower(), value)  # ssh too takes the first
    return _access(text, found)


def _access(text: str, found: dict[str, str]) -> _Access:
    known = ("port", "user", "identityfile", "proxyjump", "stricthostkeychecking", "userknownhostsfile")
    for name in found:
        if name not in known and not SSH_HARMLESS_OPTIONS.fullmatch(name):
            raise ValueError(f"-e {text!r}: ngxsync does not know what {name} of ssh changes")
    hosts = found.get("userknownhostsfile", "")
    port = found.get("port", "22")
    if not port.isdecimal():
        raise ValueError(f"-e {text!r}: {port!r} is no port")
    return _Access(
        user=found.get("user", ""),
        port=int(port),
        identity=found.get("identityfile", ""),
        known_hosts="" if hosts == "/dev/null" else hosts,
        jump=found.get("proxyjump", ""),
        checks_host=found.get("stricthostkeychecking", "ask") in ("ask", "yes") and hosts != "/dev/null",
    )


def _throws_errors_away(command: Command) -> bool:
    to_null = [operator for operator, file in command.redirects if file == "/dev/null"]
    joined = any(operator == "2>&1" for operator, _ in command.redirects)
    return any(operator[0] in "2&" or joined for operator in to_null)


def _surprises(rsync: RsyncLine, command: Command, access: _Access) -> list[str]:
    operators = [operator for operator, _ in command.redirects]
    said = []
    for name in rsync.excludes:
        if re.fullmatch(r"[^/*?\[]+/?", name):
            said.append(
                f"--exclude={name} is not anchored: it leaves out every {name.rstrip('/')} at any depth, e.g. "
                f"html/{name.rstrip('/')}; for the one at the top write /{name}"
            )
    if any(operator.startswith("&>") for operator in operators):
        said.append(
            "where /bin/sh is dash (Debian, Ubuntu), &> does not redirect: it starts rsync in the background, and cron "
            "is told of success at once, whatever happens; where it is bash, errors are thrown away"
        )
    elif _throws_errors_away(command):
        said.append("its errors went to /dev/null: nobody was told when it failed")
    if command.in_background:
        said.append("the & at its end starts rsync in the background: cron is told of success whatever happens")
    if "delete" not in rsync.flags:
        said.append("it never deleted: what was removed here in all that time is still on the peer")
    said.append("it copied broken configuration as well, and never reloaded nginx on the peer")
    if not rsync.flags & {"checksum", "ignore-times"}:
        said.append("it missed an edit that keeps a file's size and modification time; ngxsync sees it")
    missing = [name for name in ("links", "perms", "times", "owner", "group") if name not in rsync.kept]
    if missing:
        said.append(f"it did not keep {', '.join(missing)}; ngxsync makes them equal too")
    if not access.checks_host:
        said.append("it accepted any host key; ngxsync accepts only the pinned one")
    said.append(
        "it also sent what belongs to each host (sbin/, modules/, pid and temporary files): ngxsync leaves that out, "
        "and a line such as !/sbin/ in [sync] exclude takes it in again"
    )
    return said + rsync.told

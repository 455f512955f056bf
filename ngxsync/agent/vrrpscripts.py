"""The commands that keepalived.conf names, looked at as keepalived would before it runs one: there, executable, nobody else's to change.

keepalived runs a command itself, by no shell. With script security on it refuses what others than root could change; without, it runs it.
"""

import grp
import itertools
import os
import pwd
import re
import stat
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .vrrplines import COMMANDS, NO_COMMANDS, Statement, command_words

Answer = Dict[str, Any]
Fault = Tuple[str, str, str]  # code, path, what is wrong
Account = NamedTuple("Account", [("name", str), ("uid", int), ("gids", List[int])])

MOST = 200
LONGEST_BEGIN = 256  # bytes of a file of which the kernel looks for how to run it
DEFAULT_USER = "keepalived_script"
OPERATORS = re.compile(r"(\|\|?|&&?|;|!|\d?>>?(&?\d|/.*)?|\d?<(/.*)?|&>.*)\Z")
BUILTIN = "if for while until case function { ( cd export source . set unset eval exec exit trap ulimit umask local read".split()
# lines of a vrrp_script; and who takes a line of the shell as an argument
OF_SCRIPT = ("interval", "timeout", "weight", "rise", "fall", "user", "init_fail")
SHELLS = ("sh", "bash", "dash", "ash", "ksh", "zsh", "busybox")


def scripts(statements: List[Statement], path: str) -> List[Answer]:
    """Each command once for each place where it stands, with what keeps keepalived from running it well. `path` is its PATH."""
    return [_looked_at(each, user, path) for each, user in itertools.islice(_commands(statements), MOST)]


def _commands(statements: List[Statement]) -> Iterator[Tuple[Statement, str]]:
    """The statements that name one, and the user that it runs as."""
    default = next((each.words[1] for each in statements if each.words[0] == "script_user" and len(each.words) > 1), "")
    if not default:
        # with script security on keepalived leaves the script out where there is no such user [measured with 2.2.7]
        is_secure = any(each.words[0] == "enable_script_security" for each in statements)
        default = DEFAULT_USER if is_secure or _account(DEFAULT_USER) else "root"
    for at, each in enumerate(statements):
        name = each.words[0]
        if not COMMANDS.match(name) or name in NO_COMMANDS or len(each.words) < 2:
            continue
        user = _user_of_block(statements, at) if name == "script" else "".join(each.words[2:3])
        yield each, user or default


def _user_of_block(statements: List[Statement], at: int) -> str:
    """A vrrp_script says it in a line of its own, before or after its script."""
    first = at
    while first and statements[first].words[0] != "{":
        first -= 1
    for each in statements[first:]:
        if each.words[0] == "}":
            return ""
        if each.words[0] == "user" and len(each.words) > 1:
            return each.words[1]
    return ""


def _looked_at(statement: Statement, user: str, path: str) -> Answer:
    argv = command_words(statement.words[1])
    faults: List[Fault] = []
    found = _found(argv[0], path) if argv else ""
    shell = needs_shell(argv)
    if statement.words[0] == "script" and len(statement.words) > 2:
        rest = " ".join(statement.words[2:])
        is_next = statement.words[2] in OF_SCRIPT
        told = (
            "it is on the line of the script, and left out: %s" if is_next else "without quotes %s is left out"
        ) % rest
        faults.append(("script-unquoted", argv[0] if argv else "", told))
    if shell:
        faults.append(("script-shell", argv[0], shell))
    elif not found:
        faults.append(("script-missing", argv[0] if argv else "", "there is no such command"))
    else:
        faults += _faults_of(found, user)
    return {
        "file": statement.file,
        "line": statement.line,
        "keyword": statement.words[0],
        "command": statement.words[1],
        "path": found,
        "user": user,
        "faults": [list(fault) for fault in faults],
    }


def needs_shell(argv: List[str]) -> str:
    """Why these words mean something to a shell alone; "" where they do not."""
    if argv and argv[0] in BUILTIN:
        return "%s is a word of the shell" % argv[0]
    is_shell = bool(argv) and os.path.basename(argv[0]) in SHELLS
    for before, word in zip([""] + argv, argv):
        if is_shell and before == "-c":
            continue
        if OPERATORS.match(word):
            return "%s means something to a shell alone" % word
        if not re.search(r"\s", word) and re.search(r"\$\(|`|;\Z|\A\$[A-Za-z_{]", word):
            return "%s means something to a shell alone" % word
    return ""


def _found(command: str, path: str) -> str:
    """With a slash it is a path; without, the first in PATH."""
    if "/" in command:
        return command if os.path.lexists(command) else ""
    candidates = (os.path.join(folder, command) for folder in path.split(":") if folder)
    return next((each for each in candidates if os.path.isfile(each)), "")


def _faults_of(path: str, user: str) -> List[Fault]:
    account = _account(user)
    if account is None:
        return [("script-user", path, "there is no user %s" % user)]
    try:
        found = os.stat(path)
    except OSError as error:
        return [("script-missing", path, "%s: %s" % (path, error.strerror))]
    faults: List[Fault] = []
    if not stat.S_ISREG(found.st_mode):
        faults.append(("script-missing", path, "it is no regular file"))
    elif not _may(account, found, 1):
        told = "mode %04o of %s" % (stat.S_IMODE(found.st_mode), _owner(found))
        faults.append(("script-not-executable", os.path.realpath(path), "%s may not execute it: %s" % (user, told)))
    else:
        faults += [(code, os.path.realpath(path), told) for code, told in _unrunnable(path, account, found)]
    for above, status in _way_to(path):
        if stat.S_ISDIR(status.st_mode) and not _may(account, status, 1):
            told = "%s may not pass %s" % (user, above)
            faults.append(("script-not-executable", above, told))
        is_shared_folder = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        who = "" if stat.S_ISLNK(status.st_mode) or is_shared_folder else _writers(status, account)
        if who:
            told = "%s can change %s: mode %04o of %s" % (who, above, stat.S_IMODE(status.st_mode), _owner(status))
            faults.append(("script-open", above, told))
    return faults


def _unrunnable(path: str, account: Account, status: os.stat_result) -> Iterator[Tuple[str, str]]:
    """(code, why) the kernel does not run it, where a shell might: keepalived takes that for success, each time [measured with 2.2.7]."""
    try:
        with open(path, "rb") as stream:
            begin = stream.read(LONGEST_BEGIN)
            is_noexec = os.fstatvfs(stream.fileno()).f_flag & os.ST_NOEXEC
    except OSError:
        return
    interpreter = re.split(rb"[ \t]+", begin[2:].split(b"\n")[0].strip(b" \t"))[0]
    if is_noexec:
        yield "script-noexec", "its file system is mounted noexec: keepalived cannot run it, and takes that for success"
    elif b"\0" not in begin and not (begin.startswith(b"#!") and interpreter):
        told = "it needs a shell, since it does not begin with #!: keepalived cannot run it, and takes that for success"
        yield "script-interpreter", told
    elif begin.startswith(b"#!") and not os.access(interpreter, os.X_OK):
        name = os.fsdecode(interpreter).replace("\r", "\\r")
        told = (
            "its first line names %s, which is not there: keepalived cannot run it, and takes that for success" % name
        )
        yield "script-interpreter", told
    elif begin.startswith(b"#!") and account.uid and not _may(account, status, 4):
        told = "%s may not read it, so its interpreter fails: mode %04o of %s"
        yield "script-unreadable", told % (account.name, stat.S_IMODE(status.st_mode), _owner(status))


def _way_to(path: str) -> Iterator[Tuple[str, os.stat_result]]:
    """The file and every directory above it, also those that its links lead through."""
    seen: Dict[str, os.stat_result] = {}
    for start in (os.path.abspath(path), os.path.realpath(path)):
        at = start
        while at not in seen:
            try:
                seen[at] = os.lstat(at)
            except OSError:
                break
            at = os.path.dirname(at)
    return iter(sorted(seen.items()))


def _writers(status: os.stat_result, account: Account) -> str:
    """Who besides root may write it, as keepalived counts; "" where nobody. One that root does not run is told where everybody may."""
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if account.uid:
        return ""
    if status.st_uid:
        return "its owner"
    return "its group" if status.st_gid and status.st_mode & stat.S_IWGRP else ""


def _may(account: Account, status: os.stat_result, bit: int) -> bool:
    if account.uid == 0:
        return bool(stat.S_ISDIR(status.st_mode) or status.st_mode & 0o111)
    shift = 6 if status.st_uid == account.uid else 3 if status.st_gid in account.gids else 0
    return bool(status.st_mode >> shift & bit)


def _account(name: str) -> Optional[Account]:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    gids = [found.pw_gid] + [each.gr_gid for each in grp.getgrall() if name in each.gr_mem]
    return Account(name, found.pw_uid, gids)


def _owner(status: os.stat_result) -> str:
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return "#%d" % status.st_uid

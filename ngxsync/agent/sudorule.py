"""The one sudo rule of a login without root: it may start the gate as root, word for word that for each of its keys, and nothing else."""

import fcntl
import os
import re
import shutil
import subprocess
from typing import Callable, Collection, Dict, List, Optional

from .answers import Failure

PATH = "/etc/sudoers.d/ngxsync"
UNFINISHED = "/etc/sudoers.d/.ngxsync.new"  # sudo skips names with a dot
CHECK_S = 20.0
HEAD = "# Put here by `ngxsync peer install`, taken away by `ngxsync peer remove`.\n"

# what sudoers takes for itself in a name
_SPECIAL = re.compile(r"([\\,:=!@\"*?\[\]() #])")
# in a command it knows wildcards too, and releases differ: so plain words only
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+\Z")
_RULE = re.compile(r"(?m)^Cmnd_Alias NGXSYNC_(\d+) = .*\n(?:.*NGXSYNC_\1\b.*\n)*")


def rule(user: str, uid: int, commands: List[List[str]]) -> str:
    """Three lines: the commands, one for each key, what of ssh's environment they see, who may start them.

    Neither a terminal nor a second one in between is wanted: bytes go through as they are. Raises Failure.
    """
    for word in sum(commands, []):
        if not _PLAIN.match(word):
            hint = "another state_dir for this peer: letters, digits and _ . / + - alone"
            raise Failure("sudo", "no sudo rule can be sure to mean this path alone", where=word, next=hint)
    alias = "NGXSYNC_%d" % uid
    return (
        _alias_line(alias, commands)
        + 'Defaults!%s env_keep += "SSH_ORIGINAL_COMMAND SSH_CONNECTION", !requiretty, !use_pty\n' % alias
        + "%s ALL = (root) NOPASSWD: %s\n" % (_SPECIAL.sub(r"\\\1", user), alias)
    )


def _alias_line(alias: str, commands: List[List[str]]) -> str:
    return "Cmnd_Alias %s = %s\n" % (alias, ", ".join(" ".join(argv) for argv in commands))


def commands_in(rule_text: str) -> List[List[str]]:
    return [argv.split() for argv in rule_text.split("\n")[0].partition(" = ")[2].split(",")] if rule_text else []


def rules_in(text: str) -> Dict[int, str]:
    return {int(found.group(1)): found.group() for found in _RULE.finditer(text)}


def read() -> str:
    try:
        with open(PATH) as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def with_rule(text: str, user: str, uid: int, argv: List[str]) -> str:
    """The last word of a command says whose it is: this one takes the place of the one that ended so, others stay."""
    rules = rules_in(text)
    others = [known for known in commands_in(rules.get(uid, "")) if known[-1] != argv[-1]]
    rules[uid] = rule(user, uid, sorted(others + [argv]))
    return HEAD + "".join(rules[number] for number in sorted(rules))


def without_rule(text: str, uid: int, keys: Optional[Collection[str]] = None) -> str:
    """Of the user's commands those for these keys go, or all of them. "" where no rule is left."""
    rules = rules_in(text)
    old = rules.pop(uid, "")
    left = [argv for argv in commands_in(old) if keys is not None and argv[-1] not in keys]
    if left:
        rules[uid] = _alias_line("NGXSYNC_%d" % uid, left) + old.partition("\n")[2]
    return HEAD + "".join(rules[number] for number in sorted(rules)) if rules else ""


def change(edit: Callable[[str], str]) -> None:
    """Puts there what `edit` makes of what is there then, one at a time: of two masters' doors none is lost. As `write`."""
    folder = os.path.dirname(PATH)
    if not os.path.isdir(folder):
        return write(edit(read()))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # held for as long as visudo takes
        return write(edit(read()))
    finally:
        os.close(fd)


def write(text: str) -> None:
    """Puts the rules in place, once visudo takes them; "" removes the file. Raises Failure, OSError."""
    if not text:
        for path in (PATH, UNFINISHED):
            if os.path.lexists(path):
                os.unlink(path)
        return
    visudo = shutil.which("visudo", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin")
    if visudo is None or not os.path.isdir(os.path.dirname(PATH)):
        raise Failure("sudo", "there is no sudo here", next="install sudo, or let [peer] user be root")
    if os.path.lexists(UNFINISHED):
        os.unlink(UNFINISHED)
    with os.fdopen(os.open(UNFINISHED, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o440), "w") as stream:
        os.fchmod(stream.fileno(), 0o440)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    done = subprocess.run(
        [visudo, "-c", "-f", UNFINISHED], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=CHECK_S
    )
    if done.returncode:
        os.unlink(UNFINISHED)
        said = done.stdout.decode("utf-8", "replace").strip()
        raise Failure("sudo", "visudo does not take the rule: %s" % said, where=PATH, next="report this")
    os.rename(UNFINISHED, PATH)

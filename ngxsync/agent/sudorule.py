"""The one sudo rule of a login without root: it may start the gate as root, word for word that, and nothing else."""

import os
import re
import shutil
import subprocess
from typing import Dict, List

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


def rule(user: str, uid: int, argv: List[str]) -> str:
    """Three lines: the command, what of ssh's environment it sees, who may start it.

    Neither a terminal nor a second one in between is wanted: bytes go through as they are. Raises Failure.
    """
    for word in argv:
        if not _PLAIN.match(word):
            hint = "another state_dir for this peer: letters, digits and _ . / + - alone"
            raise Failure("sudo", "no sudo rule can be sure to mean this path alone", where=word, next=hint)
    alias = "NGXSYNC_%d" % uid
    return (
        "Cmnd_Alias %s = %s\n" % (alias, " ".join(argv))
        + 'Defaults!%s env_keep += "SSH_ORIGINAL_COMMAND SSH_CONNECTION", !requiretty, !use_pty\n' % alias
        + "%s ALL = (root) NOPASSWD: %s\n" % (_SPECIAL.sub(r"\\\1", user), alias)
    )


def rules_in(text: str) -> Dict[int, str]:
    return {int(found.group(1)): found.group() for found in _RULE.finditer(text)}


def read() -> str:
    try:
        with open(PATH) as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def with_rule(text: str, user: str, uid: int, argv: List[str]) -> str:
    rules = dict(rules_in(text))
    rules[uid] = rule(user, uid, argv)
    return HEAD + "".join(rules[number] for number in sorted(rules))


def without_rule(text: str, uid: int) -> str:
    """ "" where no rule is left."""
    rules = rules_in(text)
    rules.pop(uid, None)
    return HEAD + "".join(rules[number] for number in sorted(rules)) if rules else ""


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

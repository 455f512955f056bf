"""The verbs install and uninstall: the door of this host for one master's key, its way in and nothing beside it.

Both are called over an administrator's own access, never over the restricted key. Each is a list of steps that can be
told without being done, and done again at any time; what turns the key's access over comes last.
"""

import os
import shlex
import shutil
import stat
import subprocess
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from . import sudorule, unit
from .answers import Failure
from .authorizedkeys import is_restricted, keys_in, with_key, without_key
from .keyfile import SBIN, KeyFile, account_of, key_files
from .manifest import is_clean
from .policyfile import FOLDER, all_policies, fingerprint, policy_path
from .store import encoded, fsync_folder, write_durably

Answer = Dict[str, Any]

THERE, WOULD, DONE = "there", "would", "done"
COMMAND_LINK = "/usr/local/sbin/ngxsync-agent"
GATE = "gate"

# `work` None: nothing is to be done
Step = NamedTuple("Step", [("name", str), ("text", str), ("work", Optional[Callable[[], None]])])


class Door:
    """What a request says: `user` is who the master logs in as, `key` its public key, "TYPE BASE64"."""

    def __init__(self, request: Answer) -> None:
        self.state, self.user, self.key = request["state_dir"], request["user"], request["key"]
        if not is_clean(self.state) or len(self.key.split()) != 2 or not self.key.isprintable():
            raise Failure(
                "agent", "the request makes no sense: %r" % request, next="see that both sides run one release"
            )
        self.fingerprint = fingerprint(self.key)
        self.account = account_of(self.user)
        self.agents = os.path.join(self.state, "agent")
        self.by_sudo = os.geteuid() == 0 and self.account.pw_uid != 0
        if os.geteuid() not in (0, self.account.pw_uid):
            hint = "log in as root, as %s, or as a user whom sudo lets in without a password (--as)" % self.user
            raise Failure("rights", "only root can open a door for %s" % self.user, next=hint)

    @property
    def gate(self) -> List[str]:
        return [sys.executable, "-I", "-S", os.path.join(self.agents, "current"), GATE, self.fingerprint]

    @property
    def command(self) -> str:
        """As sshd gives it to the user's shell."""
        return " ".join(shlex.quote(word) for word in (["sudo", "-n"] if self.by_sudo else []) + self.gate)

    def files(self) -> List[KeyFile]:
        return [KeyFile(path, self.account) for path in key_files(self.account)]


def install(request: Answer) -> Answer:
    """With `dry_run` only told. Raises Failure, before anything is done where it can be known, else with what was `done`."""
    door = Door(request)
    rsync = shutil.which("rsync", path=os.environ.get("PATH", "") + ":" + SBIN)
    if rsync is None:
        raise Failure("rsync", "there is no rsync on this host", next="install rsync there")
    _raise_if_others_write(door)
    policy = dict(request["policy"], schema=1, comment=request["comment"], rsync=os.path.abspath(rsync))
    steps = (
        _agent_steps(door, request) + [_policy_step(door, policy)] + _neighbour_steps(door, policy) + [_unit_step(door)]
    )
    steps += [_sudo_step(door)] if door.by_sudo else []
    steps += _key_steps(door, request["comment"]) + _label_steps(door)
    return carried_out(steps, bool(request.get("dry_run")))


def carried_out(steps: List[Step], dry_run: bool) -> Answer:
    told: List[List[str]] = []
    for step in steps:
        state = THERE if step.work is None else WOULD if dry_run else DONE
        if step.work is not None and not dry_run:
            try:
                step.work()
            except Failure as failure:
                failure.message["state"] = _state_after(told)
                failure.more["steps"] = told
                raise
            except OSError as error:
                what = "%s: %s: %s" % (step.name, error.filename or "", error.strerror or error)
                hint = "mend that; the same command again goes on where it stopped"
                raise Failure("disk", what, state=_state_after(told), next=hint, steps=told)
        told.append([step.name, state, step.text])
    return {"ok": True, "steps": told}


def _state_after(told: List[List[str]]) -> str:
    done = [name for name, state, _ in told if state == DONE]
    return "done before that: %s" % ", ".join(done) if done else "unchanged"


def _raise_if_others_write(door: Door) -> None:
    """What root is to start must not lie where somebody else could put something in its place."""
    if os.geteuid() != 0:
        return
    for path in (door.agents, sys.executable, os.path.realpath(sys.executable)):
        while path != "/":
            _raise_if_not_roots(path)
            path = os.path.dirname(path)
    for folder, folders, files in os.walk(door.agents):
        for name in folders + files:
            _raise_if_not_roots(os.path.join(folder, name))


def _raise_if_not_roots(path: str) -> None:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    is_open = info.st_mode & 0o022 and not stat.S_ISLNK(info.st_mode) and not info.st_mode & stat.S_ISVTX
    if info.st_uid == 0 and not is_open:
        return
    what = "others than root can write there, and root would start what lies there"
    hint = "chown root %s; chmod go-w %s; or another state_dir for this peer" % (path, path)
    raise Failure("rights", what, where=path, next=hint)


def _agent_steps(door: Door, request: Answer) -> List[Step]:
    """The boot that started this has put both there, unless this is only told."""
    current = os.path.join(door.agents, "current")
    path = os.path.join(door.agents, request["agent"])
    is_there = os.path.isdir(path) and os.path.islink(current) and os.readlink(current) == request["agent"]
    told = [(("agent", path), is_there)]
    if os.geteuid() == 0 and door.state == unit.STANDARD_STATE:
        told.append((("command", COMMAND_LINK), os.path.lexists(COMMAND_LINK)))
    return [Step(*what, work=None if ready and request.get("dry_run") else _nothing) for what, ready in told]


def _nothing() -> None:
    """It is done already."""


def _policy_step(door: Door, policy: Answer) -> Step:
    """Told without the name of the file: before the key is made there is none."""
    path, text = policy_path(door.state, door.fingerprint), encoded(policy)
    told = "%s: it lets the key work on %s" % (os.path.join(door.agents, FOLDER), ", ".join(policy["trees"]))

    def work() -> None:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.chmod(os.path.dirname(path), 0o700)
        fsync_folder(door.agents)
        write_durably(path, text)

    return Step("policy", told, None if _has(path, text, 0o600) else work)


def _neighbour_steps(door: Door, policy: Answer) -> List[Step]:
    """Who else keeps one accepted record here with other trees: nothing is lost, and somebody has to know."""
    told = "%s works on %s here, by a key of its own: whichever ran last holds the other's next run (generation)"
    others = [known for name, known in all_policies(door.state).items() if known and name != door.fingerprint]
    strange = [known for known in others if sorted(known["trees"]) != sorted(policy["trees"])]
    return [Step("others", told % (known["comment"], ", ".join(known["trees"])), None) for known in strange]


def _has(path: str, text: bytes, mode: int) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read() == text and stat.S_IMODE(os.fstat(stream.fileno()).st_mode) == mode
    except OSError:
        return False


def _unit_step(door: Door) -> Step:
    told = unit.state(door.state)
    if os.geteuid() != 0 or door.state != unit.STANDARD_STATE or not os.path.isdir(unit.FOLDER):
        return Step("recovery", told, None)
    path = os.path.join(unit.FOLDER, unit.NAME)
    is_there = told == "installed" and _has(path, unit.TEXT.encode("ascii"), 0o644)
    return Step("recovery", path, None if is_there else lambda: _install_unit(door.state))


def _install_unit(state: str) -> None:
    unit.install(state)


def _sudo_step(door: Door) -> Step:
    before = sudorule.read()

    def edit(text: str) -> str:
        return sudorule.with_rule(text, door.user, door.account.pw_uid, door.gate)

    after = edit(before)
    if shutil.which("sudo", path=SBIN) is None:
        raise Failure("sudo", "%s is not root, and there is no sudo here" % door.user, next="install sudo there")
    told = "%s: %s may start the gate as root, and nothing else" % (sudorule.PATH, door.user)
    return Step("sudo", told, None if before == after else lambda: sudorule.change(edit))


def _key_steps(door: Door, comment: str) -> List[Step]:
    """The line in the first file; in the others no line of the same key, which would open what the first closes."""
    result = []
    for number, file in enumerate(door.files()):
        before = file.read()
        own = [line for line in keys_in(before or b"") if line.key == door.key.encode()]

        def edit(text: bytes, is_first: bool = number == 0) -> bytes:
            return with_key(text, door.command, door.key, comment) if is_first else without_key(text, door.key)

        is_open = [line for line in own if not is_restricted(line, door.command)]
        bad = file.bad_modes()
        if number and not own:
            continue
        needed = edit(before or b"") != (before or b"") or bool(bad or file.leftovers())
        told = file.path + (": restricted; the key had a line that let it do anything" if is_open else ": one line")
        told += (
            "; it runs %s with its own policy, whatever is asked" % door.command.rpartition(" ")[0]
            if not number
            else ""
        )
        told += "".join("; %s: no longer written by others, sshd ignores it else" % path for path in bad)
        result.append(Step("key", told, _changing(file, edit) if needed else None))
    return result


def _label_steps(door: Door) -> List[Step]:
    """SELinux: sshd and sudo read only what bears the label of the host's policy."""
    restorecon = shutil.which("restorecon", path=SBIN)
    if restorecon is None or not os.path.exists("/sys/fs/selinux/enforce"):
        return []
    files = [os.path.dirname(door.files()[0].path), sudorule.PATH, os.path.join(unit.FOLDER, unit.NAME), door.agents]

    def work() -> None:
        there = [path for path in files if os.path.exists(path)]
        subprocess.run(
            [str(restorecon), "-R"] + there, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60
        )

    return [Step("labels", "restorecon of what was put there", work)]


def _changing(file: KeyFile, edit: Callable[[bytes], bytes]) -> Callable[[], None]:
    return lambda: file.change(edit)

"""The gate behind a restricted key: authorized_keys runs it whatever the client asks for, and it does one of two things or nothing.

It calls the agent that is installed here, or fills the open stage by a line of its own; gaterules.py decides which.
The client's words reach no shell, no exec and no path. The policy is the key's own (policyfile.py).
"""

import json
import os
import stat
import sys
from typing import Any, Dict, Optional

from . import gatelog, receiver, staged
from .answers import Failure, guarded
from .gaterules import Call, Receive, Refusal, Refused, ask, checked
from .main import answered_text, read_request, say
from .policyfile import policy_path, read_policy
from .store import Damaged, Store

REFUSED = 77  # EX_NOPERM of sysexits.h
MEND = "`ngxsync peer install NAME` on the master, where its configuration changed"
# nothing of the receiver's is left to the client: no links, owners, modes, times, deletions; the stage is where it stands.
# Capabilities: only what rsync 3.1 and later have alike.
RSYNC = ["--server", "-WIRe.f", "--no-implied-dirs"]
# a client may send variables (AcceptEnv): these come from sshd or sudo
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "XDG_RUNTIME_DIR", "XDG_SESSION_ID", "SUDO_USER")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Answer = Dict[str, Any]


def own_state_dir() -> str:
    """STATE of STATE/agent/HASH/ngxsync_agent/gate.py, by the path that it was started by: the state folder may lie behind a link."""
    folder = os.path.dirname(os.path.abspath(__file__))
    for _ in range(3):
        folder = os.path.dirname(folder)
    return folder


def main(key: str) -> int:
    """For the key of this fingerprint. The exit status: of the call or the transfer, or 77 for a refusal."""
    command = os.environb.get(b"SSH_ORIGINAL_COMMAND")
    state = own_state_dir()
    log = gatelog.Log(
        state, os.environb.get(b"SSH_CONNECTION", b""), b"" if command is None else command, policy_path(state, key)
    )
    _use_own_environment(key)
    store = Store(state)
    try:
        policy = read_policy(state, key)
        decision = ask(command, staged.registered(store))
    except (Refused, Damaged, OSError, ValueError) as error:
        return refuse(log, str(error))
    if isinstance(decision, Refusal):
        return refuse(log, decision.why)
    if isinstance(decision, Call):
        return call(decision.verb, policy, log)
    if decision.tree not in policy["trees"]:  # another key's master has opened it
        return refuse(log, "run %s has no stage in a tree of this key" % decision.run)
    return receive(decision, policy["rsync"], log)


def refuse(log: "gatelog.Log", why: str) -> int:
    log.refused(why)
    sys.stderr.write("ngxsync: refused: %s\n" % gatelog.plain(os.fsencode(why)))
    return REFUSED


def _use_own_environment(key: str) -> None:
    """Raises nothing; where Python took file names for something else than UTF-8, this program begins again."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    clean = dict({"PATH": PATH}, LC_ALL="C.UTF-8", **kept)
    if sys.getfilesystemencoding().lower() != "utf-8" and os.environ.get("LC_ALL") != "C.UTF-8":
        again = {name: os.environ[name] for name in ("SSH_ORIGINAL_COMMAND", "SSH_CONNECTION") if name in os.environ}
        os.execve(sys.executable, [sys.executable, "-I", "-S", sys.argv[0], "gate", key], dict(clean, **again))
    os.environ.clear()
    os.environ.update(clean)


def call(verb: str, policy: Dict[str, Any], log: "gatelog.Log") -> int:
    """One verb of the agent, in this process; a client that goes without a request (a warm one that nobody needed) leaves no trace."""
    text = read_request()
    if not text:
        return 0
    refusal: Optional[str] = None

    def check(request: Answer) -> Answer:
        nonlocal refusal
        try:
            known = checked(verb, request, policy)
        except Refused as error:
            refusal = str(error)
            raise Failure("gate", "refused by the gate: %s" % refusal, where=log.policy_file, next=MEND)
        log.accepted("%s %s" % (verb, known.get("run", "")))
        return known

    answer = guarded(lambda: answered_text(verb, text, check))
    if verb == "stage" and answer["ok"]:
        answer["stages"] = places(answer["stages"], str(json.loads(text.decode("utf-8"))["run"]))
    if verb == "hello":
        answer["gate"] = True
    say(answer)
    return 0 if refusal is None else refuse(log, refusal)


def places(stages: Dict[str, str], run: str) -> Dict[str, str]:
    """What a transfer names instead of a folder: RUN/NUMBER/, plain to every shell and rsync whatever the tree is called."""
    return {tree: "%s/%d/" % (run, number) for number, tree in enumerate(sorted(stages))}


def receive(decision: Receive, rsync: str, log: "gatelog.Log") -> int:
    """rsync's exit status, or that of a refusal; both stand in the stage, and can write nowhere else."""
    try:
        enter_stage(decision.tree, decision.folder)
        log.accepted("transfer %s into %s" % (decision.run, decision.folder))
    except (OSError, ValueError) as error:
        return refuse(log, "the stage of run %s cannot be filled: %s" % (decision.run, error))
    argv = [rsync] + RSYNC + ["--timeout=%d" % decision.timeout_s, ".", "."]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": os.environ.get("HOME", "/")}
    return receiver.receive(argv, environment, decision.timeout_s)


def enter_stage(tree: str, folder: str) -> None:
    """Component by component without following links, so that nobody below the tree leads us elsewhere; then confined to it."""
    from . import kernel
    from .paths import Anchor

    with Anchor.at(tree) as anchor, anchor.folder(folder) as fd:
        info = os.fstat(fd)
        if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
            raise ValueError("it is not ngxsync's own")
        os.fchdir(fd)
        kernel.write_only_below(fd)

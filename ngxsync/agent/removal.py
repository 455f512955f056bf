"""The verb uninstall: takes away what `peer install` and the first sync put here. Trees, nginx and other keys stay as they are."""

import contextlib
import os
import pwd
import shlex
import shutil
from typing import Any, Dict, Iterator, List, Optional, Set

from . import sudorule, unit, vrrpfiles
from .answers import Failure
from .authorizedkeys import Line, is_gate, keys_in, policy_of, without_key
from .door import COMMAND_LINK, GATE, Step, carried_out
from .failures import busy_failure
from .folders import homes, remove_run_folder
from .keyfile import KeyFile, key_files
from .liveness import FOLDER as NOTES
from .manifest import is_clean, tree_of
from .policyfile import all_policies, fingerprint, policy_path
from .store import Busy, Store, fsync_folder
from .survey import OWN_FOLDER

Answer = Dict[str, Any]

LOCK_WAIT_S = 5.0


def uninstall(request: Answer) -> Answer:
    """With `dry_run` only told; with `purge` also the accepted record, what runs replaced, and stages. Raises Failure."""
    state, trees = request["state_dir"], request["trees"]
    if not all(is_clean(path) for path in trees + [state]):
        raise Failure("agent", "the request makes no sense: %r" % request, next="see that both sides run one release")
    with no_run(Store(state)):
        place = Place(state, request["user"], request["key"], request["comment"])
        steps = place.key_steps() + place.sudo_steps()
        others = place.others()
        if others:
            steps += place.policy_steps() + (place.stage_steps(place.own_alone(trees)) if request["purge"] else [])
            text = "%s and what belongs to it stays: %s still comes in by it" % (state, ", ".join(others))
            steps.append(Step("kept", text + (", also with --purge" if request["purge"] else ""), None))
        else:
            raise_if_called_by_keepalived()
            steps += place.unit_steps() + place.agent_steps()
            steps += place.purge_steps(trees) if request["purge"] else place.kept_steps()
        return carried_out(steps, bool(request.get("dry_run")))


@contextlib.contextmanager
def no_run(store: Store) -> Iterator[None]:
    """Nothing is taken away under a run. Raises Failure (open-run, locked)."""
    if not os.path.isdir(store.root):
        yield
        return
    try:
        with store.lock("transaction", "uninstall", LOCK_WAIT_S):
            if os.path.lexists(store.journal):
                hint = "`ngxsync-agent recover` here, or the next run, finishes or undoes it; then again"
                raise Failure("open-run", "a run was interrupted here and is not finished", store.journal, next=hint)
            yield
    except Busy as busy:
        raise busy_failure(busy)


def raise_if_called_by_keepalived() -> None:
    """Raises Failure (keepalived): without the agent its check of nginx would fail, and the VIP would move for it."""
    try:
        found = vrrpfiles.read(vrrpfiles.find_running())
    except OSError:
        return
    name = os.path.basename(COMMAND_LINK)
    calls = [each for each in found.statements if any(name in word for word in each.words)]
    if calls:
        hint = "take its vrrp_script, track_script and notify out, or put your own scripts there; systemctl reload keepalived; then again"
        where = "%s:%d" % (calls[0].file, calls[0].line)
        raise Failure("keepalived", "keepalived here calls %s" % name, where, next=hint)


class Place:
    """All that is ours on this host for one master's key; what is absent makes no step.

    `key` "" where the master has lost it: then its lines are those with its comment.
    """

    def __init__(self, state: str, user: str, key: str, comment: str) -> None:
        self.state, self.key, self.comment = state, key, comment
        self.agents = os.path.join(state, "agent")
        self.gate = "%s %s" % (shlex.quote(os.path.join(self.agents, "current")), GATE)
        self.account: Optional[pwd.struct_passwd] = None
        with contextlib.suppress(KeyError):
            self.account = pwd.getpwnam(user)
        self.policies = all_policies(state)
        self.own = {fingerprint(key)} if key else self._fingerprints_by_comment()

    def _fingerprints_by_comment(self) -> Set[str]:
        """The policy bears it too: a removal that was cut after the line went still finds the rest."""
        lines = self._gate_lines(self.account) if self.account else []
        found = {str(policy_of(line, self.gate)) for line in lines if self._is_own(line)}
        return found | {name for name, policy in self.policies.items() if policy and policy["comment"] == self.comment}

    def _gate_lines(self, account: pwd.struct_passwd) -> List[Line]:
        texts = (KeyFile(path, account).read() or b"" for path in key_files(account))
        return [line for text in texts for line in keys_in(text) if is_gate(line, self.gate)]

    def _is_own(self, line: Line) -> bool:
        return line.key == self.key.encode() if self.key else line.comment == self.comment.encode()

    def key_steps(self) -> List[Step]:
        steps: List[Step] = []
        if self.account is None:
            return steps
        for path in key_files(self.account):
            file = KeyFile(path, self.account)
            text = file.read() or b""
            own = [line for line in keys_in(text) if self._is_own(line)]
            if file.leftovers() or any(is_gate(line, self.gate) for line in own):
                steps.append(Step("key", "%s: its one line" % path, self._closing(file)))
            elif own:
                steps.append(Step("key", "%s: this key's line is none of ours, it stays" % path, None))
        return steps

    def _closing(self, file: KeyFile) -> Any:
        def edit(text: bytes) -> bytes:
            for line in filter(self._is_own, keys_in(text)):
                text = without_key(text, line.key.decode("ascii"), self.gate)
            return text

        return lambda: file.change(edit)

    def others(self) -> List[str]:
        """Who else comes in by the gate, by the comments of their lines: their keys, and what serves them, stay."""
        users = [pwd.getpwuid(0)] + [self.account] * (self.account is not None)
        for uid in sudorule.rules_in(sudorule.read() if os.geteuid() == 0 else ""):
            with contextlib.suppress(KeyError):
                users.append(pwd.getpwuid(uid))
        found: Set[str] = set()
        for account in {user.pw_name: user for user in users if user is not None}.values():
            if os.geteuid() in (0, account.pw_uid):
                lines = self._gate_lines(account)
                found.update(line.comment.decode("utf-8", "replace") for line in lines if not self._is_own(line))
        return sorted(found)

    def sudo_steps(self) -> List[Step]:
        """The user's rule, or this key's part of it where another key of the same user needs the rest."""
        if self.account is None or os.geteuid() != 0:
            return []
        uid, text = self.account.pw_uid, sudorule.read()
        others = [line for line in self._gate_lines(self.account) if not self._is_own(line)]
        # what another key's door puts there from now on stays
        gone = self.own if others else {argv[-1] for argv in sudorule.commands_in(sudorule.rules_in(text).get(uid, ""))}
        after = sudorule.without_rule(text, uid, gone)
        if after == text and not os.path.lexists(sudorule.UNFINISHED):
            return []
        whole = "%s: the rule of %s" if not others else "%s: what lets %s start the gate for this key"
        told = whole % (sudorule.PATH, self.account.pw_name) if after else sudorule.PATH
        return [Step("sudo", told, lambda: sudorule.change(lambda now: sudorule.without_rule(now, uid, gone)))]

    def unit_steps(self) -> List[Step]:
        if self.state != unit.STANDARD_STATE or not unit.is_ours():
            return []
        return [Step("recovery", os.path.join(unit.FOLDER, unit.NAME), unit.remove)]

    def agent_steps(self) -> List[Step]:
        steps = []
        if os.path.islink(COMMAND_LINK) and os.readlink(COMMAND_LINK).startswith(self.agents + "/"):
            steps.append(Step("command", COMMAND_LINK, lambda: os.unlink(COMMAND_LINK)))
            if os.path.isdir(NOTES):
                steps.append(Step("notes", NOTES, lambda: shutil.rmtree(NOTES, ignore_errors=True)))
        if os.path.lexists(self.agents):
            steps.append(Step("agent", self.agents, lambda: self._remove(self.agents)))
        return steps

    def kept_steps(self) -> List[Step]:
        store = Store(self.state)
        text = "%s stays (%s): --purge removes it" % (store.root, contents(store))
        return [Step("kept", text, None)] if os.path.isdir(store.root) else []

    def policy_steps(self) -> List[Step]:
        paths = [policy_path(self.state, name) for name in sorted(self.own)]
        return [Step("policy", path, _unlinking(path)) for path in paths if os.path.lexists(path)]

    def own_alone(self, trees: List[str]) -> List[str]:
        """Those that no other key may work on; none where a policy cannot be read."""
        others = [policy for name, policy in self.policies.items() if name not in self.own]
        if None in others:
            return []
        taken = [tree for policy in others if policy for tree in policy["trees"]]
        return [tree for tree in trees if not any(tree_of(tree, [each]) or tree_of(each, [tree]) for each in taken)]

    def stage_steps(self, trees: List[str]) -> List[Step]:
        steps = []
        for tree in trees:
            own = [home + "/" + OWN_FOLDER for home in homes(tree) if os.path.isdir(home + "/" + OWN_FOLDER)]
            if own:
                steps.append(Step("stages", ", ".join(own), _emptying(tree, own)))
        return steps

    def purge_steps(self, trees: List[str]) -> List[Step]:
        store = Store(self.state)
        steps = self.stage_steps(trees)
        if os.path.lexists(store.root):
            steps.append(Step("store", "%s: %s" % (store.root, contents(store)), lambda: self._remove(store.root)))
        return steps

    def _remove(self, path: str) -> None:
        """The state folder goes with the last that was in it; what this host has as a master stays."""
        shutil.rmtree(path)
        with contextlib.suppress(OSError):
            os.rmdir(self.state)
            return
        if os.path.isdir(self.state):
            fsync_folder(self.state)


def _unlinking(path: str) -> Any:
    def work() -> None:
        os.unlink(path)
        fsync_folder(os.path.dirname(path))

    return work


def _emptying(tree: str, own: List[str]) -> Any:
    def work() -> None:
        remove_run_folder(tree, None)
        for folder in own:
            os.rmdir(folder)

    return work


def contents(store: Store) -> str:
    """For people: how many runs, and what room they take."""
    size = 0
    for folder, _, files in os.walk(store.root):
        for name in files:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(folder, name)).st_size
    runs = sum(1 for _ in store.answers())
    room = "%d KB" % (size / 1e3) if size < 1e6 else "%.1f MB" % (size / 1e6)
    return "%d run%s, %s" % (runs, "" if runs == 1 else "s", room)

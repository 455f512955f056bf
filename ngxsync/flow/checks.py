"""`check`: can this pair work? Named checks on both hosts, in the order in which an administrator would mend them.

Nothing changes on a peer: the agent runs there from a temporary folder, and asks only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Protocol

from ngxsync import __version__
from ngxsync.agent.manifest import PROTOCOL, tree_of
from ngxsync.core import judge_host, judge_leans, judge_pair, judge_parity
from ngxsync.core.checkup import FAILED, OK, Check, check_of_message
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import AgentFailed, NgxsyncError
from ngxsync.core.excludes import ALWAYS, BUILTIN, is_own_by, make_projection
from ngxsync.core.following import judge_follow
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import Snapshot
from ngxsync.flow import requests
from ngxsync.flow.interfaces import Master, Named, Peer
from ngxsync.flow.outcomes import message_of

Facts = Mapping[str, Any]
FACTS_S = 90.0
HELLO_S = 20.0


class LocalFacts(Protocol):
    """The agent's code on this host (edges/local.py)."""

    def call(self, verb: str, request: Mapping[str, Any]) -> dict[str, Any]: ...


class Connection(Protocol):
    """One peer's two ssh connections (edges/link)."""

    def whoami_both(self) -> tuple[str, str]: ...


@dataclass(frozen=True)
class CheckedPeer:
    """What is asked of one peer; `key_problem` is that of its private key here (edges/keys.py)."""

    peer: Peer
    connection: Connection
    record: PeerRecord
    key_problem: str = ""


@dataclass(frozen=True)
class MasterView:
    """What was found on this host, and what the peers are compared with."""

    checks: tuple[Check, ...]
    facts: Facts
    named: Named
    snapshot: Snapshot | None
    shares_config: bool = False  # with the peers

    def sizes(self) -> dict[str, tuple[int, int]]:
        """{tree: (bytes, entries)}."""
        if self.snapshot is None:
            return {}
        trees = {root: [0, 0] for root in self.snapshot.projection.roots}
        for path, entry in self.snapshot.manifest.items():
            tree = tree_of(path, list(trees))
            if tree is not None:
                trees[tree][0] += entry.size
                trees[tree][1] += 1
        return {tree: (size, count) for tree, (size, count) in trees.items()}


def check_master(config: Config, master: Master, local: LocalFacts, *, shares_config: bool = False) -> MasterView:
    """All that concerns this host alone. Raises NgxsyncError where the agent's code gives no answer here."""
    name = master.name
    checks = [Check(name, "configuration", OK, config.file)]
    projection = make_projection(config, None, None, owners=master.owners)
    facts = local.call("facts", {"projection": projection.as_json()})
    if not facts["ok"]:
        raise NgxsyncError(str(facts["message"]["what"]), code=str(facts["code"]))
    trees = config.sync.trees
    checks += [
        Check(name, "ngxsync", OK, f"{__version__}, Python {facts['hello']['python']}"),
        judge_pair.judge_rsync(name, facts["rsync"]),
        judge_host.judge_nginx(name, facts["nginx"], trees=trees, is_master=True),
        *_master_configuration(config, master, facts),
        *judge_host.judge_key_files(name, facts["nginx"]),
        *judge_leans.judge_leaning(name, facts),
        *_follow(config, master),
    ]
    snapshot, named = None, Named()
    try:
        named = master.named()
        snapshot = master.scan(make_projection(config, None, named.self_excludes, owners=master.owners), full=False)
        checks += [Check(name, "tree", OK, tree) for tree in trees]
    except NgxsyncError as error:
        checks.append(check_of_message(name, "tree", error.message))
    checks += _special_files(name, snapshot)
    return MasterView(tuple(checks), facts, named, snapshot, shares_config)


def _master_configuration(config: Config, master: Master, facts: Facts) -> Iterator[Check]:
    name = master.name
    if facts["nginx"]["found"]:
        yield judge_host.judge_rehearsal(name, facts, rehearse=config.nginx.rehearse, is_master=True)
        yield judge_host.judge_configuration(name, facts, is_master=True)
        return
    validation = master.validate()  # crossplane's word, where there is no nginx
    told = "; ".join(str(problem) for problem in validation.problems[:5])
    yield Check(name, "nginx accepts its configuration", OK if validation.passed else FAILED, told or "by crossplane")


def _follow(config: Config, master: Master) -> Iterator[Check]:
    if config.sync.is_following:
        serving = master.nginx.serving()
        yield judge_follow(master.name, serving, config.sync.soak_s, master.nginx.unread_logs())


def _special_files(name: str, snapshot: Snapshot | None) -> Iterator[Check]:
    if snapshot is not None and snapshot.specials:
        told = f"left alone, since no sync carries them: {', '.join(snapshot.specials[:5])}"
        yield Check(name, "sockets, devices and pipes", OK, told)


def check_peer(
    config: Config, checked: CheckedPeer, view: MasterView, *, now: Callable[[], float] = time.time
) -> Iterator[Check]:
    """All that concerns one peer. What cannot be reached ends it: the rest lies behind the connection."""
    peer, name = checked.peer, checked.peer.config.name
    yield judge_key(name, peer.config.identity, checked.key_problem)
    if checked.key_problem:
        return
    reached = Check(name, "connection", OK, f"{peer.config.user}@{peer.config.host}:{peer.config.port}")
    try:
        whoami = checked.connection.whoami_both()
    except AgentFailed as error:
        yield from (reached, check_of_message(name, "agent", error.message))
        return
    except NgxsyncError as error:
        yield check_of_message(name, "connection", error.message)
        return
    yield reached
    master = view.facts["hello"]
    yield judge_pair.judge_same_host(f"{master['host']} {master['boot_id']}", whoami, peer.config.user, name)
    try:
        asked = now()
        hello = peer.call("hello", {"protocol": PROTOCOL}, timeout_s=HELLO_S)
        answered = now()
        owners = bool(view.facts["hello"]["uid"] == 0 and hello["uid"] == 0)
        facts = _facts_of(config, checked, view, owners=owners)
    except NgxsyncError as error:
        yield check_of_message(name, "agent", error.message)
        return
    started = "behind its gate" if hello.get("gate") is True else "from a temporary folder"
    yield Check(name, "agent", OK, f"protocol {hello['protocol']}, Python {hello['python']}, {started}")
    yield judge_pair.judge_gate(name, hello.get("gate") is True)
    yield judge_pair.judge_clock(name, hello["now"] - (asked + answered) / 2, (answered - asked) / 2)
    if view.shares_config:
        yield from filter(None, [judge_pair.judge_config(peer.config, config.file, view.facts, facts)])
    yield from judge_peer(config, peer.config, view, facts, owners=owners)
    yield judge_excludes(config, peer.config, view.named.self_excludes, checked.record)


def _facts_of(config: Config, checked: CheckedPeer, view: MasterView, *, owners: bool) -> Facts:
    peer = checked.peer.config
    projection = make_projection(config, peer, view.named.self_excludes, owners=owners)
    names = requests.names_of(view.snapshot.manifest if view.snapshot else {})
    user, *group = [*view.facts["nginx"].get("user", ())] or [""]
    request = {
        **requests.common(config, peer, projection),
        "users": sorted({*names["users"], user} - {""}) if owners else [user] if user else [],
        "groups": sorted({*names["groups"], *group}) if owners else group,
    }
    answer = checked.peer.call("facts", request, timeout_s=FACTS_S)
    if not answer["ok"]:
        raise NgxsyncError(message_of(answer, peer), code=str(answer["code"]))
    return answer


def judge_peer(config: Config, peer: PeerConfig, view: MasterView, facts: Facts, *, owners: bool) -> Iterator[Check]:
    """Recorded facts of a peer against the master's: pure."""
    name = peer.name
    yield judge_pair.judge_rsync(name, facts["rsync"])
    yield judge_host.judge_nginx(name, facts["nginx"], trees=config.sync.trees, is_master=False)
    yield from judge_parity.judge_parity(name, view.facts, facts)
    yield judge_host.judge_rehearsal(name, facts, rehearse=peer.rehearse)
    yield judge_host.judge_configuration(name, facts, is_master=False)
    yield from judge_host.judge_key_files(name, facts["nginx"])
    yield from judge_host.judge_trees(name, facts)
    yield judge_host.judge_rights(name, facts, user=peer.user, owners=owners)
    yield from judge_host.judge_space(name, facts, sizes=view.sizes())
    yield judge_pair.judge_users(name, facts["missing_users"])
    yield judge_pair.judge_listens(name, view.facts, facts)
    yield from judge_leans.judge_outside(name, view.facts, facts, is_own_by(config, peer))
    yield from judge_leans.judge_leaning(name, facts, view.facts)
    yield from filter(None, [judge_leans.judge_renewal(name, facts, config.sync.trees)])
    yield judge_host.judge_selinux(name, facts["selinux"])
    yield judge_host.judge_recovery(name, facts)
    yield judge_host.judge_journal(name, facts)
    yield judge_host.judge_accepted(name, facts)


KEY_PROBLEMS = {
    "missing": ("there is no such file", "ngxsync peer install makes one, and lets it in there"),
    "unreadable": ("it cannot be read by this user", "run as root, as the daemon does"),
    "open": ("others can read it, and ssh then refuses it", "chmod 600 {path}"),
    "locked": ("it has a passphrase, which nobody is there to type", "ssh-keygen -p -N '' -f {path}"),
    "invalid": ("it is no private key", "name the file without .pub"),
}


def judge_key(host: str, path: PurePath, problem: str) -> Check:
    """The private key on this host."""
    if not problem:
        return Check(host, "key", OK, str(path))
    what, hint = KEY_PROBLEMS[problem]
    return Check(host, "key", FAILED, f"{path}: {what}", hint.format(path=path))


def judge_excludes(config: Config, peer: PeerConfig, implied: Mapping[str, Sequence[str]], record: PeerRecord) -> Check:
    """What is never sent: built in, by nginx's own configuration (now and since the first sync), as configured."""
    taken_back = [pattern for pattern in BUILTIN if f"!{pattern}" in config.sync.exclude]
    own = dict.fromkeys(pattern for by_tree in (implied, record.self_excludes) for pattern in _flat(by_tree.values()))
    parts = [
        ("by itself, for nginx writes there", list(own)),
        ("as configured", [*config.sync.exclude, *peer.exclude]),
        ("built in", [pattern for pattern in (*BUILTIN, ALWAYS) if pattern not in taken_back]),
    ]
    told = "; ".join(f"{label}: {' '.join(patterns)}" for label, patterns in parts if patterns)
    return Check(peer.name, "excluded", OK, told)


def _flat(lists: Iterable[Sequence[str]]) -> Iterator[str]:
    for patterns in lists:
        yield from patterns

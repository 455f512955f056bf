"""A peer's door: what `peer install` and `peer remove` ask of the agent there, and how they prove what they did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ngxsync.agent.manifest import PROTOCOL
from ngxsync.core.answers import checked
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import AgentFailed, Held, Message, NgxsyncError, PeerUnreachable
from ngxsync.flow.outcomes import message_of
from ngxsync.flow.requests import keep, nginx_settings

POLICY = ("root", "conf", "binary", "reload", "rehearse", "probe")
HELLO_S = 30.0
THERE, WOULD, DONE = "there", "would", "done"
HELD = ("locked", "open-run")


class NotClosed(NgxsyncError):
    """What was to be closed or gone is not."""

    exit_status = 1
    code = "open"


class Stopped(NgxsyncError):
    """A person ended it in the middle."""

    exit_status = 130
    code = "interrupted"


@dataclass(frozen=True)
class Step:
    """`state` is THERE (nothing to do), WOULD or DONE."""

    name: str
    text: str
    state: str


def policy(config: Config, peer: PeerConfig) -> dict[str, Any]:
    """What the gate lets this master's key work on; the peer adds where its rsync is."""
    nginx = nginx_settings(config, peer)
    named = {name: nginx[name] for name in POLICY}
    return {"trees": list(config.sync.trees), "nginx": named, "keep": keep(config)}


def install_request(
    config: Config, peer: PeerConfig, *, key: str, master: str, agent: str, dry_run: bool
) -> dict[str, Any]:
    """`key` is the public one, "TYPE BASE64", `agent` the hash of ours, `master` this host's name."""
    return {
        "protocol": PROTOCOL,
        "state_dir": peer.state_dir,
        "user": peer.user,
        "key": key,
        "comment": f"ngxsync of {master}",
        "agent": agent,
        "policy": policy(config, peer),
        "dry_run": dry_run,
    }


def uninstall_request(
    config: Config, peer: PeerConfig, *, key: str, master: str, purge: bool, dry_run: bool
) -> dict[str, Any]:
    """`key` "" where it is lost: what has this host's name is then taken for its own."""
    return {
        "protocol": PROTOCOL,
        "state_dir": peer.state_dir,
        "user": peer.user,
        "key": key,
        "comment": f"ngxsync of {master}",
        "trees": list(config.sync.trees),
        "purge": purge,
        "dry_run": dry_run,
    }


def steps_of(verb: str, request: Mapping[str, Any], answer: Any, peer: PeerConfig, done: list[Step]) -> list[Step]:
    """The steps, added to `done` also where they ended early. Raises AgentFailed, or Held where a run is in the way."""
    answer = checked(verb, request, answer, peer.name, f"{peer.user}@{peer.host}")
    told = answer.get("steps")
    steps = [Step(name, text, state) for name, state, text in filter(_is_step, told if isinstance(told, list) else ())]
    done += steps
    if answer["ok"]:
        return steps
    kind = Held if answer["code"] in HELD else AgentFailed
    raise kind(message_of(answer, peer), code=str(answer["code"]))


def _is_step(value: Any) -> bool:
    is_text = isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) for part in value)
    return is_text and value[1] in (THERE, WOULD, DONE)


class ByKey(Protocol):
    """The key of a peer, by both ssh stacks (edges/link)."""

    def hello(self, request: dict[str, Any], *, timeout_s: float) -> tuple[dict[str, Any], dict[str, Any]]: ...

    def says(self, command: str, *, timeout_s: float) -> str: ...


def prove(peer: PeerConfig, key: ByKey, token: str) -> None:
    """The key works by both stacks, and gives no shell. Raises NgxsyncError."""
    request = {"protocol": PROTOCOL, "state_dir": peer.state_dir}
    try:
        answers = key.hello(request, timeout_s=HELLO_S)
    except PeerUnreachable as error:
        raise _not_taken(peer, error) from error
    for answer in answers:
        checked("hello", request, answer, peer.name, f"{peer.user}@{peer.host}")
        if not answer["ok"]:
            raise AgentFailed(message_of(answer, peer), code=str(answer["code"]))
    # the gate there writes down that it refused this: its reader sees whose it was
    if token in key.says(f"echo ngxsync-peer-install-tries-for-a-shell {token}", timeout_s=HELLO_S):
        what = f"the key {peer.identity} still gives a shell there"
        hint = f"does sshd on {peer.name} read keys elsewhere too? see `sshd -T` there"
        raise NotClosed(Message(what, f"{peer.user}@{peer.host}", "the key is not restricted", hint))


def _not_taken(peer: PeerConfig, error: PeerUnreachable) -> PeerUnreachable:
    """The line is there, and sshd has its own reasons."""
    if error.code != "auth":
        return error
    what = f"sshd on {peer.name} does not let {peer.user} in with the key, though its line is there"
    hint = f"PermitRootLogin, AllowUsers, the mode of {peer.user}'s home: `journalctl -u ssh` on {peer.name} has the reason"
    return PeerUnreachable(Message(what, error.message.where, "the line stays", hint), code=error.code)


def is_refused(peer: PeerConfig, key: ByKey) -> bool:
    """Whether the key lets nobody in any more. Raises NgxsyncError where that cannot be told."""
    try:
        key.hello({"protocol": PROTOCOL, "state_dir": peer.state_dir}, timeout_s=HELLO_S)
    except PeerUnreachable as error:
        if error.code == "auth":
            return True
        raise
    except AgentFailed:  # it is let in, and finds no agent
        return False
    return False

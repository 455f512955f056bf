"""`keepalived check`: what both hosts' keepalived is told and what is true there, asked and judged. Nothing changes anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ngxsync.agent.manifest import PROTOCOL
from ngxsync.core.config import Config
from ngxsync.core.errors import Message, NgxsyncError
from ngxsync.core.keepalived.finding import Finding
from ngxsync.core.keepalived.side import Side, make_side
from ngxsync.core.keepalived.verdict import judge, source_addresses
from ngxsync.flow.interfaces import Peer
from ngxsync.flow.outcomes import message_of

ASK_S = 60.0  # a peer whose nft or keepalived hangs gives them up by itself, one after the other


class Asked(Protocol):
    """This host (edges/local.py): the agent's code, by its verbs."""

    def call(self, verb: str, request: Mapping[str, Any]) -> dict[str, Any]: ...


def check_keepalived(
    config: Config, name: str, local: Asked, peers: Sequence[Peer], salt: str
) -> tuple[list[Side], list[Finding]]:
    """The sides, this host's (called `name`) first, and all findings. Raises NgxsyncError where one gives no answer."""
    here = _local(name, local, {"salt": salt})
    partners = source_addresses(here)
    others = [_ask(peer, {"salt": salt, "partners": partners}) for peer in peers]
    # whose adverts have to come in is known only now
    theirs = _sources(others)
    if theirs:
        here = _local(name, local, {"salt": salt, "partners": theirs})
    if len(peers) > 1:  # the backups have to hear each other too, once this host is gone
        sides = [here, *others]
        heard = [_sources([each for each in sides if each is not other]) for other in others]
        others = [_ask(peer, {"salt": salt, "partners": each}) for peer, each in zip(peers, heard, strict=True)]
    return [here, *others], judge(config, here, others)


def _sources(sides: Sequence[Side]) -> list[str]:
    return sorted({address for side in sides for address in source_addresses(side)})


def _local(name: str, local: Asked, request: Mapping[str, Any]) -> Side:
    answer = local.call("vrrp", request)
    if not answer["ok"]:
        raise NgxsyncError(Message(**answer["message"]), code=str(answer["code"]))
    return make_side(name, answer)


def _ask(peer: Peer, request: Mapping[str, Any]) -> Side:
    asked = {"protocol": PROTOCOL, "state_dir": peer.config.state_dir, **request}
    answer = peer.call("vrrp", asked, timeout_s=ASK_S)
    if not answer["ok"]:
        raise NgxsyncError(message_of(answer, peer.config), code=str(answer["code"]))
    return make_side(peer.config.name, answer)

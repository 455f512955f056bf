"""Who tells people from a command's process, as the daemon does from its own."""

from __future__ import annotations

import socket

from ngxsync.cli.options import open_state
from ngxsync.core.config import Config
from ngxsync.core.events import Event
from ngxsync.core.memory import PeerRecord
from ngxsync.core.troubles import lasting as lasting_of
from ngxsync.core.troubles import troubles_from_json
from ngxsync.daemon.post import Knowledge, Post
from ngxsync.edges.local import others
from ngxsync.edges.spool import OPEN, Spool


def open_post(config: Config) -> Post:
    """Reads what lasts, and changes nothing of it."""
    names = [peer.name for peer in others(config)]
    spool, state = Spool(config.state_dir), open_state(config)
    own = next((peer for peer in config.peers if peer.name not in names), None)

    def records() -> tuple[PeerRecord, ...]:
        return tuple(map(state.load_peer, names))

    def lasting() -> tuple[Event, ...]:
        return lasting_of(troubles_from_json(spool.read(OPEN), names))

    return Post(config, spool, socket.gethostname(), own, Knowledge(records, lasting))

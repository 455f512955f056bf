"""A run on a peer: rsync takes the content there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ngxsync.core.config import Config
from ngxsync.flow.host_run import HostRun
from ngxsync.flow.interfaces import Master, Options, Peer, Prepared


class PeerRun(HostRun):
    def __init__(
        self, config: Config, master: Master, peer: Peer, memory: Any, prepared: Prepared, options: Options
    ) -> None:
        self._sends = peer.send
        super().__init__(config, master, peer, memory, prepared, options)

    def send(self, names: Collection[str], stages: Mapping[str, str]) -> None:
        for tree, stage in stages.items():
            below = [name[len(tree) + 1 :] for name in names if name.startswith(tree + "/")]
            if below:
                self.bytes_sent += self._sends(Path(tree), below, stage, self._progress())

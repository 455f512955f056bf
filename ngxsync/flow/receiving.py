"""What this host receives in a pull: the content of planned files, asked of the peer's agent, into the stage of this host's own trees."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from ngxsync.agent.manifest import Entry, tree_of
from ngxsync.core.config import Config
from ngxsync.core.errors import AgentFailed, Message, SourceChanged
from ngxsync.core.model import Projection
from ngxsync.core.wording import safe_name
from ngxsync.flow import outcomes, requests
from ngxsync.flow.interfaces import Host, Receiver

SHOW_S = 60.0
BATCH_BYTES = 4 << 20  # of one answer, as the agent limits it
BATCH_PATHS = 200


class Source:
    """The peer. `progress(done, total)` are bytes; what came is in no message and no log, whatever fails."""

    def __init__(
        self,
        config: Config,
        peer: Host,
        projection: Projection,
        receiver: Receiver,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.peer, self.projection, self.receiver, self.progress = peer, projection, receiver, progress
        self.common = requests.common(config, peer.config, projection)
        self.bytes_fetched = self.total = 0

    def fetch(self, wanted: Mapping[str, Entry], stages: Mapping[str, str]) -> None:
        """Raises SourceChanged where the bytes are not (any more) those that the entry names, NgxsyncError."""
        self.total = sum(entry.size for entry in wanted.values())
        for group in batches(wanted):
            pages = self._pages(group, 0)
            for path in group:
                tree = tree_of(path, list(stages)) or ""
                with self.receiver.staged(tree, stages[tree], path[len(tree) + 1 :]) as file:
                    self._write(path, wanted[path], pages[path], file)

    def _write(self, path: str, entry: Entry, page: bytes, file: BinaryIO) -> None:
        digest, size = hashlib.sha256(), 0
        while True:
            file.write(page)
            digest.update(page)
            size += len(page)
            self.bytes_fetched += len(page)
            if self.progress is not None:
                self.progress(self.bytes_fetched, self.total)
            if not page or size >= entry.size:
                break
            page = self._pages([path], size)[path]
        if (size, digest.hexdigest()) != (entry.size, entry.content):
            raise self._changed(path)

    def _pages(self, paths: list[str], offset: int) -> dict[str, bytes]:
        request = {**self.common, "paths": paths, "pull": True, "offset": offset}
        answer = self.peer.call("show", request, timeout_s=SHOW_S)
        if not answer["ok"]:
            raise AgentFailed(outcomes.message_of(answer, self.peer.config), code=str(answer["code"]))
        return {path: self._bytes(path, shown) for path, shown in answer["files"].items()}

    def _bytes(self, path: str, shown: Mapping[str, object]) -> bytes:
        text, name = shown["text"], self.peer.config.name
        if isinstance(text, str):
            return base64.b64decode(text)
        if shown.get("sha256"):  # an agent of an earlier release, which shows no secrets, and nothing large
            hint = f"`ngxsync peer install {name}`, or the next `ngxsync sync`, puts the agent of this release there"
            what = f"the agent of an earlier release on {name} does not give secrets or large files: {safe_name(path)}"
            raise AgentFailed(Message(what, name, "this host unchanged", hint))
        raise self._changed(path)

    def _changed(self, path: str) -> SourceChanged:
        name = self.peer.config.name
        what = f"{safe_name(path)} was edited on {name} while it was fetched"
        return SourceChanged(Message(what, name, "this host unchanged", "`ngxsync pull` tries again"))


def batches(wanted: Mapping[str, Entry]) -> Iterator[list[str]]:
    """Groups of paths, each of which fits into one answer; what is larger comes alone."""
    group: list[str] = []
    size = 0
    for path, entry in wanted.items():
        if group and (size + entry.size > BATCH_BYTES or len(group) == BATCH_PATHS):
            yield group
            group, size = [], 0
        group.append(path)
        size += entry.size
    if group:
        yield group

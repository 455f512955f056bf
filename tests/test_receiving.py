"""What comes over in a pull: page by page from the agent's own code, into the stage, and only what was scanned (flow.receiving)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from ngxsync.agent import inspection
from ngxsync.agent.asked import raise_if_odd
from ngxsync.agent.manifest import Manifest
from ngxsync.agent.pages import PAGE
from ngxsync.core.answers import checked
from ngxsync.core.config import PeerConfig, load_config
from ngxsync.core.errors import AgentFailed, SourceChanged, TransferFailed
from ngxsync.core.model import Projection
from ngxsync.edges.local import LocalHost, OwnHost
from ngxsync.flow.receiving import Source

CONFIG = load_config("[peer web2]\nhost = 192.0.2.2\nidentity = /k\n", "c.ini")
KEY = "-----BEGIN PRIVATE KEY-----\n"


class Peer:
    """flow.interfaces.Peer: the agent's own code over a folder. `before(number)` is called before each answer."""

    def __init__(self, before: Callable[[int], None] = lambda _number: None, *, is_old: bool = False) -> None:
        self.config: PeerConfig = CONFIG.peers[0]
        self.asked: list[dict[str, Any]] = []
        self._before, self._is_old = before, is_old

    def call(self, verb: str, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        self._before(len(self.asked))
        self.asked.append(request)
        raise_if_odd(verb, request)
        known = {key: value for key, value in request.items() if not (self._is_old and key in ("pull", "offset"))}
        return checked(verb, request, inspection.show(known), "web2", "root@web2")

    def warm(self, _verb: str) -> None: ...

    def send(self, *_about: Any) -> int:
        raise AssertionError("nothing is sent")


class Hosts:
    """A tree on the peer, and the stage of one here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.there, self.stage = folder / "tree", folder / "tree/.ngxsync/1/stage"
        self.stage.mkdir(parents=True)
        self.own = OwnHost(LocalHost("web1", {}, folder / "state"), CONFIG.peers[0], "", lambda _verb: ([], b""))
        self.writes: list[int] = []

    def put(self, name: str, content: bytes) -> Path:
        file = self.there / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def scanned(self) -> Manifest:
        host = LocalHost("web2", {}, self.folder / "none")
        found = host.scan(Projection(((str(self.there), ((r"\.ngxsync/\Z", True),)),)), full=True).manifest
        return {path: entry for path, entry in found.items() if entry.kind == "file"}

    def fetch(self, peer: Peer, wanted: Manifest) -> Source:
        projection = Projection(((str(self.there), ()),))
        source = Source(CONFIG, peer, projection, self)  # type: ignore[arg-type]
        source.fetch(wanted, {str(self.there): str(self.stage)})
        return source

    @contextmanager
    def staged(self, tree: str, stage: str, name: str) -> Iterator[BinaryIO]:
        with self.own.staged(tree, stage, name) as file:
            yield file
            self.writes.append(file.tell())


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


def test_everything_comes_in_as_few_answers_as_may_be(hosts: Hosts) -> None:
    contents = {f"html/{number}": b"%d" % number for number in range(300)}
    contents |= {"conf/site.key": KEY.encode(), "empty": b"", "large": os.urandom(2 * PAGE + 1)}
    for name, content in contents.items():
        hosts.put(name, content)
    wanted, peer = hosts.scanned(), Peer()
    source = hosts.fetch(peer, wanted)
    assert len(wanted) == len(contents)
    for name, content in contents.items():
        file = hosts.stage / name
        assert (file.read_bytes(), file.stat().st_mode & 0o777) == (content, 0o600)
    assert len(peer.asked) <= 7
    assert source.bytes_fetched == sum(map(len, contents.values()))


@pytest.mark.parametrize("change", ["longer", "shorter", "other bytes", "gone", "a folder", "a link"])
def test_what_is_edited_between_scan_and_answer_is_found(hosts: Hosts, change: str) -> None:
    file = hosts.put("a", b"before")
    wanted = hosts.scanned()

    def edit(_number: int) -> None:
        file.unlink()
        if change == "a folder":
            file.mkdir()
        elif change == "a link":
            file.symlink_to("/etc/passwd")
        elif change != "gone":
            file.write_bytes({"longer": b"before, and after", "shorter": b"bef", "other bytes": b"BEFORE"}[change])

    with pytest.raises(SourceChanged, match="was edited on web2 while it was fetched") as caught:
        hosts.fetch(Peer(edit), wanted)
    assert str(file) in str(caught.value)


def test_what_is_edited_between_two_pages_is_found(hosts: Hosts) -> None:
    file = hosts.put("large", bytes(2 * PAGE))
    wanted = hosts.scanned()

    def edit(number: int) -> None:
        file.write_bytes(bytes(2 * PAGE - number))

    with pytest.raises(SourceChanged, match="was edited on web2"):
        hosts.fetch(Peer(edit), wanted)


def test_an_agent_of_an_earlier_release_gives_no_secrets(hosts: Hosts) -> None:
    hosts.put("site.key", KEY.encode())
    with pytest.raises(AgentFailed, match="earlier release on web2") as caught:
        hosts.fetch(Peer(is_old=True), hosts.scanned())
    assert "PRIVATE" not in str(caught.value)
    hosts.put("site.key", b"no secret")
    hosts.fetch(Peer(is_old=True), hosts.scanned())
    assert (hosts.stage / "site.key").read_bytes() == b"no secret"


def test_nothing_is_written_past_a_link_in_the_stage(hosts: Hosts) -> None:
    hosts.put("html/a", b"x")
    wanted = hosts.scanned()
    (hosts.stage / "html").symlink_to(hosts.folder)
    with pytest.raises(TransferFailed):
        hosts.fetch(Peer(), wanted)
    assert not (hosts.folder / "a").exists()

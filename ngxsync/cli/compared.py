"""One peer compared for `diff`: its changes with their causes, what they mean for nginx, the texts."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ngxsync.agent.directives import loads
from ngxsync.agent.manifest import is_below
from ngxsync.cli.difference import json_finding, text_of
from ngxsync.core.meaning import Finding
from ngxsync.core.model import CONFLICT, DRIFTED, FIRST_SYNC, IN_SYNC, PENDING, Change, PeerResult, Plan
from ngxsync.core.patch import LARGEST_TEXT, is_secret
from ngxsync.core.plan import causes_of, is_quiet
from ngxsync.flow.contents import Content, batches, is_of_bytes, is_shown, peer_contents

if TYPE_CHECKING:
    from ngxsync.assembly import Assembly, PeerHost
    from ngxsync.flow.interfaces import Comparison, Named

DIFFERS = 1
# the worst cause names the peer
WORDS = {"conflict": CONFLICT, "drift": DRIFTED, "first-contact": FIRST_SYNC, "pending": PENDING}


class OwnFiles:
    """flow.meaning.Disk: this host's files; of secrets (`named` are real paths) no byte."""

    def __init__(self, named: frozenset[str]) -> None:
        self._named = named

    def read(self, path: str) -> Content | None:
        """None where there is nothing; no data where it is a secret, or cannot be read."""
        if is_secret(os.path.realpath(path), None, self._named):  # nginx may name it by another way than the tree
            return Content(None, is_secret=True)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                data = file.read(LARGEST_TEXT + 1)
        except FileNotFoundError:
            return None
        except OSError:
            return Content(None)
        return Content(None, is_secret=True) if is_secret(path, data, ()) else Content(data)

    def real_path(self, path: str) -> str:
        return os.path.realpath(path)

    def glob(self, pattern: str) -> list[str]:
        return glob.glob(pattern)


@dataclass
class Difference:
    """One peer compared; `changes` are those within the paths that were named."""

    peer: PeerHost
    compared: Comparison
    limits: Sequence[str]
    nowhere: tuple[str, ...]  # paths that were named, and are in neither tree as it is compared
    named: Named
    own: OwnFiles
    meaning: Sequence[Finding] = ()
    fetched: dict[str, Content] = field(default_factory=dict)  # what was asked of the peer already

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(change for change in self.compared.plan.changes if self._is_within(change.path))

    def _is_within(self, path: str) -> bool:
        return not self.limits or any(is_below(path, limit) for limit in self.limits)

    @property
    def result(self) -> PeerResult:
        changes = self.changes
        causes = {change.cause for change in changes}
        return PeerResult(
            self.peer.config.name,
            next((word for cause, word in WORDS.items() if cause in causes), IN_SYNC),
            exit=DIFFERS if changes else 0,
            snapshot=self.compared.snapshot.id,
            accepted=(self.compared.accepted or {}).get("id", ""),
            changes=changes,
        )

    def find_meaning(self, assembly: Assembly) -> None:
        """Raises NgxsyncError where the peer cannot be asked."""
        if all(is_quiet(change) for change in self.changes):
            return
        from ngxsync.edges.nginxconf import parse_text
        from ngxsync.flow.meaning import Parts, find_meaning

        conf, prefix = assembly.master.places()
        main = str(prefix / conf)
        # the peer is asked while this host's own files are read
        ahead = ThreadPoolExecutor(1).submit(self._fetch, assembly, self._likely_read(main))

        def fetch(changes: Iterable[Change]) -> Mapping[str, Content]:
            ahead.result()
            self._fetch(assembly, [change for change in changes if change.path not in self.fetched])
            return self.fetched

        parse = partial(parse_text, payloads=assembly.master.payloads)
        parts = Parts(main, assembly.config.sync.trees, self.own, parse, fetch)
        found = find_meaning(parts, self.compared.snapshot.manifest, self.compared.peer.manifest, self.compared.plan)
        self.meaning = [finding for finding in found if any(map(self._is_within, finding.files))]

    def _likely_read(self, main: str) -> Iterator[Change]:
        """What this host's nginx reads, so the peer's most likely too."""
        is_read = loads(item for item in self.named.files if item.role == "include")
        changes = filter(is_of_bytes, self.compared.plan.changes)
        return (change for change in changes if change.path == main or is_read(change.path))

    def _fetch(self, assembly: Assembly, changes: Iterable[Change]) -> None:
        for group in batches(changes):
            self.fetched.update(self._ask(assembly, group))

    def _ask(self, assembly: Assembly, changes: Sequence[Change]) -> dict[str, Content]:
        return peer_contents(assembly.config, self.peer, self.compared.snapshot.projection, changes)

    def texts(self, assembly: Assembly) -> Iterator[str]:
        """The text of each file whose bytes differ, in the plan's order. Raises NgxsyncError where the peer cannot be asked."""
        for group in batches(change for change in self.changes if is_of_bytes(change)):
            unknown = [change for change in group if change.path not in self.fetched]
            theirs = {**self.fetched, **self._ask(assembly, unknown)}
            for change in group:
                yield text_of(change, theirs.get(change.path), self._own_content(change) if is_shown(change) else None)

    def _own_content(self, change: Change) -> Content | None:
        """No data where it is a secret, here or there, or gone meanwhile."""
        content = self.own.read(change.path)
        if change.after is not None or (content is not None and content.is_secret):
            return content or Content(None)
        return None

    def json(self) -> dict[str, Any]:
        """What `diff --json` adds to a peer."""
        plan = Plan(self.changes)
        stat = {"kinds": plan.counts(), "causes": causes_of(plan.changes)}
        return {"stat": stat, "meaning": [json_finding(finding) for finding in self.meaning]}


def compare_peer(assembly: Assembly, peer: PeerHost, limits: Sequence[str]) -> Difference:
    """Raises NgxsyncError where the peer cannot be asked."""
    from ngxsync.flow.interfaces import Options

    compared, named = assembly.pipeline.compare(peer, Options("diff", install=False, dry_run=True))
    both = compared.snapshot.manifest.keys() | compared.peer.manifest.keys()
    nowhere = tuple(limit for limit in limits if limit not in both and not any(is_below(path, limit) for path in both))
    own = OwnFiles(frozenset(map(os.path.realpath, named.secrets)))
    return Difference(peer, compared, limits, nowhere, named, own)

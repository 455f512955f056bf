"""`ngxsync diff`: what differs between this host and its peers; nothing is changed or installed anywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ngxsync.agent.manifest import is_below
from ngxsync.cli.difference import for_terminal, render_listing, text_of
from ngxsync.cli.group import command
from ngxsync.cli.options import (
    config_option,
    json_option,
    limit_from,
    open_assembly,
    peer_option,
    print_json,
    raise_if_unknown_peers,
    say,
)
from ngxsync.core.config import Config, raise_if_unknown
from ngxsync.core.errors import NgxsyncError
from ngxsync.core.model import (
    CONFLICT,
    DRIFTED,
    FIRST_SYNC,
    IN_SYNC,
    PENDING,
    Change,
    PeerResult,
    Plan,
    RunResult,
    worst_exit,
)
from ngxsync.core.patch import LARGEST_TEXT, is_secret
from ngxsync.core.plan import is_quiet
from ngxsync.core.render import count_text, json_run, render_message
from ngxsync.core.wording import safe_name
from ngxsync.edges.configfile import read_config
from ngxsync.flow.contents import Content, batches, is_of_bytes, is_shown, peer_contents

if TYPE_CHECKING:
    from ngxsync.assembly import Assembly, PeerHost
    from ngxsync.flow.interfaces import Comparison

DIFFERS = 1
# the worst cause names the peer
WORDS = {"conflict": CONFLICT, "drift": DRIFTED, "first-contact": FIRST_SYNC, "pending": PENDING}


@command(
    "diff",
    example="ngxsync diff\nngxsync diff --peer web2 /usr/local/nginx/conf | less\nngxsync diff --stat || ngxsync sync",
    statuses=(0, 1, 4),
    means={0: "no difference", 1: "something differs, be it a time of change alone"},
)
@click.argument("paths", nargs=-1)
@peer_option("Only this peer.")
@click.option("--stat", is_flag=True, help="The changed paths without their text.")
@click.option("--name-only", is_flag=True, help="The names of the changed paths, nothing else.")
@click.option("--verbose", is_flag=True, help="List also what differs in its time of change alone.")
@config_option
@json_option
def diff(
    paths: tuple[str, ...],
    peers: tuple[str, ...],
    stat: bool,
    name_only: bool,
    verbose: bool,
    config: Path,
    as_json: bool,
) -> int:
    """What `ngxsync sync` would change on the peers: every path with its kind of change, then the text as `patch -p1` takes it.

    A path in brackets (drift) was changed on the peer, (conflict) on both, since the snapshot (the state of all files)
    that the peer last accepted; all others were changed here. PATHS, files or directories, limit what is shown.

    Secrets (what holds a private key, keys and password files that nginx names) are shown by size and hash alone.
    Nothing is changed or installed on a peer.
    """
    configuration = read_config(config)
    raise_if_unknown_peers(peers, configuration)
    limits = [limit_from(path, configuration) for path in paths]
    show = Show(text=not (stat or name_only), names_only=name_only, verbose=verbose)
    results: list[PeerResult] = []
    with open_assembly(configuration) as assembly:
        raise_if_unknown(peers, configuration, assembly.peers)
        for name, peer in assembly.peers.items():
            if not peers or name in peers:
                results.append(report_on(assembly, peer, limits, None if as_json else show))
    status = worst_exit([result.exit for result in results])
    if as_json:
        worst = next(result for result in results if result.exit == status)
        run = RunResult("", "diff", exit=status, outcome=worst.outcome, code=worst.code, peers=tuple(results))
        print_json(json_run("diff", run))
    return status


@dataclass(frozen=True)
class Show:
    text: bool
    names_only: bool
    verbose: bool


def report_on(assembly: Assembly, peer: PeerHost, limits: Sequence[str], show: Show | None) -> PeerResult:
    """Prints one peer's differences, unless there is no `show`. A peer that cannot be asked is a result too."""
    from ngxsync.flow import outcomes

    try:
        found = compare_peer(assembly, peer, limits)
        if show:
            print_difference(assembly, found, show)
        return found.result
    except NgxsyncError as error:
        if show:
            say(render_message(error.message))
        return outcomes.failed(peer.config.name, error, {}, Plan())


@dataclass(frozen=True)
class Difference:
    """One peer compared; `changes` are those within the paths that were named."""

    peer: PeerHost
    compared: Comparison
    changes: tuple[Change, ...]
    nowhere: tuple[str, ...]  # paths that were named, and are in neither tree as it is compared
    secrets: frozenset[str]  # real paths that this host's nginx names; others are known by their content or by the peer

    @property
    def result(self) -> PeerResult:
        causes = {change.cause for change in self.changes}
        return PeerResult(
            self.peer.config.name,
            next((word for cause, word in WORDS.items() if cause in causes), IN_SYNC),
            exit=DIFFERS if self.changes else 0,
            snapshot=self.compared.snapshot.id,
            accepted=(self.compared.accepted or {}).get("id", ""),
            changes=self.changes,
        )


def compare_peer(assembly: Assembly, peer: PeerHost, limits: Sequence[str]) -> Difference:
    """Raises NgxsyncError where the peer cannot be asked."""
    from ngxsync.flow.interfaces import Options

    compared, named = assembly.pipeline.compare(peer, Options("diff", install=False, dry_run=True))
    changes = compared.plan.changes
    within = tuple(c for c in changes if not limits or any(is_below(c.path, limit) for limit in limits))
    both = compared.snapshot.manifest.keys() | compared.peer.manifest.keys()
    nowhere = tuple(limit for limit in limits if limit not in both and not any(is_below(path, limit) for path in both))
    return Difference(peer, compared, within, nowhere, frozenset(map(os.path.realpath, named.secrets)))


def print_difference(assembly: Assembly, found: Difference, show: Show) -> None:
    name = found.peer.config.name
    for path in found.nowhere:
        say(
            f"note: {safe_name(path)}: neither {assembly.master.name} nor {name} has it, or it is left out of every sync"
        )
    if show.names_only:
        shown = [change for change in found.changes if show.verbose or not is_quiet(change)]
        print("".join(f"{safe_name(change.path)}\n" for change in shown), end="")
        return
    print(f"{assembly.master.name} -> {name}: {count_text(Plan(found.changes).counts())}")
    if found.compared.journal:
        say(
            f"{name}: run {found.compared.journal['run']} was left unfinished there; the next sync finishes or undoes it"
        )
    print("".join(f"{line}\n" for line in render_listing(found.changes, verbose=show.verbose)), end="", flush=True)
    if show.text:
        for text in texts(assembly.config, found):
            write_text(text)


def texts(config: Config, found: Difference) -> Iterator[str]:
    """The text of each file whose bytes differ, in the plan's order. Raises NgxsyncError where the peer cannot be asked."""
    changes = [change for change in found.changes if is_of_bytes(change)]
    for group in batches(changes):
        theirs = peer_contents(config, found.peer, found.compared.snapshot.projection, group)
        for change in group:
            own = own_content(change, found.secrets) if is_shown(change) else None
            yield text_of(change, theirs.get(change.path), own)


def own_content(change: Change, secrets: frozenset[str]) -> Content | None:
    """A file of this host; no data where it is a secret, here or there, or gone meanwhile."""
    path = change.path
    if is_secret(os.path.realpath(path), None, secrets):  # nginx may name it by another way than the tree
        return Content(None, is_secret=True)
    if change.after is None:
        return None
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            data = file.read(LARGEST_TEXT + 1)
    except OSError:
        return Content(None)
    return Content(None, is_secret=True) if is_secret(path, data, ()) else Content(data)


def write_text(text: str) -> None:
    """On a terminal harmless and in colours; else byte for byte, so that patch(1) gets what is in the files."""
    if sys.stdout.isatty():
        print("\n".join(for_terminal(text, colours="NO_COLOR" not in os.environ)))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()

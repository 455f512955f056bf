"""`ngxsync diff`: what differs between this host and its peers; nothing is changed or installed anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ngxsync.cli.compared import Difference, compare_peer
from ngxsync.cli.difference import for_terminal, render_listing, render_meaning, render_summary
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
from ngxsync.cli.pager import Left, Write, is_coloured, paged, write_text
from ngxsync.core.config import raise_if_unknown
from ngxsync.core.errors import NgxsyncError
from ngxsync.core.model import PeerResult, Plan, RunResult, worst_exit
from ngxsync.core.plan import is_quiet
from ngxsync.core.render import json_run, render_message
from ngxsync.core.wording import safe_name
from ngxsync.edges.configfile import read_config

if TYPE_CHECKING:
    from ngxsync.assembly import Assembly, PeerHost


@command(
    "diff",
    example="ngxsync diff\nngxsync diff --peer web2 /usr/local/nginx/conf | less\nngxsync diff --stat || ngxsync sync",
    statuses=(0, 1, 4),
    means={0: "no difference", 1: "something differs, be it a time of change alone"},
)
@click.argument("paths", nargs=-1)
@peer_option("Only this peer.")
@click.option("--stat", is_flag=True, help="The changed paths and what they mean for nginx, without their text.")
@click.option("--name-only", is_flag=True, help="The names of the changed paths, nothing else.")
@click.option("--verbose", is_flag=True, help="List also what differs in its time of change alone.")
@click.option("--no-pager", is_flag=True, help="On a terminal: no $PAGER (less).")
@config_option
@json_option
def diff(
    paths: tuple[str, ...],
    peers: tuple[str, ...],
    stat: bool,
    name_only: bool,
    verbose: bool,
    no_pager: bool,
    config: Path,
    as_json: bool,
) -> int:
    """What `ngxsync sync` would change on the peers: how much and why; every path with its kind of change; what that
    means for nginx; then the text as `patch -p1` takes it.

    Each change has a cause, told by the snapshot (the state of all files) that the peer last accepted: pending
    (changed here), drift (changed on the peer), conflict (on both), first-contact (nothing was agreed on yet). In the
    list a path without a cause in brackets is pending. PATHS, files or directories, limit what is shown.

    What it means for nginx: which server, location, upstream or map gained, lost or changed which directive, from what
    the peer has to what this host has, with file and line on both; what moved to another file, stands in another order
    where that does not matter, or is only comments and white space, is said to be so. In brackets what to look at
    twice: listen, certificates, upstreams, access.

    Secrets (what holds a private key, keys and password files that nginx names) are shown by size and hash alone,
    and what may be a password in a directive as *** where its meaning is told. Nothing is changed or installed on a peer.
    """
    configuration = read_config(config)
    raise_if_unknown_peers(peers, configuration)
    limits = [limit_from(path, configuration) for path in paths]
    show = Show(text=not (stat or name_only), names_only=name_only, verbose=verbose, coloured=is_coloured())
    with open_assembly(configuration) as assembly:
        raise_if_unknown(peers, configuration, assembly.peers)
        assembly.master.payloads = {}
        chosen = [peer for name, peer in assembly.peers.items() if not peers or name in peers]
        report = Report(assembly, [Compared(assembly, peer, limits, name_only) for peer in chosen], show)
        if as_json:
            print_json(report.json())
        else:
            report.print(with_pager=not no_pager)
        return report.exit


NOTHING: dict[str, Any] = {"stat": {"kinds": {}, "causes": {}}, "meaning": []}  # of a peer that could not be asked


@dataclass(frozen=True)
class Show:
    text: bool
    names_only: bool
    verbose: bool
    coloured: bool


class Compared:
    """One peer, asked; a peer that cannot be is a result too."""

    def __init__(self, assembly: Assembly, peer: PeerHost, limits: Sequence[str], names_only: bool) -> None:
        self.name = peer.config.name
        self.found: Difference | None = None
        self.error: PeerResult | None = None
        try:
            found = compare_peer(assembly, peer, limits)
            if not names_only:
                found.find_meaning(assembly)
            self.found = found
        except NgxsyncError as error:
            self.fail(error)

    def fail(self, error: NgxsyncError) -> None:
        from ngxsync.flow import outcomes

        self.error = outcomes.failed(self.name, error, {}, Plan())

    @property
    def result(self) -> PeerResult:
        if self.error is not None or self.found is None:
            assert self.error is not None
            return self.error
        return self.found.result


class Report:
    """All peers: what differs in short, then each in detail."""

    def __init__(self, assembly: Assembly, peers: Sequence[Compared], show: Show) -> None:
        self._assembly, self._peers, self._show = assembly, peers, show
        self._master = assembly.master.name

    @property
    def exit(self) -> int:
        return worst_exit([peer.result.exit for peer in self._peers])

    def json(self) -> dict[str, Any]:
        results = [peer.result for peer in self._peers]
        worst = next(result for result in results if result.exit == self.exit)
        run = RunResult("", "diff", exit=self.exit, outcome=worst.outcome, code=worst.code, peers=tuple(results))
        value = json_run("diff", run)
        for peer, told in zip(self._peers, value["peers"], strict=True):
            told.update(peer.found.json() if peer.found is not None else NOTHING)
        return value

    def print(self, *, with_pager: bool) -> None:
        for peer in self._peers:
            self._say_notes(peer)
        with paged(wanted=with_pager) as write:
            try:
                self._write(write)
            except Left:
                return

    def _say_notes(self, peer: Compared) -> None:
        """For the person, not for the pipe."""
        if peer.error is not None and peer.error.message is not None:
            say(render_message(peer.error.message))
        for path in peer.found.nowhere if peer.found is not None else ():
            names = f"neither {self._master} nor {peer.name} has it, or it is left out of every sync"
            say(f"note: {safe_name(path)}: {names}")
        journal = peer.found.compared.journal if peer.found is not None and not self._show.names_only else None
        if journal and journal.get("run"):
            say(f"{peer.name}: run {journal['run']} was left unfinished there; the next sync finishes or undoes it")
        elif journal:
            say(
                f"{peer.name}: a run whose journal is damaged was left unfinished there; `ngxsync sync` says what to do"
            )

    def _write(self, write: Write) -> None:
        asked = [(peer, peer.found) for peer in self._peers if peer.found is not None]
        if self._show.names_only:
            for _, found in asked:
                shown = [change for change in found.changes if self._show.verbose or not is_quiet(change)]
                write("".join(f"{safe_name(change.path)}\n" for change in shown))
            return
        for peer, found in asked:
            write(f"{render_summary(found.changes, self._master, peer.name)}\n")
        for peer, found in asked:
            if len(asked) > 1 and found.changes:
                write(f"\n{self._master} -> {peer.name}:\n")
            write("".join(f"{line}\n" for line in self._details(found)))
            self._write_texts(write, peer, found)

    def _details(self, found: Difference) -> Iterator[str]:
        listing = "\n".join(render_listing(found.changes, verbose=self._show.verbose))
        if listing:
            yield from for_terminal(listing, colours=self._show.coloured)
        if found.meaning:
            name = found.peer.config.name
            yield f"what it means for nginx on {name}:"
            yield from render_meaning(found.meaning, self._master, name)

    def _write_texts(self, write: Write, peer: Compared, found: Difference) -> None:
        try:
            for text in found.texts(self._assembly) if self._show.text else ():
                write_text(text, write)
        except NgxsyncError as error:
            peer.fail(error)
            say(render_message(error.message))

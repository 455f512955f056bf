"""The work of `init`: access, a look at both hosts, the files. Nothing changes on a peer, nor in a crontab."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ngxsync.agent.directives import NamedFile
from ngxsync.agent.manifest import tree_of
from ngxsync.assembly import Assembly
from ngxsync.cli.access import WORKS, Access, find_access
from ngxsync.cli.check import run_checks
from ngxsync.cli.order import Order
from ngxsync.core.checkup import Check, has_failed
from ngxsync.core.config import Config, load_config
from ngxsync.core.draft import NOTHING, Draft, DraftPeer, render_draft
from ngxsync.core.errors import ConfigError, Message, NgxsyncError, StateError
from ngxsync.core.mailrc import MailRc
from ngxsync.core.outside import trees_for
from ngxsync.core.wording import disk_message
from ngxsync.edges.configfile import write_private
from ngxsync.flow.interfaces import Options


@dataclass(frozen=True)
class Difference:
    """What a first sync would do to a peer: paths that are gone here, and paths to send."""

    old: int
    other: int


@dataclass(frozen=True)
class Found:
    """All that `init` learnt. `accesses` are in the order of draft.peers; `differences` only of peers that were reached.

    `outside` are files that nginx reads outside the trees, `left` those of them that no tree should carry.
    """

    order: Order
    draft: Draft
    accesses: tuple[Access, ...]
    checks: tuple[Check, ...]
    differences: dict[str, Difference]
    outside: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def is_ready(self) -> bool:
        return not has_failed(self.checks) and all(access.state == WORKS for access in self.accesses)


def raise_if_there(config: Path, replaces: bool) -> None:
    """An administrator's configuration is not overwritten unseen."""
    try:
        is_there = config.exists()
    except OSError as error:
        raise StateError(disk_message(config, "read", error)) from error
    if is_there and not replaces:
        hint = f"look at it; `--replace` writes a new one and keeps it as {config.name}.old"
        raise ConfigError(Message("there is a configuration already", str(config), NOTHING, hint))


def set_up(order: Order, file: Path, mailrc: MailRc | None = None) -> Found:
    """Looks, then writes config.ini, the pinned host keys and the password of a mail.rc. Raises NgxsyncError before anything
    is written."""
    with tempfile.TemporaryDirectory(prefix="ngxsync-init-") as folder:
        runtime = Path(folder)
        places = [_made(runtime / str(number)) for number in range(len(order.wanted))]
        accesses = tuple(
            find_access(wanted, file.parent, place) for wanted, place in zip(order.wanted, places, strict=True)
        )
        draft = replace(make_draft(order, accesses), mail=mailrc.draft if mailrc else None)
        trial = trial_config(load_config(render_draft(draft), str(file)), accesses, runtime)
        with Assembly(trial, _made(runtime / "run")) as assembly:
            found = look(assembly, order, draft, accesses)
    if mailrc:
        write_password(mailrc)
    write(found, file)
    return found


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


def make_draft(order: Order, accesses: Sequence[Access]) -> Draft:
    peers: list[DraftPeer] = []
    for access, name in zip(accesses, order.names, strict=True):
        own = access.settings
        chosen = name or _peer_name(access, {peer.name for peer in peers})
        identity, known_hosts = str(own.identity), str(own.known_hosts)
        peers.append(DraftPeer(chosen, own.host, own.user, own.port, identity, known_hosts, own.jump or ""))
    sources = tuple(line.text for line in order.lines)
    return Draft(order.root, order.conf, order.trees, order.exclude, order.schedule, tuple(peers), sources)


def _peer_name(access: Access, taken: set[str]) -> str:
    """Its own host name, else what it is called here, unless that is an address."""
    for text in (access.reached, access.settings.host):
        name = text.partition(".")[0]
        is_address = re.fullmatch(r"[\d.]+|.*:.*", text) is not None
        if not is_address and name not in taken and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            return name
    return next(name for name in (f"peer{number}" for number in range(1, 1000)) if name not in taken)


def trial_config(config: Config, accesses: Sequence[Access], runtime: Path) -> Config:
    """The configuration with a memory and a file of host keys that are gone when the look is over."""
    known = runtime / "pinned"
    known.write_text("".join(f"{line}\n" for access in accesses for line in access.known))
    peers = tuple(replace(peer, known_hosts=known) for peer in config.peers)
    return replace(config, peers=peers, state_dir=_made(runtime / "state"))


def look(assembly: Assembly, order: Order, draft: Draft, accesses: tuple[Access, ...]) -> Found:
    """Both hosts as `check` sees them, and what a first sync would change. Raises NgxsyncError."""
    reached = [peer.name for peer, access in zip(draft.peers, accesses, strict=True) if access.state == WORKS]
    _raise_if_own(reached, assembly, draft)
    checks = run_checks(assembly, reached)
    differences: dict[str, Difference] = {}
    for name in reached:
        try:
            differences[name] = _difference(assembly, name)
        except NgxsyncError:
            if not has_failed(checks):  # else a check has told why
                raise
    outside = outside_files(assembly.master.named().files, draft.trees)
    trees, left = trees_for(outside)
    draft = replace(draft, further_trees=trees)
    return Found(order, draft, accesses, tuple(checks), differences, outside, left)


def _raise_if_own(reached: Sequence[str], assembly: Assembly, draft: Draft) -> None:
    for peer in draft.peers:
        if peer.name in reached and peer.name not in assembly.peers:
            hint = "name the other host; run init on the host that has the files"
            raise ConfigError(Message(f"{peer.host} is an address of this host", "", NOTHING, hint))


def outside_files(files: Sequence[NamedFile], trees: Sequence[str]) -> tuple[str, ...]:
    """What nginx reads outside the trees; modules, as belong to each host's nginx, left out."""
    read = (item.path for item in files if (item.is_loaded or item.role == "auth") and item.role != "module")
    return tuple(sorted({path for path in read if not path.endswith("/") and tree_of(path, list(trees)) is None}))


def _difference(assembly: Assembly, name: str) -> Difference:
    """By really comparing both; the agent runs there from a temporary folder."""
    options = Options(by_person=True, dry_run=True, install=False)
    changes = assembly.pipeline.compare(assembly.peers[name], options)[0].plan.changes
    old = sum(change.kind == "deleted" for change in changes)
    return Difference(old, len(changes) - old)


def write_password(mailrc: MailRc) -> None:
    """Into a file of its own; another one that is there is kept beside it."""
    if not mailrc.draft.password_file:
        return
    file, text = Path(mailrc.draft.password_file), f"{mailrc.password}\n"
    try:
        old = file.read_bytes().decode("utf-8", "surrogateescape") if file.exists() else text
    except OSError as error:
        raise StateError(disk_message(file, "read", error)) from error
    if old != text:
        write_private(file.with_name(f"{file.name}.old"), old)
    write_private(file, text)


def write(found: Found, file: Path) -> None:
    """config.ini, an old one kept beside it, and the host keys that were known already, each for exactly its peer."""
    known = file.parent / "known_hosts"
    try:
        if file.exists():
            write_private(file.with_name(f"{file.name}.old"), file.read_bytes().decode("utf-8", "surrogateescape"))
        old = known.read_text("utf-8", "surrogateescape").splitlines() if known.exists() else []
    except OSError as error:
        raise StateError(disk_message(Path(str(error.filename)), "read", error)) from error
    new = [line for access in found.accesses for line in access.known if line not in old]
    if new:
        write_private(known, "".join(f"{line}\n" for line in [*old, *dict.fromkeys(new)]))
    write_private(file, render_draft(found.draft))

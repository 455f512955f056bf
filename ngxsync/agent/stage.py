"""From the stage to prepared entries: verified against the plan, with the attributes they will have live (TRANSACTION, stage).

A slow rsync goes on writing into a renamed directory, so verified is not unchanged: each staged file is linked (else copied) to a
private name, that inode is hashed, and that inode is used.
"""

import contextlib
import os
import shutil
import stat
from typing import Any, Dict, List, Optional

from .exchange import Exchange
from .journal import Item
from .manifest import DIR, LINK, Entry
from .paths import Anchor, remove_tree
from .scan import OWN_FOLDER, Unstable, hash_file, mounts_below
from .xattrs import label_for, put_xattrs, read_xattrs

PREP, STAGE = "prep", "stage"


class StageDiffers(Exception):
    """A staged file is missing or is not what the plan says: the master changed, or somebody tampered."""


def homes(tree: str) -> List[str]:
    """The tree and the mounts below it, as paths below the tree's own name; deepest first."""
    real = os.path.realpath(tree)
    below = [tree + "/" + os.path.relpath(point, real) for point in mounts_below(real) if os.path.isdir(point)]
    return sorted(below, key=len, reverse=True) + [tree]


def home_of(path: str, candidates: List[str]) -> str:
    """The deepest home whose own file system holds the path's directory; a mount point itself belongs to its parent."""
    for home in candidates:
        if path.startswith(home + "/") or (path == home and home == candidates[-1]):
            return home
    raise ValueError("%r is in none of %r" % (path, candidates))


def make_run_folder(home: str, tree: str, run: str, names: List[str]) -> None:
    """HOME/.ngxsync/RUN/NAME for each name, all 0700. Raises OSError; a symlink in the way is ELOOP or ENOTDIR."""
    with Anchor.at(tree) as anchor, anchor.folder(home) as base:
        parts = [OWN_FOLDER, OWN_FOLDER + "/" + run] + [OWN_FOLDER + "/" + run + "/" + name for name in names]
        for part in parts:
            with anchor.folder(home + "/" + part.rpartition("/")[0]) if "/" in part else _same(base) as folder:
                name = part.rpartition("/")[2]
                try:
                    os.mkdir(name, 0o700, dir_fd=folder)
                except FileExistsError:
                    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
                        raise
                    os.chmod(name, 0o700, dir_fd=folder)


@contextlib.contextmanager
def _same(fd: int) -> Any:
    yield fd


def remove_run_folder(tree: str, run: Optional[str]) -> None:
    """Remove a run's folder from all homes of a tree; run None removes every run's: nothing of them is live."""
    try:
        candidates = homes(tree)
        for home in candidates:
            with Anchor.at(tree) as anchor, anchor.folder(home + "/" + OWN_FOLDER) as own:
                for name in [run] if run else os.listdir(own):
                    remove_tree(name, own)
    except (FileNotFoundError, NotADirectoryError):
        return


def prepare(exchange: Exchange, stages: Dict[str, str]) -> List[str]:
    """Fill the prep folders for all items that put something in place. Returns warnings. Raises StageDiffers, OSError, KeyError."""
    warnings: List[str] = []
    for item in exchange.items:
        if item.action in ("exchange", "create", "mkdir"):
            after = exchange.entry(item.after)
            _make(exchange, item, after, stages)
            _dress(exchange, item, after, warnings)
    return warnings


def _make(exchange: Exchange, item: Item, after: Entry, stages: Dict[str, str]) -> None:
    prep, name = exchange.prep(item), str(item.number)
    if after.kind == DIR:
        os.mkdir(name, 0o700, dir_fd=prep)
    elif after.kind == LINK:
        os.symlink(after.content, name, dir_fd=prep)
    else:
        staged = stages[item.tree] + item.path[len(item.tree) :]
        try:
            with exchange.anchor(item.tree).parent(staged) as (folder, source):
                _link_or_copy(source, folder, name, prep)
            content = hash_file(name, prep)[0]
        except (FileNotFoundError, NotADirectoryError, Unstable):
            raise StageDiffers(item.path)
        if content != after.content:
            raise StageDiffers(item.path)


def _link_or_copy(source: str, source_fd: int, name: str, prep: int) -> None:
    if not stat.S_ISREG(os.stat(source, dir_fd=source_fd, follow_symlinks=False).st_mode):
        raise StageDiffers(source)
    try:
        os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=prep, follow_symlinks=False)
        return
    except FileExistsError:
        raise
    except OSError:
        pass  # another file system, or one without links
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source_fd)
    with os.fdopen(reading, "rb") as reader:
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=prep)
        with os.fdopen(writing, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)


def _dress(exchange: Exchange, item: Item, after: Entry, warnings: List[str]) -> None:
    """Extended attributes first (an ACL changes the mode), then owner and mode, then mtime."""
    prep, name = exchange.prep(item), str(item.number)
    with _live_or_nothing(exchange, item) as place:
        if place is not None:
            xattrs = read_xattrs(place[1], place[0]) if item.before is not None else label_for(item.path, place[0])
            refused = put_xattrs(name, prep, xattrs)
            if refused:
                warnings.append("%s: could not set %s" % (item.path, ", ".join(refused)))
    exchange.set_entry_attributes(name, prep, after)


@contextlib.contextmanager
def _live_or_nothing(exchange: Exchange, item: Item) -> Any:
    """The live place, None where its directory is itself still to be made."""
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(exchange.live(item))
        except (FileNotFoundError, NotADirectoryError, OSError):
            place = None
        yield place


def view_actions(exchange: Exchange) -> List[List[Any]]:
    """The plan as the rehearsal replays it in its view, by real paths (see replay.py)."""
    real = {item.tree: os.path.realpath(item.tree) for item in exchange.items}
    return [_action(exchange, item, real[item.tree]) for item in exchange.items]


def _action(exchange: Exchange, item: Item, real: str) -> List[Any]:
    path = real + item.path[len(item.tree) :]
    if item.action in ("delete", "rmdir"):
        return ["delete", path]
    after = exchange.entry(item.after)
    attributes = [after.mode, exchange.ids.user(after.owner), exchange.ids.group(after.group)]
    if item.action == "attributes":
        return ["attributes", path] + attributes
    if after.kind == LINK:
        return ["link", path, after.content]
    if after.kind == DIR:
        return ["folder", path] + attributes
    prepared = "%s%s/%s/%s/%s/%d" % (real, item.home[len(item.tree) :], OWN_FOLDER, exchange.run, PREP, item.number)
    return ["file", path, prepared] + attributes

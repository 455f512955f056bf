"""From the stage to prepared entries: verified against the plan, with the attributes they will have live (TRANSACTION, stage).

A slow rsync goes on writing into a renamed directory, so verified is not unchanged: each staged file is linked (else copied) to a
private name, that inode is hashed, and that inode is used; one that somebody still has open for writing is copied.
"""

import contextlib
import errno
import os
import shutil
import stat
from typing import Any, Dict, List, Optional, Tuple

from . import renames
from .exchange import Exchange, StageDiffers
from .folders import PREP
from .journal import Item
from .manifest import DIR, LINK, Entry
from .paths import is_being_written
from .scan import Unstable, hash_file
from .survey import OWN_FOLDER
from .xattrs import label_for, read_xattrs


def prepare(exchange: Exchange, folder_of: Dict[str, str]) -> List[str]:
    """Fill the prep folders for all items that put something in place, and note in each item who is who.

    `folder_of` maps each tree to its stage. Returns warnings. Raises StageDiffers, OSError.
    """
    warnings: List[str] = []
    exchange.items = [_prepare(exchange, item, folder_of, warnings) for item in exchange.items]
    return warnings


def _prepare(exchange: Exchange, item: Item, folder_of: Dict[str, str], warnings: List[str]) -> Item:
    with _live_or_nothing(exchange, item) as (folder, name):
        live_inode, xattrs = _known(item, folder, name, warnings) if folder is not None else (0, {})
    prep, prepared = exchange.prep(item), str(item.number)
    if item.action == "rmdir":  # its like lies ready: where the disk is full by then, undo could not make it
        os.mkdir(prepared, 0o700, dir_fd=prep)
        exchange.set_entry_attributes(prepared, prep, exchange.entry(item.before), xattrs)
    if item.action not in ("exchange", "create", "mkdir"):
        return item._replace(xattrs=xattrs, live_inode=live_inode)
    after = exchange.entry(item.after)
    _make(exchange, item, after, folder_of)
    refused = exchange.set_entry_attributes(prepared, prep, after, xattrs)
    exchange.note_verified(item)
    if refused:
        warnings.append("%s: could not set %s" % (item.path, ", ".join(refused)))
    return item._replace(live_inode=live_inode, prepared_inode=renames.inode(prepared, prep))


def _known(item: Item, folder: int, name: str, warnings: List[str]) -> Tuple[int, Dict[str, str]]:
    """(inode of what is live, extended attributes that the path shall have)."""
    if item.before is None:
        return 0, label_for(item.path, folder)
    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if item.action == "exchange" and info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
        warnings.append("%s was a hard link: its other names keep the old content" % item.path)
    same = item.after is None or item.after[0] == item.before[0]
    return info.st_ino, read_xattrs(name, folder) if same else label_for(item.path, folder)


def _make(exchange: Exchange, item: Item, after: Entry, folder_of: Dict[str, str]) -> None:
    prep, name = exchange.prep(item), str(item.number)
    if after.kind == DIR:
        os.mkdir(name, 0o700, dir_fd=prep)
    elif after.kind == LINK:
        os.symlink(after.content, name, dir_fd=prep)
    else:
        staged = folder_of[item.tree] + item.path[len(item.tree) :]
        try:
            with exchange.anchor(item.tree).parent(staged) as (folder, source):
                _take(source, folder, name, prep)
            content = hash_file(name, prep)[0]
        except (FileNotFoundError, NotADirectoryError, Unstable):
            raise StageDiffers(item.path)
        if content != after.content:
            raise StageDiffers(item.path)


def _take(source: str, source_fd: int, name: str, prep: int) -> None:
    """The staged file under a private name that nobody else can write to: its own inode, else a copy."""
    if not stat.S_ISREG(os.stat(source, dir_fd=source_fd, follow_symlinks=False).st_mode):
        raise StageDiffers(source)
    try:
        os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=prep, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise
        _copy(source, source_fd, name, prep)  # another file system, or one without links
        return
    info = os.stat(name, dir_fd=prep, follow_symlinks=False)
    os.unlink(source, dir_fd=source_fd)
    if info.st_nlink > 2 or is_being_written(name, prep):
        os.rename(name, name + ".shared", src_dir_fd=prep, dst_dir_fd=prep)
        _copy(name + ".shared", prep, name, prep)
        os.unlink(name + ".shared", dir_fd=prep)


def _copy(source: str, source_fd: int, name: str, prep: int) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        reading = os.open(source, flags, dir_fd=source_fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StageDiffers(source)
        raise
    with os.fdopen(reading, "rb") as reader:
        if not stat.S_ISREG(os.fstat(reading).st_mode):
            raise StageDiffers(source)
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=prep)
        with os.fdopen(writing, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)


@contextlib.contextmanager
def _live_or_nothing(exchange: Exchange, item: Item) -> Any:
    """The live place; (None, "") where its directory is itself still to be made."""
    with contextlib.ExitStack() as stack:
        try:
            place: Tuple[Optional[int], str] = stack.enter_context(exchange.live(item))
        except (FileNotFoundError, NotADirectoryError):
            place = None, ""
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

"""The plan replayed inside a private view: deletions, directories, links, files, attributes, following no link.

A planned file is a symbolic link to its prepared content: that costs the same for a byte and for gigabytes, and whoever writes to
it writes into the view's memory.
"""

import errno
import os
import stat
from typing import Any, List

from .paths import Anchor, set_attributes


def replay(actions: List[List[Any]]) -> None:
    """["delete", path], ["folder", path, MODE, UID, GID], ["link", path, target], ["file", path, source, ...] or ["attributes", path, ...].

    Raises OSError with the action's path where the view cannot become what is planned.
    """
    with Anchor.root() as root:
        for action in actions:
            try:
                with root.parent(action[1]) as (folder, name):
                    _WAYS[action[0]](folder, name, action[2:])
            except OSError as error:
                if action[0] != "delete" or error.errno not in _DONE_OR_KEPT:
                    raise OSError(error.errno, error.strerror, action[1])


# a deletion is done where an ancestor is no directory any more; a directory that keeps excluded entries or is a mount stays
_DONE_OR_KEPT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)


def _delete(folder: int, name: str, _rest: List[Any]) -> None:
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.rmdir(name, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)


def _clear(folder: int, name: str) -> None:
    try:
        _delete(folder, name, [])
    except FileNotFoundError:
        pass


def _folder(folder: int, name: str, rest: List[Any]) -> None:
    _clear(folder, name)
    os.mkdir(name, 0o700, dir_fd=folder)
    _dress(folder, name, rest)


def _link(folder: int, name: str, rest: List[Any]) -> None:
    _clear(folder, name)
    os.symlink(rest[0], name, dir_fd=folder)


def _dress(folder: int, name: str, attributes: List[Any]) -> None:
    try:
        set_attributes(name, folder, *attributes)
    except OSError as error:
        if error.errno != errno.EPERM:  # without root nothing can be given away: not in the view, and not live
            raise


_WAYS = {"delete": _delete, "folder": _folder, "link": _link, "file": _link, "attributes": _dress}

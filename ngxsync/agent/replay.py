"""The plan replayed inside a private view: deletions, directories, links, files, attributes, following no link.

Files are copied into the view's memory where they are small, else bound over their place: content of gigabytes costs nothing.
"""

import errno
import os
import stat
from typing import Any, List

from . import kernel
from .paths import Anchor, set_attributes

SMALL = 64 * 1024


def replay(actions: List[List[Any]]) -> None:
    """["delete", path], ["folder", path, MODE, UID, GID], ["link", path, target], ["file", path, source, ...] or ["attributes", path, ...].

    Raises OSError where the view cannot become what is planned.
    """
    with Anchor.root() as root:
        for action in actions:
            try:
                with root.parent(action[1]) as (folder, name):
                    _WAYS[action[0]](root, folder, name, action[2:])
            except (FileNotFoundError, NotADirectoryError):
                if action[0] != "delete":
                    raise  # else an ancestor is no directory any more: already done
            except OSError as error:
                if action[0] != "delete" or error.errno not in (errno.ENOTEMPTY, errno.ELOOP):
                    raise  # else a directory that keeps excluded entries stays


def _delete(_root: Anchor, folder: int, name: str, _rest: List[Any]) -> None:
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.rmdir(name, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)


def _clear(folder: int, name: str) -> None:
    try:
        _delete(None, folder, name, [])  # type: ignore[arg-type]
    except FileNotFoundError:
        pass


def _folder(_root: Anchor, folder: int, name: str, rest: List[Any]) -> None:
    _clear(folder, name)
    os.mkdir(name, 0o700, dir_fd=folder)
    _dress(folder, name, rest)


def _link(_root: Anchor, folder: int, name: str, rest: List[Any]) -> None:
    _clear(folder, name)
    os.symlink(rest[0], name, dir_fd=folder)


def _file(root: Anchor, folder: int, name: str, rest: List[Any]) -> None:
    _clear(folder, name)
    target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with root.parent(rest[0]) as (source_folder, source_name):
        source = os.open(source_name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source_folder)
    try:
        if os.fstat(source).st_size > SMALL:
            place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            kernel.mount(b"/proc/self/fd/%d" % source, b"/proc/self/fd/%d" % place, b"", kernel.MS_BIND)
            os.close(place)
        else:
            os.write(target, os.read(source, SMALL))
            _dress(folder, name, rest[1:])
    finally:
        os.close(source)
        os.close(target)


def _attributes(_root: Anchor, folder: int, name: str, rest: List[Any]) -> None:
    _dress(folder, name, rest)


def _dress(folder: int, name: str, attributes: List[Any]) -> None:
    try:
        set_attributes(name, folder, *attributes)
    except OSError as error:
        if error.errno != errno.EPERM:  # without root nothing can be given away: not in the view, and not live
            raise


_WAYS = {"delete": _delete, "folder": _folder, "link": _link, "file": _file, "attributes": _attributes}

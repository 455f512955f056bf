"""The renames that apply and undo are made of, and what stands in for them where renameat2 is missing.

`prep` and `prepared` name an entry in our own folder, `folder` and `name` one in the live tree. Each step leaves what was live in
the place of what was prepared, so nothing is ever overwritten. A crash between the steps of a stand-in is mended by `settle`.
"""

import errno
import os
import stat
from typing import Callable, Optional

from . import kernel

_MISSING = (errno.ENOSYS, errno.EINVAL)  # no such call, or a file system that cannot


def exchange(
    prep: int, prepared: str, folder: int, name: str, check: Optional[Callable[[str, int], None]] = None
) -> bool:
    """Both entries trade places; True where link and rename had to do: then an edit between the two is lost.

    `check(name, folder)` is asked by the stand-in before it renames; it raises where the entry is not what was expected.
    Raises OSError: FileNotFoundError where either is absent, and nothing was changed.
    """
    try:
        kernel.renameat2(prep, prepared, folder, name, kernel.RENAME_EXCHANGE)
        return False
    except OSError as error:
        if error.errno not in _MISSING:
            raise
    _exchange_by_link(prep, prepared, folder, name, check)
    return True


def _exchange_by_link(
    prep: int, prepared: str, folder: int, name: str, check: Optional[Callable[[str, int], None]]
) -> None:
    old = prepared + ".old"
    if _is_folder(prepared, prep) or _is_folder(name, folder):  # neither links nor is replaced: a moment without either
        os.rename(name, old, src_dir_fd=folder, dst_dir_fd=prep)
        _checked(check, old, prep, lambda: os.rename(old, name, src_dir_fd=prep, dst_dir_fd=folder))
    else:
        os.link(name, old, src_dir_fd=folder, dst_dir_fd=prep, follow_symlinks=False)
        _checked(check, old, prep, lambda: os.unlink(old, dir_fd=prep))
    os.rename(prepared, name, src_dir_fd=prep, dst_dir_fd=folder)
    os.rename(old, prepared, src_dir_fd=prep, dst_dir_fd=prep)


def _checked(check: Optional[Callable[[str, int], None]], old: str, prep: int, take_back: Callable[[], None]) -> None:
    try:
        if check is not None:
            check(old, prep)
    except BaseException:
        take_back()
        raise


def create(prep: int, prepared: str, folder: int, name: str) -> bool:
    """The prepared entry becomes the live one; True as above. Raises FileExistsError where there is one."""
    try:
        kernel.renameat2(prep, prepared, folder, name, kernel.RENAME_NOREPLACE)
        return False
    except OSError as error:
        if error.errno not in _MISSING:
            raise
    if _is_folder(prepared, prep):
        if inode(name, folder):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        os.rename(prepared, name, src_dir_fd=prep, dst_dir_fd=folder)
    else:
        os.link(prepared, name, src_dir_fd=prep, dst_dir_fd=folder, follow_symlinks=False)
        os.unlink(prepared, dir_fd=prep)
    return True


def settle(prep: int, prepared: str, folder: int, name: str) -> None:
    """After a crash between the steps of a stand-in: back to before that exchange, or on to after it."""
    old = prepared + ".old"
    ours, left, live = inode(prepared, prep), inode(old, prep), inode(name, folder)
    if left and not ours:
        os.rename(old, prepared, src_dir_fd=prep, dst_dir_fd=prep)
    elif left and not live:
        os.rename(old, name, src_dir_fd=prep, dst_dir_fd=folder)
    elif left and _is_folder(old, prep):
        os.rmdir(old, dir_fd=prep)
    elif left:
        os.unlink(old, dir_fd=prep)
    elif ours and ours == live:  # linked into place, not yet taken out of ours
        os.unlink(prepared, dir_fd=prep)


def inode(name: str, folder: int) -> int:
    """The inode number of an entry, 0 where there is none."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return 0


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)

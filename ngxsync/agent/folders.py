"""The folders of a run, .ngxsync/RUN, in each tree and in each mount below one: same file system as what it replaces."""

import errno
import os
import stat
from typing import List, Optional

from .paths import Anchor, remove_tree, set_mode
from .survey import OWN_FOLDER, mounts_below

PREP, STAGE = "prep", "stage"


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
    """HOME/.ngxsync/RUN/NAME for each name, empty, all 0700 and our own. Raises OSError; a symlink in the way is ENOTDIR."""
    own = home + "/" + OWN_FOLDER
    with Anchor.at(tree) as anchor:
        _make_own(anchor, own)
        _make_own(anchor, own + "/" + run)
        for name in names:
            with anchor.folder(own + "/" + run) as folder:
                remove_tree(name, folder)
            _make_own(anchor, own + "/" + run + "/" + name)


def _make_own(anchor: Anchor, path: str) -> None:
    with anchor.parent(path) as (folder, name):
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
                raise FileExistsError(errno.EEXIST, "is in the way: it is no directory of ngxsync's own", path)
            set_mode(name, folder, 0o700)


def remove_run_folder(tree: str, run: Optional[str]) -> None:
    """Remove a run's folder from all homes of a tree; run None removes every run's: nothing of them is live."""
    for home in homes(tree):
        try:
            with Anchor.at(tree) as anchor, anchor.folder(home + "/" + OWN_FOLDER) as own:
                for name in [run] if run else os.listdir(own):
                    remove_tree(name, own)
        except (FileNotFoundError, NotADirectoryError):
            continue

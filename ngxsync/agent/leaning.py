"""Files that nginx reads and no sync carries: outside the trees, excluded in them, or behind a link that leaves them.

And of those that a sync carries the ones that nginx's user here cannot read.

Told are names, sizes, hashes and who may read them, never contents; and only what this host's own configuration names.
"""

import glob
import hashlib
import os
import stat
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .access import Doors, Readers
from .directives import NamedFile, open_file
from .manifest import tree_of
from .survey import Rules

Answer = Dict[str, Any]

NAMED_LIMIT = 2000  # files that are told
HASH_LIMIT = 64 << 20  # bytes of one such file that are read
BLOCK = 1 << 20
# code that the main process reads; all other Lua files are read by a worker when it first needs them
AT_START = ("init_by_lua_file",)


class Trees:
    """The trees of a request, with their excludes and where they really are."""

    def __init__(self, trees: List[Answer]) -> None:
        self._rules = {tree["path"]: Rules(tree["exclude"]) for tree in trees}
        self._paths = list(self._rules)
        self._places = self._paths + [os.path.realpath(path) for path in self._paths]
        self._real: Dict[str, str] = {}

    def holds(self, path: str) -> bool:
        return tree_of(path, self._paths) is not None

    def leaves(self, path: str) -> str:
        """Where a path in a tree leads, if that is outside all trees; else ""."""
        real = self._real_of(path)
        return real if self.holds(path) and tree_of(real, self._places) is None else ""

    def _real_of(self, path: str) -> str:
        folder, name = os.path.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        joined = os.path.join(self._real[folder], name)
        return os.path.realpath(joined) if os.path.islink(joined) else joined

    def excludes(self, path: str) -> bool:
        """Whether a path in a tree is left out of every sync, itself or with a directory above it."""
        tree = tree_of(path, self._paths)
        if tree is None:
            return False
        parts = path[len(tree.rstrip("/")) + 1 :].split("/")
        rules = self._rules[tree]
        folders = ["/".join(parts[:end]) for end in range(1, len(parts))]
        return any(rules.excludes(each, True) for each in folders) or rules.excludes("/".join(parts), False)


def leant_on(named: List[NamedFile], trees: Trees, readers: Readers) -> List[Answer]:
    """Each such file once: who reads it and may it, what names it, where; sha256 is "" where it is not to be known."""
    doors = [None if account is None else Doors(account) for account in readers]
    result: Dict[str, Answer] = {}
    for item, path in _read_files(named):
        if len(result) >= NAMED_LIMIT:
            break
        if path in result:
            continue
        number = int(opened_by_worker(item))
        account, door = readers[number], doors[number]
        inside, leads = trees.holds(path), trees.leaves(path)
        is_carried = inside and not leads and not trees.excludes(path)
        size = None if is_carried and (door is None or door.is_open) else _size(path)
        blocked = door.blocked(path) if door is not None and size is not None else ""
        if is_carried and not blocked:
            continue
        result[path] = {
            "path": path,
            "role": item.role,
            "directive": item.directive,
            "file": item.file,
            "line": item.line,
            "exists": size is not None,
            "size": size or 0,
            "sha256": "" if is_carried else _sha256(path),
            "readable": not blocked,
            "blocked": blocked,
            "reader": account.name if account is not None else "",
            "link_leaves": leads,
            "inside": inside,
            "carried": is_carried,
        }
    return list(result.values())


def _read_files(named: List[NamedFile]) -> Iterator[Tuple[NamedFile, str]]:
    for item in named:
        if (item.is_loaded or item.role == "auth") and not item.path.endswith("/"):
            is_pattern = any(mark in item.path for mark in "*?[")
            for path in sorted(glob.glob(item.path)) if is_pattern else [item.path]:
                yield item, path


def opened_by_worker(item: NamedFile) -> bool:
    """Whether it is the workers' user that opens the file, not the one of the main process."""
    is_code = item.directive.endswith("_by_lua_file") and item.directive not in AT_START
    return item.role == "auth" or is_code


def _size(path: str) -> Optional[int]:
    """None where no file is there. Who may not look cannot say that none is."""
    try:
        info = os.stat(path)
    except PermissionError:
        return 0
    except OSError:
        return None
    return info.st_size if stat.S_ISREG(info.st_mode) else None


def _sha256(path: str) -> str:
    """ "" where it cannot be read, is no plain file, or is too large to be read for this."""
    found, left = hashlib.sha256(), HASH_LIMIT
    try:
        with open_file(path) as stream:
            if os.fstat(stream.fileno()).st_size > HASH_LIMIT:
                return ""
            while left > 0:
                block = stream.read(BLOCK)
                if not block:
                    break
                found.update(block)
                left -= len(block)
    except OSError:
        return ""
    return found.hexdigest()

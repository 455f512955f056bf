"""The verb show with `pull`: the bytes of live files for the master that takes them back, of any size and secrets too, page by page.

Nothing is hashed here: the master compares all bytes that came with what was scanned.
"""

import base64
import os
import stat
from typing import Any, Dict, List, Optional

from .answers import Failure
from .manifest import is_clean, tree_of
from .paths import Anchor

Answer = Dict[str, Any]
PAGE = 4 << 20  # bytes of one answer


def pages(request: Answer) -> Answer:
    """Of each path what follows `offset`, together at most PAGE bytes; null where there is no such file (any more)."""
    trees = [tree["path"] for tree in request["projection"]["trees"]]
    left, files = PAGE, {}
    for path in request["paths"]:
        page = read_page(path, trees, request.get("offset", 0), left)
        left -= len(page or b"")
        files[path] = {"text": None if page is None else base64.b64encode(page).decode("ascii")}
    return {"ok": True, "files": files}


def read_page(path: str, trees: List[str], offset: int, most: int) -> Optional[bytes]:
    """Raises Failure for a path outside the trees, and where it cannot be read."""
    tree = tree_of(path, trees)
    if tree in (None, path) or not is_clean(path):
        raise Failure("agent", "no file in the trees: %r" % path)
    try:
        with Anchor.at(tree) as anchor, anchor.parent(path) as (folder, name):
            if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                return None
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(fd, "rb") as stream:
            stream.seek(offset)
            return stream.read(most)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Failure("agent", str(error.strerror), where=path, next="see that the agent's user may read it")

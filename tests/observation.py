"""What the storm sees of a host: read by code of its own, of which no line is the product's."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from tests.edits import STAMPS
from tests.hosts import Host
from tests.pair import ROOT

STATE = "/var/lib/ngxsync"
TEST = ("/usr/sbin/nginx", "-t", "-p", ROOT, "-c", "conf/nginx.conf")
EDITORS = (".*.sw?", ".*.swpx", "*~", "#*#", ".#*", "*.pid", ".*.*.??????")  # README: never synced, by its name
EDITORS_FILES = ("4913", "sed??????")


class Entry(NamedTuple):
    """`content` is a file's sha256 or a link's target; a directory's mtime is 0, since it is not compared."""

    kind: str
    mode: int
    user: int
    group: int
    mtime_ns: int
    content: str


Tree = Mapping[str, Entry]


class Marks(NamedTuple):
    """What changes with every transaction; equal before and after an observation: none began or ended in it."""

    journal: bool
    accepted: bytes
    folder_ns: int
    mixed_ns: int
    mixed: bytes


class Seen(NamedTuple):
    """A peer between two transactions. `refusal` is what `nginx -t` says to the live tree, "" where it accepts it.

    `served` is {stamp: body} of the running nginx, None where it does not run; `accepted` the record, `manifest` the
    contents that it names: {path below ROOT: sha256 or target}.
    """

    tree: Tree
    refusal: str
    served: Mapping[str, str] | None
    accepted: Mapping[str, Any] | None
    manifest: Mapping[str, str]
    blobs: frozenset[str]


def is_left_out(relative: str, is_folder: bool) -> bool:
    """What no sync touches: README's list, spelled out anew."""
    name = relative.rpartition("/")[2]
    if name == ".ngxsync" or any(fnmatchcase(name, pattern) for pattern in EDITORS):
        return True
    if is_folder:
        return False
    return relative.startswith("logs/") or any(fnmatchcase(name, pattern) for pattern in EDITORS_FILES)


def walk(top: Path) -> dict[str, Entry]:
    """{path below `top`: entry}, "." is `top`. Raises FileNotFoundError where somebody works in it."""
    found = {".": entry_of(top)}
    for folder, folders, files in os.walk(top):
        below = Path(folder)
        for name in (*folders, *files):
            entry = below / name
            relative = str(entry.relative_to(top))
            found[relative] = entry_of(entry)
            if is_left_out(relative, found[relative].kind == "d"):
                del found[relative]
        folders[:] = [name for name in folders if str((below / name).relative_to(top)) in found]
    return found


def landed(top: Path, path: str) -> str:
    """Where a path below `top` leads by the links among its folders; itself where they lead out of it, or round and round."""
    found: list[str] = []
    left = [*reversed(Path(path).parts)]
    for _ in range(100):
        if not left:
            return "/".join(found)
        part = left.pop()
        place = top.joinpath(*found, part)
        if left and place.is_symlink():
            left += reversed(Path(os.readlink(place)).parts)
        elif part == "/" or (part == ".." and not found):
            break
        elif part == "..":
            found.pop()
        else:
            found.append(part)
    return path


def entry_of(place: Path) -> Entry:
    status = place.lstat()
    kind, content, mtime_ns = stat.filemode(status.st_mode)[0], "", status.st_mtime_ns
    if kind == "l":
        content = os.readlink(place)
    elif kind == "-":
        content = sha256(place.read_bytes())
    elif kind == "d":
        mtime_ns = 0
    return Entry(kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, mtime_ns, content)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def marks(host: Host) -> Marks:
    store = host.path(f"{STATE}/peer")
    mixed = store / "mixed.lock"
    return Marks(
        (store / "journal").exists(),
        _bytes(store / "accepted.json"),
        store.stat().st_mtime_ns if store.exists() else 0,
        mixed.stat().st_mtime_ns if mixed.exists() else 0,
        _bytes(mixed),
    )


def observe(host: Host) -> Seen | None:
    """None where a transaction is open, or one began or ended meanwhile."""
    before = marks(host)
    if before.journal:
        return None
    try:
        tree = walk(host.path(ROOT))
    except (FileNotFoundError, NotADirectoryError):
        return None
    refusal, served = refusal_of(host), served_by(host)
    accepted = json.loads(before.accepted) if before.accepted else None
    seen = Seen(tree, refusal, served, accepted, _manifest(host, accepted), blobs_of(host))
    return seen if marks(host) == before else None


def refusal_of(host: Host) -> str:
    done = host.run(TEST, check=False)
    return "" if done.returncode == 0 else done.stderr


def served_by(host: Host) -> dict[str, str] | None:
    """{stamp: what nginx answers for it}; None where no main process runs."""
    if host.nginx_main() is None:
        return None
    return {path: ask(host, path) for path in STAMPS}


def ask(host: Host, stamp: str) -> str:
    name, path = ("localhost", "/stamp.html") if stamp.endswith(".html") else (Path(stamp).stem, "/")
    try:
        status, body = host.get(path, name)
    except OSError as error:
        return f"no answer: {error}"
    return body if status == 200 else f"status {status}: {body}"


def blobs_of(host: Host) -> frozenset[str]:
    return frozenset(blob.name for blob in host.path(f"{STATE}/peer/blobs").glob("??/*"))


def _manifest(host: Host, accepted: Mapping[str, Any] | None) -> dict[str, str]:
    if accepted is None:
        return {}
    text = _bytes(host.path(f"{STATE}/peer/manifests/{accepted['run']}.json"))
    entries = json.loads(text or b"{}")
    return {path.removeprefix(f"{ROOT}/"): fields[6] for path, fields in entries.items()}


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


# what may lie about


def too_open(host: Host) -> list[str]:
    """Folders of the states that others than their owner may enter, files that they may read; but not of the agent's own code."""
    found = []
    for folder, folders, files in os.walk(host.path(STATE)):
        folders[:] = [name for name in folders if not (folder.endswith("/agent") and len(name) == 16)]
        for name in (*folders, *files):
            entry = Path(folder, name)
            status = entry.lstat()
            if not stat.S_ISLNK(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
                found.append(f"{host.name}: {_inside(host, entry)} has mode {stat.S_IMODE(status.st_mode):o}")
    return found


def leftovers(host: Host) -> list[str]:
    """What a run may not leave: an open journal, stages, temporary files, of this host."""
    found = [str(_inside(host, entry)) for entry in host.path(f"{ROOT}/.ngxsync").glob("*")]
    for folder, folders, files in os.walk(host.path(STATE)):
        for name in (*folders, *files):
            if name == "journal" or name.endswith(".tmp") or name.startswith((".new-", ".old-", "new.")):
                found.append(str(_inside(host, Path(folder, name))))
    return found


def wrong_blobs(host: Host) -> list[str]:
    """Those whose bytes are not what their name says."""
    blobs = host.path(f"{STATE}/peer/blobs").glob("??/*")
    return [blob.name for blob in blobs if sha256(blob.read_bytes()) != blob.name]


def processes(host: Host) -> list[str]:
    """All but sshd's listener, nginx and what the storm itself runs there."""
    return [
        line
        for pid, line in host.commands().items()
        if pid != host.sshd_pid() and not line.startswith("nginx:") and "tests.reader" not in line
    ]


def _inside(host: Host, entry: Path) -> Path:
    return Path("/", entry.relative_to(host.path("/")))

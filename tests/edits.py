"""Edits as values: made from a seeded random generator, each applied by a small function, one system call after the other.

`apply_edit` yields after every system call that changes the tree, so that whoever watches knows each state that there was.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

AREAS = ("html/area", "conf/extra")  # where anything may happen; nginx loads nothing of it
VHOSTS = "conf/vhosts"
MAIN = "conf/nginx.conf"
STAMPS = ("conf/vhosts/stamp-a.conf", "conf/vhosts/stamp-b.conf", "html/stamp.html")
BROKEN = "conf/vhosts/broken.conf"
ELSEWHERE = "conf/vhosts/elsewhere.conf"
PORT = "conf/vhosts/port.conf"
ONLY_ON_MASTER = "/opt/ngxsync-storm/only-here.conf"
MENDED = (BROKEN, ELSEWHERE, PORT)  # what `calm` takes away
COUPLED = 12  # vhosts that fit only one zone
MANY = 70  # entries in the areas: from then on more is deleted than made

NAMES = (
    *("one.html", "two.html", "three.css", "four", "five.js", "logs", "stage", "prep", ".hidden", "ngxsync", "a b"),
    *("-rf", "; x", "#odd\n name", "ünïcode.html", os.fsdecode(b"\xff\xfe.html"), " ", "a\\b", "x'y\"z", "$(id)"),
    *("*", "new\rline", "%2e%2e", "..x", "x" * 200, "sed", "tmp_temp", "4914", "~x", "\x1b[31mred"),
)
MODES = (0o644, 0o600, 0o640, 0o755, 0o444, 0o664, 0o4755, 0o000)
FOLDER_MODES = (0o755, 0o750, 0o2775, 0o1777, 0o700)
OWNERS = (0, 33, 4321)  # root, www-data, and one that has no name
TARGETS = ("one.html", "../not/there", "/etc/hostname", ".", "two.html", "a b")


@dataclass(frozen=True)
class Edit:
    """One edit of a tree: paths below its root. `number` is a mode, an owner, a size or a time, by `kind`."""

    kind: str
    path: str
    other: str = ""
    text: str = ""
    number: int = 0


# what there is -> an edit of it


def kinds_of(top: Path) -> dict[str, str]:
    """{path: "-", "d" or "l"} of the areas, each area itself included where it is there."""
    found: dict[str, str] = {}
    for area in AREAS:
        if (top / area).is_dir():
            found[area] = "d"
        for folder, folders, files in os.walk(top / area):
            for name in (*folders, *files):
                entry = Path(folder, name)
                found[str(entry.relative_to(top))] = stat.filemode(entry.lstat().st_mode)[0]
    return dict(sorted(found.items()))


def next_edit(chance: random.Random, kinds: Mapping[str, str], number: int) -> Edit:
    """An edit of the areas that is possible in a tree of these kinds; `number` makes its text unique."""
    files = [path for path, kind in kinds.items() if kind == "-"]
    folders = [path for path, kind in kinds.items() if kind == "d"]
    links = [path for path, kind in kinds.items() if kind == "l"]
    below = [path for path in folders if path not in AREAS]
    if not folders:
        return Edit("mkdir", chance.choice(AREAS))
    fresh = _fresh(chance, kinds, folders)
    text = _text(chance, number)
    possible: list[tuple[int, Edit]] = [
        (6, Edit(chance.choice(("create", "halves", "by-temporary")), fresh, text=text)),
        (3, Edit("mkdir", fresh)),
        (3, Edit("symlink", fresh, chance.choice(TARGETS))),
        (1, Edit("chmod", chance.choice(folders), number=chance.choice(FOLDER_MODES))),
        (1, Edit("chown", chance.choice((*folders, *files, *links)), number=chance.choice(OWNERS))),
    ]
    if files:
        possible += _of_file(chance, chance.choice(files), chance.choice(files), fresh, text, number)
    if links:
        link = chance.choice(links)
        possible += [(3, Edit("retarget", link, chance.choice(TARGETS))), (1, Edit("delete", link))]
    if below:
        folder = chance.choice(below)
        possible += [
            (9 if len(kinds) > MANY else 2, Edit("remove-tree", folder)),
            (2, Edit("folder-to-file", folder, text=text)),
            (1, Edit("folder-to-link", folder, chance.choice(TARGETS))),
        ]
        if not fresh.startswith(folder + "/"):
            possible.append((3, Edit("rename", folder, fresh)))
    return chance.choices([edit for _, edit in possible], [weight for weight, _ in possible])[0]


def _of_file(
    chance: random.Random, file: str, second: str, fresh: str, text: str, number: int
) -> Sequence[tuple[int, Edit]]:
    return (
        (6, Edit(chance.choice(("create", "halves", "by-temporary", "vi", "sed", "emacs")), file, text=text)),
        (2, Edit("append", file, text=text)),
        (2, Edit("truncate", file, number=chance.randrange(20))),
        (2, Edit("other-bytes", file)),
        (2, Edit("touch", file, number=1_500_000_000_000_000_000 + number * 1_234_567_891)),
        (2, Edit("chmod", file, number=chance.choice(MODES))),
        (3, Edit("rename", file, chance.choice((fresh, second)))),
        (2, Edit("hard-link", file, fresh)),
        (4, Edit("delete", file)),
        (2, Edit("file-to-folder", file, chance.choice(NAMES), text)),
        (1, Edit("file-to-link", file, chance.choice(TARGETS))),
    )


def _fresh(chance: random.Random, kinds: Mapping[str, str], folders: Sequence[str]) -> str:
    for _ in range(50):
        path = f"{chance.choice(folders)}/{chance.choice(NAMES)}"
        if path not in kinds and path.count("/") < 6:
            return path
    return f"{AREAS[0]}/fresh-{chance.randrange(1_000_000)}"


def _text(chance: random.Random, number: int) -> str:
    return f"text {number} " + "ab\n" * chance.choice((0, 1, 10, 3000))


# configuration


def stamp_text(path: str, generation: int) -> str:
    """What the file of a stamp holds, for each of STAMPS; nginx answers with it too."""
    if path.endswith(".html"):
        return f"generation {generation}\n"
    name = Path(path).stem
    return f"server {{ listen 80; server_name {name}; return 200 'generation {generation}\n'; }}\n"


def stamp_edits(generation: int) -> list[Edit]:
    """All three, each by a rename: no moment without one."""
    return [Edit("by-temporary", path, text=stamp_text(path, generation)) for path in STAMPS]


def site_edit(chance: random.Random, number: int) -> Edit:
    """A vhost of its own: new, changed in an editor's way, or deleted."""
    path = f"{VHOSTS}/site-{chance.randrange(5)}.conf"
    text = f"server {{ listen 80; server_name {Path(path).stem}; return 200 'site {number}'; }}\n"
    if chance.random() < 0.25:
        return Edit("delete-if-there", path)
    return Edit(chance.choice(("create", "halves", "by-temporary", "vi", "sed", "emacs")), path, text=text)


def main_edit(chance: random.Random, text: str, number: int) -> Edit:
    """nginx.conf with another last line."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("# edit ")]
    return Edit(chance.choice(("halves", "by-temporary", "sed")), MAIN, text=f"{''.join(lines)}# edit {number}\n")


def tls_edits(certificate: str, key: str) -> list[Edit]:
    """A vhost with TLS, its certificate renewed together with its key."""
    vhost = "server { listen 8443 ssl; server_name tls; ssl_certificate tls/a.crt; ssl_certificate_key tls/a.key; }\n"
    return [
        Edit("mkdir-if-missing", "conf/tls"),
        Edit("by-temporary", "conf/tls/a.crt", text=certificate),
        Edit("by-temporary", "conf/tls/a.key", text=key, number=0o600),
        Edit("by-temporary", f"{VHOSTS}/tls.conf", text=vhost),
    ]


def coupled_edits(number: int) -> list[Edit]:
    """Files that fit only one another: where some are old and some new, nginx refuses all."""
    zone = f"limit_req_zone $binary_remote_addr zone=z{number}:64k rate=100r/s;\n"
    server = "server {{ listen 80; server_name c{0}; limit_req zone=z{1}; return 200 c; }}\n"
    texts = {"00-zone": zone, **{f"coupled-{count}": server.format(count, number) for count in range(COUPLED)}}
    return [Edit("by-temporary", f"{VHOSTS}/{name}.conf", text=text) for name, text in texts.items()]


def break_edit(chance: random.Random) -> Edit:
    """Configuration that a host refuses: both, or only the peer, which lacks what it includes."""
    if chance.random() < 0.5:
        return Edit("create", ELSEWHERE, text=f"include {ONLY_ON_MASTER};\n")
    return Edit("create", BROKEN, text=chance.choice(("server { listen 80; oops }\n", "server {\n", "no_such on;\n")))


def port_edit(port: int) -> Edit:
    return Edit("by-temporary", PORT, text=f"server {{ listen {port}; return 200 'port'; }}\n")


def mend_edits() -> list[Edit]:
    return [Edit("delete-if-there", path) for path in MENDED]


# an edit -> system calls


def apply_edit(top: Path, edit: Edit) -> Iterator[None]:
    """Does it below `top`, and yields after each system call that changed something. Raises OSError where it cannot be."""
    yield from STEPS[edit.kind](top / edit.path, edit, top)


Steps = Callable[[Path, Edit, Path], Iterator[None]]


def _written(place: Path, *parts: str, flags: int = os.O_CREAT | os.O_TRUNC) -> Iterator[None]:
    descriptor = os.open(place, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o644)
    try:
        yield
        for part in filter(None, parts):
            os.write(descriptor, part.encode())
            yield
    finally:
        os.close(descriptor)


def _create(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    yield from _written(place, edit.text)


def _halves(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    middle = len(edit.text) // 2
    yield from _written(place, edit.text[:middle], edit.text[middle:])


def _append(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    yield from _written(place, edit.text, flags=os.O_APPEND)


def _truncate(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    os.truncate(place, edit.number)
    yield


def _other_bytes(place: Path, _edit: Edit, _top: Path) -> Iterator[None]:
    """Equal in size and mtime."""
    before, text = place.stat(), place.read_bytes()
    with place.open("r+b", buffering=0) as stream:
        stream.write(text.swapcase())
        yield
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    yield


def _touch(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    os.utime(place, ns=(edit.number, edit.number))
    yield


def _by_temporary(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    temporary = place.with_name(place.name[:100] + ".new")
    yield from _written(temporary, edit.text)
    if edit.number:
        temporary.chmod(edit.number)
        yield
    temporary.rename(place)
    yield


def _vi(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else 0o644
    swap, backup = place.with_name(f".{place.name[:100]}.swp"), place.with_name(place.name[:100] + "~")
    yield from _written(swap, "b0VIM")
    if place.exists():
        place.rename(backup)
        yield
    yield from _written(place, edit.text)
    place.chmod(mode)
    yield
    backup.unlink(missing_ok=True)
    swap.unlink()
    yield


def _sed(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    temporary = place.with_name("sedAb3dE9")
    yield from _written(temporary, edit.text)
    if place.exists():
        temporary.chmod(stat.S_IMODE(place.stat().st_mode))
    temporary.rename(place)
    yield


def _emacs(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    lock, backup = place.with_name(f".#{place.name[:100]}"), place.with_name(place.name[:100] + "~")
    lock.symlink_to("root@web1.4711:1700000000")
    if place.exists():
        backup.write_bytes(place.read_bytes())
    yield from _written(place, edit.text)
    backup.unlink(missing_ok=True)
    lock.unlink()
    yield


def _rename(place: Path, edit: Edit, top: Path) -> Iterator[None]:
    place.rename(top / edit.other)
    yield


def _hard_link(place: Path, edit: Edit, top: Path) -> Iterator[None]:
    os.link(place, top / edit.other)
    yield


def _delete(place: Path, _edit: Edit, _top: Path) -> Iterator[None]:
    place.unlink()
    yield


def _delete_if_there(place: Path, _edit: Edit, _top: Path) -> Iterator[None]:
    place.unlink(missing_ok=True)
    yield


def _chmod(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    place.chmod(edit.number)
    yield


def _chown(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    os.chown(place, edit.number, edit.number, follow_symlinks=False)
    yield


def _mkdir(place: Path, _edit: Edit, _top: Path) -> Iterator[None]:
    place.mkdir(0o755)
    yield


def _mkdir_if_missing(place: Path, _edit: Edit, _top: Path) -> Iterator[None]:
    place.mkdir(0o755, exist_ok=True)
    yield


def _symlink(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    place.symlink_to(edit.other)
    yield


def _retarget(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    temporary = place.with_name("retarget.new")
    temporary.symlink_to(edit.other)
    yield
    temporary.rename(place)
    yield


def _remove_tree(place: Path, _edit: Edit, _top: Path) -> Iterator[None]:
    for folder, folders, files in os.walk(place, topdown=False):
        for name in (*files, *folders):
            entry = Path(folder, name)
            if entry.is_dir() and not entry.is_symlink():
                entry.rmdir()
            else:
                entry.unlink()
            yield
    place.rmdir()
    yield


def _folder_to_file(place: Path, edit: Edit, top: Path) -> Iterator[None]:
    yield from _remove_tree(place, edit, top)
    yield from _written(place, edit.text)


def _folder_to_link(place: Path, edit: Edit, top: Path) -> Iterator[None]:
    yield from _remove_tree(place, edit, top)
    yield from _symlink(place, edit, top)


def _file_to_folder(place: Path, edit: Edit, _top: Path) -> Iterator[None]:
    place.unlink()
    yield
    place.mkdir(0o755)
    yield
    yield from _written(place / edit.other, edit.text)


def _file_to_link(place: Path, edit: Edit, top: Path) -> Iterator[None]:
    place.unlink()
    yield
    yield from _symlink(place, edit, top)


STEPS: Mapping[str, Steps] = {
    "create": _create,
    "halves": _halves,
    "append": _append,
    "truncate": _truncate,
    "other-bytes": _other_bytes,
    "touch": _touch,
    "by-temporary": _by_temporary,
    "vi": _vi,
    "sed": _sed,
    "emacs": _emacs,
    "rename": _rename,
    "hard-link": _hard_link,
    "delete": _delete,
    "delete-if-there": _delete_if_there,
    "chmod": _chmod,
    "chown": _chown,
    "mkdir": _mkdir,
    "mkdir-if-missing": _mkdir_if_missing,
    "symlink": _symlink,
    "retarget": _retarget,
    "remove-tree": _remove_tree,
    "folder-to-file": _folder_to_file,
    "folder-to-link": _folder_to_link,
    "file-to-folder": _file_to_folder,
    "file-to-link": _file_to_link,
}

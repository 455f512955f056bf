"""rsync's command line as far as ngxsync does the same: its options and paths.

Whatever is not known to leave the result alike is refused: ValueError says why, and what to do instead.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

FORM = re.compile(r"(?:(?P<user>[^@:/\[\]]+)@)?(?P<host>\[[^]]+\]|[^:/\[\]@]+):(?P<path>.*)", re.DOTALL)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHORT = dict(
    word.split("=")
    for word in _words(
        """v=verbose q=quiet c=checksum a=archive r=recursive R=relative b=backup u=update d=dirs l=links L=copy-links
        k=copy-dirlinks K=keep-dirlinks H=hard-links p=perms E=executability A=acls X=xattrs o=owner g=group D=devices
        t=times U=atimes N=crtimes O=omit-dir-times J=omit-link-times S=sparse n=dry-run W=whole-file x=one-file-system
        B=block-size e=rsh m=prune-empty-dirs I=ignore-times @=modify-window T=temp-dir y=fuzzy P=partial z=compress
        C=cvs-exclude f=filter F=filter s=secluded-args 8=8-bit-output h=human-readable i=itemize-changes
        M=remote-option 4=ipv4 6=ipv6"""
    )
)
KEPT = ("recursive", "links", "perms", "times", "owner", "group")  # what -a stands for, and ngxsync does
DELETE = ("delete", "del", "delete-before", "delete-during", "delete-delay", "delete-after")
HANDLED = (*KEPT, *DELETE, "archive", "relative", "checksum", "ignore-times", "rsh", "exclude", "exclude-from")
# how it is sent or told, not what arrives
HARMLESS = _words(
    """verbose quiet no-motd info debug stderr inc-recursive no-inc-recursive i-r no-i-r inplace mkpath executability
    devices specials atimes open-noatime crtimes omit-dir-times omit-link-times super sparse preallocate
    whole-file block-size force partial partial-dir delay-updates timeout contimeout temp-dir fuzzy compress
    old-compress new-compress compress-choice zc compress-level zl compress-threads zt skip-compress old-args
    secluded-args protect-args blocking-io outbuf stats 8-bit-output human-readable progress itemize-changes
    out-format log-file log-file-format fsync protocol checksum-choice cc checksum-seed ipv4 ipv6 max-alloc
    trust-sender modify-window"""
)
VALUED = _words(
    """info debug stderr block-size partial-dir timeout contimeout temp-dir compress-choice zc compress-level zl
    compress-threads zt skip-compress outbuf out-format log-file log-file-format protocol checksum-choice cc
    checksum-seed max-alloc modify-window rsh exclude exclude-from include include-from filter files-from
    backup-dir suffix max-delete max-size min-size chmod chown usermap groupmap compare-dest copy-dest link-dest
    rsync-path remote-option bwlimit iconv password-file stop-after stop-at time-limit write-batch
    only-write-batch read-batch copy-as address port sockopts early-input"""
)
TOLD = {
    "hard-links": "-H kept hard links; ngxsync sends each name as a file of its own",
    "acls": "-A copied ACLs; ngxsync keeps those of the peer and does not compare them",
    "xattrs": "-X copied extended attributes; ngxsync keeps those of the peer and does not compare them",
    "backup": "--backup kept old copies on the peer; ngxsync keeps what it replaces in its own store there",
    "backup-dir": "",
    "suffix": "",
    "max-delete": "--max-delete counted files; ngxsync holds a run by share, see max_delete in [sync]",
    "ignore-errors": "--ignore-errors deleted even after reading errors; ngxsync never does",
    "size-only": "--size-only missed every edit that keeps a file's size; ngxsync compares contents",
    "numeric-ids": "--numeric-ids copied owners by number; ngxsync compares them by name",
    "bwlimit": "--bwlimit slowed the transfer; ngxsync sends only what changed, at full speed",
    "prune-empty-dirs": "-m left empty directories out; ngxsync sends them",
    "stop-after": "--stop-after cut long transfers off; ngxsync finishes them",
}
EQUAL = "ngxsync makes both sides equal"
REFUSED = {
    "update": f"-u leaves what is newer on the peer as it is, and {EQUAL}; see on_drift = hold, and take -u out",
    "existing": f"it sends no new file, and {EQUAL}",
    "ignore-non-existing": f"it sends no new file, and {EQUAL}",
    "ignore-existing": f"it sends no edit of an old file, and {EQUAL}",
    "append": f"it sends only what a file gained at its end, and {EQUAL}",
    "append-verify": f"it sends only what a file gained at its end, and {EQUAL}",
    "max-size": f"it leaves out files by size, and {EQUAL}; exclude them by name",
    "min-size": f"it leaves out files by size, and {EQUAL}; exclude them by name",
    "remove-source-files": "it removes the files that it has sent, and ngxsync removes nothing here",
    "delete-excluded": "it deletes on the peer what is excluded, and ngxsync never touches that; delete it by hand",
    "delete-missing-args": "it deletes on the peer what is missing here, and ngxsync knows only whole trees",
    "include": "an include has no like; write what it excludes, one --exclude for each",
    "include-from": "an include has no like; write what it excludes, one --exclude for each",
    "filter": "a filter has no like; write what it excludes, one --exclude for each",
    "cvs-exclude": "it reads .cvsignore files; write what it excludes, one --exclude for each",
    "files-from": "it sends a list of files, and ngxsync whole trees",
    "copy-links": "it sends what links point to instead of the links, and ngxsync sends links as links",
    "copy-unsafe-links": "it sends what links point to instead of the links, and ngxsync sends links as links",
    "copy-dirlinks": "it sends what links point to instead of the links, and ngxsync sends links as links",
    "keep-dirlinks": "it writes through links on the peer, and ngxsync never does",
    "safe-links": "it leaves some links out, and ngxsync sends all",
    "munge-links": "it changes links, and ngxsync sends them as they are",
    "dirs": "it does not enter directories",
    "one-file-system": "it leaves out mounts below the tree, and ngxsync sends them; exclude them by name",
    "dry-run": "it changes nothing",
    "list-only": "it changes nothing",
    "chmod": f"it gives other modes on the peer, and {EQUAL}",
    "chown": f"it gives other owners on the peer, and {EQUAL}",
    "usermap": f"it gives other owners on the peer, and {EQUAL}",
    "groupmap": f"it gives other owners on the peer, and {EQUAL}",
    "fake-super": "it keeps owners in attributes on the peer, and ngxsync sets them",
    "compare-dest": "it fills one copy from another, and ngxsync keeps one tree",
    "copy-dest": "it fills one copy from another, and ngxsync keeps one tree",
    "link-dest": "it makes dated copies, and ngxsync keeps one tree",
    "iconv": "it changes the names of files, and ngxsync sends them as they are",
}


@dataclass
class RsyncLine:
    """What a rsync command says. `sources` as written; `excludes` are rsync's patterns; `rsh` is "" where not set."""

    sources: tuple[str, ...] = ()
    user: str = ""
    host: str = ""
    path: str = ""
    rsh: str = ""
    excludes: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    flags: set[str] = field(default_factory=set)  # relative, checksum, ignore-times, delete
    told: list[str] = field(default_factory=list)


def parse_rsync(arguments: Sequence[str], read_text: Callable[[str], str]) -> RsyncLine:
    """`arguments` come after the word rsync. `read_text` gives the text of an --exclude-from file."""
    line = RsyncLine()
    paths: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            paths += words
            break
        if word.startswith("--"):
            _take_long(word[2:], words, line, read_text)
        elif word.startswith("-") and len(word) > 1:
            _take_cluster(word[1:], words, line, read_text)
        else:
            paths.append(word)
    if "recursive" not in line.kept:
        raise ValueError("it has neither -a nor -r: rsync then skips directories, and nothing is sent")
    _take_paths(paths, line)
    return line


def _take_long(text: str, words: list[str], line: RsyncLine, read_text: Callable[[str], str]) -> None:
    name, has_value, value = text.partition("=")
    if name in VALUED and not has_value:
        if not words:
            raise ValueError(f"--{name} has no value")
        value = words.pop(0)
    _take(f"--{name}", name, value, line, read_text)


def _take_cluster(letters: str, words: list[str], line: RsyncLine, read_text: Callable[[str], str]) -> None:
    for place, letter in enumerate(letters):
        name = SHORT.get(letter, "")
        if name in VALUED and letter != "F":
            value = letters[place + 1 :].removeprefix("=") or (words.pop(0) if words else "")
            return _take(f"-{letter}", name, value, line, read_text)
        _take(f"-{letter}", name, "", line, read_text)
    return None


def _take(written: str, name: str, value: str, line: RsyncLine, read_text: Callable[[str], str]) -> None:
    if name in REFUSED:
        raise ValueError(f"{written}: {REFUSED[name]}")
    if name == "rsync-path":
        if value not in ("rsync", "/usr/bin/rsync", "/usr/local/bin/rsync", "/bin/rsync"):
            raise ValueError(f"{written}={value}: ngxsync runs plain rsync on the peer, as the user that logs in")
    elif name in HANDLED:
        _take_handled(name, value, line, read_text)
    elif name in TOLD:
        line.told += [TOLD[name]] if TOLD[name] else []
    elif name.startswith("no-") and SHORT.get(name[3:], name[3:]) in (*HARMLESS, *KEPT, *TOLD):
        line.kept.discard(SHORT.get(name[3:], name[3:]))
    elif name not in HARMLESS:
        raise ValueError(f"{written}: ngxsync does not know what this option changes; try the line without it")


def _take_handled(name: str, value: str, line: RsyncLine, read_text: Callable[[str], str]) -> None:
    if name == "archive":
        line.kept.update(KEPT)
    elif name in KEPT:
        line.kept.add(name)
    elif name in DELETE:
        line.flags.add("delete")
    elif name == "rsh":
        line.rsh = value
    elif name == "exclude":
        line.excludes.append(value)
    elif name == "exclude-from":
        texts = read_text(value).splitlines()
        line.excludes += [text for text in texts if text.strip() and text[0] not in "#;"]
    else:
        line.flags.add(name)


def _take_paths(paths: list[str], line: RsyncLine) -> None:
    if len(paths) < 2:
        raise ValueError("it names no source or no destination")
    *sources, destination = paths
    for path in paths:
        if path.startswith("rsync://") or re.match(r"([^/\[]*|[^/]*\])::", path):
            raise ValueError(f"{path} speaks to a rsync daemon, and ngxsync goes over ssh")
    found = FORM.fullmatch(destination)
    if any(FORM.fullmatch(source) for source in sources):
        raise ValueError("it pulls from another host, and ngxsync pushes: run init on the host that has the files")
    if not found:
        raise ValueError(f"it copies to {destination} on this host, and ngxsync to a peer")
    line.sources = tuple(sources)
    line.user, line.host, line.path = found["user"] or "", found["host"].strip("[]"), found["path"]


def make_trees(line: RsyncLine) -> tuple[str, ...]:
    """The trees, one for each source. Raises ValueError where one would have another path on the peer."""
    if not line.path.startswith("/"):
        raise ValueError(f"the peer's path {line.path!r} is relative to a home directory; write it absolute")
    trees = []
    for source in line.sources:
        if not source.startswith("/"):
            raise ValueError(
                f"the source {source!r} is no absolute path, and cron's directory is not yours; write it so"
            )
        if re.search(r"[*?\[{]", source):
            raise ValueError(f"the source {source} is expanded by the shell; name the directory that holds them")
        tree = clean(source)
        there = clean(posixpath.join(line.path, name_there(source, line)))
        if tree != there:
            meant = posixpath.join(line.path, posixpath.basename(tree))
            hint = f" (was {source.rstrip('/')} without the slash at its end meant?)" if clean(meant) == tree else ""
            raise ValueError(f"{tree} goes to {there} on the peer, and ngxsync keeps each tree at the same path{hint}")
        trees.append(tree)
    return tuple(trees)


def clean(path: str) -> str:
    return "/" + posixpath.normpath(f"/{path}").lstrip("/")


def _is_content(source: str) -> bool:
    """With a slash at its end a source is what the directory holds, not the directory."""
    return source.endswith(("/", "/."))


def name_there(source: str, line: RsyncLine) -> str:
    """What the names of the transfer have before those of the tree, e.g. "nginx"; "" where they begin in the tree."""
    if "relative" in line.flags:
        if "/./" in source:
            raise ValueError(f"the source {source} has /./ with -R: ngxsync keeps each tree at the same path")
        return source.lstrip("/")
    return "" if _is_content(source) else posixpath.basename(source)

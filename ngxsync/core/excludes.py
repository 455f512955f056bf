"""Gitignore patterns as regular expressions, and what of a manifest they leave.

A rule is (regex, excluded). A regex is matched with `re.match` against a path relative to its tree, directories with a
trailing slash; the last match wins; a directory that is excluded is not entered. A regex matches the entry itself only,
never what lies below it: so `/logs/**` with `!/logs/**/` sends the directories of logs and no file, as git has it.
The regexes are shipped to the agent, so they keep to what Python 3.6 knows.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from ngxsync.agent.manifest import DIR, Entry, Manifest, tree_of
from ngxsync.core.model import Projection

if TYPE_CHECKING:
    from ngxsync.core.config import Config, PeerConfig

Rules = tuple[tuple[str, bool], ...]

# DESIGN 9, [sync] exclude; `!pattern` in [sync] exclude takes one back
BUILTIN = (
    "/logs/**",  # the files, while the next line sends the directories: `access_log logs/site/x.log` needs them
    "!/logs/**/",
    "/*_temp/",  # where nginx keeps what it receives and caches
    "*.pid",
    "/sbin/",  # nginx is upgraded on each host, never by a sync
    "/modules/",
    ".*.sw?",  # vim
    ".*.swpx",
    "4913",  # vim asks with this name whether it may write; a directory of that name is content
    "!4913/",
    "*~",
    "\\#*#",  # emacs
    ".#*",
    "sed??????",  # sed -i
    "!sed??????/",
    ".*.*.??????",  # rsync into this host: .index.html.Ab12Cd (but .htpasswd.backup is content)
    ".~tmp~/",
    ".git/",
)
# one path of a tree, and nothing that gitignore takes for more
_PLAIN = re.compile(r"(?:/[^/\\\[\]!*#?\s]+)+")
_LONGEST = 1 << 15  # of a rule of many such, the last one apart: an agent takes twice as much
# stage and captures of a run; of any kind, at every depth, and no pattern takes it back
ALWAYS = ".ngxsync"


def effective_patterns(
    configured: Iterable[str], self_excludes: Iterable[str] = (), peer_excludes: Iterable[str] = ()
) -> tuple[str, ...]:
    """All patterns, in this order: built-in, implied by nginx's configuration, configured, the peer's, ngxsync's own.

    A configured `!pattern` that equals a built-in one takes that back; any other is gitignore's negation.
    """
    configured = tuple(configured)
    taken_back = {pattern for pattern in BUILTIN if f"!{pattern}" in configured}
    kept = (pattern for pattern in BUILTIN if pattern not in taken_back)
    added = (pattern for pattern in configured if pattern.removeprefix("!") not in taken_back or pattern[:1] != "!")
    return (*kept, *self_excludes, *added, *peer_excludes, ALWAYS)


def compile_excludes(patterns: Sequence[str]) -> Rules:
    """The rules of these patterns, in order. Raises ValueError, which names the pattern and says what is allowed.

    Plain paths that follow each other share a rule: a log for each of a thousand vhosts would else be asked of each file.
    """
    rules: list[tuple[str, bool]] = []
    for is_plain, group in groupby(patterns, lambda pattern: _PLAIN.fullmatch(pattern) is not None):
        found = list(group)
        rules += _plain_rules(found) if is_plain else map(_compile_pattern, found)
    return tuple(rules)


def _plain_rules(paths: Iterable[str]) -> Iterator[tuple[str, bool]]:
    escaped = [re.escape(path[1:]) for path in paths]
    ends = accumulate(len(path) + 1 for path in escaped)
    for _, part in groupby(zip(escaped, ends, strict=True), lambda pair: pair[1] // _LONGEST):
        yield rf"(?s:(?:{'|'.join(path for path, _ in part)})/?\Z)", True


def literal_pattern(relative_path: str) -> str:
    """The pattern that matches this one path of a tree (a directory's with everything below it) and no other."""
    escaped = re.sub(r"([\\\[\]!*#?])", r"\\\1", relative_path.strip("/"))
    # gitignore drops white space at the end, and an ini file drops it even when escaped
    return "/" + re.sub(r"(\s+)\Z", lambda space: "".join(f"[{character}]" for character in space[1]), escaped)


def is_excluded(relative_path: str, rules: Rules) -> bool:
    """Whether this path, or a directory above it, is excluded. A directory's path ends with a slash."""
    slashes = [place for place, character in enumerate(relative_path[:-1]) if character == "/"]
    return any(_is_match(relative_path[: place + 1], rules) for place in slashes) or _is_match(relative_path, rules)


def with_own_excludes(config: Config, own: Iterable[PeerConfig]) -> Config:
    """One file serves all hosts: what the [peer NAME] of this one excludes is its own, and goes to no other one."""
    patterns = dict.fromkeys(pattern for peer in own for pattern in peer.exclude)
    added = tuple(pattern for pattern in patterns if pattern not in config.sync.exclude)
    return replace(config, sync=replace(config.sync, exclude=(*config.sync.exclude, *added))) if added else config


def is_own_by(config: Config, peer: PeerConfig) -> Callable[[str], bool]:
    """Whether a path of the trees is each host's own because a person excluded it: that it differs is meant."""
    rules = compile_excludes((*config.sync.exclude, *peer.exclude))

    def is_own(path: str) -> bool:
        tree = tree_of(path, list(config.sync.trees))
        return tree is not None and is_excluded(path[len(tree) + 1 :], rules)

    return is_own


def make_projection(
    config: Config,
    peer: PeerConfig | None = None,
    self_excludes: Mapping[str, Sequence[str]] | None = None,
    *,
    owners: bool = True,
) -> Projection:
    """What counts towards this peer; without one, what counts towards all of them: scan with that, then narrow.

    `self_excludes` are the patterns of each tree that its nginx configuration implies (logs, pid files, caches).
    Raises ValueError where a pattern is none; those of a loaded Config have been checked.
    """
    trees = []
    for tree in config.sync.trees:
        implied = (self_excludes or {}).get(tree, ())
        patterns = effective_patterns(config.sync.exclude, implied, peer.exclude if peer else ())
        trees.append((tree, compile_excludes(patterns)))
    return Projection(tuple(trees), owners)


def narrow(manifest: Manifest, projection: Projection) -> Manifest:
    """The manifest that a scan with this projection gives, out of one that was scanned with fewer excludes."""
    rules_of = dict(projection.trees)
    roots = list(projection.roots)
    kept: dict[str, Entry] = {}
    for path in sorted(manifest):  # a directory comes before what lies in it
        root = tree_of(path, roots)
        if root is None:
            continue
        if path == root or (_is_kept_above(path, root, kept) and not _excludes(path, root, manifest, rules_of[root])):
            kept[path] = manifest[path]
    return kept


def _is_kept_above(path: str, root: str, kept: Mapping[str, Entry]) -> bool:
    above = posixpath.dirname(path)
    return above == root or above in kept


def _excludes(path: str, root: str, manifest: Manifest, rules: Rules) -> bool:
    relative = path[len(root.rstrip("/")) + 1 :]
    return _is_match(relative + "/" if manifest[path].kind == DIR else relative, rules)


def _is_match(relative_path: str, rules: Rules) -> bool:
    matcher, outcomes = _matcher(rules)
    found = matcher.match(relative_path)
    return found is not None and found.lastindex is not None and outcomes[found.lastindex - 1]


@lru_cache(maxsize=32)
def _matcher(rules: Rules) -> tuple[re.Pattern[str], tuple[bool, ...]]:
    """All rules as one expression, the last one first: the group that matched says which rule decides."""
    backwards = rules[::-1]
    return re.compile("|".join(f"({regex})" for regex, _ in backwards)), tuple(excluded for _, excluded in backwards)


@lru_cache(maxsize=1024)
def _compile_pattern(pattern: str) -> tuple[str, bool]:
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern  # costs 27 ms: not before it is needed

    _raise_if_unlike_git(pattern)
    # pathspec merges the two last parts of x/**/, and then it would match x itself
    spelled = re.sub(r"/\*\*/\Z", "/**/*/", pattern)
    try:
        regex, excluded = GitIgnoreSpecPattern.pattern_to_regex(spelled)
    except ValueError:
        regex, excluded = None, None
    if regex is None or excluded is None:
        raise ValueError(f"{pattern!r} is not a pattern, allowed is one of gitignore's")
    rule = _of_entry_alone(regex)
    try:
        re.compile(rule)
    except re.error as error:
        raise ValueError(f"{pattern!r} has a range that is none ({error}), allowed is [a-z]") from None
    return rule, excluded


def _raise_if_unlike_git(pattern: str) -> None:
    """Refuse what pathspec reads in another way than git, or not at all."""
    if not pattern.strip() or pattern.startswith("#"):
        raise ValueError(f"{pattern!r} is empty or a comment; a name that begins with # is written \\#")
    for token in re.findall(r"\\.|\[[!^]?\]?[^\]]*\]?", pattern, re.DOTALL):
        if token.startswith("[") and ("\\" in token or "[:" in token):
            raise ValueError(f"{pattern!r}: {token} is not supported, allowed are characters and ranges like [a-z0-9]")


def _of_entry_alone(regex: str) -> str:
    """pathspec's expression, which also matches all below a directory, made to match the entry alone, newlines too."""
    either, directory = "(?:(?P<ps_d>/)|$)", "(?P<ps_d>/)"
    head = "" if regex.startswith("^") else ".*"
    if regex.endswith(either):
        body = regex.removesuffix(either) + r"/?\Z"
    elif regex.endswith(directory):
        body = regex.removesuffix(directory) + r"/\Z"
    else:
        body = regex + "." if regex.endswith("/") else regex
    return f"(?s:{head}{_sets_without_slash(body)})"


def _sets_without_slash(regex: str) -> str:
    """[!a] does not match a slash in git; and Python warns of [[ and && in a set."""

    def mend(token: re.Match[str]) -> str:
        text = token[0]
        if text[0] == "\\" or text == "[^/]":
            return text
        return "(?!/)[" + re.sub(r"([\[&~|])", r"\\\1", text[1:])

    return re.sub(r"\\.|\[\^?\]?[^\]]*\]", mend, regex, flags=re.DOTALL)

"""rsync's exclude patterns (rsync(1), FILTER RULES) as gitignore's. ValueError says why a pattern has no like."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from ngxsync.core.excludes import compile_excludes
from ngxsync.core.rsyncline import RsyncLine, clean, name_there


def make_patterns(line: RsyncLine) -> tuple[str, ...]:
    """The gitignore patterns that exclude the same in each tree. Raises ValueError where one has no like."""
    above = [clean(name_there(source, line)).strip("/") for source in line.sources]
    patterns: dict[str, None] = {}
    for written in line.excludes:
        told = {tuple(like_pattern(written, name)) for name in above}
        if len(told) > 1:
            raise ValueError(f"--exclude={written} is for one of the sources only, and [sync] exclude for each tree")
        patterns.update(dict.fromkeys(told.pop()))
    try:
        compile_excludes(tuple(patterns))
    except ValueError as error:
        raise ValueError(f"an --exclude has no like: {error}") from None
    return tuple(patterns)


def like_pattern(written: str, above: str) -> list[str]:
    """Gitignore's like of one rsync pattern; `above` is what rsync's names have before those of the tree, e.g. "nginx".

    rsync anchors where the transfer begins, matches a pattern with a slash inside at the end of a name, at any depth,
    and lets ** cross slashes anywhere; gitignore anchors such a pattern, and knows ** as a whole part only.
    """
    pattern = written.removeprefix("- ")
    if pattern.startswith("+ ") or pattern in ("!", "", "/"):
        raise ValueError(f"--exclude={written!r} is no exclude; write what is excluded")
    if "{" in pattern:
        raise ValueError(
            f"--exclude={written} needs bash, and cron runs sh: there it excludes nothing; write each one out"
        )
    parts = _like_parts(pattern)
    anchored, body = pattern.startswith("/"), [part for part in parts if part]
    tail = "/" if pattern.endswith("/") or body[-1] == "***" else ""
    body = body[:-1] if body[-1] == "***" else body
    if "**" in body[1:-1] or any("**" in part and part != "**" for part in body) or (anchored and body[0] == "**"):
        raise ValueError(f"--exclude={written}: ** has no like there")
    names = [name for name in above.split("/") if name]
    if _excludes_all(body, names, anchored):
        raise ValueError(f"--exclude={written} excludes the whole tree")
    below = _below(body, names)
    found = ["/" + "/".join(below) + tail] if below and (anchored or len(body) > 1) else []
    if anchored:
        return found
    free = "/".join(body) + tail
    prefix = "**/" if len(body) > 1 and body[0] != "**" else ""
    return [*found, prefix + free] if names else [prefix + free]


def _like_parts(pattern: str) -> list[str]:
    if not re.search(r"[*?\[]", pattern):
        pattern = pattern.replace("\\", "\\\\")  # rsync takes a backslash literally where there is no wildcard
    pattern = re.sub(r"\s+\Z", lambda space: "".join(f"[{character}]" for character in space[0]), pattern)
    return re.sub(r"\A[!#]", r"\\\g<0>", pattern).split("/")


def _excludes_all(body: list[str], names: list[str], anchored: bool) -> bool:
    if body in (["*"], ["**"]):
        return True
    reach = [names[: len(body)]] if anchored else [names[place : place + len(body)] for place in range(len(names))]
    return any(len(part) == len(body) and all(map(fnmatchcase, part, body)) for part in reach)


def _below(body: list[str], names: list[str]) -> list[str]:
    """What of an anchored pattern is left below the names above the tree; empty where it never comes there."""
    if len(body) <= len(names) or not all(map(fnmatchcase, names, body)):
        return []
    return body[len(names) :]

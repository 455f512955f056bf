"""The one rsync command in a line of shell, without what only starts it."""

from __future__ import annotations

import posixpath
import re
import shlex
from dataclasses import dataclass, replace

# programs that only start another; the letters of their options that take a value, and how many plain words they take
WRAPPERS = {
    "env": ("", 0),
    "nice": ("n", 0),
    "ionice": ("cn", 0),
    "flock": ("wE", 1),
    "timeout": ("ks", 1),
    "chronic": ("", 0),
    "nohup": ("", 0),
    "setsid": ("", 0),
    "time": ("", 0),
    "sudo": ("", 0),
}
SHELLS = ("sh", "bash", "dash")
TOKEN = re.compile(
    r"""\s*(?:(?P<redirect>(?:\d+(?=[<>])|&(?=>))?(?:>>|>\||>|<)(?:&(?:\d+|-))?)|(?P<operator>&&|\|\||[;|&()\n])
    |(?P<word>(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\s\\'"&|;<>()])+))""",
    re.VERBOSE | re.DOTALL,
)
QUOTED = re.compile(r"""\\.|'[^']*'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)  # group 1 is what the shell still expands


@dataclass(frozen=True)
class Command:
    """`arguments` come after the word rsync; `rsh` is what RSYNC_RSH is set to, `user` who runs it if that is named."""

    arguments: tuple[str, ...]
    redirects: tuple[tuple[str, str], ...]  # (operator, file)
    in_background: bool
    rsh: str
    user: str


def parse_command(text: str) -> Command:
    words: list[str] = []
    redirects: list[tuple[str, str]] = []
    operators: list[str] = []
    place = 0
    text = text.rstrip()
    while place < len(text):
        token = TOKEN.match(text, place)
        if not token:
            raise ValueError("its quotes do not end")
        place = token.end()
        if token["operator"]:
            operators.append(token["operator"])
            if place < len(text):
                raise ValueError(_several_commands(text))
        elif token["redirect"]:
            operand = TOKEN.match(text, place) if "&" not in token["redirect"][1:] else None
            redirects.append((token["redirect"], _unquote(operand["word"]) if operand and operand["word"] else ""))
            place = operand.end() if operand else place
        else:
            words.append(_unquote(token["word"]))
    user, words = _split_user(words)
    inner = _unwrap(words)
    return replace(
        inner,
        redirects=(*redirects, *inner.redirects),
        in_background="&" in operators or inner.in_background,
        user=inner.user or user,
    )


def _split_user(words: list[str]) -> tuple[str, list[str]]:
    """The sixth column of /etc/crontab, "" in a user's own."""
    if (
        len(words) > 1
        and not _starts_rsync(words[0])
        and _starts_rsync(words[1])
        and re.fullmatch(r"[a-z_][\w.-]*", words[0])
    ):
        return words[0], words[1:]
    return "", words


def _several_commands(text: str) -> str:
    if re.match(r"(\S+\s+)?cd\s", text):
        return "it changes directory first; write the source as an absolute path, and the rsync command alone"
    return "it runs more than one command; give the rsync command alone, with its schedule"


def _unquote(word: str) -> str:
    expanded = re.sub(QUOTED, lambda quoted: re.sub(r"\\.", "", quoted[1] or ""), word)
    if re.search(r"[$`]", expanded):
        raise ValueError(f"{word} holds a shell variable or command; write what it stands for")
    return "".join(shlex.split(word))


def _unwrap(words: list[str]) -> Command:
    """What is left without the words that only start rsync."""
    rsh = user = ""
    while words:
        name = posixpath.basename(words[0])
        assigned = re.fullmatch(r"(\w+)=(.*)", words[0], re.DOTALL)
        if assigned:
            rsh = assigned[2] if assigned[1] == "RSYNC_RSH" else rsh
            words = words[1:]
        elif name == "rsync":
            return Command(tuple(words[1:]), (), False, rsh, user)
        elif name in SHELLS and len(words) == 3 and re.fullmatch(r"-l?c", words[1]):
            inner = parse_command(words[2])
            return replace(inner, rsh=inner.rsh or rsh, user=inner.user or user)
        elif name in WRAPPERS:
            words = _without_wrapper(name, words[1:])
            user = "root" if name == "sudo" else user
        else:
            raise ValueError(f"it runs {words[0]}, not rsync; give the rsync command alone, with its schedule")
    raise ValueError("it runs no rsync")


def _starts_rsync(word: str) -> bool:
    name = posixpath.basename(word)
    return name == "rsync" or name in WRAPPERS or name in SHELLS or "=" in word


def _without_wrapper(name: str, words: list[str]) -> list[str]:
    valued, plain = WRAPPERS[name]
    if name == "sudo" and words[:1] and words[0].startswith("-u"):
        raise ValueError("it runs rsync as another user; give the line without sudo, from that user's crontab")
    while words and words[0].startswith("-"):
        option, words = words[0], words[1:]
        if len(option) == 2 and option[1] in valued:
            words = words[1:]
    words = words[plain:]
    return ["sh", *words] if words[:1] == ["-c"] else words

"""Words as keepalived's own parser reads them back, whatever is in them.

It reads a command twice: the line gives one string, and that string the words. In the outer one every byte that a parser might act on
(a comment, a brace, a $definition, a quote) is written as \\ooo, which both of its passes leave alone [measured with 2.2.7].
"""

from __future__ import annotations

import re

LONGEST = 1000  # bytes of a line; keepalived reads 1024 at most
_BARE = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_OUTER = re.compile(rb"[A-Za-z0-9_@%+=:,./ '-]")


def command(words: tuple[str, ...]) -> str:
    """A command of keepalived, with its quotes."""
    return f'"{_outer(" ".join(_inner(word) for word in words))}"'


def _inner(word: str) -> str:
    if _BARE.fullmatch(word):
        return word
    return "'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _outer(text: str) -> str:
    single = (bytes([byte]) for byte in text.encode("utf-8", "surrogateescape"))
    return "".join(byte.decode("ascii") if _OUTER.fullmatch(byte) else f"\\{byte[0]:03o}" for byte in single)


def value(word: str) -> str:
    """A word that is no command (an interface, a password): read once, without escapes. Raises ValueError, saying why not."""
    if _BARE.fullmatch(word) and not word.startswith("@"):
        return word
    bad = next((char for char in word if char in '"\\' or not (char.isascii() and char.isprintable())), None)
    if bad is not None:
        shown = repr(bad) if bad != "\\" else "a backslash"
        raise ValueError(
            f'{shown} has no way into keepalived.conf, allowed are printable ASCII characters but " and \\'
        )
    if re.search(r"\$\{?_", word):
        raise ValueError("keepalived would take $_ for a definition, allowed is anything without that")
    return f'"{word}"'

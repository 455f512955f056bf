"""The agent's statements of keepalived.conf as blocks with their lines, those that are not closed too. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ngxsync.core.keepalived.finding import Place

DEEPEST = 16  # blocks in one another
MOST_MISSING = 20  # braces


@dataclass(frozen=True)
class Node:
    """A line, with the lines of its block."""

    place: Place
    words: tuple[str, ...]
    inside: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        return self.words[0]

    @property
    def value(self) -> str:
        return self.words[1] if len(self.words) > 1 else ""

    def all(self, name: str) -> list[Node]:
        return [node for node in self.inside if node.name == name]

    def get(self, name: str) -> Node | None:
        """The last one counts."""
        return next(iter(reversed(self.all(name))), None)

    def lines(self, *names: str) -> list[Node]:
        """The lines in these blocks."""
        return [line for name in names for block in self.all(name) for line in block.inside]

    def after(self, word: str) -> str:
        """The word that follows this one on the line: "weight" of "chk weight 10"."""
        return self.words[self.words.index(word) + 1] if word in self.words[:-1] else ""


def make_nodes(statements: Iterable[Sequence[Any]]) -> tuple[Node, ...]:
    """Of the agent's statements. A brace too many ends nothing; a block that begins with nothing, or lies too deep, is passed over."""
    top: list[_Open] = []
    blocks = [top]
    for file, line, words in statements:
        if words == ["{"]:
            is_block = bool(blocks[-1]) and len(blocks) < DEEPEST
            blocks.append(blocks[-1][-1].inside if is_block else [])
        elif words == ["}"]:
            del blocks[max(1, len(blocks) - 1) :]
        else:
            blocks[-1].append(_Open(Place(file, line), tuple(words), []))
    return tuple(_closed(each) for each in top)


@dataclass(frozen=True)
class _Open:
    """A node that is still read."""

    place: Place
    words: tuple[str, ...]
    inside: list[_Open]


# what stands in no block, and what only in an instance: read inside another block, that one has no end
OUTER = {"global_defs", "vrrp_script", "vrrp_track_process", "vrrp_sync_group", "vrrp_instance"}
PARTS = {
    "authentication",
    "virtual_ipaddress",
    "virtual_ipaddress_excluded",
    "unicast_peer",
    "track_script",
    "track_process",
    "track_interface",
}
LINES = re.compile(
    r"state|interface|virtual_router_id|priority|advert_int|nopreempt|preempt_delay|notify(_\w+)?|smtp_alert|garp_\w+"
)


@dataclass(frozen=True)
class Unclosed:
    """A block without an end: where it begins, and the line after which its brace is missing."""

    place: Place
    name: str
    last: Place


def close_all(statements: Sequence[Sequence[Any]]) -> tuple[list[Sequence[Any]], list[Unclosed]]:
    """The statements with the braces that are missing, put where each belongs as far as what follows shows it."""
    found = list(statements)
    missing: list[Unclosed] = []
    while len(missing) < MOST_MISSING and (where := _missing_brace(found)):
        at, header = where
        file, line, _ = found[at - 1]
        missing.append(Unclosed(Place(*header[:2]), " ".join(header[2]), Place(file, line)))
        found.insert(at, (file, line, ["}"]))
    return found, missing


def _missing_brace(statements: Sequence[Sequence[Any]]) -> tuple[int, Sequence[Any]] | None:
    """Before which statement it is missing, and what begins that block; None where as many close as open."""
    braces = [words for _, _, words in statements if words in (["{"], ["}"])]
    if braces.count(["{"]) <= braces.count(["}"]):
        return None
    opened: list[Sequence[Any]] = []
    before: Sequence[Any] = ("", 0, [""])
    for at, each in enumerate(statements):
        words = each[2]
        if words == ["{"]:
            opened.append(before)
        elif words == ["}"]:
            del opened[-1:]
        elif opened and (
            words[0] in OUTER or (opened[-1][2][0] in PARTS and (words[0] in PARTS or LINES.fullmatch(words[0])))
        ):
            return at, opened[-1]
        else:
            before = each
    return (len(statements), opened[-1]) if opened else None


def _closed(node: _Open) -> Node:
    return Node(node.place, node.words, tuple(_closed(each) for each in node.inside))

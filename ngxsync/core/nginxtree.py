"""An nginx configuration as one tree: what each file says, and what comes of it with its includes put in place.

Files come parsed (edges/nginxconf.py has crossplane); which files a pattern names, and what is in each, is asked of a `Source`.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from ngxsync.agent import directives
from ngxsync.core.nginxorder import order_groups, ordered_arguments

LUA = "_by_lua_block"  # its one argument is code
DEEPEST = 100  # blocks in blocks, and files that include files
MOST = 500_000  # directives in one block, those that come by an include counted each time


# what says the same has the same number: by what it says, in which a block's children are numbers
_NUMBERS: defaultdict[tuple[Any, ...], int] = defaultdict(count().__next__)


class TooLarge(Exception):
    """No configuration that nginx would be given: includes that go on and on."""


@dataclass(frozen=True, slots=True)
class Item:
    """One directive as its file has it. Equal are two that say the same, wherever they stand."""

    name: str
    args: tuple[str, ...]
    line: int = field(compare=False)
    block: tuple[Item, ...] | None = None  # None: it ends in ;


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one file says. With a `problem` its items show the includes, and are not to be compared: the text is."""

    items: tuple[Item, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One directive of the whole configuration, and where it is written (the real path).

    Equal `loose`: the same to the last word below it, but for an order that nginx does not mind.
    """

    name: str
    args: tuple[str, ...]
    file: str
    line: int
    block: tuple[Node, ...] | None
    loose: int


class Source(Protocol):
    """One host's files."""

    def included(self, pattern: str) -> Iterable[str]:
        """The files that an absolute pattern names, as glob(3) orders them."""

    def parsed(self, path: str) -> tuple[str, Parsed] | None:
        """A file's real path and what it says; None where it is not there."""


def items_from(parsed: Sequence[Mapping[str, Any]]) -> tuple[Item, ...]:
    """What crossplane calls `parsed`."""
    return tuple(
        Item(
            item["directive"],
            tuple(item["args"]),
            item["line"],
            items_from(item["block"]) if "block" in item else None,
        )
        for item in parsed
        if "comment" not in item  # those among arguments come unasked
    )


def items_of(said: Sequence[directives.Directive]) -> tuple[Item, ...]:
    """The same from our own lexer, which changes no byte and knows no arguments of Lua blocks. What is nested too deep is left out."""
    levels: list[list[Item]] = [[] for _ in range(DEEPEST + 2)]  # by depth what is in no block yet, the last one first
    for name, args, _, line, is_block, depth, _ in reversed(said):
        if depth <= DEEPEST:
            block = tuple(reversed(levels[depth + 1])) if is_block else None
            levels[depth + 1] = []
            levels[depth].append(Item(name, _condition(args) if name == "if" else args, line, block))
    return tuple(reversed(levels[0]))


def _condition(args: tuple[str, ...]) -> tuple[str, ...]:
    """Without its parentheses, as crossplane has it."""
    if not args or args[0][:1] != "(" or args[-1][-1:] != ")":
        return args
    words = [args[0][1:].lstrip(), *args[1:]]
    words[-1] = words[-1][:-1].rstrip()
    return tuple(words[not words[0] : len(words) - (not words[-1])])


def misread(items: Sequence[Item], ours: Sequence[directives.Directive]) -> int:
    """The line from which crossplane's items are not what our own lexer found; 0 where both agree.

    They agree on names, lines, nesting and the number of words.
    """
    theirs = list(_flat(items, 0))
    for own, (item, depth) in zip(ours, theirs, strict=False):
        if own.line != item.line or own.depth != depth or not _is_alike(own, item):
            return min(own.line, item.line)
    if len(ours) > len(theirs):
        return ours[len(theirs)].line
    return theirs[len(ours)][0].line if len(theirs) > len(ours) else 0


def _flat(items: Iterable[Item], depth: int) -> Iterator[tuple[Item, int]]:
    for item in items:
        yield item, depth
        if item.block:
            yield from _flat(item.block, depth + 1)


def _is_alike(own: directives.Directive, item: Item) -> bool:
    if own.name != item.name:  # the two keep different escapes
        return "\\" in own.name + item.name
    if own.name.endswith(LUA):
        return True
    args = _condition(own.args) if own.name == "if" else own.args
    return own.block == (item.block is not None) and len(args) == len(item.args)


class Expansion:
    """Includes put in place, for one host. Raises TooLarge.

    `known` is shared by all: files without includes are the same nodes everywhere.
    """

    def __init__(self, conf: str, source: Source, known: dict[tuple[str, int], tuple[Node, ...]]) -> None:
        self._folder = posixpath.dirname(conf)
        self._source, self._known = source, known
        self._whole: dict[tuple[str, bool], tuple[Node, ...]] = {}
        self.files: dict[str, Parsed] = {}  # all that were read, by real path
        self.nodes = self._file(conf, False, ())

    def _file(self, path: str, is_geo: bool, around: tuple[str, ...]) -> tuple[Node, ...]:
        found = self._source.parsed(path)
        if found is None or found[0] in around:  # a circle: nginx refuses it
            return ()
        if len(around) > DEEPEST:
            raise TooLarge
        real, parsed = found
        self.files[real] = parsed
        key = (real, id(parsed))
        if key in self._known:
            return self._known[key]
        if (real, is_geo) not in self._whole:
            nodes = self._nodes(parsed.items, real, is_geo, (*around, real))
            self._whole[real, is_geo] = nodes
            if not _has_include(parsed.items):
                self._known[key] = nodes
        return self._whole[real, is_geo]

    def _nodes(self, items: Iterable[Item], file: str, is_geo: bool, around: tuple[str, ...]) -> tuple[Node, ...]:
        result: list[Node] = []
        for item in items:
            block = None
            if item.block is not None:
                block = self._nodes(item.block, file, item.name == "geo", around)
            result.append(make_node(item.name, item.args, file, item.line, block))
            if item.name == "include" and len(item.args) == 1:
                for path in self._included(item.args[0], is_geo):
                    result += self._file(path, is_geo, around)
                    if len(result) > MOST:
                        raise TooLarge
        return tuple(result)

    def _included(self, pattern: str, is_geo: bool) -> Iterable[str]:
        path = posixpath.normpath(posixpath.join(self._folder, pattern))
        path = path[1:] if path.startswith("//") else path
        return [path] if is_geo or not any(mark in path for mark in "*?[") else self._source.included(path)


def _has_include(items: Iterable[Item]) -> bool:
    return any(item.name == "include" or _has_include(item.block or ()) for item in items)


def make_node(name: str, args: tuple[str, ...], file: str, line: int, block: tuple[Node, ...] | None) -> Node:
    if block is None:
        return Node(name, args, file, line, None, _NUMBERS[name, ordered_arguments(name, args)])
    return Node(name, args, file, line, block, _NUMBERS[name, args, *_loose_order(name, block)])


def _loose_order(name: str, block: tuple[Node, ...]) -> tuple[Any, ...]:
    """The children where order counts in their order, all others in one that is the same for all."""
    sequences: dict[str, list[int]] = {}
    for child, group in zip(block, order_groups(name, [(child.name, child.args) for child in block]), strict=True):
        sequences.setdefault(group, []).append(child.loose)
    free = sorted(sequences.pop("", []))
    return tuple(free), tuple((group, tuple(sequences[group])) for group in sorted(sequences))


def is_same(one: Node, other: Node) -> bool:
    """To the last word below it, and in the same files."""
    if one is other:
        return True
    if (one.name, one.args, one.file) != (other.name, other.args, other.file):
        return False
    if one.block is None or other.block is None:
        return one.block is other.block
    return len(one.block) == len(other.block) and all(map(is_same, one.block, other.block))

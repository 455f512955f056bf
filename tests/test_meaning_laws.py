"""Laws of the comparison by meaning, over random configurations: nothing from equals, sides swapped, format, order."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ngxsync.core.meaning import Finding, about_files, compare_trees
from ngxsync.core.nginxorder import order_groups
from ngxsync.core.nginxtree import Item, Node, Parsed, make_node
from ngxsync.edges.nginxconf import parse_text

FILE = "/t/nginx.conf"
VALUES = st.sampled_from(["a", "b", "$c", "1", "two words", "", "x;y", "{", "it's", 'say "x"', "~^/p", "#no"])
SIMPLE = [
    "root",
    "listen",
    "server_name",
    "add_header",
    "allow",
    "deny",
    "rewrite",
    "set",
    "proxy_pass",
    "unknown",
    "gzip",
]
BLOCKS = ["server", "location", "upstream", "if", "http", "map", "unknown_block"]

Forest = tuple[Item, ...]


def items(name: str, args: list[str]) -> Item:
    return Item(name, tuple(args), 1)


LEAVES = st.builds(items, st.sampled_from(SIMPLE), st.lists(VALUES, min_size=1, max_size=3))


def blocks(children: st.SearchStrategy[Item]) -> st.SearchStrategy[Item]:
    inside = st.lists(children, max_size=5).map(tuple)
    args = st.lists(VALUES.filter(bool), max_size=2).map(tuple)
    return st.builds(lambda name, args, block: Item(name, args, 1, block), st.sampled_from(BLOCKS), args, inside)


FORESTS = st.lists(st.recursive(LEAVES, blocks, max_leaves=12), max_size=6).map(tuple)


def nodes(forest: Forest, line: int = 0) -> tuple[Node, ...]:
    """As the configuration of one file, each directive on a line of its own."""

    def made(found: Forest) -> tuple[Node, ...]:
        nonlocal line
        result = []
        for item in found:
            line += 1
            start = line
            block = None if item.block is None else made(item.block)
            result.append(make_node(item.name, item.args, FILE, start, block))
        return tuple(result)

    return made(forest)


@settings(max_examples=50)
@given(FORESTS)
def test_equals_differ_in_nothing(forest: Forest) -> None:
    assert compare_trees(nodes(forest), nodes(forest, 100)) == []


SWAPPED = {"gained": "lost", "lost": "gained"}


def seen(finding: Finding, *, swapped: bool) -> tuple[object, ...]:
    sides = [(finding.before, finding.before_at), (finding.after, finding.after_at)]
    kind = SWAPPED.get(finding.kind, finding.kind) if swapped else finding.kind
    return kind, *(sides[::-1] if swapped else sides), finding.tags, finding.count


@settings(max_examples=50)
@given(FORESTS, FORESTS)
def test_swapped_sides_swap_gained_and_lost(one: Forest, other: Forest) -> None:
    there = compare_trees(nodes(one), nodes(other))
    back = compare_trees(nodes(other), nodes(one))
    assert Counter(seen(f, swapped=False) for f in there) == Counter(seen(f, swapped=True) for f in back)
    assert bool(there) == (one != other)


def text_of(forest: Forest, chance: random.Random) -> str:
    """The same in any format: spaces, lines, comments, quotes where they may be and where they must."""

    def gap() -> str:
        return chance.choice([" ", "\n", "\t", "  ", " # a { comment; }\n", "\r\n"])

    def word(value: str, *, first: bool = False) -> str:
        must = not value or any(char in value for char in " ;{}'\"#\\")
        if not must and (first or chance.random() < 0.6):
            return value
        quote = "'" if '"' in value else '"' if "'" in value else chance.choice("'\"")
        return f"{quote}{value}{quote}"

    def directive(item: Item) -> str:
        args = [word(arg) for arg in item.args]
        if item.name == "if":
            args = ["(", *args, ")"]
        head = gap().join([word(item.name, first=True), *args])
        return head + (gap() + "{" + text_of(item.block, chance) + "}" if item.block is not None else gap() + ";")

    return gap() + "".join(directive(item) + gap() for item in forest)


@settings(max_examples=50)
@given(FORESTS, st.randoms(use_true_random=False))
def test_another_format_is_formatting_alone(forest: Forest, chance: random.Random) -> None:
    old, new = (parse_text(text_of(forest, chance).encode()) for _ in range(2))
    assert (old.problem, new.problem) == ("", "")
    assert old.items == new.items == forest
    found = compare_trees(placed(old.items), placed(new.items))
    assert [finding.kind for finding in about_files(found, {FILE: old}, {FILE: new})] == ["formatting"]


def placed(forest: Forest) -> tuple[Node, ...]:
    """With the lines that they were read at."""
    return tuple(
        make_node(item.name, item.args, FILE, item.line, None if item.block is None else placed(item.block))
        for item in forest
    )


@settings(max_examples=50)
@given(FORESTS, st.randoms(use_true_random=False))
def test_order_that_nginx_does_not_mind_is_reordered_alone(forest: Forest, chance: random.Random) -> None:
    other = shuffled("", forest, chance)
    assert {finding.kind for finding in compare_trees(nodes(forest), nodes(other))} <= {"reordered"}


def shuffled(parent: str, forest: Forest, chance: random.Random) -> Forest:
    """Every directive somewhere else, those that are read in order in their order; servers stay, for who is the default."""
    groups = order_groups(parent, [(item.name, item.args) for item in forest])
    groups = ["servers" if item.name == "server" else group for item, group in zip(forest, groups, strict=True)]
    places = list(range(len(forest)))
    chance.shuffle(places)
    queues: dict[str, list[int]] = {}
    for number in sorted(places):
        if groups[number]:
            queues.setdefault(groups[number], []).append(number)
    order = [queues[groups[number]].pop(0) if groups[number] else number for number in places]
    return tuple(
        Item(item.name, item.args, 1, None if item.block is None else shuffled(item.name, item.block, chance))
        for item in (forest[number] for number in order)
    )


@settings(max_examples=50)
@given(FORESTS, FORESTS)
def test_what_cannot_be_read_is_not_told_by_meaning(one: Forest, other: Forest) -> None:
    found = compare_trees(nodes(one), nodes(other))
    told = about_files(found, {FILE: Parsed(one, "line 1 is not UTF-8")}, {FILE: Parsed(other)})
    assert [(finding.kind, finding.what, finding.note) for finding in told] == [("text", FILE, "line 1 is not UTF-8")]

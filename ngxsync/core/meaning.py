"""What a difference of two nginx configurations means: which server, location, upstream or map gained, lost or changed what.

Two trees in, findings out. Before is what the peer has, after what this host has: gained is what a sync would add there.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ngxsync.core.nginxorder import TRIED, Said, address_of, default_listens, order_groups
from ngxsync.core.nginxtree import Node, Parsed, is_same
from ngxsync.core.pairing import Pair, is_server, listens_of, names_of, pair_up
from ngxsync.core.said import LISTEN, label, size_of, tags_below, value_of

GAINED, LOST, CHANGED, MOVED, REORDERED = "gained", "lost", "changed", "moved", "reordered"
FORMATTING, TEXT = "formatting", "text"
KINDS = (CHANGED, GAINED, LOST, MOVED, REORDERED, FORMATTING, TEXT)

Place = tuple[str, int]  # file, line
Files = tuple[str, str]  # of the blocks around, before and after
TOP: Said = ("", ())
UNMINDED, ONLY_DEFAULT = "nginx does not mind", "nginx minds who is the default, not the rest"
SHOWN = 4  # so many of a longer order are named


@dataclass(frozen=True)
class Finding:
    """One thing that differs, and where: `before` speaks of the peer, `after` of this host, "" and None of absence.

    `where` are the blocks around it, outermost first; `what` is the directive, the block or the group of directives.
    `count` is the number of blocks that it is so in: a file that many include changed once. `note` says what else is to say.
    """

    kind: str
    what: str
    where: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    before_at: Place | None = None
    after_at: Place | None = None
    tags: tuple[str, ...] = ()
    count: int = 1
    note: str = ""

    @property
    def files(self) -> set[str]:
        return {place[0] for place in (self.before_at, self.after_at) if place}


def compare_trees(before: Sequence[Node], after: Sequence[Node]) -> list[Finding]:
    """All that differs between two whole configurations, the same thing in many blocks told once."""
    folded: dict[tuple[object, ...], Finding] = {}
    for finding in _compare_blocks(TOP, before, after, (), ("", "")):
        key = (finding.kind, finding.what, finding.before_at, finding.after_at, finding.before, finding.after)
        known = folded.get(key)
        folded[key] = replace(known, count=known.count + 1) if known else finding
    return sorted(folded.values(), key=_rank)


def _rank(finding: Finding) -> tuple[object, ...]:
    return (KINDS.index(finding.kind), finding.after_at or finding.before_at or ("", 0), finding.what)


def _compare_blocks(
    parent: Said, before: Sequence[Node], after: Sequence[Node], where: tuple[str, ...], around: Files
) -> Iterator[Finding]:
    pairs, lost, gained = pair_up(before, after)
    for node in (before[number] for number in lost):
        value, tags = _whole(node, parent), tags_below(parent, node)
        yield Finding(LOST, label(node, parent), where, value, "", _at(node), None, tags)
    for node in (after[number] for number in gained):
        value, tags = _whole(node, parent), tags_below(parent, node)
        yield Finding(GAINED, label(node, parent), where, "", value, None, _at(node), tags)
    for one, other in pairs:
        yield from _compare_pair(parent, before[one], after[other], where, around)
    defaults = list(_default_servers(before, after, set(pairs), where)) if parent[0] == "http" else []
    yield from defaults
    for group, sequence in _sequences(parent, before, after, pairs).items():
        for finding in _order(parent, group, sequence, before, after, where):
            yield replace(finding, note=ONLY_DEFAULT) if defaults and finding.note else finding


def _compare_pair(parent: Said, old: Node, new: Node, where: tuple[str, ...], around: Files) -> Iterator[Finding]:
    if is_same(old, new):
        return
    if old.file != new.file and (old.file, new.file) != around:
        yield Finding(MOVED, label(new, parent), where, "", "", _at(old), _at(new))
    if old.args != new.args:
        yield _other_arguments(parent, old, new, where)
    if old.block is not None and new.block is not None:
        inside = (*where, label(new, parent))
        yield from _compare_blocks((new.name, new.args), old.block, new.block, inside, (old.file, new.file))


def _other_arguments(parent: Said, old: Node, new: Node, where: tuple[str, ...]) -> Finding:
    before, after = value_of(old, parent), value_of(new, parent)
    if old.block is None and old.loose == new.loose:
        return Finding(REORDERED, label(new, parent), where, before, after, _at(old), _at(new), note=UNMINDED)
    what = label(new, parent) if new.block is None else new.name
    note = "what differs is not shown" if before == after else ""
    return Finding(CHANGED, what, where, before, after, _at(old), _at(new), tags_below(parent, old, new), note=note)


def _whole(node: Node, parent: Said) -> str:
    """What a directive says; of a block how much, since its label has the rest."""
    return value_of(node, parent) if node.block is None else size_of(node.block)


def _at(node: Node) -> Place:
    return node.file, node.line


def _sequences(
    parent: Said, before: Sequence[Node], after: Sequence[Node], pairs: Sequence[Pair]
) -> dict[str, list[Pair]]:
    """By group the pairs that are to be in the same order; "" is the group of all others."""
    old_groups, new_groups = _groups(parent, before), _groups(parent, after)
    found: dict[str, list[Pair]] = {}
    for one, other in pairs:
        group = max(old_groups[one], new_groups[other])  # the same from both sides
        if group or before[one].file == after[other].file:  # what moved elsewhere is told as moved
            found.setdefault(group, []).append((one, other))
    return found


def _groups(parent: Said, nodes: Sequence[Node]) -> list[str]:
    groups = order_groups(parent[0], [(node.name, node.args) for node in nodes])
    if parent[0] not in ("http", "stream"):
        return groups
    in_order = _read_in_order([node for node in nodes if is_server(node)])
    return [TRIED if id(node) in in_order else group for node, group in zip(nodes, groups, strict=True)]


def _read_in_order(servers: Sequence[Node]) -> set[int]:
    """Of servers with regex names, and of those with the same name on the same port, the first is taken."""
    holders: dict[tuple[str, str], set[int]] = {}
    for server in servers:
        for address in {address_of(listen) for listen in listens_of(server)} or {"*:80"}:
            for name in names_of(server):
                holders.setdefault((address, name), set()).add(id(server))
    shared = [held for (_, name), held in holders.items() if len(held) > 1 or name.startswith("~")]
    return set().union(*shared)


def _order(
    parent: Said, group: str, olds: list[Pair], before: Sequence[Node], after: Sequence[Node], where: tuple[str, ...]
) -> Iterator[Finding]:
    """Directives that stand in another order: a change where nginx minds it, else told as harmless."""
    news = sorted(olds, key=lambda pair: pair[1])
    if olds == news:
        return
    first, last = _bounds(olds, news)
    old, new = [before[one] for one, _ in olds[first:last]], [after[other] for _, other in news[first:last]]
    tags = tags_below(parent, *new) if group else ()
    kind, what = (CHANGED, f"order of {group}") if group else (REORDERED, "order of directives")
    names, note = (_names(old, parent), _names(new, parent)), "" if group else UNMINDED
    yield Finding(kind, what, where, *names, _at(old[0]), _at(new[0]), tags, note=note)


def _bounds(olds: Sequence[Pair], news: Sequence[Pair]) -> tuple[int, int]:
    """The part of two orders between what they begin and end with in common."""
    differ = [n for n, (old, new) in enumerate(zip(olds, news, strict=True)) if old is not new]
    return differ[0], differ[-1] + 1


def _names(nodes: Sequence[Node], parent: Said) -> str:
    names = [_sayable(node, parent) for node in nodes]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _sayable(node: Node, parent: Said) -> str:
    """A simple directive with its value, since its like have the same name."""
    return label(node, parent) if node.block is not None else f"{label(node, parent)} {value_of(node, parent)}".strip()


def _default_servers(
    before: Sequence[Node], after: Sequence[Node], pairs: Container[Pair], where: tuple[str, ...]
) -> Iterator[Finding]:
    """Where another server answers what no server_name asks for, said or by its place."""
    olds, news = _defaults(before), _defaults(after)
    for address in sorted(olds.keys() & news.keys()):
        if (olds[address], news[address]) not in pairs:
            old, new = before[olds[address]], after[news[address]]
            names = label(old, TOP), label(new, TOP)
            yield Finding(CHANGED, f"default server of {address}", where, *names, _at(old), _at(new), (LISTEN,))


def _defaults(children: Sequence[Node]) -> dict[str, int]:
    servers = [number for number, node in enumerate(children) if is_server(node)]
    said = [[(child.name, child.args) for child in children[number].block or ()] for number in servers]
    return {address: servers[found] for address, found in default_listens(said).items()}


def about_files(
    findings: Iterable[Finding], before: Mapping[str, Parsed], after: Mapping[str, Parsed]
) -> list[Finding]:
    """The findings with what is to say of whole files: only formatting, or only to be compared as text.

    `before` and `after` are the files that differ, as each side has them, and that nginx reads on that side.
    """
    opaque = {
        path: problem
        for path in before.keys() | after.keys()
        if (problem := _problem(before.get(path), after.get(path)))
    }
    told = [finding for finding in findings if not finding.files & opaque.keys()]
    for path in sorted(opaque):
        told.append(Finding(TEXT, path, note=opaque[path], before_at=_top(path, before), after_at=_top(path, after)))
    for path in sorted(before.keys() & after.keys() - opaque.keys()):
        if before[path].items == after[path].items:
            told.append(Finding(FORMATTING, path, before_at=(path, 1), after_at=(path, 1)))
    return sorted(told, key=_rank)


def _problem(before: Parsed | None, after: Parsed | None) -> str:
    return next((side.problem for side in (after, before) if side is not None and side.problem), "")


def _top(path: str, files: Mapping[str, Parsed]) -> Place | None:
    return (path, 1) if path in files else None

"""Which directive of one configuration is which of the other: the children of one block on both sides, in pairs.

Everything here is the same from either side: swapped sides give the same pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from ngxsync.core.nginxtree import LUA, Node

Pair = tuple[int, int]  # numbers of a child before and of one after
Key = Callable[[Node], Hashable | None]

ALIKE = 0.5  # so much of two servers must be the same for them to be one that was renamed
MANY = 40_000  # comparisons of servers with each other


def pair_up(before: Sequence[Node], after: Sequence[Node]) -> tuple[list[Pair], list[int], list[int]]:
    """Pairs, and what is left on each side, all in the order of the sides."""
    work = _Pairing(before, after)
    for key in _KEYS:
        work.by_key(key)
    if work.left and work.right:
        work.greedily(_names_in_common(work))
        work.greedily(_likeness(work))
        work.by_key(_only_ones(work))
    return sorted(work.pairs), work.left, work.right


class _Pairing:
    """What is paired so far, and what is not."""

    def __init__(self, before: Sequence[Node], after: Sequence[Node]) -> None:
        self.before, self.after = before, after
        self.pairs: list[Pair] = []
        self.left, self.right = list(range(len(before))), list(range(len(after)))

    def by_key(self, key: Key) -> None:
        """Pairs what has equal keys, the first with the first; None is no key."""
        if not self.left or not self.right:
            return
        waiting: dict[Hashable, list[int]] = {}
        for other in reversed(self.right):
            if (found := key(self.after[other])) is not None:
                waiting.setdefault(found, []).append(other)
        taken = [
            (one, candidates.pop())
            for one in self.left
            if (found := key(self.before[one])) is not None and (candidates := waiting.get(found))
        ]
        self._take(taken)

    def greedily(self, scores: Mapping[Pair, float]) -> None:
        """Best first; of equals those nearest to each other, which is the same from both sides."""
        lefts: set[int] = set()
        rights: set[int] = set()
        taken = []
        for one, other in sorted(scores, key=lambda pair: (-scores[pair], abs(pair[0] - pair[1]), sum(pair))):
            if one not in lefts and other not in rights:
                taken.append((one, other))
                lefts.add(one)
                rights.add(other)
        self._take(taken)

    def _take(self, taken: Sequence[Pair]) -> None:
        lefts, rights = {one for one, _ in taken}, {other for _, other in taken}
        self.pairs += taken
        self.left = [number for number in self.left if number not in lefts]
        self.right = [number for number in self.right if number not in rights]

    def servers(self) -> tuple[list[tuple[int, Node]], list[tuple[int, Node]]]:
        """Those that are left on each side, with their numbers."""
        return (
            [(number, self.before[number]) for number in self.left if is_server(self.before[number])],
            [(number, self.after[number]) for number in self.right if is_server(self.after[number])],
        )


def _identity(node: Node) -> Hashable | None:
    """What a person calls it by."""
    if node.block is None:
        return (node.name, node.args[:1]) if node.args and not node.name.endswith(LUA) else None
    if node.name != "server":
        return (node.name, node.args)
    return ("server", tuple(sorted(names_of(node))), tuple(sorted(listens_of(node))))


def _target(node: Node) -> Hashable | None:
    """A map by the variable that it sets, a server by its names."""
    if node.block is None:
        return None
    if node.name == "server":
        names = tuple(sorted(names_of(node)))
        return ("server", names) if names else None
    return (node.name, node.args[-1]) if node.name in ("map", "geo", "split_clients") and node.args else None


def _body(node: Node) -> Hashable | None:
    """A block whose arguments changed, and nothing in it."""
    return (node.name, tuple(sorted(child.loose for child in node.block))) if node.block else None


_KEYS: tuple[Key, ...] = (
    id,  # of a file that is the same on both hosts
    lambda node: (node.loose, node.file),
    lambda node: node.loose,
    lambda node: (_identity(node), node.file) if _identity(node) else None,
    _identity,
    _target,
    _body,
)


def names_of(server: Node) -> set[str]:
    return _arguments(server, "server_name") - {"_", ""}


def listens_of(server: Node) -> set[str]:
    return {child.args[0] for child in server.block or () if child.name == "listen" and child.args}


def _arguments(server: Node, name: str) -> set[str]:
    return {arg for child in server.block or () if child.name == name for arg in child.args}


def _names_in_common(work: _Pairing) -> Mapping[Pair, float]:
    """Servers that share a server_name, by how many."""
    lefts, rights = work.servers()
    holders: dict[str, list[int]] = {}
    for number, node in rights:
        for name in names_of(node):
            holders.setdefault(name, []).append(number)
    shared: Counter[Pair] = Counter()
    for number, node in lefts:
        for name in names_of(node):
            shared.update((number, other) for other in holders.get(name, ()))
    return shared


def _likeness(work: _Pairing) -> Mapping[Pair, float]:
    """Servers with other names that are otherwise mostly the same, their ports apart."""
    lefts, rights = ([(number, Counter(_loose(node))) for number, node in side] for side in work.servers())
    if len(lefts) * len(rights) > MANY:
        return {}
    scores = {
        (number, other): sum((own & theirs).values()) / max(own.total(), theirs.total(), 1)
        for number, own in lefts
        for other, theirs in rights
    }
    return {pair: score for pair, score in scores.items() if score >= ALIKE}


def _loose(server: Node) -> Iterable[int]:
    return (child.loose for child in server.block or () if child.name not in ("listen", "server_name"))


def is_server(node: Node) -> bool:
    """A virtual server, not one of an upstream."""
    return node.name == "server" and node.block is not None


def _only_ones(work: _Pairing) -> Key:
    """Where one of a name is left on each side, it changed: a server where it stands in the same file, on the same ports."""

    def name(node: Node) -> Hashable:
        return (node.file, tuple(sorted(listens_of(node)))) if is_server(node) else (node.name, node.block is None)

    lefts = Counter(name(work.before[number]) for number in work.left)
    rights = Counter(name(work.after[number]) for number in work.right)
    single = {found for found, number in lefts.items() if number == rights[found] == 1} - _OWN_SELVES
    return lambda node: found if (found := name(node)) in single else None


# a name does not make one of these another
_OWN_SELVES = {("location", False), ("upstream", False), ("include", True)}

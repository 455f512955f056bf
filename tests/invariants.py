"""What must hold of a peer in the storm: pure, observed states in, sentences of what is wrong out (none: all holds)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from tests.edits import STAMPS, stamp_text
from tests.observation import Entry, Seen, Tree, sha256

SHOWN = 12
Touched = Mapping[str, Collection[Entry | None]]  # path -> what the peer's own edits made of it, None for nothing


def differences(one: Tree, other: Tree) -> list[str]:
    """The paths that differ, with both entries."""
    return [
        f"{path!r}: {one.get(path)} / {other.get(path)}"
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    ]


def is_state_of_master(live: Tree, state: Tree, touched: Touched) -> bool:
    """Whether the live tree is this state of the master, or that plus the peer's own edits."""
    return all(
        live.get(path) == state.get(path) or live.get(path) in touched.get(path, ())
        for path in live.keys() | state.keys()
    )


def check_state(live: Tree, states: Sequence[Tree], touched: Touched) -> list[str]:
    """P1: it is a state that the master had. `states` are all since the last time that both were equal."""
    if any(is_state_of_master(live, state, touched) for state in reversed(states)):
        return []
    nearest = min(states, key=lambda state: len(differences(live, state)))
    shown = "\n  ".join(islice(differences(live, nearest), SHOWN))
    return [f"the peer's tree is no state that the master had; nearest (peer / master):\n  {shown}"]


def check_accepted_by_nginx(seen: Seen) -> list[str]:
    """P1: the peer's own nginx accepts what is live."""
    return [f"the peer's nginx -t refuses what is live: {seen.refusal}"] if seen.refusal else []


def check_served(seen: Seen) -> list[str]:
    """P2: what is marked proven is what is served, all of it."""
    if seen.served is None or seen.accepted is None or not seen.accepted["proven"]:
        return []
    wrong = []
    for path in STAMPS:
        body, recorded = seen.served[path], seen.manifest.get(path)
        if path not in seen.tree and recorded is None:
            continue
        expected = _stamp_of(body, path)
        if expected != recorded:
            wrong.append(f"accepted says proven, but {path} is served as {body!r}, which is not what it names")
        if path in seen.tree and seen.tree[path].content != expected:
            wrong.append(f"{path} is served as {body!r}, and something else is live")
    return wrong


def _stamp_of(body: str, path: str) -> str:
    """The sha256 of the file that makes nginx answer so."""
    number = body.removeprefix("generation ").strip()
    return sha256(stamp_text(path, int(number)).encode()) if number.isdigit() else f"not a stamp: {body!r}"


def check_kept(owed: Collection[str], seen: Seen) -> list[str]:
    """P3: every content that was live is live or in the store."""
    live = {entry.content for entry in seen.tree.values() if entry.kind == "-"}
    lost = set(owed) - live - seen.blobs
    return [f"{len(lost)} contents that were live on the peer are gone: {sorted(lost)[:SHOWN]}"] if lost else []


def check_equal(master: Tree, peer: Tree) -> list[str]:
    shown = "\n  ".join(islice(differences(master, peer), SHOWN))
    return [f"all is quiet, and the trees differ (master / peer):\n  {shown}"] if shown else []

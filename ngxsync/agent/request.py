"""What a transact request says, checked before anything is done: whose it is, which paths, which planned manifest."""

import os
import re
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional

from .addresses import held
from .answers import Failure
from .exchange import Exchange, action_of, entry_of, root_entry
from .folders import home_of, homes
from .journal import Item
from .manifest import (
    DIR,
    FILE,
    PROTOCOL,
    Entry,
    Manifest,
    delta_from_json,
    entry_from_json,
    is_clean,
    is_same,
    patched,
    snapshot_id,
    tree_of,
)
from .paths import Anchor
from .scan import Scan, scan
from .store import RUN_NAME, Damaged, Store
from .survey import OWN_FOLDER, Names
from .sweep import keep_of

KINDS = ("sync", "rollback", "pull")
LATEST_NS = 10**9 << 63  # of a time on any file system
NOBODY = 2**32 - 1  # as an id it means "leave it"
PROMOTED = "promoted.json"  # of a host that was promoted and never accepted anything: there is no record to say it in
Accepted = Optional[Dict[str, Any]]


def raise_if_not_yours(request: Dict[str, Any], accepted: Accepted) -> None:
    """Who may write: the request carries the generation that its master wrote last, never one just read.

    `adopt` passes here, where the record is the one that was `seen`, and is checked against the live trees later. Raises
    Failure (generation, first-contact, peer-changed).
    """
    generation = request["generation"]
    if request.get("adopt"):
        if accepted is not None and request.get("seen", accepted["generation"]) != accepted["generation"]:
            what = "another host wrote here, or this one was promoted, since the records were compared"
            raise Failure("peer-changed", what, next="sync again")
        return
    if accepted is None or generation is None:
        if not request.get("first_contact"):
            raise Failure(
                "first-contact",
                "this host and %s have no accepted snapshot in common" % request["written_by"],
                next="run `ngxsync sync` on %s: it shows what it would replace and asks" % request["written_by"],
            )
    elif generation != accepted["generation"] and "generation" not in request.get("force", ()):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(accepted["at"]))
        raise Failure(
            "generation",
            "%s wrote here last (run %s, %s), not this master's latest run"
            % (accepted["written_by"], accepted["run"], when),
            next="compare with `ngxsync diff`; `ngxsync sync --force generation` overwrites it",
        )


def raise_if_promoted(request: Dict[str, Any], store: Store) -> None:
    """This host has no record, and a person made it the one that pushes after its master looked. Raises Failure (peer-changed)."""
    if request.get("protocol", PROTOCOL) < 4:
        return  # a master of then is not told of it
    try:
        mark = (store.read(PROMOTED) or {}).get("generation")
    except (Damaged, AttributeError):
        return
    if mark is not None and request.get("seen", mark) != mark:
        raise Failure("peer-changed", "this host was promoted since the records were compared", next="sync again")


def who_syncs(accepted: Accepted) -> str:
    """The host whose syncs this one receives, "" for none: what a person pulls here, or a promotion, is none of them."""
    if accepted is None or accepted.get("kind") == "promote":
        return ""
    return str(accepted.get("synced_by", "") if accepted.get("kind") == "pull" else accepted["written_by"])


def received_run(accepted: Accepted, host: str) -> str:
    """The run in which another host than this one synced here last, "" for none. What was pulled since is beside it."""
    kind = (accepted or {}).get("kind", "sync")
    if accepted is None or kind == "promote":
        return ""
    if kind == "pull":
        return str(accepted.get("synced_run", ""))
    return str(accepted["run"]) if accepted["written_by"] != host else ""


def raise_if_malformed(request: Any) -> None:
    """Raises Failure (agent) for what no master of ours would send: nothing of it is done."""
    try:
        _check_shape(request)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Failure(
            "agent", "the request makes no sense: %r" % error, next="see that both sides run the same release"
        )


def _check_shape(request: Any) -> None:
    if not RUN_NAME.match(request["run"]):
        raise ValueError("run %r" % request["run"])
    trees = [tree["path"] for tree in request["projection"]["trees"]]
    paths = [change["path"] for change in request["changes"]]
    entries = [change[side] for change in request["changes"] for side in ("before", "after")]
    taken_back = request.get("taken_back", {})
    entries += list(request["delta"].values()) + [entry for known in taken_back.values() for entry in known]
    if not trees or not all(is_clean(path) for path in trees + paths + list(request["delta"]) + list(taken_back)):
        raise ValueError("a path is not clean")
    if len(set(paths)) != len(paths):
        raise ValueError("a path is changed twice")
    for fields in entries:
        if fields is not None and not _is_possible(entry_from_json(fields)):
            raise ValueError("not an entry: %r" % (fields,))
    if request.get("kind", "sync") not in KINDS or not (
        request.get("restores", "") == "" or RUN_NAME.match(request["restores"])
    ):
        raise ValueError("kind %r restores %r" % (request.get("kind"), request.get("restores")))
    keep_of(request)
    for key in ("written_by", "generation", "base", "id", "reload", "nginx"):
        request[key]
    for key in ("root", "conf", "binary", "reload", "prove_timeout_s", "rehearse", "probe"):
        request["nginx"][key]


def _is_possible(entry: Entry) -> bool:
    """What no file system can hold would fail half-way; what is recorded here must pass each master's own table too."""
    if b"\0" in os.fsencode(entry.owner + entry.group + entry.content):
        return False
    if any(isinstance(number, bool) for number in (entry.mode, entry.mtime_ns, entry.size)):
        return False
    if not 0 <= entry.size < 1 << 63 or abs(entry.mtime_ns) >= LATEST_NS:
        return False
    if any(name.startswith("#") and not 0 <= int(name[1:]) < NOBODY for name in (entry.owner, entry.group)):
        return False
    if entry.kind == FILE:
        return re.match(r"[0-9a-f]{64}\Z", entry.content) is not None
    return (entry.content == "") if entry.kind == DIR else bool(entry.content)


def planned_manifest(request: Dict[str, Any], base: Manifest) -> Manifest:
    """The planned manifest: `base` with the request's delta. Raises Failure where ids do not agree."""
    planned = patched(base, delta_from_json(request["delta"]))
    if snapshot_id(planned, request["projection"]) != request["id"]:
        raise Failure("agent", "the planned manifest does not have the id that was announced", next="sync again")
    for change in request["changes"]:
        after = None if change["after"] is None else entry_from_json(change["after"])
        if planned.get(change["path"]) != after:
            raise Failure("agent", "%s is planned in two ways" % change["path"], next="sync again")
    return planned


def make_items(changes: List[Dict[str, Any]], trees: List[str], names: Names) -> List[Item]:
    """The journal's items. Raises Failure for a path that no plan of ours would name."""
    places = {tree: homes(tree) for tree in trees}
    items = []
    for number, change in enumerate(changes):
        path, before, after = change["path"], change["before"], change["after"]
        tree = tree_of(path, trees)
        if tree is None or OWN_FOLDER in path[len(tree) :].split("/"):
            raise Failure("agent", "a path of the plan is outside the trees: %r" % path)
        if path == tree and before is None and after is not None:
            before = _new_root(tree, names)
        if before == after:
            continue
        action = action_of(entry_of(before), entry_of(after))
        if path == tree and action != "attributes":
            raise Failure("agent", "a plan may not create, replace or delete a tree itself: %r" % path)
        items.append(Item(number, path, tree, home_of(path, places[tree]), action, before, after, {}, 0, 0))
    return items


def _new_root(tree: str, names: Names) -> List[Any]:
    """A tree that was absent when it was scanned was made for the stage, empty: from then on it is a change of attributes."""
    if any(name != OWN_FOLDER for name in os.listdir(tree)):
        raise Failure("peer-changed", "%s was made here since the trees were compared" % tree, next="sync again")
    with Anchor.at(tree) as anchor:
        return list(root_entry(anchor.fd, names))


def raise_if_adopts_more(request: Dict[str, Any]) -> None:
    """`adopt` takes over a record where the trees are equal: it may bring times, and nothing else. Raises Failure (generation)."""
    if request.get("adopt"):
        for change in request["changes"]:
            if not is_same(entry_of(change["before"]), entry_of(change["after"])):
                raise Failure(
                    "generation", "the trees are not equal: %s differs" % change["path"], next="`ngxsync diff`"
                )


def raise_if_unknown_owner(exchange: Exchange) -> None:
    """Before anything is prepared. Raises Failure (missing-user)."""
    missing = set()
    for item in exchange.items:
        after = entry_of(item.after)
        named = (
            []
            if after is None
            else [("user", exchange.ids.user, after.owner), ("group", exchange.ids.group, after.group)]
        )
        for kind, look_up, name in named:
            try:
                look_up(name)
            except KeyError:
                missing.add("%s %s" % (kind, name))
    if missing:
        what = "%s has no %s" % (os.uname().nodename, ", no ".join(sorted(missing)))
        raise Failure("missing-user", what, next="create it there, or exclude what it owns")


def claims_equal(request: Dict[str, Any], items: List[Item]) -> bool:
    """Where a record is taken over, not by its generation but since the trees are equal, its items tell times at most."""
    is_taken_over = request.get("adopt") or request.get("first_contact")
    only_times = all(is_same(entry_of(item.before), entry_of(item.after)) for item in items)
    return not items or bool(is_taken_over and only_times)


def raise_if_not_equal(request: Dict[str, Any], store: Store, planned: Manifest) -> None:
    """What is accepted without a change must be there. Raises Failure (peer-changed)."""
    found = scan(request["projection"], store.known(), store.root)
    if found.unread or not is_equal(found, planned):
        raise Failure("peer-changed", "the trees here changed since they were compared", next="sync again")


def is_equal(found: Scan, planned: Manifest) -> bool:
    """Directories that hold excluded or special entries stay here and do not count as differing (TRANSACTION, apply)."""
    kept = set(folders_above(found.kept_apart + found.specials))
    differing = [
        path for path in set(found.manifest) | set(planned) if not is_same(found.manifest.get(path), planned.get(path))
    ]
    return all(path in kept and path not in planned and found.manifest[path].kind == DIR for path in differing)


def folders_above(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        while len(path) > 1:
            path = os.path.dirname(path)
            yield path


def raise_if_carried(request: Dict[str, Any]) -> None:
    """Raises Failure (vip) while this host carries a VIP of the pair: who serves is not written to by another host.

    By the addresses of its interfaces, never by bind, which succeeds everywhere under ip_nonlocal_bind (TRANSACTION).
    """
    vips = request.get("vips") or []
    here = sorted({each.address for each in held(vips)}) if vips else []
    if here:
        what = "it carries the VIP %s: what serves there is not changed from another host" % ", ".join(here)
        hint = "see with `ngxsync status` who holds the VIP, and with `ngxsync keepalived check` why both do"
        raise Failure("vip", what, next=hint, outcome="held")

"""What a transact request says, checked before anything is done: whose it is, which paths, which planned manifest."""

import os
import time
from typing import Any, Dict, List, Optional

from .answers import Failure
from .exchange import action_of
from .journal import Item
from .manifest import Manifest, entry_from_json, is_below, is_clean, is_same, patched, snapshot_id, tree_of
from .scan import OWN_FOLDER, scan
from .stage import home_of, homes
from .store import Store
from .xattrs import read_xattrs

Accepted = Optional[Dict[str, Any]]


def raise_if_not_yours(request: Dict[str, Any], accepted: Accepted) -> None:
    """Who may write: the request carries the generation that its master wrote last, never one just read.

    `adopt` passes here and is checked against the live trees later. Raises Failure (generation or first-contact).
    """
    generation = request["generation"]
    if request.get("adopt"):
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


def planned_manifest(request: Dict[str, Any], store: Store, accepted: Accepted) -> Manifest:
    """The planned manifest: the accepted one (or nothing) with the request's delta. Raises Failure where ids do not agree."""
    base = store.accepted_manifest(accepted) if request["base"] == "accepted" else {}
    changed = {path: None if fields is None else entry_from_json(fields) for path, fields in request["delta"].items()}
    planned = patched(base, changed)
    if snapshot_id(planned, request["projection"]) != request["id"]:
        raise Failure("agent", "the planned manifest does not have the id that was announced", next="sync again")
    return planned


def make_items(changes: List[Dict[str, Any]], trees: List[str]) -> List[Item]:
    """The journal's items. Raises Failure for a path that no plan of ours would name."""
    places = {tree: homes(tree) for tree in trees}
    items = []
    for number, change in enumerate(changes):
        path, before, after = change["path"], change["before"], change["after"]
        tree = tree_of(path, trees)
        if tree is None or not is_clean(path) or OWN_FOLDER in path[len(tree) :].split("/") or before == after:
            raise Failure("agent", "a path of the plan is outside the trees: %r" % path)
        action = action_of(
            None if before is None else entry_from_json(before), None if after is None else entry_from_json(after)
        )
        if path == tree and action != "attributes":
            raise Failure("agent", "a plan may not create, replace or delete a tree itself: %r" % path)
        items.append(
            Item(number, path, tree, home_of(path, places[tree]), action, before, after, _own_xattrs(path, action))
        )
    return items


def _own_xattrs(path: str, action: str) -> Dict[str, str]:
    """Of a directory that goes by rmdir: what undo gives back to it."""
    if action != "rmdir":
        return {}
    try:
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        return read_xattrs(os.path.basename(path), folder)
    finally:
        os.close(folder)


def raise_if_not_equal(request: Dict[str, Any], store: Store, planned: Manifest) -> None:
    """A run without changes accepts what is there: so it must be there. Raises Failure (peer-changed).

    Directories that only hold excluded or special entries do not count as differing.
    """
    found = scan(request["projection"], store.cache(), store.root)
    kept = found.kept_apart + found.specials
    differing = [
        path for path in set(planned) | set(found.manifest) if not is_same(planned.get(path), found.manifest.get(path))
    ]
    stays = [path for path in differing if path not in planned and any(is_below(held, path) for held in kept)]
    if len(stays) != len(differing):
        raise Failure("peer-changed", "the trees here changed since they were compared", next="sync again")

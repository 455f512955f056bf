"""Steps 2 and 4: one peer's trees against the master's, from what both scans say (DESIGN 3; TRANSACTION, who may write)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ngxsync.agent import manifest as manifests
from ngxsync.agent.manifest import DIR, Manifest
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import AgentFailed, Message
from ngxsync.core.excludes import is_excluded, narrow
from ngxsync.core.guards import PeerFacts
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import Plan, Projection, Snapshot
from ngxsync.core.plan import DELETED, make_plan, parents
from ngxsync.core.standing import Standing, why_not_healed
from ngxsync.flow.interfaces import Comparison

YOURS, FIRST_CONTACT, GENERATION = "yours", "first-contact", "generation"


def snapshot_for(snapshot: Snapshot, projection: Projection) -> Snapshot:
    """The part of the master's snapshot that counts for one peer."""
    if projection == snapshot.projection:
        return snapshot
    return replace(snapshot, manifest=narrow(snapshot.manifest, projection), projection=projection)


def compare(
    config: Config,
    peer: PeerConfig,
    snapshot: Snapshot,
    record: PeerRecord,
    base: Manifest | None,
    answer: Mapping[str, Any],
    pushing: Standing,
) -> Comparison:
    """`answer` is the peer's scan; `base` this master's copy of the accepted manifest that the scan was asked against.

    Raises AgentFailed where the answer is none, or the peer could not read its own trees whole.
    """
    raise_if_unread(peer, answer)
    try:
        live = live_manifest(answer, base)
    except (KeyError, TypeError, ValueError) as error:
        raise AgentFailed(
            Message(f"the scan's answer makes no sense: {error}", peer.name, f"{peer.name} unchanged", "sync again")
        ) from error
    accepted = answer["accepted"]
    standing = standing_of(record.generation, accepted)
    copy = answer["base_manifest"]
    if standing == YOURS and accepted is not None:
        base = manifests.from_json(copy) if base is None and copy is not None else base
        if copy is not None or accepted["projection"] != snapshot.projection.as_json():
            raise_if_not_accepted(peer, record, accepted, base)
    common = base if standing == YOURS else None
    covered = covered_by(accepted if standing == YOURS else None)
    plan = make_plan(snapshot.manifest, live, common, covered, main_conf=config.nginx.conf)
    if not plan and answer["id"] != snapshot.id:
        raise _contradiction(peer)
    facts, last_tenure = _facts_from(answer, peer.name, live, record), str(answer.get("last_tenure", ""))
    return Comparison(
        peer=facts,
        snapshot=snapshot,
        plan=without_kept(plan, [*facts.specials, *facts.kept_apart]),
        base=common,
        accepted=accepted,
        standing=standing,
        base_name=answer["base"],
        is_empty=bool(answer["empty"]),
        journal=answer["journal"],
        now=float(answer["now"]),
        carried=tuple(answer["carried"]) if "carried" in answer else None,
        last_tenure=last_tenure,
        why_not_healed=why_not_healed(pushing, record.tenure, peer.name, last_tenure != record.peer_tenure),
    )


def _contradiction(peer: PeerConfig) -> AgentFailed:
    what = "it says that nothing differs, and by its own id something does"
    message = Message(what, f"{peer.user}@{peer.host}", f"{peer.name} unchanged", "sync again")
    return AgentFailed(message, code="answer")


def replanned(config: Config, compared: Comparison, snapshot: Snapshot) -> Comparison:
    """The same peer as it was looked at, against another snapshot than the master's: a rollback's."""
    facts, main_conf = compared.peer, config.nginx.conf
    covered = covered_by(compared.accepted if compared.standing == YOURS else None)
    plan = make_plan(snapshot.manifest, facts.manifest, compared.base, covered, main_conf=main_conf)
    return replace(compared, snapshot=snapshot, plan=without_kept(plan, [*facts.specials, *facts.kept_apart]))


def _facts_from(answer: Mapping[str, Any], name: str, live: Manifest, record: PeerRecord) -> PeerFacts:
    return PeerFacts(
        name=name,
        manifest=live,
        roots=answer["roots"],
        specials=tuple(answer["specials"]),
        kept_apart=tuple(answer["kept_apart"]),
        missing_users=tuple(answer["missing_users"]),
        recorded_master=record.master_roots,
        recorded_peer=record.peer_roots,
    )


def raise_if_unread(peer: PeerConfig, answer: Mapping[str, Any]) -> None:
    if answer["unread"]:
        what = f"could not be read there: {'; '.join(answer['unread'][:5])}"
        hint = f"see that {peer.user} may read it, or exclude it"
        raise AgentFailed(Message(what, f"{peer.user}@{peer.host}", f"{peer.name} unchanged", hint), code="scan")


def live_manifest(answer: Mapping[str, Any], base: Manifest | None) -> Manifest:
    """The peer's whole manifest: what it sent is only what differs from the accepted one."""
    changed = {
        path: None if fields is None else manifests.entry_from_json(fields)
        for path, fields in answer["changed"].items()
    }
    if answer["base"] == "accepted" and base is None:
        raise ValueError("it is relative to a manifest that this host does not have")
    return manifests.patched(base or {} if answer["base"] == "accepted" else {}, changed)


def raise_if_not_accepted(
    peer: PeerConfig, record: PeerRecord, accepted: Mapping[str, Any], base: Manifest | None
) -> None:
    """What a peer says this master wrote there is believed by its hash alone: the id, known here, names manifest and projection."""
    if base is not None and manifests.snapshot_id(base, accepted["projection"]) != record.accepted:
        what = "the accepted record there is not what this host wrote, though it has its generation"
        hint = (
            f"look at {peer.state_dir}/peer/accepted.json on {peer.name}; without it the next sync is a first contact"
        )
        raise AgentFailed(Message(what, f"{peer.user}@{peer.host}", f"{peer.name} unchanged", hint), code="answer")


def standing_of(generation: str | None, accepted: Mapping[str, Any] | None) -> str:
    """Whether the peer's record is the one that this master wrote last."""
    if accepted is None or generation is None:
        return FIRST_CONTACT
    return YOURS if accepted["generation"] == generation else GENERATION


def covered_by(accepted: Mapping[str, Any] | None) -> Callable[[str], bool]:
    """Whether the accepted record's own projection looked at a path: what it did not see has no base."""
    if accepted is None:
        return lambda _path: False
    trees = {
        tree["path"]: tuple((regex, out) for regex, out in tree["exclude"]) for tree in accepted["projection"]["trees"]
    }

    def covered(path: str) -> bool:
        tree = manifests.tree_of(path, list(trees))
        if tree is None:
            return False
        relative = path[len(tree) + 1 :]
        # whether it was a file or a directory is not known here: a rule for either hid it
        return not relative or not (is_excluded(relative, trees[tree]) and is_excluded(relative + "/", trees[tree]))

    return covered


def without_kept(plan: Plan, blockers: list[str]) -> Plan:
    """Directories that hold excluded or special entries stay on the peer, and do not count as differing (TRANSACTION, apply)."""
    kept = {above for path in blockers for above in parents(path)}
    changes = tuple(
        c for c in plan.changes if not (c.kind == DELETED and c.before and c.before.kind == DIR and c.path in kept)
    )
    return plan if len(changes) == len(plan.changes) else Plan(changes)

"""What follows from a comparison: reasons to hold, whether there is anything to do, whether nginx must read anew. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ngxsync.agent.manifest import Entry, is_below
from ngxsync.core.config import Config
from ngxsync.core.excludes import narrow
from ngxsync.core.following import Following
from ngxsync.core.guards import GuardSettings, Hold, apply_force, blockers_of, check_guards
from ngxsync.core.model import Change, Plan
from ngxsync.core.plan import CONFLICT, DRIFT, is_quiet, kind_of, make_plan, needs_reload, restart_needed
from ngxsync.core.rollback import rolled_back_hold, still_here
from ngxsync.core.wording import listed
from ngxsync.flow import outcomes
from ngxsync.flow.comparison import FIRST_CONTACT, GENERATION, YOURS, covered_by
from ngxsync.flow.interfaces import Comparison, Named, Prepared


def holds_of(
    compared: Comparison,
    config: Config,
    master: str,
    force: Collection[str],
    *,
    by_person: bool,
    following: Following | None = None,
) -> tuple[Hold, ...]:
    """Every reason to stop here, those that were forced left out. Raises ConfigError for a code that is none."""
    if compared.carried or (compared.carried is None and config.vrrp.decides):
        return (outcomes.vip_hold(compared),)
    settings = GuardSettings(
        content=config.nginx.content,
        main_conf=config.nginx.conf,
        max_delete_pct=config.sync.max_delete_pct,
        on_drift=config.sync.on_drift,
        why_not_healed=compared.why_not_healed,
        master_name=master,
    )
    peer = compared.peer.name
    found = [*check_guards(compared.plan, compared.snapshot, compared.peer, settings)]
    if compared.standing == GENERATION and not compared.adopt:
        found = [outcomes.generation_hold(compared, peer), *(hold for hold in found if hold.code != FIRST_CONTACT)]
    elif compared.standing == FIRST_CONTACT and not compared.is_empty and compared.plan:
        others = [hold for hold in found if hold.code != FIRST_CONTACT]
        # `sync` by a person is the choice of direction, where the two hosts have nothing in common (DESIGN 5)
        found = others if by_person else [outcomes.first_contact_hold(peer, master), *others]
    if compared.plan and not by_person:
        found += _rolled_back(compared)
    if compared.plan and following is not None:
        found += following.hold(peer)
    left = apply_force(found, force)
    if not left and compared.plan and not past_holds(compared, force).plan:
        return tuple(hold for hold in found if hold.code in LEAVING)
    return left


def _rolled_back(compared: Comparison) -> list[Hold]:
    """From the peer's own record: a master without memory, or another one, knows it too."""
    master, peer = compared.snapshot, compared.peer.name
    covered = covered_by({"projection": master.projection.as_json()})
    hold = rolled_back_hold(compared.accepted, master, covered, peer)
    return [hold] if hold else []


def undone_rollback(compared: Comparison) -> tuple[str, ...]:
    """What a person hears whose sync brings again what a rollback took back; nothing where it does not."""
    covered = covered_by({"projection": compared.snapshot.projection.as_json()})
    paths = still_here(compared.accepted, compared.snapshot.manifest, covered) if compared.plan else ()
    run = (compared.accepted or {}).get("run")
    return (f"this undoes the rollback of run {run}: {listed(paths)}",) if paths else ()


def worth_saying(compared: Comparison, prepared: Prepared, peer: str, left: Collection[str]) -> Iterator[str]:
    """What a person wants to know of a plan that was applied; `left` are the paths that were forced past what cannot be done."""
    changes, back = compared.plan.changes, f"`ngxsync rollback {prepared.run} --path PATH` brings back what was there"
    edited = [change.path for change in changes if change.cause in (DRIFT, CONFLICT)]
    if edited:
        yield f"edited on {peer}, now as here; {back}: {listed(edited)}"
    replaced = [c.path for c in changes if c.cause == FIRST_CONTACT and c.before is not None and not is_quiet(c)]
    if replaced:
        yield f"not from here, and replaced on {peer}; {back}: {listed(replaced)}"
    yield from undone_rollback(compared)
    if left:
        yield f"left as it is on {peer} (the next run is held for it again): {listed(left)}"
    modules = {item.path for item in prepared.named.files if item.role == "module"}
    if restart_needed(compared.plan, prepared.validation.binary, modules):
        yield f"a new nginx binary or module is on {peer}: a reload does not load it, restart nginx there"


LEAVING = ("type-change", "missing-user")  # what was forced past these stays undone, and is held again by the next run


def past_holds(compared: Comparison, force: Collection[str]) -> Comparison:
    """What remains to be planned where a person went past what cannot be done on the peer: there it stays as it is."""
    if not set(LEAVING) & set(force):
        return compared
    blocked = {c.path for c in compared.plan.changes if "type-change" in force and blockers_of(c, compared.peer)}
    missing = compared.peer.missing_users if "missing-user" in force else ()
    planned, changes = dict(compared.snapshot.manifest), []
    for change in compared.plan.changes:
        path, before = change.path, change.before
        stays = any(is_below(path, above) for above in blocked)
        after = before if stays else _with_known_owner(change, missing)
        if after is None:
            planned.pop(path, None)
        else:
            planned[path] = after
        if kind_of(before, after):
            changes.append(replace(change, after=after))
    return replace(compared, snapshot=replace(compared.snapshot, manifest=planned), plan=Plan(tuple(changes)))


def _with_known_owner(change: Change, missing: Collection[str]) -> Entry | None:
    """Where the peer lacks the user or group: who owns it there already, else root."""
    after, before = change.after, change.before
    if after is None:
        return None
    owner = (before.owner if before else "root") if f"user {after.owner}" in missing else after.owner
    group = (before.group if before else "root") if f"group {after.group}" in missing else after.group
    return after._replace(owner=owner, group=group)


def is_done(compared: Comparison) -> bool:
    """Nothing to do: equal, accepted as such, and proven (a peer that came back without nginx is asked again).

    The id names the projection too, so a new one is recorded at once: what it leaves out is the peer's own from now on.
    """
    accepted = compared.accepted
    if compared.plan or compared.standing != YOURS or accepted is None:
        return False
    return bool(accepted["proven"]) and accepted["id"] == compared.snapshot.id


def reload_needed(compared: Comparison, config: Config, named: Named) -> bool:
    """Whether nginx on the peer must read its configuration again (TRANSACTION, `reload_when`)."""
    accepted = compared.accepted
    if compared.standing == FIRST_CONTACT or accepted is None or not accepted["proven"] or compared.base is None:
        return True

    def is_read_anew(plan: Plan) -> bool:
        loaded = [change.path for change in plan.changes if named.loads(change.path)]
        return needs_reload(plan, config.nginx.content, loaded, config.nginx.reload_when == "always")

    # equal by the same edit on both hosts (a pull's, too): whether nginx there has read it, nobody knows
    return is_read_anew(compared.plan) or is_read_anew(_since_accepted(compared))


def _since_accepted(compared: Comparison) -> Plan:
    planned, base = compared.snapshot, compared.base or {}
    return make_plan(planned.manifest, narrow(base, planned.projection), base, lambda _path: True)

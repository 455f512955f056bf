"""What follows from a comparison: reasons to hold, whether there is anything to do, whether nginx must read anew. Pure."""

from __future__ import annotations

from collections.abc import Collection

from ngxsync.core.config import Config
from ngxsync.core.excludes import narrow
from ngxsync.core.guards import GuardSettings, Hold, apply_force, check_guards
from ngxsync.core.model import Plan
from ngxsync.core.plan import make_plan, needs_reload
from ngxsync.flow import outcomes
from ngxsync.flow.comparison import FIRST_CONTACT, GENERATION, YOURS
from ngxsync.flow.interfaces import Comparison, Named


def holds_of(
    compared: Comparison, config: Config, master: str, force: Collection[str], *, by_person: bool
) -> tuple[Hold, ...]:
    """Every reason to stop here, those that were forced left out. Raises ConfigError for a code that is none."""
    settings = GuardSettings(
        content=config.nginx.content,
        main_conf=config.nginx.conf,
        max_delete_pct=config.sync.max_delete_pct,
        on_drift=config.sync.on_drift,
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
    return apply_force(found, force)


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
    # equal by the same edit on both hosts: whether nginx there has read it, nobody knows
    plan = compared.plan or _since_accepted(compared)
    loaded = [change.path for change in plan.changes if named.loads(change.path)]
    return needs_reload(plan, config.nginx.content, loaded, config.nginx.reload_when == "always")


def _since_accepted(compared: Comparison) -> Plan:
    planned, base = compared.snapshot, compared.base or {}
    return make_plan(planned.manifest, narrow(base, planned.projection), base, lambda _path: True)

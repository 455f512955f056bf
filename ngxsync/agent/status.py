"""The verb `status`: what the peer knows by itself, for the person who logs in there at night while its master is dead."""

import os
import time
from typing import Any, Dict, List, Optional

from . import journal, role, running, unit, vrrp
from .asread import place_of
from .manifest import Manifest, is_same
from .scan import scan
from .store import Damaged, Store

Answer = Dict[str, Any]

SHOWN = 5
DONE = ("applied", "in-sync", "not-proven")  # outcomes after which what the master had is here


def status(request: Answer) -> Answer:
    """accepted (the record), journal, lock, nginx, edited, refused, last, door, vrrp, recovery_unit and its result, history.

    Changes nothing.

    `nginx`: see running.state.
    `edited`: {count, paths (a few), unread} against accepted, null where nothing is accepted or its manifest is lost.
    `refused`: the runs since the last one that was applied: {count, since, at, run, outcome, code, lines}; null for none.
    Raises store.Damaged for the accepted record.
    """
    store = Store(request["state_dir"])
    accepted = store.accepted()
    settings = (accepted or {}).get("settings") or request.get("nginx") or running.of_the_only_one()
    return {
        "ok": True,
        "host": os.uname().nodename,
        "now": time.time(),
        "accepted": accepted,
        "journal": journal.describe(store.journal),
        "lock": store.holder("transaction"),
        "nginx": running.state(settings, place_of(request["state_dir"])),
        "edited": edited(store, accepted),
        "last": latest(store),
        "refused": refused(store),
        "door": door(store),
        "vrrp": in_vrrp(request["state_dir"]),
        "recovery_unit": unit.state(request["state_dir"]),
        "recovery_result": unit.result(),
        "history": {"folder": store.root, "runs": sum(1 for _ in store.answers())},
    }


def in_vrrp(state_dir: str) -> Optional[Answer]:
    """What this host is in VRRP (vrrp.state), by the VIPs that it was told of last; null where it never was."""
    known = role.read(state_dir)
    try:
        return vrrp.state(list(known["vips"]), state_dir) if known and known.get("vips") else None
    except (OSError, TypeError):
        return None


def latest(store: Store) -> Optional[Answer]:
    """The answer with the highest sequence number."""
    return max(store.answers(), key=_sequence, default=None)


def _sequence(answer: Answer) -> int:
    return int(answer.get("sequence", 0))


# the trees and the runs


def edited(store: Store, accepted: Optional[Answer]) -> Optional[Answer]:
    """What differs from accepted: somebody edited it here since."""
    if accepted is None:
        return None
    try:
        planned = store.accepted_manifest(accepted)
        found = scan(accepted["projection"], store.known())
    except (Damaged, OSError) as error:
        return {"count": None, "paths": [], "unread": [str(error)]}
    paths = differing(planned, found.manifest)
    return {"count": len(paths), "paths": paths[:SHOWN], "unread": found.unread[:SHOWN]}


def differing(a: Manifest, b: Manifest) -> List[str]:
    return sorted(path for path in {*a, *b} if not is_same(a.get(path), b.get(path)))


def refused(store: Store) -> Optional[Answer]:
    """The latest of the runs that brought nothing since the last that was applied, how many, and since when."""
    answers = sorted(store.answers(), key=_sequence, reverse=True)
    places = [place for place, answer in enumerate(answers) if answer.get("outcome") in DONE]
    failed = answers[: places[0] if places else len(answers)]
    if not failed:
        return None
    last = failed[0]
    lines = [problem.get("text", "") for problem in last.get("problems", [])] + list(last.get("lines", []))
    what = (last.get("message") or {}).get("what", "")
    return {
        "count": len(failed),
        "since": _kept_at(store, failed[-1]),
        "at": _kept_at(store, last),
        "run": last.get("run", ""),
        "outcome": last.get("outcome", ""),
        "code": last.get("code", ""),
        "lines": [line for line in [what] + lines if line][:SHOWN],
    }


def _kept_at(store: Store, answer: Answer) -> Optional[float]:
    try:
        return os.stat(store.path("runs", "%s.json" % answer.get("run", ""))).st_mtime
    except OSError:
        return None


def door(store: Store) -> Optional[Answer]:
    """Whom the restricted key's gate refused: how often since its log began, and the last line; null where it refused nobody."""
    try:
        with open(store.path("gate.log"), "r", errors="replace") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return None
    return {"count": len(lines), "last": lines[-1]} if lines else None

"""STATE/role.json: what this host is in VRRP, as far as anybody here has noticed; each change becomes one event.

keepalived's word comes twice, late or never, and the daemon looks by itself: both end here, under one lock, and only
what is new is told.
"""

import contextlib
import fcntl
import json
import os
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

from . import spool
from .store import write_durably

MASTER, BACKUP, FAULT, STOP = "master", "backup", "fault", "stop"
ROLES = (MASTER, BACKUP, FAULT, STOP)

Role = Dict[str, Any]
# what a host is at this moment; the parts as in `turn`
Found = NamedTuple("Found", [("role", str), ("tenure", str), ("told", bool), ("part", str)])


def read(state_dir: str) -> Optional[Role]:
    """{role, since, tenure, vips, instance, held}; None where nobody has noticed anything yet, or it is damaged.

    `held` is the tenure in which this host carried a VIP last, as far as was noticed; "" for never.
    """
    try:
        with open(_path(state_dir), "rb") as stream:
            found = dict(json.loads(stream.read().decode("ascii")))
        return found if found["role"] in ROLES and isinstance(found["since"], (int, float)) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def turn(
    state_dir: str, role: str, vips: List[str], tenure: str = "", instance: str = "", told: bool = False, part: str = ""
) -> Optional[Role]:
    """Note what this host is now. The event that was left in the spool where that is news, else None. Raises OSError.

    `told`: keepalived said so. Without its word a host that has no VIP is merely no master: `fault` and `stop` stand.
    A new tenure of a master is news too: it was somebody else's in between. `part` names that of those VIPs that are here,
    where not all are: it serves with them, and is no master.
    """
    return turn_as_found(state_dir, lambda: Found(role, tenure, told, part), vips, instance)


def turn_as_found(state_dir: str, look: Callable[[], Found], vips: List[str], instance: str = "") -> Optional[Role]:
    """As `turn`. It is looked under the lock: what was found before that was waited for may be over, and another have noted so."""
    with _locked(state_dir):
        role, tenure, told, part = look()
        known = read(state_dir)
        before = known["role"] if known else ""
        last = tenure or part or str((known or {}).get("held", ""))
        if not told and role == BACKUP and before in (FAULT, STOP):
            role = before
        if before == role and (role != MASTER or not tenure or known is None or known.get("tenure") in ("", tenure)):
            if known is not None and (last != known.get("held", "") or tenure not in ("", known.get("tenure"))):
                _write(state_dir, dict(known, tenure=tenure or known.get("tenure", ""), held=last))
            return None
        now = time.time()
        if told and role == MASTER and not (tenure or part):
            last = "told %.2f" % now  # which VIPs there are was not said; it served all the same
        noted = {"role": role, "since": now, "tenure": tenure, "vips": sorted(vips), "instance": instance, "held": last}
        if not before and role == BACKUP and not told:
            _write(state_dir, noted)
            return None  # the first look: nothing has changed
        event = {"kind": "role", "role": role, "before": before, "vips": sorted(vips), "instance": instance, "at": now}
        # the event first: who is killed between the two has it told twice, and not never
        try:
            left = spool.leave(state_dir, event)
        except OSError:
            _write(state_dir, noted)  # what must be known is known, also where nobody can be told
            raise
        try:
            _write(state_dir, noted)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)  # it is told once the disk lets it be noted
            raise
        return event


def last_tenure(state_dir: str) -> str:
    """When this host carried a VIP last, by the name of that tenure; "" for never, as far as anybody noticed."""
    return str((read(state_dir) or {}).get("held", ""))


def _path(state_dir: str) -> str:
    return os.path.join(state_dir, "role.json")


def _write(state_dir: str, role: Role) -> None:
    write_durably(_path(state_dir), json.dumps(role).encode("ascii"))


@contextlib.contextmanager
def _locked(state_dir: str) -> Iterator[None]:
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(state_dir, "role.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)

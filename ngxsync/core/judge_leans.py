"""What nginx leans on beside what a sync carries, judged from the facts of one host or of both. Pure.

An agent of an earlier release says less: what it does not say is not known, and not judged.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ngxsync.core.checkup import FAILED, OK, WARNING, Check
from ngxsync.core.outside import CERTBOT, trees_for
from ngxsync.core.wording import render_moment

Facts = Mapping[str, Any]
SHOWN = 5
DAY_S = 86400.0
SOON_DAYS, VERY_SOON_DAYS = 30, 14


# files that no sync carries


def judge_outside(
    host: str, master: Facts, peer: Facts, is_own: Callable[[str], bool] = lambda _path: False
) -> Iterator[Check]:
    """Files that the master's configuration names and no sync carries: there, the same, and readable (DESIGN 4: names and hashes only).

    `is_own(path)`: a person excluded it, so each host is to have its own.
    """
    name = "files outside the trees"
    wanted = {item["path"]: item for item in uncarried(master) if item["exists"]}
    known = {item["path"]: item for item in uncarried(peer)}
    missing = [path for path in wanted if path in known and not known[path]["exists"]]
    unknown = [path for path in wanted if path not in known]
    differing = [path for path in wanted if path in known and _differs(wanted[path], known[path])]
    other = [path for path in differing if not is_own(path)]
    if missing:
        yield Check(host, name, FAILED, f"{host} lacks {_shown(missing)}", _hint(host, missing, wanted))
    if other:
        told = f"{host} has others: {_shown([_aged(path, master, peer) for path in other])}"
        yield Check(host, name, WARNING, told, _hint(host, other, wanted))
    if unknown:
        told = f"whether {host} has them shows only when a sync is tested there: {_shown(unknown)}"
        yield Check(host, name, WARNING, told, _hint(host, unknown, wanted))
    if not (missing or other or unknown):
        told = f"{len(wanted)}, the same on both" if wanted else "none"
        told += f" but {_shown(differing)}, each host's own by `exclude`" if differing else ""
        yield Check(host, name, OK, told)
    yield from _judge_keys_apart(host, master, set(differing), wanted)


def uncarried(facts: Facts) -> list[Facts]:
    return [item for item in facts["nginx"].get("outside", ()) if not item.get("carried")]


def _judge_keys_apart(host: str, master: Facts, other: set[str], wanted: Mapping[str, Facts]) -> Iterator[Check]:
    """A sync brings the certificate, and the key beside it there is another one."""
    pairs = [each for each in master["nginx"].get("certificates", ()) if each["key"] in other]
    for each in [each for each in pairs if each["certificate"] not in wanted][:SHOWN]:
        told = f"a sync brings {each['certificate']}, and {each['key']} there is not its key ({_place(each)})"
        yield Check(host, "certificates", FAILED, told, _hint(host, [each["key"]], wanted))


def _differs(ours: Facts, theirs: Facts) -> bool:
    if ours["role"] == "module" or not theirs["exists"]:  # a module belongs to each host's own nginx
        return False
    return bool(ours["sha256"] and theirs["sha256"] and ours["sha256"] != theirs["sha256"])


def _aged(path: str, master: Facts, peer: Facts) -> str:
    """With "older" where a certificate ends before the master's does."""
    ours, theirs = (
        next(
            (each["not_after"] for each in facts["nginx"].get("certificates", ()) if each["certificate"] == path), None
        )
        for facts in (master, peer)
    )
    if ours is None or theirs is None or ours == theirs:
        return path
    return (
        f"{path} ({'older' if theirs < ours else 'newer'}: it ends {render_moment(theirs)}, here {render_moment(ours)})"
    )


def _shown(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(sorted(paths)[:SHOWN]) + more


def _hint(host: str, paths: Sequence[str], wanted: Mapping[str, Facts]) -> str:
    """What to do about these: by what keeps a sync from carrying them."""
    modules = [path for path in paths if wanted[path]["role"] == "module"]
    excluded = [path for path in paths if _is_excluded(wanted[path]) and path not in modules]
    rest = [wanted[path].get("link_leaves") or path for path in paths if path not in modules and path not in excluded]
    told = [f"install the same modules of nginx on {host}"] if modules else []
    if excluded:
        told.append(
            f"the excludes leave out {_shown(excluded)}: take them back with !PATTERN, or see to them on {host}"
        )
    return "; ".join([*told, *([carry_hint(rest)] if rest else [])])


def _is_excluded(item: Facts) -> bool:
    return bool(item.get("inside") and not item.get("link_leaves"))


def carry_hint(paths: Sequence[str]) -> str:
    """How these files get to the peer."""
    trees, left = trees_for(paths)
    told = [f"to sync them add to [sync] trees: {' and '.join(trees)}"] if trees else []
    if left:
        folders = sorted({posixpath.dirname(path) for path in left})
        told.append(f"see to those in {_shown(folders)} on each host, as its packages do")
    return "; ".join(told)


# who may read them


def judge_readable(host: str, facts: Facts) -> Check | None:
    """Each file by the user that has to: who starts nginx, or its workers. None where nobody said so."""
    items = [item for item in facts["nginx"].get("outside", ()) if "readable" in item]
    closed = [item for item in items if item["exists"] and not item["readable"]]
    name = "files that nginx reads"
    if not closed:
        return Check(host, name, OK, "readable by the users that need them") if items else None
    told = [f"{item['reader']} cannot read {item['path']} ({_place(item)}){_beyond(item)}" for item in closed[:SHOWN]]
    more = f"; and {len(closed) - SHOWN} more" if len(closed) > SHOWN else ""
    return Check(host, name, FAILED, "; ".join(told) + more, _open_hint(host, closed[0]))


def _beyond(item: Facts) -> str:
    blocked = item.get("blocked", "")
    return f": {blocked} keeps it out" if blocked and blocked != item["path"] else ""


def _open_hint(host: str, item: Facts) -> str:
    blocked = item.get("blocked") or item["path"]
    bit = "r" if blocked == item["path"] else "x"
    where = "on the master, for a sync takes owner and mode along" if item.get("carried") else f"on {host}"
    return f"{where}: let the group of {item['reader']} in: chgrp GROUP {blocked}; chmod g+{bit} {blocked}"


def _place(item: Facts) -> str:
    return f"{item['file']}:{item['line']}"


# certificates


def judge_certificates(host: str, facts: Facts, master: Facts | None = None) -> Iterator[Check]:
    """Key and certificate belong together, and it is good for a while yet, by this host's own clock. `master` is None for itself.

    What a sync replaces is a warning on a peer; and when the very certificate of the master ends is told of the master.
    """
    found = facts["nginx"].get("certificates")
    if found is None or not found:
        return
    now = float(facts["hello"]["now"])
    same = {each["fingerprint"] for each in master["nginx"].get("certificates", ())} if master else set()
    outside = {item["path"] for item in uncarried(facts)}
    checks: dict[Check, None] = {}
    for each in found:
        is_own = master is None or bool(outside & {each["certificate"], each["key"]})
        checks.update(dict.fromkeys(_judge_certificate(host, each, now, is_own, each["fingerprint"] in same)))
    first = min((each["not_after"] for each in found if each["not_after"] is not None), default=None)
    ends = "" if first is None else f", the first ends in {int((first - now) // DAY_S)} days"
    yield from list(checks)[: SHOWN * 4] or [Check(host, "certificates", OK, f"{len(found)}{ends}")]


def _judge_certificate(host: str, each: Facts, now: float, is_own: bool, is_same: bool) -> Iterator[Check]:
    name, path = "certificates", each["certificate"]
    bad = FAILED if is_own else WARNING
    replaced = "" if is_own else "; a sync brings the master's"
    if each["matches"] is False:
        hint = f"on {host}: put the key of that certificate there, then nginx -t{replaced}"
        yield Check(host, name, bad, f"{each['key']} is not the key of {path} ({_place(each)})", hint)
    elif each["why"]:
        yield Check(host, name, WARNING, f"{each['why']} ({_place(each)})", f"look at it on {host}{replaced}")
    if each["not_after"] is None or is_same:
        return
    left = each["not_after"] - now
    hint = f"renew it on {host}{replaced}"
    if left <= 0:
        told = f"{path} has expired, {render_moment(each['not_after'])} ({_place(each)})"
        yield Check(host, name, bad, told, hint)
    elif left < SOON_DAYS * DAY_S:
        word = "now" if left < VERY_SOON_DAYS * DAY_S else "soon"
        told = f"{path} expires in {int(left // DAY_S)} days ({_place(each)})"
        yield Check(host, name, WARNING, told, f"{hint}, {word}")


def judge_renewal(host: str, peer: Facts, trees: Sequence[str]) -> Check | None:
    """What renews certificates on a peer by itself; None where nothing does."""
    timers = [*peer.get("timers", ())]
    if not timers:
        return None
    told = f"{', '.join(timers[:SHOWN])} renews certificates there"
    if not any(tree == CERTBOT or tree.startswith(f"{CERTBOT}/") for tree in trees):
        return Check(host, "renewal", OK, told)
    units = " ".join(timer for timer in timers if timer.endswith(".timer"))
    hint = f"on {host}: " + (f"systemctl disable --now {units}" if units else f"take {', '.join(timers)} away")
    return Check(host, "renewal", WARNING, f"{told}, and the master's are synced: each sync undoes it", hint)


# names


def judge_names(host: str, facts: Facts, *, is_master: bool = False) -> Check | None:
    """Host names that nginx looks up when it starts, and that this host cannot resolve. None where nobody said so."""
    found = facts["nginx"].get("unresolved")
    if found is None:
        return None
    if not found:
        return Check(host, "host names", OK, "all that the configuration names resolve")
    told = "; ".join(f"{file}:{line}: {name} does not resolve" for name, file, line in found[:SHOWN])
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    hint = f"on {host}: getent hosts {found[0][0]}; see /etc/resolv.conf and /etc/hosts: nginx does not start without"
    return Check(host, "host names", WARNING if is_master else FAILED, told + more, hint)


def judge_leaning(host: str, facts: Facts, master: Facts | None = None) -> Iterator[Check]:
    """What one host's own facts say of all that. `master` is None for itself."""
    readable, names = judge_readable(host, facts), judge_names(host, facts, is_master=master is None)
    yield from [readable] if readable else []
    yield from judge_certificates(host, facts, master)
    yield from [names] if names else []

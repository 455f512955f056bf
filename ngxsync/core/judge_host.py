"""What the facts of one host (the agent's verb facts) say, as named checks. Pure: recorded facts in, findings out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ngxsync.agent.manifest import tree_of
from ngxsync.core.checkup import FAILED, OK, WARNING, Check
from ngxsync.core.wording import human_size

Facts = Mapping[str, Any]
LEAST_FREE = 16 << 20  # bytes, for records and journals


def judge_nginx(host: str, nginx: Facts, *, trees: tuple[str, ...], is_master: bool) -> Check:
    """Which nginx, with what arguments and configuration, running or not (TRANSACTION, which nginx)."""
    if not nginx["found"]:
        hint = "install nginx there, or set `binary` in [nginx]"
        told = f"{nginx['why']}; crossplane alone judges the configuration" if is_master else nginx["why"]
        return Check(host, "nginx", WARNING if is_master else FAILED, told, hint)
    words = " ".join([nginx["binary"], *nginx["args"]])
    told = f"{nginx['version']}, {words}, reads {nginx['conf']}"
    if nginx["problem"]:
        hint = "end one of them, or finish the upgrade: until then a sync is held"
        return Check(host, "nginx", FAILED, nginx["problem"], hint)
    if tree_of(nginx["conf"], list(trees)) is None:
        hint = f"set root and conf in [nginx], so that a tree holds it; the trees are {', '.join(trees)}"
        return Check(host, "nginx", FAILED, f"{told}, and that lies in no tree: no sync would change it", hint)
    if not nginx["conf_exists"] and not is_master:
        return Check(host, "nginx", WARNING, f"{told}, which is not there yet", "the first sync brings it")
    if not nginx["pid"]:
        hint = f"start nginx on {host}"
        ends = "" if is_master else "; a sync would end as not-proven"
        return Check(host, "nginx", WARNING, f"{told}; it does not run{ends}", hint)
    return Check(host, "nginx", OK, f"{told}, main process {nginx['pid']}")


def judge_configuration(host: str, facts: Facts, *, is_master: bool) -> Check:
    """`nginx -t` over what is on the disk now. The master's has to pass; the peer's may be what the first sync mends."""
    rehearsal = facts["rehearsal"]
    name = "nginx accepts its configuration"
    if not rehearsal["possible"]:
        return Check(host, name, WARNING, "not tried: no private view can be made")
    if rehearsal["passed"]:
        return Check(host, name, OK)
    errors = [problem for problem in rehearsal["problems"] if problem["level"] == "error"]
    told = "; ".join(_place(problem) + problem["text"] for problem in errors[:5])
    if is_master:
        return Check(host, name, FAILED, told, "mend it; `ngxsync validate` tries it again")
    if not facts["nginx"].get("conf_exists"):
        return Check(host, name, OK, "there is none yet")
    return Check(host, name, WARNING, told, f"{host} could not start nginx again as it is now; a sync replaces it")


def _place(problem: Facts) -> str:
    return f"{problem['file']}:{problem['line']}: " if problem["line"] else ""


def judge_key_files(host: str, nginx: Facts) -> Iterator[Check]:
    """Private keys of nginx that every user of the host can read; nothing where there is none."""
    keys = nginx.get("open_keys") or []
    if keys:
        told = f"every user of {host} can read {', '.join(keys[:5])}"
        hint = f"chmod o-rwx {' '.join(shlex.quote(key) for key in keys[:5])}; in a tree on the master: a sync takes it along"
        yield Check(host, "private keys of nginx", WARNING, told, hint)


def judge_rehearsal(host: str, facts: Facts, *, rehearse: str, is_master: bool = False) -> Check:
    """Whether `nginx -t` can run in a private view there (TRANSACTION, rehearse). To the master nothing is applied."""
    rehearsal = facts["rehearsal"]
    if rehearse == "live":
        told = "rehearse = live: a sync tests only after it has applied, and puts back what nginx refuses"
        if is_master:
            told = "rehearse = live: nginx -t runs in no view of its own, and may change owners of nginx's folders"
        hint = "take `rehearse` out of the configuration, the overlay works there" if rehearsal["possible"] else ""
        return Check(host, "rehearsal", WARNING, told, hint)
    if not facts["nginx"]["found"]:
        return Check(host, "rehearsal", FAILED, "there is no nginx to try it with", "install nginx there")
    if not rehearsal["possible"]:
        hint = "let the user that logs in there make one (root can), or set `rehearse = live`"
        return Check(host, "rehearsal", FAILED, rehearsal["why"], hint)
    return Check(host, "rehearsal", OK, "nginx -t runs in a private view, nothing else is touched")


def judge_selinux(host: str, enforce: str) -> Check:
    if enforce != "1":
        return Check(host, "SELinux", OK, "permissive" if enforce == "0" else "not there")
    told = "enforcing: a replaced file keeps its label, a new one gets that of the policy; labels are not compared"
    return Check(host, "SELinux", WARNING, told, f"after the first sync look on {host}: ausearch -m avc -ts recent")


def judge_trees(host: str, facts: Facts) -> Iterator[Check]:
    for tree, found in facts["trees"].items():
        if not found["exists"]:
            yield Check(host, "tree", WARNING, f"{tree} is not there yet", "the first sync makes it")
        elif not found["folder"]:
            yield Check(host, "tree", FAILED, f"{tree} is no directory", f"move it away on {host}")
        elif found["real"] != tree:
            yield Check(host, "tree", OK, f"{tree} is a link to {found['real']}, and followed")
        else:
            yield Check(host, "tree", OK, tree)


def judge_rights(host: str, facts: Facts, *, user: str, owners: bool) -> Check:
    """Trees and state folder writable; owners can be set by root alone, or do not count."""
    places = [*facts["trees"].items(), ("its records", facts["state"])]
    closed = [place for place, found in places if not found["writable"]]
    if closed:
        told = f"{user} cannot write {', '.join(closed)}"
        return Check(host, "rights", FAILED, told, f"log in as root, or give {user} these directories on {host}")
    if facts["hello"]["uid"] == 0:
        return Check(host, "rights", OK, f"{user} may write everything and set owners")
    if owners:
        hint = "log in as root to keep owners equal"
        return Check(host, "rights", FAILED, f"{user} may write, but not set owners, and owners count", hint)
    told = f"{user} may write; owners do not count, since only root can set them"
    return Check(host, "rights", OK, told)


def judge_space(host: str, facts: Facts, *, sizes: Mapping[str, tuple[int, int]]) -> Iterator[Check]:
    """`sizes` maps each tree to (bytes, entries) on the master: the stage may need as much again, and so may the store."""
    size, entries = (sum(part) for part in zip(*sizes.values(), strict=True)) if sizes else (0, 0)
    needs = [(tree, facts["trees"][tree], *sizes.get(tree, (0, 0))) for tree in facts["trees"]]
    for place, found, needed, inodes in [*needs, ("its records", facts["state"], size, entries)]:
        yield _judge_room(host, place, found, needed + LEAST_FREE, inodes)


def _judge_room(host: str, place: str, found: Facts, needed: int, inodes: int) -> Check:
    free, left = found["free"], found["free_inodes"]
    hint = f"make room there on {host}"
    if free is None:
        return Check(host, "space", WARNING, f"{place}: how much is free is not to be learnt", hint)
    told = f"{place}: {human_size(free)} free" + ("" if left is None else f", {left} inodes")
    if free < needed or (left is not None and left < inodes):
        wanted = f"; to send everything once takes {human_size(needed)} and {inodes} inodes"
        state = FAILED if free < LEAST_FREE or (left is not None and left < 100) else WARNING
        return Check(host, "space", state, told + wanted, hint)
    return Check(host, "space", OK, told)


def judge_recovery(host: str, facts: Facts) -> Check:
    """The unit that finishes or undoes at boot; without it P1 does not cover power loss (TRANSACTION, recovery)."""
    unit = str(facts["recovery_unit"])
    if unit == "installed":
        return Check(host, "recovery unit", OK, unit)
    if facts["accepted"] is None and unit.endswith("at the first sync as root") and facts["hello"]["uid"] == 0:
        return Check(host, "recovery unit", OK, "the first sync installs it")
    hint = f"after a power loss in the middle of a sync, run `ngxsync-agent recover` on {host} before nginx starts"
    return Check(host, "recovery unit", WARNING, unit, hint)


def judge_journal(host: str, facts: Facts) -> Check:
    """Whether a run is at work there, or was left unfinished."""
    lock, opened = facts["lock"], facts["journal"]
    if lock is not None:
        return Check(host, "unfinished run", OK, f"run {lock.get('run') or '(no name)'} is at work there now")
    if opened is not None and not opened["run"]:
        told = "the journal of an unfinished run is damaged: the trees there may be half old, half new"
        return Check(host, "unfinished run", FAILED, told, f"`ngxsync-agent recover` on {host} says what to do")
    if opened is not None:
        told = f"run {opened['run']} was left unfinished ({opened['phase']})"
        return Check(host, "unfinished run", WARNING, told, "the next `ngxsync sync` finishes or undoes it")
    return Check(host, "unfinished run", OK, "none")


def judge_accepted(host: str, facts: Facts) -> Check:
    """What was synced there last, and by whom."""
    accepted = facts["accepted"]
    if accepted is None:
        return Check(host, "accepted", OK, "nothing was synced there yet")
    proven = "proven" if accepted["proven"] else "not proven"
    return Check(host, "accepted", OK, f"{accepted['id'][:12]} from {accepted['written_by']}, {proven}")

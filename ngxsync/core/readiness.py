"""Would the peer serve the same if the VIP moved to it now? What was found on both hosts as reasons why not. Pure.

A reason makes a peer not ready; a warning is told, and leaves it ready. What is not known is a reason: readiness is
proven, or it is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ngxsync.core.checkup import FAILED, OK, WARNING, Check
from ngxsync.core.errors import Message
from ngxsync.core.model import Change
from ngxsync.core.plan import is_quiet
from ngxsync.core.wording import listed, render_moment

Facts = Mapping[str, Any]

NO_SYSTEMD = "no systemd"  # in the agent's word on the recovery unit
OLD_AGENT = "the agent there is of an earlier release, and does not say it"
# the causes of a change, the most serious first, as codes
CAUSES = {"conflict": "conflict", "drift": "drift", "first-contact": "first-contact", "pending": "pending"}


@dataclass(frozen=True)
class Reason:
    """Why a peer is not ready, or what else is to be known: a stable code, what, on which host, and what mends it."""

    code: str
    what: str
    where: str = ""
    next: str = ""


@dataclass(frozen=True)
class Findings:
    """What one look found. `running` maps a host's name to the state of its nginx (agent/running.py), where it is known."""

    reasons: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()

    @property
    def is_ready(self) -> bool:
        return not self.reasons

    def __add__(self, other: Findings) -> Findings:
        """Both, each reason once."""
        return Findings(
            tuple(dict.fromkeys((*self.reasons, *other.reasons))),
            tuple(dict.fromkeys((*self.warnings, *other.warnings))),
        )


def of_error(code: str, message: Message, host: str) -> Findings:
    """An error that ended a part of the look."""
    return Findings((Reason(code, message.what, host, message.next),))


# content


@dataclass(frozen=True)
class Content:
    """What a comparison says: who wrote the peer's record (yours, first-contact, generation), what differs, the record itself,
    its open journal; `held` is what the latest run says of why it left the difference, `held_next` what is to be done then."""

    standing: str
    changes: Sequence[Change]
    accepted: Facts | None
    journal: Facts | None
    held: str = ""
    broken: str = ""
    held_next: str = ""


def judge_content(peer: str, found: Content) -> Findings:
    """In sync by content: equal, accepted from this host, proven, nothing left open. Times of change do not matter."""
    return Findings(tuple(_content_reasons(peer, found)))


def _content_reasons(peer: str, found: Content) -> Iterator[Reason]:
    if found.broken:
        hint = f"log in on {peer} and run ngxsync-agent recover, then ngxsync sync"
        yield Reason("broken", f"an undo failed there: {found.broken}", peer, hint)
    if found.journal is not None:
        run = found.journal.get("run") or "(its journal is damaged)"
        hint = f"wait, or ngxsync sync --peer {peer}, which finishes or undoes it"
        yield Reason("journal", f"run {run} is at work there, or was left unfinished", peer, hint)
    accepted = found.accepted
    if found.standing == "generation" and accepted is not None:
        who = f"{accepted['written_by']} wrote there last (run {accepted['run']}), not this host"
        ways = f"ngxsync pull --peer {peer} --take peer, or ngxsync sync --peer {peer} --force generation"
        yield Reason("generation", who, peer, f"ngxsync diff --peer {peer}, then {ways}")
    elif found.standing != "yours":
        hint = f"ngxsync diff --peer {peer}, then ngxsync sync --peer {peer}"
        yield Reason("first-contact", "no snapshot was accepted there from this host yet", peer, hint)
    elif accepted is not None and not accepted["proven"]:
        hint = f"start nginx on {peer}, then ngxsync sync --peer {peer}"
        yield Reason("not-proven", "nginx there was never seen to run what was accepted", peer, hint)
    yield from _differences(peer, found)


def _differences(peer: str, found: Content) -> Iterator[Reason]:
    changes = [change for change in found.changes if not is_quiet(change)]
    if not changes:
        return
    causes = {change.cause for change in changes}
    code = next((word for cause, word in CAUSES.items() if cause in causes), "pending")
    if (found.accepted or {}).get("kind") == "rollback" and code == "pending":
        code = "rolled-back"
    number = len(changes)
    what = f"{number} path{'s differ' if number > 1 else ' differs'}: {listed([change.path for change in changes])}"
    hint = found.held_next or f"ngxsync diff --peer {peer}, then ngxsync sync --peer {peer}"
    yield Reason(code, f"{what}; {found.held}" if found.held else what, peer, hint)


# what nginx runs


def judge_running(host: str, facts: Facts) -> Findings:
    """nginx is up and runs what is on its disk: of the peer, and of the master too (DESIGN 5)."""
    found = facts.get("running")
    if found is None:
        if facts["nginx"].get("found") and not facts["nginx"].get("pid"):
            return Findings((Reason("nginx-down", "nginx does not run", host, f"start nginx on {host}"),))
        return Findings((Reason("nginx-unknown", f"what nginx runs is not known: {OLD_AGENT}", host, _anew(host)),))
    reason = running_reason(host, found)
    return Findings((reason,) if reason else (), tuple(_draining(host, found)))


def running_reason(host: str, found: Facts) -> Reason | None:
    """What is wrong with a state of agent/running.py; None where nothing is."""
    state, why = found["state"], found.get("why", "")
    if state == "running":
        return None
    if state == "down":
        return Reason(
            "nginx-down", "nginx does not run", host, f"start nginx on {host}: {found.get('start') or 'nginx'}"
        )
    if state != "stale":
        return Reason("nginx-unknown", f"what nginx runs is not known: {why}", host, f"look at nginx on {host}")
    changed = f", changed {render_moment(found['changed'])}" if found.get("changed") else ""
    what = f"nginx has not loaded {found.get('file') or 'its files'}{changed}"
    told = [why or what, f"its error log: {found['refused']}" if found.get("refused") else ""]
    needs_restart = found.get("needs_restart") or found.get("binary_replaced")
    hint = f"restart nginx on {host}" if needs_restart else f"on {host}: nginx -t, then nginx -s reload"
    return Reason("stale-running", "; ".join(filter(None, told)), host, hint)


DRAINING_S = 24 * 3600.0


def _draining(host: str, found: Facts) -> Iterator[Reason]:
    """Workers that pile up while they shut down serve what was, for as long as their connections last."""
    number, since = found.get("draining") or 0, found.get("draining_since")
    if number and since:
        what = f"{number} worker{'s' * (number > 1)} of nginx still shut down, since {render_moment(since)}"
        yield Reason("draining", what, host, "worker_shutdown_timeout ends long connections")


def _anew(host: str) -> str:
    return f"ngxsync peer install {host}, or ngxsync sync, which puts the new agent there"


# recovery, listens, what is leant on


def judge_recovery(host: str, facts: Facts) -> Findings:
    """The peer recovers at boot. Where there is no systemd nothing of ours can (docs/decisions): told, and no reason."""
    unit, result = str(facts["recovery_unit"]), str(facts.get("recovery_result") or "")
    if unit == "installed":
        if result in ("", "success"):
            return Findings()
        hint = f"on {host}: ngxsync-agent recover; journalctl -u ngxsync-recover"
        return Findings((Reason("recovery", f"the recovery at the latest boot failed ({result})", host, hint),))
    if NO_SYSTEMD in unit:
        hint = f"after a power loss in the middle of a sync: ngxsync-agent recover on {host}, before nginx starts"
        return Findings(warnings=(Reason("recovery", f"nothing recovers at boot: {unit}", host, hint),))
    hint = f"ngxsync peer install {host}, or ngxsync sync as root, with the usual state_dir"
    return Findings((Reason("recovery", f"nothing recovers at boot: {unit}", host, hint),))


def judge_listens(host: str, master: Facts, peer: Facts) -> Findings:
    """Each address that is listened on is the peer's own, may be bound before it is, or is bound by the nginx that runs there."""
    own = set(peer["addresses"])
    wanted = {address: (file, line) for address, file, line in master["nginx"].get("listens", ()) if address not in own}
    bound = {address for address, _, _ in peer["nginx"].get("listens", ())} if _has_loaded(peer) else set()
    reasons, warnings = [], []
    for address, (file, line) in wanted.items():
        name = "net.ipv6.ip_nonlocal_bind" if ":" in address else "net.ipv4.ip_nonlocal_bind"
        if peer["nonlocal_bind6" if ":" in address else "nonlocal_bind"] == "1":
            continue
        hint = f"on {host}: sysctl -w {name}=1, and in /etc/sysctl.d"
        if address in bound:
            what = f"nginx has {address} bound, and could not bind it again after a restart ({file}:{line})"
            warnings.append(Reason("listen", what, host, hint))
        else:
            what = f"nginx cannot listen on {address}, which is not an address of it now ({file}:{line})"
            reasons.append(Reason("listen", what, host, hint))
    return Findings(tuple(reasons), tuple(warnings))


def _has_loaded(facts: Facts) -> bool:
    return bool((facts.get("running") or {}).get("state") == "running")


def of_checks(checks: Iterable[Check]) -> Findings:
    """Findings of the judges of `check`: what failed is a reason, a warning stays one."""
    made = [
        (check.state, Reason(slug(check.name), f"{check.name}: {check.what}", check.host, check.hint))
        for check in checks
    ]
    return Findings(
        tuple(reason for state, reason in made if state == FAILED),
        tuple(reason for state, reason in made if state not in (FAILED, OK)),
    )


def slug(name: str) -> str:
    """A check's name as a code."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def sharper(checks: Iterable[Check]) -> Iterator[Check]:
    """As failures: for `check` a pair may live with these warnings, but then it does not serve the same."""
    for check in checks:
        yield replace(check, state=FAILED) if check.state == WARNING else check


# probes

MOST_PROBES = 20  # that are told one by one
ERRORS = {
    "refused": "connection refused",
    "timeout": "no answer in time",
    "closed": "closed without an answer",
    "tls": "no TLS",
    "unreachable": "cannot be connected to",
}


def judge_probes(master: str, peer: str, ours: Facts, theirs: Facts) -> Findings:
    """Each name on the peer's own address answers as the master does: the same status, for TLS the same certificate."""
    if theirs["why"] or ours["why"]:
        host, why = (peer, theirs["why"]) if theirs["why"] else (master, ours["why"])
        return Findings(
            (Reason("probe", f"its server names cannot be asked: {why}", host, f"look at nginx on {host}"),)
        )
    expected = {(name, each["listen"], each["tls"]): each for each in ours["probes"] for name in each["names"]}
    reasons = []
    for each in theirs["probes"]:
        for name in each["names"]:
            wanted = expected.get((name, each["listen"], each["tls"]))
            if wanted is not None and _answer(each) != _answer(wanted):
                reasons.append(_other_answer(master, peer, name, each, wanted))
    if len(reasons) > MOST_PROBES:
        more = f"{len(reasons) - MOST_PROBES} further names answer otherwise"
        reasons = [*reasons[:MOST_PROBES], Reason("probe", more, peer, reasons[0].next)]
    return Findings(tuple(reasons), tuple(_unprobed(peer, theirs)))


def _other_answer(master: str, peer: str, name: str, found: Facts, wanted: Facts) -> Reason:
    shown = f"{'https' if found['tls'] else 'http'}://{name or '(no name)'}:{found['port']}"
    what = f"{shown} answers {told(found)}, on {master} {told(wanted)}"
    if told(found) == told(wanted):
        what = f"{shown} shows another certificate than on {master}"
    return Reason("probe", what, peer, f"on {peer}: curl -kI --resolve, and look at nginx's error log")


def _unprobed(peer: str, found: Facts) -> Iterator[Reason]:
    if found["unprobed"]:
        texts = dict.fromkeys(f"{what} ({why})" for what, why in found["unprobed"])
        yield Reason("not-probed", f"not asked there: {listed(texts)}", peer)
    if found["left"]:
        yield Reason("not-probed", f"{found['left']} server names were not asked in the time that probes have", peer)


def _answer(probe: Facts) -> tuple[int, str, str]:
    return int(probe["status"]), str(probe["certificate"]), str(probe["error"])


def told(probe: Facts) -> str:
    """Its answer in words."""
    return ERRORS.get(probe["error"], str(probe["error"])) if probe["error"] else str(probe["status"])

"""From answers, holds and errors to results: outcome, exit status, and a message in four parts."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ngxsync.core import model
from ngxsync.core.config import PeerConfig
from ngxsync.core.errors import AgentFailed, Held, Locked, Message, NgxsyncError, PeerUnreachable
from ngxsync.core.guards import Hold
from ngxsync.core.model import PeerResult, Plan, Problem
from ngxsync.core.readiness import OLD_AGENT
from ngxsync.core.standing import PROMOTED
from ngxsync.core.wording import safe_name, short_id
from ngxsync.flow.interfaces import Comparison

if TYPE_CHECKING:
    from ngxsync.flow.host_run import HostRun

EXITS = {
    model.APPLIED: 0,
    model.IN_SYNC: 0,
    model.PENDING: 0,
    model.NOT_PROVEN: 1,
    model.UNREACHABLE: 4,
    model.REFUSED: 5,
    model.UNDONE: 6,
    model.BROKEN: 7,
    model.HELD: 8,
    model.STANDBY: 8,
}

# of what was made on a peer and has no base here: said beside what overwrites it
TAKE_HERE = "`ngxsync pull --take peer` takes here what it has; "

# failures of a transaction that are no verdict: planned and sent anew, at once or with back-off
TRY_AGAIN = ("peer-changed", "stage-differs", "abandoned")
TRANSIENT = (*TRY_AGAIN, "disk", "locked", "agent", "died", "protocol", "bug")


class Quarantine(NgxsyncError):
    """This snapshot was applied and undone on that peer: not tried again but once per schedule, or by a person."""

    exit_status = 6
    code = "quarantine"

    def __init__(self, peer: str, snapshot: str, why: str) -> None:
        what = f"snapshot {short_id(snapshot)} was applied there and undone: {why}"
        hint = "change the configuration, or try it again with `ngxsync sync`"
        super().__init__(Message(what, peer, f"{peer} runs what it ran before", hint))


class StillRefused(NgxsyncError):
    """This snapshot was refused in rehearsal; it is tried again with back-off and on schedule."""

    exit_status = 5
    code = "refused"

    def __init__(self, peer: str, snapshot: str, why: str) -> None:
        what = f"snapshot {short_id(snapshot)} was refused there: {why}"
        super().__init__(
            Message(
                what, peer, f"{peer} unchanged", "mend the cause; it is tried again by itself, or with `ngxsync sync`"
            )
        )


class Broken(NgxsyncError):
    """An undo on the peer failed: a person is needed."""

    exit_status = 7
    code = model.BROKEN


class StillBroken(Broken):
    """Nothing automatic until a person's sync or recover succeeds (TRANSACTION)."""

    def __init__(self, peer: str, why: str) -> None:
        hint = f"mend the cause, then run `ngxsync-agent recover` on {peer}, or `ngxsync sync` here"
        super().__init__(Message(why, peer, f"{peer} may be half old, half new; no automatic run touches it", hint))


def message_of(answer: Mapping[str, Any], peer: PeerConfig) -> Message:
    """An agent's message, with the host that it speaks of."""
    parts = answer.get("message") or {}
    where = f"{peer.user}@{peer.host}"
    path = str(parts.get("where") or "")
    state = str(parts.get("state") or "unchanged")
    # its "here" is that host, and this is the master: by another's word a person would type it on the wrong one
    hint = str(parts.get("next") or "").replace(
        "`ngxsync-agent recover` here", f"`ngxsync-agent recover` on {peer.name}"
    )
    return Message(
        str(parts.get("what") or answer.get("code")),
        f"{where}:{path}" if path else where,
        f"{peer.name} unchanged" if state == "unchanged" else f"{peer.name}: {state}",
        hint.replace("` on the master", "` here"),
    )


def result_of(run: HostRun, compared: Comparison, answer: Mapping[str, Any]) -> PeerResult:
    """The result of a transaction's answer. Raises NgxsyncError for failures that are no verdict, Held for holds."""
    peer = run.peer.config
    outcome, code = str(answer.get("outcome") or ""), str(answer["code"])
    warnings = (*answer.get("warnings", ()), *edited_warnings(answer))
    error = error_of(outcome, code, answer, peer)
    if error is not None:
        error.warnings = warnings
        raise error
    if answer["ok"] and answer["id"] != compared.snapshot.id:
        what = f"the agent speaks of snapshot {short_id(answer['id'])}, asked was {short_id(compared.snapshot.id)}"
        state, hint = f"what it did on {peer.name} is not known", f"`ngxsync diff`; look at what answers on {peer.name}"
        raise AgentFailed(Message(what, f"{peer.user}@{peer.host}", state, hint), code="answer")
    problems = tuple(Problem(p["text"], p["file"], p["line"], p["level"]) for p in answer.get("problems", ()))
    reload = "reloaded" if answer.get("reloaded") else "none" if outcome == model.NOT_PROVEN else "not-needed"
    timings = {
        **run.timings,
        **{f"peer-{step}": round(seconds, 4) for step, seconds in answer.get("timings", {}).items()},
    }
    run.timings.update(timings)
    return run.result(
        outcome,
        compared,
        code=code,
        exit=EXITS[outcome],
        accepted=compared.snapshot.id if answer["ok"] else (compared.accepted or {}).get("id", ""),
        problems=problems,
        warnings=warnings,
        reload=reload if answer["ok"] else "",
        message=verdict_message(outcome, code, answer, problems, peer),
    )


def error_of(outcome: str, code: str, answer: Mapping[str, Any], peer: PeerConfig) -> NgxsyncError | None:
    """What an answer without a verdict on the snapshot is raised as; None for a verdict."""
    if not answer["ok"] and (code in TRANSIENT or outcome not in EXITS):
        return TransactionFailed(message_of(answer, peer), code=code)
    if code == "recovered":
        return TransactionFailed(interrupted(peer), code="died")
    if outcome == model.HELD:
        return Held(message_of(answer, peer), code=code)
    return None


def edited_warnings(answer: Mapping[str, Any]) -> list[str]:
    """Each with the command that brings it back: what is read first may be all that is ever said of it."""
    run = answer.get("run")
    told = []
    for path in answer.get("edited", ()):
        back = f"; `ngxsync rollback {run} --path {shlex.quote(path)}` brings it back" if run else ""
        told.append(f"{path} was edited meanwhile: the edit is kept in the store there{back}")
    return told


def verdict_message(
    outcome: str, code: str, answer: Mapping[str, Any], problems: Sequence[Problem], peer: PeerConfig
) -> Message | None:
    name, where = peer.name, f"{peer.user}@{peer.host}"
    if outcome == model.REFUSED:
        errors = [p for p in problems if p.level == "error"] or [Problem("no reason was given")]
        # with `rehearse = live` it was asked only after applying, and the agent has said so
        is_put_back = "message" in answer
        return Message(
            f"nginx on {name} refused it{' after it was applied' if is_put_back else ''}: {errors[0]}",
            where,
            f"{name} runs what it ran before, its old files are back" if is_put_back else f"{name} unchanged",
            "mend the configuration, or what it leans on there",
        )
    if outcome == model.UNDONE:
        said = "; ".join(dict.fromkeys(answer.get("lines", ())))
        what = f"{answer.get('reason') or 'it was not proven'}{': ' + said if said else ''}"
        return Message(
            what,
            where,
            f"{name} runs what it ran before, its old files are back",
            "mend the cause, then `ngxsync sync`",
        )
    if outcome == model.BROKEN:
        return message_of(answer, peer)
    if outcome == model.NOT_PROVEN:
        why = "nginx does not run there" if code == "nginx-down" else "nginx did not prove to run it"
        return Message(
            f"applied, but {why}", where, f"{name} has the files", f"start nginx on {name}; the next run proves it"
        )
    return None


class Superseded(NgxsyncError):
    """A run that worked ahead was overtaken by an edit; nobody is told, a new one follows."""

    exit_status = 4
    code = "superseded"


class TransactionFailed(NgxsyncError):
    """The peer's transaction ended without a verdict, and undid what it had begun."""

    exit_status = 4
    code = "failed"


def failed(name: str, error: NgxsyncError, timings: Mapping[str, float], plan: Plan) -> PeerResult:
    """The result of a run that raised: held, refused earlier, unreachable, or failed in between."""
    words = {3: model.REFUSED, 5: model.REFUSED, 6: model.UNDONE, 7: model.BROKEN, 8: model.HELD, 9: model.HELD}
    outcome = words.get(error.exit_status, model.UNKNOWN)
    if error.code in (model.PAUSED, model.STANDBY):
        outcome = error.code
    elif error.code == "first-contact":
        outcome = model.FIRST_SYNC
    elif isinstance(error, PeerUnreachable):
        outcome = model.UNREACHABLE
    return PeerResult(
        name,
        outcome,
        error.code,
        error.exit_status,
        changes=plan.changes,
        message=error.message,
        problems=getattr(error, "problems", ()),
        warnings=error.warnings,
        timings=dict(timings),
    )


def held(holds: Sequence[Hold], warnings: tuple[str, ...]) -> Held:
    error = Held(joined(holds), code=holds[0].code)
    error.warnings = warnings
    return error


def joined(holds: Sequence[Hold]) -> Message:
    """One message of all holds: the first in full, the others by their reasons and codes."""
    first = holds[0].message
    if len(holds) == 1:
        return first
    others = "; ".join(f"{hold.message.what} [{hold.code}]" for hold in holds[1:])
    codes = " ".join(f"--force {hold.code}" for hold in holds)
    return Message(
        f"{first.what}; also: {others}",
        first.where,
        first.state,
        f"look with ngxsync diff; {_way_back(holds)}if all of it is meant: ngxsync sync {codes}",
    )


def _way_back(holds: Sequence[Hold]) -> str:
    """Where something of the peer's own would be overwritten, taking it here is the first thing to be said."""
    codes = {hold.code for hold in holds}
    if codes & {"generation", "first-contact"}:
        return TAKE_HERE
    return "to have here what was edited there: ngxsync pull; " if codes & {"drift", "conflict"} else ""


def vip_hold(compared: Comparison) -> Hold:
    """Whoever holds the VIP serves: it is not written to, whatever this host believes (TRANSACTION, who may write)."""
    peer = compared.peer.name
    if compared.carried is None:
        what = f"whether {peer} carries the VIP is not known: {OLD_AGENT}"
        return Hold("vip", Message(what, peer, f"{peer} unchanged", f"ngxsync peer install {peer}"))
    what = f"{peer} carries the VIP {', '.join(map(safe_name, compared.carried))}: what serves there is not changed from here"
    hint = (
        "where this host carries it too, they do not hear each other: `ngxsync keepalived check`; it goes on by itself"
    )
    return Hold("vip", Message(what, peer, f"{peer} unchanged", hint))


def generation_hold(compared: Comparison, peer: str) -> Hold:
    accepted = compared.accepted or {}
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(accepted["at"])))
    what = f"{accepted['written_by']} wrote there last (run {accepted['run']}, {when}), not this host's latest run"
    if accepted.get("kind") == PROMOTED:
        what = f"{peer} was promoted by a person ({when}): it is the one that pushes"
    hint = f"look at `ngxsync diff`; {TAKE_HERE}`ngxsync sync --force generation` overwrites it, where it is kept"
    if compared.adopt:  # equal, and nothing is taken over from a host that was promoted
        hint = "nothing to do: it takes this host over as its peer; `ngxsync promote` here turns the direction back"
    return Hold("generation", Message(what, peer, f"{peer} unchanged", hint))


def undirected_hold(compared: Comparison, peer: str, master: str) -> Hold:
    """Equal, without a VIP, and nobody said that this host pushes there."""
    if compared.accepted is None:
        what = f"{master} and {peer} are equal, and nobody has said yet which of them pushes"
        hint = "`ngxsync sync` on the one that shall push: the other one is on standby from then on"
        return Hold("first-contact", Message(what, peer, f"{peer} unchanged", hint))
    hold = generation_hold(compared, peer)
    hint = "nothing to do where that host pushes; `ngxsync promote` here makes this one push"
    return replace(hold, message=replace(hold.message, next=hint))


def first_contact_hold(peer: str, master: str) -> Hold:
    what = (
        f"{peer} has content, but {master} and {peer} have no accepted snapshot in common: which of the two is right?"
    )
    # this host may well be the one that is ahead: what it serves is not the first to be replaced
    hint = f"look at `ngxsync diff`; `ngxsync sync` makes it like this host; {TAKE_HERE}either keeps what it replaces"
    return Hold("first-contact", Message(what, peer, f"{peer} unchanged", hint))


def died(answer: Mapping[str, Any], peer: PeerConfig) -> TransactionFailed:
    return TransactionFailed(message_of(answer, peer), code="died")


def interrupted(peer: PeerConfig) -> Message:
    """Something ended the agent in the middle: no verdict on the snapshot."""
    return Message(
        "the agent was ended in the middle of its work, and what it had begun was undone",
        f"{peer.user}@{peer.host}",
        f"{peer.name} runs what it ran before, its old files are back",
        f"it is tried again; why it ended: `journalctl -e` on {peer.name}",
    )


def with_state(error: PeerUnreachable, verb: str, peer: str, open_run: str) -> PeerUnreachable:
    """What is true after a call that got no answer: what reads changes nothing, and what an earlier run began is not known."""
    state = error.message.state
    if verb == "transact" and error.code != "cut":
        return error  # this run's own, which nobody got
    if open_run:
        state = f"the outcome of run {open_run} on {peer} is not known yet: all of it or nothing"
    elif error.code == "cut" and verb in ("scan", "stage", "show"):
        state = f"{peer} unchanged"
    return PeerUnreachable(replace(error.message, state=state), code=error.code)


def failed_call(answer: Mapping[str, Any], peer: PeerConfig) -> NgxsyncError:
    """What an answer that is no verdict is raised as: another run is at work there, or the agent could not do it."""
    message, code = message_of(answer, peer), str(answer["code"])
    return Locked(message) if code == "locked" else AgentFailed(message, code=code)


def still_open(peer: PeerConfig) -> AgentFailed:
    what = "a run is still left half done there, though the agent said that it recovered it"
    hint = f"`ngxsync-agent status` on {peer.name} tells; then `ngxsync sync`"
    return AgentFailed(Message(what, f"{peer.user}@{peer.host}", "its trees may be half old, half new", hint))


def still_running(run: str, peer: PeerConfig) -> Message:
    hint = f"`ngxsync-agent status` on {peer.name} tells; the next run asks again"
    return Message(f"run {run} still works there", f"{peer.user}@{peer.host}", "its outcome is not known yet", hint)

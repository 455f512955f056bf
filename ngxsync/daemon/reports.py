"""What the daemon tells of a result: one line a run, and nothing where nothing is new."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from dataclasses import replace

from ngxsync.core import model
from ngxsync.core.following import FOLLOW, SOAK
from ngxsync.core.model import PeerResult, RunResult
from ngxsync.core.render import log_line
from ngxsync.core.wording import one_line
from ngxsync.flow.interfaces import Options, Prepared
from ngxsync.flow.pipeline import Pipeline

logger = logging.getLogger("ngxsync.daemon")

SERIOUS = (3, 5, 6, 7, 70)
VERDICTS = (model.REFUSED, model.UNDONE, model.BROKEN)
ABOUT_A_SNAPSHOT = (model.REFUSED, model.UNDONE, model.HELD)


def is_news(previous: PeerResult | None, result: PeerResult) -> bool:
    """Whether a person wants to read of it: something was done, or the word is another than before.

    An outage, a hold, a refusal are told once (of each snapshot), however often they are found again.
    """
    return result.outcome == model.APPLIED or previous is None or _topic(previous) != _topic(result)


def _topic(result: PeerResult) -> tuple[object, ...]:
    word = model.IN_SYNC if result.outcome == model.APPLIED else result.outcome
    # a refusal or an undo that is only remembered has another code, but nothing happened again
    code = "" if word in VERDICTS else result.code
    # why this host's own nginx does not let it go may become another reason meanwhile
    why = result.message.what if result.message is not None and result.code in (FOLLOW, SOAK) else ""
    return word, code, result.exit, result.snapshot if word in ABOUT_A_SNAPSHOT else "", why


def remembered(result: PeerResult) -> PeerResult:
    """What of a result is kept between runs: 10,000 changes are not."""
    return replace(result, changes=(), problems=(), timings={})


def log_peer(result: RunResult, peer: PeerResult) -> None:
    """The one line of a run on one peer."""
    fields = {"run": result.run, "peer": peer.name, "outcome": peer.outcome, "code": peer.code, "exit": peer.exit}
    details = {"trigger": result.trigger, "changes": len(peer.changes), "bytes_sent": peer.bytes_sent}
    fields |= {**details, "duration_s": result.duration_s, "timings": dict(peer.timings)}
    logger.log(_level(peer.exit), "%s", log_line(result, peer), extra={"fields": fields})
    for text in peer.warnings:
        logger.warning("%s", one_line(f"{peer.name}: {text}"), extra={"fields": {"run": result.run, "peer": peer.name}})


def log_master(result: RunResult) -> None:
    """A run that ended on this host."""
    message = result.message
    reasons = [str(problem) for problem in result.problems if problem.level == "error"][:1]
    if message:
        reasons.insert(0, message.what)
        reasons += [message.state] if message.state else []
    text = f"{result.outcome}{f' ({result.code})' if result.code else ''} [run {result.run}, {result.trigger}]"
    fields = {"run": result.run, "outcome": result.outcome, "code": result.code, "exit": result.exit}
    level = logging.INFO if result.outcome == model.STANDBY else _level(result.exit)
    logger.log(level, "%s", one_line(": ".join([text, *reasons])), extra={"fields": fields})


def _level(exit_status: int) -> int:
    if exit_status in SERIOUS:
        return logging.ERROR
    return logging.WARNING if exit_status else logging.INFO


class Tally:
    """One run over several peers, each at its own pace: the record is written when the last of them has ended.

    Safe to use from all their threads.
    """

    def __init__(self, pipeline: Pipeline, prepared: Prepared, options: Options, names: Collection[str]) -> None:
        self._pipeline, self._prepared, self._options = pipeline, prepared, options
        self._missing = set(names)
        self._results: dict[str, PeerResult] = {}
        self._is_news = False
        self._lock = threading.Lock()

    def add(self, result: PeerResult, *, started: float, is_news: bool) -> None:
        """A peer's result, told at once where it is news."""
        if is_news:
            log_peer(self._pipeline.result(self._prepared, (result,), self._options, started), result)
        with self._lock:
            self._results[result.name] = result
            self._is_news |= is_news
        self.leave_out(result.name, started=started)

    def leave_out(self, name: str, *, started: float) -> None:
        """A peer that has ended, or takes no part: a newer state was put before it."""
        with self._lock:
            self._missing.discard(name)
            is_over = not self._missing
            results = tuple(self._results.values()) if is_over else ()
            is_news = self._is_news
            self._results = {} if is_over else self._results
        if results and is_news:
            self._pipeline.record(self._pipeline.result(self._prepared, results, self._options, started), self._options)

"""One run on the peer: under its lock, after what an earlier one left open, its answer kept before it is given."""

import contextlib
import subprocess
import time
from typing import Any, Callable, Dict

from . import journal, staged, unit
from .answers import Abandoned, Failure
from .exchange import NotEmpty, PeerChanged, StageDiffers
from .failures import failure_of
from .journal import Damaged as JournalDamaged
from .oldagents import remove_old_agents
from .recovery import close, recover
from .room import room_warning
from .store import LOCK_WAIT_S, Busy, Damaged, Store
from .sweep import sweep
from .thin import thin
from .transaction import Answer, Transaction


def at_once() -> None:
    """Nothing to wait for."""


def transact(request: Dict[str, Any], store: Store, agent: str, wait_for_go: Callable[[], None] = at_once) -> Answer:
    """The answer (docs/architecture.md), kept as runs/RUN.json; asked again for the same run, the kept one. Raises Failure.

    The request was checked (request.raise_if_malformed).

    `wait_for_go` is called when all is tested and nothing begun; it may raise Abandoned.
    """
    try:
        store.prepare()
        with store.lock("transaction", request["run"], LOCK_WAIT_S, request["written_by"]):
            known = store.answer(request["run"])
            return known if known is not None else _recorded(Transaction(request, store, agent, wait_for_go), store)
    except (Busy, Damaged, JournalDamaged, OSError) as error:
        raise failure_of(error, store)


def _recorded(transaction: Transaction, store: Store) -> Answer:
    transaction.must_reload = settle_earlier(store)
    settled = store.answer(transaction.request["run"])
    if settled is not None:
        return settled  # it was this very run that was left open
    try:
        answer = dict(_answered(transaction, store), run=transaction.request["run"])
        _keep(answer, transaction, store)
    finally:
        staged.forget(store, transaction.request["run"])
        transaction.clean()
    return answer


def _keep(answer: Answer, transaction: Transaction, store: Store) -> None:
    """The answer first, then the end of the journal: else a crash in between loses the generation that the master waits for."""
    try:
        answer["sequence"] = store.next_sequence(answer.setdefault("warnings", []))
        store.keep_answer(answer["run"], answer)
        if transaction.is_settled:
            journal.end(store.journal)
    except OSError as error:
        answer.setdefault("warnings", []).append("the answer could not be recorded: %s" % error)
    if answer["ok"]:
        try:
            unit.install(transaction.request["state_dir"])
        except (OSError, subprocess.SubprocessError) as error:
            answer["warnings"].append("the unit that recovers at boot could not be put there: %s" % error)
        try:
            remove_old_agents(transaction.request["state_dir"], transaction.agent, store.journal, time.time())
        except (OSError, JournalDamaged) as error:
            answer["warnings"].append("agents of earlier releases could not be removed: %s" % error)
    _tidy(answer, transaction, store)


def _tidy(answer: Answer, transaction: Transaction, store: Store) -> None:
    """What need not be kept any more goes; where the store is getting full, `store` and a warning say so."""
    if answer["ok"] and transaction.base:
        with contextlib.suppress(OSError):  # only space is lost
            thin(store, transaction.replaced, transaction.base, answer["run"], transaction.planned)
    answer["warnings"] += sweep(store, transaction.keep, time.time())
    try:
        warning = room_warning(store, transaction.keep, transaction.expected_bytes)
    except OSError as error:
        warning = "the store could not be looked at: %s" % error
    if warning:
        answer["warnings"].append(warning)
        answer["store"] = warning


def settle_earlier(store: Store) -> bool:
    """Finish or undo what is open. True where nginx may still run something else than the trees hold. Raises Failure."""
    opened = journal.read(store.journal)
    answer = recover(store)
    if opened is None or answer is None or answer["outcome"] != "broken":
        return False
    if not answer["restored"]:
        raise Failure("broken", **{part: answer["message"][part] for part in ("what", "where", "state", "next")})
    close(store, opened)
    return True


def _answered(transaction: Transaction, store: Store) -> Answer:
    try:
        return transaction.run()
    except (Abandoned, Busy):
        raise  # nothing has begun, and nothing is kept: the same run may come once more
    except Failure as failure:
        answer = dict({"outcome": "held"}, **failure.answer())
    except PeerChanged as error:
        what = "%s is not what it was when the plan was made" % error.path
        answer = Failure("peer-changed", what, where=error.path, next="it is planned anew").answer()
    except StageDiffers as error:
        what = "%s did not arrive as planned: it changed on the master meanwhile" % error
        answer = Failure("stage-differs", what, next="it is scanned and sent again").answer()
    except NotEmpty as error:
        what = "%s would become something else, but there it still holds, or is, what no sync touches" % error.path
        hint = "move the excluded files, sockets or pipes away on this host, then sync again"
        answer = dict(Failure("type-change", what, where=error.path, next=hint).answer(), outcome="held")
    except (Damaged, JournalDamaged, OSError) as error:
        answer = failure_of(error, store, is_open=not transaction.is_settled).answer()
    answer["message"]["state"] = transaction.state
    answer.setdefault("outcome", "failed")
    return dict(answer, edited=transaction.edited, warnings=transaction.warnings, timings=transaction.timings)

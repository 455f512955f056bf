"""How the two hosts differ in what no sync makes equal, said once: before the first sync, and after one of them changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ngxsync.core.checkup import WARNING
from ngxsync.core.errors import NgxsyncError
from ngxsync.core.judge_parity import judge_parity, parity_digest
from ngxsync.flow import requests
from ngxsync.flow.comparison import FIRST_CONTACT
from ngxsync.flow.interfaces import Comparison

if TYPE_CHECKING:
    from ngxsync.flow.host_run import HostRun

FACTS_S = 30.0
Call = Callable[[str, dict[str, Any], float], Mapping[str, Any]]
Told = tuple[str, tuple[str, ...]]  # a digest of what was looked at, and the warnings


def before_first_sync(run: HostRun, compared: Comparison, call: Call) -> tuple[str, ...]:
    """Asked once, and remembered; later each look at the peer sees to it (flow/readiness.py). No run fails over it."""
    if compared.standing != FIRST_CONTACT or run.record.parity or run.options.dry_run:
        return ()
    request = {**requests.common(run.config, run.peer.config, run.projection), "rehearse": False}
    try:
        with ThreadPoolExecutor(max_workers=1) as pool:
            asked = pool.submit(run.master.ask, "facts", {"projection": request["projection"], "rehearse": False})
            theirs = call("facts", request, FACTS_S)
            ours = asked.result()
    except NgxsyncError:
        return ()
    if not ours["ok"]:
        return ()
    digest, unlike = parity_of(run.name, ours, theirs)
    run.record = replace(run.record, parity=digest)
    run.memory.save_peer(replace(run.memory.load_peer(run.name), parity=digest))
    return unlike


def parity_of(peer: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Told:
    """Of the facts of both."""
    found = (check for check in judge_parity(peer, ours, theirs) if check.state == WARNING)
    return parity_digest(ours, theirs), tuple(f"{check.name}: {check.what}; {check.hint}" for check in found)

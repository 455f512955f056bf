"""`ready`: one look at the master and at a peer, both asked at the same time; nothing changes anywhere.

What is asked: both scans (content), the verb facts of both, and the verb probe of both where its latest answers do not serve.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ngxsync.agent.manifest import PROTOCOL
from ngxsync.core import judge_leans, judge_parity, model
from ngxsync.core.carrying import Carrying, carrying_of, judge_vrrp
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import AgentFailed, Message, NgxsyncError, PeerUnreachable
from ngxsync.core.excludes import is_own_by, make_projection
from ngxsync.core.look import Look, Seen, joined, unreachable
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import RunResult
from ngxsync.core.readiness import (
    OLD_AGENT,
    Content,
    Facts,
    Findings,
    Reason,
    judge_content,
    judge_listens,
    judge_probes,
    judge_recovery,
    judge_running,
    of_checks,
    of_error,
    sharper,
)
from ngxsync.core.standing import STANDBY, Standing
from ngxsync.flow import requests
from ngxsync.flow.interfaces import Named, Options, Peer, Prepared, Validation
from ngxsync.flow.outcomes import message_of
from ngxsync.flow.parity import Told, parity_of
from ngxsync.flow.peer_run import PeerRun
from ngxsync.flow.pipeline import Pipeline

FACTS_S = 30.0
PROBE_S = 10.0  # for all names together
PROBES_S = 20.0  # until the answer is here
HELD = (model.HELD, model.REFUSED, model.UNDONE, model.BROKEN, model.PAUSED)
REACHED = (model.APPLIED, model.IN_SYNC, model.NOT_PROVEN)


@dataclass(frozen=True)
class Looked:
    """A peer, and what is known of it now; `before` is what was known until then. `is_kept`: it is remembered.

    `unlike` is how the hosts differ in what no sync makes equal, where one of them has changed in that since the last look.
    """

    name: str
    look: Look
    before: Look | None
    is_kept: bool = False
    unlike: tuple[str, ...] = ()


def request_of(config: Config, peer: PeerConfig | None) -> dict[str, Any]:
    """What facts and probe are asked with, beside who is asked."""
    projection = make_projection(config, peer, None, owners=False)
    vips = list(config.vrrp.addresses)
    return {"projection": projection.as_json(), "rehearse": False, "wait_s": PROBE_S, "vips": vips}


def known_names(records: Collection[PeerRecord]) -> Named | None:
    """What nginx writes itself, as it was when all these peers were synced; None where one never was.

    If the configuration names more since, it differs from the peers anyway: so it is not read for this.
    """
    if any(record.generation is None for record in records):
        return None
    first, *others = [record.self_excludes for record in records]
    common = {
        tree: tuple(pattern for pattern in patterns if all(pattern in other.get(tree, ()) for other in others))
        for tree, patterns in first.items()
    }
    return Named(self_excludes=common)


class Looking:
    """The questions of one look at several peers; those to the master are asked once."""

    def __init__(
        self,
        pipeline: Pipeline,
        pool: ThreadPoolExecutor,
        records: Collection[PeerRecord],
        begun: Callable[[], Facts] | None,
    ) -> None:
        self._pipeline, self._pool, self._records = pipeline, pool, records
        request = request_of(pipeline.config, None)
        self._facts = pool.submit(self._answer_of_master, begun or (lambda: pipeline.master.ask("facts", request)))
        self._probes: Future[Facts] | None = None
        self._prepared: Future[Prepared] | None = None

    def _scan(self) -> Prepared:
        named = known_names(self._records) or self._pipeline.master.named()
        return Prepared("ready", self._pipeline.scan(named, full=False), Validation(True), named)

    @staticmethod
    def _answer_of_master(ask: Callable[[], Facts]) -> Facts:
        answer = ask()
        if not answer["ok"]:
            raise NgxsyncError(Message(**answer["message"]), code=str(answer["code"]))
        return answer

    def master_probes(self) -> Future[Facts]:
        if self._probes is None:
            request = request_of(self._pipeline.config, None)
            self._probes = self._pool.submit(
                self._answer_of_master, lambda: self._pipeline.master.ask("probe", request)
            )
        return self._probes

    def prepared(self) -> Future[Prepared]:
        if self._prepared is None:
            self._prepared = self._pool.submit(self._scan)
        return self._prepared

    def begin(self, peer: Peer, record: PeerRecord, *, probe: bool, is_equal: bool) -> Callable[[], Seen]:
        """Asks; the result waits for the answers. `is_equal`: a run has just found or made both equal, so they are not scanned."""
        wants_probes = probe or needs_probes(record)
        ours = self.master_probes() if wants_probes else None
        facts = self._pool.submit(self._ask, peer, "facts", FACTS_S)
        theirs = self._pool.submit(self._probe, peer, facts) if wants_probes else None
        content = None if is_equal else self._pool.submit(self._compare, peer, record, self.prepared())

        def seen() -> Seen:
            name, master = peer.config.name, self._pipeline.master.name
            findings, generation = content.result() if content else (Findings(), record.generation or "")
            if findings.reasons and findings.reasons[0].code == "unreachable":
                ours_alone = of_vrrp(name, master, answer_of(self._facts, master), findings)[1]
                return Seen(time.time(), generation, findings, vrrp=ours_alone)
            found, running, (parity, unlike) = self._of_facts(peer.config, facts)
            more, vrrp = of_vrrp(name, master, answer_of(self._facts, master), answer_of(facts, name))
            more = of_record(self._pipeline.master.standing(), master) + more
            probes = None
            if ours is not None and theirs is not None:
                probes = of_answers(master, name, ours, theirs)
            found += of_pause(name, self._pipeline.memory.active_pause(name))
            if any(reason.code == STANDBY for reason in more.reasons):
                return Seen(time.time(), generation, more, None, running, parity, unlike, vrrp)
            return Seen(time.time(), generation, more + findings + found, probes, running, parity, unlike, vrrp)

        return seen

    def _ask(self, peer: Peer, verb: str, timeout_s: float) -> Facts:
        settings = requests.nginx_settings(self._pipeline.config, peer.config)
        common = {"protocol": PROTOCOL, "state_dir": peer.config.state_dir, "nginx": settings}
        answer = peer.call(verb, {**common, **request_of(self._pipeline.config, peer.config)}, timeout_s=timeout_s)
        if not answer["ok"]:
            raise AgentFailed(message_of(answer, peer.config), code=str(answer["code"]))
        return answer

    def _probe(self, peer: Peer, facts: Future[Facts]) -> Facts | None:
        """None where nobody answers there. An earlier agent is not asked: its gate would write down that it refused."""
        running = facts.result().get("running")
        if running is None:
            name = peer.config.name
            raise AgentFailed(Message(OLD_AGENT, name, f"{name} unchanged", f"ngxsync peer install {name}"))
        return None if running["state"] == "down" else self._ask(peer, "probe", PROBES_S)

    def _compare(self, peer: Peer, record: PeerRecord, scanned: Future[Prepared]) -> tuple[Findings, str]:
        """What differs, and the generation of what the peer accepted."""
        name, pipeline, known = peer.config.name, self._pipeline, record.generation or ""
        try:
            prepared = scanned.result()
            options = Options("ready", install=False, dry_run=True)
            compared = PeerRun(pipeline.config, pipeline.master, peer, pipeline.memory, prepared, options).compare()
        except PeerUnreachable as error:
            return of_error("unreachable", error.message, name), known
        except NgxsyncError as error:
            return of_error(error.code, error.message, name), known
        held = record.message if record.message and record.word in HELD else Message("")
        changes, accepted = compared.plan.changes, compared.accepted
        found = Content(compared.standing, changes, accepted, compared.journal, held.what, record.broken, held.next)
        return judge_content(name, found), str((accepted or {}).get("generation", ""))

    def _of_facts(self, peer: PeerConfig, asked: Future[Facts]) -> tuple[Findings, dict[str, Facts], Told]:
        name, master = peer.name, self._pipeline.master.name
        is_own = is_own_by(self._pipeline.config, peer)
        ours, theirs = answer_of(self._facts, master), answer_of(asked, name)
        found = Findings()
        running = {}
        told: Told = ("", ())
        for host, answer in ((master, ours), (name, theirs)):
            if isinstance(answer, Findings):
                found += answer
                continue
            found += judge_running(host, answer)
            if answer.get("running"):
                running[host] = answer["running"]
        if not isinstance(theirs, Findings):
            found += judge_recovery(name, theirs)
            if not isinstance(ours, Findings):
                found += judge_both(name, ours, theirs, is_own)
                told = parity_of(name, ours, theirs)
        return found, running, told


def of_vrrp(
    name: str, master: str, ours: Facts | Findings, theirs: Facts | Findings
) -> tuple[Findings, tuple[Carrying, ...]]:
    """Whether the VIP would come to that peer, and what both are."""
    now, answers = time.time(), {master: ours, name: theirs}
    found = {host: answer.get("vrrp") for host, answer in answers.items() if not isinstance(answer, Findings)}
    told = tuple(carrying_of(host, each, now) for host, each in found.items() if each)
    return judge_vrrp(master, name, found.get(master), found.get(name)), told


def of_record(standing: Standing, master: str) -> Findings:
    """Without a VIP: a host that is synced to is asked about the wrong way round."""
    message = None if standing.vips else standing.standby
    return of_error(STANDBY, message, master) if message else Findings()


def judge_both(name: str, master: Facts, peer: Facts, is_own: Callable[[str], bool]) -> Findings:
    """What the configuration leans on, and parity: the judges of `check`."""
    found = judge_listens(name, master, peer)
    if not (master["nginx"]["found"] and peer["nginx"]["found"]):
        return found
    checks = [
        *judge_parity.judge_parity(name, master, peer),
        *sharper(judge_leans.judge_outside(name, master, peer, is_own)),
        *judge_leans.judge_leaning(name, peer, master),
    ]
    return found + of_checks(checks)


def of_pause(peer: str, pause: model.Pause | None) -> Findings:
    """No automatic run: it stays ready for as long as nothing changes here."""
    if pause is None:
        return Findings()
    return Findings(warnings=(Reason("paused", f"paused by {pause.who}: {pause.reason}", peer, "ngxsync resume"),))


def answer_of(asked: Future[Facts], host: str) -> Facts | Findings:
    """The answer, or why there is none."""
    try:
        return asked.result()
    except NgxsyncError as error:
        return of_error(error.code, error.message, host)


def of_answers(master: str, peer: str, ours: Future[Facts], theirs: Future[Facts | None]) -> Findings | None:
    """What the probes of both say; None where there is nothing to be asked."""
    found: dict[str, Facts] = {}
    for host, asked in ((peer, theirs), (master, ours)):
        try:
            answer = asked.result()
        except NgxsyncError as error:
            what = f"its server names were not asked: {error.message.what}"
            return Findings((Reason("not-probed", what, host, error.message.next),))
        if answer is None:
            return None
        found[host] = answer
    return judge_probes(master, peer, found[master], found[peer])


def needs_probes(record: PeerRecord) -> bool:
    """Whether those that are remembered do not serve: none of this accepted snapshot, or they found something, which may be mended."""
    known = record.look.probed(record.generation or "") if record.look else None
    return known is None or bool(known.reasons)


def look(
    pipeline: Pipeline,
    peers: Collection[Peer],
    *,
    probe: bool = False,
    is_equal: bool = False,
    begun: Callable[[], Facts] | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
    wait_s: float = 0.0,
) -> list[Looked]:
    """Looks at these peers and remembers it, where that is still wanted then, and no run works there for `wait_s`.

    `begun` waits for the facts of this host, where they were asked for already. Raises StateError where this host's memory
    cannot be read.
    """
    records = {peer.config.name: pipeline.memory.load_peer(peer.config.name) for peer in peers}
    with ThreadPoolExecutor(max_workers=3 * len(records) + 3) as pool:
        looking = Looking(pipeline, pool, list(records.values()), begun)
        asked = {
            peer.config.name: looking.begin(peer, records[peer.config.name], probe=probe, is_equal=is_equal)
            for peer in peers
        }
        seen = {name: result() for name, result in asked.items()}
    return [remember(pipeline, records[name], found, is_wanted, wait_s) for name, found in seen.items()]


def look_after(pipeline: Pipeline, result: RunResult) -> None:
    """After a person's run: the peers that it reached and whose names were not asked since. What cannot be is for `ready` to say."""
    with suppress(NgxsyncError):
        reached = [pipeline.peers[peer.name] for peer in result.peers if peer.outcome in REACHED]
        wanting = [peer for peer in reached if needs_probes(pipeline.memory.load_peer(peer.config.name))]
        if wanting:
            look(pipeline, wanting, is_equal=True)


def remember(
    pipeline: Pipeline, record: PeerRecord, seen: Seen, is_wanted: Callable[[], bool], wait_s: float
) -> Looked:
    """Durably, unless a run has done something on that peer since, or is at work there for longer: its own look follows."""
    if record.generation is not None:
        with suppress(NgxsyncError), pipeline.memory.lock(record.name, wait_s):
            latest = pipeline.memory.load_peer(record.name)
            if is_wanted() and not has_moved_on(record, latest):
                made = made_of(seen, latest.look)
                pipeline.memory.save_peer(replace(latest, look=made, parity=seen.parity or latest.parity))
                return Looked(record.name, made, latest.look, is_kept=True, unlike=newly_unlike(latest, seen))
    return Looked(record.name, made_of(seen, record.look), record.look)


def has_moved_on(record: PeerRecord, latest: PeerRecord) -> bool:
    """Whether a run between these two did something there, or tried to."""
    is_quiet = latest.last_run == record.last_run or latest.last_outcome == model.IN_SYNC
    return latest.generation != record.generation or not is_quiet


def newly_unlike(latest: PeerRecord, seen: Seen) -> tuple[str, ...]:
    has_changed = latest.parity and seen.parity and latest.parity != seen.parity
    return seen.unlike if has_changed else ()


def made_of(seen: Seen, known: Look | None) -> Look:
    reasons = seen.findings.reasons
    if reasons and reasons[0].code == "unreachable":
        return unreachable(known, seen.at, reasons[0], seen.vrrp)
    return joined(seen, known)

"""Everything that works under one configuration: watcher, schedule, preparing loop, a worker for each peer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from ngxsync.agent.manifest import tree_of
from ngxsync.assembly import open_assembly
from ngxsync.core import model
from ngxsync.core.config import Config
from ngxsync.core.errors import NgxsyncError
from ngxsync.core.excludes import is_excluded, make_projection
from ngxsync.core.model import PeerStatus, Projection
from ngxsync.core.render import worst_first
from ngxsync.core.wording import one_line
from ngxsync.daemon.mailer import Mailer
from ngxsync.daemon.pauses import EndedPauses
from ngxsync.daemon.post import Knowledge, Post
from ngxsync.daemon.preparing import CHANGE, RESUME, RETRY, SCHEDULE, Preparer, for_peer
from ngxsync.daemon.reloads import Reloads
from ngxsync.daemon.reports import logger
from ngxsync.daemon.roles import Roles
from ngxsync.daemon.telling import Telling
from ngxsync.daemon.worker import Worker
from ngxsync.edges.schedule import Schedule, local_zone
from ngxsync.edges.spool import Spool
from ngxsync.edges.watch import Watcher
from ngxsync.flow.interfaces import Named, Prepared
from ngxsync.flow.triggers import TriggerQueue

# the longest time between two attempts, where check_every says no
RETRY_AT_LEAST_S = 600.0
CHECK = "check"


class Crew:
    """`told()` follows each result, from any thread. Raises ConfigError where the configuration names no other host."""

    def __init__(self, config: Config, told: Callable[[], None]) -> None:
        self._assembly = open_assembly(config)
        self.config = self._assembly.config
        self.queue = TriggerQueue()
        self._problems: tuple[str, ...] = ()
        self._telling, self.mailer = self._make_mailer()
        self._projection = self._project(None)
        longest_s = config.sync.check_every_s or RETRY_AT_LEAST_S
        pipeline = self._assembly.pipeline
        self.workers = {
            name: Worker(
                peer,
                pipeline,
                retry=lambda name: self.queue.put(for_peer(RETRY, name)),
                told=told,
                tell=self._telling.peer,
                tell_look=self._telling.look,
                jitter=random.random,
                retry_at_least_s=longest_s,
            )
            for name, peer in self._assembly.peers.items()
        }
        self.preparer = Preparer(
            pipeline,
            self.workers,
            self.queue,
            config.sync,
            learnt=self._learn,
            told=told,
            tell=self._telling.here,
            jitter=random.random,
            retry_at_least_s=longest_s,
        )
        master = self._assembly.master
        self._reloads = Reloads(master.nginx, self.queue.put) if config.sync.is_following else None
        self._roles = Roles(master.direction, self._turned) if master.direction.is_decided else None
        self._pauses = EndedPauses(self._assembly.state, self.workers)
        self._watcher = self._make_watcher()
        self._schedule = self._make_schedule()

    def _make_mailer(self) -> tuple[Telling, Mailer]:
        config, assembly = self.config, self._assembly
        spool, names = Spool(config.state_dir), tuple(assembly.peers)
        telling = Telling(spool, assembly.master.name, names)
        own = next((peer for peer in config.peers if peer.name not in names), None)
        knowledge = Knowledge(lambda: tuple(map(assembly.state.load_peer, names)), telling.lasting)
        mailer = Mailer(
            spool, Post(config, spool, assembly.master.name, own, knowledge), telling, config.mail.remind_every_s
        )
        telling.wake = mailer.wake
        return telling, mailer

    def _make_watcher(self) -> Watcher | None:
        if not self.config.sync.on_change:
            return None
        trees = [Path(tree) for tree in self.config.sync.trees]
        # lost events are an event: what came of them is found by the scan
        return Watcher(
            trees,
            lambda _reason: self.queue.put(CHANGE),
            canary_dir=self.config.state_dir / "master" / "watch",
            is_relevant=self._is_relevant,
        )

    def _make_schedule(self) -> Schedule | None:
        sync = self.config.sync
        jobs: dict[str, str | float] = {}
        if sync.check_every_s is not None:
            jobs[CHECK] = sync.check_every_s
        if sync.schedule is not None:
            jobs[SCHEDULE] = sync.schedule
        return Schedule(jobs, self.queue.put, local_zone()) if jobs else None

    def _project(self, named: Named | None) -> Projection:
        return make_projection(self.config, None, named.self_excludes if named else None)

    def _learn(self, prepared: Prepared) -> None:
        """What nginx writes itself (logs, caches) wakes nobody; what the peers wait for is looked for."""
        self._projection = self._project(prepared.named)
        if self._reloads:
            self._reloads.note(prepared.following)

    def _is_relevant(self, path: str) -> bool:
        rules = dict(self._projection.trees)
        tree = tree_of(path.rstrip("/"), list(rules))
        relative = path[len(tree) + 1 :] if tree else ""
        return not relative or not is_excluded(relative, rules[tree or ""])

    def start(self, trigger: str) -> None:
        """The first run is queued with this trigger, the watcher up before: no edit is lost between them."""
        self._install_agent()
        if self._watcher:
            self._watcher.start()
        if self._schedule:
            self._schedule.start()
        if self._reloads:
            self._reloads.start()
        if self._roles:
            self._roles.start()
        self._tell_problems()
        self._ended_pauses()  # what ended before is followed by this run
        self.queue.put(trigger)
        for worker in self.workers.values():
            worker.start()
        self.preparer.start()
        self.mailer.start()

    def _install_agent(self) -> None:
        """keepalived calls the agent of this host: to see whether nginx lives, and to say what this host is now."""
        if self.config.vrrp.vips:
            try:
                self._assembly.master.install_agent()
            except NgxsyncError as error:
                logger.warning("the agent could not be put here: %s", one_line(error.message.in_one_line))

    def check(self) -> bool:
        """Called every few seconds: mends what can be mended. True while watcher, schedule, preparing loop and all
        workers are alive. A watcher that the kernel gives nothing is told of: a daemon started anew would get no more.
        """
        # both are asked in any case, since asking mends
        watcher_is_well = self._watcher is None or self._watcher.check() or self._watcher.is_alive()
        schedule_is_well = self._schedule is None or self._schedule.check() or self._schedule.is_alive()
        self._tell_problems()
        self.preparer.check()
        for name in self._ended_pauses():  # by a person, or by its time
            self.queue.put(for_peer(RESUME, name))
        reloads_are_well = self._reloads is None or self._reloads.is_alive()
        roles_are_well = self._roles is None or self._roles.is_alive()
        at_work = [
            self.preparer.is_alive(),
            self.mailer.is_alive(),
            reloads_are_well,
            roles_are_well,
            *(worker.is_alive() for worker in self.workers.values()),
        ]
        return watcher_is_well and schedule_is_well and all(at_work)

    def wake(self) -> None:
        """Something happened on this host that no watcher sees: keepalived said so, or a person promoted it."""
        if self._roles:
            self._roles.wake()
        self.mailer.wake()

    def _turned(self, trigger: str) -> None:
        """The VIP came or went; people are told of it."""
        self.queue.put(trigger)
        self.mailer.wake()

    def _tell_problems(self) -> None:
        """Each problem of the watcher once, for as long as it lasts."""
        known, self._problems = self._problems, self._watcher.problems() if self._watcher else ()
        for text in self._problems:
            if text not in known:
                logger.warning("%s", one_line(text))

    def _ended_pauses(self) -> tuple[str, ...]:
        try:
            return self._pauses.look()
        except NgxsyncError:
            return ()  # the next run says so

    def status(self) -> str:
        """The worst word first, for `systemctl status`."""
        failure = self.preparer.failure
        if failure is not None:
            return one_line(f"{failure.outcome} here: {failure.message.what if failure.message else failure.code}")
        statuses = [
            PeerStatus(name, worker.latest.outcome if worker.latest else "starting", exit=_exit_of(worker))
            for name, worker in self.workers.items()
        ]
        words: dict[str, list[str]] = {}
        for peer in worst_first(statuses):
            words.setdefault(model.IN_SYNC if peer.word == model.APPLIED else peer.word, []).append(peer.name)
        return "; ".join(f"{word}: {', '.join(names)}" for word, names in words.items())

    def stop(self) -> None:
        """Nothing new begins; what is under way goes on, see `is_committed`. Does not wait."""
        if self._watcher:
            self._watcher.stop()
        if self._schedule:
            self._schedule.stop()
        if self._reloads:
            self._reloads.stop()
        if self._roles:
            self._roles.stop()
        for worker in self.workers.values():
            worker.stop()
        self.preparer.stop()
        self.mailer.stop()

    def is_committed(self) -> bool:
        """After `stop`: a peer is in its transaction, and its answer is still to come."""
        return any(worker.is_committed for worker in self.workers.values())

    def close(self) -> None:
        """Ends all connections."""
        self._assembly.close()


def _exit_of(worker: Worker) -> int:
    return worker.latest.exit if worker.latest else 0

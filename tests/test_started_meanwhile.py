"""nginx that comes or goes while a run waits for its turn: the run reloads the one that is there, never the one that was."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ngxsync.agent import journal
from ngxsync.agent.starter import is_left_open
from ngxsync.agent.store import Store
from tests.agent import STATE, Agent
from tests.hosts import Host, wait_until
from tests.pair import ROOT, Pair, manifest_of, write_tree
from tests.resident import Resident, by_hand, served, site
from tests.test_cuts import PROBE, Probe
from tests.test_proof import HERE, started


@pytest.fixture
def agent(pair: Pair) -> Agent:
    """A run was accepted."""
    agent = Agent(pair.web2)
    assert agent.transact(agent.plan({"conf/vhosts/b.conf": "# b\n"}))["outcome"] == "applied"
    return agent


@contextmanager
def waiting_run(agent: Agent, request: dict[str, Any]) -> Iterator[Any]:
    """It is prepared, and waits since somebody has the lock that a start of nginx has. Yields (its answer, who lets it go on)."""
    with (
        open(agent.host.path(f"{STATE}/peer/mixed.lock"), "rb") as lock,
        started(lambda: agent.transact(request)) as answer,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        prep = agent.host.path(f"{ROOT}/.ngxsync/{request['run']}/prep/0")
        wait_until(prep.exists, "it is prepared")
        yield answer, lambda: fcntl.flock(lock, fcntl.LOCK_UN)


def start(host: Host) -> None:
    host.path(f"{ROOT}/logs/nginx.pid").unlink(missing_ok=True)
    host.start_nginx()


@pytest.mark.parametrize("was", ["dead", "another one"])
def test_started_while_a_run_waits(was: str, pair: Pair, agent: Agent) -> None:
    """check-nginx starts it, with the old files; the run that waited for that start has it read the new ones."""
    host = pair.web2
    if was == "dead":
        host.stop_nginx()
    with waiting_run(agent, agent.plan({"conf/vhosts/a.conf": HERE})) as (answer, let_go_on):
        host.stop_nginx()
        start(host)
        let_go_on()
        found = answer.result()
    assert (found["outcome"], found["code"], found["proven"]) == ("applied", "", True), found
    assert host.get("/", port=81)[0] == 200


def test_started_anew_while_it_is_proven(pair: Pair, agent: Agent) -> None:
    """It dies of something, and check-nginx starts it, with the new files; what is put back it has to read."""
    host, before = pair.web2, manifest_of(pair.web2)
    agent.settings["probe"] = PROBE
    probe = Probe(host)
    with started(lambda: agent.transact(agent.plan({"conf/vhosts/a.conf": HERE}))) as answer:
        asked = probe.wait()
        host.stop_nginx()
        start(host)
        probe.close()
        probe.answer(asked, "500 no")
        found = answer.result()
    assert (found["outcome"], manifest_of(host)) == ("undone", before), found
    with pytest.raises(OSError, match="refused"):
        host.get("/", port=81)


def test_a_start_that_takes_long_holds_a_run_up_no_longer_than_that(pair: Pair, agent: Agent) -> None:
    """The same run asked for once more is not told for ever what was in its way the first time."""
    request = agent.plan({"conf/vhosts/a.conf": HERE})
    with waiting_run(agent, request) as (answer, let_go_on):
        assert answer.result()["code"] == "locked"
        let_go_on()
    again = agent.plan({"conf/vhosts/a.conf": HERE}, run=request["run"])
    assert agent.transact(again)["outcome"] == "applied"
    assert pair.web2.get("/", port=81)[0] == 200


def test_a_sync_waits_for_a_start_that_takes_long(synced: Resident) -> None:
    pair = synced.pair
    write_tree(pair.web1, ROOT, site("edited"))
    with open(pair.web2.path(f"{STATE}/peer/mixed.lock"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        releasing = threading.Timer(7.0, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        releasing.start()
        run = by_hand(pair)
        releasing.join()
    assert (run.exit, run.outcome) == (0, "applied"), run
    assert served(pair.web2) == "edited"


@pytest.mark.parametrize("end", ["done", "killed"])
def test_a_run_that_ends_while_it_is_looked_at_has_left_nothing_open(end: str, tmp_path: Path) -> None:
    """Between a look at its journal and one at its lock: nginx is started all the same. One that was killed did leave it."""

    class Met(Store):
        def holder(self, name: str) -> dict[str, Any] | None:
            if end == "done":
                os.unlink(self.journal)
            run.close()
            return super().holder(name)

    store = Met(str(tmp_path))
    store.prepare()
    header = {"run": "00000007-ab", "agent": "", "nginx": {}, "projection": {}, "at": 0.0}
    with ExitStack() as run:
        run.enter_context(store.lock("transaction", "00000007-ab"))
        journal.begin(store.journal, header, [])
        assert is_left_open(store) is (end == "killed")

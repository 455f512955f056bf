"""Fixtures of all tests: `pair`, two real hosts in a known state; `unmet` and `synced`, the pipeline over it."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.pair import Pair
from tests.resident import Resident, resident


def pytest_configure() -> None:
    """Where the tests run in the background of a shell, Ctrl-C is ignored, and every command of theirs would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# files that take long, the longest first: begun last, one of them would keep a single process busy while all others are done.
# What mostly waits (for keepalived, a boot, a soak) is among the first, since it leaves the processor to others.
LONG = [
    "takeover",
    "failover",
    "peer_install",
    "daemon",
    "sync_commands",
    "pair_in_containers",
    "rollback",
    "boot",
    "as_printed",
    "following",
    "sweep",
    "door_on_the_pair",
    "secrets",
    "untrusted",
    "two_at_once",
    "init",
    "apply",
    "pull_on_the_pair",
    "recovery",
    "matrix",
    "guards_on_the_pair",
    "check",
    "direction",
    "broken",
    "demo",
    "cuts",
    "corners",
    "service_container",
    "receiver",
    "storm",
    "power_loss",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `--no-loadscope-reorder`; within a file the order stays."""
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


# a busy machine draws slowly: that says nothing of a law
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def running_pair() -> Iterator[Pair]:
    """The two hosts of this test session, started once."""
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture
def pair(running_pair: Pair) -> Pair:
    """web1 and web2 in the base state: equal trees, nginx running on both, ngxsync configured, no sync yet."""
    running_pair.reset()
    return running_pair


@pytest.fixture(scope="module")
def running_trio() -> Iterator[Pair]:
    """The same with a third host, for the few files that want one."""
    trio = Pair(3)
    yield trio
    trio.close()


@pytest.fixture
def unmet(pair: Pair) -> Iterator[Resident]:
    """The pipeline as the daemon keeps it, over a pair that never met."""
    with resident(pair) as process:
        yield process


@pytest.fixture
def synced(pair: Pair) -> Iterator[Resident]:
    """The same after its first run, which is really made for the first test of a session alone."""
    if pair.has_kept:
        pair.bring_synced()
    with resident(pair) as process:
        if not pair.has_kept:
            assert process.sync().exit == 0
            pair.keep_synced()
        yield process


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test of the pair also shows what its nginx processes said."""
    report = yield
    used = getattr(item, "funcargs", {}).get("pair")
    if report.failed and isinstance(used, Pair):
        for host in used.hosts:
            report.sections.append((f"error log of {host.name}", "\n".join(host.error_log().splitlines()[-30:])))
    return report

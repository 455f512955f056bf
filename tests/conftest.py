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


@pytest.fixture
def unmet(pair: Pair) -> Iterator[Resident]:
    """The pipeline as the daemon keeps it, over a pair that never met."""
    with resident(pair) as process:
        yield process


@pytest.fixture
def synced(unmet: Resident) -> Resident:
    """The same after its first run."""
    assert unmet.sync().exit == 0
    return unmet


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test of the pair also shows what its nginx processes said."""
    report = yield
    used = getattr(item, "funcargs", {}).get("pair")
    if report.failed and isinstance(used, Pair):
        for host in used.hosts:
            report.sections.append((f"error log of {host.name}", "\n".join(host.error_log().splitlines()[-30:])))
    return report

"""The one sudo rule: what visudo takes, what sudo then allows, and nothing beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ngxsync.agent import sudorule
from ngxsync.agent.answers import Failure
from ngxsync.agent.door import _sudo_step
from tests.host import Host
from tests.pair import Pair

STATE = "/var/lib/ngxsync"
ODD = [
    "/srv/a b",
    "/srv/a,b",
    "/srv/c:d",
    "/srv/x[1-9]",
    "/srv/*",
    "/srv/?",
    "/srv/back\\slash",
    '/srv/"q"',
    "/srv/#",
    "/srv/ü",
]


ONE, TWO = "1" * 64, "2" * 64  # fingerprints


def gate(state: str, key: str = ONE) -> list[str]:
    return ["/usr/bin/python3", "-I", "-S", f"{state}/agent/current", "gate", key]


@pytest.fixture
def host(pair: Pair) -> Iterator[Host]:
    web2 = pair.web2
    for name in ("deploy", "other.one"):
        web2.run(["useradd", "--badname", name], check=False)
    yield web2
    web2.path(sudorule.PATH).unlink(missing_ok=True)
    for name in ("deploy", "other.one"):
        web2.run(["userdel", name])


def put(host: Host, text: str) -> None:
    file = host.path(sudorule.PATH)
    file.unlink(missing_ok=True)
    file.write_text(text)
    file.chmod(0o440)
    host.run(["visudo", "-c"])


def may(host: Host, user: str, argv: list[str]) -> bool:
    """Whether sudo would let the user run exactly this as root, without a password."""
    return host.run(["sudo", "-n", "-l", "-U", user, *argv], check=False).returncode == 0


def test_of_two_that_are_put_there_at_once_none_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two administrators, each at a master of his own; while a third takes away what was there before."""
    monkeypatch.setattr(sudorule, "PATH", str(tmp_path / "ngxsync"))
    monkeypatch.setattr(sudorule, "UNFINISHED", str(tmp_path / ".ngxsync.new"))
    gates = [gate(STATE, digit * 64) for digit in "123456"]
    sudorule.change(lambda text: sudorule.with_rule(text, "deploy", 1001, gates[0]))

    def put_there(argv: list[str]) -> None:
        sudorule.change(lambda text: sudorule.with_rule(text, "deploy", 1001, argv))

    threads = [threading.Thread(target=put_there, args=(argv,)) for argv in gates[1:]]
    threads.append(
        threading.Thread(target=lambda: sudorule.change(lambda text: sudorule.without_rule(text, 1001, {gates[0][-1]})))
    )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sudorule.commands_in(sudorule.rules_in(sudorule.read())[1001]) == gates[1:]


def test_two_doors_that_are_planned_at_once_both_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sudorule, "PATH", str(tmp_path / "ngxsync"))
    monkeypatch.setattr(sudorule, "UNFINISHED", str(tmp_path / ".ngxsync.new"))
    account = SimpleNamespace(pw_uid=1001)
    doors: list[Any] = [SimpleNamespace(user="deploy", account=account, gate=gate(STATE, key)) for key in (ONE, TWO)]
    for step in [_sudo_step(door) for door in doors]:
        assert step.work is not None
        step.work()
    assert sudorule.commands_in(sudorule.rules_in(sudorule.read())[1001]) == [door.gate for door in doors]


def test_exactly_the_one_command_line_is_allowed(host: Host) -> None:
    put(host, sudorule.with_rule("", "deploy", 1001, gate(STATE)))
    assert may(host, "deploy", gate(STATE))
    for other in (
        [*gate(STATE), "more"],
        gate(STATE)[:-1],
        gate(STATE)[:-2],
        gate(STATE, TWO),
        [*gate(STATE)[:-2], "recover"],
        gate(f"{STATE}/agent/current/x"),
        ["/usr/bin/python3", "-c", "1"],
        ["/usr/bin/python3"],
        ["/bin/sh"],
    ):
        assert not may(host, "deploy", other), other
    assert not may(host, "other.one", gate(STATE))


@pytest.mark.parametrize("state", ODD)
def test_a_path_that_sudo_could_take_for_another_makes_no_rule(state: str) -> None:
    with pytest.raises(Failure) as told:
        sudorule.with_rule("", "deploy", 1001, gate(state))
    assert told.value.message["where"] == f"{state}/agent/current"


def test_two_users_and_one_goes(host: Host) -> None:
    both = sudorule.with_rule(sudorule.with_rule("", "deploy", 1001, gate("/srv/a")), "other.one", 1002, gate("/srv/b"))
    assert sudorule.with_rule(both, "deploy", 1001, gate("/srv/a")) == both
    put(host, both)
    assert may(host, "deploy", gate("/srv/a"))
    assert may(host, "other.one", gate("/srv/b"))
    assert not may(host, "deploy", gate("/srv/b"))
    left = sudorule.without_rule(both, 1001)
    put(host, left)
    assert not may(host, "deploy", gate("/srv/a"))
    assert may(host, "other.one", gate("/srv/b"))
    assert sudorule.without_rule(left, 1002) == ""


def test_two_keys_of_one_user_and_one_goes(host: Host) -> None:
    """Also where their masters keep their state in different folders here."""
    both = sudorule.with_rule(
        sudorule.with_rule("", "deploy", 1001, gate("/srv/a")), "deploy", 1001, gate("/srv/b", TWO)
    )
    put(host, both)
    assert may(host, "deploy", gate("/srv/a"))
    assert may(host, "deploy", gate("/srv/b", TWO))
    assert not may(host, "deploy", gate("/srv/a", TWO))
    assert not may(host, "deploy", [*gate("/srv/a"), *gate("/srv/b", TWO)])
    moved = sudorule.with_rule(both, "deploy", 1001, gate("/srv/c"))
    put(host, moved)
    assert [may(host, "deploy", gate(f"/srv/{name}")) for name in "ac"] == [False, True]
    left = sudorule.without_rule(both, 1001, {ONE})
    assert left == sudorule.with_rule("", "deploy", 1001, gate("/srv/b", TWO))
    put(host, left)
    assert not may(host, "deploy", gate("/srv/a"))
    assert may(host, "deploy", gate("/srv/b", TWO))
    assert sudorule.without_rule(left, 1001, {TWO}) == ""
    assert sudorule.without_rule(both, 1001) == ""


@pytest.mark.parametrize("user", ["deploy", "DOM\\deploy", "deploy@example.org", "with space", "a,b", "100%"])
def test_any_name_of_a_user_is_a_word_for_visudo(host: Host, user: str) -> None:
    put(host, sudorule.with_rule("", user, 1001, gate("/srv/a")))

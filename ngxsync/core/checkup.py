"""The named checks of `check`, barman's manner: host, name, OK or WARNING or FAILED, what was found, and a hint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ngxsync.core.errors import Message
from ngxsync.core.wording import safe_text

OK, WARNING, FAILED = "OK", "WARNING", "FAILED"


@dataclass(frozen=True)
class Check:
    """One finding. `host` is whose it is, `hint` what mends it ("" where nothing has to be done)."""

    host: str
    name: str
    state: str
    what: str = ""
    hint: str = ""


def has_failed(checks: Iterable[Check]) -> bool:
    return any(check.state == FAILED for check in checks)


def check_of_message(host: str, name: str, message: Message, state: str = FAILED) -> Check:
    """An error as a finding; where it happened is part of what was found."""
    where = f"{message.where}: " if message.where and message.where != host else ""
    return Check(host, name, state, where + message.what, message.next)


def render_checks(checks: Sequence[Check], *, only_trouble: bool = False) -> list[str]:
    """One block a host, in the order of the checks."""
    lines: list[str] = []
    for host in dict.fromkeys(check.host for check in checks):
        own = [check for check in checks if check.host == host and not (only_trouble and check.state == OK)]
        lines += [host, *(line for check in own for line in _check_lines(check))] if own else []
    return lines


def _check_lines(check: Check) -> list[str]:
    what = f" ({safe_text(check.what, '      ')})" if check.what else ""
    hint = [f"    hint: {safe_text(check.hint, '      ')}"] if check.hint else []
    return [f"  {check.name}: {check.state}{what}", *hint]


def render_summary(checks: Sequence[Check]) -> str:
    """One sentence: "24 checks: 22 OK, 2 warnings"."""
    counts = [(state, sum(check.state == state for check in checks)) for state in (FAILED, WARNING, OK)]
    words = {FAILED: "failed", OK: "OK"}
    told = [
        f"{number} {words.get(state, 'warning' if number == 1 else 'warnings')}" for state, number in counts if number
    ]
    return f"{len(checks)} checks: {', '.join(told)}"


def json_checks(checks: Sequence[Check], peers: Sequence[str]) -> dict[str, Any]:
    """The JSON contract of DESIGN 6, with all checks of a peer beside it and those of this host in `checks`."""
    return {
        "schema": 1,
        "command": "check",
        "run": "",
        "outcome": _outcome(checks),
        "code": _code(checks),
        "exit": int(has_failed(checks)),
        "peers": [_json_peer(name, [check for check in checks if check.host == name]) for name in peers],
        "checks": [asdict(check) for check in checks if check.host not in peers],
    }


def _json_peer(name: str, checks: Sequence[Check]) -> dict[str, Any]:
    return {
        "name": name,
        "outcome": _outcome(checks),
        "code": _code(checks),
        "exit": int(has_failed(checks)),
        "snapshot": "",
        "accepted": "",
        "changes": [],
        "checks": [asdict(check) for check in checks],
    }


def _outcome(checks: Sequence[Check]) -> str:
    return "failed" if has_failed(checks) else "ok"


def _code(checks: Sequence[Check]) -> str:
    """The name of the first check that failed."""
    return next((check.name for check in checks if check.state == FAILED), "")

"""What a peer's gate and its agent's protocol mean for the master: pure (agent/gate.py, agent/manifest.py are the other side)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ngxsync import __version__
from ngxsync.agent.manifest import SPEAKS
from ngxsync.core.errors import AgentFailed, Message, tail

REFUSED = "ngxsync: refused: "
FIRST = 1  # what an agent speaks that does not say


def refusal_in(complaints: bytes | str) -> str:
    """Why the gate refused, from standard error; "" where it did not."""
    text = complaints.decode("utf-8", "replace") if isinstance(complaints, bytes) else complaints
    said = next((line for line in text.splitlines() if line.startswith(REFUSED)), "")
    return tail(said.removeprefix(REFUSED))


def refused(why: str, name: str, where: str) -> AgentFailed:
    hint = f"if the configuration here changed, or ngxsync was upgraded: ngxsync peer install {name}"
    what = f"the gate of {name} refused it: {tail(why).removeprefix('refused by the gate: ')}"
    return AgentFailed(Message(what, where, f"{name} unchanged; it is logged there", hint), code="gate")


def common_protocol(answer: Mapping[str, Any], name: str, where: str) -> int:
    """The highest that both speak, from the answer of an agent that refused a number. Raises AgentFailed where none is."""
    said = answer.get("speaks")
    theirs = [number for number in said if type(number) is int] if isinstance(said, list) else []
    theirs = theirs or [FIRST]
    both = set(theirs) & set(SPEAKS)
    if both:
        return max(both)
    release = tail(str(answer.get("release") or "older than 0.1.0"))
    what = (
        f"the agent on {name} (release {release}) speaks protocol {_listed(theirs)}, "
        f"ngxsync here (release {__version__}) {_listed(SPEAKS)}"
    )
    is_old = max(theirs) < min(SPEAKS)
    hint = f"put this release's agent there: ngxsync peer install {name}" if is_old else "upgrade ngxsync on this host"
    raise AgentFailed(Message(what, where, f"{name} unchanged", hint), code="protocol")


def _listed(numbers: Any) -> str:
    return " and ".join(str(number) for number in sorted(numbers))

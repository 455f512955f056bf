"""Exchanges with an agent of an older protocol: recorded once from that release's own agent, kept as JSON, never written again.

To record those of protocol N before it is raised: `python -m tests.exchanges REVISION N`. Each file is
{verb, request, answer, staged: {path below the stage: text}, taken: a port of the peer that is in use}, in order.
"""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ngxsync.edges.bundle import MAIN
from tests.agent import Agent
from tests.hosts import PROJECT, Host
from tests.pair import ROOT, make_pair

FOLDER = PROJECT / "tests/exchanges"
VHOST = "server { listen 80; server_name v; return 200 '%s'; }\n"
BOOT_ID, GENERATION = "00000000-0000-0000-0000-000000000000", "generation-%d"
TIME = 1_700_000_000


class Recorder(Agent):
    """Calls the agent in a folder of the host, and keeps each exchange; what differs from call to call is made the same."""

    def __init__(self, host: Host, folder: str) -> None:
        super().__init__(host)
        self.argv = ["/usr/bin/python3", "-I", "-S", folder]
        self.kept: list[dict[str, Any]] = []
        self.names: dict[str, str] = {}
        self.taken = 0
        self.protocol = 1

    def call(self, verb: str, **request: Any) -> dict[str, Any]:
        asked = {} if verb == "hello" else self.request(**request)
        asked["protocol"] = self.protocol
        asked.pop("stages", None)
        staged = self._staged(asked) if verb == "transact" else {}
        with port_taken(self.host, self.taken):
            done = self.host.run([*self.argv, verb], input=json.dumps(asked) + "\n")
        answer = json.loads(done.stdout.splitlines()[-1])
        for found in (answer.get("generation"), (answer.get("accepted") or {}).get("generation")):
            if found:
                self.names.setdefault(found, GENERATION % len(self.names))
        kept = {"verb": verb, "request": asked, "answer": answer, "staged": staged, "taken": self.taken}
        self.kept.append(self._normal(kept))
        return dict(answer)

    def _staged(self, asked: dict[str, Any]) -> dict[str, str]:
        stage = Path(str(self.host.path(f"{ROOT}/.ngxsync/{asked['run']}/stage")))
        return {str(path.relative_to(stage)): path.read_text() for path in sorted(stage.rglob("*")) if path.is_file()}

    def _normal(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            if key == "timings":
                return dict.fromkeys(value, 0.0)
            return {name: self._normal(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._normal(inner) for inner in value]
        if key in ("now", "at", "since") and value is not None:
            return TIME
        if key in ("dev", "ino", "pid"):
            return 1
        if key == "boot_id":
            return BOOT_ID
        return self.names.get(value, value) if isinstance(value, str) else value


@contextmanager
def port_taken(host: Host, port: int) -> Iterator[None]:
    """Somebody else on the host listens there; 0 is nobody."""
    with host.socket() as sock:
        if port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", port))
            sock.listen()
        yield


def record(agent: Recorder) -> None:
    """Every verb that a master calls, and every outcome of a transaction that it has to understand."""
    agent.call("hello")
    agent.call("scan", generation=None, full=True, want_base=False, users=["root", "nobody-here"], groups=["root"])
    agent.transact(
        agent.plan({"conf/vhosts/v.conf": VHOST % "one", "html/a b.html": "new\n", "html/link": ("link", "x")})
    )
    agent.scan(want_base=True)
    agent.call("show", run="000001-test")
    agent.call("show", run="never-was")
    agent.call("show", paths=[f"{ROOT}/conf/vhosts/v.conf", f"{ROOT}/gone"])
    agent.transact(agent.plan({"conf/vhosts/v.conf": "server { nonsense on; }\n"}))
    agent.taken = 8081
    agent.transact(agent.plan({"conf/vhosts/v.conf": "server { listen 8081; }\n"}))
    agent.taken = 0
    agent.transact({**agent.plan({"html/index.html": "of another\n"}), "generation": "generation-of-another"})
    agent.transact(agent.plan({"html/index.html": None}))
    agent.call("recover")
    agent.call("status")
    agent.call("facts", users=[], groups=[])
    if agent.protocol >= 2:
        agent.call("history")
        agent.call("history", run="000001-test")


def old_agent(host: Host, revision: str, folder: str) -> None:
    """The agent of a release of ours, as the boot would leave it on the host."""
    packed = subprocess.run(
        ["git", "-C", PROJECT, "archive", revision, "ngxsync/agent"], check=True, capture_output=True
    ).stdout
    target = Path(str(host.path(folder)))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(target, filter="data")
    (target / "ngxsync/agent").rename(target / "ngxsync_agent")
    (target / "__main__.py").write_text(MAIN)


def recorded(number: int) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((FOLDER / str(number)).glob("*.json"))]


def main(revision: str, number: str) -> None:
    pair = make_pair()
    try:
        old_agent(pair.web2, revision, "/srv/old")
        agent = Recorder(pair.web2, "/srv/old")
        agent.protocol = int(number)
        record(agent)
    finally:
        pair.close()
    folder = FOLDER / number
    folder.mkdir(parents=True)
    for place, kept in enumerate(agent.kept):
        name = "-".join(filter(None, [f"{place:02d}", kept["verb"], kept["answer"].get("outcome")]))
        (folder / f"{name}.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

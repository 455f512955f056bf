"""The agent called on a host of the pair, as the link does it, but without the link: requests in, answers out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ngxsync.agent import manifest as manifests
from ngxsync.agent.manifest import Entry
from ngxsync.core.excludes import BUILTIN, compile_excludes
from tests.hosts import PROJECT, Host
from tests.pair import ROOT

STATE = "/var/lib/ngxsync"
BOOT = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from ngxsync.agent.main import main; sys.exit(main(sys.argv[1:]))"


def agent_argv(verb: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", BOOT, verb]


class Agent:
    """One host's agent. `settings` are the request's `nginx`; change them before a call."""

    def __init__(self, host: Host, excludes: tuple[str, ...] = (), *, root: str = ROOT) -> None:
        self.host, self.root = host, root
        rules = [[regex, out] for regex, out in compile_excludes([*BUILTIN, *excludes])]
        self.projection = {"trees": [{"path": root, "exclude": rules}], "owners": True}
        self.settings: dict[str, Any] = {
            "root": root,
            "conf": f"{root}/conf/nginx.conf",
            "binary": "auto",
            "reload": "SIGHUP",
            "prove_timeout_s": 10.0,
            "rehearse": "overlay",
            "probe": "",
        }
        self.number = 0
        self.generation: str | None = None

    def call(self, verb: str, **request: Any) -> dict[str, Any]:
        text = json.dumps(self.request(**request))
        done = self.host.run(agent_argv(verb), input=text, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def request(self, **more: Any) -> dict[str, Any]:
        common = {"protocol": 1, "state_dir": STATE, "nginx": self.settings, "projection": self.projection}
        return {**common, **more}

    def scan(self, **more: Any) -> dict[str, Any]:
        return self.call("scan", generation=self.generation, **more)

    def live(self) -> dict[str, Entry]:
        """The live manifest, every file read again."""
        answer = self.call("scan", generation=None, full=True)
        return manifests.from_json(answer["changed"])

    def plan(self, wanted: dict[str, Any], run: str = "") -> dict[str, Any]:
        """A transact request that makes `wanted` true: path below ROOT -> bytes, ("link", target), "dir", or None to delete.

        The stage is filled as rsync would fill it.
        """
        self.number += 1
        run = run or f"{self.number:06d}-test"
        stage = self.call("stage", run=run, trees=[self.root])["stages"][self.root]
        live = self.live()
        planned, changes = dict(live), []
        for relative, value in wanted.items():
            path = f"{self.root}/{relative}"
            after = self._entry(value, live.get(path), f"{stage}/{relative}")
            changes.append({"path": path, "before": _fields(live.get(path)), "after": _fields(after)})
            if after is None:
                del planned[path]
            else:
                planned[path] = after
        return self.request(
            run=run,
            written_by="web1",
            generation=self.generation,
            base="none",
            first_contact=self.generation is None,
            changes=changes,
            delta=manifests.to_json(planned),
            id=manifests.snapshot_id(planned, self.projection),
            reload=True,
            stages={self.root: stage},
        )

    def _entry(self, value: Any, before: Entry | None, staged: str) -> Entry | None:
        if value is None or isinstance(value, Entry):
            return value
        if value == "dir":
            return Entry("dir", 0o755, "root", "root", 0, 0, "")
        if isinstance(value, tuple):
            return Entry("link", 0o777, "root", "root", 1_700_000_001_000_000_000, 0, value[1])
        content = value if isinstance(value, bytes) else value.encode()
        file = Path(str(self.host.path(staged)))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        sha256 = (
            subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True)
            .stdout.split()[0]
            .lstrip("\\")
        )
        mode = before.mode if before is not None and before.kind == "file" else 0o644
        return Entry("file", mode, "root", "root", 1_700_000_002_123_456_789, len(content), sha256)

    def transact(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self.call("transact", **request)
        self.generation = answer.get("generation", self.generation)
        return answer


def _fields(entry: Entry | None) -> list[Any] | None:
    return None if entry is None else list(entry)

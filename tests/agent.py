"""The agent called on a host of the pair, as the link does it, but without the link: requests in, answers out."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ngxsync.agent import manifest as manifests
from ngxsync.agent.manifest import Entry
from ngxsync.core.excludes import BUILTIN, compile_excludes
from ngxsync.core.plan import make_plan
from tests.hosts import PROJECT, Host
from tests.pair import ROOT

STATE = "/var/lib/ngxsync"
MTIME_NS = 1_700_000_002_123_456_789
BOOT = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from ngxsync.agent.main import main; sys.exit(main(sys.argv[1:]))"


def agent_argv(verb: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", BOOT, verb]


class File(NamedTuple):
    """A planned file with all that can differ."""

    content: bytes | str
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    mtime_ns: int = MTIME_NS


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
        common = {
            "protocol": manifests.PROTOCOL,
            "state_dir": STATE,
            "nginx": self.settings,
            "projection": self.projection,
        }
        return {**common, **more}

    def scan(self, **more: Any) -> dict[str, Any]:
        return self.call("scan", generation=self.generation, **more)

    def live(self) -> dict[str, Entry]:
        """The live manifest, every file read again."""
        answer = self.call("scan", generation=None, full=True)
        return manifests.from_json(answer["changed"])

    def plan(self, wanted: Mapping[str, Any], run: str = "") -> dict[str, Any]:
        """A transact request that makes `wanted` true, its changes in the order of core.plan, its stage filled as rsync would.

        A path below the root maps to content (bytes or str), a File, ("link", target), "dir", an Entry (of what is live, with
        other attributes), or None to delete. What lies below a directory that ends is deleted too.
        """
        self.number += 1
        run = run or f"{self.number:06d}-test"
        stage = self.call("stage", run=run, trees=[self.root])["stages"][self.root]
        live = self.live()
        planned = dict(live)
        for relative, value in wanted.items():
            path = f"{self.root}/{relative}"
            after = self._entry(value, live.get(path), f"{stage}/{relative}")
            if after is None or after.kind != "dir":
                planned = {known: entry for known, entry in planned.items() if not known.startswith(path + "/")}
            planned.pop(path, None)
            planned.update({} if after is None else {path: after})
        changes = make_plan(planned, live, None, lambda _path: False, main_conf=self.settings["conf"]).changes
        return self.request(
            run=run,
            written_by="web1",
            generation=self.generation,
            base="none",
            first_contact=self.generation is None,
            changes=[{"path": c.path, "before": _fields(c.before), "after": _fields(c.after)} for c in changes],
            delta=manifests.to_json(planned),
            id=manifests.snapshot_id(planned, self.projection),
            reload=True,
            stages={self.root: stage},  # for tests that look into it
        )

    def _entry(self, value: Any, before: Entry | None, staged: str) -> Entry | None:
        if value is None or isinstance(value, Entry):
            return value
        if value == "dir":
            return Entry("dir", 0o755, "root", "root", 0, 0, "")
        if isinstance(value, tuple) and not isinstance(value, File):
            return Entry("link", 0o777, "root", "root", 1_700_000_001_000_000_000, 0, value[1])
        if not isinstance(value, File):
            mode = before.mode if before is not None and before.kind == "file" else 0o644
            value = File(value, mode)
        content = value.content if isinstance(value.content, bytes) else value.content.encode()
        file = Path(str(self.host.path(staged)))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        return Entry("file", value.mode, value.owner, value.group, value.mtime_ns, len(content), sha256)

    def transact(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self.call("transact", **request)
        self.generation = answer.get("generation", self.generation)
        return answer


def _fields(entry: Entry | None) -> list[Any] | None:
    return None if entry is None else list(entry)

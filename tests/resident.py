"""The pipeline kept open in one process on web1, as the daemon keeps it: options in, results as `--json` has them out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forked import Forked
from tests.host import ENVIRONMENT
from tests.hosts import PROJECT, Host
from tests.pair import ROOT, Pair, manifest_of

CONFIG = Path("/etc/ngxsync/config.ini")
STATE = "/var/lib/ngxsync"
SITE = "conf/vhosts/site.conf"


@dataclass(frozen=True)
class Run:
    """One run: `text` is what a person reads, `data` the JSON of DESIGN 6."""

    text: str
    data: Mapping[str, Any]

    @property
    def exit(self) -> int:
        return int(self.data["exit"])

    @property
    def outcome(self) -> str:
        return str(self.data["outcome"])

    @property
    def code(self) -> str:
        return str(self.data["code"])

    @property
    def peer(self) -> Mapping[str, Any]:
        """The one peer's part; empty where the run ended before any peer was asked."""
        return next(iter(self.data["peers"]), {})

    @property
    def changes(self) -> dict[str, str]:
        """{path: kind} of the peer's plan."""
        return {change["path"]: change["kind"] for change in self.peer.get("changes", ())}

    @property
    def warnings(self) -> str:
        return "\n".join(self.peer.get("warnings", ()))

    def __str__(self) -> str:
        return self.text


class Resident:
    """The process. `sync` is one run; options are those of flow.interfaces.Options."""

    def __init__(self, pair: Pair, environment: Mapping[str, str] | None = None) -> None:
        self.pair = pair
        env = {**(environment or {}), "PYTHONPATH": str(PROJECT)}
        (reading, asking), (answers, answering) = os.pipe(), os.pipe()
        self.process: Forked | subprocess.Popen[str]
        try:
            if environment:  # what its libraries read at their start
                argv = [sys.executable, "-m", "tests.resident"]
                self.process = pair.master.popen(argv, env=env, stdin=reading, stdout=answering)
            else:
                streams = (reading, answering, 2)
                self.process = Forked("tests.resident:serve", [], {**ENVIRONMENT, **env}, pair.master.pid, streams)
        finally:
            os.close(reading)
            os.close(answering)
        self.stdin, self.stdout = open(asking, "w"), open(answers)  # noqa: SIM115 - until `close`

    def begin(self, **options: Any) -> None:
        """Starts a run; `answer` waits for its end."""
        self.stdin.write(json.dumps(options) + "\n")
        self.stdin.flush()

    def answer(self) -> Run:
        line = self.stdout.readline()
        assert line, "the process on web1 ended"
        return Run(*json.loads(line))

    def sync(self, *force: str, **options: Any) -> Run:
        """A run as the daemon makes it, or with `by_person=True` as `ngxsync sync --yes` does."""
        self.begin(force=force, **options)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL, as if the daemon had died."""
        self.pair.master.signal_to(self.process, signal.SIGKILL)
        self._wait()

    def close(self) -> None:
        self.stdin.close()
        self._wait()

    def _wait(self) -> None:
        try:
            self.process.wait(45)
        finally:
            self.process.kill()
            self.stdin.close()
            self.stdout.close()


@contextmanager
def resident(pair: Pair) -> Iterator[Resident]:
    process = Resident(pair)
    try:
        yield process
    finally:
        process.close()


def by_hand(pair: Pair, *arguments: str, host: Host | None = None) -> Run:
    """`ngxsync sync --json ARGUMENTS`, as a person types it."""
    done = pair.ngxsync("sync", "--json", *arguments, host=host)
    run = Run(done.stdout + done.stderr, json.loads(done.stdout))
    assert done.returncode == run.exit
    return run


def kept_contents(host: Host) -> set[bytes]:
    """Every old content in the peer's store."""
    blobs = host.path(f"{STATE}/peer/blobs")
    return {blob.read_bytes() for blob in blobs.glob("*/*")}


def left_in_stages(host: Host) -> list[str]:
    """What runs left in the tree's own .ngxsync."""
    folder = host.path(f"{ROOT}/.ngxsync")
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


def site(text: str) -> dict[str, str]:
    """A vhost whose only page is this text, for `write_tree`; `served` asks for it."""
    return {SITE: f"server {{ listen 80; server_name site.example.com; return 200 '{text}'; }}\n"}


def served(host: Host) -> str:
    return host.get("/", "site.example.com")[1]


def are_equal(pair: Pair) -> bool:
    """Equal to the byte, mode, owner and mtime, and no run left anything in the peer's tree."""
    return manifest_of(pair.web1) == manifest_of(pair.web2) and not left_in_stages(pair.web2)


def raise_if_not_in_sync(daemon: Resident) -> None:
    """The next run finds nothing to do."""
    run = daemon.sync()
    assert (run.exit, run.outcome, run.changes) == (0, "in-sync", {}), run


def raise_if_not_held(run: Run, code: str, *texts: str) -> None:
    assert (run.exit, run.peer["outcome"], run.code) == (
        8,
        "held" if code != "first-contact" else "awaiting-first-sync",
        code,
    ), run
    assert run.peer["message"]["state"] == "web2 unchanged"
    for text in texts:
        assert text in run.text, run


def serve() -> None:
    """One line of options in, one line of result out; the configuration is read anew where its text changed."""
    from ngxsync.assembly import Assembly
    from ngxsync.core.render import json_run, render_run
    from ngxsync.edges.configfile import read_config
    from ngxsync.flow.interfaces import Options

    assembly, text = None, ""
    for line in sys.stdin:
        if assembly is None or CONFIG.read_text() != text:
            if assembly is not None:
                assembly.close()
            text = CONFIG.read_text()
            assembly = Assembly(read_config(CONFIG))
        result = assembly.pipeline.run(Options(**json.loads(line)))
        print(json.dumps([render_run(result), json_run("sync", result)]), flush=True)
    if assembly is not None:
        assembly.close()


if __name__ == "__main__":
    serve()

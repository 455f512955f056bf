"""Who moved away from what was agreed: every cause x kind x sort of file on a real pair, also after runs that failed and a rollback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import faults
from tests.hosts import Host
from tests.pair import ROOT, Pair
from tests.resident import resident
from tests.steps import BY_NAME, stopped_at

FOLDERS = {"config": "conf/cases", "html": "html/cases", "certificate": "conf/certs"}
ENDS = {"config": ".conf", "html": ".html", "certificate": ".pem"}
KINDS = ("created", "deleted", "content", "mode", "owner", "link", "type", "mtime")
CAUSES = ("pending", "drift", "conflict", "first-contact")
NEW = "new"  # below it nothing was agreed on: it was left out of the first sync
KEY = "-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n"
FORCE = [f"--force={code}" for code in ("drift", "conflict", "first-contact", "type-change")]


@dataclass(frozen=True)
class Case:
    sort: str
    kind: str
    cause: str

    @property
    def path(self) -> str:
        folder = f"{FOLDERS[self.sort]}{f'/{NEW}' if self.cause == 'first-contact' else ''}"
        return f"{ROOT}/{folder}/{self.cause}-{self.kind}{ENDS[self.sort]}"

    @property
    def told(self) -> tuple[str, str]:
        """Kind and cause as diff is to tell them: a time alone is never more than pending, nor is what only this host has."""
        unagreed = self.cause == "first-contact" and self.kind == "created"
        return self.kind, "pending" if self.kind == "mtime" or unagreed else self.cause

    def text(self, version: str) -> str:
        return KEY % version if self.sort == "certificate" else f"# {self.sort} {version}\n"

    def begin(self, host: Host) -> None:
        """What both hosts have before anybody edits anything."""
        file = host.path(self.path)
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = (self.kind, self.cause) in (("created", "pending"), ("deleted", "drift")) or "first" in self.cause
        if self.kind == "link":
            file.symlink_to("base")
        elif not is_new or self.kind not in ("created", "deleted"):
            file.write_text(self.text("base"))
            os.utime(file, (10**9, 10**9))

    def edit(self, web1: Host, web2: Host) -> None:
        own, theirs = web1.path(self.path), web2.path(self.path)
        if self.kind in ("created", "deleted"):
            # who lacks it, and who has it, edited or as it was agreed
            lacking, having = (theirs, own) if self.kind == "created" else (own, theirs)
            lacking.unlink(missing_ok=True)
            if not having.exists() or self.cause in ("conflict", "first-contact"):
                having.write_text(self.text("edited"))
            return
        if self.cause != "drift":
            self._change(own, 1)
        if self.cause in ("drift", "conflict"):
            self._change(theirs, 2)

    def _change(self, file: Path, number: int) -> None:
        if self.kind == "content":
            file.write_text(self.text(f"edited {number}"))
        elif self.kind == "mode":
            file.chmod(0o600 + number * 0o10)
        elif self.kind == "owner":
            shutil.chown(file, ["nobody", "www-data"][number - 1])
        elif self.kind == "mtime":
            os.utime(file, (10**9 + number, 10**9 + number))
        else:
            file.unlink()
            if self.kind == "type" and number == 2:
                file.mkdir()
            else:
                file.symlink_to(f"edited {number}")


CASES = [Case(sort, kind, cause) for sort in FOLDERS for kind in KINDS for cause in CAUSES]
TABLE = {case.path: case.told for case in CASES}
# what both hosts began with is what is agreed on again; the peer has it, so what it had lost it does not lack
ROLLED_BACK = {
    case.path: ("content" if (case.kind, case.cause) == ("created", "conflict") else case.kind, "pending")
    for case in CASES
    if case.cause in ("pending", "conflict")
}


def told(pair: Pair) -> dict[str, tuple[str, str]]:
    """What `diff --json` says of the cases, and that its counts are those of its list."""
    done = pair.ngxsync("diff", "--json")
    answer = json.loads(done.stdout)
    (peer,) = answer["peers"]
    assert (done.returncode, answer["exit"]) == (int(bool(peer["changes"])),) * 2, done.stderr
    found = {change["path"]: (change["kind"], change["cause"]) for change in peer["changes"]}
    for number, name in enumerate(("kinds", "causes")):
        assert peer["stat"][name] == {
            word: sum(change[number] == word for change in found.values()) for word in peer["stat"][name]
        }
        assert sum(peer["stat"][name].values()) == len(found)
    return found


def set_up(pair: Pair) -> None:
    for host in pair.hosts:
        for case in CASES:
            case.begin(host)
    excludes = "".join(f"\n    /{folder}/{NEW}/" for folder in FOLDERS.values())
    pair.write_config(sync=f"exclude ={excludes}")
    done = pair.ngxsync("sync", "--yes")
    assert done.returncode == 0, done.stderr
    pair.write_config()
    for case in CASES:
        case.edit(pair.web1, pair.web2)


def test_each_cause_and_kind(pair: Pair) -> None:
    set_up(pair)
    assert told(pair) == TABLE
    text = pair.ngxsync("diff").stdout
    summary = text.splitlines()[0]
    assert summary.endswith(": 36 pending, 21 drift, 21 conflict, 18 first-contact"), summary
    assert "PRIVATE KEY" not in text

    undone = f"{ROOT}/conf/vhosts/taken.conf"
    pair.web1.path(undone).write_text("server { listen 8099; return 204; }\n")
    with listening(pair.web2, 8099):
        assert pair.ngxsync("sync", "--yes", *FORCE).returncode == 6
    assert told(pair) == {**TABLE, undone: ("created", "pending")}, "undone: as before"
    pair.web1.path(undone).unlink()

    with half_way(pair):
        left = told(pair)
        assert left.items() < TABLE.items(), "some of it is there: what still differs has the causes that it had"
        assert "was left unfinished there" in pair.ngxsync("diff", "--stat").stderr
    assert told(pair) == TABLE, "taken back: as before"

    done = pair.ngxsync("sync", "--yes", *FORCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert told(pair) == {}
    done = pair.ngxsync("rollback", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert told(pair) == ROLLED_BACK, "all that was sent is this host's edit again, be it over an edit of the peer's"
    pair.web2.path(f"{ROOT}/html/index.html").write_text("edited there\n")
    assert told(pair) == {**ROLLED_BACK, f"{ROOT}/html/index.html": ("content", "drift")}


@contextmanager
def listening(host: Host, port: int) -> Iterator[None]:
    """Somebody else has that port there."""
    script = f"import socket, time; s = socket.create_server(('0.0.0.0', {port})); print(flush=True); time.sleep(600)"
    process = host.popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        host.signal_to(process, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@contextmanager
def half_way(pair: Pair) -> Iterator[None]:
    """A run whose every process was killed between two exchanges, on both hosts; then the peer's own recovery."""
    with resident(pair) as process:
        with stopped_at(pair, BY_NAME["apply"], pair.web1.pid_inside(process.process)) as stop:
            process.begin(force=["drift", "conflict", "first-contact", "type-change"], by_person=True)
            stop.wait()
            process.kill()
            faults.kill_agents(pair.web2)
        yield
    pair.web2.run([faults.AGENT, "recover"])

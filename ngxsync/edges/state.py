"""The master's durable memory in STATE/master: peers, runs, pauses and locks.

    peers/NAME.json            a PeerRecord
    peers/NAME.manifest.json   the accepted manifest, with the generation that it belongs to
    runs/SEQUENCE-RANDOM.json  one record for each run, never written again; ordered by sequence, never by clock
    pauses.json                who paused what, why, until when
    locks/NAME.lock            flock; the text in it only names the holder

Directories are 0700, files 0600. A file is written anew, made durable and renamed: a reader, which takes no lock, sees
the old or the new one. Only the standard library is imported: `status` starts fast.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ngxsync.agent.manifest import Manifest, from_json, to_json
from ngxsync.core import memory
from ngxsync.core.errors import Locked, Message, StateError
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import APPLIED, IN_SYNC, Pause, PeerResult
from ngxsync.core.wording import disk_message

ALL = ""  # stands for all peers in pauses and locks
BROKEN_JSON = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class MasterState:
    """`root` is STATE/master; it is made at the first write. `now` gives seconds since the epoch.

    Every method may raise StateError, with what to do, where the disk does not let it read or write.
    """

    def __init__(self, root: Path, now: Callable[[], float]) -> None:
        self.root = root
        self.now = now
        self._accepted: dict[str, tuple[str, Manifest]] = {}

    def load_peer(self, name: str) -> PeerRecord:
        """The record, an empty one where there is none. A damaged one is no memory either, and its message says so."""
        path = self._peer_file(name)
        try:
            data = _read_json(path)
            return PeerRecord(name) if data is None else memory.record_from_json({**data, "name": name})
        except BROKEN_JSON:
            what = f"what this host remembers of {name} is damaged"
            advice = f"remove the file, look with ngxsync diff --peer {name}, then ngxsync sync --peer {name}"
            return PeerRecord(name, message=Message(what, str(path), f"{name} counts as a first contact", advice))

    def save_peer(self, record: PeerRecord) -> None:
        self._write(self._peer_file(record.name), memory.record_to_json(record))

    def note_result(self, name: str, run: str, result: PeerResult) -> None:
        """The status word of the latest run; `since` moves only where the word does."""
        record = self.load_peer(name)
        word = IN_SYNC if result.outcome == APPLIED else result.outcome
        since = record.since if record.word == word and record.since is not None else self.now()
        news = replace(record, word=word, since=since, message=result.message)
        self.save_peer(
            replace(news, last_run=run, last_run_at=self.now(), last_outcome=result.outcome, last_exit=result.exit)
        )

    def peer_files(self, name: str) -> list[Path]:
        """What is kept of a peer."""
        return [path for path in (self._peer_file(name), self._peer_file(name, "manifest.json")) if path.exists()]

    def forget_peer(self, name: str) -> None:
        """As if it had never been met; the history of runs stays."""
        self._accepted.pop(name, None)
        for path in self.peer_files(name):
            with _told(path, "remove"):
                path.unlink(missing_ok=True)

    def load_accepted(self, name: str, generation: str | None, like: Manifest | None = None) -> Manifest | None:
        """The copy of the manifest accepted under this generation, None where the copy is of another, or damaged.

        What equals an entry of `like`, the snapshot, is that entry itself: kept, it costs next to nothing.
        """
        known = self._accepted.get(name)
        if known is None or known[0] != generation:
            try:
                data = _read_json(self._peer_file(name, "manifest.json"))
                if not data or not generation or data["generation"] != generation:
                    return None
                known = self._accepted[name] = (generation, from_json(data["manifest"], like))
            except BROKEN_JSON:
                return None
        return known[1]

    def save_accepted(self, name: str, generation: str, manifest: Manifest) -> None:
        """Save this before the record with the same generation: a copy that no record names is merely not used."""
        self._write(self._peer_file(name, "manifest.json"), {"generation": generation, "manifest": to_json(manifest)})
        self._accepted[name] = (generation, manifest)

    def new_run_id(self, random_hex: str) -> str:
        """The next sequence number (8 digits) and the given random hex: names sort in the order of their making."""
        counter = self.root / "sequence"
        with self._flock("sequence", 10.0):
            try:
                last = int(_read_json(counter) or 0)
            except BROKEN_JSON:
                last = 0
            recorded = (memory.sequence_of(path.name) for path in _listing(self.root / "runs"))
            number = max([last, *recorded]) + 1
            self._write(counter, number, durable=False)  # after a crash the recorded runs tell
        return f"{number:08d}-{random_hex}"

    def record_run(self, run: str, record: Mapping[str, Any]) -> None:
        """Adds a run to the history. Raises StateError where it is there already: history is never rewritten."""
        path = self._run_file(run)
        if path.exists():
            raise StateError(Message("this run is recorded already", str(path), "history unchanged", "report this"))
        self._write(path, {**record, "run": run})

    def load_run(self, run: str) -> dict[str, Any] | None:
        """One recorded run, None where there is none."""
        return _read_run(self._run_file(run))

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The recorded runs, newest first; a damaged one is {"run": ..., "outcome": "unknown", "damaged": True}."""
        return [run for run in map(_read_run, self._run_files()[:limit]) if run is not None]

    def forget_runs(self, keep: int, *, keep_runs: int, keep_for_s: float) -> None:
        """Removes recorded runs but the newest `keep` (or a tenth more), so that years of checks do not fill the disk.

        Those that changed a peer stay as their contents do there: the newest `keep_runs`, and all younger than `keep_for_s`.
        """
        files = self._run_files()
        if len(files) > keep + keep // 10:
            changing = [path for path in files if memory.has_changed_something(_read_run(path) or {})]
            for path in set(files[keep:]).difference(changing[:keep_runs]):
                with _told(path, "remove"), suppress(FileNotFoundError):
                    if path not in changing or self.now() - path.stat().st_mtime >= keep_for_s:
                        path.unlink()

    def pause(self, peer: str, who: str, reason: str, for_s: float | None = None) -> Pause:
        """No automatic run for this peer (ALL: for any) until `for_s` seconds from now, or until resume."""
        since = self.now()
        made = Pause(who, reason, since, None if for_s is None else since + for_s, peer)
        with self._flock("pauses", 10.0):
            self._write_pauses({**self._pauses(), peer: made})
        return made

    def resume(self, peer: str = ALL) -> tuple[Pause, ...]:
        """Ends this peer's pause, with ALL every pause; gives those that were in force and ended."""
        with self._flock("pauses", 10.0):
            pauses = self._pauses()
            ended = [name for name in pauses if peer in (ALL, name)]
            self._write_pauses({name: pauses[name] for name in pauses if name not in ended})
        return tuple(pauses[name] for name in ended if memory.is_in_force(pauses[name], self.now()))

    def active_pause(self, peer: str, now: float | None = None) -> Pause | None:
        """What pauses this peer at this time: its own pause, else one for all. Pauses end by themselves."""
        at = self.now() if now is None else now
        pauses = self._pauses()
        return next((p for p in (pauses.get(peer), pauses.get(ALL)) if p and memory.is_in_force(p, at)), None)

    def pauses_mark(self) -> tuple[int, int]:
        """Another one after each `pause` and `resume`."""
        path = self.root / "pauses.json"
        with _told(path, "read"), suppress(FileNotFoundError):
            found = path.stat()
            return found.st_ino, found.st_mtime_ns
        return 0, 0

    def _pauses(self) -> dict[str, Pause]:
        path = self.root / "pauses.json"
        try:
            found = _read_json(path)
            return {} if found is None else {name: memory.pause_from_json(data) for name, data in found.items()}
        except BROKEN_JSON as error:
            # a person wanted no runs, and who knows where: going on would be wrong
            next_step = f"remove {path}, then pause again where you need it"
            raise StateError(Message("the pauses are damaged", str(path), "nothing is synced", next_step)) from error

    def _write_pauses(self, pauses: Mapping[str, Pause]) -> None:
        self._write(self.root / "pauses.json", {name: vars(pause) for name, pause in pauses.items()})

    @contextmanager
    def lock(self, peer: str, wait_s: float, *, run: str = "") -> Iterator[None]:
        """One run at a time for a peer; ALL excludes every peer. Raises Locked, naming the holder, after `wait_s`.

        flock ends with its process: what a dead one left behind never blocks.
        """
        deadline = time.monotonic() + wait_s
        with self._flock("all", wait_s, run, shared=peer != ALL):
            if peer == ALL:
                yield
                return
            with self._flock(f"peer-{memory.file_name(peer)}", max(0.0, deadline - time.monotonic()), run):
                yield

    @contextmanager
    def _flock(self, name: str, wait_s: float, run: str = "", *, shared: bool = False) -> Iterator[None]:
        path = self.root / "locks" / f"{name}.lock"
        _make_private(path.parent, self.root)
        with _told(path, "lock"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            with _told(path, "lock"):
                won = _acquired(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait_s)
            if not won:
                raise Locked(self._locked_message(path))
            signature = {"pid": os.getpid(), "run": run, "since": self.now()}
            with nullcontext() if shared else _signed(descriptor, json.dumps(signature)):
                yield
        finally:
            os.close(descriptor)

    def _locked_message(self, path: Path) -> Message:
        """Names the holder; where peers' locks keep out the one for all, the first of them that is held."""
        peers = [other for other in _listing(path.parent) if other.name.startswith("peer-")]
        candidates = [path, *peers] if path.name == "all.lock" else [path]
        who = next(filter(None, map(_holder, candidates)), "lock of an unknown process")
        advice = "wait for it, see it with ngxsync status, or wait longer with --wait"
        return Message(f"another run is at work: {who}", str(path), "nothing changed", advice)

    def _peer_file(self, name: str, kind: str = "json") -> Path:
        return self.root / "peers" / f"{memory.file_name(name)}.{kind}"

    def _run_file(self, run: str) -> Path:
        return self.root / "runs" / f"{memory.file_name(run)}.json"

    def _run_files(self) -> list[Path]:
        """All recorded runs, newest first."""
        found = [path for path in _listing(self.root / "runs") if memory.sequence_of(path.name)]
        return sorted(found, key=lambda path: memory.sequence_of(path.name), reverse=True)

    def _write(self, path: Path, value: object, *, durable: bool = True) -> None:
        _make_private(path.parent, self.root)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
        with _told(path, "write"):
            try:
                _write_file(temporary, text.encode("ascii"), durable)
                os.rename(temporary, path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            if durable:
                _sync_directory(path.parent)


@contextmanager
def _told(path: Path, verb: str) -> Iterator[None]:
    """Turns what the disk says into a StateError that a person can act on."""
    try:
        yield
    except OSError as error:
        raise StateError(disk_message(path, verb, error)) from error


def _read_json(path: Path) -> Any:
    """The value in the file, None where there is no file. Raises ValueError where it is damaged."""
    with _told(path, "read"), suppress(FileNotFoundError):
        return json.loads(path.read_bytes())
    return None


def _read_run(path: Path) -> dict[str, Any] | None:
    try:
        found = _read_json(path)
        return None if found is None else {**found, "run": found["run"]}
    except BROKEN_JSON:
        return {"run": path.name.removesuffix(".json"), "outcome": "unknown", "damaged": True}


def _listing(directory: Path) -> list[Path]:
    """The files of a directory without the unfinished ones, none where it does not exist yet."""
    with _told(directory, "read"), suppress(FileNotFoundError):
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    return []


def _make_private(directory: Path, root: Path) -> None:
    """Makes the directory and what is missing above it, 0700 each, durably; closes `root` where it stands open."""
    with _told(directory, "create"):
        missing = [path for path in (directory, *directory.parents) if not path.is_dir()]
        for path in reversed(missing):
            path.mkdir(0o700, exist_ok=True)
            _sync_directory(path.parent)
        if root.stat().st_mode & 0o077:
            root.chmod(0o700)


def _write_file(path: Path, content: bytes, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _acquired(descriptor: int, kind: int, wait_s: float) -> bool:
    """Tries until `wait_s` is over: flock itself knows no time limit, and signals belong to the main thread."""
    deadline = time.monotonic() + wait_s
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(0.05, left))


@contextmanager
def _signed(descriptor: int, text: str) -> Iterator[None]:
    """Names the holder for the time that it holds. A full disk takes the name away, never the lock."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode("ascii"), 0)
    try:
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)


def _holder(path: Path) -> str:
    """Who signed this lock and still lives, in words; "" where nobody did."""
    try:
        signed = _read_json(path)
        text = memory.holder_text(signed)
        with suppress(PermissionError):  # it lives, as another user
            os.kill(signed["pid"], 0)
    except (*BROKEN_JSON, ProcessLookupError):
        return ""
    return text

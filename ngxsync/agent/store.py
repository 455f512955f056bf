"""What the peer keeps in STATE/peer: the accepted record, manifests, answers of runs, old contents by sha256, the two locks.

Everything is 0700/0600, written whole to a temporary name and renamed, so a crash leaves the old or the new.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from typing import Any, Dict, Iterator, List, Optional

from . import kernel
from . import manifest as manifests
from .known import Known, read_known, write_known

LOCK_WAIT_S = 5.0
RUN_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}\Z")
BLOB_NAME = re.compile(r"[0-9a-f]{64}\Z")


class Damaged(Exception):
    """A record is there and cannot be read: what it said is not known."""


class Busy(Exception):
    """Another process holds the lock; `holder` is what it wrote there: {pid, run, since, written_by}."""

    def __init__(self, holder: Dict[str, Any]) -> None:
        super(Busy, self).__init__("locked by process %s" % holder.get("pid", "?"))
        self.holder = holder


def fsync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: str, data: bytes) -> None:
    """Write, fsync, rename, fsync the folder: after this returns the file survives a power cut."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_folder(os.path.dirname(path))


def encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


class Store:
    """STATE/peer of one host. Opening it creates nothing; `prepare` does."""

    def __init__(self, state_dir: str) -> None:
        self.root = os.path.join(state_dir, "peer")
        self.journal = os.path.join(self.root, "journal")

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def prepare(self) -> None:
        """Make the folders, 0700. Raises OSError where that is impossible (read-only, full)."""
        os.makedirs(os.path.dirname(self.root), mode=0o700, exist_ok=True)
        for folder in ("", "runs", "manifests", "blobs"):
            os.makedirs(self.path(folder), mode=0o700, exist_ok=True)
        self._close()

    def _close(self) -> None:
        """Where somebody opened the folders to others: old contents and records are nobody else's, nor is the agent's code."""
        state = os.path.dirname(self.root)
        for folder, open_to_others in ((self.root, 0o077), (os.path.join(state, "agent"), 0o077), (state, 0o022)):
            with contextlib.suppress(FileNotFoundError):
                mode = stat.S_IMODE(os.stat(folder).st_mode)
                if mode & open_to_others:
                    os.chmod(folder, mode & ~open_to_others)

    def read(self, name: str) -> Optional[Any]:
        """One JSON record, None where there is none. Raises Damaged."""
        try:
            with open(self.path(name), "rb") as stream:
                return json.loads(stream.read().decode("ascii"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise Damaged(self.path(name))

    def write(self, name: str, value: Any) -> None:
        write_durably(self.path(name), encoded(value))

    # the accepted record

    def accepted(self) -> Optional[Dict[str, Any]]:
        """Raises Damaged."""
        record = self.read("accepted.json")
        if record is not None and not (isinstance(record, dict) and {"generation", "run", "id"} <= set(record)):
            raise Damaged(self.path("accepted.json"))
        return record

    def accepted_manifest(self, record: Optional[Dict[str, Any]]) -> manifests.Manifest:
        """The manifest that the record names, {} for no record. Raises Damaged where it is lost or unreadable."""
        if record is None:
            return {}
        name = self._manifest_name(record["run"])
        seen, differing = {name}, []
        while True:  # an older one is kept as what differs from the next (thin.py)
            try:
                found: Any = self.read(name)
                if "next" not in found:
                    manifest = manifests.from_json(found)
                    break
                differing.append(manifests.delta_from_json(found["delta"]))
                following = self._manifest_name(found["next"])
                if following in seen:
                    raise ValueError("in a circle")
            except (ValueError, TypeError, AttributeError, KeyError):
                raise Damaged(self.path(name))
            name = following
            seen.add(name)
        for each in reversed(differing):
            manifest = manifests.patched(manifest, each)
        return manifest

    def manifest_stamp(self, record: Optional[Dict[str, Any]]) -> List[int]:
        """What changes where the file of that manifest does; [] for no record, or where it is lost."""
        try:
            found = None if record is None else os.stat(self.path(self._manifest_name(record["run"])))
        except OSError:
            found = None
        return [] if found is None else [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]

    @staticmethod
    def _manifest_name(run: str) -> str:
        return os.path.join("manifests", _checked_run(run) + ".json")

    def accept(self, record: Dict[str, Any], planned: manifests.Manifest) -> None:
        """Step 7 of TRANSACTION's order on disk: manifest first, then the record that names it; it also stays with the run."""
        self.write(self._manifest_name(record["run"]), manifests.to_json(planned))
        self.write(os.path.join("runs", record["run"] + ".accepted.json"), record)
        self.write("accepted.json", record)

    # answers of runs

    def answer(self, run: str) -> Optional[Dict[str, Any]]:
        return self.read(os.path.join("runs", _checked_run(run) + ".json"))

    def keep_answer(self, run: str, answer: Dict[str, Any]) -> None:
        self.write(os.path.join("runs", _checked_run(run) + ".json"), answer)

    def next_sequence(self, warnings: List[str]) -> int:
        """History is ordered by this number, never by clock. Called under the transaction lock.

        Where its record is damaged or lost, it goes on after the latest kept answer: no run is lost for a number.
        """
        try:
            last = self.read("sequence.json")
        except Damaged:
            last = ""
        if not isinstance(last, int):
            if last is not None:
                warnings.append("%s was damaged: counted on from the kept answers" % self.path("sequence.json"))
            last = max((answer.get("sequence", 0) for answer in self.answers()), default=0)
        self.write("sequence.json", last + 1)
        return last + 1

    def answers(self) -> Iterator[Dict[str, Any]]:
        """Those of all runs that are kept and can be read, in no order."""
        try:
            names = os.listdir(self.path("runs"))
        except OSError:
            return
        for name in names:
            # RUN.json; beside it may lie RUN.accepted.json, RUN.changes.json and RUN.edits.json
            if name.endswith(".json") and name.count(".") == 1:
                with contextlib.suppress(Damaged):
                    answer = self.answer(name[: -len(".json")])
                    if answer is not None:
                        yield answer

    # old contents

    def blob(self, sha256: str) -> str:
        if not BLOB_NAME.match(sha256):
            raise ValueError("not a sha256: %r" % sha256)
        return self.path("blobs", sha256[:2], sha256)

    def has_blob(self, sha256: str, size: Optional[int] = None) -> bool:
        """Of this size, where it is told: after a power cut a name may be there whose bytes never came to the disk."""
        try:
            return size in (None, os.stat(self.blob(sha256)).st_size)
        except FileNotFoundError:
            return False

    def keep_blob(self, source: str, dir_fd: int) -> str:
        """Copy a file's bytes into the store, named by what was copied: its sha256. `sync_blobs` makes it durable.

        Always a copy: a shared inode would let the next append to the live file corrupt it. Raises OSError.
        """
        temporary = self.path("blobs", "new.%d" % os.getpid())
        digest = hashlib.sha256()
        source_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            with os.fdopen(source_fd, "rb") as reader, open(temporary, "wb") as writer:
                for block in iter(lambda: reader.read(1 << 20), b""):
                    digest.update(block)
                    writer.write(block)
            target = self.blob(digest.hexdigest())
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            os.rename(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        return digest.hexdigest()

    def sync_blobs(self) -> None:
        """One syncfs for all that was kept: 10,000 fsyncs would take minutes."""
        fd = os.open(self.path("blobs"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            kernel.syncfs(fd)
        finally:
            os.close(fd)

    # what scans learnt

    def known(self) -> Known:
        return read_known(self.path("cache.json"))

    def keep_known(self, known: Known) -> None:
        write_known(self.path("cache.json"), known)

    # the two locks

    @contextlib.contextmanager
    def lock(self, name: str, run: str, wait_s: float = 0.0, written_by: str = "") -> Iterator[None]:
        """Hold "transaction" or "mixed" for a run, of this host's or of `written_by`. flock: a dead process holds nothing.

        Raises Busy after wait_s.
        """
        fd = os.open(self.path(name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(fd, wait_s)
            with contextlib.suppress(OSError):  # a full disk costs the lock its name, never the lock
                os.ftruncate(fd, 0)
                signature = {"pid": os.getpid(), "run": run, "since": time.time(), "written_by": written_by}
                os.pwrite(fd, encoded(signature), 0)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # nor may a disk that turned read-only hide the answer
                    os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    @staticmethod
    def _take(fd: int, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if time.monotonic() >= end:
                raise Busy(_holder(os.pread(fd, 4096, 0)))
            time.sleep(0.02)

    def holder(self, name: str) -> Optional[Dict[str, Any]]:
        """Who holds the lock now, None where nobody does."""
        try:
            fd = os.open(self.path(name + ".lock"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return _holder(os.pread(fd, 4096, 0))
        finally:
            os.close(fd)


def _holder(text: bytes) -> Dict[str, Any]:
    try:
        return dict(json.loads(text.decode("ascii")))
    except (ValueError, TypeError):
        return {}


def _checked_run(run: str) -> str:
    if not RUN_NAME.match(run):
        raise ValueError("not a run: %r" % run)
    return run

"""This host's own nginx seen from without, by the agent's code: what its workers have read, and what it wrote to its error log."""

from __future__ import annotations

import glob
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ngxsync.agent import errorlog, running
from ngxsync.agent.nginx import NGINX_ERRORS, Nginx, find_nginx, is_alive
from ngxsync.agent.proof import Child, family
from ngxsync.agent.trees import first_line
from ngxsync.core.errors import StateError
from ngxsync.core.following import SERIOUS, Found, Kept, Serving, kept_from_json, kept_to_json
from ngxsync.core.wording import disk_message

FIND_EVERY_S = 5.0  # where none runs: to look for one starts a process
LONGEST_LINE = 300


class RunningNginx:
    """flow.following.MasterNginx. `settings` are the `nginx` part of a request to the agent; `file` keeps what was seen."""

    def __init__(self, settings: Mapping[str, Any], file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._file, self._clock = dict(settings), file, clock
        self._lock = threading.Lock()
        self._known: Nginx | None = None
        self._looked_at: float | None = None
        self._marks: list[errorlog.LogMark] = []

    def serving(self) -> Serving:
        try:
            nginx = self._find()
        except NGINX_ERRORS as error:
            return Serving("unknown", why=str(error))
        if nginx.problem or nginx.running is None:
            single = f"process {nginx.single} runs without a main process (master_process off)"
            why = nginx.problem or (single if nginx.single else "")
            return Serving("unknown" if why else "down", why=why)
        pid, children = nginx.running.pid, family(nginx.running.pid)
        if not any(map(running.serves, children.values())):
            return Serving("unknown", why=f"process {pid} of it has no worker")
        loaded, is_known = running.loaded_at(pid, children, self._logs(nginx))
        main = _main(nginx)
        return Serving("running", "", main, _mark(main, children), loaded, time.time() - loaded, is_known)

    def _find(self) -> Nginx:
        nginx = find_nginx(self._settings)
        with self._lock:
            self._known, self._looked_at = nginx, self._clock()
        return nginx

    def mark(self) -> str:
        """As Serving.mark, "" where none runs. Cheap while it lives: to be asked every second."""
        with self._lock:
            nginx, looked_at = self._known, self._looked_at
        if nginx is None or nginx.running is None or not is_alive(nginx.running):
            if looked_at is not None and self._clock() - looked_at < FIND_EVERY_S:
                return ""
            try:
                nginx = self._find()
            except NGINX_ERRORS:
                return ""
        return _mark(_main(nginx), family(nginx.running.pid)) if nginx.running else ""

    def files(self, patterns: Collection[str]) -> dict[str, Found]:
        """The files that are there of these paths and patterns."""
        folders: dict[str, tuple[float, str]] = {}
        found = {}
        for pattern in patterns:
            for path in glob.glob(pattern) if any(mark in pattern for mark in "*?[") else [pattern]:
                file = _found(path, folders) if path not in found else None
                if file is not None:
                    found[path] = file
        return found

    def refusal(self, since: float) -> str:
        """What nginx said last to a reload that it refused since then, "" where it refused none."""
        nginx = self._known
        entries = errorlog.entries_since(self._logs(nginx), since, ("emerg",)) if nginx else []
        return running.last_refusal(entries)

    def has_refused(self) -> bool:
        """Whether an [emerg] was logged since the last call: only what is new is read. To be asked every second."""
        nginx, before = self._known, self._marks
        self._marks = errorlog.mark_logs(self._logs(nginx)) if nginx else []  # first: rather twice than never
        return any("[emerg]" in line for line in errorlog.read_since(before))

    def complaint(self, serving: Serving, until: float, logs: Collection[str]) -> str:
        """The first serious line since the workers were born, of them or the main process; also of these logs."""
        nginx = self._known
        if nginx is None or nginx.running is None:
            return ""
        pids = running.serving_pids(nginx.running.pid)
        entries = errorlog.entries_since({*self._logs(nginx), *logs}, serving.loaded, SERIOUS, until)
        found = next((entry for entry in entries if entry.pid in pids and entry.at < until), None)
        return f"{found.path}: [{found.level}] {found.text}"[:LONGEST_LINE] if found else ""

    def unread_logs(self) -> tuple[str, ...]:
        nginx = self._known
        return tuple(errorlog.log_paths(nginx.conf, nginx)[1]) if nginx else ()

    @staticmethod
    def _logs(nginx: Nginx) -> list[str]:
        return errorlog.log_paths(nginx.conf, nginx)[0]

    def recall(self) -> Kept | None:
        """What was kept; damaged is as if nothing were: it is found anew at the next reload."""
        try:
            return kept_from_json(json.loads(self._file.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def remember(self, kept: Kept) -> None:
        """Raises StateError where the disk does not let it write."""
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._file.parent, prefix=f".{self._file.name}.")  # 0600
            try:
                with os.fdopen(handle, "w", encoding="ascii") as stream:
                    json.dump(kept_to_json(kept), stream)
                os.replace(name, self._file)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            raise StateError(disk_message(self._file, "write", error)) from error


def _main(nginx: Nginx) -> str:
    """The main process's name across boots."""
    if nginx.running is None:
        return ""
    return f"{first_line('/proc/sys/kernel/random/boot_id')} {nginx.running.pid} {nginx.running.start}"


def _mark(main: str, children: Mapping[Child, bytes]) -> str:
    """With the oldest of those that serve: a reload bears all of them anew, one that died alone is younger."""
    oldest = min((child[::-1] for child, title in children.items() if running.serves(title)), default=None)
    return f"{main} {oldest[0]}" if oldest else ""


def _found(path: str, folders: dict[str, tuple[float, str]]) -> Found | None:
    """None where it is not there, or is no file. `folders` keeps what is known of directories."""
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = running.links_above(folder, {}), os.path.realpath(folder)
    changed, real_folder = folders[folder]
    try:
        info, link = os.stat(path), os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(info.st_mode):
        return None
    is_link = info.st_ino != link.st_ino or info.st_dev != link.st_dev
    real = os.path.realpath(path) if is_link else os.path.join(real_folder, name)
    return Found(max(changed, info.st_ctime, link.st_ctime), real, (info.st_ino, info.st_size, info.st_mtime_ns))

"""Reload nginx and establish that it runs the new configuration (TRANSACTION, reload and prove).

Logs refute, never prove. No verdict before the main process has taken our signal and is idle again: a foreign reload in
progress bears workers of the old configuration.
"""

import os
import re
import signal
import subprocess
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from .nginx import (
    SHUTTING_DOWN,
    WORKER_TITLE,
    Nginx,
    Running,
    is_alive,
    main_directives,
    read_title,
    start_time,
    value_of,
)

LIVE_S = 0.2
POLL_S = 0.003
COMMAND_GRACE_S = 2.0  # a reload command may return before it has signalled

Worker = Tuple[int, int]  # pid and start time: a reused pid is another worker
LogMark = NamedTuple("LogMark", [("path", str), ("inode", int), ("offset", int)])
# `outcome`: proven, refused, timeout (no verdict), died (the main process is gone)
Proof = NamedTuple(
    "Proof", [("outcome", str), ("reason", str), ("lines", List[str]), ("bore_worker", bool), ("seconds", float)]
)


def is_idle(pid: int) -> bool:
    """SIGHUP neither blocked (1 while it reads a configuration) nor pending: bit 0 of SigBlk and of ShdPnd; and it sleeps.

    A signal that is just being taken is for an instant neither pending nor blocked: then the process runs.
    """
    try:
        with open("/proc/%d/status" % pid, "rb") as stream:
            text = stream.read()
    except OSError:
        return False
    masks = dict(re.findall(rb"^(SigBlk|ShdPnd):\s*([0-9a-f]+)$", text, re.M))
    return b"State:\tS" in text and not any(int(mask, 16) & 1 for mask in masks.values())


def children(pid: int) -> List[int]:
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid)) as stream:
            return [int(word) for word in stream.read().split()]
    except FileNotFoundError:
        return _children_by_stat(pid)


def _children_by_stat(pid: int) -> List[int]:
    """For kernels without CONFIG_PROC_CHILDREN."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, "rb") as stream:
                    text = stream.read()
            except OSError:
                continue
            if int(text[text.rindex(b")") + 2 :].split()[1]) == pid:
                found.append(int(name))
    return found


def workers(pid: int) -> Dict[Worker, bool]:
    """Living workers -> whether they are shutting down; cache manager and loader are none."""
    result = {}
    for child in children(pid):
        title = read_title(child)
        if title.startswith(WORKER_TITLE):
            result[(child, start_time(child))] = SHUTTING_DOWN in title
    return result


def log_paths(conf: str, nginx: Nginx) -> Tuple[List[str], List[str]]:
    """(error logs of the main context of a configuration, values that cannot be read such as syslog:)."""
    directives = main_directives(conf, nginx.prefix, nginx.args)
    values = [args[0] for name, args in directives if name == "error_log" and args]
    values = values or [value_of(nginx.args, "-e") or nginx.build.error_log]
    unreadable = [value for value in values if value == "stderr" or value.startswith(("syslog:", "memory:"))]
    return [os.path.join(nginx.prefix, value) for value in values if value not in unreadable], unreadable


def mark_logs(paths: List[str]) -> List[LogMark]:
    marks = []
    for path in sorted(set(paths)):
        try:
            info = os.stat(path)
            marks.append(LogMark(path, info.st_ino, info.st_size))
        except OSError:
            marks.append(LogMark(path, 0, 0))
    return marks


def read_since(marks: List[LogMark]) -> List[str]:
    """Lines written since the marks; a rotated or recreated log is read from its start."""
    lines: List[str] = []
    for mark in marks:
        try:
            with open(mark.path, "rb") as stream:
                info = os.fstat(stream.fileno())
                same = info.st_ino == mark.inode and info.st_size >= mark.offset
                stream.seek(mark.offset if same else max(0, info.st_size - (1 << 20)))
                lines += stream.read(1 << 20).decode("utf-8", "replace").splitlines()
        except OSError:
            continue
    return lines


_LINE = re.compile(r"^\S+ \S+ \[(\w+)\] (\d+)#")
_DEATH = re.compile(r"worker process (\d+) exited (?:with fatal code|on signal)")


def refusals(lines: List[str], ours: Set[int], base: Set[int]) -> List[str]:
    """Lines that refute: [emerg] of `ours` (main process, new workers), and violent deaths of workers outside `base`.

    Other processes, e.g. somebody's `nginx -t`, write to the same log and say nothing about our reload.
    """
    found = []
    for line in lines:
        head = _LINE.match(line)
        if head is None:
            continue
        death = _DEATH.search(line)
        if death is not None:
            if int(death.group(1)) not in base:
                found.append(line)
        elif head.group(1) == "emerg" and int(head.group(2)) in ours:
            found.append(line)
    return found


class Reload:
    """One signal and its proof. `clock` and `sleep` are time.monotonic and time.sleep."""

    def __init__(self, running: Running, marks: List[LogMark], timeout_s: float, command: str, probe: str) -> None:
        self.running, self.marks, self.timeout_s, self.command, self.probe = running, marks, timeout_s, command, probe
        self.base: Set[Worker] = set()
        self.born: Dict[Worker, float] = {}
        self.started = time.monotonic()
        self.end = self.started + timeout_s

    def run(self, before_signal: Callable[[], None]) -> Proof:
        """Signal and wait for a verdict. `before_signal` makes the phase durable; it is called once, before the signal."""
        before_signal()
        self.started = time.monotonic()
        self.end = self.started + self.timeout_s
        if not self._note_base():
            return self._verdict(
                "timeout" if is_alive(self.running) else "died", "the main process of nginx was not idle"
            )
        failed = self._send()
        if failed:
            return self._verdict("refused", failed)
        return self._watch()

    def _note_base(self) -> bool:
        """The workers of an idle main process, looked at twice: a reload that starts in between changes them."""
        while time.monotonic() < self.end and is_alive(self.running):
            if is_idle(self.running.pid):
                base = set(workers(self.running.pid))
                if is_idle(self.running.pid) and set(workers(self.running.pid)) == base:
                    self.base = base
                    return True
            time.sleep(POLL_S)
        return False

    def _send(self) -> str:
        if self.command == "SIGHUP":
            try:
                os.kill(self.running.pid, signal.SIGHUP)
            except OSError as error:
                return "SIGHUP could not be sent: %s" % error.strerror
            return ""
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", self.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=max(1.0, self.end - time.monotonic()),
            )
        except subprocess.TimeoutExpired:
            return "%s did not end in time" % self.command
        text = done.stdout.decode("utf-8", "replace").strip()[-500:]
        return "%s exited with %d: %s" % (self.command, done.returncode, text) if done.returncode else ""

    def _watch(self) -> Proof:
        while time.monotonic() < self.end:
            if not is_alive(self.running):
                return self._verdict("died", "the main process of nginx died")
            idle = is_idle(self.running.pid)
            living = workers(self.running.pid)
            now = time.monotonic()
            for worker in living:
                if worker not in self.base:
                    self.born.setdefault(worker, now)
            verdict = self._judge(living, now) if idle else None
            if verdict is not None:
                return verdict
            time.sleep(POLL_S)
        return self._verdict("timeout", "nginx gave no verdict within %.0f s" % self.timeout_s)

    def _judge(self, living: Dict[Worker, bool], now: float) -> Optional[Proof]:
        """The main process is idle with nothing pending: it has taken our signal and read what it wanted to."""
        if not self.born:
            if self.command != "SIGHUP" and now - self.started < COMMAND_GRACE_S and not self._refusals():
                return None
            return self._verdict("refused", "nginx refused the new configuration")
        dead = [worker for worker in self.born if worker not in living]
        if dead:
            return self._verdict("refused", "a new worker of nginx died: %s" % ", ".join(str(pid) for pid, _ in dead))
        if any(worker in self.base and not leaving for worker, leaving in living.items()):
            return None
        if now - max(self.born.values()) < LIVE_S:
            return None
        if self._refusals():
            return self._verdict("refused", "the error log refutes the reload")
        if self.probe:
            answer = ask(self.probe, max(0.5, self.end - now))
            if answer:
                return self._verdict("refused", answer)
        return self._verdict("proven", "")

    def _refusals(self) -> List[str]:
        ours = {self.running.pid} | {pid for pid, _ in self.born}
        return refusals(read_since(self.marks), ours, {pid for pid, _ in self.base})

    def _verdict(self, outcome: str, reason: str) -> Proof:
        return Proof(outcome, reason, self._refusals()[:20], bool(self.born), time.monotonic() - self.started)


def wait_idle(running: Running, timeout_s: float) -> bool:
    """Until the main process is idle with nothing pending; False where that does not come, or it died."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if not is_alive(running):
            return False
        if is_idle(running.pid):
            return True
        time.sleep(POLL_S)
    return False


def ask(url: str, timeout_s: float) -> str:
    """ "" where the URL answers 2xx or 3xx, else the reason. Asked until the time is over: a fresh worker may be slow."""
    import ssl
    import urllib.error
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
            return None

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it asks itself, by address
    handlers = [NoRedirect(), urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    opener = urllib.request.build_opener(*handlers)
    end, reason = time.monotonic() + timeout_s, ""
    while True:
        try:
            with opener.open(url, timeout=max(0.2, end - time.monotonic())):
                return ""
        except urllib.error.HTTPError as error:
            if 300 <= error.code < 400:
                return ""
            reason = "probe %s answered %d" % (url, error.code)
        except Exception as error:  # noqa: BLE001 - whatever a server can do to http.client is an answer too
            reason = "probe %s: %s" % (url, error)
        if time.monotonic() >= end - 0.1:
            return reason
        time.sleep(0.1)

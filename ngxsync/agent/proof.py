"""Reload nginx and establish that it runs the new configuration (TRANSACTION, reload and prove).

Logs refute, never prove. No verdict before the main process has taken our signal and is idle again: a foreign reload in
progress bears workers of the old configuration.
"""

import os
import re
import signal
import subprocess
import time
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from .errorlog import LogMark, read_since, refusals, text_of
from .nginx import MASTER_TITLE, SHUTTING_DOWN, WORKER_TITLE, Running, is_alive, read_title, start_time

LIVE_S = 0.2
POLL_S = 0.003
CALM_S = 0.1  # how long nothing may happen before "it took the signal and did nothing" is believed
COMMAND_GRACE_S = 2.0  # a reload command may return before it has signalled

Child = Tuple[int, int]  # pid and start time: a reused pid is another process
# `outcome`: proven, refused, timeout (no verdict), died (the main process is gone). `bore_worker`: nginx left the old
# configuration, be it in part, so that an undo must signal it
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


def family(pid: int, known: Iterable[Child] = ()) -> Dict[Child, bytes]:
    """Children -> their titles. One just being born still has the title of its parent, a dead one not yet waited for has none.

    Where one ends while the kernel lists them it may leave out others, which live: those of `known` are looked for.
    """
    found = [(child, start_time(child)) for child in children(pid)]
    found += [(child, start) for child, start in set(known).difference(found) if start_time(child) == start]
    return {child: read_title(child[0]) for child in found}


def is_worker(title: bytes) -> bool:
    """Cache manager and loader are none."""
    return title.startswith(WORKER_TITLE)


def _stays(child: Child, living: Dict[Child, bytes]) -> bool:
    return child in living and is_worker(living[child]) and SHUTTING_DOWN not in living[child]


class Reload:
    """One signal and its proof. `command` is SIGHUP or a shell command, `probe` a URL or ""."""

    def __init__(self, running: Running, marks: List[LogMark], timeout_s: float, command: str, probe: str) -> None:
        self.running, self.marks, self.timeout_s, self.command, self.probe = running, marks, timeout_s, command, probe
        self.base: Dict[Child, bytes] = {}
        self.first: Dict[Child, float] = {}  # when a child outside the base was first seen, whatever its title
        self.last: Dict[Child, float] = {}  # and last
        self.born: Dict[Child, float] = {}  # when it was first seen as a worker
        self.left_old = False
        self.failure = ""  # of the command
        self.started = time.monotonic()
        self.signalled = self.started
        self.end = self.started + timeout_s

    def run(self, before_signal: Callable[[], None]) -> Proof:
        """Signal and wait for a verdict. `before_signal` makes the phase durable; it is called once, before the signal."""
        before_signal()
        self.started = time.monotonic()
        self.end = self.started + self.timeout_s
        if not self._note_base():
            outcome = "timeout" if is_alive(self.running) else "died"
            return self._verdict(outcome, "the main process of nginx was not idle" if outcome == "timeout" else DIED)
        self.failure = send(self.running.pid, self.command, max(1.0, self.end - time.monotonic()))
        self.signalled = time.monotonic()
        self.end = max(self.end, self.signalled + 2 * CALM_S)  # a command that hung has used all the time
        return self._watch()

    def _note_base(self) -> bool:
        """The children of an idle main process, looked at twice: a reload that starts in between changes them."""
        while time.monotonic() < self.end and is_alive(self.running):
            if is_idle(self.running.pid):
                base = family(self.running.pid)
                if is_idle(self.running.pid) and set(family(self.running.pid)) == set(base):
                    self.base = base
                    return True
            time.sleep(POLL_S)
        return False

    def _watch(self) -> Proof:
        while True:
            looked = time.monotonic()
            if not is_alive(self.running):
                return self._verdict("died", DIED)
            is_quiet = is_idle(self.running.pid)
            living = self._look(looked)
            cost_s = time.monotonic() - looked  # of looking at hundreds of workers; a slow probe is none of it
            verdict = self._judge(living, looked) if is_quiet else None
            if verdict is not None:
                return verdict
            if time.monotonic() >= self.end:
                return self._verdict("timeout", self.failure or "nginx gave no verdict within %.0f s" % self.timeout_s)
            time.sleep(max(POLL_S, 2 * cost_s))

    def _look(self, now: float) -> Dict[Child, bytes]:
        found = family(self.running.pid, [*self.base, *self.first])
        for child, title in found.items():
            if child not in self.base:
                self.first.setdefault(child, now)
                self.last[child] = now
                if is_worker(title):
                    self.born.setdefault(child, now)
        living = {child: title for child, title in found.items() if title}
        self.left_old = self.left_old or bool(self.first) or any(not _stays(child, living) for child in self._old())
        return living

    def _old(self) -> List[Child]:
        """The workers that served when we signalled; others were already on their way out."""
        return [child for child in self.base if _stays(child, self.base)]

    def _judge(self, living: Dict[Child, bytes], now: float) -> Optional[Proof]:
        """The main process is idle with nothing pending: it has taken our signal and read what it wanted to."""
        unborn = [child for child, title in living.items() if child in self.first and title.startswith(MASTER_TITLE)]
        if not self.born:
            return None if unborn else self._judge_without_workers(now)
        dead = [child for child in self.born if child not in living and not self._is_superseded(child)]
        if dead:
            pids = ", ".join(str(pid) for pid, _ in dead)
            return self._verdict("refused", self._told("a new worker of nginx died: %s" % pids))
        if unborn or any(_stays(child, living) for child in self._old()):
            return None
        new = [child for child in self.born if _stays(child, living)]
        if not new or now - max(self.born[child] for child in new) < LIVE_S:
            return None
        return self._judge_living_workers(now)

    def _is_superseded(self, child: Child) -> bool:
        """Told to leave by a later reload, whose workers were there long before it went; who is respawned comes after a death."""
        later = [seen for other, seen in self.born.items() if seen > self.born[child] + CALM_S / 2]
        return any(self.last[child] > seen + CALM_S / 2 for seen in later)

    def _judge_without_workers(self, now: float) -> Optional[Proof]:
        refused = self._refusals()
        if self.failure and not self.left_old and now - self.signalled >= CALM_S:
            return self._verdict("refused", self.failure)
        patience = CALM_S if self.command == "SIGHUP" else COMMAND_GRACE_S
        changed = max([self.signalled] + list(self.last.values()))
        if not refused and now - changed < patience or now - changed < POLL_S:
            return None
        if self.left_old:
            return self._verdict("refused", self._told("the new workers of nginx died"))
        return self._verdict("refused", self._told("nginx refused the new configuration"))

    def _judge_living_workers(self, now: float) -> Optional[Proof]:
        if self._refusals():
            return self._verdict("refused", self._told("the error log refutes the reload"))
        if self.failure:
            return self._verdict("refused", self.failure)
        if not self.probe:
            return self._verdict("proven", "")
        from .probe import ask  # http and tls: 13 ms that most runs need not spend

        answer = ask(self.probe, max(0.5, self.end - now))
        if answer:
            return self._verdict("refused", answer)
        self.probe = ""  # and looked at once more: a request can end a worker
        return None

    def _told(self, reason: str) -> str:
        lines = self._refusals()
        return "%s: %s" % (reason, text_of(lines[0])) if lines else reason

    def _refusals(self) -> List[str]:
        born, base = {pid for pid, _ in self.first}, {pid for pid, _ in self.base}
        return refusals(read_since(self.marks), self.running.pid, born, base)

    def _verdict(self, outcome: str, reason: str) -> Proof:
        return Proof(outcome, reason, self._refusals()[:20], self.left_old, time.monotonic() - self.started)


DIED = "nginx is down: its main process has ended"


def send(pid: int, command: str, timeout_s: float) -> str:
    """Ask nginx to read its configuration again, by SIGHUP or a shell command: "" or what went wrong."""
    if command != "SIGHUP":
        return run_command(command, timeout_s)
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        return "SIGHUP could not be sent: %s" % error.strerror
    return ""


def run_command(command: str, timeout_s: float) -> str:
    """ "" where the shell command exits 0 in time, else what went wrong. What outlasts the time is killed with all its children."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    process = subprocess.Popen(
        ["/bin/sh", "-c", "umask 022; " + command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    try:
        text = process.communicate(timeout=timeout_s)[0].decode("utf-8", "replace").strip()[-500:]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "`%s` did not end within %.0f s" % (command, timeout_s)
    return "`%s` exited with %d: %s" % (command, process.returncode, text) if process.returncode else ""


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

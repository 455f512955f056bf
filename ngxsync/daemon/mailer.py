"""The threads that tell: one gathers what was left and sends the mail, one runs the command of `on_event`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ngxsync.core.events import Event
from ngxsync.daemon.post import Post
from ngxsync.daemon.telling import Telling
from ngxsync.edges import smtp
from ngxsync.edges.spool import Spool

logger = logging.getLogger("ngxsync.daemon")

LOOK_S = 2.0  # a stat, where nobody wakes it
AFTER_A_BUG_S = 60.0
FLUSH_S = 240.0  # beyond the limit of mails in a row, and some tries


class Caller:
    """One command at a time, in the order of the events."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._is_stopping = False
        self._running: Event | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="on_event", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def stop(self, *, goes_on: bool) -> None:
        """After the command that runs. Does not wait. While the spool is held still: from now on nothing is noted here.

        `goes_on`: this process lives on, and so does that command; who tells next does not run it once more.
        """
        with self._changed:
            self._is_stopping = True
            if goes_on and self._running is not None:
                self._post.note_called(self._running)
            self._changed.notify_all()

    def finish(self, timeout_s: float) -> None:
        """Waits until all that was to be called is called, or the time is over."""
        end = time.monotonic() + timeout_s
        while self._post.next_call() is not None and self._thread.is_alive() and time.monotonic() < end:
            self._thread.join(0.05)

    def _loop(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._post.call(event)
            except Exception:
                logger.exception("a bug of ngxsync: the command of on_event was not run")
                time.sleep(AFTER_A_BUG_S)
                continue
            with self._changed:
                if not self._is_stopping:
                    self._post.note_called(event)

    def _next(self) -> Event | None:
        """Waits for it; None where this is to end."""
        with self._changed:
            while not self._is_stopping and (event := self._post.next_call()) is None:
                self._changed.wait()
            self._running = None if self._is_stopping else event
            return self._running


class Mailer:
    """Tells for as long as it holds the spool; while another does, it waits for its turn."""

    def __init__(
        self,
        spool: Spool,
        post: Post,
        telling: Telling,
        remind_every_s: float | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spool, self._post, self._telling = spool, post, telling
        self._remind_every_s, self._clock = remind_every_s, clock
        self._caller = Caller(post)
        self._is_awake = self._is_stopping = self._is_ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="mail", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something was left in the spool."""
        with self._changed:
            self._is_awake = True
            self._changed.notify_all()

    def stop(self) -> None:
        """What waits stays for who tells next. Does not wait."""
        self._is_stopping = True
        self.wake()

    def end(self) -> None:
        """Before `stop`, where the daemon ends: the command that runs now may be ended with it, and is run once more."""
        self._is_ending = True

    def finish(self) -> None:
        """The daemon ends: what waits goes now, or stays for the next start.

        What is left meanwhile is seen to, too: who left it found the spool held, and went.
        """
        self.end()
        self.stop()
        self._thread.join(smtp.LAST_S)
        end = time.monotonic() + smtp.LAST_S
        is_over = False
        try:
            while not is_over:
                with self._spool.held() as is_ours:
                    known = set(self._spool.names())
                    if is_ours:
                        self._post.open()
                        self._post.take(self._telling.unleft())
                        self._post.send(is_last=True)
                is_over = not is_ours or set(self._spool.names()) <= known or time.monotonic() >= end
        except OSError as error:
            logger.warning("what waits to be told stays in the spool: %s", error.strerror)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _loop(self) -> None:
        while not self._is_stopping:
            try:
                with self._spool.held() as is_ours:
                    if is_ours:
                        self._tell()
            except OSError as error:
                logger.warning("nobody can be told, the spool cannot be opened: %s", error.strerror)
                self._wait(AFTER_A_BUG_S)
            except Exception:
                logger.exception("a bug of ngxsync: telling people ended")
                self._wait(AFTER_A_BUG_S)
            self._wait(LOOK_S)

    def _tell(self) -> None:
        self._post.open()
        self._caller.start()
        try:
            while True:
                self._pass()
                if self._is_stopping:
                    return
                due = self._post.due_at()
                self._wait(LOOK_S if due is None else max(0.0, min(LOOK_S, due - self._clock())))
        finally:
            self._caller.stop(goes_on=not self._is_ending)
            self._caller = Caller(self._post)

    def _pass(self) -> None:
        self._post.take(self._telling.unleft())
        self._post.remind(self._telling.reminders(self._remind_every_s))
        self._caller.wake()
        self._post.send()

    def _wait(self, seconds: float) -> None:
        with self._changed:
            if not self._is_awake and not self._is_stopping:
                self._changed.wait(seconds)
            self._is_awake = False


def flush(spool: Spool, post: Post, timeout_s: float = FLUSH_S) -> bool:
    """Tells what lies in the spool, and returns when nothing is left or the time is over. False where another tells.

    What is left while this ends is seen to before it returns: who left it found the spool held, and went.
    """
    end = time.monotonic() + timeout_s
    while True:
        with spool.held() as is_ours:
            if not is_ours:
                return False
            known = set(spool.names())
            _flush(post, end)
        if set(spool.names()) <= known or time.monotonic() >= end:
            return True


def _flush(post: Post, end: float) -> None:
    post.open()
    caller = Caller(post)
    caller.start()
    while True:
        post.take()
        caller.wake()
        post.send()
        due = post.due_at()
        if due is None or time.monotonic() >= end:
            break
        time.sleep(min(0.2, max(0.0, end - time.monotonic())))
    caller.finish(max(5.0, end - time.monotonic()))
    caller.stop(goes_on=False)

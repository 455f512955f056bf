"""A run that a person waits for: it works in a thread, while the main thread owns the terminal, its questions and Ctrl-C."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, TypeVar

from ngxsync.cli.options import say
from ngxsync.flow.brake import Brake

Result = TypeVar("Result")
Question = tuple[Callable[[], bool], "Future[bool]"]
# a signal that the kernel gave to another thread does not wake the main one: it is seen when that one wakes by itself
AWAKE_S = 0.25


class Foreground(Generic[Result]):
    """`brake` is the run's: Ctrl-C pulls it, and what has begun on a peer by then is waited for."""

    def __init__(self, brake: Brake) -> None:
        self._brake = brake
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self._result: Future[Result] = Future()

    def run(self, work: Callable[[], Result]) -> Result:
        """What `work` gives or raises. Raises KeyboardInterrupt where nothing had begun on any peer."""
        threading.Thread(target=self._work, args=[work], daemon=True).start()
        while True:
            try:
                if self._result.done():
                    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done; what is left is to say so
                    return self._result.result()
                self._put(self._next())
            except KeyboardInterrupt:
                begun = self._brake.pull()
                if not begun:
                    raise
                whose = " and ".join(f"{name}'s" for name in begun)
                say(f"interrupted: waiting for {whose} answer, which is safe to wait for; nothing more is begun")

    def _next(self) -> Question | None:
        while True:
            with suppress(queue.Empty):
                return self._questions.get(timeout=AWAKE_S)

    @staticmethod
    def _put(question: Question | None) -> None:
        if question is not None:
            ask, answer = question
            is_yes = False
            try:
                is_yes = ask()
            finally:
                answer.set_result(is_yes)

    def ask(self, question: Callable[[], bool]) -> bool:
        """From any thread: puts the question to the person, one at a time, in the main thread."""
        answer: Future[bool] = Future()
        self._questions.put((question, answer))
        return answer.result()

    def _work(self, work: Callable[[], Result]) -> None:
        try:
            self._result.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            self._result.set_exception(error)
        finally:
            self._questions.put(None)

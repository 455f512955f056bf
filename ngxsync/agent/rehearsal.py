"""`nginx -t` in a private view, for both hosts: over live + stage on the peer, over the tree as it is on the master."""

import os
import subprocess
import time
from typing import Any, Dict, List

from .answers import Failure
from .nginx import Nginx, test_argv, test_program
from .nginxtest import parse_nginx_t
from .view import Test, Verdict, ViewImpossible, run_in_view

TIMEOUT_S = 60.0


def rehearse(nginx: Nginx, mount_point: str, actions: List[List[Any]], timeout_s: float) -> Dict[str, Any]:
    """{passed, problems, output, seconds}. Raises Failure (rehearse) where no view can be made on this host."""
    os.makedirs(mount_point, mode=0o700, exist_ok=True)
    pid = nginx.running.pid if nginx.running else None
    test = Test(test_program(nginx), test_argv(nginx), mount_point, actions, pid, timeout_s)
    try:
        verdict = run_in_view(test)
    except ViewImpossible as error:
        raise Failure(
            "rehearse",
            "no private view for nginx -t can be made on this host (%s)" % error,
            where=mount_point,
            next="give the agent's user the rights to make one, or set `rehearse = live`, which tests only after applying",
        )
    return judged(verdict)


def judged(verdict: Verdict) -> Dict[str, Any]:
    problems = parse_nginx_t(verdict.output)
    passed = verdict.status == 0 and not verdict.timed_out
    if not passed and not any(problem["level"] == "error" for problem in problems):
        problems.append({"level": "error", "text": _why(verdict), "file": "", "line": 0})
    return {"passed": passed, "problems": problems, "output": verdict.output[-4000:], "seconds": verdict.seconds}


def _why(verdict: Verdict) -> str:
    if verdict.timed_out:
        return "nginx -t did not end within its time; it was stopped"
    if os.WIFSIGNALED(verdict.status):
        return "nginx -t was ended by signal %d" % os.WTERMSIG(verdict.status)
    last = verdict.output.strip().splitlines()[-1:] or ["no output"]
    return "nginx -t exited with %d: %s" % (os.WEXITSTATUS(verdict.status), last[0])


def test_live(nginx: Nginx, timeout_s: float) -> Dict[str, Any]:
    """`rehearse = live`: nginx -t on the live tree itself, side effects included."""
    started = time.monotonic()
    program = [test_program(nginx)] + test_argv(nginx)[1:]
    try:
        done = subprocess.run(
            program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        return judged(Verdict(0, (error.output or b"").decode("utf-8", "replace"), True, timeout_s))
    output = done.stdout.decode("utf-8", "surrogateescape")
    return judged(
        Verdict(
            done.returncode << 8 if done.returncode >= 0 else -done.returncode,
            output,
            False,
            time.monotonic() - started,
        )
    )

"""`nginx -t`, for both hosts: in a private view over live + stage on the peer, over the tree as it is on the master."""

import errno
import os
from typing import Any, Dict, List, Optional

from .answers import Failure
from .exchange import NotEmpty, PeerChanged
from .nginx import Nginx
from .nginxtest import parse_nginx_t
from .view import REPLAY, Test, Verdict, ViewImpossible, run_in_view

TIMEOUT_S = 60.0


def timeout_s(settings: Dict[str, Any]) -> float:
    """How long one nginx -t may take, in seconds."""
    return float(settings.get("test_timeout_s", TIMEOUT_S))


def rehearse(nginx: Nginx, actions: Optional[List[List[Any]]], timeout_s: float) -> Dict[str, Any]:
    """{passed, problems, output, seconds} of nginx -t with these actions replayed in a view; `actions` None is `rehearse = live`:
    no view, side effects included.

    Raises Failure (rehearse) where no view can be made on this host, PeerChanged or NotEmpty where the plan does not fit the tree.
    """
    pid = nginx.running.pid if nginx.running else None
    argv = [nginx.build.binary, "-t"] + nginx.args
    try:
        return judged(run_in_view(Test(nginx.program, argv, actions, pid, timeout_s)))
    except ViewImpossible as error:
        if error.step == REPLAY and error.number == errno.ENOTEMPTY:
            raise NotEmpty(error.path)
        if error.step == REPLAY and error.number in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ELOOP):
            raise PeerChanged(error.path)
        raise Failure(
            "rehearse",
            "no private view for nginx -t can be made on this host (%s)" % error,
            next="give the agent's user the rights to make one, or set `rehearse = live`, which tests only after applying",
        )


def judged(verdict: Verdict) -> Dict[str, Any]:
    problems = parse_nginx_t(verdict.output)
    passed = verdict.status == 0 and not verdict.timed_out
    if not passed and (verdict.timed_out or not any(problem["level"] == "error" for problem in problems)):
        problems.append({"level": "error", "text": _why(verdict), "file": "", "line": 0})
    return {"passed": passed, "problems": problems, "output": verdict.output[-4000:], "seconds": verdict.seconds}


def _why(verdict: Verdict) -> str:
    if verdict.timed_out:
        return (
            "nginx -t did not end within %.1f s (a name that is not resolved, a pipe that is read?); it was stopped"
            % verdict.seconds
        )
    if os.WIFSIGNALED(verdict.status):
        return "nginx -t was ended by signal %d" % os.WTERMSIG(verdict.status)
    last = verdict.output.strip().splitlines()[-1:] or ["no output"]
    return "nginx -t exited with %d: %s" % (os.WEXITSTATUS(verdict.status), last[0])

"""The verb show; and what the agent says to one who calls it by hand."""

import base64
import json
import os
import sys
from typing import Any, Callable, Dict, List

from . import journal
from .answers import Failure
from .directives import named_files, read_all
from .failures import busy_failure
from .manifest import Entry, is_clean, tree_of
from .nginx import NGINX_ERRORS, find_nginx
from .paths import Anchor
from .scan import Unstable, entry_at
from .statuslines import judge, status_lines
from .statuslines import shown as plain
from .store import Busy, Store
from .survey import Names

Answer = Dict[str, Any]

SHOW_LIMIT = 4 << 20
HELP = """\
usage: ngxsync-agent [status | recover] [--json]
       ngxsync-agent check-nginx [--root R] [--conf C] [--binary B] [--url U] [--interval S]
       ngxsync-agent notify [--vip A,B] TYPE NAME STATE PRIORITY | [--vip A,B] --fifo PATH

For the person who logs in on this host, a peer of ngxsync, whether its master lives or not.

  status   one word, whether this host may serve, why, and one thing to do; changes nothing
  recover  finishes or undoes a run that was interrupted; safe at any time, and twice

For keepalived (`ngxsync keepalived render` writes both lines).

  check-nginx  for vrrp_script: does nginx live, and does the URL answer? starts it where it is
               dead, at most three times in ten minutes, never over a configuration that fails
  notify       for notify, or for vrrp_notify_fifo_script with --fifo: tells the change of state;
               on a new master nginx is started, or reads what it has not read yet

Example:
  ngxsync-agent status --json

Exit statuses:
  0  it is said what is true (status); nothing is left open (recover); nginx lives (check-nginx)
  1  that was not possible, and the message says why; nginx fails (check-nginx)
  2  usage
  7  the undo itself failed: a person is needed, and the message says what to do
"""


def show(request: Answer) -> Answer:
    """The answer of a run, or the bytes of live files inside the trees (secrets by size and hash only, but for a pull)."""
    if "run" in request:
        return _show_run(Store(request["state_dir"]), request["run"])
    if request.get("pull"):
        from .pages import pages

        return pages(request)
    trees = [tree["path"] for tree in request["projection"]["trees"]]
    secrets = named_secrets(request["nginx"])
    return {"ok": True, "files": {path: show_file(path, trees, secrets) for path in request["paths"]}}


def _show_run(store: Store, run: str) -> Answer:
    answer = store.answer(run)
    if answer is not None:
        return {"ok": True, "run": run, "state": "done", "answer": answer}
    holder = store.holder("transaction") or {}
    opened = journal.read(store.journal)
    if holder.get("run") == run:
        return {"ok": True, "run": run, "state": "running", "answer": None}
    if opened is not None and opened.header["run"] == run:
        return {"ok": True, "run": run, "state": "open", "answer": None}
    answer = store.answer(
        run
    )  # it may have ended between these looks: else its master would forget that it was its own
    return {"ok": True, "run": run, "state": "unknown" if answer is None else "done", "answer": answer}


def show_file(path: str, trees: List[str], secrets: List[str]) -> Answer:
    tree = tree_of(path, trees)
    if tree in (None, path) or not is_clean(path):
        raise Failure("agent", "no file in the trees: %r" % path)
    try:
        with Anchor.at(tree) as anchor, anchor.parent(path) as (folder, name):
            entry = entry_at(name, folder, Names(False))
            if entry is None or entry.kind != "file":
                return {"text": None, "size": 0, "sha256": "", "secret": False}
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            with os.fdopen(fd, "rb") as stream:
                content = stream.read(SHOW_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {"text": None, "size": 0, "sha256": "", "secret": False}
    except Unstable:
        raise Failure("agent", "it is being written", where=path, next="look again when that has ended")
    except OSError as error:
        raise Failure("agent", str(error.strerror), where=path, next="see that the agent's user may read it")
    return shown(content, entry, os.path.realpath(path) in secrets)


def shown(content: bytes, entry: Entry, is_named: bool) -> Answer:
    """A file's bytes, of which `content` has at most SHOW_LIMIT + 1, unless it is a secret (`is_named`, or by what it holds) or large."""
    secret = is_named or b"PRIVATE KEY" in content
    hidden = secret or len(content) > SHOW_LIMIT
    text = None if hidden else base64.b64encode(content).decode("ascii")
    return {"text": text, "size": entry.size, "sha256": entry.content, "secret": secret}


def named_secrets(settings: Dict[str, Any]) -> List[str]:
    """Real paths of the files that this host's own configuration names as keys or passwords: it may go by a link."""
    try:
        nginx = find_nginx(settings)
        directives = read_all(nginx.conf, nginx.prefix)
    except NGINX_ERRORS:
        return []
    named = named_files(directives, os.path.dirname(nginx.conf), nginx.prefix)
    return [os.path.realpath(item.path) for item in named if item.role in ("key", "auth")]


def by_hand(verb: str, work: Callable[[Answer], Answer], as_json: bool = False) -> int:
    """`ngxsync-agent status` and `recover`, for the person who logs in on the backup."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    request = {"state_dir": os.path.dirname(os.path.dirname(folder))}
    if verb == "recover" and not as_json:
        _say_who_is_waited_for(Store(request["state_dir"]))
    try:
        answer = work(request)
    except Failure as failure:
        answer = failure.answer()
    if as_json:
        verdict = dict(judge(answer)._asdict()) if verb == "status" and answer["ok"] else {}
        lines = [json.dumps(dict(answer, **verdict))]
    elif not answer["ok"]:
        lines = _failure_lines(verb, answer["message"])
    else:
        lines = status_lines(answer) if verb == "status" else _recover_lines(answer)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if answer["ok"] else 7 if answer["code"] == "broken" else 1


def _say_who_is_waited_for(store: Store) -> None:
    holder = store.holder("transaction")
    if holder is not None:
        sys.stdout.write("recover: %s: waiting for its end\n" % busy_failure(Busy(holder)).message["what"])
        sys.stdout.flush()


def _recover_lines(answer: Answer) -> List[str]:
    done = "nothing was open"
    if answer.get("recovered") is not None:
        done = "run %s: %s" % (answer["recovered"], answer["result"])
    return ["recover: " + done] + [
        "edited since, kept in the store: " + plain(path) for path in answer.get("edited", [])
    ]


def _failure_lines(verb: str, message: Answer) -> List[str]:
    what = "%s: %s%s" % (verb, message["what"], " (%s)" % message["where"] if message["where"] else "")
    return [what, "  now: %s" % message["state"], "  next: %s" % message["next"]]

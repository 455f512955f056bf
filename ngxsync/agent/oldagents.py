"""Agent folders that nobody needs any more: every release installs one of its own (STATE/agent/HASH)."""

import os
import re
import shutil
import stat
from typing import List, Set

from . import journal

NAME = re.compile(r"[0-9a-f]{16}\Z|\.(new|old)-")
YOUNG_S = 86400.0  # it may be about to be used


def remove_old_agents(state_dir: str, own: str, journal_path: str, now: float) -> None:
    """All but the own one, the current one, and that of an open journal, unless young or at work. Called under the
    transaction lock. Raises OSError, journal.Damaged.
    """
    agents = os.path.join(state_dir, "agent")
    header = journal.read_header(journal_path) or {}
    try:
        kept = {own, os.readlink(os.path.join(agents, "current")), str(header.get("agent", ""))}
        old = [os.path.join(agents, name) for name in os.listdir(agents) if NAME.match(name) and name not in kept]
    except FileNotFoundError:
        return  # nothing is installed here
    old = [path for path in old if _is_old_folder(path, now)]
    at_work = running_from(old)
    for path in old:
        if path not in at_work:
            gone = os.path.join(agents, ".old-%s" % os.path.basename(path).lstrip("."))
            os.rename(path, gone)  # in one step: half a folder would pass for an agent
            shutil.rmtree(gone)


def _is_old_folder(path: str, now: float) -> bool:
    info = os.lstat(path)
    return stat.S_ISDIR(info.st_mode) and now - info.st_mtime > YOUNG_S


def running_from(folders: List[str]) -> Set[str]:
    """Those of these folders that a process here was started with."""
    found: Set[str] = set()
    for pid in filter(str.isdigit, os.listdir("/proc") if folders else []):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as stream:
                words = os.fsdecode(stream.read()).split("\0")
        except OSError:
            continue
        found.update(folder for folder in folders if folder in words)
    return found

"""What stands in the way of any run here, for people: a lock, a damaged record, a disk."""

import os
import shlex
import time
from typing import Optional

from .answers import Failure
from .journal import Damaged as JournalDamaged
from .store import Busy, Damaged, Store

UNCHANGED = "unchanged"
PUT_BACK = "its old files are back"
HALF = "the live tree may be half old, half new"
GOES_ON = "`ngxsync-agent recover` here, or the next run, goes on"


def failure_of(error: Exception, store: Store, is_open: Optional[bool] = None) -> Failure:
    """For people: what stands in the way of any run here. `is_open`: a run is left half done; None: where there is a journal."""
    if isinstance(error, Busy):
        return busy_failure(error)
    if isinstance(error, JournalDamaged):
        aside = "mv %s %s" % (shlex.quote(store.journal), shlex.quote(store.journal + ".damaged"))
        return Failure(
            "broken",
            "the journal of an interrupted run cannot be read: %s" % error,
            where=store.journal,
            state=HALF,
            next="compare with `ngxsync diff`; `%s` on %s; `ngxsync sync` then makes the trees whole"
            % (aside, os.uname().nodename),
        )
    if is_open is None:
        is_open = os.path.exists(store.journal)
    state, more = (HALF, "; then " + GOES_ON) if is_open else (UNCHANGED, "")
    if isinstance(error, Damaged):
        is_manifest = str(error).startswith(store.path("manifests", ""))  # lost, or as good as: no other file names it
        record = store.path("accepted.json") if is_manifest else "the file"
        hint = "move %s away; the next `ngxsync sync` is then a first contact%s" % (record, more)
        return Failure("disk", "a record of ngxsync cannot be read", where=str(error), state=state, next=hint)
    assert isinstance(error, OSError)
    what = "%s: %s" % (error.filename or store.root, error.strerror or error)
    hint = "see the space, rights and health of the file systems of %s" % os.uname().nodename + more
    return Failure("disk", what, state=state, next=hint)


def busy_failure(busy: Busy) -> Failure:
    """What holds the lock, by its own signature, which may be cut off or anything else."""
    pid, run, by, since = (busy.holder.get(name) for name in ("pid", "run", "written_by", "since"))
    try:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(since or "")))
    except (TypeError, ValueError, OverflowError, OSError):
        when = "a moment ago"
    doing = ", ".join(part for part in ("run %s" % run if run else "", "from %s" % by if by else "") if part)
    what = "%s%s is at work here since %s" % (
        "process %s" % pid if pid else "another process",
        " (%s)" % doing if doing else "",
        when,
    )
    return Failure("locked", what, next="wait until it ends; `ngxsync sync --wait 10m` on the master waits longer")

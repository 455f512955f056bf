"""What stands in the way of any run here, for people: a lock, a damaged record, a disk."""

import time

from .answers import Failure
from .journal import Damaged as JournalDamaged
from .store import Busy, Damaged, Store


def failure_of(error: Exception, store: Store) -> Failure:
    """For people: what stands in the way of any run here."""
    if isinstance(error, Busy):
        return busy_failure(error)
    if isinstance(error, JournalDamaged):
        return Failure(
            "broken",
            "the journal of an interrupted run cannot be read: %s" % error,
            where=store.journal,
            state="the live tree may be half old, half new",
            next="compare with `ngxsync diff`; move the journal away; `ngxsync sync` then makes the trees whole",
        )
    if isinstance(error, Damaged):
        hint = "move the file away; the next `ngxsync sync` is then a first contact"
        return Failure("disk", "a record of ngxsync cannot be read", where=str(error), next=hint)
    assert isinstance(error, OSError)
    what = "%s: %s" % (error.filename or store.root, error.strerror or error)
    return Failure("disk", what, next="see the space, rights and health of this host's file systems")


def busy_failure(busy: Busy) -> Failure:
    since = busy.holder.get("since")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since)) if since else "a moment ago"
    what = "process %s is at work here since %s" % (busy.holder.get("pid", "?"), when)
    return Failure("locked", what, next="wait until it ends")

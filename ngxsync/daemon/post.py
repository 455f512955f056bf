"""What waits to be told on this host, and how it goes: one mail for a burst, the command of `on_event` for each event.

Used by who holds the spool: the daemon's threads, or `ngxsync notify --flush`.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from ngxsync.core import outbox as outboxes
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import Message, NgxsyncError
from ngxsync.core.events import Event, event_from_json, event_to_json, is_wanted
from ngxsync.core.letter import Letter, Scene, address_of, write_letter
from ngxsync.core.memory import PeerRecord
from ngxsync.core.outbox import Outbox
from ngxsync.core.wording import one_line
from ngxsync.edges import smtp
from ngxsync.edges.addresses import carried_addresses
from ngxsync.edges.eventcommand import run_command
from ngxsync.edges.secretfile import read_secret
from ngxsync.edges.spool import OUTBOX, Spool

logger = logging.getLogger("ngxsync.daemon")

TICK_S = 1.0  # far longer than any


@dataclass(frozen=True)
class Knowledge:
    """What a mail says beside its events: `records` of the other hosts, `lasting` trouble that was told before."""

    records: Callable[[], tuple[PeerRecord, ...]]
    lasting: Callable[[], tuple[Event, ...]] = lambda: ()


class Post:
    """`own` is the [peer] that is this host, None where the configuration has none. `clock` is seconds since the epoch."""

    def __init__(
        self,
        config: Config,
        spool: Spool,
        host: str,
        own: PeerConfig | None,
        knowledge: Knowledge,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._spool, self._host, self._own = config, spool, host, own
        self._knowledge, self._clock = knowledge, clock
        self._outbox = Outbox()
        self._mark = -1
        self._is_unkept = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Whoever held the spool before has noted all it did."""
        found = outboxes.outbox_from_json(self._spool.read(OUTBOX))
        with self._lock:
            self._outbox = found if self._config.mail.to else outboxes.unaddressed(found)
            self._mark = -1
        self._spool.sweep(self._clock())

    def take(self, more: Iterable[Event] = ()) -> None:
        """What was left since the last time, and `more`. Costs next to nothing where nothing was."""
        mark, others = self._spool.mark(), tuple(more)
        if mark == self._mark and not others and not self._is_unkept:
            return
        # a folder that was changed just now may change once more in the same tick of the kernel's clock
        self._mark = mark if self._clock() - mark / 1e9 > TICK_S else -1
        found = [*self._read(), *others]
        mail = self._config.mail
        mailed = {event.name for event in found if mail.to and is_wanted(event, mail.on)}
        with self._lock:
            is_called = bool(self._config.on_event)
            self._keep(outboxes.taken(self._outbox, found, self._clock(), mailed=mailed, called=is_called))
            is_kept = not self._is_unkept
        if is_kept:
            self._forget(event.name for event in found)

    def _read(self) -> list[Event]:
        events: list[Event] = []
        for name in self._spool.names():
            try:
                events.append(event_from_json(self._spool.read_event(name), name))
            except OSError:
                continue
            except (ValueError, KeyError, TypeError, AttributeError):
                logger.warning("the spool has a file that is no event, it is removed: %s", one_line(name))
                self._forget([name])
        return events

    def _forget(self, names: Iterable[str]) -> None:
        try:
            self._spool.forget([name for name in names if name.endswith(".json")])
        except OSError as error:
            logger.warning("what was told cannot be removed from the spool: %s", error.strerror)

    def remind(self, events: Collection[Event]) -> None:
        """What lasts is told again."""
        if events and self._config.mail.to:
            wanted = [event for event in events if is_wanted(event, self._config.mail.on)]
            with self._lock:
                self._keep(outboxes.reminded(self._outbox, wanted, self._clock()))

    # mail

    def due_at(self) -> float | None:
        """When the next mail goes; None where nothing waits."""
        with self._lock:
            return outboxes.due_at(self._outbox, self._clock())

    def last_failure(self) -> str:
        """Why the latest try failed, "" where it did not."""
        with self._lock:
            return self._outbox.failure

    def owed_to(self) -> tuple[str, ...]:
        """Whom the mail server took no mail for yet."""
        with self._lock:
            return self._outbox.owed.addresses if self._outbox.owed else ()

    def waiting(self) -> int:
        with self._lock:
            return len(self._outbox.waiting)

    def send(self, *, is_last: bool = False) -> bool:
        """One try, where it is due. True where a mail went. `is_last`: also before its time, unless the latest try failed;
        it takes a short time then, whatever the server does."""
        now = self._clock()
        if not is_last:
            self._send_owed(now)
        with self._lock:
            box = outboxes.at(self._outbox, now)
            due = outboxes.due_at(replace(box, owed=None), now)
            if due is None or (due > now and not (is_last and not box.tries and outboxes.has_urgent(box))):
                self._keep(box)
                return False
            events, scene = outboxes.batch(box, now), self._scene(box, now)
            self._keep(outboxes.begun(box, now))
        try:
            letter = write_letter(events, scene)
            sent = self._deliver(letter, mark_of(events), smtp.LAST_S if is_last else smtp.LONGEST_S)
        except NgxsyncError as error:
            self._note_failure(error.message, unanswered=error.code == "unanswered")
            return False
        except Exception:
            self._note_failure(Message("a bug of ngxsync, see its traceback in the log"))
            raise
        now = self._clock()
        with self._lock:
            box = outboxes.sent(self._outbox, events, now, sent.refused)
            self._keep(outboxes.owing(box, sent.deferred, events, now))
        logger.info("mail sent to %s: %s", ", ".join(self._config.mail.to), letter.subject)
        for text in (*sent.refused, *(f"{address} yet" for address in sent.deferred)):
            logger.warning("the mail server did not take it for %s", one_line(text))
        return True

    def _send_owed(self, now: float) -> None:
        """The same mail once more for those whom the server did not take it for, where that is due."""
        with self._lock:
            box = self._outbox
            owed = box.owed
            if owed is None or min(owed.at, now + outboxes.RETRY_TO_S) > now:
                return
            scene = self._scene(Outbox(), now)
        left = tuple(address for address in owed.addresses if address in self._config.mail.to)
        refused: tuple[str, ...] = ()
        try:
            letter = write_letter(owed.events, scene)
            sent = self._deliver(letter, mark_of(owed.events), to=left) if left else smtp.Sent()
            left, refused = sent.deferred, sent.refused
        except NgxsyncError as error:
            if error.code == "address":
                left, refused = (), (error.message.what,)
        except Exception:
            left = ()  # a bug: it is told, and keeps no other mail from going
            raise
        finally:
            with self._lock:
                self._keep(outboxes.owed_again(self._outbox, left, self._clock(), refused))

    def _deliver(
        self, letter: Letter, mark: str, longest_s: float = smtp.LONGEST_S, to: tuple[str, ...] = ()
    ) -> smtp.Sent:
        mail = self._config.mail
        password = read_secret(mail.password_file, "[mail] password_file") if mail.password_file else ""
        message = smtp.make_mail(mail, self._host, letter.subject, letter.body, mark)
        return smtp.send(mail, message, self._host, password, longest_s, to)

    def deliver(self, write: Callable[[Scene], Letter]) -> smtp.Sent:
        """A mail of its own, now, beside all that waits. Raises MailFailed or ConfigError."""
        now = self._clock()
        return self._deliver(write(self._scene(Outbox(), now)), f"test.{int(now * 1000)}")

    def _note_failure(self, message: Message, *, unanswered: bool = False) -> None:
        reason = outboxes.why(message)
        with self._lock:
            known = self._outbox.failure
            self._keep(outboxes.failed(self._outbox, reason, self._clock(), unanswered=unanswered))
        if reason != known:
            logger.warning("the mail is kept, and sent later: %s", one_line(message.in_one_line))

    def _scene(self, box: Outbox, now: float) -> Scene:
        vips = self._config.vrrp.addresses
        own = self._own
        carried = carried_addresses()
        address = address_of(own.host if own else "", own.interface if own else "", vips, carried)
        try:
            records = self._knowledge.records()
        except NgxsyncError:
            records = ()  # the disk does not let it read: the events say more
        return Scene(
            host=self._host,
            address=address,
            now=now,
            vips=vips,
            carried=tuple(each for _, each in carried),
            peers=records,
            lasting=tuple(event for event in self._knowledge.lasting() if outboxes.is_due(event, now)),
            dropped=box.dropped,
            late=outboxes.waited(box, now),
            is_interrupted=outboxes.is_unsure(box),
        )

    # the command of on_event

    def next_call(self) -> Event | None:
        with self._lock:
            return next(iter(self._outbox.uncalled), None) if self._config.on_event else None

    def note_called(self, event: Event) -> None:
        """After its command, or while that runs: killed before, whoever tells next runs it once more."""
        with self._lock:
            self._keep(outboxes.called(self._outbox, event))

    def call(self, event: Event) -> None:
        """Runs the command for one event; a failure is told in the log, and the event is not tried again."""
        why = run_command(self._config.on_event, event_to_json(event))
        if why:
            logger.warning("the command of on_event failed for a %s event: %s", event.kind, one_line(why))

    def _keep(self, box: Outbox) -> None:
        """In memory in any case: a full disk is something to be told of. The lock is held."""
        if box == self._outbox and not self._is_unkept:
            return
        self._outbox = box
        try:
            self._spool.keep(OUTBOX, outboxes.outbox_to_json(box))
        except OSError as error:
            if not self._is_unkept:
                logger.warning("what waits to be told cannot be written down: %s", error.strerror)
            self._is_unkept = True
        else:
            self._is_unkept = False


def mark_of(events: Iterable[Event]) -> str:
    """The same for the same events: a mail that is sent twice has the same Message-ID."""
    text = "\n".join(f"{event.name} {event.at:.6f} {event.kind} {event.peer} {event.word}" for event in events)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]

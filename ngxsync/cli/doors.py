"""The work of `peer install` and `peer remove`: what is to be done is told first, then done, then proven."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ngxsync.assembly import link_settings, runtime_folder
from ngxsync.cli import pins
from ngxsync.cli.access import own_keys
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import ConfigError, Held, Message, NgxsyncError, PeerUnreachable, StateError
from ngxsync.core.ssh import LinkSettings
from ngxsync.core.wording import disk_message
from ngxsync.edges import keys
from ngxsync.edges.bundle import Bundle
from ngxsync.edges.link.bykey import ByKey
from ngxsync.edges.link.login import Login, Rights
from ngxsync.edges.state import MasterState
from ngxsync.flow import door
from ngxsync.flow.checks import KEY_PROBLEMS
from ngxsync.flow.door import DONE, THERE, WOULD, Step

NO_KEY_YET = "ssh-ed25519 -"  # in the request that only asks what is to be done
LOCK_S = 5.0


@dataclass(frozen=True)
class Order:
    """`user` logs in, "" for the peer's own; `identity` is used alone, None: what ssh itself would use.

    `ask(text)` is a person's answer, None where there is no person: then `yes` decides, and no host key is taken on trust.
    """

    user: str = ""
    identity: Path | None = None
    yes: bool = False
    dry_run: bool = False
    purge: bool = False
    ask: Callable[[str], bool] | None = None
    tell: Callable[[str], None] = lambda _text: None


@dataclass
class Work:
    """What was found and done for one peer, also where it ended early."""

    peer: PeerConfig
    steps: list[Step] = field(default_factory=list)
    error: NgxsyncError | None = None


def run(work: Work, order: Order, steps: Callable[[Work, Order], None]) -> Work:
    try:
        steps(work, order)
    except NgxsyncError as error:
        work.error = error
    except KeyboardInterrupt:
        if not any(step.state == DONE for step in work.steps):
            raise
        hint = "the same command again goes on where it stopped"
        work.error = door.Stopped(Message("interrupted", "", "what was done stays done", hint))
    return work


class Peer:
    """One peer by the administrator's access: its settings, and calls of the agent there."""

    def __init__(self, peer: PeerConfig, order: Order, known: list[str], folder: Path) -> None:
        known_hosts = folder / "known_hosts"
        folder.chmod(0o755)  # whose ssh it is reads it, whoever that is
        known_hosts.write_text("".join(f"{line}\n" for line in known))
        settings = replace(link_settings(peer), user=order.user or peer.user, known_hosts=known_hosts)
        self.peer, self.bundle, self.settings, self.order = peer, Bundle.of_package(), settings, order
        self.login = self._login("")
        self._rights: Rights | None = None

    def _login(self, caller: str) -> Login:
        return Login(self.settings, self.order.identity, may_ask=self.order.ask is not None, caller=caller)

    def rights(self) -> Rights:
        """Asked once. Where root's own ssh is not let in, that of the person behind sudo may be."""
        caller = os.environ.get("SUDO_USER", "")
        try:
            return self.login.rights()
        except PeerUnreachable as error:
            if error.code != "auth" or caller in ("", "root") or os.geteuid() != 0:
                raise
        self.close()
        self.login = self._login(caller)
        return self.login.rights()

    def call(self, verb: str, request: dict[str, object], done: list[Step], *, install: bool = False) -> list[Step]:
        """The steps of the agent's answer, added to `done`."""
        self._rights = self._rights or self.rights()
        answer = self.login.call(self._rights, self.bundle, verb, request, install=install)
        return door.steps_of(verb, request, answer, self.peer, done)

    def close(self) -> None:
        self.login.close()


@contextmanager
def reached(peer: PeerConfig, order: Order, known: list[str]) -> Iterator[Peer]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ngxsync-peer-") as folder:
        found = Peer(peer, order, known, Path(folder))
        try:
            yield found
        finally:
            found.close()


def install(config: Config) -> Callable[[Work, Order], None]:
    """Raises NgxsyncError; `work.steps` has what is done by then."""

    def steps(work: Work, order: Order) -> None:
        peer, settings = work.peer, link_settings(work.peer)
        raise_if_own_key(settings, config.file)
        is_new_key = needs_key(peer.identity)
        known = pins.pinned(settings)
        lines = [] if known else pins.found(settings)
        is_trusted = bool(known or lines)
        if not is_trusted:
            lines = pins.shown(settings)
            raise_if_untrusted(settings, lines, order)
        here = [
            Step("new key", f"{peer.identity}: ed25519, without a passphrase", WOULD if is_new_key else THERE),
            Step("host key", f"{pins.fingerprints(known or lines)} in {peer.known_hosts}", THERE if known else WOULD),
        ]
        if peer.jump:
            here.append(Step("jump", f"{peer.jump} has to let this key in too, which you see to there", THERE))
        with reached(peer, order, known or lines) as there:
            key = NO_KEY_YET if is_new_key else public_key(peer.identity)
            ask = {"key": key, "master": socket.gethostname(), "agent": there.bundle.hash}
            planned = there.call("install", door.install_request(config, peer, **ask, dry_run=True), [])
            work.steps = here + planned
            if not agreed(work, order, "Install this"):
                return
            if is_new_key:
                make_key(peer.identity)
            pins.pin(peer.known_hosts, lines)
            work.steps = [as_done(step) for step in here]
            ask["key"] = public_key(peer.identity)
            there.call("install", door.install_request(config, peer, **ask, dry_run=False), work.steps, install=True)
            work.steps = [as_done(step) for step in here + planned]
        prove(settings, peer)
        work.steps.append(Step("proof", "the key works by both ssh stacks, and gives no shell", DONE))

    return steps


def as_done(step: Step) -> Step:
    return replace(step, state=DONE) if step.state == WOULD else step


def remove(config: Config, state: MasterState) -> Callable[[Work, Order], None]:
    """The same."""

    def steps(work: Work, order: Order) -> None:
        peer, settings = work.peer, link_settings(work.peer)
        pinned = pins.pinned(settings)
        known = pinned or pins.found(settings)
        if not known:
            known = pins.shown(settings)
            raise_if_untrusted(settings, known, order)
        has_key = not keys.read_key(peer.identity).problem
        key = public_key(peer.identity) if has_key else ""
        asked = {
            is_trial: door.uninstall_request(
                config, peer, key=key, master=socket.gethostname(), purge=order.purge, dry_run=is_trial
            )
            for is_trial in (True, False)
        }
        memory = [Step("memory", str(path), WOULD) for path in state.peer_files(peer.name)] if order.purge else []
        with reached(peer, order, known) as there:
            work.steps = there.call("uninstall", asked[True], []) + memory
            if not agreed(work, order, "Remove this"):
                return
            if any(step.state == WOULD for step in work.steps):
                work.steps = []
                with state.lock(peer.name, LOCK_S):
                    there.call("uninstall", asked[False], work.steps)
                    if order.purge:
                        state.forget_peer(peer.name)
                work.steps += [as_done(step) for step in memory]
                raise_if_left(there.call("uninstall", asked[True], []), settings)
            if has_key:
                trusted = settings if pinned else replace(settings, known_hosts=there.settings.known_hosts)
                work.steps.append(closed(trusted, peer))

    return steps


def raise_if_left(steps: list[Step], settings: LinkSettings) -> None:
    left = "; ".join(f"{step.name} {step.text}" for step in steps if step.state == WOULD)
    if left:
        raise door.NotClosed(Message(f"it came back: {left}", settings.where, "the rest is removed", "the same again"))


def agreed(work: Work, order: Order, question: str) -> bool:
    """Whether to go on. Raises Held (unconfirmed) where nobody can be asked, or the answer is no."""
    if order.dry_run:
        return False
    if not any(step.state == WOULD for step in work.steps) or order.yes:
        return True
    order.tell(render_steps(work))
    if order.ask is not None and order.ask(f"{question} on {work.peer.name}? [y/N]: "):
        return True
    hint = "look with --dry-run; --yes does it without asking"
    what = "not confirmed" if order.ask else "nobody is there to be asked"
    raise Held(Message(what, "", f"{work.peer.name} unchanged", hint), code="unconfirmed")


def raise_if_untrusted(settings: LinkSettings, lines: list[str], order: Order) -> None:
    """A host key that nobody here knows is a person's to compare, whatever --yes says."""
    told = f"the host key of {settings.name} is not known here; it shows {pins.fingerprints(lines)}"
    order.tell(f"{told}\ncompare it on {settings.name} itself: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
    if order.ask is not None and order.ask("Is it the same? [y/N]: "):
        return
    where = f"connect once by your own ssh, which asks: ssh -p {settings.port} {settings.user}@{settings.host}"
    message = Message(told, settings.where, f"{settings.name} unchanged", f"{where}; or run this on a terminal")
    raise PeerUnreachable(message, code="host-key-unknown")


def raise_if_own_key(settings: LinkSettings, file: str) -> None:
    """A key that lets an administrator in must not be the one that is restricted."""
    if settings.identity in own_keys(settings):
        what = f"{settings.identity} is a key of your own ssh: restricted, it would let you in no more"
        hint = f"set identity = /etc/ngxsync/id_ed25519 in [peer {settings.name}] (this command makes it), then the same command"
        raise ConfigError(Message(what, file, f"{settings.name} unchanged", hint), code="own-key")


def needs_key(path: Path) -> bool:
    """Raises ConfigError for a file that is there and no usable key: it is never overwritten."""
    found = keys.read_key(path)
    beside = path.with_name(f"{path.name}.pub")
    if found.problem == "missing" and beside.exists():
        hint = "put the private key there, or move this file away"
        raise ConfigError(Message("a public key without its private one", str(beside), "nothing changed", hint))
    if found.problem and found.problem != "missing":
        what, hint = KEY_PROBLEMS[found.problem]
        raise ConfigError(Message(what, str(path), "nothing changed", hint.format(path=path)), code="key")
    return found.problem == "missing"


def make_key(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(disk_message(path.parent, "create", error)) from error
    keys.make_key(path, f"ngxsync of {socket.gethostname()}")


def public_key(path: Path) -> str:
    """ "TYPE BASE64"."""
    return " ".join(keys.public_line(path).split()[:2])


@contextmanager
def by_key(settings: LinkSettings) -> Iterator[ByKey]:
    key = ByKey(settings, runtime_folder(), Bundle.of_package())
    try:
        yield key
    finally:
        key.close()


def prove(settings: LinkSettings, peer: PeerConfig) -> None:
    with by_key(settings) as key:
        door.prove(peer, key, os.urandom(8).hex())


def closed(settings: LinkSettings, peer: PeerConfig) -> Step:
    """A line of the same key that was none of ours may still let it in: said, not removed."""
    with by_key(settings) as key:
        if door.is_refused(peer, key):
            return Step("proof", f"{peer.name} lets the key in no more", DONE)
    return Step("proof", f"the key {peer.identity} still logs in, by a line that is none of ours", THERE)


WORDS = {THERE: "as it is", WOULD: "to do", DONE: "done"}


def render_steps(work: Work) -> str:
    from ngxsync.core.wording import safe_text

    peer = work.peer
    lines = [f"{peer.name} ({peer.user}@{peer.host}):"]
    lines += [f"  {WORDS[step.state]:8}  {safe_text(f'{step.name:8}  {step.text}')}" for step in work.steps]
    return "\n".join(lines if work.steps else [f"{peer.name}: nothing of ngxsync is there"])

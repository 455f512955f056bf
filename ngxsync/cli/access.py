"""How a peer is reached: first the way that plain ssh already has, host key and key included; a new key only if that fails."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ngxsync.core.errors import ConfigError, Message, PeerUnreachable, StateError
from ngxsync.core.ssh import LinkSettings, parse_jump
from ngxsync.core.wording import disk_message
from ngxsync.edges import keys
from ngxsync.edges.bundle import Bundle

# a key that the peer does not take, or that cannot be used without a person: another may do
NEXT_KEY = {
    "auth": "the peer does not let it in",
    "identity": "it cannot be used",
    "identity-public": "it is a public key",
    "identity-open": "others can read it, and ssh then refuses it",
    "identity-locked": "it has a passphrase, which nobody is there to type",
}
WORKS, UNPINNED, NO_KEY = "works", "unpinned", "no-key"


@dataclass(frozen=True)
class Wanted:
    """What is known of a peer before ssh was asked; "" and 0 are what ssh itself would take."""

    host: str
    user: str = ""
    port: int = 0
    identity: str = ""
    known_hosts: str = ""
    jump: str = ""


@dataclass(frozen=True)
class Access:
    """`settings` name the key and our file of host keys; `known` are its lines for this peer, to be pinned.

    `state`: works; unpinned, where no host key is known; no-key, where the peer takes no key of this host.
    `shown` are fingerprints of the host's keys: the known ones, or what it shows now where none is known. `tried` are
    other keys, each with why it was no use; `reached` is the host's own name.
    """

    state: str
    settings: LinkSettings
    known: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    tried: tuple[tuple[str, str], ...] = ()
    reached: str = ""
    public_key: str = ""
    is_new_key: bool = False


def find_access(wanted: Wanted, folder: Path, runtime: Path) -> Access:
    """`folder` is where our own keys are (/etc/ngxsync); nothing is written but a new key there, if there has to be one.

    Raises PeerUnreachable where nobody answers, or where a host shows another key than the known one.
    """
    plain = keys.ssh_settings(wanted.host, user=wanted.user, port=wanted.port)
    settings = LinkSettings(
        name=wanted.host,
        host=plain["hostname"][0],
        port=int(plain["port"][0]),
        user=plain["user"][0],
        identity=folder / "id_ed25519",
        known_hosts=folder / "known_hosts",
        jump=_jump(wanted.jump or plain.get("proxyjump", [""])[0]),
    )
    files = [*_files(wanted.known_hosts, plain, "userknownhostsfile", "globalknownhostsfile"), settings.known_hosts]
    known = tuple(_known(settings, [wanted.host, *plain.get("hostkeyalias", ())], files))
    if not any(line.split()[0] == settings.known_hosts_name for line in known):
        return _unpinned(settings, wanted, plain)
    return _try_keys(settings, known, _candidates(wanted, plain, folder), files, runtime)


def _jump(text: str) -> str | None:
    """A jump host as it is really reached: ~/.ssh/config may know it by another name. Raises ConfigError for several."""
    if text in ("", "none"):
        return None
    if "," in text:
        hint = "ngxsync goes by way of one jump host: write its ProxyJump into its own ~/.ssh/config"
        raise ConfigError(Message(f"several jump hosts: {text}", "", "nothing was written", hint))
    user, host, port = parse_jump(text)
    plain = keys.ssh_settings(host, user=user, port=port if port != 22 else 0)
    address = plain["hostname"][0]
    return f"{plain['user'][0]}@{f'[{address}]' if ':' in address else address}:{plain['port'][0]}"


def _files(given: str, plain: dict[str, list[str]], *options: str) -> list[Path]:
    names = [given, *(name for option in options for value in plain.get(option, ()) for name in shlex.split(value))]
    files = (Path(name).expanduser() for name in names if name and name != "none")
    return [file for file in dict.fromkeys(files) if file.is_file()]


def _known(settings: LinkSettings, aliases: Iterable[str], files: list[Path]) -> Iterator[str]:
    """Lines for our own file, each for exactly the peer (and its jump host), out of what root's ssh has accepted."""
    names = [settings.known_hosts_name]
    names += [alias if settings.port == 22 else f"[{alias}]:{settings.port}" for alias in aliases]
    for key in keys.known_lines(files, list(dict.fromkeys(names))):
        yield f"{settings.known_hosts_name} {key}"
    if settings.jump:
        _, host, port = parse_jump(settings.jump)
        name = host if port == 22 else f"[{host}]:{port}"
        for key in keys.known_lines(files, [name]):
            yield f"{name} {key}"


def known_here(settings: LinkSettings) -> list[str]:
    """Lines for our own known_hosts, out of what plain ssh on this host knows of a peer and its jump host."""
    plain = keys.ssh_settings(settings.host, user=settings.user, port=settings.port)
    files = [*_files("", plain, "userknownhostsfile", "globalknownhostsfile"), settings.known_hosts]
    return list(_known(settings, plain.get("hostkeyalias", ()), [file for file in files if file.is_file()]))


def own_keys(settings: LinkSettings) -> list[Path]:
    """The private keys that plain ssh would use for this host, there or not."""
    plain = keys.ssh_settings(settings.host, user=settings.user, port=settings.port)
    return [Path(name).expanduser() for value in plain.get("identityfile", ()) for name in shlex.split(value)]


def _candidates(wanted: Wanted, plain: dict[str, list[str]], folder: Path) -> list[Path]:
    """The line's own key, those that ssh would try, the one that an earlier init made."""
    found = [*_files(wanted.identity, plain, "identityfile"), folder / "id_ed25519"]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def _try_keys(
    settings: LinkSettings, known: tuple[str, ...], candidates: list[Path], files: list[Path], runtime: Path
) -> Access:
    trial = runtime / "known_hosts"
    trial.write_text("".join(f"{line}\n" for line in known))
    tried: list[tuple[str, str]] = []
    shown = tuple(keys.fingerprints("\n".join(line.partition(" ")[2] for line in known)))
    for identity in candidates:
        try:
            reached = _log_in(replace(settings, identity=identity, known_hosts=trial), runtime)
        except PeerUnreachable as error:
            if error.code in NEXT_KEY:
                tried.append((str(identity), NEXT_KEY[error.code]))
                continue
            raise _of_real_files(error, settings, trial, files) from error
        return Access(WORKS, replace(settings, identity=identity), known, shown, tuple(tried), reached)
    public_key, is_new = _own_key(settings.identity)
    return Access(NO_KEY, settings, known, shown, tuple(tried), public_key=public_key, is_new_key=is_new)


def _log_in(settings: LinkSettings, runtime: Path) -> str:
    """The peer's own host name. Raises PeerUnreachable."""
    from ngxsync.edges.link import Link

    link = Link(settings, runtime, Bundle.of_package())
    try:
        return link.whoami_both()[0].partition("@")[2].partition(" ")[0]
    finally:
        link.close()


def _of_real_files(error: PeerUnreachable, settings: LinkSettings, trial: Path, files: list[Path]) -> PeerUnreachable:
    """The message with the files that the host keys came from, instead of our copy of their lines."""
    named = ", ".join(str(file) for file in files if keys.known_lines([file], [settings.known_hosts_name])) or str(
        settings.known_hosts
    )
    said = error.message
    state = f"nothing was written; {settings.host} unchanged"
    texts = [text.replace(str(trial), named) for text in (said.what, said.next)]
    return PeerUnreachable(Message(texts[0], settings.where, state, texts[1]), code=error.code)


def _unpinned(settings: LinkSettings, wanted: Wanted, plain: dict[str, list[str]]) -> Access:
    """Nobody here knows the host's key: it is shown, to be compared by a person, and nothing is sent there."""
    shown = keys.scan_host(settings.host, settings.port) if not settings.jump else []
    if not shown and not settings.jump:
        what = "no sshd answered when it was asked for its host key"
        hint = f"is the host up, and the port right? ssh -p {settings.port} {settings.user}@{settings.host}"
        raise PeerUnreachable(Message(what, settings.where, "nothing was written", hint))
    candidates = [
        path for path in _candidates(wanted, plain, settings.identity.parent) if not keys.read_key(path).problem
    ]
    identity = candidates[0] if candidates else settings.identity
    public_key, is_new = ("", False) if candidates else _own_key(identity)
    told = tuple(keys.fingerprints("\n".join(shown))) if shown else ()
    settings = replace(settings, identity=identity)
    return Access(UNPINNED, settings, shown=told, public_key=public_key, is_new_key=is_new)


def _own_key(path: Path) -> tuple[str, bool]:
    """(line for authorized_keys, whether the key was made now)."""
    if path.is_file():
        return keys.public_line(path), False
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(disk_message(path.parent, "create", error)) from error
    return keys.make_key(path, f"ngxsync@{socket.gethostname()}"), True


def command_for(access: Access, peer: str, config: str) -> str:
    """The one command after which the peer can be reached; it asks about the host key, and pins it in our file.

    `config` is the option that names config.ini, "" where it is the usual one.
    """
    own = access.settings
    if access.public_key:
        return f"ngxsync peer install {peer}{config}"
    options = ["-o", f"UserKnownHostsFile={own.known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null"]
    options += ["-o", "HashKnownHosts=no", "-p", str(own.port)]
    if own.jump:
        options += ["-o", f"ProxyJump={own.jump}"]
    return shlex.join(["ssh", "-i", str(own.identity), *options, f"{own.user}@{own.host}", "true"])

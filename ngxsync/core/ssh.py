"""One set of ssh settings for both stacks (DESIGN 4): values, OpenSSH's file, the meaning of failures."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from ngxsync.core.errors import ConfigError, Message, PeerUnreachable

# what our configuration file calls the two hosts: no text of the user's gets onto an ssh command line
PEER_ALIAS, JUMP_ALIAS = "peer", "jump"

_JUMP = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]\s-][^:\[\]\s]*))(?::(?P<port>\d+))?"
)


@dataclass(frozen=True)
class LinkSettings:
    """How one peer is reached. `state_dir` is a folder on the peer, `jump` is [user@]host[:port] or None."""

    name: str
    host: str
    port: int
    user: str
    identity: Path
    known_hosts: Path
    jump: str | None = None
    connect_timeout_s: float = 5.0
    state_dir: str = "/var/lib/ngxsync"

    @property
    def where(self) -> str:
        """user@host:port, as messages name the peer."""
        return f"{self.user}@{self.host}:{self.port}"

    @property
    def silence_s(self) -> int:
        """An open connection without a sign of life for so long is given up: three times what opening one may take."""
        return 3 * max(1, ceil(self.connect_timeout_s))

    @property
    def transfer_silence_s(self) -> int:
        """rsync gives up after so long without a byte; while it waits it sends a sign of life in half of that."""
        return min(30, 2 * self.silence_s)

    @property
    def known_hosts_name(self) -> str:
        """What a line of known_hosts begins with for this peer."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


def parse_jump(text: str) -> tuple[str, str, int]:
    """(user or "", host, port) of [user@]host[:port]; an IPv6 address stands in brackets. Raises ConfigError."""
    match = _JUMP.fullmatch(text)
    port = int(match["port"] or 22) if match else 0
    if not match or not 0 < port < 65536:
        raise ConfigError(Message(f"not a jump host: {text!r}", next="write [user@]host[:port]"))
    return match["user"] or "", match["v6"] or match["host"], port


def render_ssh_config(settings: LinkSettings, config_file: Path, control_path: Path) -> str:
    """The file for `ssh -F`: strict host keys, our key alone, never a prompt. Raises ConfigError."""
    peer = [
        f"Host {PEER_ALIAS}",
        *_host(settings.user, settings.host, settings.port),
        f"  ControlPath {_path(control_path)}",
    ]
    jump: list[str] = []
    if settings.jump:
        user, host, port = parse_jump(settings.jump)
        jump = [f"Host {JUMP_ALIAS}", *_host(user or settings.user, host, port)]
        peer.append(f"  ProxyCommand {_in_shell(jump_argv(config_file, '%h', '%p'))}")
    timeout = max(1, ceil(settings.connect_timeout_s))
    everywhere = f"""Host *
  IdentityFile {_path(settings.identity)}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {_path(settings.known_hosts)}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  CheckHostIP no
  BatchMode yes
  PreferredAuthentications publickey
  ConnectTimeout {timeout}
  ServerAliveInterval {timeout}
  ServerAliveCountMax 3
  ControlMaster no
  ControlPersist 1h
  RequestTTY no
  LogLevel ERROR
"""
    return "\n".join([*peer, *jump, everywhere])


def jump_argv(config_file: Path, host: str, port: int | str) -> list[str]:
    """The command whose standard input and output are a connection to host:port by way of the jump host."""
    return ["ssh", "-F", str(config_file), "-W", f"[{host}]:{port}", JUMP_ALIAS]


def unreachable(settings: LinkSettings, code: str, detail: str = "") -> PeerUnreachable:
    """The four-part error for one of WHY's codes; `detail` is what the other side or the system said."""
    what, advice = WHY[code]
    words = {
        "name": settings.name,
        "identity": settings.identity,
        "known_hosts": settings.known_hosts,
        "entry": settings.known_hosts_name,
        "user": settings.user,
        "login": f"ssh -i {settings.identity} -p {settings.port} {settings.user}@{settings.host}",
        "scan": f"ssh-keyscan -p {settings.port} {settings.host}",
        "port": settings.port,
        "timeout": f"{settings.connect_timeout_s:g} s",
    }
    text = what.format_map(words) + (f" ({detail})" if detail else "")
    state = CUT_STATE if code == CUT else "{name} unchanged, nothing was sent"
    message = Message(text, settings.where, state.format_map(words), advice.format_map(words))
    return PeerUnreachable(message, code=code)


def is_public_key(begin: bytes) -> bool:
    """By the first bytes of a file; so begins a line of authorized_keys, and no private key."""
    return begin.startswith((b"ssh-", b"ecdsa-", b"sk-"))


CUT = "cut"
CUT_STATE = "{name} has the old or the new state, nothing between; what was begun there goes on without us"
WHY = {
    "identity": (
        "the private key {identity} cannot be used",
        "`ngxsync peer install {name}` makes one where none is, and lets it in; or name another in `identity`",
    ),
    "identity-public": ("{identity} is a public key", "name the private one in `identity`: the file without .pub"),
    "identity-open": ("others can read the private key {identity}", "chmod 600 {identity}"),
    "identity-locked": (
        "the private key {identity} has a passphrase, which nobody is there to type",
        "make one without: ssh-keygen -p -N '' -f {identity}",
    ),
    "known-hosts": (
        "the file of host keys {known_hosts} cannot be used",
        "it holds one plain line for each key: {scan} >> {known_hosts}, then compare the fingerprint on {name}",
    ),
    "host-key-unknown": (
        "the host key of {name} is not known: {known_hosts} has no line for {entry}",
        "{scan} >> {known_hosts}, then compare `ssh-keygen -lf {known_hosts}` with the fingerprint on {name}",
    ),
    "host-key-changed": (
        "{name} shows another host key than {known_hosts} has for it: a new installation, or somebody in between",
        "compare the fingerprint on {name} itself; if it is right: ssh-keygen -R '{entry}' -f {known_hosts}; "
        "{scan} >> {known_hosts}",
    ),
    "auth": (
        "{name} does not let {user} in with the key {identity}",
        "`ngxsync peer install {name}` lets it in, restricted; or add {identity}.pub to the authorized_keys of {user} on {name}, "
        "and try: {login}",
    ),
    "refused": ("no sshd listens there", "start sshd on {name}, or correct host and port"),
    "name": ("this host name has no address", "correct `host` in the configuration, or DNS or /etc/hosts"),
    "timeout": ("no answer within {timeout}", "is {name} up, and does a firewall let port {port} through? {login}"),
    "silent": (
        "something accepts connections there and does not answer as an sshd within {timeout}",
        "is it sshd on that port, and is {name} overloaded? {login}",
    ),
    "jump": (
        "the jump host did not connect us",
        "try the jump host by hand: its key and host key are checked as the peer's",
    ),
    "unreachable": ("no connection", "try it by hand: {login}"),
    "cut": ("the connection ended before the answer came", "ask again: the next run finds out and finishes or undoes"),
}


def _host(user: str, host: str, port: int) -> list[str]:
    return [f"  HostName {_word(host).replace('%', '%%')}", f"  Port {port}", f"  User {_word(user)}"]


def _word(text: str) -> str:
    if not text or re.search(r"[\s\"'\\#]", text) or text.startswith("-"):
        raise ConfigError(
            Message(f"ssh cannot take this as a host or user: {text!r}", next="use plain letters and digits")
        )
    return text


def _path(path: Path) -> str:
    """Quoted, and safe from OpenSSH's own %-tokens; it offers no way to write a quote, a line break or `${`."""
    text = str(path)
    if re.search(r'["\\\n\r]|\$\{', text) or not path.is_absolute():
        raise ConfigError(
            Message(f"ssh cannot take this as a path: {text!r}", next="use an absolute path without quotes")
        )
    return '"' + text.replace("%", "%%") + '"'


def _in_shell(argv: list[str]) -> str:
    """For a ProxyCommand: %h and %p are OpenSSH's, any other % is doubled."""
    return " ".join(shlex.quote(word) if "[%h]:%p" in word else shlex.quote(word.replace("%", "%%")) for word in argv)

"""Host keys in our own known_hosts: copied from what ssh here knows already, else shown and asked for, never taken blindly."""

from __future__ import annotations

from pathlib import Path

from ngxsync.cli.access import known_here
from ngxsync.core.errors import Message, PeerUnreachable, StateError
from ngxsync.core.ssh import LinkSettings, unreachable
from ngxsync.core.wording import disk_message
from ngxsync.edges import keys
from ngxsync.edges.configfile import write_private


def pinned(settings: LinkSettings) -> list[str]:
    """The lines that our known_hosts has for this peer."""
    files = [settings.known_hosts] if settings.known_hosts.is_file() else []
    return [f"{settings.known_hosts_name} {key}" for key in keys.known_lines(files, [settings.known_hosts_name])]


def found(settings: LinkSettings) -> list[str]:
    """What the administrator's own ssh knows of this peer (and its jump host), as lines for our file; [] where nothing."""
    lines = known_here(settings)
    return lines if any(line.split()[0] == settings.known_hosts_name for line in lines) else []


def shown(settings: LinkSettings) -> list[str]:
    """What the host shows now: to be compared by a person. Raises PeerUnreachable."""
    if settings.jump:
        hint = (
            f"connect once by your own ssh: ssh -J {settings.jump} -p {settings.port} {settings.user}@{settings.host}"
        )
        error = unreachable(settings, "host-key-unknown")
        raise PeerUnreachable(
            Message(error.message.what, settings.where, error.message.state, hint), code="host-key-unknown"
        )
    lines = [f"{settings.known_hosts_name} {key}" for key in keys.scan_host(settings.host, settings.port)]
    if not lines:
        raise unreachable(settings, "unreachable", "no sshd answered when it was asked for its host key")
    return lines


def fingerprints(lines: list[str]) -> str:
    return " or ".join(keys.fingerprints("\n".join(line.partition(" ")[2] for line in lines)))


def pin(file: Path, lines: list[str]) -> None:
    """Adds the lines that are missing. Raises StateError."""
    try:
        old = file.read_text("utf-8", "surrogateescape").splitlines() if file.exists() else []
    except OSError as error:
        raise StateError(disk_message(file, "read", error)) from error
    new = [line for line in dict.fromkeys(lines) if line not in old]
    if new:
        write_private(file, "".join(f"{line}\n" for line in [*old, *new]))

"""Keys of ssh on this host, by OpenSSH's own programs: private keys, lines of known_hosts, what a host shows."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ngxsync.core.errors import Message, NgxsyncError, tail
from ngxsync.core.ssh import is_public_key

ASK_S = 10.0
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class KeyProgramFailed(NgxsyncError):
    """ssh-keygen, ssh-keyscan or ssh could not be run, or could not do what was asked."""

    exit_status = 4
    code = "ssh"


@dataclass(frozen=True)
class KeyFile:
    """A private key. `problem` is "", missing, unreadable, open, locked or invalid; `fingerprint` is "" with one."""

    path: Path
    problem: str = ""
    fingerprint: str = ""


def read_key(path: Path) -> KeyFile:
    """What is to be said of a private key without using it; but for its first bytes its content is not read by us."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return KeyFile(path, "missing")
    except OSError:
        return KeyFile(path, "unreadable")
    if not os.access(path, os.R_OK):
        return KeyFile(path, "unreadable")
    with suppress(OSError), path.open("rb") as file:
        if is_public_key(file.read(256)):
            return KeyFile(path, "invalid")
    if mode & 0o077:
        return KeyFile(path, "open")
    public = _run(["ssh-keygen", "-y", "-P", "", "-f", str(path)])
    if public.returncode:
        return KeyFile(path, "locked" if b"passphrase" in public.stderr else "invalid")
    return KeyFile(path, "", fingerprints(public.stdout.decode("utf-8", "replace"))[0])


def make_key(path: Path, comment: str) -> str:
    """A new key without a passphrase, 0600; the line for authorized_keys. Raises KeyProgramFailed."""
    done = _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    if done.returncode:
        what = f"ssh-keygen made no key: {tail(done.stderr) or tail(done.stdout)}"
        raise KeyProgramFailed(Message(what, str(path), "nothing was written", "see to that directory, then try again"))
    return public_line(path)


def public_line(path: Path) -> str:
    """The line for authorized_keys of a private key."""
    return _run(["ssh-keygen", "-y", "-P", "", "-f", str(path)]).stdout.decode("utf-8", "replace").strip()


def known_lines(files: Iterable[Path], names: Sequence[str]) -> list[str]:
    """ "TYPE BASE64" of every key that these known_hosts files have for one of the names; [host]:port is a name too.

    Hashed lines are found as well. A key that a line revokes, and certificate authorities, are left out.
    """
    found: dict[str, None] = {}
    revoked: set[str] = set()
    for file in files:
        for name in names:
            for line in (
                _run(["ssh-keygen", "-F", name, "-f", str(file)]).stdout.decode("utf-8", "replace").splitlines()
            ):
                words = line.split()
                if line.startswith("@revoked") and len(words) > 3:
                    revoked.add(" ".join(words[2:4]))
                elif not line.startswith(("#", "@")) and len(words) > 2:
                    found[" ".join(words[1:3])] = None
    return [key for key in found if key not in revoked]


def scan_host(host: str, port: int) -> list[str]:
    """ "TYPE BASE64" of each key that the host shows now: not to be trusted before a person has compared it."""
    done = _run(["ssh-keyscan", "-T", "5", "-p", str(port), host], timeout_s=20.0)
    lines = [line.split() for line in done.stdout.decode("utf-8", "replace").splitlines() if not line.startswith("#")]
    return [" ".join(words[1:3]) for words in lines if len(words) > 2]


def fingerprints(keys: str) -> list[str]:
    """ "SHA256:... (ED25519)" of each public key, one a line."""
    done = _run(["ssh-keygen", "-l", "-f", "-"], text=keys)
    words = [line.split() for line in done.stdout.decode("utf-8", "replace").splitlines()]
    return [f"{line[1]} {line[-1]}" for line in words if len(line) > 2]


def ssh_settings(host: str, *, user: str = "", port: int = 0) -> dict[str, list[str]]:
    """What plain `ssh` would use for this host (`ssh -G`): option in small letters -> its values. Raises KeyProgramFailed."""
    options = [*(["-l", user] if user else []), *(["-p", str(port)] if port else [])]
    done = _run(["ssh", "-G", *options, "--", host])
    if done.returncode:
        what = f"ssh -G {host} failed: {tail(done.stderr)}"
        raise KeyProgramFailed(Message(what, host, "nothing was written", "mend what it names in ~/.ssh/config"))
    settings: dict[str, list[str]] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        option, _, value = line.partition(" ")
        settings.setdefault(option, []).append(value)
    return settings


def _run(argv: list[str], *, text: str = "", timeout_s: float = ASK_S) -> subprocess.CompletedProcess[bytes]:
    environment = {**ENVIRONMENT, "HOME": os.environ.get("HOME", "/root")}
    try:
        return subprocess.run(
            argv, input=text.encode(), capture_output=True, timeout=timeout_s, env=environment, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        what = f"{argv[0]} cannot be run: {error}"
        raise KeyProgramFailed(
            Message(what, "", "nothing was written", "apt-get install openssh-client, or see why")
        ) from error

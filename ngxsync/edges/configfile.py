"""Reads config.ini from disk, and writes a first one."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from ngxsync.core.config import Config, load_config
from ngxsync.core.errors import ConfigError, Message, StateError
from ngxsync.core.wording import disk_message

DEFAULT_FILE = Path("/etc/ngxsync/config.ini")


def read_config(path: Path = DEFAULT_FILE) -> Config:
    """Raises ConfigError where the file cannot be read, is not UTF-8, or has problems."""
    unchanged = "nothing was started and nothing changed"
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        wanted = "write one from config.example.ini, or run: ngxsync init --from-crontab"
        raise ConfigError(Message("no such configuration file", str(path), unchanged, wanted)) from None
    except OSError as error:
        hints = {errno.EACCES: "run ngxsync as root", errno.EISDIR: "name a file in it"}
        hint = hints.get(error.errno or 0, "make it readable")
        raise ConfigError(Message(f"cannot be read: {error.strerror}", str(path), unchanged, hint)) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        told = Message("a byte that is not UTF-8", f"{path}:{line}", unchanged, "save the file as UTF-8")
        raise ConfigError(told) from None
    return load_config(text, str(path))


def write_private(path: Path, text: str) -> None:
    """Writes a file of our own (0600, its directory 0700 where it is made) whole or not at all. Raises StateError.

    Bytes that are not UTF-8 come as surrogates, and stay what they were.
    """
    temporary = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StateError(disk_message(path, "write", error)) from error

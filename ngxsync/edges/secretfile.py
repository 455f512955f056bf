"""Reads the password that a file of root's own holds in its first line."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ngxsync.core.errors import ConfigError, Message

LARGEST = 4096  # bytes of which the first line is looked for


def read_secret(path: Path, option: str) -> str:
    """`option` is what names the file, e.g. "[vrrp] password_file". Raises ConfigError, also where others can read it."""
    try:
        # a fifo in its place must not keep us waiting
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            text = file.read(LARGEST) if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        hints = {errno.EACCES: "run ngxsync as root", errno.ENOENT: "make it: a password in its first line, chmod 600"}
        hint = hints.get(error.errno or 0, "see that file")
        raise _refused(path, option, f"cannot be read: {error.strerror}", hint) from error
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, option, "is no regular file", "name a file with the password in its first line")
    if found.st_mode & 0o077:
        hint = f"chmod 600 {path}, and then another password, if anybody may have read this one"
        raise _refused(path, option, f"others can read it (mode {stat.S_IMODE(found.st_mode):04o})", hint)
    line = text.split(b"\n", 1)[0].rstrip(b"\r").decode("utf-8", "surrogateescape")
    if not line:
        raise _refused(path, option, "its first line is empty", "write the password there, or take the option away")
    return line


def _refused(path: Path, option: str, what: str, hint: str) -> ConfigError:
    return ConfigError(Message(f"{option}: {what}", str(path), "nothing was done", hint))

"""Reads config.ini from disk."""

from __future__ import annotations

from pathlib import Path

from ngxsync.core.config import Config, load_config
from ngxsync.core.errors import ConfigError, Message

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
        raise ConfigError(
            Message(f"cannot be read: {error.strerror}", str(path), unchanged, "make it readable")
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        told = Message("a byte that is not UTF-8", f"{path}:{line}", unchanged, "save the file as UTF-8")
        raise ConfigError(told) from None
    return load_config(text, str(path))

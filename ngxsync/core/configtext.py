"""A configuration as the text of a config.ini, every option written out."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ngxsync.core.config import Config
from ngxsync.core.inifile import render_ini
from ngxsync.core.pairoptions import mail_texts, vrrp_texts


def render_config(config: Config) -> str:
    """The text that `load_config` reads as this configuration, every option written out."""
    own = {"state_dir": str(config.state_dir), "log_format": config.log_format, "on_event": config.on_event}
    sections = {"nginx": _texts(vars(config.nginx)), "sync": _texts(vars(config.sync)), "ngxsync": _texts(own)}
    sections |= {"vrrp": _texts(vrrp_texts(config.vrrp)), "mail": _texts(mail_texts(config.mail))}
    sections |= {f"peer {peer.name}": _texts(vars(peer)) for peer in config.peers}
    return render_ini({name: section for name, section in sections.items() if section})


NO_IF_NONE = ("check_every_s", "schedule", "max_delete_pct", "remind_every_s")


def _texts(part: Mapping[str, Any]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for field, value in part.items():
        option = field.removesuffix("_s").removesuffix("_pct").removesuffix("_bytes")
        if value is None and field in NO_IF_NONE:
            texts[option] = "no"
        elif isinstance(value, bool):
            texts[option] = "yes" if value else "no"
        elif isinstance(value, float):
            texts[option] = f"{Decimal(repr(value)):f}" + ("%" if field.endswith("_pct") else "s")
        elif field.endswith("_bytes"):
            texts[option] = f"{value >> 10}K"  # no size is written in less
        elif isinstance(value, tuple):
            texts[option] = "\n".join(value)
        elif value is not None and field != "name" and (field, value) != ("priority", 0):
            texts[option] = str(value)
    return {option: text for option, text in texts.items() if text}

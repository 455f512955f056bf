"""Older manifests, kept as what differs from the next one: whole ones of 10,000 files would fill `keep_size` in 1,300 runs."""

import os

from .manifest import Manifest, delta
from .store import Store

THIN_FROM = 64 << 10  # bytes of a manifest; smaller ones are not worth the work


def thin(store: Store, run: str, manifest: Manifest, following: str, planned: Manifest) -> None:
    """The manifest of `run` gives way to its difference from that of the run accepted next. Durable when this returns.

    `Store.accepted_manifest` reads both forms. Raises OSError.
    """
    name = os.path.join("manifests", run + ".json")
    try:
        if os.stat(store.path(name)).st_size < THIN_FROM:
            return
    except FileNotFoundError:
        return
    entries = {path: None if entry is None else list(entry) for path, entry in delta(planned, manifest).items()}
    store.write(name, {"next": following, "delta": entries})

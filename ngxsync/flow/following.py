"""Step 3 for who follows what runs: this host's nginx is looked at before the scan, and judged by what the scan found."""

from __future__ import annotations

from dataclasses import replace

from ngxsync.core import following
from ngxsync.core.config import Config
from ngxsync.core.following import Following, Kept, Serving
from ngxsync.core.model import Snapshot
from ngxsync.flow.interfaces import MasterNginx, Named


def judge(
    nginx: MasterNginx, serving: Serving, snapshot: Snapshot, named: Named, config: Config, master: str
) -> Following:
    """`serving` was seen before the scan: what was read later than it is taken for unread, never the other way round."""
    if serving.state != "running":
        return following.not_running(serving, master)
    paths = following.loaded_paths(snapshot.manifest, named.files, named.loads, config.nginx.conf)
    found, kept = nginx.files(paths), nginx.recall()
    now = following.identities(found, snapshot.manifest)
    newer = following.newer_files(serving, kept, now, found)
    if newer:
        changed = [item.since for item in newer if item.since is not None]
        refused = nginx.refusal(max(changed, default=serving.loaded))
        return following.not_read(newer, serving, master, refused)
    if kept is None or not following.has_read(serving, kept):
        kept = Kept(serving.main, serving.mark, now)
        nginx.remember(kept)
    return _soak(nginx, serving, kept, named, config.sync.soak_s, master) if config.sync.soak_s else Following()


def _soak(nginx: MasterNginx, serving: Serving, kept: Kept, named: Named, soak_s: float, master: str) -> Following:
    """A complaint counts where it came within the soak, and then until the next reload; it is kept longer than the log."""
    if kept.is_soaked:
        return Following()
    if not kept.complaint:
        logs = {item.path for item in named.files if item.directive == "error_log"}
        kept = replace(kept, complaint=nginx.complaint(serving, serving.loaded + soak_s, logs))
    left_s = soak_s - serving.age_s
    if kept.complaint or left_s <= 0:
        kept = replace(kept, is_soaked=not kept.complaint)
        nginx.remember(kept)
    if kept.complaint:
        return following.refuted(kept.complaint, serving, master)
    if kept.is_soaked:
        return Following()
    return following.soaking(left_s, serving.loaded + soak_s, soak_s, master, nginx.unread_logs())

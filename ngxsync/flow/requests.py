"""What is asked of the agent: values in, requests out (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ngxsync.agent import manifest as manifests
from ngxsync.agent.manifest import PROTOCOL, Manifest
from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.memory import PeerRecord
from ngxsync.core.model import Projection, Snapshot
from ngxsync.flow.interfaces import Comparison

PROVE_S = 10.0
TEST_S = 60.0


def nginx_settings(config: Config, peer: PeerConfig | None, test_s: float = 0.0) -> dict[str, Any]:
    """The `nginx` part of a request; `prove_timeout` is 10 s, or five times what `nginx -t` took on the master."""
    chosen = peer.prove_timeout_s if peer else config.nginx.prove_timeout_s
    return {
        "root": config.nginx.root,
        "conf": config.nginx.conf,
        "binary": config.nginx.binary,
        "reload": peer.reload if peer else config.nginx.reload,
        "prove_timeout_s": chosen or max(PROVE_S, 5 * test_s),
        "rehearse": peer.rehearse if peer else config.nginx.rehearse,
        "probe": peer.probe if peer else "",
        "test_timeout_s": TEST_S,
    }


def common(config: Config, peer: PeerConfig, projection: Projection, test_s: float = 0.0) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "state_dir": peer.state_dir,
        "nginx": nginx_settings(config, peer, test_s),
        "projection": projection.as_json(),
        "keep": keep(config),
        "vips": vips(config),
    }


def vips(config: Config) -> list[str]:
    """The addresses whose holder is not written to by another host."""
    return list(config.vrrp.addresses) if config.vrrp.decides else []


def keep(config: Config) -> dict[str, Any]:
    """How much old content a peer keeps; behind a gate never less than `peer install` said."""
    sync = config.sync
    return {"runs": sync.keep_runs, "for_s": sync.keep_for_s, "size": sync.keep_size_bytes}


def names_of(manifest: Manifest) -> dict[str, list[str]]:
    """The users and groups that the peer must have."""
    users = sorted({entry.owner for entry in manifest.values() if entry.owner})
    return {"users": users, "groups": sorted({entry.group for entry in manifest.values() if entry.group})}


def scan_request(
    config: Config, peer: PeerConfig, snapshot: Snapshot, record: PeerRecord, has_base: bool, *, full: bool
) -> dict[str, Any]:
    generation = record.generation if has_base else None
    return {
        **common(config, peer, snapshot.projection),
        "full": full,
        "generation": generation,
        "want_base": record.generation is not None and not has_base,
        **names_of(snapshot.manifest),
    }


def transact_request(
    config: Config,
    peer: PeerConfig,
    compared: Comparison,
    *,
    run: str,
    written_by: str,
    generation: str | None,
    reload: bool,
    force: Collection[str],
    test_s: float,
) -> dict[str, Any]:
    planned = compared.snapshot.manifest
    base = compared.base if compared.base is not None and compared.base_name == "accepted" else None
    delta = manifests.delta(base or {}, planned)
    return {
        **common(config, peer, compared.snapshot.projection, test_s),
        "run": run,
        "written_by": written_by,
        "generation": generation,
        "first_contact": compared.standing == "first-contact",
        "adopt": compared.adopt,
        "seen": (compared.accepted or {}).get("generation"),
        "force": sorted(force),
        "changes": [
            {"path": c.path, "before": c.before and list(c.before), "after": c.after and list(c.after)}
            for c in compared.plan.changes
        ],
        "base": "none" if base is None else "accepted",
        "delta": {path: entry and list(entry) for path, entry in delta.items()},
        "id": compared.snapshot.id,
        "reload": reload,
        "wait_for_go": True,
    }


def transact_timeout_s(config: Config, peer: PeerConfig, test_s: float) -> float:
    """Longer than the peer's own longest way: rehearse, prove, wait for idle, prove again."""
    settings = nginx_settings(config, peer, test_s)
    return float(TEST_S + 4 * settings["prove_timeout_s"] + 60)

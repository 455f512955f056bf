"""A peer's door as `ngxsync peer install` leaves it, made here by hand: the agent, its policy, one restricted key."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ngxsync.edges.bundle import Bundle
from tests.hosts import Host
from tests.pair import ROOT, Pair

STATE = "/var/lib/ngxsync"
KEY = "/etc/ngxsync/id_ed25519"
REFUSED = 77
POLICY: Mapping[str, Any] = {
    "schema": 1,
    "comment": "ngxsync of web1",
    "trees": [ROOT],
    "nginx": {
        "root": ROOT,
        "conf": f"{ROOT}/conf/nginx.conf",
        "binary": "auto",
        "reload": "SIGHUP",
        "rehearse": "overlay",
        "probe": "",
    },
    "keep": {},
    "rsync": "/usr/bin/rsync",
}


def fingerprint(public: str) -> str:
    """Of "TYPE BASE64 ...", as the gate's command names a key's policy."""
    return hashlib.sha256(base64.b64decode(public.split()[1])).hexdigest()


def public_key(pair: Pair) -> str:
    argv = ["ssh-keygen", "-y", "-f", pair.web1.path(KEY)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def policy_path(public: str, state: str = STATE) -> str:
    return f"{state}/agent/doors/{fingerprint(public)}.json"


def gate_argv(public: str, state: str = STATE) -> list[str]:
    return ["/usr/bin/python3", "-I", "-S", f"{state}/agent/current", "gate", fingerprint(public)]


def install_agent(host: Host, state: str = STATE, bundle: Bundle | None = None) -> None:
    """This very agent, as the boot that the master sends would leave it."""
    bundle = bundle or Bundle.of_package()
    folder = host.path(f"{state}/agent/{bundle.hash}")
    for name, content in bundle.files.items():
        (folder / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    current = folder.with_name("current")
    current.unlink(missing_ok=True)
    current.symlink_to(bundle.hash)


def write_policy(host: Host, public: str, state: str = STATE, **changed: Any) -> Path:
    path = Path(host.path(policy_path(public, state)))
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps({**POLICY, **changed}))
    return path


def close_door(pair: Pair, *, state: str = STATE, **policy: Any) -> None:
    """From now on web1's key opens nothing on web2 but the gate."""
    host = pair.web2
    install_agent(host, state)
    host.path(f"{state}/peer").mkdir(mode=0o700, exist_ok=True)  # where the log is: else the first refusal makes it
    public = public_key(pair)
    write_policy(host, public, state, **policy)
    keys = host.path("/root/.ssh/authorized_keys")
    keys.write_text(f'restrict,command="{" ".join(gate_argv(public, state))}" {public}')


def ssh(pair: Pair, *words: str, options: Sequence[str] = (), **more: Any) -> subprocess.CompletedProcess[str]:
    """OpenSSH on web1 with the restricted key, as whoever stole it would call it."""
    return pair.web1.run(["ssh", *key_options(), *options, "root@web2", *words], check=False, **more)


def key_options() -> list[str]:
    return ["-F", "none", "-i", KEY, "-o", "UserKnownHostsFile=/etc/ngxsync/known_hosts", "-o", "BatchMode=yes"]


def gate_log(host: Host, state: str = STATE) -> list[str]:
    log = host.path(f"{state}/peer/gate.log")
    return log.read_text().splitlines() if log.exists() else []


def agent_call(verb: str, *, folder: str = f"{STATE}/agent/whatever") -> str:
    """As edges/link writes it."""
    return f"env LC_ALL=C.UTF-8 /usr/bin/python3 -I -S {folder} {verb}"


def everything(host: Host, *paths: str) -> dict[str, tuple[Any, ...]]:
    """{path: inode, mode, size, mtime, ctime} of all below: what a refusal may not change."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in paths or (ROOT, STATE, "/root/.ssh", "/etc", "/tmp", "/srv"):
        top = str(host.path(path))
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in (".", *folders, *files):
                if not name.startswith("gate.log"):
                    entry = os.path.join(folder, name)
                    found[path + entry.removeprefix(top)] = _mark(os.lstat(entry))
    return found


def _mark(status: os.stat_result) -> tuple[Any, ...]:
    if stat.S_ISDIR(status.st_mode):  # its times change with the log in it, and what else is in it is listed
        return status.st_ino, status.st_mode
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns

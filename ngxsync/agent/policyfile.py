"""What each key may do here: STATE/agent/doors/FINGERPRINT.json, which `ngxsync peer install` writes and the gate obeys.

One file for each key: what one master may do says nothing about another. The forced command names the file, a client never does.
"""

import binascii
import hashlib
import json
import os
import re
import stat
from typing import Any, Dict, Optional

from .gaterules import Refused

FOLDER = "doors"
FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")

Policy = Dict[str, Any]


def fingerprint(key: str) -> str:
    """Of "TYPE BASE64": SHA-256 of the blob, as a file name. Raises ValueError."""
    return hashlib.sha256(binascii.a2b_base64(key.split()[1].encode("ascii"))).hexdigest()


def policy_path(state: str, name: str) -> str:
    return os.path.join(state, "agent", FOLDER, name + ".json")


def read_policy(state: str, name: str) -> Policy:
    """{"state_dir", "comment", "trees", "nginx", "rsync", "keep"}. Raises Refused where nobody wrote one, or others could have."""
    path = policy_path(state, name)
    if not FINGERPRINT.match(name):
        raise Refused("no policy of this key: its line names none")
    try:
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fd = os.open(os.path.basename(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            is_open = _is_open(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Refused("no policy of this key: %s: %s" % (path, error.strerror))
    with os.fdopen(fd, "rb") as stream:
        if is_open or _is_open(fd):
            raise Refused("others could have written the policy of this key: %s" % path)
        try:
            known = json.loads(stream.read().decode("utf-8"))
            policy = {"trees": list(known["trees"]), "nginx": dict(known["nginx"]), "rsync": str(known["rsync"])}
            policy.update(keep=dict(known["keep"]), comment=str(known["comment"]))
        except (ValueError, TypeError, KeyError):
            raise Refused("the policy of this key is damaged: %s" % path)
    return dict(policy, state_dir=state)


def _is_open(fd: int) -> bool:
    info = os.fstat(fd)
    return info.st_uid not in (0, os.geteuid()) or bool(stat.S_IMODE(info.st_mode) & 0o022)


def all_policies(state: str) -> Dict[str, Optional[Policy]]:
    """By fingerprint; None for one that the gate would not obey."""
    try:
        names = [os.path.splitext(name) for name in os.listdir(os.path.dirname(policy_path(state, "")))]
    except OSError:
        return {}
    return {name: _or_none(state, name) for name, end in sorted(names) if end == ".json" and FINGERPRINT.match(name)}


def _or_none(state: str, name: str) -> Optional[Policy]:
    try:
        return read_policy(state, name)
    except Refused:
        return None

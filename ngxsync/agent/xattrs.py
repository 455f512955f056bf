"""Extended attributes: ACL, security label, capabilities. A prepared file takes those of the entry that it replaces."""

import os
import subprocess
from typing import Dict, List

LABEL = "security.selinux"


def read_xattrs(name: str, folder: int) -> Dict[str, str]:
    """Extended attributes (ACL, label, capabilities) of an entry, values in hex; those that cannot be read are left out."""
    found: Dict[str, str] = {}
    path = "/proc/self/fd/%d/%s" % (folder, name)
    try:
        keys = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return found
    for key in keys:
        try:
            found[key] = os.getxattr(path, key, follow_symlinks=False).hex()
        except OSError:
            continue
    return found


def put_xattrs(name: str, folder: int, xattrs: Dict[str, str]) -> List[str]:
    """Set them; the names of those that the file system or our rights refuse."""
    refused = []
    for key, value in xattrs.items():
        try:
            os.setxattr("/proc/self/fd/%d/%s" % (folder, name), key, bytes.fromhex(value), follow_symlinks=False)
        except OSError:
            refused.append(key)
    return refused


def label_for(path: str, parent: int) -> Dict[str, str]:
    """The security label of a new entry: what the host's policy says, else its directory's; {} where there are no labels."""
    own = {key: value for key, value in read_xattrs(".", parent).items() if key == LABEL}
    if not own:
        return {}
    try:
        done = subprocess.run(
            ["matchpathcon", "-n", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return own
    label = done.stdout.strip()
    return {LABEL: (label + b"\0").hex()} if done.returncode == 0 and label.count(b":") >= 2 else own

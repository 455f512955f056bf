"""Files that nginx reads outside the trees: which further trees would carry them to the peer."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from ngxsync.agent.manifest import is_below

CERTBOT = "/etc/letsencrypt"
# live holds links into archive; accounts and renewal are certbot's own and belong to one host
CERTBOT_TREES = (f"{CERTBOT}/live", f"{CERTBOT}/archive")
# what packages and other programs use too: made equal as a whole, one of them would break
SHARED = (
    "/etc/ssl",
    "/etc/ssl/certs",
    "/etc/ssl/private",
    "/etc/pki",
    "/etc/pki/tls",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/private",
    "/opt",
    "/srv",
    "/var/www",
)
SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/share", "/lib", "/var/lib", "/dev", "/proc", "/sys", "/run", "/tmp")


def trees_for(paths: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(trees that would carry these files, files that no tree should carry), both sorted.

    Never a folder that other programs share, and of certbot's only live and archive.
    """
    trees: set[str] = set()
    left: set[str] = set()
    for path in paths:
        folder = posixpath.dirname(path)
        if is_below(path, CERTBOT) and any(is_below(path, tree) for tree in CERTBOT_TREES):
            trees.update(CERTBOT_TREES)
        elif is_below(path, CERTBOT) or not is_own_folder(folder):
            left.add(path)
        else:
            trees.add(folder)
    apart = {tree for tree in trees if not any(tree != other and is_below(tree, other) for other in trees)}
    return tuple(sorted(apart)), tuple(sorted(left))


def is_own_folder(folder: str) -> bool:
    """Whether a folder may be made equal as a whole: neither shared nor the system's, and below /etc, /srv, /opt or the like."""
    return folder.count("/") >= 2 and folder not in SHARED and not any(is_below(folder, system) for system in SYSTEM)

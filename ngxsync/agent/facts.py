"""The verb facts: what `check` and `ready` want to know of a host, master or peer. Only asread.py keeps a note.

About files outside the trees it answers only as far as this host's own nginx configuration names them (DESIGN 4).
"""

import os
import socket
import stat
import subprocess
from typing import Any, Dict, List, Optional, Tuple

from . import access, certificates, hostnames, journal, leaning, running, sharedfile, surroundings, unit, vrrp
from .addresses import own_addresses
from .answers import Failure
from .asread import place_of
from .directives import Directive, NamedFile, named_files, read_all
from .nginx import NGINX_ERRORS, Nginx, find_nginx
from .rehearsal import rehearse
from .running import Read
from .store import Store
from .trees import first_line, hello, missing_names

Answer = Dict[str, Any]

REHEARSE_S = 30.0
NAMED_LIMIT = 2000  # keys and password files that are looked at


def facts(request: Answer) -> Answer:
    """A rehearsal over the live configuration is tried too, in a private view that does not outlive it; not with `rehearse` false."""
    trees = [tree["path"] for tree in request["projection"]["trees"]]
    store = Store(request["state_dir"])
    read, why = _read(request["nginx"])
    return {
        "ok": True,
        "hello": hello(request),
        "nginx": {"found": False, "why": why} if read is None else _nginx_facts(read, request),
        "running": running.state(request["nginx"], place_of(request["state_dir"]), read),
        "limits": {} if read is None else surroundings.limits(*read),
        "sysctls": surroundings.sysctls(),
        "timers": surroundings.timers(),
        "nonlocal_bind": first_line("/proc/sys/net/ipv4/ip_nonlocal_bind"),
        "nonlocal_bind6": first_line("/proc/sys/net/ipv6/ip_nonlocal_bind"),
        "addresses": own_addresses(),
        "selinux": first_line("/sys/fs/selinux/enforce"),
        "recovery_unit": unit.state(request["state_dir"]),
        "recovery_result": unit.result(),
        "rsync": _version_of("rsync"),
        "trees": {tree: _tree_facts(tree) for tree in trees},
        "state": _tree_facts(request["state_dir"]),
        "journal": journal.describe(store.journal),
        "lock": store.holder("transaction"),
        "accepted": store.accepted(),
        "missing_users": missing_names(request.get("users", []), request.get("groups", [])),
        "vrrp": vrrp.state(request["vips"], request["state_dir"]) if request.get("vips") else None,
        "config": sharedfile.marks()
        if request.get("rehearse", True)
        else None,  # `ready` looks often, and needs neither
        "rehearsal": _try_rehearsal(request["nginx"]) if request.get("rehearse", True) else None,
    }


def _read(settings: Answer) -> Tuple[Optional[Read], str]:
    """nginx and its whole configuration, read once for all questions; or why there is none."""
    try:
        nginx = find_nginx(settings)
    except NGINX_ERRORS as error:
        return None, str(error)
    return Read(nginx, read_all(nginx.conf, nginx.prefix)), ""


def _nginx_facts(read: Read, request: Answer) -> Answer:
    nginx, directives = read
    trees = leaning.Trees(request["projection"]["trees"])
    in_all_s = certificates.IN_ALL_S if request.get("rehearse", True) else certificates.QUICKLY_S
    conf_dir = os.path.dirname(nginx.conf)
    named = named_files(directives, conf_dir, nginx.prefix)
    return {
        "found": True,
        "binary": nginx.build.binary,
        "version": _version_in(nginx),
        "build": nginx.build.text,
        "args": nginx.args,
        "conf": nginx.conf,
        "prefix": nginx.prefix,
        "pid": nginx.running.pid if nginx.running else 0,
        "problem": nginx.problem,
        "conf_exists": os.path.exists(nginx.conf),
        "user": next((list(d.args) for d in directives if d.name == "user" and not d.depth), []),
        "listens": _listens(directives),
        "outside": leaning.leant_on(named, trees, access.readers(nginx, directives)),
        "certificates": certificates.described(certificates.pairs(directives, conf_dir, nginx.prefix), in_all_s),
        "unresolved": hostnames.unresolved(hostnames.names(directives)),
        "openssl": surroundings.openssl(nginx.build.text),
        "modules": surroundings.modules(directives),
        "open_keys": _open_keys(named),
    }


def _version_in(nginx: Nginx) -> str:
    """ "nginx version: nginx/1.22.1" as "nginx/1.22.1"."""
    return (nginx.build.text.splitlines() or [""])[0].partition("version: ")[2]


def _listens(directives: List[Directive]) -> List[List[Any]]:
    """[address, file, line] of each `listen` that names one numeric address, each address once."""
    found: Dict[str, List[Any]] = {}
    for item in directives:
        address = _address(item.args[0]) if item.name == "listen" and item.args else ""
        if address:
            found.setdefault(address, [address, item.file, item.line])
    return list(found.values())


def _address(listen: str) -> str:
    """The address of one `listen`, "" where it is a port alone, all addresses, a host name or a socket."""
    host = listen[1:].partition("]")[0] if listen.startswith("[") else listen.partition(":")[0]
    family = socket.AF_INET6 if listen.startswith("[") else socket.AF_INET
    if "." not in host and family == socket.AF_INET:
        return ""
    try:
        packed = socket.inet_pton(family, host)
    except OSError:
        return ""
    return socket.inet_ntop(family, packed) if any(packed) else ""


def _open_keys(named: List[NamedFile]) -> List[str]:
    """The private keys and password files of nginx that every user of this host can read."""
    found = []
    for path in sorted({item.path for item in named if item.role in ("key", "auth")})[:NAMED_LIMIT]:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & stat.S_IROTH and (mode & stat.S_IWOTH or _holds_key(path)):
            found.append(path)
    return found


def _holds_key(path: str) -> bool:
    """A password file of nginx is read by its workers, whoever they are: only a key is nobody else's."""
    try:
        with open(path, "rb") as stream:
            return b"PRIVATE KEY" in stream.read(65536)
    except OSError:
        return False


def _try_rehearsal(settings: Answer) -> Answer:
    try:
        nginx = find_nginx(settings)
        result = rehearse(nginx, [], REHEARSE_S)
    except Failure as failure:
        return {"possible": False, "why": failure.message["what"]}
    except NGINX_ERRORS as error:
        return {"possible": False, "why": str(error)}
    return {
        "possible": True,
        "passed": result["passed"],
        "problems": result["problems"],
        "seconds": result["seconds"],
    }


def _tree_facts(path: str) -> Answer:
    """`writable`: the tree itself, or the nearest directory above it that is there."""
    existing = path
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    answer = {"exists": existing == path, "folder": os.path.isdir(path), "real": os.path.realpath(path)}
    try:
        space = os.statvfs(existing)
        # some file systems (btrfs) have no table of inodes and say 0 of 0
        answer.update(free=space.f_bavail * space.f_frsize, free_inodes=space.f_favail if space.f_files else None)
    except OSError:
        answer.update(free=None, free_inodes=None)
    return dict(answer, writable=os.access(existing, os.W_OK | os.X_OK))


def _version_of(program: str) -> str:
    """ "rsync  version 3.2.7  protocol version 31" as "3.2.7"; "" where it cannot be run."""
    try:
        done = subprocess.run([program, "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    words = done.stdout.decode("utf-8", "replace").split()
    return words[words.index("version") + 1] if "version" in words[:-1] else ""

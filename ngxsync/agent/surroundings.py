"""What of a host decides how nginx runs there beside its configuration: limits, kernel settings, OpenSSL, modules, timers."""

import os
import posixpath
import resource
from typing import Any, Dict, Iterable, List

from .directives import Directive
from .nginx import Nginx
from .trees import first_line

Answer = Dict[str, Any]

# all that is read of the kernel's settings
SYSCTLS = (
    "fs.file-max",
    "net.core.somaxconn",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv6.bindv6only",
    "net.ipv6.conf.all.disable_ipv6",
    "net.ipv6.ip_nonlocal_bind",
)
WANTS = "/etc/systemd/system/timers.target.wants"
RENEWING = ("certbot", "letsencrypt", "dehydrated", "lego", "acme")  # in the name of what renews certificates
CRON_FOLDERS = ("/etc/cron.d", "/etc/cron.daily", "/etc/cron.weekly")
NOFILE = "Max open files"


def limits(nginx: Nginx, directives: Iterable[Directive]) -> Answer:
    """`nofile` as [soft, hard], -1 without a limit: of the main process, which its workers inherit, or of ours."""
    found: Answer = {"nofile": _nofile(nginx), "worker_rlimit_nofile": "", "worker_connections": ""}
    for each in directives:
        if each.args and each.name in found and each.context in ("", "events"):
            found[each.name] = each.args[0]
    return found


def _nofile(nginx: Nginx) -> List[int]:
    if nginx.running is not None:
        try:
            with open("/proc/%d/limits" % nginx.running.pid) as stream:
                return parse_nofile(stream.read())
        except (OSError, ValueError):
            pass
    return list(resource.getrlimit(resource.RLIMIT_NOFILE))


def parse_nofile(text: str) -> List[int]:
    """[soft, hard] of /proc/PID/limits. Raises ValueError."""
    for line in text.splitlines():
        if line.startswith(NOFILE):
            return [-1 if word == "unlimited" else int(word) for word in line[len(NOFILE) :].split()[:2]]
    raise ValueError("no %s" % NOFILE)


def sysctls() -> Dict[str, str]:
    """What this kernel knows of the list."""
    found = {name: first_line("/proc/sys/" + name.replace(".", "/")) for name in SYSCTLS}
    return {name: " ".join(value.split()) for name, value in found.items() if value}


def openssl(build: str) -> str:
    """ "OpenSSL 3.0.11 19 Sep 2023 (running with ...)" of `nginx -V`, "" where nginx is built without."""
    lines = [line[len("built with ") :] for line in build.splitlines() if line.startswith("built with ")]
    return lines[0].strip() if lines else ""


def modules(directives: Iterable[Directive]) -> List[str]:
    """The names of the dynamic modules that the configuration loads."""
    loaded = {d.args[0] for d in directives if d.name == "load_module" and d.args}
    return sorted({posixpath.basename(path) for path in loaded})


def timers() -> List[str]:
    """What is enabled here that renews certificates: timers of systemd by their unit, files of cron by their path."""
    found = [name for name in _names(WANTS) if _renews(name)]
    return found + [os.path.join(folder, name) for folder in CRON_FOLDERS for name in _names(folder) if _renews(name)]


def _renews(name: str) -> bool:
    return any(word in name for word in RENEWING)


def _names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []

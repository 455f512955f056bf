"""Which systemd unit runs this nginx: the one whose main process it is, or whose ExecStart is of this configuration.

Debian's nginx.service of /etc/nginx is not the unit of /usr/local/nginx, though the program is the same.
"""

import glob
import os
import re
import subprocess
from typing import Dict, Iterable, Iterator, List, NamedTuple, Tuple

from . import liveness
from .binary import Build, read_build
from .nginx import Nginx, arguments_of, places_of

RUNS = "/run/systemd/system"
NAMES = re.compile(r"nginx|openresty|tengine", re.I)
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
ASKED_S = 5.0
FOLDERS = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")  # of units, below which systemd/system
_EXEC = re.compile(r"path=(.*?) ; argv\[\]=(.*?) ; ignore_errors=")
_EXEC_LINE = re.compile(r"^ExecStart=[-@:+!|]*(.*?)[ \t]*$", re.M)

# `is_masked`: a person has seen to it that nothing starts it
Unit = NamedTuple("Unit", [("name", str), ("is_masked", bool)])
NONE = Unit("", False)


def is_there() -> bool:
    return os.path.isdir(RUNS)


def unit_of(pid: int) -> str:
    """The service whose main process this is; "" where it is none's, or one's that ends with it (systemd-run)."""
    if not is_there():
        return ""
    try:
        with open("/proc/%d/cgroup" % pid) as stream:
            groups = [line.rstrip("\n").rpartition("/")[2] for line in stream]
    except OSError:
        return ""
    name = next((group for group in groups if group.endswith(".service")), "")
    found = shown([name], ("MainPID", "Transient")) if name else []
    is_its_own = bool(found) and found[0].get("MainPID") == str(pid) and found[0].get("Transient") != "yes"
    return name if is_its_own else ""


def unit_for(nginx: Nginx, noted: str) -> Unit:
    """The unit to start for this nginx, `noted` while it lived, or by what it starts; NONE where there is none."""
    if not is_there():
        return NONE
    if noted and _can_be_started(noted):
        return Unit(noted, False)
    status, text = asked(["systemctl", "list-unit-files", "--type=service", "--no-legend", "--no-pager", "--plain"])
    lines = [line.split() for line in text.splitlines()] if status == 0 else []
    names = {words[0] for words in lines if words and "@." not in words[0]} | ({noted} if noted else set())
    masked = NONE
    for each in _services(sorted(names, key=lambda name: (name != "nginx.service", not NAMES.search(name), name))):
        name, state = each.get("Id", ""), each.get("LoadState")
        if (
            state == "loaded"
            and each.get("Transient") != "yes"
            and _runs(_EXEC.findall(each.get("ExecStart", "")), nginx)
        ):
            return Unit(name, False)
        if state == "masked" and not masked.is_masked and (name == noted or _runs(_behind_mask(name), nginx)):
            masked = Unit(name, True)
    return masked


def _services(names: List[str]) -> Iterator[Dict[str, str]]:
    """As systemd shows them: first those that are called like an nginx, then all others at once, which takes longer."""
    for group in ([name for name in names if NAMES.search(name)], [name for name in names if not NAMES.search(name)]):
        if group:
            for each in shown(group, ("Id", "LoadState", "ExecStart", "Transient")):
                yield each


def _behind_mask(name: str) -> List[Tuple[str, str]]:
    """(program, its words) as the unit's own files have them: of a masked one systemd shows nothing."""
    found: List[Tuple[str, str]] = []
    files = ["%s/systemd/system/%s" % (folder, name) for folder in FOLDERS]
    beside = [path for file in files for path in glob.glob(file + ".d/*.conf")]
    for path in files + sorted(beside, key=os.path.basename):
        text = os.fsdecode(liveness.read_whole(path)) if os.path.isfile(path) else ""
        for words in _EXEC_LINE.findall(text):
            found = found + [(words.partition(" ")[0], words)] if words else []
    return found


def _can_be_started(name: str) -> bool:
    found = shown([name], ("LoadState", "Transient"))
    return bool(found) and found[0].get("LoadState") == "loaded" and found[0].get("Transient") != "yes"


def _runs(programs: Iterable[Tuple[str, str]], nginx: Nginx) -> bool:
    """Whether one of these (program, its words) of an ExecStart is an nginx of this configuration."""
    for program, argv in programs:
        if not NAMES.search(program) and program != nginx.build.binary:
            continue  # it is executed, to ask what it is
        args = arguments_of(argv.partition(" ")[2])
        try:
            build = nginx.build if program == nginx.build.binary else read_build(program)
        except (OSError, subprocess.SubprocessError):
            continue
        if _is_nginx(build) and os.path.realpath(places_of(args, build)[1]) == os.path.realpath(nginx.conf):
            return True
    return False


def _is_nginx(build: Build) -> bool:
    return "configure arguments:" in build.text


def shown(names: List[str], properties: Tuple[str, ...]) -> List[Dict[str, str]]:
    """`systemctl show` of these units, in order; [] where it cannot be asked."""
    status, text = asked(["systemctl", "show", "--no-pager", "--property=" + ",".join(properties)] + names)
    blocks = text.split("\n\n") if status == 0 else []
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def asked(argv: List[str], timeout_s: float = ASKED_S) -> Tuple[int, str]:
    """(exit status, output with the errors); status 1 and why where it cannot be run, or is too slow."""
    try:
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env=ENVIRONMENT,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 1, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()

"""The nginx program: where it is, and what is compiled into it."""

import os
import re
import subprocess
from typing import Any, Dict, NamedTuple

# paths as compiled in: relative ones begin at the prefix in use
Build = NamedTuple(
    "Build",
    [("binary", str), ("text", str), ("prefix", str), ("conf_path", str), ("pid_path", str), ("error_log", str)],
)


def read_build(program: str, binary: str = "") -> Build:
    """`nginx -V` of a program that people know as `binary`. Raises OSError or subprocess.SubprocessError."""
    done = subprocess.run(
        [program, "-V"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=10,
        env={"LC_ALL": "C"},
    )
    return parse_build(binary or program, done.stdout.decode("utf-8", "replace"))


def parse_build(binary: str, text: str) -> Build:
    def option(name: str, default: str) -> str:
        found = re.search(r"\s--%s=('[^']*'|\S+)" % name, text)
        return found.group(1).strip("'") if found else default

    prefix = option("prefix", "/usr/local/nginx").rstrip("/") or "/"
    conf_path = option("conf-path", "conf/nginx.conf")
    error_log = option("error-log-path", "logs/error.log")
    return Build(binary, text, prefix, conf_path, option("pid-path", "logs/nginx.pid"), error_log)


def find_binary(settings: Dict[str, Any]) -> str:
    """`binary` where it is set, else ROOT/sbin/nginx, or the first in PATH. Raises FileNotFoundError."""
    if settings["binary"] != "auto":
        return str(settings["binary"])
    folders = [os.path.join(settings["root"], "sbin"), "/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"]
    for folder in folders + os.environ.get("PATH", "").split(":"):
        path = os.path.join(folder, "nginx")
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise FileNotFoundError("no nginx that can be executed in %s" % ":".join(folders))

"""The agent as data: its files, their hash, and how they get onto a peer that has nothing of ours.

One ssh call carries everything: a short program (BOOT) as one JSON string on the first line of standard input, then the
agent's files, then the request. BOOT installs the files, or runs them from a temporary folder that it removes after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "ngxsync_agent"
TOO_OLD = "ngxsync: this Python is older than 3.6"

# In the syntax of every Python 3, so that an old one is told and no traceback.
MAIN = f"""import os, sys
os.umask(0o077)  # before Python writes what it compiled
if sys.version_info < (3, 6):
    sys.stderr.write("{TOO_OLD}\\n")
    sys.exit(127)
try:  # of this release to its end, whatever `current` leads to meanwhile
    sys.path[0] = os.path.join(os.path.dirname(sys.path[0]), os.readlink(sys.path[0]))
except OSError:
    pass
if sys.argv[1:2] == ["check-nginx"]:
    try:  # before anything heavy is imported: keepalived may call it each second
        from {PACKAGE}.liveness import check
        status = check(sys.argv[2:]) + int(os.environ.get("NGXSYNC_SAYS", 0))
    except Exception as error:
        sys.stderr.write("check-nginx: a fault of ngxsync: %r\\n" % error)
        sys.stderr.flush()
        status = 70
    os._exit(status)
from {PACKAGE}.main import main
sys.exit(main(sys.argv[1:]))
"""

# One line without quotes, backslashes or `!` that some shell would take for its own; byte by byte, since what follows
# the first line belongs to the program that is started next.
LOADER = (
    "import os,json,signal;signal.alarm(60);"  # a caller whose host has vanished never says so
    "exec(json.loads(b''.join(iter(lambda:os.read(0,1),bytes([10]))).decode()))"
).replace("'", '"')

AGENT = Path(__file__).parent.parent / "agent"


@dataclass(frozen=True)
class Bundle:
    """The agent's files: relative name -> content (UTF-8), with a `__main__.py`."""

    files: Mapping[str, bytes]

    @classmethod
    def of_package(cls) -> Bundle:
        """The agent of this very ngxsync: `ngxsync_agent/*.py` beside a generated `__main__.py`."""
        sources = sorted(path for path in AGENT.glob("*.py") if path.name != "boot.py")
        files = {f"{PACKAGE}/{path.name}": path.read_bytes() for path in sources}
        return cls({**files, "__main__.py": MAIN.encode()})

    @cached_property
    def hash(self) -> str:
        """Names the folder on the peer: sha256 over names and contents, its first 16 hex digits."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(b"%d %s %d " % (len(name), name.encode(), len(content)) + content)
        return digest.hexdigest()[:16]

    def folder(self, state_dir: str) -> str:
        """Where the agent lives on a peer with this state folder."""
        return f"{state_dir}/agent/{self.hash}"

    def boot(self, state_dir: str, verb: str, *, install: bool) -> tuple[list[str], bytes]:
        """(arguments for the interpreter, what its standard input begins with): install or run once, then the verb."""
        mode = "install" if install else "temporary"
        files, program = self._texts
        return ["-c", LOADER, mode, state_dir, self.hash, str(len(files)), verb], program + b"\n" + files

    @cached_property
    def _texts(self) -> tuple[bytes, bytes]:
        files = json.dumps({name: content.decode() for name, content in self.files.items()})
        return files.encode(), json.dumps((AGENT / "boot.py").read_text(encoding="utf-8")).encode()

"""A peer that lies: on web2 another program answers in place of the installed agent, over the real ssh connection."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.hosts import Host
from tests.resident import STATE

LIES = "/run/lies"
GONE = "(gone)"  # as a value: the key is taken away

# calls the real agent, and changes its answer as the files in LIES say
PROGRAM = """
import json, os, subprocess, sys
verb = sys.argv[1]
lies = "/run/lies/" + verb
if os.path.exists(lies + ".raw"):
    sys.stdin.buffer.readline()
    sys.stdout.buffer.write(open(lies + ".raw", "rb").read())
    sys.stdout.buffer.flush()
    while os.path.exists(lies + ".endless"):
        sys.stdout.buffer.write(b"x" * 65536)
    sys.exit(0)
done = subprocess.run([sys.executable, "-I", "-S", "/run/honest", verb], stdout=subprocess.PIPE)
text = done.stdout
if os.path.exists(lies + ".json"):
    answer = json.loads(text)
    open(lies + ".honest", "w").write(json.dumps(answer))
    for path, value in json.load(open(lies + ".json")):
        inner = answer
        for key in path[:-1]:
            inner = inner[key]
        if value == "(gone)":
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
    text = json.dumps(answer).encode() + b"\\n"
sys.stdout.buffer.write(text)
"""


class Liar:
    """What web2 says from now on, verb by verb."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.folder = host.path(LIES)

    def lies(self, verb: str, *changes: tuple[Sequence[Any], Any]) -> None:
        """The honest answer with these values in these places."""
        (self.folder / f"{verb}.json").write_text(json.dumps(changes))

    def says(self, verb: str, raw: bytes, *, endless: bool = False) -> None:
        """These bytes instead of any answer."""
        (self.folder / f"{verb}.raw").write_bytes(raw)
        if endless:
            (self.folder / f"{verb}.endless").touch()

    def honest(self, verb: str) -> dict[str, Any]:
        """What the latest lie was made of."""
        return dict(json.loads((self.folder / f"{verb}.honest").read_text()))

    def repents(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()


@contextmanager
def liar(host: Host) -> Iterator[Liar]:
    """The agent that is installed there is replaced as long as this lasts."""
    folder = host.path(f"{STATE}/agent")
    installed = folder / (folder / "current").readlink()
    main, honest = installed / "__main__.py", host.path("/run/honest")
    text = main.read_text()
    shutil.copytree(installed, honest)
    main.write_text(PROGRAM)
    host.path(LIES).mkdir()
    opened = Liar(host)
    try:
        yield opened
    finally:
        opened.repents()
        host.path(LIES).rmdir()
        shutil.rmtree(honest)
        main.write_text(text)

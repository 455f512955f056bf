"""Names and contents that act on a terminal, a log or an option parser: carried to the byte, shown harmless everywhere."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.hosts import Host, wait_until
from tests.pair import ROOT, Pair, manifest_of
from tests.terminal import Terminal
from tests.test_cuts import accepted

NAMES = [
    b"-e sh",
    b"--rsh=touch owned",
    b"--delete",
    b"@file",
    b"#comment",
    b";section",
    b":colon",
    b"-",
    b" ",
    b"%s%n",
    b"$(reboot)",
    b"`reboot`",
    b"a\nok: applied\n+ b",
    b"\x1b]0;owned\x07",
    b"\x1b[31mred\x1b[0m",
    b"\xc2\x9b31m",
    b"\x9b31m not UTF-8 \xff",
    "\u202egpj.conf\u202c".encode(),
    "\u2028line".encode(),
    b"tab\there\rthere",
    b"\\x1b",
    b"n" * 255,
]
CONTENT = b"\x1b]0;owned\x07 \x9b31m \xc2\x9b \xe2\x80\xae\nplain\n"


def fill(host: Host, content: bytes) -> None:
    folder = os.fsencode(host.path(f"{ROOT}/html"))
    for name in NAMES:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    with open(os.path.join(folder, b"new \x1b[7m.html"), "wb") as file:
        file.write(content)


def raise_if_it_acts(text: str, allowed: str = "\n") -> None:
    """No control character, direction mark or lone surrogate reaches whoever reads this."""
    acting = sorted({char for char in text if not char.isprintable() and char not in allowed})
    assert not acting, (acting, text[:3000])


def said(pair: Pair, *arguments: str, host: Host | None = None) -> str:
    done = pair.ngxsync(*arguments, host=host, errors="surrogateescape", env={"LC_ALL": "C.UTF-8"})
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def test_every_command_shows_them_harmless_and_carries_them_whole(pair: Pair) -> None:
    said(pair, "sync")
    fill(pair.web1, CONTENT)
    for arguments in (
        ("diff", "--stat"),
        ("diff", "--name-only"),
        ("sync", "--dry-run"),
        ("sync",),
        ("status",),
        ("history",),
        ("history", "2"),
        ("check",),
    ):
        raise_if_it_acts(said(pair, *arguments))
    assert manifest_of(pair.web1) == manifest_of(pair.web2)
    assert not pair.web2.path("/root/owned").exists()
    fill(pair.web2, b"edited there\n")
    for arguments in (("sync",), ("diff", "--stat")):
        raise_if_it_acts(said(pair, *arguments))
    agent = pair.web2.run(["/usr/local/sbin/ngxsync-agent", "status"])
    raise_if_it_acts(agent.stdout)
    for command in ("diff", "status", "history"):
        json.loads(said(pair, command, "--json"))


def test_on_a_terminal_a_files_content_is_harmless_and_in_a_pipe_a_patch_has_every_byte(
    pair: Pair, tmp_path: Path
) -> None:
    said(pair, "sync")
    fill(pair.web1, CONTENT)
    with Terminal(pair, "diff", "--no-pager") as terminal:
        assert terminal.end() == 1
    colours = "\x1b[32m", "\x1b[31m", "\x1b[36m", "\x1b[1m", "\x1b[0m"
    text = terminal.shown.replace("\r\n", "\n")
    assert "plain" in text
    for colour in colours:
        text = text.replace(colour, "")
    raise_if_it_acts(text)
    patch = pair.ngxsync("diff", text=False).stdout
    assert isinstance(patch, bytes)
    assert b"+" + CONTENT.splitlines(keepends=True)[0] in patch
    first = patch.index(b"diff --git")
    copied = tmp_path / "usr" / "local" / "nginx" / "html"
    copied.mkdir(parents=True)
    (tmp_path / "changes").write_bytes(patch[first:])
    subprocess.run(
        ["git", "apply", "--unsafe-paths", "-p1", "changes"],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
    )
    for name in NAMES:
        assert (Path(os.fsdecode(os.path.join(os.fsencode(copied), name)))).read_bytes() == CONTENT


def test_what_nginx_says_of_such_a_file_is_harmless(pair: Pair) -> None:
    said(pair, "sync")
    before = accepted(pair.web2)
    vhosts = os.fsencode(pair.web1.path(f"{ROOT}/conf/vhosts"))
    with open(os.path.join(vhosts, b"\x1b]0;owned\x07\n\x9b.conf"), "wb") as file:
        file.write(b"\x1b[31mdirective\x07 \xff;\n")
    for command in ("sync", "validate", "status", "history", "check"):
        text = said(pair, command)
        raise_if_it_acts(text)
    assert "owned" in said(pair, "validate")
    assert accepted(pair.web2) == before


def test_the_daemons_log_stays_one_line_a_run(pair: Pair) -> None:
    for log_format in ("text", "json"):
        said(pair, "sync")
        pair.write_config(more=f"\n[ngxsync]\nlog_format = {log_format}\n")
        with pair.daemon() as daemon:
            fill(pair.web1, log_format.encode())
            wait_until(lambda: manifest_of(pair.web1) == manifest_of(pair.web2), "web2 has them")
            vhosts = os.fsencode(pair.web1.path(f"{ROOT}/conf/vhosts"))
            bad = os.path.join(vhosts, b"\x1b]0;owned\x07\nERROR forged.conf")
            with open(bad, "wb") as file:
                file.write(b"\x1b[31mdirective \xff;\n")
            daemon.wait_for("refused")
            os.unlink(bad)
        lines = daemon.log().splitlines()
        raise_if_it_acts(daemon.log())
        assert not any(line.startswith("ERROR forged") for line in lines)
        if log_format == "json":
            assert all(json.loads(line) for line in lines)

"""What `--help` says, word for word: of the program, and of each command. UPDATE_GOLDEN=1 writes it anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ngxsync import __version__
from ngxsync.cli.group import COMMANDS
from ngxsync.cli.overview import OVERVIEW
from tests.hosts import PROJECT

GOLDEN = Path(__file__).with_name("help")
OURS = (
    "keepalived",
    "keepalived render",
    "keepalived check",
    "peer",
    "peer install",
    "peer remove",
    "sync",
    "rollback",
    "pull",
    "diff",
    "status",
    "ready",
    "validate",
    "history",
    "pause",
    "resume",
    "check-nginx",
    "notify",
)


def ngxsync(*arguments: str, columns: int = 80, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(columns), "LC_ALL": "C.UTF-8", **more}
    argv = [sys.executable, "-m", "ngxsync", *arguments]
    return subprocess.run(argv, cwd=PROJECT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("command", OURS)
def test_the_help_of_a_command(command: str) -> None:
    done = ngxsync(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    golden = GOLDEN / f"{command.replace(' ', '-')}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(done.stdout)
    assert done.stdout == golden.read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_ends_with_an_example_and_the_exit_statuses(command: str) -> None:
    text = ngxsync(command, "-h").stdout
    example, statuses = text.partition("\nExample:\n")[2].split("\nExit statuses:\n")
    assert all(
        line.lstrip().startswith(("ngxsync ", "crontab ", "systemctl ")) for line in example.splitlines() if line
    )
    told = [int(number) for number in re.findall(r"^  (\d+)  +\S", statuses, re.MULTILINE)]
    assert told == sorted(set(told))
    assert {0, 2, 70, 130} <= set(told)
    assert not text.endswith("\n\n")


def test_the_overview_names_every_command_once_and_no_other() -> None:
    named = re.findall(r"^  ([a-z][a-z-]*)  ", OVERVIEW, re.MULTILINE)
    assert sorted(named) == sorted(COMMANDS)
    assert max(len(line) for line in OVERVIEW.splitlines()) <= 85
    for name, module in COMMANDS.items():
        assert getattr(import_module(module), name.replace("-", "_")).name == name


@pytest.mark.parametrize("asked", [["--help"], ["-h"]])
def test_the_program_tells_what_it_is(asked: list[str]) -> None:
    done = ngxsync(*asked)
    assert (done.returncode, done.stdout, done.stderr) == (0, OVERVIEW, "")


def test_click_tells_the_same() -> None:
    assert ngxsync("--help", "sync").stdout == OVERVIEW


def test_no_command_is_no_success() -> None:
    done = ngxsync()
    assert (done.returncode, done.stdout, done.stderr) == (2, "", OVERVIEW)


def test_the_version() -> None:
    done = ngxsync("--version")
    assert (done.returncode, done.stdout) == (0, f"ngxsync {__version__}\n")


@pytest.mark.parametrize("asked", ["--help", "-h", "--version"])
def test_what_asks_for_no_command_loads_nothing_of_weight(asked: str) -> None:
    """A bare interpreter takes some 10 ms and click alone 30: so the help imports two modules and no library."""
    code = (
        "import runpy, sys; before = set(sys.modules); sys.argv = ['ngxsync', sys.argv[1]]\n"
        "runpy.run_module('ngxsync', run_name='__main__')\n"
        "sys.stderr.write(' '.join(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code, asked], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["ngxsync", "ngxsync.cli", "ngxsync.cli.overview"]


def test_a_shell_gets_its_completions() -> None:
    done = ngxsync(_NGXSYNC_COMPLETE="bash_complete", COMP_WORDS="ngxsync st", COMP_CWORD="1")
    assert (done.returncode, done.stdout) == (0, "plain,status\n")

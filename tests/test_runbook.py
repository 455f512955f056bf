"""README and docs: every command that they show is one, with options that it has; each status word has its row."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ngxsync.cli.group import ngxsync
from ngxsync.core.render import ADVICE

PROJECT = Path(__file__).parent.parent
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def shown_commands(text: str) -> Iterator[str]:
    """In code: indented lines, and what stands in backticks."""
    blocks = re.findall(r"(?m)^ {4,}(.*)$", text) + re.findall(r"`([^`\n]+)`", text)
    for block in blocks:
        for part in re.split(r"&&|\|\||[;|]| {2,}|>", block):
            part = part.strip()
            if re.match(r"(/usr/local/bin/)?ngxsync [a-z]", part):
                yield part


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command, and its arguments."""
    found: click.Command = ngxsync
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        inner = found.get_command(click.Context(found), words[0])
        if inner is None:
            raise AssertionError(f"no such command: {words[0]}")
        found, words = inner, words[1:]
    return found, words


COMMANDS = sorted({(page.name, command) for page in PAGES for command in shown_commands(page.read_text())})


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command}" for page, command in COMMANDS])
def test_a_command_that_is_shown_is_one(page: str, command: str) -> None:
    try:
        words = shlex.split(command, comments=True)[1:]
    except ValueError:
        words = command.split()[1:]
    found, arguments = resolved(words)
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0].rstrip(",.:)") for word in arguments if word.startswith("--")}
    assert given <= known | {"--help"}, f"{page}: {command}"


def test_the_runbook_has_each_status_word_and_each_section() -> None:
    text = (PROJECT / "docs/runbook.md").read_text()
    rows = re.findall(r"(?m)^\| ([a-z-]+) \|", text)
    assert set(rows) == {"word", *ADVICE}
    assert len(rows) == len(set(rows))


def test_commands_are_found_in_the_pages() -> None:
    assert len(COMMANDS) > 60
    assert any(command.startswith("ngxsync keepalived check") for _, command in COMMANDS)

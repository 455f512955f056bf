"""An ini file as sections of text values, each with its line: configparser reads it, a small index knows the lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from configparser import MissingSectionHeaderError, ParsingError, RawConfigParser
from dataclasses import dataclass

# no section of ours: configparser would spread the values of one with this name over all others
NO_DEFAULT_SECTION = "\0"


@dataclass(frozen=True)
class Section:
    """`values` maps each option to its text, stripped, lists one a line; `lines` to the line where it is set."""

    line: int
    values: dict[str, str]
    lines: dict[str, int]


@dataclass(frozen=True)
class IniFile:
    """`complaints` are (line, text) of what is no ini file, or set twice."""

    sections: dict[str, Section]
    complaints: tuple[tuple[int, str], ...]


def parse_ini(text: str) -> IniFile:
    """Never raises: what cannot be read is among the complaints, and the rest is there."""
    lines = text.removeprefix("\ufeff").split("\n")
    parser, complaints = _parse(lines)
    sections: dict[str, Section] = {}
    for number, name, option in _headings(lines):
        if option is None:
            if name in sections:
                complaints.append(
                    (number, f"[{name}] is there twice, first in line {sections[name].line}, allowed is one")
                )
            elif parser.has_section(name):
                sections[name] = Section(number, dict(parser.items(name)), {})
        elif name in sections and option in sections[name].lines:
            first = sections[name].lines[option]
            complaints.append((number, f"[{name}] {option}: it is set twice, first in line {first}, allowed is once"))
        elif name in sections and option in sections[name].values:
            sections[name].lines[option] = number
    return IniFile(sections, tuple(complaints))


def _parse(lines: list[str]) -> tuple[RawConfigParser, list[tuple[int, str]]]:
    """Lines that are none of an ini file are complained of, and emptied, so that all others are still read."""
    parser = RawConfigParser(delimiters=("=",), strict=False, default_section=NO_DEFAULT_SECTION)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_file(f"{line}\n" for line in lines)
    except MissingSectionHeaderError as error:
        lines[error.lineno - 1] = ""
        wrong = "it stands before the first section, allowed is [SECTION] on a line of its own"
        again, others = _parse(lines)
        return again, [(error.lineno, wrong), *others]
    except ParsingError as error:
        wrong = "is no option, allowed is OPTION = VALUE, or a list with each further line indented"
        return parser, [(number, f"{lines[number - 1].strip()!r} {wrong}") for number, _ in error.errors]
    return parser, []


def _headings(lines: list[str]) -> Iterator[tuple[int, str, str | None]]:
    """(line, section, option or None for the section itself), by configparser's own rules for lines that go on."""
    section, option, indent = "", "", 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        here = len(line) - len(line.lstrip())
        if option and here > indent:
            continue
        indent = here
        header = re.match(r"\[(.+)\]", text)
        if header:
            section, option = header[1], ""
            yield number, section, None
        elif section and "=" in text:
            option = text.split("=", 1)[0].rstrip()
            yield number, section, option


def render_ini(sections: dict[str, dict[str, str]]) -> str:
    """The text that `parse_ini` reads as these sections; a value of several lines is a list."""
    return "\n".join(_render_section(name, values) for name, values in sections.items())


def _render_section(name: str, values: dict[str, str]) -> str:
    lines = [f"{option} = " + value.replace("\n", "\n    ") for option, value in values.items()]
    return "\n".join([f"[{name}]", *lines, ""])

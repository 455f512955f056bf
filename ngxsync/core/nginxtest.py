"""What `nginx -t` says, as problems with their places."""

from __future__ import annotations

import re

from ngxsync.core.model import Problem

# nginx: [emerg] TEXT on standard error, 2026/11/22 21:00:00 [emerg] 12#12: TEXT in a log that is standard error
_START = re.compile(
    r"^(?:nginx: |\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (?=\[))(?:\[(?P<level>[a-z]+)\] (?:\d+#\d+: )?(?:\*\d+ )?)?",
    re.MULTILINE,
)
_PLACE = re.compile(r" in (?P<file>/[^\n]*):(?P<line>\d+)$")
_VERDICT = re.compile(r"(?:the )?configuration file .* (?:syntax is ok|test is successful|test failed)$")
# an alert is none of the refusals: nginx goes on where it cannot open its default error log
_WARNINGS = ("warn", "alert")
_CHATTER = ("notice", "info", "debug")


def parse_nginx_t(output: str) -> tuple[Problem, ...]:
    """The complaints in nginx's output, in its order, each once; a message goes on until the next one begins.

    `line` is 0 and `file` "" where nginx names no place (bind(), host not found at start).
    """
    starts = list(_START.finditer(output))
    ends = [*(match.start() for match in starts), len(output)][1:]
    found = (
        _problem(match["level"] or "", output[match.end() : end].rstrip())
        for match, end in zip(starts, ends, strict=True)
    )
    return tuple(dict.fromkeys(problem for problem in found if problem is not None))


def _problem(level: str, text: str) -> Problem | None:
    if level in _CHATTER or _VERDICT.match(text):
        return None
    kind = "warning" if level in _WARNINGS else "error"
    place = _PLACE.search(text)
    if place is None:
        return Problem(text, level=kind)
    return Problem(text[: place.start()], place["file"], int(place["line"]), kind)

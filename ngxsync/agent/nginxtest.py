"""What `nginx -t` says, as problems with their places."""

import re
from typing import Any, Dict, List, Optional

# nginx: [emerg] TEXT on standard error; 2026/11/22 21:00:00 [emerg] 12#12: TEXT where its default log is standard error
# (Debian builds it so: --error-log-path=stderr)
_START = re.compile(
    r"^(?:nginx: |\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (?=\[))(?:\[(?P<level>[a-z]+)\] (?:\d+#\d+: )?(?:\*\d+ )?)?",
    re.MULTILINE,
)
_PLACE = re.compile(r" in (?P<file>/[^\n]*):(?P<line>\d+)$")
_VERDICT = re.compile(r"(?:the )?configuration file .* (?:syntax is ok|test is successful|test failed)$")
# an alert is none of the refusals: nginx goes on where it cannot open its default error log
_WARNINGS = ("warn", "alert")
_CHATTER = ("notice", "info", "debug")


def parse_nginx_t(output: str) -> List[Dict[str, Any]]:
    """The complaints in nginx's output as {text, file, line, level}, in its order, each once.

    A message goes on until the next one begins. `level` is error or warning; `line` is 0 and `file` "" where nginx
    names no place (bind(), host not found at start).
    """
    starts = list(_START.finditer(output))
    ends = [match.start() for match in starts[1:]] + [len(output)]
    found: List[Dict[str, Any]] = []
    for match, end in zip(starts, ends):
        problem = _problem(match.group("level") or "", output[match.end() : end].rstrip())
        if problem is not None and problem not in found:
            found.append(problem)
    return found


def _problem(level: str, text: str) -> Optional[Dict[str, Any]]:
    if level in _CHATTER or _VERDICT.match(text):
        return None
    place = _PLACE.search(text)
    problem = {"text": text, "file": "", "line": 0, "level": "warning" if level in _WARNINGS else "error"}
    if place is not None:
        problem.update(text=text[: place.start()], file=place.group("file"), line=int(place.group("line")))
    return problem

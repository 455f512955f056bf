"""The text of an authorized_keys file: one line of ours in it, every other line byte for byte as it was (sshd(8))."""

import io
import re
from typing import List, NamedTuple, Optional, Tuple

Line = NamedTuple("Line", [("options", List[bytes]), ("key", bytes), ("comment", bytes)])  # key: "TYPE BASE64"

# what an administrator added to a key to narrow it, and that a restricted line must not widen again
KEPT = (b"from=", b"expiry-time=")
_KIND = re.compile(rb"(ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]+\Z")


def parse_line(line: bytes) -> Optional[Line]:
    """None for a comment, an empty line, and what is no key."""
    text = line.strip(b" \t\r\n")
    if not text or text.startswith(b"#"):
        return None
    options: List[bytes] = []
    words = text.split(None, 2)
    if len(words) < 2 or not _KIND.match(words[0]):
        options, rest = _options(text)
        words = rest.split(None, 2)
    if len(words) < 2 or not _KIND.match(words[0]):
        return None
    return Line(options, words[0] + b" " + words[1], words[2] if len(words) > 2 else b"")


def _options(text: bytes) -> Tuple[List[bytes], bytes]:
    """(options, the rest): commas and blanks in double quotes are part of an option, and a backslash keeps a quote one."""
    options, begin, at, quoted = [], 0, 0, False
    while at < len(text) and (quoted or text[at : at + 1] not in (b" ", b"\t")):
        char = text[at : at + 1]
        if char == b"\\" and text[at + 1 : at + 2] == b'"':
            at += 1
        elif char == b'"':
            quoted = not quoted
        elif char == b"," and not quoted:
            options.append(text[begin:at])
            begin = at + 1
        at += 1
    return options + [text[begin:at]], text[at:]


def command_option(command: str) -> bytes:
    """The `command=` of a shell command. Raises ValueError for what no line can hold."""
    if "\n" in command or "\r" in command or "\0" in command:
        raise ValueError("a line break in %r" % command)
    return b'command="' + command.encode("utf-8").replace(b'"', b'\\"') + b'"'


def is_restricted(line: Line, command: str) -> bool:
    return command_option(command) in line.options and b"restrict" in line.options


def policy_of(line: Line, words: str) -> Optional[str]:
    """The fingerprint after these words at the end of the line's command, whatever Python starts it; None: it leads to no gate."""
    end = command_option(words)[len(b'command="') : -1]
    found = re.compile(b'command=".* ' + re.escape(end) + b' ([0-9a-f]{64})"\\Z')
    names = [name.group(1).decode("ascii") for name in map(found.match, line.options) if name]
    return names[0] if names else None


def is_gate(line: Line, words: str) -> bool:
    return policy_of(line, words) is not None


def restricted_line(command: str, key: str, comment: str, kept: List[bytes]) -> bytes:
    """Without a line break. `kept` are options of the line that it replaces."""
    options = [b"restrict", command_option(command)] + kept
    return b",".join(options) + (" %s %s" % (key, comment)).encode("utf-8")


def with_key(text: bytes, command: str, key: str, comment: str) -> bytes:
    """The text with exactly one line of this key, the restricted one: where the first was, else at the end."""
    result: List[bytes] = []
    is_placed = False
    for line in _lines(text):
        known = parse_line(line)
        if known is None or known.key != key.encode() or b"cert-authority" in known.options:
            result.append(line)
        elif not is_placed:
            kept = [option for option in known.options if option.startswith(KEPT)]
            result.append(restricted_line(command, key, comment, kept) + b"\n")
            is_placed = True
    if not is_placed:
        if result and not result[-1].endswith(b"\n"):
            result.append(b"\n")
        result.append(restricted_line(command, key, comment, []) + b"\n")
    return b"".join(result)


def without_key(text: bytes, key: str, gate: Optional[str] = None) -> bytes:
    """The text without this key's lines; with `gate` (the last words of its command) only without those that lead there."""
    kept = []
    for line in _lines(text):
        known = parse_line(line)
        is_own = known is not None and known.key == key.encode() and b"cert-authority" not in known.options
        if not (is_own and known is not None and (gate is None or is_gate(known, gate))):
            kept.append(line)
    return b"".join(kept)


def keys_in(text: bytes) -> List[Line]:
    return [line for line in map(parse_line, _lines(text)) if line is not None]


def _lines(text: bytes) -> List[bytes]:
    """With their ends; a line ends at a line feed and nowhere else."""
    return io.BytesIO(text).readlines()

"""keepalived.conf as statements, as keepalived's own parser reads it: comments, quotes, @conditions, $definitions, includes. Pure.

A statement is its words, with the file and line where it stands; a brace is a statement of its own. What cannot be followed here
(~SEQ, ~LST) is told as a problem, and left out.
"""

import posixpath
import re
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

Statement = NamedTuple("Statement", [("file", str), ("line", int), ("words", List[str])])
Problem = NamedTuple("Problem", [("file", str), ("line", int), ("text", str)])
Text = Tuple[str, str]  # path, content

DEEPEST = 10  # includes in one another
MOST = 20000  # statements
LONGEST = 4096  # characters of a line; keepalived reads fewer
INCLUDES = ("include", "includer", "includem", "includew", "includeb", "includea")
# commands, which keepalived reads with both kinds of quotes and with escapes
COMMANDS = re.compile(r"(script|startup_script|shutdown_script|(\w+_)?notify_fifo_script|notify(_\w+)?)\Z")
NO_COMMANDS = ("notify_priority_changes",)
ESCAPES = {"a": "\a", "b": "\b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]+|[0-7]{1,3}|.)", re.DOTALL)
_DEFINITION = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)=\s*(.*)\Z", re.DOTALL)
_USE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*)(?=[ \t,)]|\Z))", re.ASCII)


class Reader:
    """`find(pattern, folder)` gives the texts that an include means, relative ones from the folder of its file, or raises OSError."""

    def __init__(self, config_id: str, find: Callable[[str, str], List[Text]]) -> None:
        self.config_id = config_id
        self.find = find
        self.problems: List[Problem] = []
        self._definitions: Dict[str, str] = {"_INSTANCE": config_id, "_HASH": "#", "_BANG": "!"}
        self._count = 0

    def read(self, path: str, text: str, depth: int = 0) -> Iterator[Statement]:
        """The statements of a file with those of its includes in their places."""
        folder = posixpath.dirname(path)
        for number, line in _lines(text):
            self._definitions["_PWD"] = folder
            for meant in self._all_meant(path, number, line):
                asked = words(meant)
                if asked[:1] and asked[0] in INCLUDES and len(asked) == 2:
                    for statement in self._included(path, number, asked[1], depth):
                        yield statement
                    self._definitions["_PWD"] = folder
                    continue
                for part in split(meant):
                    if self._is_too_much(path, number):
                        return
                    found = _words_of(part)
                    if found:
                        yield Statement(path, number, found)

    def _is_too_much(self, path: str, number: int) -> bool:
        self._count += 1
        if self._count == MOST:
            self._tell(path, number, "there are more than %d lines: the rest is not read" % MOST)
        return self._count >= MOST

    def _all_meant(self, path: str, number: int, line: str, depth: int = 0) -> Iterator[str]:
        """The line, or those of the definition that it names."""
        meant = self._meant(path, number, line)
        if "\n" not in meant:
            if meant:
                yield meant
            return
        for each in meant.split("\n"):
            if depth >= DEEPEST or self._is_too_much(path, number):
                return
            for found in self._all_meant(path, number, each.strip(" \t"), depth + 1):
                yield found

    def _included(self, path: str, number: int, pattern: str, depth: int) -> Iterator[Statement]:
        if depth >= DEEPEST:
            self._tell(path, number, "files include one another too deeply")
            return
        try:
            texts = self.find(pattern, posixpath.dirname(path))
        except OSError as error:
            self._tell(path, number, "include %s: %s" % (pattern, error.strerror))
            return
        if not texts and not re.search(r"[*?[]", pattern):  # a folder may well be empty
            self._tell(path, number, "include %s: there is no such file" % pattern)
        for included, text in texts:
            for statement in self.read(included, text, depth + 1):
                yield statement

    def _meant(self, path: str, number: int, line: str) -> str:
        """The line with its definitions put in; "" where it is not for this host, or is a definition itself."""
        for _ in range(DEEPEST):
            if len(line) > LONGEST:
                self._tell(path, number, "it is longer than %d characters with what its definitions mean" % LONGEST)
                return ""
            if line.startswith("@"):
                line = self._if_here(line)
            definition = _DEFINITION.match(line)
            if definition:
                self._definitions[definition.group(1)] = definition.group(2)
                return ""
            if line.startswith("~"):
                self._tell(path, number, "%s is not followed here" % line.split("(")[0])
                return ""
            before, line = line, _USE.sub(self._put_in, line)
            if line == before or "\n" in line:
                return line
        return line

    def _if_here(self, line: str) -> str:
        condition, _, rest = line[1:].replace("\t", " ").partition(" ")
        is_other = condition.startswith("^")
        fits = (condition.lstrip("^") == self.config_id) != is_other
        return rest.strip() if fits else ""

    def _put_in(self, found: Any) -> str:
        name = found.group(1) or found.group(2)
        return self._definitions.get(name, str(found.group(0)))

    def _tell(self, path: str, number: int, text: str) -> None:
        self.problems.append(Problem(path, number, text))


def top_blocks(statements: List[Statement]) -> Iterator[Tuple[Statement, List[Statement]]]:
    """Each block that lies in no other, as what begins it and all statements in it, braces too; the last one may have no end."""
    depth = 0
    header: Optional[Statement] = None
    inside: List[Statement] = []
    for each in statements:
        if each.words == ["}"]:
            depth = max(0, depth - 1)
            if depth == 0 and header is not None:
                yield header, inside
                header, inside = None, []
                continue
        if depth:
            inside.append(each)
        elif each.words != ["{"] and each.words != ["}"]:
            header = each
        if each.words == ["{"]:
            depth += 1
    if depth and header is not None:
        yield header, inside


def unclosed(statements: List[Statement]) -> Optional[Statement]:
    """What begins the block that has no end, the last one then; None where each has one."""
    depth = 0
    header: Optional[Statement] = None
    for each in statements:
        if each.words == ["}"]:
            depth = max(0, depth - 1)
        elif each.words == ["{"]:
            depth += 1
        elif not depth:
            header = each
    return header if depth else None


def _lines(text: str) -> Iterator[Tuple[int, str]]:
    """Each line that says something, without its comment. A definition of several lines, each but its last with a backslash, is one."""
    first, kept = 0, []  # type: int, List[str]
    for number, line in enumerate(text.split("\n"), 1):
        line = uncommented(line.rstrip("\r"))
        goes_on = line.endswith("\\") and (bool(kept) or "$" in line)
        if kept or goes_on:
            first = first if kept else number
            kept.append(line[:-1].strip(" \t") if goes_on else line)
        if kept and not goes_on:
            yield first, "\n".join(kept)
            kept = []
        elif line and not goes_on:
            yield number, line
    if kept:
        yield first, "\n".join(kept)


def uncommented(line: str) -> str:
    """# and ! begin a comment anywhere outside "..."; a backslash before them takes that from them."""
    kept, quoted, at = [], False, 0
    line = line.strip(" \t")
    while at < len(line):
        char = line[at]
        if char == "\\" and at + 1 < len(line):
            escaped = line[at + 1]
            kept.append(escaped if not quoted and escaped in "#!" else char + escaped)
            at += 2
            continue
        if char == '"':
            quoted = not quoted
        elif char in "#!" and not quoted:
            break
        kept.append(char)
        at += 1
    return "".join(kept).rstrip(" \t")


def split(line: str) -> List[str]:
    """A brace outside "..." is a part of its own."""
    parts, start, quoted = [], 0, False
    for at, char in enumerate(line):
        if char == '"':
            quoted = not quoted
        elif char in "{}" and not quoted:
            parts += [line[start:at], char]
            start = at + 1
    return [part.strip() for part in parts + [line[start:]] if part.strip()]


def _words_of(part: str) -> List[str]:
    found = words(part)
    if found and COMMANDS.match(found[0]) and found[0] not in NO_COMMANDS:
        return command_words(part)
    return found


def words(text: str) -> List[str]:
    """As keepalived takes most lines apart: "..." is one word, and nothing is escaped."""
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"?|([^\s"]+)', text) if quoted or bare]


def command_words(text: str) -> List[str]:
    """As it takes a command apart: both kinds of quotes, also inside a word, and escapes as of the shell's $'...'."""
    found: List[str] = []
    word, quote, begun, at = "", "", False, 0
    while at < len(text):
        char = text[at]
        escape = _ESCAPE.match(text, at) if char == "\\" else None
        if escape:
            word, begun, at = word + _unescaped(escape.group(1)), True, escape.end()
            continue
        if quote and char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote, begun = char, True
        elif not quote and char in " \t\n":
            found += [word] if begun else []
            word, begun = "", False
        else:
            word, begun = word + char, True
        at += 1
    found += [word] if begun else []
    return [word.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") for word in found]


def _unescaped(text: str) -> str:
    """One byte; those that are no ASCII come as surrogates, and several may be one character."""
    if text[0] == "x" and len(text) > 1:
        return _byte(int(text[1:], 16) & 0xFF)
    if text[0] in "01234567":
        return _byte(int(text, 8) & 0xFF)
    return ESCAPES.get(text, text)


def _byte(number: int) -> str:
    return bytes((number,)).decode("ascii", "surrogateescape")

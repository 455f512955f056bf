"""Differences of one file as text that `patch -p1` and `git apply` accept, or what it is where none may be shown."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Container, Iterator

from ngxsync.agent.manifest import Entry
from ngxsync.core.wording import human_size, safe_name

LARGEST_TEXT = 1 << 20  # bytes; beyond it only sizes and hashes are shown
NO_NEWLINE = "\\ No newline at end of file\n"


def is_secret(path: str, content: bytes | None, named: Container[str]) -> bool:
    """DESIGN 5: a private key in it, or a file that ssl_certificate_key or auth_basic_user_file names (`named`)."""
    return path in named or (content is not None and b"PRIVATE KEY" in content)


def unified(
    path: str, before: bytes | None, after: bytes | None, *, secret: bool = False, names: tuple[str, str] = ("a", "b")
) -> str:
    """What turns `before` into `after` (None is absence) as unified text, "" where they are equal.

    Bytes that are not UTF-8 come as surrogates: write the text with errors="surrogateescape". On a terminal pass
    each line through wording.safe_text, since a file's content may hold escapes. Secrets (what holds
    a private key always is one), binary and very large files are shown by size and hash alone.
    """
    if before == after:
        return ""
    secret = secret or is_secret(path, before, ()) or is_secret(path, after, ())
    if secret or not (_is_text(before) and _is_text(after)):
        return (
            f"{'Secret' if secret else 'Binary'} files differ: {safe_name(path)} {_facts(before)} -> {_facts(after)}\n"
        )
    old, new = (_quoted(f"{name}/{path.lstrip('/')}") for name in names)
    header = f"diff --git {old} {new}\n{_presence(before, after)}"
    source = "/dev/null" if before is None else old
    target = "/dev/null" if after is None else new
    return header + "".join(_hunks(before or b"", after or b"", source, target))


def _hunks(before: bytes, after: bytes, source: str, target: str) -> Iterator[str]:
    lines = difflib.unified_diff(_lines(before), _lines(after), _label(source), _label(target))
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}"


def _lines(content: bytes) -> list[str]:
    """Lines end at \\n alone, as patch sees them, not at what else str.splitlines takes for an end."""
    parts = content.decode("utf-8", "surrogateescape").split("\n")
    whole = [f"{part}\n" for part in parts[:-1]]
    return [*whole, parts[-1]] if parts[-1] else whole


def _presence(before: bytes | None, after: bytes | None) -> str:
    """git's words for creation and deletion: without them an empty file would leave no trace in the text."""
    if before is not None and after is not None:
        return ""
    word = "new" if before is None else "deleted"
    return f"{word} file mode 100644\nindex {_blob_id(before)}..{_blob_id(after)}\n"


def _blob_id(content: bytes | None) -> str:
    if content is None:
        return "0" * 40
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _is_text(content: bytes | None) -> bool:
    return content is None or (len(content) <= LARGEST_TEXT and b"\0" not in content)


def _facts(content: bytes | None) -> str:
    if content is None:
        return "absent"
    return f"{human_size(len(content))} sha256 {hashlib.sha256(content).hexdigest()[:12]}"


def entry_facts(entry: Entry | None) -> str:
    """The same words for a file whose bytes are not at hand."""
    return "absent" if entry is None else f"{human_size(entry.size)} sha256 {entry.content[:12]}"


def _label(name: str) -> str:
    """A tab ends a name that has spaces: what follows it would be a date (GNU diff does the same)."""
    return f"{name}\t" if " " in name and not name.startswith('"') else name


def _quoted(name: str) -> str:
    """git's and patch's quoting: a name with control characters, quotes or other than ASCII in C's double quotes."""
    if all(char.isascii() and char.isprintable() and char not in '"\\' for char in name):
        return name
    return f'"{"".join(_octal(byte) for byte in name.encode("utf-8", "surrogateescape"))}"'


def _octal(byte: int) -> str:
    char = chr(byte)
    return char if 0x20 <= byte < 0x7F and char not in '"\\' else f"\\{byte:03o}"

"""The one importer of crossplane: explains what nginx refused, and finds the files that a whole configuration names.

crossplane 0.5.8 ends near nginx 1.17, so its word is an explanation; `nginx -t` decides (DESIGN 5).
Its tables are mended here where they call valid configuration wrong.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import crossplane
from crossplane import analyzer

from ngxsync.agent import directives
from ngxsync.agent.directives import Directive, NamedFile
from ngxsync.core.model import Problem
from ngxsync.core.nginxtree import DEEPEST, Item, Parsed, items_from, items_of, misread

# nginx takes `include` anywhere; newer releases take the others in places that crossplane does not know
_HTTP_IF = analyzer.NGX_HTTP_SIF_CONF | analyzer.NGX_HTTP_LIF_CONF | analyzer.NGX_HTTP_LMT_CONF
_UPSTREAMS = analyzer.NGX_HTTP_UPS_CONF | analyzer.NGX_STREAM_UPS_CONF
_NEWER = {
    "include": _HTTP_IF | analyzer.NGX_CONF_TAKE1,
    "server_name": analyzer.NGX_STREAM_SRV_CONF | analyzer.NGX_CONF_1MORE,
    "set": analyzer.NGX_STREAM_SRV_CONF | analyzer.NGX_CONF_TAKE2,
    "resolver": _UPSTREAMS | analyzer.NGX_CONF_1MORE,
    "resolver_timeout": _UPSTREAMS | analyzer.NGX_CONF_TAKE1,
}
for _name, _mask in _NEWER.items():
    analyzer.DIRECTIVES[_name] = [*analyzer.DIRECTIVES[_name], _mask]

_UNKNOWN = 'unknown directive "'
# as git's index does: a change within the same tick of the clock as the last one is not to be seen in the times
_RACY_S = 2.0
_CACHE_VERSION = 1
_Key = tuple[str, str]  # a configuration file, and the block that includes it
Payloads = dict[bytes, list[dict[str, Any]]]  # text to what crossplane makes of it


def explain(conf: Path, prefix: Path) -> tuple[Problem, ...]:
    """All that crossplane finds wrong with the configuration, each with its place; empty where it is content.

    `conf` may be relative to `prefix`, as for nginx -c. Level "warning": in files with Lua, which crossplane misreads.
    """
    unread: list[str] = []
    directives.read_all(str(conf), str(prefix), unread=unread)
    pipes = [text.removesuffix(f": {directives.NO_FILE}") for text in unread if text.endswith(directives.NO_FILE)]
    if pipes:  # nginx waits at it, and so would crossplane
        return tuple(Problem(f"{directives.NO_FILE}: whoever reads it may wait for ever", path) for path in pipes)
    payload = crossplane.parse(str(prefix / conf), catch_errors=True, onerror=_reason)
    return tuple(dict.fromkeys([*(_explained(error) for error in payload["errors"]), *_cycles(payload["config"])]))


def _reason(error: Exception) -> str:
    """The bare reason: the text of crossplane's errors names the last included file, often the wrong one."""
    if isinstance(error, OSError):
        return f'cannot read "{error.filename}": {error.strerror}'
    if isinstance(error, RecursionError):
        return "blocks are nested too deep to be read"
    return str(getattr(error, "strerror", None) or "") or 'unexpected end of file, expecting ";" or "}"'


def _explained(error: dict[str, Any]) -> Problem:
    file, line = str(error["file"]), error["line"]
    try:
        text = Path(file).read_bytes()
    except OSError:
        text = b""
    last = text.count(b"\n") + (not text.endswith(b"\n"))
    is_lua = b"_by_lua_block" in text
    return Problem(error["callback"], file, line or (last if text else 0), "warning" if is_lua else "error")


def _cycles(configs: list[dict[str, Any]]) -> list[Problem]:
    """The first circle of includes: nginx dies of it (signal 11) without a word."""
    lines = {
        (number, included): item["line"]
        for number, config in enumerate(configs)
        for item in _nested(config["parsed"])
        for included in item.get("includes", ())
    }
    graph: dict[int, set[int]] = {}
    for including, included in lines:
        graph.setdefault(including, set()).add(included)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]
        files = [configs[number]["file"] for number in circle]
        text = f"includes itself without end: {' includes '.join(files)}"
        return [Problem(text, files[0], lines[circle[0], circle[1]])]
    return []


def _nested(parsed: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in parsed:
        yield item
        yield from _nested(item.get("block", []))


def with_hints(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The same problems; an unknown directive gets the nearest known name. Meant for what nginx itself refused."""
    return tuple(_with_hint(problem) for problem in problems)


def _with_hint(problem: Problem) -> Problem:
    if not problem.text.startswith(_UNKNOWN):
        return problem
    name = problem.text[len(_UNKNOWN) :].split('"')[0]
    near = difflib.get_close_matches(name, [*analyzer.DIRECTIVES, *directives.RULES], n=1, cutoff=0.75)
    if not near or near[0] == name:  # known, so its module is missing: no typo
        return problem
    return replace(problem, text=f'{problem.text}; did you mean "{near[0]}"?')


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one configuration file was when it was read, and all that is kept of it."""

    stamp: str  # "" where it may have changed while it was read
    includes: tuple[Directive, ...]
    named: tuple[NamedFile, ...]


class ConfReader:
    """Finds the files that a configuration names, and reads again only the configuration files that changed.

    A file counts as unchanged while device, inode, size, mtime and ctime are the same. What was read is kept in memory
    and, where `cache_file` is given, on disk (0600); a damaged cache file is as good as none. What crossplane makes of
    a file is put into `payloads`, where it is given: for who parses the same texts next.
    """

    def __init__(
        self,
        cache_file: Path | None = None,
        *,
        now: Callable[[], float] = time.time,
        payloads: Payloads | None = None,
    ) -> None:
        self._cache_file, self._payloads = cache_file, payloads
        self._now = now
        self._places = ("", "")  # main configuration file and prefix that what is kept belongs to
        self._seen: dict[_Key, _Seen] = {}
        self._result: tuple[NamedFile, ...] = ()
        self._unsaved = 0
        self._lock = threading.Lock()

    def named_files(self, conf: Path, prefix: Path) -> tuple[NamedFile, ...]:
        """Every file that the configuration names; includes as they are written, so perhaps as patterns.

        A configuration file that is reached by a symbolic link is named by its real path too. An unreadable one is
        passed over: it is nginx that refuses it. No cache is kept where its folder is missing: before a first sync
        nothing is made; where its file cannot be written, only speed is lost. Safe to use from several threads.
        """
        with self._lock:
            return self._named_files(conf, prefix)

    def _named_files(self, conf: Path, prefix: Path) -> tuple[NamedFile, ...]:
        places = (str(prefix / conf), str(prefix))
        if places != self._places:
            self._places, self._result = places, ()
            self._seen = _read_cache(self._cache_file, places) if self._cache_file else {}
        used: dict[_Key, _Seen] = {}

        def load(file: str, context: str) -> list[Directive]:
            seen = self._load(file, context)
            if seen is None:
                return []
            used[file, context] = seen
            return list(seen.includes)

        for _ in directives.walk(places[0], load):
            pass
        if not self._result or used != self._seen:
            self._result = tuple(item for seen in used.values() for item in seen.named)
        self._seen = used
        self._save()
        return self._result

    def _load(self, file: str, context: str) -> _Seen | None:
        try:
            stamp, _ = _stamp(file)
            known = self._seen.get((file, context))
            if known is not None and known.stamp == stamp:
                return known
            parsed = _parse(file, context, self._payloads)
            after, changed_at = _stamp(file)
        except OSError:
            return None
        is_settled = after == stamp and self._now() - changed_at > _RACY_S
        self._unsaved += is_settled
        includes = tuple(item for item in parsed if item.name == "include")
        named = directives.named_files(parsed, os.path.dirname(self._places[0]), self._places[1])
        if os.path.islink(file):
            named.append(NamedFile(os.path.realpath(file), "include", "include", file, 0, True))
        return _Seen(stamp if is_settled else "", includes, tuple(named))

    def _save(self) -> None:
        # ten thousand files make megabytes: not to be written again for each edit, a few files are soon parsed again
        if self._cache_file and self._cache_file.parent.is_dir() and self._unsaved * 20 > len(self._seen):
            with suppress(OSError):
                _write_cache(self._cache_file, self._places, self._seen)
                self._unsaved = 0


def _stamp(file: str) -> tuple[str, float]:
    """What a change of the file would change, and its ctime in seconds."""
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, directives.NO_FILE, file)
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, parts)), status.st_ctime


def parse_text(text: bytes, payloads: Payloads | None = None) -> Parsed:
    """One file for a comparison by meaning, from crossplane; with a problem where it cannot read it, or would change it."""
    ours = directives.parse(text, "")
    parsed: tuple[Item, ...] = ()
    try:
        problem = _unfit(text, ours)
        parsed = () if problem else items_from((payloads or {}).get(text) or _payload_of(text))
    except (OSError, RecursionError) as error:
        problem = _reason(error)
    except ValueError as error:
        problem = str(error)
    if not problem and (line := misread(parsed, ours)):
        problem = f"line {line} is not what crossplane takes it for"
    return Parsed(items_of(ours), problem) if problem else Parsed(parsed)


def _unfit(text: bytes, ours: Iterable[Directive]) -> str:
    if deep := next((item.line for item in ours if item.depth > DEEPEST), 0):
        return f"line {deep} stands in more than {DEEPEST} blocks"
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"line {text.count(10, 0, error.start) + 1} is not UTF-8"
    return "a carriage return stands within a line" if b"\r" in text.replace(b"\r\n", b"\n") else ""


def _payload_of(text: bytes) -> list[dict[str, Any]]:
    """Raises ValueError with crossplane's reason. It reads files alone: this one is in memory."""
    handle = os.memfd_create("ngxsync-conf")
    try:
        with os.fdopen(handle, "wb", closefd=False) as stream:
            stream.write(text)
        payload = crossplane.parse(
            f"/proc/self/fd/{handle}", single=True, check_ctx=False, check_args=False, onerror=_reason
        )
    finally:
        os.close(handle)
    for error in payload["errors"]:
        place = f"line {error['line']}: " if error["line"] else ""
        raise ValueError(f"{place}{error['callback']}")
    return list(payload["config"][0]["parsed"])


def _parse(file: str, context: str, payloads: Payloads | None) -> list[Directive]:
    """All directives of one file; our own lexer reads what crossplane cannot, or would change (bytes outside UTF-8)."""
    text = Path(file).read_bytes()
    try:
        text.decode("utf-8")
        payload = crossplane.parse(file, single=True, check_ctx=False, check_args=False, catch_errors=True)
        if not payload["errors"]:
            parsed = payload["config"][0]["parsed"]
            if payloads is not None and Path(file).read_bytes() == text:
                payloads[text] = parsed
            return list(_flat(parsed, file, context, 0))
    except (UnicodeDecodeError, RecursionError):
        pass
    return directives.parse(text, file, context)


def _flat(parsed: list[dict[str, Any]], file: str, context: str, depth: int) -> Iterator[Directive]:
    for item in parsed:
        name = sys.intern(item["directive"])  # the same few names, kept ten thousand times
        yield Directive(name, tuple(item["args"]), file, item["line"], "block" in item, depth, context)
        yield from _flat(item.get("block", []), file, name, depth + 1)


def _read_cache(cache_file: Path, places: tuple[str, str]) -> dict[_Key, _Seen]:
    """The kept files by (file, context); one line each, so that no large object is ever built."""
    try:
        with cache_file.open(encoding="ascii") as stream:
            if json.loads(next(stream)) != [_CACHE_VERSION, *places]:
                return {}
            return dict(_seen_from_json(json.loads(line)) for line in stream)
    except (OSError, ValueError, TypeError, StopIteration):
        return {}


def _seen_from_json(data: list[Any]) -> tuple[_Key, _Seen]:
    file, context, stamp, includes, named = data
    return (file, context), _Seen(
        stamp,
        tuple(
            Directive("include", (pattern,), file, line, False, depth, sys.intern(around))
            for pattern, line, depth, around in includes
        ),
        tuple(
            NamedFile(path, sys.intern(role), sys.intern(name), file, line, is_loaded)
            for path, role, name, line, is_loaded in named
        ),
    )


def _write_cache(cache_file: Path, places: tuple[str, str], kept: dict[_Key, _Seen]) -> None:
    handle, name = tempfile.mkstemp(dir=cache_file.parent, prefix=cache_file.name + ".")  # 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(json.dumps([_CACHE_VERSION, *places]) + "\n")
            for (file, context), seen in kept.items():
                includes = [[item.args[0], item.line, item.depth, item.context] for item in seen.includes if item.args]
                named = [[item.path, item.role, item.directive, item.line, item.is_loaded] for item in seen.named]
                stream.write(json.dumps([file, context, seen.stamp, includes, named]) + "\n")
        os.replace(name, cache_file)
    except BaseException:
        os.unlink(name)
        raise

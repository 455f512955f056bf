"""Which files an nginx configuration names, and what nginx does with each: a table, a lexer, a walk along includes.

Where a relative path begins was read in nginx's sources: ngx_conf_full_name takes 1 for the directory of the main
configuration file ("conf") and 0 for the prefix ("prefix"). What nginx hands to a library as it is ("cwd") begins where
nginx was started, which nobody knows afterwards, so of those only absolute paths are taken.
A path that ends in a slash is a directory and stands for everything below it. No symbolic link is followed here.
"""

import errno
import fnmatch
import glob
import os
import posixpath
import re
import stat
from typing import Any, BinaryIO, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

Directive = NamedTuple(
    "Directive",
    [
        ("name", str),
        ("args", Tuple[str, ...]),  # without quotes and escapes
        ("file", str),
        ("line", int),  # of the name, from 1
        ("block", bool),  # ends in { ... }, not in ;
        ("depth", int),  # blocks of the same file around it
        ("context", str),  # name of the block around it, also across an include; "" is the main context
    ],
)
NamedFile = NamedTuple(
    "NamedFile",
    [
        ("path", str),  # absolute; a directory ends in "/"; that of an include may be a pattern with * ? [
        ("role", str),  # include certificate key auth log pid temp cache socket data module root
        ("directive", str),
        ("file", str),  # the configuration file that names it
        ("line", int),
        ("is_loaded", bool),  # read at start and reload, not per request and not merely written
    ],
)
MainDirective = Tuple[str, Tuple[str, ...], str, int]
Load = Callable[[str, str], List[Directive]]
Open = Callable[..., Any]
NO_FILE = "it is no regular file"
Unread = Optional[List[str]]
Rule = NamedTuple("Rule", [("base", str), ("role", str), ("is_loaded", bool), ("shape", str)])

# name -> rule; shape: which argument (first, second, last), folder (the first, a directory), listen, templates, state
RULES: Dict[str, Rule] = {}


def _rules(base: str, role: str, is_loaded: bool, names: str, shape: str = "first") -> None:
    RULES.update((name, Rule(base, role, is_loaded, shape)) for name in names.split())


_rules("conf", "include", True, "include")
_rules("prefix", "module", True, "load_module")
_rules("prefix", "log", False, "access_log error_log")
_rules("cwd", "log", False, "google_perftools_profiles")
_rules("prefix", "pid", False, "pid lock_file")
_rules("prefix", "root", False, "root alias")
_rules("cwd", "root", False, "working_directory", "folder")
_rules("cwd", "socket", False, "listen", "listen")
for _side in ("", "proxy_", "grpc_", "uwsgi_", "zone_sync_", "lua_"):
    _rules("conf", "certificate", True, _side + "ssl_certificate")
    _rules("conf", "key", True, "%sssl_certificate_key %sssl_password_file" % (_side, _side))
    _rules("conf", "data", True, "%sssl_trusted_certificate %sssl_crl" % (_side, _side))
_rules("conf", "key", True, "ssl_session_ticket_key quic_host_key ssl_ech_file auth_jwt_key_file")
_rules(
    "conf", "data", True, "ssl_client_certificate ssl_dhparam ssl_stapling_file js_include js_fetch_trusted_certificate"
)
_rules("conf", "data", True, "js_import js_preload_object", "last")
_rules("conf", "data", True, "js_path", "folder")
_rules("prefix", "data", True, "xslt_stylesheet")
_rules("prefix", "data", True, "perl_modules", "folder")
_rules("prefix", "data", True, "set_by_lua_file", "second")
_rules("prefix", "data", True, "lua_package_path lua_package_cpath", "templates")
_rules(
    "cwd", "data", True, "geoip_country geoip_city geoip_org geoip2 perl_require xml_entities modsecurity_rules_file"
)
_rules("conf", "auth", False, "auth_basic_user_file auth_digest_user_file")  # opened again for each request
for _side in ("proxy", "fastcgi", "scgi", "uwsgi"):
    _rules("prefix", "temp", False, _side + "_temp_path", "folder")
    _rules("prefix", "cache", False, _side + "_cache_path", "folder")
_rules("prefix", "temp", False, "client_body_temp_path upload_store", "folder")
_rules("prefix", "cache", False, "state")
_rules("prefix", "cache", False, "state_path", "folder")
_rules("prefix", "cache", False, "keyval_zone js_shared_dict_zone", "state")
_LUA_FILE = Rule("prefix", "data", True, "first")  # every other *_by_lua_file

# their entries are values, not directives: in a map, "root 1;" names no file
DATA_BLOCKS = frozenset(["charset_map", "geo", "geoip2", "map", "match", "split_clients", "types"])
_NO_FILE = frozenset(["", "off", "on", "stderr"])
_NO_FILE_PREFIXES = ("data:", "engine:", "memory:", "store:", "syslog:", "unix:")
_OWN_ROLES = frozenset(["log", "pid", "temp", "cache", "socket"])

_TOKEN = re.compile(
    r"""[ \t\r\n]+ | \#[^\n]*
    | (?P<mark>[;{}])
    | "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>(?:[^'\\]|\\.)*)'
    | (?P<bare>(?:\\.|\$\{|[^ \t\r\n;{\\])+)""",
    re.DOTALL | re.VERBOSE,
)
# a whole directive of bare words, or the end of a block: most of any configuration, in one look
_PLAIN = re.compile(
    r"""(?P<before>[ \t\r\n]*(?:\#[^\n]*(?:\n[ \t\r\n]*|\Z))*)
    (?:(?P<words>(?![ \t\r\n])[^;{}"'\\\#$]*(?:\$(?!\{)[^;{}"'\\\#$]*)*)(?P<mark>[;{]) | \})""",
    re.VERBOSE,
)
_WORD = re.compile(r"[^ \t\r\n]+")
_ESCAPE = re.compile(r"""\\(["'\\trn])""")
_CONTROL = {"t": "\t", "r": "\r", "n": "\n"}
_LUA = re.compile(
    r"""(?:--)?\[(?P<level>=*)\[.*?\](?P=level)\] | --[^\n]*
    | "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | (?P<brace>[{}])""",
    re.DOTALL | re.VERBOSE,
)


def parse(text: bytes, file: str, context: str = "") -> List[Directive]:
    """All directives of one file, outer ones first. Made for what nginx accepts: of anything else it makes what it can.

    `context` is the block from which the file is included. Bytes that are not UTF-8 survive as surrogates.
    """
    directives: List[Directive] = []
    around = [context]
    for words, mark, line in _statements(text.decode("utf-8", "surrogateescape")):
        if words and mark != "}":
            name, args = words[0], tuple(words[1:])
            directives.append(Directive(name, args, file, line, mark == "{", len(around) - 1, around[-1]))
        if mark == "{":
            around.append(words[0] if words else "")
        elif mark == "}" and len(around) > 1:
            around.pop()
    return directives


def _statements(source: str) -> Iterator[Tuple[List[str], str, int]]:
    """(words, which of ; { } ends them, line of the first). The code of a Lua block is passed over."""
    position, line = 0, 1
    while True:
        plain = _PLAIN.match(source, position)
        if plain is not None:
            text, mark = plain.group("words") or "", plain.group("mark") or "}"
            begin = line + plain.group("before").count("\n")
            words, line, position = _WORD.findall(text), begin + text.count("\n"), plain.end()
        else:
            words, mark, begin, line, position = _by_token(source, line, position)
        if not mark:
            return
        yield words, mark, begin
        if mark == "{" and words and words[0].endswith("_by_lua_block"):
            end = _lua_end(source, position)
            line += source.count("\n", position, end)
            position = end


def _by_token(source: str, line: int, position: int) -> Tuple[List[str], str, int, int, int]:
    """(words, mark or "" at the end, line of the first, line after them, where they end): what has quotes and the like."""
    words: List[str] = []
    start = line
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:  # a lone backslash at the end
            break
        group, begin, position = match.lastgroup, line, match.end()
        line += match.group().count("\n")
        if group:
            start = start if words else begin
        if group == "mark":
            return words, match.group(), start, line, position
        if group:
            words.append(_unescape(match.group(group)))
    return words, "", start, line, position


def _unescape(value: str) -> str:
    if "\\" not in value:
        return value
    return _ESCAPE.sub(lambda match: _CONTROL.get(match.group(1), match.group(1)), value)


def _lua_end(source: str, position: int) -> int:
    """Where the } stands that closes a Lua block whose code begins at `position`."""
    depth = 1
    for match in _LUA.finditer(source, position):
        brace = match.group("brace")
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth == 0:
            return match.start()
    return len(source)


def walk(conf_file: str, load: Load, main_only: bool = False) -> Iterator[List[Directive]]:
    """The directives of each file of a configuration, along `include`; each file once for each kind of block around it.

    `load(file, context)` gives what `parse` gives; it answers an unreadable file by an empty list.
    """
    conf_dir = posixpath.dirname(conf_file)
    queue, seen = [(conf_file, "")], {(conf_file, "")}
    for file, context in queue:  # grows while it is read
        directives = load(file, context)
        yield directives
        for directive in directives:
            if directive.name != "include" or not directive.args or (main_only and directive.depth):
                continue
            for path in included(directive, conf_dir):
                key = (path, directive.context)
                if key not in seen:
                    seen.add(key)
                    queue.append(key)


def included(directive: Directive, conf_dir: str) -> List[str]:
    """The files that one `include` reads, sorted; without * ? [ it is one, there or not. geo knows no patterns."""
    pattern = _absolute(directive.args[0], conf_dir)
    if directive.context == "geo" or not any(mark in pattern for mark in "*?["):
        return [pattern]
    return sorted(glob.glob(pattern))


def open_file(path: str, mode: str = "rb") -> BinaryIO:
    """A regular file, opened for reading. Raises OSError for what else has the name: who opens a pipe may wait for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(fd).st_mode
    if not stat.S_ISREG(found):
        os.close(fd)
        is_folder = stat.S_ISDIR(found)
        raise OSError(errno.EINVAL, os.strerror(errno.EISDIR) if is_folder else NO_FILE, path)
    return os.fdopen(fd, mode)  # type: ignore[return-value]


def _loader(open_file: Open, unread: Unread) -> Load:
    def load(file: str, context: str) -> List[Directive]:
        try:
            with open_file(file, "rb") as stream:
                return parse(stream.read(), file, context)
        except OSError as error:
            if unread is not None:
                unread.append("%s: %s" % (file, error.strerror or error))
            return []

    return load


def read_main(conf_file: str, prefix: str, open: Open = open_file, unread: Unread = None) -> List[MainDirective]:
    """(name, args, file, line) of each directive in the main context (pid, error_log, user, load_module, http, ...).

    `conf_file` may be relative to the prefix, as for nginx -c. Unreadable files are passed over and told in `unread`.
    """
    files = walk(posixpath.join(prefix, conf_file), _loader(open, unread), main_only=True)
    return [(d.name, d.args, d.file, d.line) for directives in files for d in directives if d.depth == 0]


def read_all(conf_file: str, prefix: str, open: Open = open_file, unread: Unread = None) -> List[Directive]:
    """Every directive of the whole configuration, as `read_main` does it for the main context."""
    files = walk(posixpath.join(prefix, conf_file), _loader(open, unread))
    return [directive for directives in files for directive in directives]


def rule_of(name: str) -> Optional[Rule]:
    """What the table says of a directive; None where it names no file."""
    return RULES.get(name) or (_LUA_FILE if name.endswith("_by_lua_file") else None)


def named_files(directives: Iterable[Directive], conf_dir: str, prefix: str) -> List[NamedFile]:
    """Every file that these directives name; a name with a variable in it is unknown until a request, and left out."""
    folders = {"conf": conf_dir, "prefix": prefix, "cwd": ""}
    result: List[NamedFile] = []
    for name, args, file, line, _, _, context in directives:
        rule = rule_of(name)
        if rule is not None and args and (context not in DATA_BLOCKS or name == "include"):
            for path in _paths(rule, args, folders[rule.base], prefix):
                result.append(NamedFile(path, rule.role, name, file, line, rule.is_loaded))
    return result


def _paths(rule: Rule, args: Tuple[str, ...], folder: str, prefix: str) -> List[str]:
    values = _values(rule.shape, args, prefix)
    wanted = [v for v in values if v not in _NO_FILE and "$" not in v and not v.startswith(_NO_FILE_PREFIXES)]
    paths = [_absolute(value, folder) for value in wanted if folder or value.startswith("/")]
    is_folder = rule.shape in ("folder", "templates")
    return [path.rstrip("/") + "/" for path in paths] if is_folder else paths


def _values(shape: str, args: Tuple[str, ...], prefix: str) -> List[str]:
    """The arguments of a directive that are paths."""
    if shape == "second":
        return list(args[1:2])
    if shape == "last":
        return [args[-1]]
    if shape == "listen":
        return [args[0][len("unix:") :]] if args[0].startswith("unix:") else []
    if shape == "state":
        return [arg[len("state=") :] for arg in args if arg.startswith("state=")]
    if shape == "templates":  # /a/?.lua;/b/?/init.lua;; with $prefix for nginx's own: the directory before the first ?
        parts = args[0].replace("${prefix}", prefix).replace("$prefix", prefix).split(";")
        return [posixpath.dirname(part.split("?")[0]) for part in parts]
    return [args[0]]


def _absolute(value: str, folder: str) -> str:
    path = posixpath.normpath(posixpath.join(folder, value))
    return path[1:] if path.startswith("//") else path


def loads(named: Iterable[NamedFile]) -> Callable[[str], bool]:
    """A test whether nginx reads a path at reload: named itself, below a directory, or matched by an include."""
    paths = {item.path for item in named if item.is_loaded}
    folders = tuple(path for path in paths if path.endswith("/"))
    patterns = [path for path in paths if any(mark in path for mark in "*?[")]
    # a star of glob(3) matches no slash, one of fnmatch does
    by_depth = [(path.count("/"), re.compile(fnmatch.translate(path))) for path in patterns]

    def test(path: str) -> bool:
        if path in paths or path.startswith(folders):
            return True
        return any(depth == path.count("/") and regex.match(path) for depth, regex in by_depth)

    return test


def self_excludes(named: Iterable[NamedFile], trees: Iterable[str]) -> Dict[str, List[str]]:
    """For each tree the relative paths that nginx itself writes there: logs, pid, temporary files, caches, sockets.

    Literal paths, directories with a trailing slash. A directory that is the tree, or that holds something which nginx
    loads, is none of them: excluding it would drop configuration from every sync.
    """
    named = list(named)
    own = {item.path for item in named if item.role in _OWN_ROLES}
    loaded = [item.path for item in named if item.is_loaded]
    own = {path for path in own if not path.endswith("/") or not any(other.startswith(path) for other in loaded)}
    result: Dict[str, List[str]] = {}
    for tree in trees:
        root = tree.rstrip("/") + "/"
        result[tree] = sorted(path[len(root) :] for path in own if path.startswith(root) and path != root)
    return result

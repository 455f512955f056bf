"""How a directive is named to a person, which risk it carries, and what of it is never shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ngxsync.agent.directives import rule_of
from ngxsync.core.nginxorder import DATA_BLOCKS, Said
from ngxsync.core.nginxtree import LUA, Node

LISTEN, CERTIFICATES, UPSTREAMS, ACCESS = "listen", "certificates", "upstreams", "access"
TAGS = (LISTEN, CERTIFICATES, UPSTREAMS, ACCESS)

HIDDEN = "***"
LONGEST = 160  # of a value on a line

_CERTIFICATE_NAMES = re.compile(
    r"(?:\w+_)?ssl_(?:certificate|trusted_certificate|client_certificate|crl|dhparam|password_file)\w*$"
)
_UPSTREAM_NAMES = re.compile(
    r"(?:proxy|fastcgi|grpc|uwsgi|scgi|memcached|redis)_(?:pass|next_upstream\w*)$|resolver$|upstream$"
)
_ACCESS_NAMES = re.compile(
    r"allow$|deny$|satisfy$|internal$|valid_referers$|auth_|limit_|secure_link|access_by_lua|(?:\w+_)?ssl_verify"
)

# names of directives, headers, variables and parameters whose value may be a password
_WORDS = r"passw|secret|token|credential|authori[sz]ation|api[-_]?key|access[-_]?key|private[-_]?key"
_CONFIDENTIAL = re.compile(rf"{_WORDS}|^(?:set-)?cookie$|^secure_link_md5$", re.I)
_NO_SECRET = re.compile(r"_path$|_flags$|_domain$|_pass_header$|_hide_header$|_file$|_tokens$")
_SCHEME = re.compile(r"\b(Basic|Bearer|Digest|Token)\s+[^\s\"';]+", re.I)
_USERINFO = re.compile(r"(://)[^/@\s]+@")
_PARAMETER = re.compile(rf"((?:^|[?&;])[\w.-]*(?:{_WORDS})[\w.-]*=)[^&\s]+", re.I)
_VARIABLE = re.compile(r"\$(?:\w+|\{\w+\})$")  # what it holds is in no file


def label(node: Node, parent: Said) -> str:
    """What a person calls it: a block with what tells it from its like, a simple directive by its name."""
    if node.name == "server" and node.block is not None:
        return _server_label(node)
    if parent[0] in DATA_BLOCKS:
        return HIDDEN if _is_confidential_block(parent) else _short(_quoted(_shown(node.name)))
    if node.block is None:
        return node.name
    shown = [_shown(arg) for arg in node.args]
    if node.name == "if":
        return f"if ({' '.join(_hidden_if(node.args, shown))})"
    return _short(" ".join([node.name, *shown]))


def _server_label(server: Node) -> str:
    names = [arg for child in server.block or () if child.name == "server_name" for arg in child.args]
    listens = [child.args[0] for child in server.block or () if child.name == "listen" and child.args]
    name = next((name for name in names if name), "")
    port = f" (listen {', '.join(dict.fromkeys(listens))})" if listens else ""
    return _short(f"server {name}{port}" if name else f"server{port}")


def value_of(node: Node, parent: Said) -> str:
    """A directive's arguments on one line, secrets hidden."""
    if node.name.endswith(LUA):
        return (
            f"{' '.join([*node.args[:-1], 'Lua code'])} of {node.args[-1].count(chr(10)) + 1} lines"
            if node.args
            else ""
        )
    shown = [_shown(arg) for arg in node.args]
    if node.name == "if":
        shown = _hidden_if(node.args, shown)
    elif node.block is None and is_confidential(node, parent):
        start = 1 if len(shown) > 1 else 0
        shown = [*shown[:start], *(arg if _VARIABLE.match(arg) else HIDDEN for arg in shown[start:])]
    return _short(" ".join(_quoted(arg) for arg in shown))


def size_of(block: Sequence[Node]) -> str:
    number = _count(block)
    return f"{number} directive{'' if number == 1 else 's'}"


def _count(block: Sequence[Node]) -> int:
    return sum(1 + _count(node.block or ()) for node in block)


def is_confidential(node: Node, parent: Said) -> bool:
    """Whether its value may be a password, by what it is called; in a map by the variables on both sides."""
    if parent[0] in DATA_BLOCKS:
        return _is_confidential_block(parent) or bool(_CONFIDENTIAL.search(node.name))
    named = [node.name] if not _NO_SECRET.search(node.name) else []
    if len(node.args) > 1:
        named.append(node.args[0])
    return any(_CONFIDENTIAL.search(name) for name in named)


def _is_confidential_block(parent: Said) -> bool:
    return any(_CONFIDENTIAL.search(arg) for arg in parent[1])


def _hidden_if(args: Sequence[str], shown: Sequence[str]) -> list[str]:
    """A condition on what may be a password does not show what it is compared with."""
    if any(_CONFIDENTIAL.search(arg) for arg in args if arg.startswith("$")):
        return [arg if arg.startswith("$") or arg in ("=", "!=", "~", "~*", "!~", "!~*") else HIDDEN for arg in args]
    return list(shown)


def _shown(arg: str) -> str:
    """An argument without what is a password by how it is written, whoever has it."""
    shown = _SCHEME.sub(rf"\1 {HIDDEN}", arg)
    return _PARAMETER.sub(rf"\1{HIDDEN}", _USERINFO.sub(rf"\1{HIDDEN}@", shown))


def _quoted(arg: str) -> str:
    quote = "'" if '"' in arg else '"'
    return f"{quote}{arg}{quote}" if not arg or any(char in arg for char in " \t\r\n;{}") else arg


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def tags_of(node: Node, parent: Said) -> tuple[str, ...]:
    """The risks of a directive by itself."""
    name = node.name
    if parent[0] in DATA_BLOCKS:
        return ()
    rule = rule_of(name)
    found = []
    if name == "listen":
        found.append(LISTEN)
    if _CERTIFICATE_NAMES.match(name) or (rule is not None and rule.role in ("certificate", "key")):
        found.append(CERTIFICATES)
    if _UPSTREAM_NAMES.match(name) or parent[0] == "upstream":
        found.append(UPSTREAMS)
    if _ACCESS_NAMES.match(name):
        found.append(ACCESS)
    return tuple(found)


def tags_below(parent: Said, *nodes: Node) -> tuple[str, ...]:
    """Of all these, with those of all that is in them."""
    found = _below(parent, nodes)
    return tuple(tag for tag in TAGS if tag in found)


def _below(parent: Said, nodes: Sequence[Node]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        found.update(tags_of(node, parent), _below((node.name, node.args), node.block or ()))
    return found

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
_CONFIDENTIAL = re.compile(
    r"passw|secret|token|credential|authori[sz]ation|cookie|api[-_]?key|access[-_]?key|private[-_]?key|secure_link_md5",
    re.I,
)
_NO_SECRET = re.compile(r"_path$|_flags$|_domain$|_pass_header$|_hide_header$|_file$|_tokens$")
_SCHEME = re.compile(r"\b(Basic|Bearer|Digest|Token)\s+[^\s\"';]+", re.I)
_USERINFO = re.compile(r"(://)[^/@\s]+@")


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
    """A simple directive's arguments on one line, secrets hidden; a block's, and how much is in it."""
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
        shown = [*(shown[:1] if len(shown) > 1 else ()), HIDDEN]
    text = " ".join(_quoted(arg) for arg in shown)
    if node.block is not None:
        number = _count(node.block)
        return _short(f"{text} {{{number} directive{'' if number == 1 else 's'}}}".strip())
    return _short(text)


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
    return _USERINFO.sub(rf"\1{HIDDEN}@", _SCHEME.sub(rf"\1 {HIDDEN}", arg))


def _quoted(arg: str) -> str:
    return f'"{arg}"' if not arg or any(char in arg for char in " \t\r\n;{}") else arg


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


def tags_below(node: Node, parent: Said) -> tuple[str, ...]:
    """With those of all that is in it."""
    found = set(tags_of(node, parent))
    for child in node.block or ():
        found.update(tags_below(child, (node.name, node.args)))
    return tuple(tag for tag in TAGS if tag in found)

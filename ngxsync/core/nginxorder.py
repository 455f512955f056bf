"""Where the order of nginx's directives counts, read in its sources and documentation; elsewhere it does not.

Directives of one block that are in the same group are read one after the other; those in no group ("") may stand anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Said = tuple[str, tuple[str, ...]]  # name and arguments

REGEX_LOCATIONS, REWRITE, ACCESS = "regex locations", "rewrite directives", "allow and deny"
TRIED, REGEX_KEYS, SHARES = "servers with regex or equal names", "regex keys", "shares"
HASHED = "servers of a hash"

_REWRITE = frozenset(["rewrite", "set", "if", "return", "break"])
# one after the other by what they do, whatever their first argument is
_SEQUENCES = frozenset(
    ["load_module", "sub_filter", "subs_filter", "try_files", "ssl_certificate", "ssl_certificate_key"]
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# of these only two with the same first argument are in an order
_KEYED = _words("""
    add_header add_trailer error_page fastcgi_cache_valid fastcgi_param grpc_set_header js_import js_set log_format
    proxy_cache_valid proxy_set_header scgi_param ssl_conf_command uwsgi_param
""")
# each stands for itself
_FREE = _words("""
    access_log auth_basic auth_request env error_log events expires fastcgi_cache_path fastcgi_hide_header
    fastcgi_ignore_headers fastcgi_pass_header geo geoip2 grpc_hide_header grpc_pass_header gzip_types http include
    keepalive limit_conn limit_conn_zone limit_except limit_req limit_req_zone listen location mail map match
    proxy_cache_bypass proxy_cache_path proxy_hide_header proxy_no_cache proxy_pass_header resolver server
    set_real_ip_from split_clients stream sub_filter_types types upstream valid_referers
""")
# what stands in them are keys and values, not directives
DATA_BLOCKS = frozenset(["map", "geo", "types", "split_clients", "charset_map", "geoip2", "match"])
# what follows the first argument (or all, with 0) is a set
_SETS = {
    **dict.fromkeys(_words("listen limit_req limit_conn limit_req_zone proxy_cache_path fastcgi_cache_path server"), 1),
    **dict.fromkeys(_words("ssl_protocols gzip_types sub_filter_types valid_referers proxy_ignore_headers"), 0),
}


def ordered_arguments(name: str, args: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments in an order that is the same for all that nginx does not tell apart."""
    start = _SETS.get(name)
    return args if start is None else (*args[:start], *sorted(args[start:]))


def order_groups(parent: str, children: Sequence[Said]) -> list[str]:
    """For each child of a block the group that it is read in order with, "" for none."""
    if parent in DATA_BLOCKS:
        return [_data_group(parent, name) for name, _ in children]
    hashed = parent == "upstream" and _is_hashed(children)
    return [HASHED if hashed and name == "server" else group_of(name, args) for name, args in children]


def group_of(name: str, args: tuple[str, ...]) -> str:
    if name == "location":
        return REGEX_LOCATIONS if args and args[0].startswith("~") else ""
    if name in _REWRITE or (name.startswith("set_") and args[:1] and args[0].startswith("$")):
        return REWRITE
    if name in ("allow", "deny"):
        return ACCESS
    if name in _SEQUENCES:
        return f"{name} directives"
    if name in _FREE:
        return ""
    if name in _KEYED:
        return f"{name} {args[0]}" if args else ""
    if name.startswith(("more_", "echo")):  # each of a family works on what the one before left
        return f"{name.partition('_')[0]} directives"
    return f"{name} directives"  # not known to be free: as it stands


def _data_group(parent: str, key: str) -> str:
    """A map tries its regexes in order; split_clients gives out its shares in order; the last of two equal keys counts."""
    if parent == "split_clients":
        return SHARES
    return REGEX_KEYS if parent == "map" and key.startswith("~") else f"key {key}"


def _is_hashed(children: Iterable[Said]) -> bool:
    """Whether clients are given to servers by their number: another order sends them elsewhere."""
    return any(name == "ip_hash" or (name == "hash" and "consistent" not in args) for name, args in children)


def default_listens(servers: Sequence[Sequence[Said]]) -> dict[str, int]:
    """For each address the server (by its number) that answers what no name asks for: the first, or who says so."""
    found: dict[str, int] = {}
    said: set[str] = set()
    for number, children in enumerate(servers):
        listens = [args for name, args in children if name == "listen" and args] or [("*:80",)]
        for args in listens:
            address = address_of(args[0])
            is_said = "default_server" in args or "default" in args
            if address not in found or (is_said and address not in said):
                found[address] = number
            if is_said:
                said.add(address)
    return found


def address_of(listen: str) -> str:
    """The address of a listen with its port: 80, *:80 and 0.0.0.0:80 are one."""
    if listen.startswith("unix:"):
        return listen
    if listen.isdigit():
        return f"*:{listen}"
    bare = listen.rpartition("]")[2] if listen.startswith("[") else listen
    full = listen if ":" in bare else f"{listen}:80"
    return "*:" + full.rpartition(":")[2] if full.startswith("0.0.0.0:") else full

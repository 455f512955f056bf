"""keepalived.conf for one host of the pair, from [vrrp] and its [peer NAME]."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from ipaddress import ip_interface

from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.keepalived.quoting import LONGEST, command, value
from ngxsync.core.keepalived.settings import Wanted, raise_if_incomplete

SCRIPT, INSTANCE = "check_nginx", "ngxsync"
COMMAND = "/usr/local/sbin/ngxsync-agent"
STANDARD_STATE = "/var/lib/ngxsync"
FIFO = "/run/ngxsync-vrrp.fifo"
NGINX_ROOT, NGINX_CONF = "/usr/local/nginx", "conf/nginx.conf"
CHECK_INTERVAL_S = 2.0  # as the agent has it where nothing is said

Lines = Iterator[str]
Asked = tuple[tuple[str, str, str], ...]


def render_conf(wanted: Wanted, peer: PeerConfig) -> str:
    """The whole file. Raises ConfigError (settings.raise_if_incomplete)."""
    raise_if_incomplete(wanted)
    config = wanted.config
    parts = (
        _heading(config, peer),
        _block("global_defs", _globals(config, peer)),
        _block(f"vrrp_script {SCRIPT}", _check(config, peer)),
        _block(f"vrrp_instance {INSTANCE}", _instance(wanted, peer)),
    )
    text = "\n\n".join("\n".join(part) for part in parts) + "\n"
    longest = max(text.splitlines(), key=len)
    if len(longest) > LONGEST:
        what = (
            f"keepalived.conf cannot be written from this: {longest.split()[0]} needs {len(longest)} bytes in one line"
        )
        hint = f"keepalived reads {LONGEST}: shorten what goes into it (VIPs, paths, check_url)"
        raise ConfigError(Message(what, config.file, "nothing was written", hint))
    return text


def agent_command(peer: PeerConfig) -> str:
    """The agent's command on that host; only over the standard state folder it has one of its own."""
    return COMMAND if peer.state_dir == STANDARD_STATE else f"{peer.state_dir}/agent/ngxsync-agent"


def _heading(config: Config, peer: PeerConfig) -> Lines:
    yield f"# keepalived.conf of {peer.name}, written by ngxsync from {_plain(config.file)}. Change it there, and make this again:"
    yield f"#   ngxsync keepalived render {peer.name}"
    yield "# Whether both hosts still fit together: ngxsync keepalived check"


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _block(name: str, lines: Iterable[str]) -> Lines:
    yield f"{name} {{"
    for line in lines:
        yield f"    {line}"
    yield "}"


def _globals(config: Config, peer: PeerConfig) -> Lines:
    yield f"router_id {value(peer.name)}"
    yield "script_user root"
    yield "enable_script_security"
    if config.vrrp.notify == "fifo":
        yield f"vrrp_notify_fifo {FIFO}"
        yield f"vrrp_notify_fifo_script {command((*_notify(config, peer), '--fifo'))}"


def _notify(config: Config, peer: PeerConfig) -> tuple[str, ...]:
    return (agent_command(peer), "notify", "--vip", ",".join(config.vrrp.addresses), *_differing(_nginx(config)))


def _nginx(config: Config) -> Asked:
    """Which nginx is meant: option, what it is here, what it is where nothing is said."""
    nginx = config.nginx
    return (
        ("--root", nginx.root, NGINX_ROOT),
        ("--conf", nginx.conf, posixpath.join(nginx.root, NGINX_CONF)),
        ("--binary", nginx.binary, "auto"),
    )


def _differing(asked: Asked) -> Lines:
    return (word for option, is_now, known in asked if is_now != known for word in (option, is_now))


def _check(config: Config, peer: PeerConfig) -> Lines:
    vrrp = config.vrrp
    interval = (f"{vrrp.check_interval_s:g}", f"{CHECK_INTERVAL_S:g}")
    words = _differing((*_nginx(config), ("--url", vrrp.check_url, ""), ("--interval", *interval)))
    yield f"script {command((agent_command(peer), 'check-nginx', *words))}"
    yield f"interval {vrrp.check_interval_s:g}"
    yield f"timeout {vrrp.check_interval_s:g}"
    yield f"weight {vrrp.check_weight}"
    yield f"fall {vrrp.check_fall}"
    yield f"rise {vrrp.check_rise}"
    yield "user root"


def _instance(wanted: Wanted, peer: PeerConfig) -> Lines:
    config, vrrp, family = wanted.config, wanted.config.vrrp, wanted.family
    yield f"state {state_of(config, peer)}"
    yield f"interface {value(peer.interface)}"
    if wanted.version == 3:
        yield "version 3"
    yield f"virtual_router_id {vrrp.virtual_router_id}"
    yield f"priority {peer.priority}"
    yield f"advert_int {vrrp.advert_int_s:g}"
    if vrrp.nopreempt:
        yield "nopreempt"
    if vrrp.preempt_delay_s:
        yield f"preempt_delay {vrrp.preempt_delay_s:g}"
    if wanted.password and wanted.version == 2:
        yield from _block("authentication", ("auth_type PASS", f"auth_pass {value(wanted.password)}"))
    if vrrp.unicast:
        others = [wanted.address_of(other, family) for other in config.peers if other is not peer]
        yield f"unicast_src_ip {wanted.address_of(peer, family)}"
        yield from _block("unicast_peer", others)
    own = [vip for vip in vrrp.vips if ip_interface(vip).version == family]
    excluded = [vip for vip in vrrp.vips if vip not in own]
    for name, vips in (("virtual_ipaddress", own), ("virtual_ipaddress_excluded", excluded)):
        if vips:
            yield from _block(name, (f"{vip} dev {value(peer.interface)}" for vip in vips))
    yield from _block("track_script", (SCRIPT,))
    if vrrp.notify == "script":
        yield f"notify {command(_notify(config, peer))}"


def state_of(config: Config, peer: PeerConfig) -> str:
    """MASTER is where the VIP is before anybody has spoken; nopreempt and preempt_delay do nothing with it."""
    first = max(config.peers, key=lambda each: each.priority)  # the first of equals
    waits = config.vrrp.nopreempt or config.vrrp.preempt_delay_s
    return "MASTER" if peer is first and not waits else "BACKUP"

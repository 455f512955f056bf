"""What of config.ini keepalived.conf is written from: what is missing for that, and what would be no failover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from itertools import pairwise

from ngxsync.core.config import Config, PeerConfig
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.keepalived.quoting import value
from ngxsync.core.keepalived.weights import moves_nothing

COUNTING = 8  # characters of a VRRP password
LONGEST_V2_S, LONGEST_V3_S = 255.0, 40.95
LONGEST_INTERVAL_S = 3600.0
LONGEST_DELAY_S = 1000.0


@dataclass(frozen=True)
class Wanted:
    """`password` is "" where there is none; `addresses` maps each host's name to what its `host` stands for."""

    config: Config
    password: str = ""
    addresses: Mapping[str, tuple[str, ...]] | None = None

    @property
    def family(self) -> int:
        """4 or 6, of the VIPs that are advertised; those of the other one go along. IPv4 where there is a choice: it has a password."""
        found = {ip_interface(vip).version for vip in self.config.vrrp.vips}
        if self.config.vrrp.unicast:
            found &= {family for family in (4, 6) if all(self.address_of(peer, family) for peer in self.config.peers)}
        return min(found, default=0)

    @property
    def version(self) -> int:
        """Of VRRP: 2 says its interval in whole seconds and knows IPv4 alone, 3 knows no password."""
        return 3 if self.family == 6 or self.config.vrrp.advert_int_s % 1 else 2

    def address_of(self, peer: PeerConfig, family: int) -> str:
        """The one that the other hosts reach it at; "" where it has none."""
        found = sorted((self.addresses or {}).get(peer.name, ()))
        fitting = (text for text in found if ip_address(text).version == family and not ip_address(text).is_loopback)
        return next(fitting, "")


def raise_if_incomplete(wanted: Wanted) -> None:
    """Raises ConfigError, naming all at once."""
    config = wanted.config
    problems = [*_missing(config), *_timing(wanted), *_unicast(wanted), *_names(wanted)]
    if problems:
        what = "\n".join(["keepalived.conf cannot be written from this", *problems])
        raise ConfigError(Message(what, config.file, "nothing was written", "mend these in it, then again"))


def _missing(config: Config) -> Iterator[str]:
    if not config.vrrp.vips:
        yield "[vrrp] vip: it is missing, needed is the address that moves"
    if not config.vrrp.virtual_router_id:
        yield "[vrrp] virtual_router_id: it is missing, needed is a number of 1 to 255 that no other pair there uses"
    if len(config.peers) < 2:
        yield "[peer NAME]: there is one, needed are both hosts of the pair, this one too"
    for peer in config.peers:
        if not peer.interface:
            yield f"[peer {peer.name}] interface: it is missing, needed is the one that carries the VIP there, e.g. eth0"
        if not peer.priority:
            yield f"[peer {peer.name}] priority: it is missing, needed is a number of 1 to 254, the highest holds the VIP"


def _timing(wanted: Wanted) -> Iterator[str]:
    vrrp = wanted.config.vrrp
    if vrrp.check_interval_s % 1 or vrrp.check_interval_s > LONGEST_INTERVAL_S:
        yield f"[vrrp] check_interval: it is {vrrp.check_interval_s:g}s, keepalived takes whole seconds, 1s to 1h"
    if vrrp.preempt_delay_s > LONGEST_DELAY_S:
        yield f"[vrrp] preempt_delay: it is {vrrp.preempt_delay_s:g}s, keepalived takes 1000s at most"
    if vrrp.nopreempt and vrrp.preempt_delay_s:
        yield "[vrrp] preempt_delay: with nopreempt nothing is ever taken back, so there is nothing to delay"
    if vrrp.advert_int_s % 1 and wanted.password:
        yield f"[vrrp] advert_int: it is {vrrp.advert_int_s:g}s, with a password keepalived takes whole seconds"
    if wanted.version == 3 and (
        round(vrrp.advert_int_s * 100) != vrrp.advert_int_s * 100 or vrrp.advert_int_s > LONGEST_V3_S
    ):
        yield f"[vrrp] advert_int: it is {vrrp.advert_int_s:g}s, VRRP version 3 takes 10ms to 40950ms in steps of 10ms"
    elif vrrp.advert_int_s > LONGEST_V2_S:
        yield f"[vrrp] advert_int: it is {vrrp.advert_int_s:g}s, VRRP takes 255s at most"


def _unicast(wanted: Wanted) -> Iterator[str]:
    vrrp = wanted.config.vrrp
    if vrrp.unicast and vrrp.vips and not wanted.family:
        families = " or ".join(sorted({f"IPv{ip_interface(vip).version}" for vip in vrrp.vips}))
        yield f"[vrrp] unicast: needed is a `host` with an {families} address in each [peer NAME], as the VIP has"


def _names(wanted: Wanted) -> Iterator[str]:
    interfaces = [(f"[peer {peer.name}] interface", peer.interface) for peer in wanted.config.peers]
    for place, word in [*interfaces, ("[vrrp] password_file, its first line", wanted.password)]:
        try:
            value(word) if word else None
        except ValueError as error:
            yield f"{place}: {error}"
    if len(wanted.password) > COUNTING:
        yield (
            f"[vrrp] password_file, its first line: it has {len(wanted.password)} characters, and {COUNTING} count; "
            "keepalived would cut it"
        )


def warnings_of(wanted: Wanted) -> list[str]:
    """What is written all the same, since keepalived accepts it, and is hardly what was meant."""
    config, vrrp = wanted.config, wanted.config.vrrp
    hosts = sorted(config.peers, key=lambda peer: -peer.priority)
    told = []
    if wanted.password and wanted.version == 3:
        told.append("VRRP version 3, which IPv6 needs, knows no password: it is left out")
    for first, second in pairwise(hosts):
        if first.priority == second.priority:
            told.append(
                f"{first.name} and {second.name} have the same priority, {first.priority}: which one holds the VIP is "
                "left to their addresses; give one of them more"
            )
    for first, second in pairwise(hosts):
        wrong = moves_nothing(vrrp.check_weight, first.priority, second.priority, nopreempt=vrrp.nopreempt)
        if wrong:
            told.append(
                f"a failed check of {first.name} moves nothing to {second.name}: {wrong.why}; "
                f"set [vrrp] check_weight = {wrong.weight}"
            )
    return told

"""Whether this host holds the VIP, asked of the kernel; and a word from it when an address comes or goes."""

from __future__ import annotations

import json
import select
import socket
import time
from contextlib import suppress
from pathlib import Path

from ngxsync.agent import addresses, role, vrrp
from ngxsync.core.carrying import Carrying, carrying_of
from ngxsync.core.config import Config
from ngxsync.core.standing import Received, Standing, by_record, by_vip, unknown

# linux/rtnetlink.h: RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
ADDRESS_GROUPS = 0x10 | 0x100


class Direction:
    """Whether `host` is the one that pushes under this configuration; `is_shared` whether its hosts have one file for all."""

    def __init__(self, config: Config, host: str, is_shared: bool) -> None:
        self._config, self._host, self._is_shared = config, host, is_shared

    def standing(self) -> Standing:
        vrrp = self._config.vrrp
        if vrrp.decides:
            return self._by_vip(vrrp.addresses)
        return by_record(self._host, self._accepted()) if self._is_shared else Standing()

    @property
    def is_decided(self) -> bool:
        """Whether anything but the host that it is called on decides who pushes."""
        return self._config.vrrp.decides or self._is_shared

    def note(self, standing: Standing) -> None:
        """What this host is now, durably; where that is news it is told. Raises OSError."""
        vips = list(standing.vips)

        def look() -> role.Found:
            carried = addresses.carried_addresses()
            tenure = addresses.tenure_of(vips, carried)
            now = role.MASTER if tenure else role.BACKUP
            return role.Found(now, tenure, told=False, part=addresses.part_of(vips, carried))

        if vips:
            role.turn_as_found(str(self._config.state_dir), look, vips)

    def received(self, known: str) -> Received | None:
        """What another host synced here last, unless that was the run `known`; a damaged record is for the run that meets it."""
        from ngxsync.agent.request import received_run  # late: `status` needs none of it
        from ngxsync.agent.store import Damaged, Store

        store = Store(str(self._config.state_dir))
        with suppress(Damaged, OSError):
            record = store.accepted()
            run = received_run(record, self._host)
            if record is not None and run not in ("", known):
                return Received(run, store.accepted_manifest(dict(record, run=run)), record["projection"])
        return None

    def _by_vip(self, vips: tuple[str, ...]) -> Standing:
        try:
            carried = addresses.held(vips)
            tenure = addresses.tenure_of(list(vips), carried)
        except OSError as error:
            return unknown(self._host, vips, str(error))
        since = addresses.since(carried, time.time()) if tenure else None
        return by_vip(self._host, vips, tuple(sorted({each.address for each in carried})), tenure, since)

    def _accepted(self) -> dict[str, object] | None:
        """What another host had this one accept last; a damaged record is for the run that meets it."""
        with suppress(OSError, ValueError, TypeError):
            return dict(json.loads((Path(self._config.state_dir) / "peer" / "accepted.json").read_bytes()))
        return None


def own_vrrp(config: Config, host: str, now: float) -> Carrying | None:
    """What this host is in VRRP; None where the kernel does not list its addresses."""
    with suppress(OSError):
        return carrying_of(host, vrrp.state(list(config.vrrp.addresses), str(config.state_dir)), now)
    return None


class AddressEvents:
    """The kernel's word that an address of this host came or went; what it was is found by looking. To be closed."""

    def __init__(self) -> None:
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._kernel.bind((0, ADDRESS_GROUPS))
        self._waking, self._woken = socket.socketpair()

    def wait(self, timeout_s: float) -> bool:
        """True as soon as something happened, or `wake` was called."""
        ready = select.select([self._kernel, self._waking], [], [], timeout_s)[0]
        for each in ready:
            with suppress(OSError):  # more than fits: also then something happened
                each.recv(1 << 16)
        return bool(ready)

    def wake(self) -> None:
        """From any thread."""
        with suppress(OSError):
            self._woken.send(b"\0")

    def close(self) -> None:
        for each in (self._kernel, self._waking, self._woken):
            each.close()

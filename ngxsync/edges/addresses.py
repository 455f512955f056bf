"""The addresses that this host's interfaces carry now."""

from __future__ import annotations

from ngxsync.agent import addresses


def carried_addresses() -> tuple[tuple[str, str], ...]:
    """(interface, address) of all but lo, in the kernel's order; () where the kernel does not tell."""
    try:
        return tuple((each.interface, each.address) for each in addresses.carried_addresses())
    except OSError:
        return ()

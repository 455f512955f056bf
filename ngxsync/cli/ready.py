"""`ngxsync ready`: if the VIP moved to this peer now, would it serve the same?"""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from ngxsync.cli.group import command
from ngxsync.cli.options import (
    config_option,
    json_option,
    open_assembly,
    peer_option,
    print_json,
    raise_if_unknown_peers,
)
from ngxsync.core import verdict
from ngxsync.core.config import raise_if_unknown
from ngxsync.core.verdict import Verdict
from ngxsync.edges.configfile import read_config

LOCK_S = 0.2  # the daemon may be writing down its own look
EXAMPLE = "ngxsync ready\nngxsync ready --peer web2 && systemctl stop keepalived\nngxsync ready --nagios"
MEANS = {
    0: "every peer is ready, warnings allowed; with --nagios OK",
    1: "one is not ready, or cannot be reached; with --nagios WARNING: ready, with something to be known",
    2: "usage or configuration of ngxsync; with --nagios CRITICAL: one is not ready, or cannot be reached",
    3: "with --nagios UNKNOWN: nothing could be asked, usage and configuration included; the line says why",
}


@command("ready", example=EXAMPLE, statuses=(0, 1, 3), means=MEANS)
@config_option
@peer_option("Only this peer.")
@click.option("--probe", is_flag=True, help="Ask each server name on both hosts anew.")
@click.option(
    "--nagios", is_flag=True, help="One line and an exit status (0, 1, 2, 3) as monitoring plugins have them."
)
@json_option
def ready(config: Path, peers: tuple[str, ...], probe: bool, nagios: bool, as_json: bool) -> int:
    """If the VIP moved to a peer now, would it serve the same?

    Ready is a peer whose files are equal, accepted and proven, whose nginx (and the one here) runs what is on its
    disk, that recovers at boot, has all that the configuration leans on, may listen on the addresses that it lacks,
    and answers for each server name as this host does. "accepted" is the snapshot (the state of all files) that the
    peer last applied. All else is named, with what mends it.

    Names were asked after the latest accepted run and at each check; where not, or with --probe, they are asked now.
    Nothing is changed or installed on a peer.
    """
    verdicts = verdicts_of(config, peers, probe=probe)
    now = time.time()
    if nagios:
        print(verdict.render_nagios(verdicts, now))
        return verdict.nagios_status(verdicts)
    if as_json:
        print_json(verdict.json_verdicts(verdicts, now))
    else:
        print("\n".join(verdict.render_verdict(each, now) for each in verdicts))
    return max(each.exit for each in verdicts)


def verdicts_of(config: Path, peers: tuple[str, ...], *, probe: bool) -> list[Verdict]:
    configuration = read_config(config)
    raise_if_unknown_peers(peers, configuration)
    from ngxsync.edges.local import LocalHost
    from ngxsync.flow.readiness import look, request_of
    from ngxsync.flow.requests import nginx_settings

    local = LocalHost(socket.gethostname(), nginx_settings(configuration, None), configuration.state_dir)
    with ThreadPoolExecutor(max_workers=1) as early:  # what asks here works while ssh is still being imported
        facts = early.submit(local.call, "facts", request_of(configuration, None))
        with open_assembly(configuration) as assembly:
            raise_if_unknown(peers, configuration, assembly.peers)
            chosen = [peer for name, peer in assembly.peers.items() if not peers or name in peers]
            found = look(assembly.pipeline, chosen, probe=probe, begun=facts.result, wait_s=LOCK_S)
            return [Verdict(assembly.master.name, each.name, each.look) for each in found]

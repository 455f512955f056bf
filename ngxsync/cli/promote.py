"""`ngxsync promote`: this host becomes the one that pushes, in a pair without a VIP."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ngxsync.cli.group import command
from ngxsync.cli.options import config_option, json_option, open_assembly, print_json
from ngxsync.core.errors import AgentFailed, ConfigError, Locked, Message, NgxsyncError
from ngxsync.core.render import json_run, render_run
from ngxsync.daemon.instance import running_instance
from ngxsync.edges.configfile import read_config
from ngxsync.edges.local import HalfApplied

WAIT_S = 75.0  # a run of a master that vanished gives up after a minute
MEANS = {
    0: "this host pushes, whether a peer could be reached or not",
    7: "what an interrupted run left here could not be put right: the message says what to do",
}


@command("promote", example="ngxsync promote", statuses=(0, 7, 9), means=MEANS)
@config_option
@json_option
def promote(config: Path, as_json: bool) -> int:
    """Make this host the one that pushes: the master is gone, and no VIP says who takes over.

    What an interrupted run left here is finished or undone first. A master that returns finds that another host was
    promoted, and its runs are held. Peers that are equal are taken over at once, others when you decide: `ngxsync diff`,
    then `ngxsync sync` or `ngxsync pull`. With a VIP ([vrrp]) nobody is promoted: who holds it pushes.
    """
    configuration = read_config(config)
    if configuration.vrrp.decides:
        what = "nobody is promoted in a pair with a VIP: the host that holds it pushes"
        hint = "move the VIP (systemctl stop keepalived on the host that holds it), or set require_vip = no"
        raise ConfigError(Message(what, configuration.file, "nothing changed", hint), code="vip")
    from ngxsync.flow.interfaces import Options

    with open_assembly(configuration) as assembly:
        host = assembly.master.name
        assembly.master.settle(WAIT_S)
        answer = assembly.master.ask("promote", {"written_by": host, "wait_s": WAIT_S})
        if not answer["ok"]:
            raise failure_of(answer)
        result = assembly.pipeline.run(Options(trigger="promote"))
    _wake_daemon(configuration.state_dir)
    if as_json:
        print_json({**json_run("promote", result), "promoted": answer["promoted"]})
    else:
        before = f" (until now {answer['from']} did)" if answer["promoted"] and answer["from"] != host else ""
        print(f"{host} is the one that pushes{before}")
        print(render_run(result))
    return 0


def failure_of(answer: Mapping[str, Any]) -> NgxsyncError:
    """Nothing was promoted: a run is at work here, or what one left cannot be put right."""
    kind = {"locked": Locked, "broken": HalfApplied}.get(str(answer["code"]), AgentFailed)
    return kind(Message(**answer["message"]), code=str(answer["code"]))


def _wake_daemon(state_dir: Path) -> None:
    daemon = running_instance(state_dir)
    if daemon is not None:
        with suppress(OSError):
            os.kill(daemon.pid, signal.SIGUSR1)

"""`ngxsync check-nginx`: the agent's, by hand; keepalived calls the agent itself."""

from __future__ import annotations

import click

from ngxsync.cli.group import command
from ngxsync.cli.own_agent import become_agent

MEANS = {
    0: "nginx lives here; or a fault of ngxsync keeps it from saying so, and no nginx was seen to fail",
    1: "nginx fails here, and was not started; the message says why",
}


@command("check-nginx", example="ngxsync check-nginx --url http://127.0.0.1/", statuses=(0, 1), means=MEANS)
@click.option("--root", metavar="R", help="As in [nginx].  [/usr/local/nginx]")
@click.option("--conf", metavar="C", help="As in [nginx].  [conf/nginx.conf, below the root]")
@click.option("--binary", metavar="B", help="As in [nginx].  [auto]")
@click.option("--url", metavar="U", help="Also asked: it must answer 2xx or 3xx on this host.")
@click.option(
    "--interval", metavar="S", help="Seconds between two checks: this one takes no longer than 0.8 of it.  [2]"
)
def check_nginx(**given: str | None) -> int:
    """Does nginx live on this host? What keepalived's vrrp_script asks; its exit status moves the VIP.

    Where nginx is dead it is started: at most three times in ten minutes, never while a run replaces files, never over a
    configuration that fails its test. No config.ini is read.
    """
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    become_agent(["check-nginx", *words])

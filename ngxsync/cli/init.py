"""`ngxsync init`: a config.ini that does what a crontab's rsync line did, or what a few options say."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ngxsync.cli.group import command
from ngxsync.cli.options import config_option

EXAMPLE = """\
ngxsync init --from-crontab                       every rsync line of the crontabs that sends nginx
crontab -l | grep nginx | ngxsync init --from-crontab -
ngxsync init --peer 192.168.5.12                  without a crontab
ngxsync init --peer 192.168.5.12 --from-mail-rc   and tells people as mailx did"""
MEANS = {
    0: "config.ini is written, and the peer can be reached",
    1: "config.ini is written; the last line says what to do before it can work",
    4: "no sshd answers there, or it shows another host key; nothing is written",
}


@command("init", example=EXAMPLE, statuses=(0, 1, 4), means=MEANS)
@click.option(
    "--from-crontab",
    "line",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[LINE|-]",
    help="Do what this line does; - reads standard input; without either the crontabs of this host are read.",
)
@click.option("--peer", "host", metavar="HOST", help="Without a crontab: the name or address of the peer.")
@click.option("--user", default="", help="Who logs in there.  [default: as plain ssh does]")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="[default: as plain ssh does]")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Where nginx lives.  [default: of the nginx that runs here, else as nginx -V says]",
)
@click.option("--name", default="", help="What to call the peer.  [default: its own host name]")
@click.option(
    "--from-mail-rc",
    "mailrc",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[FILE]",
    help="Send mail as this file of mailx says.  [/etc/mail.rc, else /etc/s-nail.rc]",
)
@click.option(
    "--replace", "replaces", is_flag=True, help="Overwrite a config.ini; the old one is kept as config.ini.old."
)
@config_option
def init(
    line: str | None,
    host: str | None,
    user: str,
    port: int | None,
    root: Path | None,
    name: str,
    mailrc: str | None,
    replaces: bool,
    config: Path,
) -> int:
    """Write a config.ini that does the job of a crontab's rsync line.

    It says where the line did something else than it seems, tries the access that the line already uses, looks at the
    peer as `check` does, and changes nothing there. The crontab stays as it is.

    --from-mail-rc alone adds [mail] to a config.ini that is there.
    """
    from ngxsync.cli import mailimport, order, setup
    from ngxsync.cli.story import tell

    if mailrc is not None and line is None and host is None:
        click.echo("\n".join(mailimport.add_to(config.absolute(), mailrc)))
        return 0
    if (line is None) == (host is None):
        raise click.UsageError("give --from-crontab, or --peer HOST")
    if line is not None and (user or port or root or name):
        raise click.UsageError("--user, --port, --root and --name go with --peer; a line has its own")
    file = config.absolute()
    setup.raise_if_there(file, replaces)
    if host is not None:
        wanted = order.order_of_options(host, user=user, port=port or 0, root=str(root or ""), name=name)
    else:
        wanted = order.order_of_lines(line or "", sys.stdin.read() if line == "-" else None)
    imported = None if mailrc is None else mailimport.read(mailrc, file)
    found = setup.set_up(wanted, file, imported)
    told = [] if imported is None else mailimport.tell(imported)
    click.echo("\n".join([*told, *tell(found, file)]))
    return 0 if found.is_ready else 1

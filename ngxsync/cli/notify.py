"""`ngxsync notify`: a test mail, what waits in the spool, and what keepalived calls, which is the agent's."""

from __future__ import annotations

from pathlib import Path

import click

from ngxsync.cli.group import command
from ngxsync.cli.options import config_option
from ngxsync.cli.own_agent import become_agent
from ngxsync.core.config import Config
from ngxsync.core.errors import ConfigError, Message, NgxsyncError
from ngxsync.edges.configfile import read_config

EXAMPLE = """\
ngxsync notify --test                       is the mail server told right? a mail now
ngxsync notify INSTANCE web MASTER 100      what keepalived calls at a change of state"""
MEANS = {
    0: "done: the test mail went; with --flush nothing waits any more, or another process sees to it",
    1: "the mail server did not take it; with --flush it stays in the spool",
}
UNPARSED = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@command("notify", example=EXAMPLE, statuses=(0, 1), means=MEANS)
@click.option("--test", "is_test", is_flag=True, help="Send a test mail now, and say what happened.")
@click.option("--flush", "is_flush", is_flag=True, help="Tell what waits in the spool, where no daemon does.")
@config_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENT]...")
def notify(is_test: bool, is_flush: bool, config: Path, arguments: tuple[str, ...]) -> int:
    """Tell people: try the mail server, or send what waits.

    Role changes, failures and drift go by mail to `to` in [mail], and to the command `on_event`. The daemon does that by
    itself. Other arguments are keepalived's, of its notify scripts: the agent of this host takes them, as
    `ngxsync-agent notify` does, which keepalived calls itself.
    """
    if (is_test and is_flush) or ((is_test or is_flush) and arguments):
        raise click.UsageError("give --test, or --flush, or the arguments of keepalived")
    if arguments:
        become_agent(["notify", *arguments])
    if is_test:
        return send_test(read_config(config))
    if is_flush:
        return send_waiting(read_config(config))
    raise click.UsageError("give --test, or --flush, or the arguments of keepalived")


def send_test(config: Config) -> int:
    from ngxsync.cli.mailing import open_post
    from ngxsync.core.letter import trial_letter
    from ngxsync.core.render import render_message

    mail = config.mail
    if not mail.to:
        hint = "set `to` in [mail], e.g. to = admin@example.org"
        raise ConfigError(Message("nobody is told by mail: `to` is not set", config.file, "nothing was sent", hint))
    post = open_post(config)
    sent = post.deliver(trial_letter)
    where = f"{mail.smtp_host}:{mail.smtp_port}"
    if sent.refused or sent.deferred:
        for_whom = (*sent.refused, *(f"{address} (perhaps later)" for address in sent.deferred))
        told = f"the mail server took the test mail, but not for {'; '.join(for_whom)}"
        hint = "correct `to` in [mail]" if sent.refused else "try it again later: such a server wants to see you twice"
        click.echo(render_message(Message(told, where, "the others have it", hint)), err=True)
        return 1
    secured = {"starttls": "by STARTTLS", "tls": "by TLS", "none": "in clear text"}[mail.security]
    login = f", logged in as {mail.user}" if mail.user else ""
    told = f"the mail server took a test mail for {', '.join(mail.to)} ({secured}{login})"
    click.echo(
        render_message(Message(told, where, "nothing else was sent", "see whether it arrives, also not as spam"))
    )
    return 0


def send_waiting(config: Config) -> int:
    from ngxsync.cli.mailing import open_post
    from ngxsync.daemon.mailer import flush
    from ngxsync.edges.service import setup_logging
    from ngxsync.edges.spool import Spool

    setup_logging(config.log_format)
    post = open_post(config)
    try:
        is_ours = flush(Spool(config.state_dir), post)
    except OSError as error:
        what = f"the spool cannot be opened: {error.strerror}"
        raise ConfigError(Message(what, str(config.state_dir / "spool"), "nothing was sent", "run as root")) from error
    why = post.last_failure()
    if not why and post.owed_to():
        why = f"the mail server took no mail for {', '.join(post.owed_to())} yet"
    if is_ours and why:
        raise Unsent(Message(why, "", "it is kept in the spool", "ngxsync notify --test"))
    return 0


class Unsent(NgxsyncError):
    exit_status = 1
    code = "mail"

"""A first config.ini out of what is known: the crontab's line or options, where nginx is, how the peer is reached."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ngxsync.agent.manifest import is_below, tree_of
from ngxsync.core.crontab import CrontabJob
from ngxsync.core.errors import ConfigError, Message

NOTHING = "nothing was written"
STANDARD_KNOWN_HOSTS = "/etc/ngxsync/known_hosts"
STANDARD_CONF = "conf/nginx.conf"
# where a main configuration file may lie in a tree: (folder that is then the root, file below it)
USUAL_PLACES = (("", "conf/nginx.conf"), ("", "nginx.conf"), ("nginx", "conf/nginx.conf"), ("nginx", "nginx.conf"))


@dataclass(frozen=True)
class DraftPeer:
    """One [peer NAME]; `jump` is "" where there is none."""

    name: str
    host: str
    user: str
    port: int
    identity: str
    known_hosts: str = STANDARD_KNOWN_HOSTS
    jump: str = ""


@dataclass(frozen=True)
class DraftMail:
    """[mail] out of a mail.rc, `source`; what is "" or 0 has its default."""

    source: str
    to: str
    sender: str
    smtp_host: str
    smtp_port: int = 0
    security: str = ""
    user: str = ""
    password_file: str = ""
    ca_file: str = ""


@dataclass(frozen=True)
class Draft:
    """`conf` is absolute or below root; `exclude` are gitignore's patterns; `sources` are the crontab's lines."""

    root: str
    conf: str
    trees: tuple[str, ...]
    exclude: tuple[str, ...]
    schedule: str
    peers: tuple[DraftPeer, ...]
    sources: tuple[str, ...] = ()
    further_trees: tuple[str, ...] = ()  # that would carry what the configuration names outside
    mail: DraftMail | None = None


@dataclass(frozen=True)
class Job:
    """What one configuration can do of one or several lines: the same trees, excludes and schedule for every host."""

    trees: tuple[str, ...]
    exclude: tuple[str, ...]
    schedule: str
    hosts: tuple[CrontabJob, ...]  # one for each host, in the order of the lines


def merge_jobs(jobs: Sequence[CrontabJob], lines: Sequence[str]) -> Job:
    """Several lines as one job: each tree to each host. Raises ConfigError where one configuration cannot do them all."""
    first = jobs[0]
    for job, line in zip(jobs, lines, strict=True):
        if (job.schedule, job.exclude) != (first.schedule, first.exclude):
            raise _cannot(line, "it has another schedule or other excludes than the line before, and [sync] has one")
    trees: dict[tuple[str, int], list[str]] = {}
    hosts: dict[tuple[str, int], CrontabJob] = {}
    for job in jobs:
        key = (job.host, job.port)
        hosts.setdefault(key, job)
        trees[key] = [*trees.get(key, []), *(tree for tree in job.trees if tree not in trees.get(key, []))]
    wanted = next(iter(trees.values()))
    for key, own in trees.items():
        if sorted(own) != sorted(wanted):
            raise _cannot(key[0], f"{key[0]} gets {', '.join(own)} and another host {', '.join(wanted)}")
    return Job(tuple(wanted), first.exclude, first.schedule, tuple(hosts.values()))


def _cannot(where: str, why: str) -> ConfigError:
    hint = "give init one line, and write what differs into the configuration of a second ngxsync by hand"
    return ConfigError(Message(f"one configuration cannot do the same as these lines: {why}", where, NOTHING, hint))


def place_nginx(trees: Sequence[str], prefix: str, conf_path: str, has_file: Callable[[str], bool]) -> tuple[str, str]:
    """(root, conf below it) of the nginx in these trees; `prefix` and `conf_path` are those of `nginx -V`, or "".

    What is compiled in counts where a tree holds it; else the usual places in the trees. Raises ConfigError.
    """
    tree = tree_of(conf_path, list(trees)) if conf_path else None
    if tree is not None and has_file(conf_path):
        root = prefix if is_below(prefix, tree) and is_below(conf_path, prefix) else tree
        return root, posixpath.relpath(conf_path, root)
    for tree in trees:
        for folder, conf in USUAL_PLACES:
            root = posixpath.join(tree, folder) if folder else tree
            if has_file(f"{root}/{conf}"):
                return root, conf
    known = f"; `nginx -V` names {conf_path}" if conf_path else ""
    what = f"no nginx.conf lies in {', '.join(trees)}{known}"
    raise ConfigError(
        Message(what, "", NOTHING, "give the line that sends nginx's configuration, or --peer HOST --root DIRECTORY")
    )


def holds_nginx(trees: Sequence[str], prefix: str, conf_path: str, has_file: Callable[[str], bool]) -> bool:
    """Whether these trees are nginx's at all: a crontab also sends mail and photographs."""
    try:
        return bool(place_nginx(trees, prefix, conf_path, has_file))
    except ConfigError:
        return False


def render_draft(draft: Draft) -> str:
    """The text of config.ini: what differs from the defaults, and what an administrator looks for first."""
    parts = [_heading(draft), _nginx_section(draft), _sync_section(draft), *map(_peer_section, draft.peers)]
    return "\n".join([*parts, *([render_mail(draft.mail)] if draft.mail else [])])


def _heading(draft: Draft) -> str:
    source = (
        [
            "# Written by `ngxsync init` to do what this did:",
            *(f"#   {line}" for line in draft.sources),
        ]
        if draft.sources
        else ["# Written by `ngxsync init`."]
    )
    return "\n".join([*source, "# config.example.ini has every option with its default.", ""])


def _nginx_section(draft: Draft) -> str:
    lines = ["[nginx]", "# Where nginx lives, on both hosts.", f"root = {draft.root}"]
    if draft.conf != STANDARD_CONF:
        lines += ["# The main configuration file, below root.", f"conf = {draft.conf}"]
    return "\n".join([*lines, ""])


def _sync_section(draft: Draft) -> str:
    lines = ["[sync]"]
    if draft.trees != (draft.root,):
        lines += ["# What is kept equal.", _option("trees", draft.trees)]
    if draft.further_trees:
        lines += [
            "# The configuration also names files outside. With these trees instead, a sync carries them:",
            *("#" + line for line in _option("trees", (*draft.trees, *draft.further_trees)).split("\n")),
        ]
    if draft.exclude:
        lines += ["# Never sent, changed or deleted, beside what is built in.", _option("exclude", draft.exclude)]
    lines += [
        "# Every save is synced at once; at this time every file is read again.",
        f"schedule = {draft.schedule}",
    ]
    return "\n".join([*lines, ""])


def _peer_section(peer: DraftPeer) -> str:
    lines = [f"[peer {peer.name}]", f"host = {peer.host}"]
    if peer.port != 22:
        lines.append(f"port = {peer.port}")
    lines += [f"user = {peer.user}", f"identity = {peer.identity}"]
    if peer.known_hosts != STANDARD_KNOWN_HOSTS:
        lines.append(f"known_hosts = {peer.known_hosts}")
    if peer.jump:
        lines.append(f"jump = {peer.jump}")
    return "\n".join([*lines, ""])


def render_mail(mail: DraftMail) -> str:
    """[mail], to stand at the end of a config.ini."""
    values = {"to": mail.to, "from": mail.sender, "smtp_host": mail.smtp_host, "smtp_port": str(mail.smtp_port or "")}
    values |= {
        "security": mail.security,
        "user": mail.user,
        "password_file": mail.password_file,
        "ca_file": mail.ca_file,
    }
    lines = [f"{option} = {text}" for option, text in values.items() if text]
    return "\n".join(["[mail]", f"# As {mail.source} has it. Tried by: ngxsync notify --test", *lines, ""])


def _option(name: str, values: Sequence[str]) -> str:
    return f"{name} = " + "\n    ".join(values)

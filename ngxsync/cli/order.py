"""What `init` is asked to set up: read out of a crontab's lines, or out of options."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ngxsync.agent.manifest import is_below
from ngxsync.cli.access import Wanted
from ngxsync.core.crontab import CrontabJob, find_rsync_lines, parse_crontab_line
from ngxsync.core.draft import NOTHING, holds_nginx, merge_jobs, place_nginx
from ngxsync.core.errors import ConfigError, Message
from ngxsync.edges.crontabs import Crontab, read_crontabs
from ngxsync.edges.local import read_nginx, read_running_nginx

DEFAULT_SCHEDULE = "30 3 * * *"


@dataclass(frozen=True)
class Line:
    """One line of a crontab and where it is; `place` is "" where it was given by hand."""

    text: str
    place: str = ""
    user: str = "root"


@dataclass(frozen=True)
class Order:
    """`names` are what the peers shall be called, "" for their own host names; the rest as in core.draft."""

    root: str
    conf: str
    trees: tuple[str, ...]
    exclude: tuple[str, ...]
    schedule: str
    wanted: tuple[Wanted, ...]
    names: tuple[str, ...]
    lines: tuple[Line, ...] = ()
    surprises: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()  # other rsync lines, each with the reason
    deletes: bool = False


def order_of_options(host: str, *, user: str, port: int, root: str, name: str) -> Order:
    """Raises ConfigError where no nginx is found."""
    _, prefix, conf_path = read_running_nginx()
    if not conf_path or (root and not is_below(conf_path, root)):
        _, prefix, conf_path = read_nginx(root or "/usr/local/nginx")
    tree = root or (prefix if conf_path and is_below(conf_path, prefix) else posixpath.dirname(conf_path))
    if not tree:
        raise ConfigError(
            Message("no nginx is found on this host", "", NOTHING, "say where it lives: --root DIRECTORY")
        )
    _raise_if_no_folder(tree)
    place, conf = place_nginx([tree], prefix, conf_path, _is_file)
    wanted = Wanted(host, user, port)
    return Order(place, conf, (tree,), (), DEFAULT_SCHEDULE, (wanted,), (name,))


def order_of_lines(line: str, stdin: str | None) -> Order:
    """`line` "" reads the crontabs of this host; `stdin` is its text where the line is "-". Raises ConfigError."""
    if stdin is not None:
        lines = [Line(text) for text in find_rsync_lines(stdin)] or [Line(text) for text in stdin.split("\n") if text]
        if not lines:
            raise ConfigError(Message("nothing came on standard input", "", NOTHING, "give it the crontab's line"))
    elif line:
        lines = [Line(line)]
    else:
        return _order_of_crontabs(read_crontabs())
    jobs = [_parsed(each) for each in lines]
    return _order(jobs, lines, ())


def _order_of_crontabs(crontabs: list[Crontab]) -> Order:
    """Every rsync line that sends nginx; the others are named, and left alone."""
    jobs: list[CrontabJob] = []
    lines: list[Line] = []
    left: list[str] = []
    for crontab in crontabs:
        for text in find_rsync_lines(crontab.text):
            line = Line(text, crontab.place, crontab.user)
            try:
                job = _parsed(line)
            except ConfigError as error:
                if "nginx" in text:
                    raise
                left.append(f"{text}: {error.message.what.partition(': ')[2]}")
                continue
            _, prefix, conf_path = read_nginx(job.trees[0])
            if holds_nginx(job.trees, prefix, conf_path, _is_file):
                jobs.append(job)
                lines.append(line)
            else:
                left.append(f"{text}: no nginx.conf lies in what it sends")
    if not jobs:
        looked = ", ".join(crontab.place for crontab in crontabs) or "no crontab is there"
        what = f"no line of a crontab sends nginx with rsync (looked in: {looked})"
        raise ConfigError(Message(what, "", NOTHING, "give the line itself, or run: ngxsync init --peer HOST"))
    return _order(jobs, lines, tuple(left))


def _order(jobs: list[CrontabJob], lines: list[Line], left: tuple[str, ...]) -> Order:
    job = merge_jobs(jobs, [line.text for line in lines])
    for tree in job.trees:
        _raise_if_no_folder(tree)
    _, prefix, conf_path = read_nginx(job.trees[0])
    root, conf = place_nginx(job.trees, prefix, conf_path, _is_file)
    return Order(
        root=root,
        conf=conf,
        trees=job.trees,
        exclude=job.exclude,
        schedule=job.schedule,
        wanted=tuple(_wanted(host, lines) for host in job.hosts),
        names=("",) * len(job.hosts),
        lines=tuple(lines),
        surprises=tuple(dict.fromkeys(text for each in jobs for text in each.surprises)),
        left_alone=left,
        deletes=all(each.deletes for each in jobs),
    )


def _wanted(job: CrontabJob, lines: list[Line]) -> Wanted:
    """What the line says itself goes before ~/.ssh/config; what it leaves open, that decides, as it does for rsync."""
    is_said = any(f"{job.user}@" in line.text for line in lines) or job.user not in {line.user for line in lines}
    port = job.port if job.port != 22 else 0
    return Wanted(job.host, job.user if is_said else "", port, job.identity, job.known_hosts, job.jump)


def _parsed(line: Line) -> CrontabJob:
    return parse_crontab_line(line.text, user=line.user, read_text=_read_text)


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"its excludes are in {path}, which cannot be read: {error}") from None


def _raise_if_no_folder(tree: str) -> None:
    if not Path(tree).is_dir():
        why = "is no directory" if Path(tree).exists() else "is not there"
        raise ConfigError(
            Message(f"{tree} {why}, and ngxsync keeps directories equal", "", NOTHING, "correct the path")
        )


_is_file: Callable[[str], bool] = lambda path: Path(path).is_file()  # noqa: E731

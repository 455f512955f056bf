"""Crontab lines as people have them: what each one says, and why some cannot be done alike."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ngxsync.core.crontab import CrontabJob, find_rsync_lines, parse_crontab_line
from ngxsync.core.errors import ConfigError
from ngxsync.core.excludes import compile_excludes, is_excluded
from ngxsync.core.options import PEER, SYNC
from ngxsync.core.rsyncpatterns import like_pattern

THE_TUTORIAL = (
    "    30 03 * * *   /usr/bin/rsync -avzP --exclude=logs /usr/local/nginx 192.168.5.12:/usr/local &> /dev/null"
)
N = "/usr/local/nginx"
TO = "web2:/usr/local"


def test_the_line_of_the_tutorial() -> None:
    job = parse_crontab_line(THE_TUTORIAL)
    assert job == CrontabJob(
        schedule="30 03 * * *",
        trees=(N,),
        host="192.168.5.12",
        user="root",
        port=22,
        exclude=("logs",),
        identity="",
        known_hosts="",
        jump="",
        deletes=False,
        surprises=job.surprises,
    )
    anchored, dash, deleted, broken, missed, own = job.surprises
    assert "html/logs" in anchored
    assert "write /logs" in anchored
    assert "dash" in dash
    assert "background" in dash
    assert "never deleted" in deleted
    assert "never reloaded" in broken
    assert "size and modification time" in missed
    assert "!/sbin/" in own


# (line, what of the job differs from: daily at 3, tree N, peer web2, root, port 22)
LINES = [
    (f"0 3 * * * rsync -a {N} {TO}", {}),
    (f"0 3 * * * rsync -a {N} {TO}/", {}),
    (f"0 3 * * * rsync -a {N}/ web2:{N}", {}),
    (f"0 3 * * * rsync -a {N}/ web2:{N}/", {}),
    (f"0 3 * * * rsync -a {N}/. web2:{N}/", {}),
    (f"0 3 * * * rsync -aR {N} web2:/", {}),
    (f"0 3 * * * rsync -aR {N}/ web2:/", {}),
    (f"0 3 * * * rsync -a /usr/local//nginx/../nginx {TO}", {}),
    (f"0 3 * * * rsync {N} {TO} -a", {}),
    (f"0 3 * * * rsync -a -- {N} {TO}", {}),
    (f"0\t3\t*\t*\t*\trsync -a '{N}' \"{TO}\"", {}),
    (f"0 3 * * * /usr/local/bin/rsync --archive --verbose {N} {TO}", {}),
    (f"@daily rsync -a {N} {TO}", {"schedule": "0 0 * * *"}),
    (f"@midnight root rsync -a {N} {TO}", {"schedule": "0 0 * * *"}),
    (f"@weekly rsync -a {N} {TO}", {"schedule": "0 0 * * 0"}),
    (f"*/15 8-18 * * mon-fri rsync -a {N} {TO}", {"schedule": "*/15 8-18 * * mon-fri"}),
    (f"0 3 * * * root rsync -a {N} {TO}", {}),
    (f"0 3 * * * deploy rsync -a {N} {TO}", {"user": "deploy"}),
    (f"0 3 * * * rsync -a {N} deploy@{TO}", {"user": "deploy"}),
    (f"0 3 * * * root rsync -a {N} deploy@{TO}", {"user": "deploy"}),
    (f"0 3 * * * rsync -a {N} [fe80::5]:/usr/local", {"host": "fe80::5"}),
    (f"0 3 * * * rsync -a {N} root@[fe80::5]:/usr/local", {"host": "fe80::5"}),
    (f"0 3 * * * rsync -a -e 'ssh -p 2222' {N} {TO}", {"port": 2222}),
    (f"0 3 * * * rsync -ae 'ssh -p2222' {N} {TO}", {"port": 2222}),
    (f"0 3 * * * rsync -a -essh {N} {TO}", {}),
    (
        f'0 3 * * * rsync -a --rsh="ssh -o Port=2222 -i /root/.ssh/sync" {N} {TO}',
        {"port": 2222, "identity": "/root/.ssh/sync"},
    ),
    (f"0 3 * * * rsync -a --rsh '/usr/bin/ssh -q -l deploy' {N} {TO}", {"user": "deploy"}),
    (f"0 3 * * * rsync -a -e 'ssh -l ignored' {N} deploy@{TO}", {"user": "deploy"}),
    (f"0 3 * * * rsync -a -e 'ssh -J me@bastion:22 -o \"ConnectTimeout 5\"' {N} {TO}", {"jump": "me@bastion:22"}),
    (
        f"0 3 * * * rsync -a -e 'ssh -o UserKnownHostsFile=/root/kh -oBatchMode=yes' {N} {TO}",
        {"known_hosts": "/root/kh"},
    ),
    (f"0 3 * * * RSYNC_RSH='ssh -p 2222' rsync -a {N} {TO}", {"port": 2222}),
    (f"0 3 * * * nice -n 10 ionice -c2 -n7 rsync -a {N} {TO}", {}),
    (f"0 3 * * * nice -19 rsync -a {N} {TO}", {}),
    (f"0 3 * * * root flock -n /run/sync.lock rsync -a {N} {TO}", {}),
    (f"0 3 * * * flock -w 10 /run/sync.lock -c 'rsync -a {N} {TO}'", {}),
    (f"0 3 * * * /usr/bin/env LC_ALL=C /usr/bin/timeout -k 5 3600 rsync -a {N} {TO}", {}),
    (f"0 3 * * * /bin/sh -c 'rsync -a {N} {TO} > /dev/null'", {}),
    (f"0 3 * * * admin sudo -n rsync -a {N} {TO}", {}),
    (f"0 3 * * * rsync -a {N} {TO} > /dev/null 2>&1", {}),
    (f"0 3 * * * rsync -a {N} {TO} >>/var/log/sync.log 2>>/var/log/sync.err", {}),
    (f"0 3 * * * rsync -a {N} {TO} &", {}),
    (f"0 3 * * * rsync -a {N} {TO};", {}),
    (f"0 3 * * * rsync -a --log-file=/var/log/a\\%b {N} {TO}", {}),
    (f"0 3 * * * rsync -rlptgoDvzhiP --stats --partial-dir .part --timeout 30 {N} {TO}", {}),
    (f"0 3 * * * rsync -a --delete {N} {TO}", {"deletes": True}),
    (f"0 3 * * * rsync -a --delete-after --no-D --no-motd {N} {TO}", {"deletes": True}),
    ("0 3 * * * rsync -a /etc/nginx /etc/letsencrypt web2:/etc/", {"trees": ("/etc/nginx", "/etc/letsencrypt")}),
    (f"0 3 * * * rsync -aR {N} /etc/nginx web2:/", {"trees": (N, "/etc/nginx")}),
    (f"0 3 * * * rsync -a --exclude logs --exclude='*.log' {N} {TO}", {"exclude": ("logs", "*.log")}),
    (f"0 3 * * * rsync -a --exclude=/nginx/logs/ {N} {TO}", {"exclude": ("/logs/",)}),
    (f"0 3 * * * rsync -a --exclude=/logs/ {N}/ web2:{N}/", {"exclude": ("/logs/",)}),
    (f"0 3 * * * rsync -a --exclude=/logs/ {N} {TO}", {"exclude": ()}),
    (f"0 3 * * * rsync -aR --exclude=/usr/local/nginx/logs {N} web2:/", {"exclude": ("/logs",)}),
    (f"0 3 * * * rsync -a --exclude=html/tmp {N} {TO}", {"exclude": ("**/html/tmp",)}),
    (f"0 3 * * * rsync -a --exclude=nginx/logs {N} {TO}", {"exclude": ("/logs", "**/nginx/logs")}),
    (f"0 3 * * * rsync -a --exclude='*/logs' {N} {TO}", {"exclude": ("/logs", "**/*/logs")}),
    (f"0 3 * * * rsync -a --exclude='cache/***' {N} {TO}", {"exclude": ("cache/",)}),
    (f"0 3 * * * rsync -a --exclude='- x' --exclude='!y' --exclude='#z' {N} {TO}", {"exclude": ("x", "\\!y", "\\#z")}),
]


@pytest.mark.parametrize(("line", "differs"), LINES, ids=lambda part: str(part)[:90])
def test_what_a_line_says(line: str, differs: dict[str, object]) -> None:
    job = parse_crontab_line(line)
    usual = {"schedule": "0 3 * * *", "trees": (N,), "host": "web2", "user": "root", "port": 22, "exclude": ()}
    usual |= {"identity": "", "known_hosts": "", "jump": "", "deletes": False}
    assert {name: value for name, value in vars(job).items() if name != "surprises"} == usual | differs


@pytest.mark.parametrize("line", [line for line, _ in LINES], ids=lambda line: line[:90])
def test_what_a_line_says_can_be_written_into_a_configuration(line: str) -> None:
    job = parse_crontab_line(line)
    assert SYNC["schedule"].read(job.schedule) == " ".join(job.schedule.split())
    assert SYNC["trees"].read("\n".join(job.trees)) == job.trees
    assert SYNC["exclude"].read("\n".join(job.exclude)) == job.exclude
    assert PEER["host"].read(job.host) == job.host
    assert PEER["port"].read(str(job.port)) == job.port
    assert not job.jump or PEER["jump"].read(job.jump) == job.jump


REFUSED = [
    ("", "it is a comment"),
    (f"# 0 3 * * * rsync -a {N} {TO}", "it is a comment"),
    ("MAILTO=root", "five fields"),
    (f"rsync -a {N} {TO}", "five fields"),
    (f"@reboot rsync -a {N} {TO}", "give the line a schedule"),
    (f"0 25 * * * rsync -a {N} {TO}", "hour has '25'"),
    ("0 3 * * * /usr/local/bin/sync-nginx.sh", "it runs /usr/local/bin/sync-nginx.sh, not rsync"),
    ("0 3 * * * root env LC_ALL=C", "it runs no rsync"),
    (f"0 3 * * * cd /usr/local && rsync -a nginx {TO}", "changes directory first"),
    (f"0 3 * * * rsync -a {N} {TO} && ssh web2 nginx -s reload", "more than one command"),
    (f"0 3 * * * rsync -a {N} {TO} | logger", "more than one command"),
    (f"0 3 * * * rsync -a {N} {TO} || true", "more than one command"),
    (f"0 3 * * * rsync -a {N} {TO}; nginx -t", "more than one command"),
    (f"0 3 * * * rsync -a {N} $PEER:/usr/local", "shell variable"),
    (f'0 3 * * * rsync -a {N} "{TO}`date`"', "shell variable"),
    (f"0 3 * * * rsync -a --log-file=/var/log/$(date +%F) {N} {TO}", "bare %"),
    (f"0 3 * * * rsync -a '{N} {TO}", "quotes do not end"),
    (f"0 3 * * * sudo -u deploy rsync -a {N} {TO}", "another user"),
    (f"0 3 * * * rsync -a {N}", "no source or no destination"),
    (f"0 3 * * * rsync -a {N} /backup", "on this host"),
    (f"0 3 * * * rsync -a web1:{N} /usr/local", "it pulls from another host"),
    (f"0 3 * * * rsync -a {N} web2::conf", "rsync daemon"),
    (f"0 3 * * * rsync -a {N} root@[fe80::5]::conf", "rsync daemon"),
    (f"0 3 * * * rsync -a {N} rsync://web2/conf", "rsync daemon"),
    (f"0 3 * * * rsync -a {N}/ {TO}", "(was /usr/local/nginx without the slash at its end meant?)"),
    (f"0 3 * * * rsync -a {N} web2:{N}", "goes to /usr/local/nginx/nginx on the peer"),
    (f"0 3 * * * rsync -a {N} web2:/backup", "goes to /backup/nginx on the peer"),
    (f"0 3 * * * rsync -a {N} web2:", "relative to a home directory"),
    (f"0 3 * * * rsync -a {N} web2:backup", "relative to a home directory"),
    (f"0 3 * * * rsync -a nginx {TO}", "no absolute path"),
    (f"0 3 * * * rsync -a ~/nginx {TO}", "no absolute path"),
    (f"0 3 * * * rsync -a {N}/* web2:{N}", "expanded by the shell"),
    ("0 3 * * * rsync -aR /usr/./local web2:/usr", "/./"),
    (f"0 3 * * * rsync -v {N} {TO}", "neither -a nor -r"),
    (f"0 3 * * * rsync -av --no-r {N} {TO}", "neither -a nor -r"),
    (f"0 3 * * * rsync -avu {N} {TO}", "-u leaves what is newer"),
    (f"0 3 * * * rsync -avn {N} {TO}", "-n: it changes nothing"),
    (f"0 3 * * * rsync -aL {N} {TO}", "-L: it sends what links point to"),
    (f"0 3 * * * rsync -ax {N} {TO}", "mounts below the tree"),
    (f"0 3 * * * rsync -aC {N} {TO}", ".cvsignore"),
    (f"0 3 * * * rsync -aF {N} {TO}", "a filter has no like"),
    (f"0 3 * * * rsync -a -f '- logs' {N} {TO}", "a filter has no like"),
    (f"0 3 * * * rsync -a --include='*.conf' --exclude='*' {N} {TO}", "an include has no like"),
    (f"0 3 * * * rsync -a --delete --delete-excluded {N} {TO}", "deletes on the peer what is excluded"),
    (f"0 3 * * * rsync -a --chown=www:www {N} {TO}", "other owners"),
    (f"0 3 * * * rsync -a --link-dest=/old {N} {TO}", "dated copies"),
    (f"0 3 * * * rsync -a --files-from /list / {TO}", "a list of files"),
    (f"0 3 * * * rsync -a --rsync-path='sudo rsync' {N} {TO}", "ngxsync runs plain rsync"),
    (f"0 3 * * * rsync -a --frobnicate {N} {TO}", "does not know what this option changes"),
    (f"0 3 * * * rsync -aY {N} {TO}", "-Y: ngxsync does not know"),
    (f"0 3 * * * rsync -a --exclude-from=/etc/list {N} {TO}", "its excludes are in /etc/list"),
    (f"0 3 * * * rsync -a --exclude={{logs,cache}} {N} {TO}", "needs bash"),
    (f"0 3 * * * rsync -a --exclude='*' {N} {TO}", "excludes the whole tree"),
    (f"0 3 * * * rsync -a --exclude=nginx {N} {TO}", "excludes the whole tree"),
    (f"0 3 * * * rsync -a --exclude='a/**/b' {N} {TO}", "** has no like there"),
    (f"0 3 * * * rsync -a --exclude='a**' {N} {TO}", "** has no like there"),
    (f"0 3 * * * rsync -a --exclude='[[:digit:]]' {N} {TO}", "an --exclude has no like"),
    (f"0 3 * * * rsync -a --exclude='+ x' {N} {TO}", "is no exclude"),
    ("0 3 * * * rsync -a --exclude=/nginx/x /etc/nginx /etc/ssl web2:/etc", "for one of the sources only"),
    (f"0 3 * * * rsync -a -e rsh {N} {TO}", "does not go over ssh"),
    (f"0 3 * * * rsync -a -e 'ssh -F /x' {N} {TO}", "does not know what -F of ssh changes"),
    (f"0 3 * * * rsync -a -e 'ssh -o ProxyCommand=x' {N} {TO}", "proxycommand of ssh"),
]


@pytest.mark.parametrize(("line", "reason"), REFUSED, ids=[line[:90] for line, _ in REFUSED])
def test_a_line_without_a_like_is_refused_with_its_reason(line: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_crontab_line(line)
    message = caught.value.message
    assert message.what.startswith("ngxsync cannot do the same as this line: ")
    assert reason in message.what
    assert message.where == line.strip()
    assert message.state == "nothing was written, the crontab is as it was"


SURPRISES = [
    ("-a --delete {}", "never deleted", False),
    ("-a {}", "never deleted", True),
    ("-ac {}", "size and modification time", False),
    ("-aI {}", "size and modification time", False),
    ("-rt {}", "did not keep links, perms, owner, group", True),
    ("-a --no-o {}", "did not keep owner;", True),
    ("-aH {}", "hard links", True),
    ("-a --bwlimit=100 {}", "full speed", True),
    ("-a --exclude=/nginx/logs {}", "not anchored", False),
    ("-a --exclude='*.log' {}", "not anchored", False),
    ("-a --exclude=cache/ {}", "html/cache", True),
    ("-a -e 'ssh -o StrictHostKeyChecking=no' {}", "any host key", True),
    ("-a -e 'ssh -o UserKnownHostsFile=/dev/null' {}", "any host key", True),
    ("-a -e 'ssh -o StrictHostKeyChecking=yes' {}", "any host key", False),
    ("-a {} > /dev/null", "errors", False),
    ("-a {} > /dev/null 2>&1", "errors went to /dev/null", True),
    ("-a {} 2>/dev/null", "errors went to /dev/null", True),
    ("-a {} >> /var/log/x 2>&1", "errors", False),
    ("-a {} &>> /var/log/x", "dash", True),
    ("-a {} &", "background", True),
    ("-a {}", "background", False),
]


@pytest.mark.parametrize(("command", "said", "is_said"), SURPRISES)
def test_what_is_said_of_a_line(command: str, said: str, is_said: bool) -> None:
    job = parse_crontab_line("0 3 * * * rsync " + command.format(f"{N} {TO}"))
    assert any(said in surprise for surprise in job.surprises) == is_said


def test_excludes_from_a_file_are_taken_where_it_can_be_read() -> None:
    texts = {"/etc/list": "# comment\n\n; comment\nlogs\n- *.log\n"}
    line = f"0 3 * * * rsync -a --exclude-from=/etc/list --exclude x {N} {TO}"
    assert parse_crontab_line(line, read_text=texts.__getitem__).exclude == ("logs", "*.log", "x")


def test_the_login_is_that_of_whose_crontab_it_is() -> None:
    assert parse_crontab_line(f"0 3 * * * rsync -a {N} {TO}", user="deploy").user == "deploy"


def test_rsync_lines_of_a_crontab() -> None:
    text = f"""# m h dom mon dow command
MAILTO=rsync@example.org
#0 3 * * * rsync -a /a b:/
0 1 * * * /usr/bin/certbot renew
{THE_TUTORIAL}
@daily root flock -n /l -c "rsync -a /a b:/"
5 5 * * * /opt/rsync-backup/run
"""
    assert find_rsync_lines(text) == (THE_TUTORIAL.strip(), '@daily root flock -n /l -c "rsync -a /a b:/"')


PATHS = (
    "a",
    "ab",
    "c/",
    "c/a",
    "c/b",
    "c/nginx/",
    "c/nginx/a",
    "logs/",
    "logs/a",
    "html/",
    "html/logs/",
    "html/logs/a",
    "x y",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source") / "nginx"
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir()
        else:
            (root / path).write_text("")
    return root


def sent_by_rsync(source: Path, pattern: str, is_content: bool) -> set[str]:
    argument = f"{source}/" if is_content else str(source)
    argv = ["rsync", "-an", "--out-format=%n", f"--exclude={pattern}", argument, str(source.parent.parent / "nowhere")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    names = {name if is_content else name.removeprefix("nginx/") for name in done.stdout.splitlines()}
    return names & set(PATHS)


parts = st.sampled_from(["a", "b", "c", "logs", "html", "nginx", "*", "a*", "?", "[a-c]", "l*s", "x y"])
rsync_patterns = st.builds(
    lambda anchored, body, end: anchored + "/".join(body) + end,
    st.sampled_from(["", "/"]),
    st.lists(parts, min_size=1, max_size=3),
    st.sampled_from(["", "/", "/**", "/***"]),
)


@given(rsync_patterns, st.booleans())
@example("**/logs", True)
@example("**/a/", False)
@example("logs", False)
@example("nginx/logs", False)
@settings(max_examples=120, deadline=None)
def test_the_like_of_a_pattern_leaves_out_what_rsync_left_out(source: Path, pattern: str, is_content: bool) -> None:
    sent = sent_by_rsync(source, pattern, is_content)
    try:
        like = like_pattern(pattern, "" if is_content else "nginx")
    except ValueError:
        return
    assert {path for path in PATHS if not is_excluded(path, compile_excludes(like))} == sent

"""`ngxsync demo` as an administrator meets it: the story is true, for root and for a user, and nothing of it is left."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.hosts import PROJECT, Host, wait_until
from tests.pair import Pair, snapshot_inodes

AS_ROOT: list[str] = []
# a user who may not even log in: web2 knows him by another name
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
NGXSYNC = [sys.executable, "-m", "ngxsync"]
ENVIRONMENT = {"PYTHONPATH": str(PROJECT), "HOME": "/nonexistent"}
FOLDER = re.compile(r"/tmp/ngxsync-demo-\w+")
URL = re.compile(r"http://127\.0\.0\.1:(\d+)/")
TOOK = r"\d[\d.]*m?s"

STORY = rf"""
Two web servers on this machine, up in {TOOK}; all that is theirs is in FOLDER
  web1  the master  http://127\.0\.0\.1:\d+/
  web2  the backup  http://127\.0\.0\.1:\d+/  reached by ssh
1\. The first sync: web2 has last night's page, and lacks a vhost of web1
  \$ ngxsync sync --yes
  \|   web2  applied, 2 changes \(1 content, 1 created\), .*reloaded
  web2 serves today's page, {TOOK} after the command was given
2\. An edit on web1: the shop answers /hello
  \| info: web2 applied, 1 change \(1 content\), .*reloaded
  web2 served it {TOOK} after it was saved, and it was proven after {TOOK}
3\. A typo on web1
  \| error: refused .*FOLDER/nginx/conf/vhosts/shop.conf:5: unknown directive "retrun"
  {TOOK}: refused by web1's own nginx, at FOLDER/nginx/conf/vhosts/shop.conf:5
4\. An edit that works on web1 only
  \| error: web2 refused, .*FOLDER/nginx/conf/vhosts/shop.conf:6: open\(\) .*payments.conf" failed
  {TOOK}: refused by web2's nginx, at FOLDER/nginx/conf/vhosts/shop.conf:6
  mended on web1, and equal again
5\. Somebody edits web2 by hand
  \$ ngxsync diff
  \| -    location = /hello \{{ return 200 'changed by hand'; \}}
  \| \+    location = /hello \{{ return 200 'hello from the shop'; \}}
  \| info: web2 applied, 1 change \(1 content\)
  healed; what somebody wrote was saved first, and is kept on web2:
  FOLDER/backup/state/peer/blobs/\S+
  \$ ngxsync diff
That was all, in {TOOK}: every process has ended, FOLDER is removed\.
"""


@pytest.fixture
def host(pair: Pair) -> Host:
    """A machine whose own nginx and sshd run, and whose /etc/ngxsync has a configuration: none of it is the demo's."""
    return pair.web1


@contextmanager
def nothing_is_left(host: Host) -> Iterator[None]:
    """No process, no file, no mount; /etc, /usr/local and others are as they were, down to the inodes."""

    def look() -> dict[str, object]:
        files = snapshot_inodes(host, "/etc", "/usr/local", "/var/lib", "/var/log/nginx", "/srv")
        names = {str(path): "" for folder in ("/tmp", "/run", "/root/.ssh") for path in host.path(folder).rglob("*")}
        names.update({str(path): "" for path in host.path("/root").iterdir()})
        processes = "\n".join(sorted(host.commands().values()))
        return {**files, **names, "processes": processes, "mounts": host.path("/proc/1/mounts").read_text()}

    before = look()
    yield
    after = look()
    assert {name: after.get(name) for name in {*before, *after} if before.get(name) != after.get(name)} == {}


def called(user: list[str], *arguments: str, before: str = "") -> list[str]:
    """`ngxsync ARGUMENTS`, called in a mount namespace of its own, in which `before`, a shell text, prepares the machine.

    A project or a Python below /root, where a user may not look, is shown there alone.
    """
    hidden = {folder for folder in (str(PROJECT), sys.prefix, sys.base_prefix) if folder.startswith("/root/")}
    opened = "".join(f"exec {number}<{folder}\n" for number, folder in enumerate(sorted(hidden), 3))
    shown = "".join(
        f"mkdir -p {folder}; mount -n -c --bind /proc/self/fd/{number} {folder}; exec {number}<&-\n"
        for number, folder in enumerate(sorted(hidden), 3)
    )
    cover = f"{opened}mount -n -t tmpfs -o mode=755 none /root\n{shown}" if hidden else ""
    return ["unshare", "--mount", "sh", "-ec", f'{cover}{before}\nexec "$@"', "sh", *user, *NGXSYNC, *arguments]


def demo(host: Host, user: list[str], *options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    return host.run(called(user, "demo", *options, before=before), env=ENVIRONMENT, check=False, timeout=100)


def told(output: str, story: str = STORY) -> None:
    """Every line of the story is there, in its order."""
    folder = FOLDER.search(output)
    assert folder, output
    lines = iter(output.splitlines())
    for wanted in story.strip().splitlines():
        pattern = re.compile(wanted.replace("FOLDER", re.escape(folder[0])))
        assert any(pattern.match(line) for line in lines), f"not told, or not here: {wanted}\n{output}"


def test_the_story_is_told_and_nothing_is_left(host: Host) -> None:
    with nothing_is_left(host):
        done = demo(host, AS_ROOT)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    told(done.stdout)
    assert "\x1b" not in done.stdout, "colours are for a terminal"


def test_a_user_is_told_the_same_and_two_at_once_are(host: Host) -> None:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with nothing_is_left(host):
        both = [host.popen(called(AS_NOBODY, "demo"), env=ENVIRONMENT, **streams) for _ in range(2)]
        outputs = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    for output, errors in outputs:
        assert errors == ""
        told(output)


@pytest.mark.parametrize("user", [AS_ROOT, AS_NOBODY], ids=["root", "nobody"])
def test_keep_and_stop(host: Host, user: list[str]) -> None:
    with nothing_is_left(host):
        done = demo(host, user, "--keep")
        assert done.returncode == 0, done.stdout + done.stderr
        folder = FOLDER.findall(done.stdout)[0]
        ports = [int(port) for port in URL.findall(done.stdout)[:2]]
        assert [host.get("/hello", port=port) for port in ports] == [(200, "hello from the shop")] * 2
        shop = host.path(f"{folder}/nginx/conf/vhosts/shop.conf")
        shop.write_text(shop.read_text().replace("hello from", "greetings from"))
        wait_until(
            lambda: "greetings" in host.get("/hello", port=ports[1])[1], "the kept daemon brings an edit to web2"
        )
        status = re.search(r"ngxsync (status --config \S+)", done.stdout)
        assert status
        argv = called([*user, "env", f"RUNTIME_DIRECTORY={folder}/run"], *status[1].split())
        assert "-> web2: in-sync" in wait_until(
            lambda: text if "in-sync" in (text := host.run(argv, env=ENVIRONMENT).stdout) else "", "status says in-sync"
        )
        stop = re.search(r"ngxsync demo (--stop \S+)", done.stdout)
        assert stop
        stopped = demo(host, user, *stop[1].split())
        assert stopped.returncode == 0, stopped.stderr
        assert folder in stopped.stdout


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("Two web servers", signal.SIGINT),
        ("$ ngxsync sync", signal.SIGTERM),
        ("2. An edit", signal.SIGHUP),
        ("3. A typo", signal.SIGINT),
    ],
)
def test_an_interrupted_demo_leaves_nothing(host: Host, moment: str, number: signal.Signals) -> None:
    with nothing_is_left(host):
        process = host.popen(
            called(AS_NOBODY, "demo"),
            env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout
        while moment not in (line := process.stdout.readline()):
            assert line, "it ended before"
        host.signal_to(process, number)
        _rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors


def test_a_locked_root_and_an_sshd_that_never_ran(host: Host) -> None:
    """As on many a machine: no password for root, and no /run/sshd."""
    before = """
        mount -n -t tmpfs none /mnt
        sed 's/^root:[^:]*:/root:!:/' /etc/shadow >/mnt/shadow; mount -n --bind /mnt/shadow /etc/shadow
        mount -n -t tmpfs none /run
    """
    with nothing_is_left(host):
        done = demo(host, AS_ROOT, before=before)
    assert done.returncode == 0, done.stdout + done.stderr
    told(done.stdout)


def test_where_no_view_can_be_made_it_says_so_and_goes_on(host: Host) -> None:
    """Namespaces for web2, and none for a view: one more than there may be."""
    script = 'echo 3 >/proc/sys/user/max_user_namespaces; exec unshare -U --map-user=65534 --map-group=65534 "$@"'
    with nothing_is_left(host):
        done = demo(host, [*AS_NOBODY, "unshare", "-Ur", "sh", "-ec", script, "sh"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "here nginx -t can have no private view of the machine: `rehearse = live` tests after applying" in done.stdout
    )


def test_what_is_missing_is_named(host: Host) -> None:
    with nothing_is_left(host):
        done = demo(host, AS_NOBODY, before="mount -n --bind /dev/null /usr/sbin/sshd")
    assert done.returncode == 1
    assert done.stderr == (
        "ngxsync: sshd is not installed here\n"
        "  now: nothing was started\n"
        "  next: `make demo` installs what is missing; or: apt-get install nginx openssh-server rsync util-linux\n"
    )


def test_a_user_without_a_name_is_told(host: Host) -> None:
    with nothing_is_left(host):
        done = demo(host, [*AS_NOBODY[:1], "--reuid=4321", *AS_NOBODY[2:]])
    assert done.returncode == 1
    assert "ssh runs for users with a name only, and 4321 has none here" in done.stderr


def test_a_web2_that_does_not_start_is_told(host: Host) -> None:
    """A program that is no nginx: what it said is in the message."""
    before = """
        mount -n -t tmpfs none /mnt
        printf '#!/bin/sh\\necho broken by the test; exit 1' >/mnt/nginx; chmod +x /mnt/nginx
        mount -n --bind /mnt/nginx /usr/sbin/nginx
    """
    with nothing_is_left(host):
        done = demo(host, AS_NOBODY, before=before)
    assert done.returncode == 1
    assert "web2: it did not start: broken by the test" in done.stderr


@pytest.mark.parametrize("name", ["mine", "ngxsync-demo-mine"])
def test_stop_touches_no_other_folder(host: Host, name: str) -> None:
    folder = host.path(f"/srv/{name}")
    folder.mkdir()
    (folder / "processes.json").write_text("[]")
    done = demo(host, AS_ROOT, "--stop", f"/srv/{name}")
    assert done.returncode == 1
    assert "no demo was kept here" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["processes.json"]

"""Keys, passwords and tokens: never in what is shown, logged, recorded or listed, nor readable by anybody else."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import PROJECT, Host, wait_until
from tests.pair import DEFAULT_VHOST, ROOT, Pair, manifest_of, write_tree
from tests.processes import shown_by_processes
from tests.resident import STATE
from tests.test_cuts import waiting

PASSWORD = "Gl1tterGulch"
HASH = "$apr1$salt$0123456789abcdefghijk."
TLS_KEY = f"{ROOT}/conf/tls.key"
HTPASSWD = f"{ROOT}/conf/htpasswd"
PHRASE = f"{ROOT}/conf/phrase"
TOLD = (
    "diff",
    "diff --json",
    "sync --dry-run",
    "sync",
    "status",
    "status --json",
    "history",
    "history --json",
    "check",
    "check --json",
    "validate",
)


def vhost(*lines: str) -> dict[str, str]:
    inner = "".join(f"    {line}\n" for line in lines)
    return {"conf/vhosts/secret.conf": f"server {{\n    listen 8443 ssl;\n{inner}}}\n"}


def make_certificate(host: Host) -> str:
    """A key with a certificate in the tree; some lines of its body."""
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "9"]
    host.run([*argv, "-keyout", TLS_KEY, "-out", f"{ROOT}/conf/tls.crt"])
    host.path(TLS_KEY).chmod(0o600)
    return host.path(TLS_KEY).read_text().splitlines()[5]


def fill(pair: Pair) -> list[str]:
    """A site with a certificate and passwords on web1; the texts that nobody may see."""
    key = make_certificate(pair.web1)
    write_tree(pair.web1, ROOT, {"conf/htpasswd": f"admin:{HASH}\n", "conf/phrase": f"{PASSWORD}\n"})
    for name in ("htpasswd", "phrase"):
        pair.web1.path(f"{ROOT}/conf/{name}").chmod(0o640)
    lines = ["ssl_certificate tls.crt;", "ssl_certificate_key tls.key;", "ssl_password_file phrase;"]
    write_tree(pair.web1, ROOT, vhost(*lines, "auth_basic x;", "auth_basic_user_file htpasswd;"))
    return [key, HASH, PASSWORD]


def said(pair: Pair, *arguments: str) -> str:
    done = pair.ngxsync(*arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def raise_if_told(pair: Pair, secrets: list[str]) -> None:
    for command in TOLD:
        text = said(pair, *command.split())
        assert not [secret for secret in secrets if secret in text], (command, text)


def test_no_command_shows_a_secret_before_or_after_it_is_one(pair: Pair) -> None:
    """New, changed, no longer named, deleted; the old content too."""
    said(pair, "sync")
    secrets = fill(pair)
    raise_if_told(pair, secrets)
    assert manifest_of(pair.web1) == manifest_of(pair.web2)
    secrets.append(make_certificate(pair.web1))
    write_tree(pair.web1, ROOT, {"conf/htpasswd": f"admin:{HASH}2\n", "conf/phrase": f"{PASSWORD}2\n"})
    raise_if_told(pair, secrets)
    for name in ("conf/vhosts/secret.conf", "conf/htpasswd", "conf/phrase", "conf/tls.key"):
        pair.web1.path(f"{ROOT}/{name}").unlink()
    raise_if_told(pair, secrets)
    for run in [line.split()[0] for line in said(pair, "history").splitlines() if line[:1] == "0"]:
        for more in ([], [HTPASSWD], [TLS_KEY]):
            text = said(pair, "history", run, *more)
            assert not [secret for secret in secrets if secret in text], text


def test_a_secret_that_was_text_and_text_that_was_a_secret_are_both_hidden(pair: Pair) -> None:
    key = make_certificate(pair.web1)
    body = pair.web1.path(TLS_KEY).read_text()
    write_tree(pair.web1, ROOT, {"html/a": "text\n", "html/b": body})
    write_tree(pair.web2, ROOT, {"html/a": body, "html/b": "text\n"})
    text = said(pair, "diff")
    assert key not in text
    assert text.count("Secret files differ") == 3, text


def test_what_nginx_and_crossplane_say_of_a_key_file_quotes_none_of_it(pair: Pair) -> None:
    """A password file included as configuration, a key given as certificate, a key cut in the middle."""
    said(pair, "sync")
    secrets = fill(pair)
    body = pair.web1.path(TLS_KEY).read_text()
    attempts = [
        vhost("include tls.key;"),
        vhost("ssl_certificate tls.key;", "ssl_certificate_key tls.key;"),
        {"conf/tls.key": body[: len(body) // 2]},
    ]
    for files in attempts:
        write_tree(pair.web1, ROOT, files)
        for command in ("validate", "sync", "status", "history", "check"):
            text = said(pair, command)
            assert not [secret for secret in secrets if secret in text], (command, text)


# on the disk


def modes_below(host: Host, top: str) -> Iterator[tuple[str, int]]:
    root = host.path(top)
    if root.exists():
        yield top, root.lstat().st_mode
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            entry = Path(folder, name)
            yield f"{top}/{entry.relative_to(root)}", entry.lstat().st_mode


def open_to_others(host: Host, top: str) -> list[str]:
    return [
        f"{path} {stat.filemode(mode)}"
        for path, mode in modes_below(host, top)
        if not stat.S_ISLNK(mode) and mode & 0o077
    ]


@pytest.mark.parametrize("umask", ["000", "077"])
def test_state_is_nobody_elses_whatever_the_umask(pair: Pair, umask: str) -> None:
    """After sync, refusal, rollback, pause, a daemon, check: on both hosts, the stage while it is filled included."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = ["sh", "-c", 'umask "$0"; exec "$@"', umask, sys.executable, "-m", "ngxsync", *arguments]
        return pair.web1.run(argv, check=False, env={"PYTHONPATH": str(PROJECT)})

    assert run("sync").returncode == 0
    write_tree(pair.web1, ROOT, {"html/x.html": "one\n"})
    with waiting(pair.web2, "/usr/bin/rsync", "*"):
        thread = threading.Thread(target=lambda: run("sync"))
        thread.start()
        wait_until(pair.web2.path("/run/reached").exists, "rsync waits")
        assert open_to_others(pair.web2, f"{ROOT}/.ngxsync") == []
        with pair.web2.path("/run/go").open("w") as go:
            go.write("go\n")
        thread.join()
    assert manifest_of(pair.web1) == manifest_of(pair.web2)
    write_tree(pair.web1, ROOT, {"conf/vhosts/default.conf": "broken\n"})
    assert run("sync").returncode == 3
    write_tree(pair.web1, ROOT, {"conf/vhosts/default.conf": DEFAULT_VHOST})
    for arguments in (("pause", "test"), ("resume",), ("rollback",), ("check",), ("diff",), ("sync",), ("history",)):
        run(*arguments)
    with pair.daemon():
        write_tree(pair.web1, ROOT, {"html/x.html": "two\n"})
        wait_until(lambda: manifest_of(pair.web1) == manifest_of(pair.web2), "web2 has it")
    for host in pair.hosts:
        for top in (STATE, f"{ROOT}/.ngxsync", "/run/ngxsync"):
            assert open_to_others(host, top) == [], (host.name, top)
        left = [name for name in os.listdir(host.path("/tmp")) if "ngxsync" in name]
        assert left == [], (host.name, left)


def test_a_state_directory_that_stands_open_is_closed(pair: Pair) -> None:
    assert pair.ngxsync("sync").returncode == 0
    for host, folder in ((pair.web1, "master"), (pair.web2, "peer")):
        for path, mode in list(modes_below(host, f"{STATE}/{folder}")):
            host.path(path).chmod(0o777 if stat.S_ISDIR(mode) else 0o666)
    write_tree(pair.web1, ROOT, {"html/x.html": "one\n"})
    assert pair.ngxsync("sync").returncode == 0
    for host, folder in ((pair.web1, "master"), (pair.web2, "peer")):
        assert stat.S_IMODE(host.path(f"{STATE}/{folder}").stat().st_mode) == 0o700, host.name


# in the list of processes


def test_no_secret_is_in_the_list_of_processes(pair: Pair) -> None:
    """Contents, and the password of a `probe`'s URL."""
    pair.write_config(peer=f"probe = http://admin:{PASSWORD}@127.0.0.1/hostname")
    secrets = fill(pair)
    with shown_by_processes(pair.web1) as ours, shown_by_processes(pair.web2) as theirs:
        first = said(pair, "sync")
        write_tree(pair.web1, ROOT, {"html/x.html": "one\n", "conf/vhosts/default.conf": DEFAULT_VHOST + "# new\n"})
        second = said(pair, "sync")
    assert "applied" in second, first + second
    assert any(b"rsync" in line for line in ours)
    assert any(b"/agent/" in line for line in theirs)
    assert not [line for line in ours | theirs if any(secret.encode() in line for secret in secrets)]


def test_the_password_of_a_probe_is_told_by_nobody(pair: Pair) -> None:
    pair.write_config(peer=f"probe = http://admin:{PASSWORD}@127.0.0.1:8099/x\nprove_timeout = 2s")
    write_tree(pair.web1, ROOT, {"conf/vhosts/default.conf": DEFAULT_VHOST + "# new\n"})
    texts = [said(pair, *command.split()) for command in TOLD]
    assert "undone" in "".join(texts)
    assert not [text for text in texts if PASSWORD in text]
    logs = [
        path
        for host in pair.hosts
        for path, mode in modes_below(host, STATE)
        if stat.S_ISREG(mode) and PASSWORD.encode() in host.path(path).read_bytes()
    ]
    assert not logs


# keys that others can read


def test_check_names_a_key_that_everybody_can_read_and_the_chmod(pair: Pair) -> None:
    fill(pair)
    assert "can read" not in said(pair, "check")
    pair.web1.path(TLS_KEY).chmod(0o644)
    assert pair.ngxsync("sync").returncode == 0
    text = said(pair, "check")
    for host in ("web1", "web2"):
        assert f"every user of {host} can read {TLS_KEY}" in text
    assert f"chmod o-rwx {TLS_KEY}" in text
    pair.web1.path(TLS_KEY).chmod(0o600)
    assert pair.ngxsync("sync").returncode == 0
    assert "can read" not in said(pair, "check")


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660])
def test_our_own_key_that_others_can_read_is_refused_by_both_connections(pair: Pair, mode: int) -> None:
    key = "/etc/ngxsync/id_ed25519"
    pair.web1.path(key).chmod(mode)
    for command in ("sync", "check", "diff"):
        done = pair.ngxsync(command)
        assert done.returncode in (1, 4), done
        assert f"chmod 600 {key}" in done.stdout + done.stderr, done
    pair.web1.path(key).chmod(0o600)
    assert pair.ngxsync("sync").returncode == 0

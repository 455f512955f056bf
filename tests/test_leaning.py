"""What nginx leans on beside what a sync carries: read on real files and certificates, judged from facts, seen in `check`."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent import certificates, hostnames, leaning, surroundings
from ngxsync.agent.access import Account, Doors, Readers, allows, compiled_user
from ngxsync.agent.directives import named_files, parse
from ngxsync.core import judge_leans, judge_parity
from ngxsync.core.checkup import FAILED, OK, WARNING, Check
from ngxsync.core.config import load_config
from ngxsync.core.excludes import is_own_by
from tests.pair import ROOT, Pair

DAY_S = 86400
NOW = 1_800_000_000
NOBODY = Account("nobody", 65534, frozenset([65534]))
ROOTS = Account("root", 0, frozenset([0]))


def make_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def make_certificate(key: ec.EllipticCurvePrivateKey, not_after: float) -> bytes:
    """PEM of a certificate that began a year before its end."""
    end = datetime.datetime.fromtimestamp(not_after, datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "site.test")])
    begun = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = begun.not_valid_before(end - datetime.timedelta(365)).not_valid_after(end).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.PEM)


def pem_of(key: ec.EllipticCurvePrivateKey, passphrase: str = "") -> bytes:
    way = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, way)


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


# certificates


@pytest.mark.parametrize("not_after", [NOW, 2_524_607_999, 2_524_608_000, 4_000_000_000])  # both forms of a time
def test_the_end_of_a_certificate(tmp_path: Path, not_after: int) -> None:
    pem = make_certificate(make_key(), not_after)
    path = write(tmp_path / "c", b"some text before\n" + pem + make_certificate(make_key(), NOW + 1))
    assert certificates.not_after(certificates.leaf(path)) == not_after
    told = subprocess.run(["openssl", "x509", "-in", path, "-noout", "-fingerprint", "-sha256"], stdout=subprocess.PIPE)
    found = certificates.describe(certificates.Pair(path, "", "f", 1))
    assert found["fingerprint"] == told.stdout.decode().partition("=")[2].strip().replace(":", "").lower()


def test_a_key_and_its_certificate(tmp_path: Path) -> None:
    mine, other = make_key(), make_key()
    certificate = write(tmp_path / "c", make_certificate(mine, NOW))
    os.mkfifo(tmp_path / "pipe")
    cases = {
        write(tmp_path / "mine", pem_of(mine)): (True, ""),
        write(tmp_path / "other", pem_of(other)): (False, ""),
        write(tmp_path / "locked", pem_of(mine, "secret")): (None, "has a passphrase"),
        write(tmp_path / "junk", b"no key"): (None, "no key can be read"),
        str(tmp_path / "pipe"): (None, "no regular file"),
        str(tmp_path / "missing"): (None, ""),
    }
    for key, (matches, why) in cases.items():
        found = certificates.describe(certificates.Pair(certificate, key, "f", 1))
        assert (found["matches"], why in found["why"], found["not_after"]) == (matches, True, NOW), key
        assert bool(found["why"]) == bool(why)


@given(st.binary(max_size=60))
def test_any_bytes_for_a_certificate(der: bytes) -> None:
    with contextlib.suppress(ValueError, IndexError):
        certificates.not_after(der)


def test_pairs_are_made_within_a_block() -> None:
    text = b"""http { ssl_certificate a.crt; ssl_certificate_key a.key;
      server { ssl_certificate r.crt; ssl_certificate e.crt; listen 443 ssl; location / { proxy_ssl_certificate p.crt;
        proxy_ssl_certificate_key p.key; } ssl_certificate_key r.key; ssl_certificate_key e.key; }
      server { ssl_certificate $name.crt; ssl_certificate_key $name.key; }
      server { ssl_certificate only.crt; } server { ssl_certificate data:$x; ssl_certificate z.crt;
        ssl_certificate_key engine:x:y; ssl_certificate_key z.key; } }"""
    found = certificates.pairs(parse(text, "/e/n.conf"), "/e", "/p")
    assert sorted((pair.certificate, pair.key, pair.line) for pair in found) == [
        ("/e/a.crt", "/e/a.key", 1),
        ("/e/e.crt", "/e/e.key", 2),
        ("/e/only.crt", "", 5),
        ("/e/p.crt", "/e/p.key", 2),
        ("/e/r.crt", "/e/r.key", 2),
        ("/e/z.crt", "/e/z.key", 5),
    ]


# who may read


def open_above(path: Path) -> None:
    """pytest's folders are its user's alone."""
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & 1:
            folder.chmod(0o711)


@pytest.mark.parametrize(
    ("mode", "owner", "group", "expected"),
    [
        (0o604, 0, 0, True),
        (0o640, 0, 0, False),
        (0o640, 0, 65534, True),
        (0o604, 0, 65534, False),  # its group is asked first, and the kernel asks no further
        (0o044, 65534, 65534, False),
        (0o400, 65534, 0, True),
    ],
)
def test_the_first_bits_that_concern_it(mode: int, owner: int, group: int, expected: bool) -> None:
    info = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, group, 0, 0, 0, 0))
    assert allows(info, NOBODY, 4) is expected
    assert allows(info, ROOTS, 4)


def test_a_directory_above_keeps_it_out(tmp_path: Path) -> None:
    open_above(tmp_path)
    file = tmp_path / "a" / "b" / "users"
    write(file, b"x")
    link = tmp_path / "users"
    link.symlink_to(file)
    assert Doors(NOBODY).blocked(str(link)) == ""
    (tmp_path / "a").chmod(0o700)
    assert Doors(NOBODY).blocked(str(link)) == str(tmp_path / "a"), "where a link leads counts too"
    assert Doors(ROOTS).blocked(str(link)) == ""
    (tmp_path / "a").chmod(0o711)
    file.chmod(0o600)
    assert Doors(NOBODY).blocked(str(file)) == str(file)


def test_the_compiled_user() -> None:
    assert compiled_user("configure arguments: --user=nginx --with-x") == ["nginx", "nginx"]
    assert compiled_user(" --group='web' --user=nginx") == ["nginx", "web"]
    assert compiled_user("") == ["nobody", "nobody"]


# what no sync carries


def test_outside_excluded_or_behind_a_link(tmp_path: Path) -> None:
    open_above(tmp_path)
    tree = tmp_path / "tree"
    for name in ("conf/a.conf", "conf/local/b.conf", "modules/m.so", "conf/users", "conf/closed"):
        write(tree / name, b"")
    write(tmp_path / "else/c.conf", b"link")
    (tree / "conf/c.conf").symlink_to("../../else/c.conf")
    (tree / "conf/closed").chmod(0o600)
    text = b"""load_module modules/m.so; include *.conf; include local/b.conf; ssl_dhparam /none/dh.pem;
        auth_basic_user_file users; auth_basic_user_file closed; error_log /var/log/x; access_by_lua_file /none/a.lua;"""
    named = named_files(parse(text, "n.conf"), str(tree / "conf"), str(tree))
    rules = [[r"modules/", True], [r"conf/local/", True]]
    found = leaning.leant_on(
        named,
        leaning.Trees([{"path": str(tree), "exclude": rules}]),
        Readers(ROOTS, Account("web", 99999, frozenset())),
    )
    told = {os.path.relpath(item["path"], tmp_path) if item["inside"] else item["path"]: item for item in found}
    assert set(told) == {
        "/none/a.lua",
        "/none/dh.pem",
        "tree/conf/c.conf",
        "tree/conf/closed",
        "tree/conf/local/b.conf",
        "tree/modules/m.so",
    }
    assert told["tree/conf/c.conf"]["link_leaves"] == str(tmp_path / "else/c.conf")
    assert (told["tree/conf/closed"]["readable"], told["tree/conf/closed"]["reader"]) == (False, "web")
    assert [told[name]["carried"] for name in ("tree/conf/closed", "tree/conf/local/b.conf")] == [True, False]
    assert (told["/none/a.lua"]["reader"], told["/none/dh.pem"]["reader"]) == ("web", "root")


# host names


def test_names_that_nginx_looks_up() -> None:
    text = b"""http { upstream back { server a.test:81 weight=2; server b.test resolve; server unix:/s; server 10.0.0.1; }
      resolver r.test 10.0.0.2 valid=3s; access_log syslog:server=log.test:514,tag=x; access_log /a/b;
      server { server_name s.test; location / { proxy_pass https://back/x; } location /b { proxy_pass http://c.test:8080/y; }
        location /c { proxy_pass http://$host; } location /d { fastcgi_pass f.test:9000; }
        location /e { proxy_pass http://[::1]:80; } } }"""
    assert hostnames.names(parse(text, "f")) == {
        "a.test": ["f", 1],
        "r.test": ["f", 2],
        "log.test": ["f", 2],
        "c.test": ["f", 3],
        "f.test": ["f", 4],
    }


def test_a_name_that_nobody_knows() -> None:
    assert socket.gethostbyname("localhost")
    assert hostnames.unresolved({"localhost": ["f", 1], "nobody.invalid": ["f", 2]}) == [["nobody.invalid", "f", 2]]
    assert hostnames.unresolved({}) == []


def test_recorded_limits() -> None:
    text = "Limit     Soft Limit   Hard Limit   Units\nMax processes  1  2  processes\nMax open files  1024  unlimited  files\n"
    assert surroundings.parse_nofile(text) == [1024, -1]


# judged from facts


def facts(now: float = NOW, limits: Any = None, sysctls: Any = None, **nginx: Any) -> dict[str, Any]:
    told = {"found": True, "outside": [], "certificates": [], "unresolved": [], "version": "nginx/1.22.1", "build": ""}
    return {
        "hello": {"now": now},
        "nginx": {**told, **nginx},
        "limits": limits or {"nofile": [1024, 4096], "worker_rlimit_nofile": ""},
        "sysctls": sysctls or {},
        "timers": [],
    }


def item(path: str, **more: Any) -> dict[str, Any]:
    plain = {"path": path, "role": "certificate", "file": "/f", "line": 3, "exists": True, "sha256": "a" * 64}
    seen = {"readable": True, "reader": "root", "blocked": "", "link_leaves": "", "inside": False, "carried": False}
    return {**plain, **seen, **more}


def certificate(days: float = 90, matches: bool | None = True, path: str = "/c", **more: Any) -> dict[str, Any]:
    plain = {"certificate": path, "key": "/k", "file": "/f", "line": 3, "matches": matches, "why": ""}
    return {**plain, "not_after": NOW + days * DAY_S, "fingerprint": "f" * 64, **more}


def worst(checks: Any) -> Check:
    order = (OK, WARNING, FAILED)
    return max(checks, key=lambda check: order.index(check.state))


@pytest.mark.parametrize(
    ("found", "state", "what"),
    [
        (certificate(90.5), OK, "1, the first ends in 90 days"),
        (certificate(29.5), WARNING, "/c expires in 29 days (/f:3)"),
        (certificate(13.5), WARNING, "/c expires in 13 days (/f:3)"),
        (certificate(-1), FAILED, "/c has expired, "),
        (certificate(90, False), FAILED, "/k is not the key of /c (/f:3)"),
        (certificate(90, None, why="/k has a passphrase"), WARNING, "/k has a passphrase (/f:3)"),
        (
            certificate(90, None, not_after=None, why="/c: no certificate can be read in it"),
            WARNING,
            "/c: no certificate",
        ),
    ],
)
def test_certificates(found: dict[str, Any], state: str, what: str) -> None:
    check = worst(judge_leans.judge_certificates("web1", facts(certificates=[found])))
    assert (check.name, check.state, bool(check.hint)) == ("certificates", state, state != OK)
    assert check.what.startswith(what)
    on_peer = facts(certificates=[found], outside=[item("/c")])
    other = facts(certificates=[certificate(90, fingerprint="e" * 64)])
    assert worst(judge_leans.judge_certificates("web2", on_peer, other)).state == state
    carried = worst(judge_leans.judge_certificates("web2", facts(certificates=[found]), other))
    assert carried.state == (WARNING if state == FAILED else state), "a sync brings another"
    same = worst(judge_leans.judge_certificates("web2", on_peer, facts(certificates=[found])))
    kept = state if found["matches"] is not True else OK
    assert same.state == kept, "when the master's ends is told there"


@pytest.mark.parametrize(
    ("theirs", "state", "what", "hint"),
    [
        (item("/etc/ssl/site/c"), OK, "1, the same on both", ""),
        (
            item("/etc/ssl/site/c", exists=False, sha256=""),
            FAILED,
            "web2 lacks /etc/ssl/site/c",
            "trees: /etc/ssl/site",
        ),
        (
            item("/etc/ssl/site/c", sha256="b" * 64),
            WARNING,
            "web2 has others: /etc/ssl/site/c (older: it ends",
            "trees",
        ),
        (item("/x"), WARNING, "whether web2 has them shows only when a sync is tested there", "trees"),
    ],
)
def test_files_that_no_sync_carries(theirs: dict[str, Any], state: str, what: str, hint: str) -> None:
    ours = facts(outside=[item("/etc/ssl/site/c")], certificates=[certificate(90, path="/etc/ssl/site/c")])
    peer = facts(outside=[theirs], certificates=[certificate(20, path="/etc/ssl/site/c")])
    (check,) = judge_leans.judge_outside("web2", ours, peer)
    assert (check.state, hint in check.hint) == (state, True)
    assert check.what.startswith(what)


def test_what_a_person_excluded_is_to_differ_and_has_to_be_there() -> None:
    text = "[nginx]\nroot = /t\n[sync]\nexclude = /conf/host.conf\n"
    config = load_config(f"{text}[peer web2]\nhost = 192.0.2.2\nidentity = /k\nexclude = certs/\n", "c.ini")
    is_own = is_own_by(config, config.peers[0])
    paths = ["/t/conf/host.conf", "/t/conf/certs/key.pem"]
    ours = facts(outside=[item(path) for path in paths])
    (check,) = judge_leans.judge_outside("web2", ours, facts(outside=[item(p, sha256="b" * 64) for p in paths]), is_own)
    told = "2, the same on both but /t/conf/certs/key.pem, /t/conf/host.conf, each host's own by `exclude`"
    assert (check.state, check.what) == (OK, told)
    lacking = facts(outside=[item(path, exists=False, sha256="") for path in paths])
    assert [each.state for each in judge_leans.judge_outside("web2", ours, lacking, is_own)] == [FAILED]
    paths = ["/t/conf/other.conf", "/t/conf/host.conf.d/a", "/etc/conf/host.conf"]
    assert not any(map(is_own, paths))


def test_why_no_sync_carries_it() -> None:
    paths = {"/t/modules/m.so": {"role": "module", "inside": True}, "/t/own.conf": {"inside": True}}
    paths["/t/link.conf"] = {"inside": True, "link_leaves": "/srv/shared/link.conf"}
    ours = facts(outside=[item(path, **more) for path, more in paths.items()])
    peer = facts(outside=[item(path, **more, exists=False, sha256="") for path, more in paths.items()])  # type: ignore[arg-type]
    (check,) = judge_leans.judge_outside("web2", ours, peer)
    assert check.what == "web2 lacks /t/link.conf, /t/modules/m.so, /t/own.conf"
    assert check.hint == (
        "install the same modules of nginx on web2; the excludes leave out /t/own.conf: take them back with !PATTERN,"
        " or see to them on web2; to sync them add to [sync] trees: /srv/shared"
    )


def test_a_certificate_that_comes_to_another_key() -> None:
    ours = facts(outside=[item("/k", role="key")], certificates=[certificate()])
    peer = facts(outside=[item("/k", role="key", sha256="b" * 64)])
    check = worst(judge_leans.judge_outside("web2", ours, peer))
    assert (check.state, check.what) == (FAILED, "a sync brings /c, and /k there is not its key (/f:3)")


def test_who_cannot_read_what() -> None:
    closed = item("/srv/users", readable=False, reader="www-data", blocked="/srv")
    check = judge_leans.judge_readable("web2", facts(outside=[closed]))
    assert check is not None
    assert (check.state, check.what) == (FAILED, "www-data cannot read /srv/users (/f:3): /srv keeps it out")
    assert check.hint == "on web2: let the group of www-data in: chgrp GROUP /srv; chmod g+x /srv"
    old = {key: closed[key] for key in ("path", "role", "exists", "sha256")}
    assert judge_leans.judge_readable("web2", facts(outside=[old])) is None, "an older agent does not say it"


def test_names_and_renewal() -> None:
    found = facts(unresolved=[["a.test", "/f", 7]])
    check = judge_leans.judge_names("web2", found)
    assert check is not None
    assert (check.state, check.what) == (FAILED, "/f:7: a.test does not resolve")
    timed = {**facts(), "timers": ["certbot.timer", "/etc/cron.d/certbot"]}
    plain = judge_leans.judge_renewal("web2", timed, ["/usr/local/nginx"])
    synced = judge_leans.judge_renewal("web2", timed, ["/usr/local/nginx", "/etc/letsencrypt/live"])
    assert plain is not None
    assert synced is not None
    assert (plain.state, synced.state) == (OK, WARNING)
    assert "systemctl disable --now certbot.timer" in synced.hint


def test_parity() -> None:
    old = "OpenSSL 1.1.1n 15 Mar 2022"
    new = "OpenSSL 1.1.1w 11 Sep 2023 (running with OpenSSL 3.0.15 3 Sep 2024)"
    assert (judge_parity.running_openssl(old), judge_parity.running_openssl(new)) == (
        "OpenSSL 1.1.1n",
        "OpenSSL 3.0.15",
    )
    ours = facts(openssl=new, user=[], sysctls={"net.core.somaxconn": "4096", "fs.file-max": "1"})
    theirs = facts(
        openssl=old,
        user=[],
        build="--user=nginx",
        sysctls={"net.core.somaxconn": "128", "fs.file-max": "2"},
        limits={"nofile": [512, 4096], "worker_rlimit_nofile": ""},
    )
    assert {check.state for check in judge_parity.judge_parity("web2", ours, ours)} == {OK}
    told = {
        check.name: check.what for check in judge_parity.judge_parity("web2", ours, theirs) if check.state == WARNING
    }
    assert told == {
        "same OpenSSL": "OpenSSL 1.1.1n there, OpenSSL 3.0.15 here",
        "worker user": "nginx's workers are nginx there, nobody here",
        "limits": "nginx may have 512 files open there, 1024 here",
        "kernel settings": "net.core.somaxconn is 128 there, 4096 here",
    }
    assert judge_parity.parity_digest(ours, ours) != judge_parity.parity_digest(ours, theirs)
    for facts_of_before in (ours, theirs):
        del facts_of_before["limits"], facts_of_before["sysctls"], facts_of_before["nginx"]["openssl"]
    assert [check.name for check in judge_parity.judge_parity("web2", ours, theirs)] == ["same nginx", "worker user"]


# on a real pair


def test_check_names_them_before_a_sync_fails(pair: Pair) -> None:
    """Missing, older, unreadable, another's key, expired: each by name, with what to do."""
    now = pair.web1.path("/").stat().st_atime  # any time of the hosts; what counts is years
    now = max(now, datetime.datetime.now(datetime.UTC).timestamp())
    ends = {"gone": 200, "aged": 200, "keyed": 200, "ended": -2}
    vhosts = "".join(
        f"server {{ listen 443 ssl; server_name {name}.test; ssl_certificate /srv/tls/{name}.crt;"
        f" ssl_certificate_key /srv/tls/{name}.key; }}\n"
        for name in ends
    )
    vhosts += "server { listen 82; auth_basic on; auth_basic_user_file /srv/tls/users; }\n"
    for name, days in ends.items():
        key = make_key()
        made = make_certificate(key, now + days * DAY_S)
        for host in (pair.web1, pair.web2):
            write(host.path(f"/srv/tls/{name}.crt"), made)
            write(host.path(f"/srv/tls/{name}.key"), pem_of(key))
        if name == "aged":
            write(pair.web2.path(f"/srv/tls/{name}.crt"), make_certificate(key, now + 100 * DAY_S))
    for host in (pair.web1, pair.web2):
        write(host.path(f"{ROOT}/conf/vhosts/tls.conf"), vhosts.encode())
        host.path("/srv").chmod(0o755)
        host.path("/srv/tls").chmod(0o755)
        write(host.path("/srv/tls/users"), b"ann:x\n")
    pair.web2.path("/srv/tls/gone.crt").unlink()
    write(pair.web2.path("/srv/tls/keyed.key"), pem_of(make_key()))
    pair.web2.path("/srv/tls/users").chmod(0o600)
    done = pair.ngxsync("check")
    assert done.returncode == 1
    told = done.stdout.partition("\nweb2\n")[2]
    where = f"{ROOT}/conf/vhosts/tls.conf"
    for line in (
        "files outside the trees: FAILED (web2 lacks /srv/tls/gone.crt)",
        "/srv/tls/aged.crt (older: it ends ",
        f"files that nginx reads: FAILED (www-data cannot read /srv/tls/users ({where}:5))",
        f"certificates: FAILED (/srv/tls/keyed.key is not the key of /srv/tls/keyed.crt ({where}:3))",
        "    hint: to sync them add to [sync] trees: /srv/tls\n",
    ):
        assert line in told, told
    assert "PRIVATE KEY" not in done.stdout
    assert "certificates: FAILED (/srv/tls/ended.crt has expired, " in done.stdout.partition("\nweb2\n")[0]


@pytest.fixture
def backlogs(pair: Pair) -> Iterator[None]:
    """The hosts outlive a test, and what a test sets in their kernel with them."""
    hosts = (pair.web1, pair.web2)
    before = [host.run(["sysctl", "-n", "net.core.somaxconn"]).stdout.strip() for host in hosts]
    yield
    for host, value in zip(hosts, before, strict=True):
        host.run(["sysctl", "-qw", f"net.core.somaxconn={value}"])


def test_before_the_first_sync_and_after_an_upgrade(pair: Pair, backlogs: None) -> None:
    """Once each: a sync is not held for it, and the next one does not say it again."""
    unlike = "kernel settings: net.core.somaxconn is 128 there, 4096 here"
    pair.web1.run(["sysctl", "-qw", "net.core.somaxconn=4096"])
    pair.web2.run(["sysctl", "-qw", "net.core.somaxconn=128"])
    write(pair.web1.path(f"{ROOT}/html/first.html"), b"first")
    first = json.loads(pair.ngxsync("sync", "--yes", "--json").stdout)["peers"][0]
    assert (first["outcome"], [text for text in first["warnings"] if unlike in text] != []) == ("applied", True)
    write(pair.web1.path(f"{ROOT}/html/new.html"), b"new")
    second = json.loads(pair.ngxsync("sync", "--json").stdout)["peers"][0]
    assert (second["outcome"], [text for text in second["warnings"] if unlike in text]) == ("applied", [])
    pair.write_config(sync="check_every = 5s")
    with pair.daemon() as daemon:
        pair.web2.run(["sysctl", "-qw", "net.core.somaxconn=64"])
        daemon.wait_for("web2: what no sync makes equal has changed: kernel settings: net.core.somaxconn is 64 there")

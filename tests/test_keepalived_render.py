"""`ngxsync keepalived render`: what it writes, what it refuses, and what keepalived itself says of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ngxsync.core.config import Config, load_config
from ngxsync.core.errors import ConfigError
from ngxsync.core.keepalived.conftext import render_conf
from ngxsync.core.keepalived.quoting import value
from ngxsync.core.keepalived.settings import Wanted, warnings_of
from ngxsync.core.keepalived.weights import moves_nothing
from ngxsync.edges.secretfile import read_secret
from tests.hosts import Host, wait_until
from tests.pair import Pair

PEER = "[peer {0}]\nhost = {1}\nidentity = /etc/ngxsync/key\ninterface = {3}\npriority = {2}\n"
ADDRESSES = {f"web{number}": (f"192.0.2.{number}", f"2001:db8::{number}") for number in (1, 2, 3)}


def config_of(
    vrrp: str, *, more: str = "", priorities: tuple[int, int] = (100, 99), third: int = 0, interface: str = "eth0"
) -> Config:
    """`third` is the priority of a web3, 0: there is none."""
    peers = PEER.format("web1", "192.0.2.1", priorities[0], interface)
    peers += PEER.format("web2", "192.0.2.2", priorities[1], interface)
    peers += PEER.format("web3", "192.0.2.3", third, interface) if third else ""
    vip = "" if "vip =" in vrrp else "vip = 192.0.2.100/24\n"
    return load_config(f"{peers}[vrrp]\n{vip}virtual_router_id = 88\n{vrrp}\n{more}", "/etc/ngxsync/config.ini")


def rendered(config: Config, *, password: str = "") -> list[str]:
    wanted = Wanted(config, password, ADDRESSES)
    return [render_conf(wanted, peer) for peer in config.peers]


V6 = "vip = 2001:db8::100/64\n"
BOTH = "vip = 192.0.2.100/24\n  2001:db8::100/64\n  192.0.2.101\n"
# name: ([vrrp], password)
VARIANTS = {
    "plain": ("", "a#b! c{}"),
    "unicast": ("unicast = yes", "secret"),
    "nopreempt": ("nopreempt = yes\ncheck_weight = 0", "secret"),
    "preempt_delay": ("preempt_delay = 30s", ""),
    "ipv6": (V6, "ignored"),
    "ipv6 unicast": (f"{V6}unicast = yes", ""),
    "mixed": (BOTH, "secret"),
    "mixed unicast": (f"{BOTH}unicast = yes", ""),
    "several": ("vip = " + "\n  ".join(f"192.0.2.{n}/24" for n in range(100, 125)), "secret"),
    "fifo": ("notify = fifo", "secret"),
    "weight 0": ("check_weight = 0", "secret"),
    "positive weight": ("check_weight = 20", "secret"),
    "check_url": ("check_url = http://127.0.0.1/a?b=$c&d='e'#g", "secret"),
    "half a second": ("advert_int = 500ms", ""),
}


def test_the_pair_of_the_tutorial_word_for_word() -> None:
    first, second = rendered(config_of("password_file = /etc/ngxsync/pw"), password="1111")
    assert (
        first
        == """\
# keepalived.conf of web1, written by ngxsync from /etc/ngxsync/config.ini. Change it there, and make this again:
#   ngxsync keepalived render web1
# Whether both hosts still fit together: ngxsync keepalived check

global_defs {
    router_id web1
    script_user root
    enable_script_security
}

vrrp_script check_nginx {
    script "/usr/local/sbin/ngxsync-agent check-nginx"
    interval 2
    timeout 2
    weight -5
    fall 3
    rise 2
    user root
}

vrrp_instance ngxsync {
    state MASTER
    interface eth0
    virtual_router_id 88
    priority 100
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass 1111
    }
    virtual_ipaddress {
        192.0.2.100/24 dev eth0
    }
    track_script {
        check_nginx
    }
    notify "/usr/local/sbin/ngxsync-agent notify --vip 192.0.2.100"
}
"""
    )
    differs = [pair for pair in zip(first.splitlines(), second.splitlines(), strict=True) if pair[0] != pair[1]]
    assert [theirs.strip() for _, theirs in differs[2:]] == ["router_id web2", "state BACKUP", "priority 99"]


def test_options_become_lines() -> None:
    first, second = rendered(config_of("unicast = yes\npreempt_delay = 30s\ncheck_interval = 5s"), password="x")
    assert "    unicast_src_ip 192.0.2.1\n    unicast_peer {\n        192.0.2.2\n    }\n" in first
    assert "state BACKUP" in first, "preempt_delay does nothing where a host starts as MASTER"
    assert 'check-nginx --interval 5"\n    interval 5\n    timeout 5\n' in first
    assert "unicast_src_ip 192.0.2.2" in second

    nginx = "[nginx]\nroot = /srv/nginx\nconf = /etc/web.conf\nbinary = /opt/nginx\n"
    command = "check-nginx --root /srv/nginx --conf /etc/web.conf --binary /opt/nginx"
    assert command in rendered(config_of("", more=nginx))[0]
    assert command.replace("check-nginx", "notify --vip 192.0.2.100") in rendered(config_of("", more=nginx))[0]
    assert 'check-nginx --root /srv/nginx"' in rendered(config_of("", more="[nginx]\nroot = /srv/nginx\n"))[0]

    text = rendered(config_of("notify = fifo", more="[ngxsync]\nstate_dir = /srv/ngxsync\n"))[0]
    assert "    notify " not in text
    assert "    vrrp_notify_fifo /run/ngxsync-vrrp.fifo\n" in text
    assert '"/srv/ngxsync/agent/ngxsync-agent notify --vip 192.0.2.100 --fifo"' in text


def test_ipv6_has_no_password_and_goes_along_where_both_are() -> None:
    alone = rendered(config_of(V6), password="secret")[0]
    assert "authentication" not in alone
    assert "version 3" in alone
    both = rendered(config_of(BOTH), password="secret")[0]
    assert "virtual_ipaddress {\n        192.0.2.100/24 dev eth0\n        192.0.2.101 dev eth0\n    }\n" in both
    assert "virtual_ipaddress_excluded {\n        2001:db8::100/64 dev eth0\n    }\n" in both
    assert "auth_pass secret" in both
    assert "notify --vip 192.0.2.100,2001:db8::100,192.0.2.101" in both
    assert "no password" in warnings_of(Wanted(config_of(V6), "secret"))[0]


def test_all_that_is_missing_is_named_at_once() -> None:
    text = "[peer web1]\nhost = 192.0.2.1\nidentity = /k\n[vrrp]\nvip = 192.0.2.100\ncheck_interval = 1500ms\n"
    config = load_config(text, "c.ini")
    with pytest.raises(ConfigError) as caught:
        render_conf(Wanted(config, "123456789"), config.peers[0])
    told = str(caught.value)
    wanted = ("virtual_router_id", "[peer NAME]", "[peer web1] interface", "[peer web1] priority", "check_interval")
    assert all(each in told for each in wanted), told
    assert "it has 9 characters, and 8 count" in told
    assert "123456789" not in told


@pytest.mark.parametrize(
    ("vrrp", "password", "told"),
    [
        ("", 'a"b', "password_file"),
        ("", "a\\b", "a backslash"),
        ("", "${_PWD}", "definition"),
        ("", "pässword", "printable ASCII"),
        ("advert_int = 500ms", "secret", "whole seconds"),
        ("advert_int = 333ms", "", "steps of 10ms"),
        ("advert_int = 300s", "", "255s"),
        (f"{V6}advert_int = 60s", "", "40950ms"),
        ("nopreempt = yes\npreempt_delay = 3s", "", "nothing to delay"),
        ("preempt_delay = 1h", "", "1000s"),
        ("vip = 2001:db8:1::1\nunicast = yes", "", "IPv6"),
        ("vip = " + "\n  ".join(f"2001:db8:1:1:1:1:1:{n:x}" for n in range(4096, 4160)), "", "in one line"),
    ],
)
def test_what_keepalived_would_change_or_cut_is_refused(vrrp: str, password: str, told: str) -> None:
    config = config_of(vrrp)
    addresses = {"web1": ("192.0.2.1",), "web2": ("192.0.2.2",)}
    with pytest.raises(ConfigError, match=told):
        render_conf(Wanted(config, password, addresses), config.peers[0])


def test_a_weight_bridges_the_gap_or_not() -> None:
    assert moves_nothing(0, 200, 1) is None
    assert moves_nothing(-5, 100, 99) is None
    assert moves_nothing(5, 100, 99) is None
    for weight, higher, lower, better in (
        (-1, 100, 99, -2),  # equal is not below
        (-5, 150, 100, -51),
        (5, 150, 100, 51),
        (-5, 1, 1, 0),  # a priority never falls below 1
        (5, 254, 250, 0),  # nor does it rise above 254
    ):
        found = moves_nothing(weight, higher, lower)
        assert found is not None
        assert found.weight == better
        assert moves_nothing(found.weight, higher, lower) is None
    assert moves_nothing(-5, 100, 99, nopreempt=True) is not None


def test_warnings() -> None:
    assert warnings_of(Wanted(config_of(""))) == []
    assert "check_weight = -51" in warnings_of(Wanted(config_of("", priorities=(150, 100))))[0]
    assert "the same priority" in warnings_of(Wanted(config_of("check_weight = 0", priorities=(100, 100))))[0]
    assert "nopreempt" in warnings_of(Wanted(config_of("nopreempt = yes")))[0]
    assert warnings_of(Wanted(config_of("", third=95))) == []
    (warning,) = warnings_of(Wanted(config_of("", third=94)))
    assert warning.startswith("a failed check of web2 moves nothing to web3: weight -5 leaves 94 against 94")


def test_a_value_that_is_read_once() -> None:
    assert [value(word) for word in ("eth0", "a b", "@web1", "#")] == ["eth0", '"a b"', '"@web1"', '"#"']


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret \nmore\n")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read it") as caught:
        read_secret(file, "[vrrp] password_file")
    assert "secret" not in str(caught.value)
    file.chmod(0o600)
    assert read_secret(file, "[vrrp] password_file") == "secret "
    file.write_text("\nx")
    with pytest.raises(ConfigError, match="empty"):
        read_secret(file, "x")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"no regular file|cannot be read"):
            read_secret(path, "x")


# on real hosts


def put_agent(host: Host, state: str = "/var/lib/ngxsync") -> None:
    """A command in the agent's place, root's own, that writes down how it was called."""
    command = host.path(f"{state}/agent/ngxsync-agent")
    command.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >/run/"$1".said\n')
    command.chmod(0o700)
    if state == "/var/lib/ngxsync":
        host.path("/usr/local/sbin/ngxsync-agent").symlink_to(f"{state}/agent/ngxsync-agent")


def test_keepalived_accepts_each_variant_of_both_hosts(pair: Pair) -> None:
    host = pair.web1
    put_agent(host)
    for name, (vrrp, password) in VARIANTS.items():
        for text in rendered(config_of(vrrp), password=password):
            file = host.path("/run/keepalived.conf")
            file.write_text(text)
            done = host.run(["keepalived", "--config-test", "-f", "/run/keepalived.conf", "-l"], check=False)
            assert (done.returncode, done.stdout + done.stderr) == (0, ""), f"{name}\n{text}"


ODD = '/srv/it\'s a $_PWD ${_PWD} #1 !2 {x} "q" \\t %s ~SEQ ä'


@pytest.mark.parametrize("notify", ["script", "fifo"])
def test_what_keepalived_runs_is_what_was_meant(pair: Pair, notify: str) -> None:
    """Odd paths, by keepalived's own parser: its check and its notification say how they were called."""
    host = pair.web1
    put_agent(host, f"{ODD} state")
    more = f"[nginx]\nroot = {ODD}\n[ngxsync]\nstate_dir = {ODD} state\n"
    config = config_of(f"check_url = http://127.0.0.1/a?b=$c&d='e'\nnotify = {notify}", more=more)
    host.path("/run/keepalived.conf").write_text(rendered(config)[0], encoding="utf-8")
    argv = ["keepalived", "-n", "-l", "-f", "/run/keepalived.conf"]
    with host.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        said = {name: host.path(f"/run/{name}.said") for name in ("check-nginx", "notify")}
        try:
            for name, file in said.items():
                wait_until(lambda file=file: file.exists() and file.read_text(), f"keepalived ran {name}")  # type: ignore[misc]
        finally:
            host.signal_to(process, 15)
    asked = ["check-nginx", "--root", ODD, "--url", "http://127.0.0.1/a?b=$c&d='e'"]
    assert said["check-nginx"].read_text("utf-8").splitlines() == asked
    told = said["notify"].read_text("utf-8").splitlines()
    by = {"script": ["INSTANCE", "ngxsync"], "fifo": ["--fifo", "/run/ngxsync-vrrp.fifo"]}[notify]
    assert told[:7] == ["notify", "--vip", "192.0.2.100", "--root", ODD, *by]


def test_the_command_writes_both_files_for_root_alone(pair: Pair) -> None:
    host = pair.web1
    config = PEER.format("web1", "192.0.2.1", 150, "eth0") + PEER.format("web2", "192.0.2.2", 100, "eth0")
    config += "[vrrp]\nvip = 192.0.2.100/24\nvirtual_router_id = 88\npassword_file = /etc/ngxsync/password\n"
    host.path("/etc/ngxsync/config.ini").write_text(config)
    host.path("/etc/ngxsync/password").write_text("s3cr3t\n")
    host.path("/etc/ngxsync/password").chmod(0o644)
    refused = pair.ngxsync("keepalived", "render")
    assert refused.returncode == 2
    assert "chmod 600 /etc/ngxsync/password" in refused.stderr

    host.path("/etc/ngxsync/password").chmod(0o600)
    done = pair.ngxsync("keepalived", "render", "--dir", "/run/pair")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "warning: a failed check of web1 moves nothing to web2: weight -5 leaves 145" in done.stderr
    assert "note: /usr/local/sbin/ngxsync-agent is not on this host yet" in done.stderr
    for name in ("web1", "web2"):
        file = host.path(f"/run/pair/{name}.conf")
        assert file.stat().st_mode & 0o777 == 0o600
        assert f"router_id {name}\n" in file.read_text()
        assert "auth_pass s3cr3t\n" in file.read_text()
    own = pair.ngxsync("keepalived", "render")
    assert own.stdout == host.path("/run/pair/web1.conf").read_text()
    for arguments in (["web3"], ["web1", "--dir", "/run/pair"]):
        refused = pair.ngxsync("keepalived", "render", *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")

"""config.ini: what it says, every problem of it at once, and the example that documents it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxsync.core.config import Config, NginxConfig, PeerConfig, SyncConfig, load_config
from ngxsync.core.configtext import render_config
from ngxsync.core.cronfields import check_fields
from ngxsync.core.errors import ConfigError
from ngxsync.core.inifile import parse_ini
from ngxsync.core.options import PEER, SECTIONS
from ngxsync.core.pairoptions import KINDS, PORTS, MailConfig, VrrpConfig
from ngxsync.edges.configfile import read_config

EXAMPLE = Path(__file__).parent.parent / "config.example.ini"
MINIMAL = "[peer web2]\nhost = 192.168.5.12\nidentity = /etc/ngxsync/id_ed25519\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(text, "c.ini")
    assert caught.value.exit_status == 2
    return caught.value.message.what.splitlines()[1:]


def test_minimal_file_gives_the_defaults_of_the_design() -> None:
    config = load_config(MINIMAL, "c.ini")
    assert config.nginx == NginxConfig(
        root="/usr/local/nginx",
        binary="auto",
        conf="/usr/local/nginx/conf/nginx.conf",
        reload="SIGHUP",
        reload_when="auto",
        content=("/usr/local/nginx/html",),
        prove_timeout_s=None,
        rehearse="overlay",
    )
    assert config.sync == SyncConfig(
        trees=("/usr/local/nginx",),
        exclude=(),
        on_change=True,
        settle_s=0.2,
        max_wait_s=5.0,
        check_every_s=600.0,
        schedule="30 3 * * *",
        max_delete_pct=30.0,
        on_drift="heal",
        follow="saved",
        soak_s=0.0,
        keep_runs=20,
        keep_for_s=14 * 86400.0,
        keep_size_bytes=2 << 30,
    )
    assert config.peers == (
        PeerConfig(
            name="web2",
            host="192.168.5.12",
            port=22,
            user="root",
            identity=Path("/etc/ngxsync/id_ed25519"),
            known_hosts=Path("/etc/ngxsync/known_hosts"),
            jump="",
            state_dir="/var/lib/ngxsync",
            exclude=(),
            connect_timeout_s=5.0,
            probe="",
            reload="SIGHUP",
            prove_timeout_s=None,
            rehearse="overlay",
        ),
    )
    assert (config.state_dir, config.log_format, config.file) == (Path("/var/lib/ngxsync"), "text", "c.ini")


def test_a_peer_overrides_what_it_may_and_takes_the_rest_from_nginx() -> None:
    text = """[nginx]
root = /etc/nginx
conf = nginx.conf
prove_timeout = 1m
rehearse = live
[ngxsync]
state_dir = /srv/state
[peer web2]
host = web2
identity = /k
reload = systemctl reload nginx
rehearse = overlay
[peer web3]
host = web3
identity = /k
prove_timeout = 1500ms
state_dir = /other
"""
    config = load_config(text, "c.ini")
    web2, web3 = config.peers
    assert (web2.reload, web2.prove_timeout_s, web2.rehearse) == ("systemctl reload nginx", 60.0, "overlay")
    assert (web3.reload, web3.prove_timeout_s, web3.rehearse) == ("SIGHUP", 1.5, "live")
    assert (web2.state_dir, web3.state_dir) == ("/srv/state", "/other")
    assert config.nginx.conf == "/etc/nginx/nginx.conf"


def test_no_switches_off_and_lists_are_one_a_line() -> None:
    text = MINIMAL + (
        "[sync]\non_change = no\ncheck_every = no\nschedule = no\nmax_delete = no\n"
        "trees = /usr/local/nginx\n  # a comment between\n\n  /etc/letsencrypt/live\nexclude =\n  /a b/\n  !*.pid\n"
    )
    sync = load_config(text, "c.ini").sync
    assert (sync.on_change, sync.check_every_s, sync.schedule, sync.max_delete_pct) == (False, None, None, None)
    assert sync.trees == ("/usr/local/nginx", "/etc/letsencrypt/live")
    assert sync.exclude == ("/a b/", "!*.pid")


def test_every_problem_is_told_at_once_with_its_line() -> None:
    text = """stray
[nginx]
roots = /a
root = relative
reload: x
[sync]
settle = soon
exclude =
    [a
schedule = 1 2 3
Max_Wait = 2s
[sinc]
[peer web2]
exclude = !a
[peer web3]
host = h
identity = /k
[peer web3]
port = 99
port = 98
"""
    found = problems(text)
    places = [line.split(": ", 2)[:2] for line in found]
    assert [place for place, _ in places] == [
        f"c.ini:{number}" for number in (1, 3, 4, 5, 7, 8, 10, 11, 12, 13, 13, 14, 18, 20)
    ]
    assert found[1] == "c.ini:3: [nginx] roots: unknown option, did you mean root?"
    assert found[7] == "c.ini:11: [sync] Max_Wait: unknown option, did you mean max_wait?"
    assert found[8] == "c.ini:12: [sinc]: unknown section, did you mean sync?"
    assert found[9:11] == [
        "c.ini:13: [peer web2] host: it is missing, and required",
        "c.ini:13: [peer web2] identity: it is missing, and required",
    ]
    assert found[12] == "c.ini:18: [peer web3] is there twice, first in line 15, allowed is one"
    assert found[13] == "c.ini:20: [peer web3] port: it is set twice, first in line 19, allowed is once"


def test_error_says_what_where_state_and_next() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("[sync]\nsettle = soon\n" + MINIMAL, "/etc/ngxsync/config.ini")
    assert str(caught.value) == (
        "/etc/ngxsync/config.ini: 1 problem in the configuration\n"
        "/etc/ngxsync/config.ini:2: [sync] settle: 'soon' is no duration, allowed is a number with ms, s, m, h or d, "
        "e.g. 200ms or 10m\n"
        "  now: nothing was started and nothing changed\n"
        "  next: mend these lines"
    )


WRONG_VALUES = [
    ("nginx", "root = /a/../b", "absolute"),
    ("nginx", "root = /a/", "slash at its end"),
    ("nginx", "root = /", "whole machine"),
    ("nginx", "root =", "it is empty"),
    ("nginx", "binary = nginx", "allowed is auto or an absolute path"),
    ("nginx", "conf = ../nginx.conf", "no path"),
    ("nginx", "reload = sighup", "allowed is SIGHUP or a command"),
    ("nginx", "reload = no", "allowed is SIGHUP or a command"),
    ("nginx", "reload = a\n  b", "more than one line"),
    ("nginx", "reload_when = never", "allowed is auto or always"),
    ("nginx", "content = no", "reload_when = always"),
    ("nginx", "content = /srv/www", "lies in no tree"),
    ("nginx", "prove_timeout = no", "no duration"),
    ("nginx", "prove_timeout = 0s", "more than 0"),
    ("nginx", "rehearse = none", "allowed is overlay or live"),
    ("sync", "trees = nginx", "absolute"),
    ("sync", "trees = /", "whole machine"),
    ("sync", "trees = /a, /b", "one a line"),
    ("sync", "trees = /a,/b", "one a line"),
    ("sync", "trees = /a\n  /a/b", "/a/b lies in /a"),
    ("sync", "trees = /a\n  /a", "there twice"),
    ("sync", "exclude = [[:alpha:]]", "not supported"),
    ("sync", "exclude = #x\n  [z-a]", "begins with #"),
    ("sync", "on_change = true", "allowed is yes or no"),
    ("sync", "settle = 200", "no duration"),
    ("sync", "settle = 200ms  ; quiet time", "a comment needs a line of its own"),
    ("sync", "settle = -1s", "no duration"),
    ("sync", "settle = 6s", "longer than max_wait"),
    ("sync", "max_wait = 100ms", "longer than max_wait"),
    ("sync", "max_wait = 31s", "31s is longer than a peer that is ready may be kept waiting, allowed is at most 30s"),
    ("sync", "check_every = 10 m", "or no"),
    ("sync", "check_every = 999999d", "at most 365d"),
    ("sync", "schedule = @daily", "it has 1 fields, allowed are five: minute, hour,"),
    ("sync", "schedule = 0 30 3 * * *", "it has 6 fields"),
    ("sync", "schedule = 0 24 * * *", "hour has '24', allowed are *, 0-23"),
    ("sync", "schedule = 5/15 * * * *", "minute has '5/15'"),
    ("sync", "schedule = 0 0 L * *", "day of month has 'L'"),
    ("sync", "schedule = 0 0 * * fri-mon", "day of week has 'fri-mon', allowed are *, 0-7 or sun-sat"),
    ("sync", "schedule = * * 31 2,4 *", "31 never comes in month 2,4"),
    ("sync", "max_delete = 30", "0% to 100%, or no"),
    ("sync", "max_delete = 101%", "0% to 100%, or no"),
    ("sync", "on_drift = ignore", "allowed is heal or hold"),
    ("sync", "follow = yes", "allowed is saved or running"),
    ("sync", "soak = 0", "'0' is no duration"),
    ("sync", "soak = -1s", "'-1s' is no duration"),
    ("sync", "soak = no", "is no duration"),
    ("sync", "keep_runs = 0", "'0' is no number of runs, allowed is 1 to 99999"),
    ("sync", "keep_runs = 14d", "is no number of runs"),
    ("sync", "keep_for = 20", "'20' is no duration"),
    ("sync", "keep_for = no", "is no duration"),
    ("sync", "keep_size = 2", "'2' is no size, allowed is a whole number with K, M or G, e.g. 500M or 2G"),
    ("sync", "keep_size = 1.5G", "is no size"),
    ("sync", "keep_size = 0M", "is no size"),
    ("peer b", "host = root@web2", "no host"),
    ("peer b", "host = -oProxyCommand=x", "no host"),
    ("peer b", "port = ssh", "1 to 65535"),
    ("peer b", "port = 65536", "1 to 65535"),
    ("peer b", "user = -x", "no user"),
    ("peer b", "identity = ~/.ssh/id", "absolute"),
    ("peer b", "identity = /usr/local/nginx/key", "is not sent"),
    ("peer b", "state_dir = /usr/local/nginx", "is not sent"),
    ("peer b", "jump = a,b", "no jump host"),
    ("peer b", "exclude = !/logs/**", "allowed are patterns that add to [sync] exclude"),
    ("peer b", "connect_timeout = 5", "no duration"),
    ("peer b", "probe = ftp://x/", "no URL"),
    ("peer b", "probe = http:///x", "no URL"),
    ("peer b", "priority = 255", "allowed is 1 to 254"),
    ("peer b", "interface = eth 0", "no interface"),
    ("vrrp", "vip = 192.0.2.300", "no address"),
    ("vrrp", "vip = 127.0.0.1", "cannot move between hosts"),
    ("vrrp", "vip = 192.0.2.1\n  192.0.2.1/24", "192.0.2.1 is there twice"),
    ("vrrp", "require_vip = maybe\nvip = 192.0.2.1", "allowed is yes or no"),
    ("vrrp", "virtual_router_id = 0\nvip = 192.0.2.1", "allowed is 1 to 255"),
    ("vrrp", "check_weight = -254\nvip = 192.0.2.1", "allowed is -253 to 253"),
    ("vrrp", "check_fall = 0\nvip = 192.0.2.1", "allowed is 1 to 99"),
    ("vrrp", "notify = mail\nvip = 192.0.2.1", "allowed is script or fifo"),
    ("vrrp", "password_file = /usr/local/nginx/x\nvip = 192.0.2.1", "is not sent"),
    ("mail", "to = a b@example.org", "no mail address"),
    ("mail", "from = a@b@c", "no mail address"),
    ("mail", "to = ops:night@example.org", "no mail address"),
    ("mail", "to = a(b@example.org", "no mail address"),
    ("mail", "security = ssl", "allowed is starttls or tls or none"),
    ("mail", "on = everything", "allowed are failures, drift, roles"),
    ("mail", "on = drift, drift", "there twice"),
    ("mail", "remind_every = 0s", "or no"),
    ("mail", "smtp_port = 0", "1 to 65535"),
    ("mail", "smtp_host = smtp.example.org:587", "port have their own options"),
    ("mail", "to = a@example.org, b@example.org", "one a line"),
    ("peer b", "setle = 3s", "unknown option here, did you mean settle in [sync]?"),
    ("nginx", "on_drift = hold", "unknown option here, did you mean on_drift in [sync]?"),
    ("ngxsync", "state_dir = /usr/local/nginx/state", "is not sent"),
    ("ngxsync", "log_format = xml", "allowed is text or json"),
]


@pytest.mark.parametrize(("section", "line", "told"), WRONG_VALUES, ids=[line for _, line, _ in WRONG_VALUES])
def test_a_wrong_value_is_one_problem_at_its_line(section: str, line: str, told: str) -> None:
    missing = {"host = b\n", "identity = /b\n"} if section == "peer b" else set()
    others = "".join(text for text in sorted(missing) if text.split()[0] != line.split()[0])
    found = problems(MINIMAL + f"\n[{section}]\n{line}\n{others}")
    option = line.split()[0]
    assert len(found) == 1
    assert found[0].startswith(f"c.ini:6: [{section}] {option}: ")
    assert told in found[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "c.ini:1: [peer NAME]: it is missing"),
        ("[peer]\nhost = a\nidentity = /k\n", "c.ini:1: [peer]: it has no name"),
        ("[peer ../x]\nhost = a\nidentity = /k\n", "c.ini:1: [peer ../x]: '../x' is no name"),
        (
            "[smtp]\nto = a\n" + MINIMAL,
            "c.ini:1: [smtp]: unknown section, allowed are nginx, sync, vrrp, mail, ngxsync",
        ),
        ("[vrrp]\nadvert_int = 2s\n" + MINIMAL, "c.ini:1: [vrrp] vip: it is missing, and advert_int means nothing"),
        ("[DEFAULT]\nsettle = 1s\n" + MINIMAL, "c.ini:1: [DEFAULT]: unknown section"),
        (
            MINIMAL + MINIMAL.replace("web2", "web3"),
            "c.ini:5: [peer web3] host: 192.168.5.12 is the host of [peer web2] too",
        ),
        (
            MINIMAL + "[vrrp]\nvip = 192.168.5.12/24\n",
            "c.ini:2: [peer web2] host: 192.168.5.12 is the VIP, which moves, allowed is an address that stays",
        ),
    ],
)
def test_a_wrong_section_is_one_problem_at_its_line(text: str, told: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(told)


def test_two_peers_may_share_a_host_on_different_ports() -> None:
    text = MINIMAL + MINIMAL.replace("web2", "web3") + "port = 2222\n"
    assert [peer.port for peer in load_config(text, "c.ini").peers] == [22, 2222]


words = st.from_regex(r"[a-z][a-z0-9_.]{0,8}", fullmatch=True).filter(
    lambda word: word not in ("no", "hup", "none", "sighup")
)
paths = st.lists(words, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
seconds = st.integers(1, 365 * 86400 * 1000).map(lambda ms: ms / 1000)
waits = st.integers(1, 30_000).map(lambda ms: ms / 1000)
patterns = st.lists(st.from_regex(r"/?[a-z*?]{1,6}( [a-z])?/?", fullmatch=True), unique=True, max_size=3).map(tuple)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    root = "/tree" + draw(paths)
    nginx = NginxConfig(
        root=root,
        binary=draw(st.just("auto") | paths),
        conf=root + draw(paths),
        reload=draw(st.just("SIGHUP") | words),
        reload_when=draw(st.sampled_from(["auto", "always"])),
        content=tuple(draw(st.lists(paths.map(lambda path: root + path), unique=True, min_size=1, max_size=2))),
        prove_timeout_s=draw(st.none() | seconds),
        rehearse=draw(st.sampled_from(["overlay", "live"])),
    )
    settle, max_wait = sorted(draw(st.tuples(waits, waits)))
    sync = SyncConfig(
        trees=(root, "/second" + draw(paths)),
        exclude=draw(patterns),
        on_change=draw(st.booleans()),
        settle_s=settle,
        max_wait_s=max_wait,
        check_every_s=draw(st.none() | seconds),
        schedule=draw(st.sampled_from([None, "30 3 * * *", "*/5 0-6 * 1,7 0"])),
        max_delete_pct=draw(st.none() | st.integers(0, 100).map(float)),
        on_drift=draw(st.sampled_from(["heal", "hold"])),
        follow=draw(st.sampled_from(["saved", "running"])),
        soak_s=draw(st.just(0.0) | seconds),
        keep_runs=draw(st.integers(1, 99999)),
        keep_for_s=draw(seconds),
        keep_size_bytes=draw(st.integers(1, 999_999_999)) << 10,
    )
    names = draw(st.lists(words, unique=True, min_size=1, max_size=3))
    peers = tuple(draw(peer_configs(name, nginx.prove_timeout_s)) for name in names)
    state_dir, log_format = Path("/state" + draw(paths)), draw(st.sampled_from(["text", "json"]))
    vrrp, mail, command = draw(st.just(VrrpConfig()) | vrrp_configs()), draw(mail_configs()), draw(st.just("") | words)
    return Config(nginx, sync, peers, state_dir, log_format, "c.ini", vrrp, mail, command)


@st.composite
def vrrp_configs(draw: st.DrawFn) -> VrrpConfig:
    vips = st.integers(1, 254).map("192.0.2.{}".format) | st.integers(1, 254).map("2001:db8::{}/64".format)
    return VrrpConfig(
        vips=tuple(draw(st.lists(vips, unique=True, min_size=1, max_size=3))),
        require_vip=draw(st.booleans()),
        virtual_router_id=draw(st.integers(0, 255)),
        advert_int_s=draw(seconds),
        password_file=draw(st.none() | st.just(Path("/password"))),
        unicast=draw(st.booleans()),
        nopreempt=draw(st.booleans()),
        preempt_delay_s=draw(st.just(0.0) | seconds),
        check_interval_s=draw(seconds),
        check_weight=draw(st.integers(-253, 253)),
        check_fall=draw(st.integers(1, 99)),
        check_rise=draw(st.integers(1, 99)),
        check_url=draw(st.sampled_from(["", "http://127.0.0.1/health"])),
        notify=draw(st.sampled_from(["script", "fifo"])),
    )


@st.composite
def mail_configs(draw: st.DrawFn) -> MailConfig:
    return MailConfig(
        to=tuple(draw(st.lists(words.map("{}@example.org".format), unique=True, max_size=2))),
        sender=draw(st.sampled_from(["", "web@example.org"])),
        smtp_host=draw(words),
        smtp_port=draw(st.integers(1, 65535)),
        security=draw(st.sampled_from(sorted(PORTS))),
        user=draw(st.just("") | words),
        password_file=draw(st.none() | st.just(Path("/mail-password"))),
        ca_file=draw(st.none() | st.just(Path("/ca.pem"))),
        on=tuple(draw(st.lists(st.sampled_from(KINDS), unique=True, min_size=1))),
        remind_every_s=draw(st.none() | seconds),
    )


@st.composite
def peer_configs(draw: st.DrawFn, name: str, prove_timeout_s: float | None) -> PeerConfig:
    return PeerConfig(
        name=name,
        host=name,
        port=draw(st.integers(1, 65535)),
        user=draw(words),
        identity=Path("/key" + draw(paths)),
        known_hosts=Path(draw(paths)),
        jump=draw(st.sampled_from(["", "bastion", "me@bastion:2222", "[fe80::1]:22"])),
        state_dir="/state" + draw(paths),
        exclude=draw(patterns),
        connect_timeout_s=draw(seconds),
        probe=draw(st.sampled_from(["", "http://127.0.0.1:8080/health?x=%20", "https://[::1]/"])),
        reload=draw(st.sampled_from(["SIGHUP", "systemctl reload nginx"])),
        prove_timeout_s=draw(seconds) if prove_timeout_s is not None else draw(st.none() | seconds),
        rehearse=draw(st.sampled_from(["overlay", "live"])),
        interface=draw(st.sampled_from(["", "eth0", "bond0.7"])),
        priority=draw(st.integers(0, 254)),
    )


@given(configs())
@settings(max_examples=60, deadline=None)
def test_a_rendered_configuration_is_read_as_the_same(config: Config) -> None:
    assert load_config(render_config(config), "c.ini") == config


ini_lines = st.lists(
    st.text(st.sampled_from("[]ab= #;\t:\r"), max_size=8)
    | st.sampled_from(["[a]", "[b]", "a = b", " b", "", "# c", "  a = b"]),
    max_size=12,
)


@given(ini_lines)
@settings(max_examples=300, deadline=None)
def test_every_option_that_is_read_has_a_line_that_sets_it(lines: list[str]) -> None:
    for section in parse_ini("\n".join(lines)).sections.values():
        assert section.lines.keys() == section.values.keys()
        for option, number in section.lines.items():
            assert lines[number - 1].strip().startswith(option)


def field(lowest: int, highest: int, *names: str) -> st.SearchStrategy[str]:
    number = st.integers(lowest - 1, highest + 1).map(str) | st.sampled_from([str(lowest), *names])
    reach = st.tuples(number, number).map("-".join) | st.just("*")
    part = number | reach | st.tuples(reach, st.integers(0, 70).map(str)).map("/".join)
    return st.just("*") | st.lists(part, min_size=1, max_size=2).map(",".join)


@given(
    st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12, "Feb", "dec"), field(0, 7, "sun", "FRI")).map(
        " ".join
    )
)
@settings(max_examples=400, deadline=None)
def test_a_schedule_is_taken_exactly_where_the_scheduler_can_run_it(fields: str) -> None:
    try:
        CronSim(fields, datetime(2000, 1, 1))
        can_run = True
    except CronSimError:
        can_run = False
    assert (check_fields(fields) is None) == can_run


def documented() -> tuple[dict[str, dict[str, str]], dict[str, set[str]]]:
    """What the example shows in each section: options with a default, and those "for instance"."""
    defaults: dict[str, dict[str, str]] = {}
    others: dict[str, set[str]] = {}
    section = ""
    for line in EXAMPLE.read_text().splitlines():
        header = re.fullmatch(r"\[(\w+)(?: \w+)?\]", line)
        section = header[1] if header else section
        shown = re.fullmatch(r"(#|#   |)(\w+) = (.*)", line)
        if shown and shown[1] == "#":
            defaults.setdefault(section, {})[shown[2]] = shown[3]
        elif shown:
            others.setdefault(section, set()).add(shown[2])
    return defaults, others


@pytest.mark.parametrize(("section", "options"), [*SECTIONS.items(), ("peer", PEER)])
def test_the_example_shows_every_option_with_the_default_that_the_code_has(section: str, options: dict) -> None:
    defaults, others = documented()
    assert defaults[section] == {name: option.default for name, option in options.items() if option.default is not None}
    assert others.get(section, set()) == {name for name, option in options.items() if option.default is None}


def test_the_example_loads_and_its_defaults_are_what_it_means_without_them() -> None:
    text = EXAMPLE.read_text()
    as_shipped = load_config(text, "c.ini")
    assert as_shipped == load_config(re.sub(r"(?m)^#(\w+ = )", r"\1", text), "c.ini")
    assert as_shipped == load_config(MINIMAL, "c.ini")


def test_the_examples_for_instance_are_valid_too() -> None:
    text = re.sub(r"(?m)^#   ( *)(?=\w+ = |(?:    )?[/!]\S+$)", r"\1", EXAMPLE.read_text())
    config = load_config(text, "c.ini")
    assert config.sync.trees == ("/usr/local/nginx", "/etc/letsencrypt/live", "/etc/letsencrypt/archive")
    assert config.sync.exclude == ("/html/uploads/", "!*~")
    assert (config.peers[0].jump, config.peers[0].rehearse) == ("admin@bastion:22", "live")


def test_the_example_lists_the_built_in_patterns() -> None:
    from ngxsync.core.excludes import BUILTIN

    block = EXAMPLE.read_text().split("added to the built-in ones:\n")[1].split("# and to what")[0]
    assert set(BUILTIN) <= set(block.split())


def test_reading_a_file_tells_what_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "config.ini"
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_config(file)
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory\n.*\n  next: name a file in it"):
        read_config(tmp_path)
    file.write_bytes(MINIMAL.encode() + b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"config\.ini:4: a byte that is not UTF-8"):
        read_config(file)
    file.write_text("\ufeff" + MINIMAL)
    assert read_config(file) == replace(load_config(MINIMAL, ""), file=str(file))


def test_importing_the_configuration_imports_nothing_heavy() -> None:
    heavy = "'pathspec', 'cronsim', 'rich', 'click'"
    code = f"import sys, ngxsync.core.config; print(*(name for name in ({heavy}) if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

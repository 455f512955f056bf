"""check-nginx: it fails only where nginx fails, starts what is dead within bounds, and is in time whatever hangs (real nginx)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ngxsync.agent.liveness import Asked
from ngxsync.agent.loopback import Odd, ask, parse
from ngxsync.agent.nginxunit import _EXEC
from tests.agent import Agent, File, agent_argv
from tests.hosts import Host, wait_until
from tests.installed import AGENT, PYTHON, STATE, check_nginx, install_agent
from tests.mailserver import make_certificate
from tests.moments import JOURNAL, kill_run, stop_at
from tests.pair import NGINX_CONF, ROOT, Pair

NOTES = "/run/ngxsync-agent"
NOTE = f"{NOTES}/usr-local-nginx-conf-nginx.conf"
CONF = f"{ROOT}/conf/nginx.conf"
HOLD = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def host(pair: Pair) -> Host:
    install_agent(pair.web2)
    return pair.web2


def check(host: Host, *arguments: str, interval_s: float = 30.0) -> tuple[int, str]:
    """(exit status, what it says), in less time than keepalived gives it; where time is not the matter it has plenty."""
    began = time.monotonic()
    done = check_nginx(host, "--interval", f"{interval_s:g}", *arguments)
    assert time.monotonic() - began < interval_s, "keepalived would have ended it"
    assert done.stdout == ""
    return done.returncode, done.stderr


def tries(host: Host) -> int:
    file = host.path(f"{NOTE}.tries")
    return len(json.loads(file.read_text())) if file.exists() else 0


def a_minute_passes(host: Host) -> None:
    file = host.path(f"{NOTE}.tries")
    file.write_text(json.dumps([[at - 61, *rest] for at, *rest in json.loads(file.read_text())]))


def is_started(host: Host) -> bool:
    return host.nginx_main() is not None


# the arguments


def test_wrong_arguments_are_told_and_left_out() -> None:
    asked = Asked(["--interval=x", "--rot", "/x", "--conf", "site.conf", "--root=relative", "--url"])
    assert (asked.root, asked.conf, asked.interval_s, asked.url) == (ROOT, f"{ROOT}/site.conf", 2.0, "")
    assert len(asked.problems) == 5, asked.problems
    assert Asked(["--root", "/etc/nginx", "--conf", "nginx.conf", "--interval", "1s"]).conf == "/etc/nginx/nginx.conf"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1/health", (False, "127.0.0.1", 80, "127.0.0.1", "/health")),
        ("https://[::1]:8443/a?b#c", (True, "::1", 8443, "[::1]:8443", "/a?b")),
        ("http://www.example.com", (False, "127.0.0.1", 80, "www.example.com", "/")),
    ],
)
def test_a_url_is_asked_on_this_host_alone(url: str, expected: tuple[object, ...]) -> None:
    assert parse(url) == expected


@pytest.mark.parametrize(
    "url", ["ftp://x/", "http:///", "http://127.0.0.1:x/", "http://203.0.113.9/", "http://a b/", "x"]
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(Odd):
        parse(url)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_old_nginx_is_spoken_to_as_well(tmp_path: Path) -> None:
    """It asks itself: what browsers and this host's policy think of TLS 1.0 is no failure of nginx."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(tmp_path))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.options |= ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TLSv1_3
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        assert ask(f"https://127.0.0.1:{listener.getsockname()[1]}/", 5.0) == ""
        thread.join()


def test_what_systemd_says_of_an_exec_start() -> None:
    text = (
        "{ path=/usr/sbin/nginx ; argv[]=/usr/sbin/nginx -g daemon on; master_process on; ; "
        "ignore_errors=no ; start_time=[n/a] }"
    )
    assert _EXEC.findall(text) == [("/usr/sbin/nginx", "/usr/sbin/nginx -g daemon on; master_process on;")]


# alive, whatever else is broken


def test_alive_and_known_it_reads_proc_alone(host: Host) -> None:
    assert check(host) == (0, "")
    looked = host.run([PYTHON, "-I", "-S", "-X", "importtime", f"{STATE}/agent/current", "check-nginx"]).stderr
    ours = set(re.findall(r"ngxsync_agent(?:\.\w+)?", looked))
    assert ours == {"ngxsync_agent", "ngxsync_agent.liveness"}
    assert not set(re.findall(r"\| +(\w+)$", looked, re.M)) & {"json", "re", "typing", "subprocess", "signal", "socket"}


def spoil_note(host: Host, content: str) -> None:
    host.path(f"{NOTE}.nginx").write_text(content)


def note_of(host: Host) -> list[str]:
    return host.path(f"{NOTE}.nginx").read_text().split("\n")


NOTES_SPOILT: dict[str, Callable[[Host], object]] = {
    "garbage": lambda host: host.path(f"{NOTE}.nginx").write_bytes(b"\xff\0" * 9000),
    "no numbers": lambda host: spoil_note(host, "\n".join([*note_of(host)[:4], "x", "y", *note_of(host)[6:]])),
    "process 1": lambda host: spoil_note(host, "\n".join([*note_of(host)[:4], "1", "1", *note_of(host)[6:]])),
    "of somebody else": lambda host: os.chown(host.path(f"{NOTE}.nginx"), 65534, 65534),
    "a pipe": lambda host: host.run(["sh", "-c", f"rm {NOTE}.nginx; mkfifo {NOTE}.nginx"]),
    "a folder": lambda host: host.run(["sh", "-c", f"rm {NOTE}.nginx; mkdir {NOTE}.nginx"]),
    "read-only": lambda host: host.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", NOTES]),
    "full": lambda host: host.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", NOTES]),
}


@pytest.mark.parametrize("how", NOTES_SPOILT)
def test_notes_that_are_spoilt_move_no_vip_and_hide_no_death(host: Host, how: str) -> None:
    assert check(host) == (0, "")
    NOTES_SPOILT[how](host)
    assert check(host)[0] == 0
    host.stop_nginx()
    status, said = check(host)
    if how in ("read-only", "full"):  # tries that nobody counts would be a loop
        assert (status, is_started(host)) == (1, False)
        assert "it is not started, since /run/ngxsync-agent cannot be written" in said
    else:
        assert (status, is_started(host)) == (0, True), said


FAULTS: dict[str, Callable[[Path], object]] = {
    "the slow look": lambda agent: (agent / "ngxsync_agent/verdict.py").write_text("raise RuntimeError('a bug')\n"),
    "in the process that looks": lambda agent: (agent / "ngxsync_agent/serving.py").write_text(
        "examine = NONE = Found = 0\n"
    ),
    "its first file": lambda agent: (agent / "__main__.py").write_text("def (\n"),
    "an emptied file": lambda agent: (agent / "__main__.py").write_text(""),
    "the quick look": lambda agent: (agent / "ngxsync_agent/liveness.py").write_text("no Python\n"),
    "no interpreter": lambda agent: (agent.parent / "ngxsync-agent").write_text(
        (agent.parent / "ngxsync-agent").read_text().replace(f"'{PYTHON}'", "'/nowhere/python3'")
    ),
}


@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_of_ours_moves_no_vip_and_hides_no_death(host: Host, where: str) -> None:
    agent = host.path(f"{STATE}/agent") / os.readlink(host.path(f"{STATE}/agent/current"))
    FAULTS[where](agent)
    for cache in (agent / "ngxsync_agent/__pycache__").glob("*"):
        cache.unlink()
    status, said = check(host)
    assert status == 0
    assert "fault of ngxsync" in said
    host.stop_nginx()
    assert check(host)[0] == 1


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&- 2>&-"])
def test_closed_descriptors_hide_nothing(host: Host, closed: str) -> None:
    words = f"{AGENT} check-nginx --interval 10"
    assert host.run(["/bin/sh", "-c", f"{words} {closed}"], check=False).returncode == 0
    silent = host.run(["/bin/sh", "-c", f"{words} --url http://127.0.0.1:9/ {closed}"], check=False)
    assert silent.returncode == 1


def test_wrong_places_and_a_foreign_nginx(host: Host) -> None:
    """A configuration that is not there says nothing about the nginx that serves."""
    status, said = check(host, "--root", "/srv/nowhere", "--bad", "--binary", "/nowhere/nginx")
    assert status == 0
    assert "--bad is no option" in said
    assert "/srv/nowhere/conf/nginx.conf is not there" in said
    assert check(host, "--url", "http://203.0.113.9/")[0] == 0
    host.stop_nginx()
    assert check(host, "--root", "/srv/nowhere")[0] == 1


def test_without_a_main_process_it_is_alive(host: Host) -> None:
    host.stop_nginx()
    host.path(CONF).write_text("master_process off;\n" + NGINX_CONF)
    host.run([*("/usr/sbin/nginx", "-p", ROOT, "-c", "conf/nginx.conf")])
    wait_until(lambda: host.path(f"{ROOT}/logs/nginx.pid").exists(), "it wrote its pid")
    for _ in range(2):
        assert check(host) == (0, "")
    assert note_of(host)[6] == "single"
    host.run(["pkill", "-KILL", "-x", "nginx"])
    assert check(host)[0] == 0
    assert host.get("/")[0] == 200


def test_one_that_another_user_runs_is_alive(host: Host) -> None:
    """As a unit with User= and AmbientCapabilities= has it; the configuration is root's."""
    host.stop_nginx()
    host.run(["chown", "-R", "www-data", f"{ROOT}/logs"])
    nginx = ["/usr/sbin/nginx", "-p", ROOT, "-c", "conf/nginx.conf"]
    host.run(
        [
            "setpriv",
            "--reuid=33",
            "--regid=33",
            "--clear-groups",
            "--inh-caps=+net_bind_service",
            "--ambient-caps=+net_bind_service",
            *nginx,
        ]
    )
    wait_until(lambda: len(host.nginx_workers()) == 2, "its workers run")
    for _ in range(2):
        assert check(host) == (0, "")
    assert tries(host) == 0


def test_one_that_was_started_without_an_environment_is_alive(host: Host) -> None:
    """Its title is cut off: what it runs the pid file tells."""
    host.stop_nginx()
    host.run(["env", "-i", "/usr/sbin/nginx", "-p", ROOT, "-c", "conf/nginx.conf"])
    wait_until(lambda: len(host.nginx_workers()) == 2, "its workers run")
    assert host.commands()[host.nginx_main() or 0].endswith("/usr/local/n")
    for _ in range(2):
        assert check(host) == (0, "")


def test_one_that_somebody_else_starts_a_moment_earlier_is_alive(host: Host) -> None:
    """Ours then finds the ports taken, and ends; nginx serves all the same."""
    host.stop_nginx()
    program = host.path("/srv/nginx.sh")
    program.write_text(
        '#!/bin/sh\ncase " $* " in *" -t "* | *" -V "*) ;; *) /usr/sbin/nginx "$@" ;; esac\nexec /usr/sbin/nginx "$@"\n'
    )
    program.chmod(0o755)
    status, said = check(host, "--binary", "/srv/nginx.sh")
    assert (status, "was started by somebody else" in said, host.get("/")[0]) == (0, True, 200), said
    assert check(host, "--binary", "/srv/nginx.sh") == (0, "")


# nginx fails


def test_hung(host: Host) -> None:
    """All its processes stopped; or it lives and does not answer, or answers wrongly."""
    assert check(host, "--url", "http://127.0.0.1/") == (0, "")
    silent = host.socket()
    silent.bind(("127.0.0.1", 8099))
    silent.listen()
    with silent:
        status, said = check(host, "--url", "http://127.0.0.1:8099/", interval_s=5.0)
    assert (status, "did not answer in time" in said) == (1, True)
    status, said = check(host, "--url", "http://127.0.0.1/missing")
    assert (status, "answers 404" in said) == (1, True)
    pids = [str(pid) for pid in host.nginx_pids()]
    main = host.nginx_main()
    host.run(["kill", "-STOP", *pids])
    for arguments in ((), ("--url", "http://127.0.0.1/")):
        status, said = check(host, *arguments)
        assert (status, "its workers are stopped" in said) == (1, True)
    assert "its workers are stopped" in host.path(f"{NOTE}.said").read_text()
    host.run(["kill", "-CONT", *pids])
    assert check(host) == (0, "")
    assert host.nginx_main() == main, "what hangs is not started a second time"
    assert not host.path(f"{NOTE}.said").exists()


def test_dead_it_is_started_by_nobody_s_child_and_not_for_ever(host: Host) -> None:
    for number in range(1, 4):
        host.stop_nginx()
        status, said = check(host)
        assert (status, "nginx was dead and was started" in said) == (0, True)
        assert host.get("/")[0] == 200
        assert tries(host) == number
    main = host.nginx_main()
    assert main is not None
    fields = host.path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()
    assert (fields[1], fields[3]) == ("1", str(main)), "its parent is process 1, its session its own"
    host.stop_nginx()
    status, said = check(host)
    assert (status, is_started(host), tries(host)) == (1, False, 3)
    assert "3 starts within 10 minutes did not help: it ended again each time" in said
    host.path(f"{ROOT}/conf/vhosts/new.conf").write_text("# changed\n")
    assert check(host)[0] == 0, "a changed configuration is a new chance"


def test_one_that_stays_in_the_foreground_is_left_alone_there(host: Host) -> None:
    """What it writes to its standard output for months fills no file that nobody sees."""
    host.stop_nginx()
    host.path(CONF).write_text("daemon off;\n" + NGINX_CONF.replace("logs/access.log", "/dev/stdout"))
    assert "nginx was dead and was started" in check(host)[1]
    assert check(host) == (0, "")
    main = host.nginx_main()
    assert {os.readlink(host.path(f"/proc/{main}/fd/{fd}")) for fd in (0, 1)} == {"/dev/null"}


@pytest.mark.parametrize(("ago_s", "is_helped"), [(300.0, True), (0.0, False)])
def test_what_somebody_else_could_start_has_no_failures_behind_it(host: Host, ago_s: float, is_helped: bool) -> None:
    """A person has mended what no file tells (a port that was taken), and started it."""
    at, same = time.clock_gettime(time.CLOCK_BOOTTIME) - ago_s, hashlib.sha256().hexdigest()[:16]
    host.path(NOTES).mkdir(0o700, exist_ok=True)
    file = host.path(f"{NOTE}.tries")
    file.write_text(json.dumps([[at, "", [], same], [at, "bind() failed", [], same], [at, "bind() failed", [], same]]))
    assert check(host)[0] == 0
    host.stop_nginx()
    assert (check(host)[0] == 0, is_started(host)) == (is_helped, is_helped)
    assert tries(host) == (2 if is_helped else 3), "what ended again by itself still counts"


def test_tries_that_are_none_of_ours_count_for_nothing(host: Host) -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    host.stop_nginx()
    host.path(NOTES).mkdir(0o700, exist_ok=True)
    host.path(f"{NOTE}.tries").write_text(json.dumps([[now, "x", None, 3], [now, 5, [], ""], ["now", "", [], ""]] * 3))
    assert (check(host)[0], is_started(host), tries(host)) == (0, True, 1)


def test_a_configuration_that_fails_its_test_is_not_started(host: Host) -> None:
    agent = Agent(host)
    assert agent.transact(agent.plan({"html/new.html": File("new\n")}))["ok"]
    host.stop_nginx()
    vhost = host.path(f"{ROOT}/conf/vhosts/default.conf")
    good = vhost.read_text()
    vhost.write_text("server {\n    listne 80;\n}\n")
    for number in (1, 2, 2, 3, 3):
        if number == 3:
            a_minute_passes(host)  # before the last try
        status, said = check(host)
        assert (status, is_started(host), tries(host)) == (1, False, number)
        assert f'unknown directive "listne" in {ROOT}/conf/vhosts/default.conf:2' in said
    host.path(f"{NOTE}.tries").unlink()
    assert "next: `ngxsync sync` on web1 sends the accepted one again" in check(host)[1]
    host.path(f"{STATE}/role.json").write_text(
        '{"role": "master", "since": 1, "tenure": "", "vips": [], "instance": ""}'
    )
    host.path(f"{NOTE}.tries").unlink()
    assert "`ngxsync pull --take peer` brings back what the peer accepted" in check(host)[1]
    vhost.write_text(good)
    assert (check(host)[0], is_started(host)) == (0, True)


def test_not_startable(host: Host) -> None:
    """No program; then its port is taken, by workers that were left behind."""
    main, workers = host.nginx_main(), host.nginx_workers()
    host.run(["kill", "-KILL", str(main)])
    status, said = check(host, "--binary", "/usr/local/nginx/sbin/nginx")
    assert (status, "nginx is dead and cannot be run" in said) == (1, True)
    status, said = check(host)
    assert (status, is_started(host)) == (1, False)
    assert "bind() to 0.0.0.0:80 failed (98: Address already in use)" in said
    assert f"`kill -QUIT {' '.join(map(str, sorted(workers)))}`" in said
    host.run(["kill", "-QUIT", *map(str, workers)])
    wait_until(lambda: not host.nginx_pids(), "they are gone")
    assert (check(host)[0], is_started(host)) == (0, True)


def test_a_test_that_hangs_ends_before_the_interval(host: Host) -> None:
    host.stop_nginx()
    host.run(["mkfifo", f"{ROOT}/conf/vhosts/pipe.conf"])
    status, said = check(host, interval_s=4.0)
    assert (status, "a start is under way" in said) == (1, True)
    status, said = check(host, interval_s=4.0)
    assert (status, "a start is under way" in said) == (1, True), "a second one does not begin another"
    assert len([line for line in host.commands().values() if " -t" in line]) == 1
    assert tries(host) == 1


def test_two_at_once_start_once(host: Host) -> None:
    host.stop_nginx()
    both = [
        host.popen([AGENT, "check-nginx", "--interval", "30"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in both]
    assert [status for _, status in ended] == [0, 0], ended
    assert sum("was started" in said for said, _ in ended) == 1
    assert sum(line.startswith("nginx: master") for line in host.commands().values()) == 1
    assert tries(host) == 1


@contextmanager
def held(host: Host, lock: str) -> Iterator[None]:
    """Another process has that lock of the store."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with host.popen([PYTHON, "-c", HOLD, f"{STATE}/peer/{lock}.lock"], **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate()


def test_while_a_run_replaces_files_there_is_no_start(host: Host) -> None:
    host.path(f"{STATE}/peer").mkdir(mode=0o700)
    with held(host, "mixed"):
        assert check(host) == (0, "")
        host.stop_nginx()
        status, said = check(host, interval_s=4.0)
        assert (status, is_started(host), tries(host)) == (1, False, 0)
        assert "replaces files" in said
    assert (check(host)[0], is_started(host)) == (0, True)


def test_what_a_dead_run_left_open_is_undone_before_a_start(host: Host) -> None:
    agent = Agent(host)
    old = {"conf/vhosts/default.conf": "server { listen 80; location /v { return 200 old; } }\n", "html/a": "a\n"}
    assert agent.transact(agent.plan(old))["ok"]
    files = {f"html/n{number}.html": "new\n" for number in range(8)}
    new = {"conf/vhosts/default.conf": "server { listen 80; location /v { return 200 new; } }\n", **files}
    with stop_at("between-exchanges", host, agent_argv("transact"), agent.plan(new)):
        host.stop_nginx()
        kill_run(host)
    assert host.path(JOURNAL).exists()
    with held(host, "transaction"):  # by who is about to undo it; the files are not being replaced at this moment
        status, said = check(host, interval_s=4.0)
        assert (status, is_started(host), tries(host)) == (1, False, 0)
        assert "half done" in said
    status, said = check(host, interval_s=30.0)
    assert (status, is_started(host)) == (0, True), said
    assert not host.path(JOURNAL).exists(), said
    assert host.get("/v") == (200, "old")
    assert agent.scan()["id"] == agent.scan()["accepted"]["id"]


def test_a_daemon_with_a_vip_puts_its_agent_onto_its_own_host(pair: Pair) -> None:
    """keepalived calls it there too; by hand `ngxsync check-nginx` is the same, before there is one and after."""
    master = pair.master
    assert pair.ngxsync("check-nginx").returncode == 0
    assert not master.path(AGENT).is_symlink()
    pair.write_config(more="[vrrp]\nvip = 192.0.2.100\n")
    with pair.daemon():
        assert check(master) == (0, "")
    done = pair.ngxsync("check-nginx", "--url", "http://127.0.0.1/missing")
    assert (done.returncode, "answers 404" in done.stderr) == (1, True)

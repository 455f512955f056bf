"""Reload and prove: nothing is called proven that nginx does not run, and what is refused is undone (TRANSACTION, reload and prove)."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.agent import STATE, Agent
from tests.hosts import Host, wait_until
from tests.pair import DEFAULT_VHOST, NGINX_CONF, ROOT, Pair, manifest_of, write_tree

HERE = "server { listen 81; return 200 here; }\n"
MAIN_LOG = f"{ROOT}/logs/error.log"
FIFO = "/srv/fifo"
READS_FIFO = f"include {FIFO};\n"


@pytest.fixture
def agent(pair: Pair) -> Agent:
    return Agent(pair.web2)


@contextmanager
def taken(host: Host, port: int) -> Iterator[None]:
    """Another process listens on the port: nginx -t passes, the reload does not."""
    with host.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("0.0.0.0", port))
        other.listen()
        yield


def let_pass(host: Host) -> None:
    """The one who waits at the FIFO, or comes next, goes on, and no other. (nginx takes it for an empty file.)

    Opened and closed in one breath: held open for longer it would let the reload pass that follows a test.
    """

    def has_passed() -> bool:
        try:
            os.close(os.open(host.path(FIFO), os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        return True

    wait_until(has_passed, "somebody reads the FIFO", 20.0, every_s=0.002)


def is_signalled(host: Host) -> bool:
    folder = host.path(f"{STATE}/peer")
    return any("signalled" in file.read_text() for file in folder.glob("journal*") if file.is_file())


@contextmanager
def started(work: Callable[[], dict[str, Any]]) -> Iterator[Future[dict[str, Any]]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def assert_undone(host: Host, answer: dict[str, Any], before: dict[str, tuple[Any, ...]]) -> None:
    """Its old bytes, modes, owners and times, and served as before."""
    assert (answer["outcome"], answer["ok"]) == ("undone", False), answer
    assert manifest_of(host) == before
    assert host.get("/hostname") == (200, "web2\n")


def test_a_port_that_is_taken(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    request = agent.plan(
        {
            "conf/vhosts/a.conf": HERE,
            "html/index.html": b"new",
            "conf/mime.types": None,
            "conf/nginx.conf": NGINX_CONF.replace("include mime.types;", ""),
        }
    )
    before, workers = manifest_of(host), set(host.nginx_workers())
    with taken(host, 81):
        answer = agent.transact(request)
    assert_undone(host, answer, before)
    assert "bind() to 0.0.0.0:81 failed (98: Address already in use)" in answer["message"]["what"]
    assert set(host.nginx_workers()) == workers
    assert host.reload_count() == 1, "nginx never left the old configuration: it needs no second signal"
    assert agent.transact(agent.plan({"conf/vhosts/a.conf": HERE}))["outcome"] == "applied"


def test_a_foreign_reload_in_progress_proves_nothing(pair: Pair, agent: Agent) -> None:
    """Somebody's SIGHUP has nginx reading the old files when ours are applied; ours is refused afterwards."""
    host = pair.web2
    host.run(["mkfifo", FIFO])
    write_tree(host, ROOT, {"conf/vhosts/zz.conf": READS_FIFO})
    request = agent.plan({"conf/vhosts/a.conf": HERE, "conf/vhosts/zz.conf": "# nothing\n"})
    before = manifest_of(host)
    host.run(["kill", "-HUP", str(host.nginx_main())])
    wait_until(lambda: host.reload_count() == 1, "nginx reads, and waits for the FIFO")
    with taken(host, 81), started(lambda: agent.transact(request)) as answer:
        wait_until(lambda: is_signalled(host), "the agent wants to signal")
        let_pass(host)
        result = answer.result(60)
    assert (result["outcome"], host.reload_count()) == ("undone", 2), result
    assert manifest_of(host) == before


def test_a_foreign_reload_right_after_ours_refutes_nothing(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    main = str(host.nginx_main())
    for number in range(3):
        request = agent.plan({"conf/vhosts/a.conf": f"server {{ listen 81; return 200 {number}; }}\n"})
        reloads, before = host.reload_count(), set(host.nginx_workers())
        with started(lambda request=request: agent.transact(request)) as answer:  # type: ignore[misc]
            wait_until(lambda: host.reload_count() > reloads, "our reload has begun")  # noqa: B023
            wait_until(lambda: not before & set(host.nginx_workers()), "the old workers leave")  # noqa: B023
            host.run(["kill", "-HUP", main])
            assert answer.result(60)["outcome"] == "applied", answer.result()
        assert host.get("/", port=81) == (200, str(number))


LEFT_OUT = """
import itertools, json, sys
from ngxsync.agent import proof
from ngxsync.agent.nginx import find_nginx

listed, number = proof.children, itertools.count()
proof.children = lambda pid: listed(pid)[: -1 if next(number) % 3 == 2 else None]
done = proof.Reload(find_nginx(json.loads(sys.argv[1])).running, [], 10.0, "SIGHUP", "").run(lambda: None)
print(done.outcome, done.reason)
"""


def test_a_worker_that_the_kernel_leaves_out_of_a_list_has_not_died(pair: Pair, agent: Agent) -> None:
    """As proc(5) says it may, where another child ends meanwhile: each third list lacks its last one here."""
    done = pair.web2.run([sys.executable, "-c", LEFT_OUT, json.dumps(agent.settings)])
    assert done.stdout == "proven \n"


def test_workers_that_appear_and_die(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    request = agent.plan({"conf/nginx.conf": "working_directory /nonexistent;\n" + NGINX_CONF})
    before = manifest_of(host)
    answer = agent.transact(request)
    assert_undone(host, answer, before)
    assert 'chdir("/nonexistent") failed' in answer["message"]["what"]
    assert host.reload_count() == 2


def test_workers_that_die_where_no_log_tells(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    silent = NGINX_CONF.replace("logs/error.log notice", "/dev/null")
    assert agent.transact(agent.plan({"conf/nginx.conf": silent}))["outcome"] == "applied"
    request = agent.plan({"conf/nginx.conf": "working_directory /nonexistent;\n" + silent})
    before = manifest_of(host)
    assert_undone(host, agent.transact(request), before)


@pytest.mark.parametrize("old_log", ["logs/error.log", "logs/old.log"])
def test_a_refusal_of_the_socket_is_read_in_the_new_log(pair: Pair, agent: Agent, old_log: str) -> None:
    host = pair.web2
    write_tree(host, ROOT, {"conf/nginx.conf": NGINX_CONF.replace("logs/error.log", old_log)})
    host.run(["kill", "-HUP", str(host.nginx_main())])
    wait_until(lambda: host.path(f"{ROOT}/{old_log}").exists(), "nginx writes there")
    request = agent.plan({"conf/nginx.conf": NGINX_CONF.replace("error.log", "new.log"), "conf/vhosts/a.conf": HERE})
    before = manifest_of(host)
    with taken(host, 81):
        answer = agent.transact(request)
    assert_undone(host, answer, before)
    assert "bind() to 0.0.0.0:81 failed" in answer["message"]["what"]
    assert "bind()" in host.path(f"{ROOT}/logs/new.log").read_text()


def test_a_refusal_of_the_text_is_read_in_the_old_log(pair: Pair, agent: Agent) -> None:
    """What is read is good for the test and bad for the reload. (In a view a FIFO is another one.)"""
    host = pair.web2
    agent.settings["rehearse"] = "live"
    host.run(["mkfifo", FIFO])
    host.path("/srv/late.inc").write_text("")
    conf = NGINX_CONF.replace("error.log", "new.log").replace(
        "include vhosts", f"include {FIFO}; include /srv/late.inc; include vhosts"
    )
    request = agent.plan({"conf/nginx.conf": conf})
    before = manifest_of(host)
    with started(lambda: agent.transact(request)) as answer:
        let_pass(host)
        wait_until(lambda: is_signalled(host), "the reload begins")
        host.path("/srv/late.inc").write_text("nonsense;")
        let_pass(host)
        result = answer.result(60)
    assert_undone(host, result, before)
    assert 'unknown directive "nonsense" in /srv/late.inc:1' in result["message"]["what"]
    assert host.reload_count() == 1


def test_somebodys_failing_test_in_the_same_log_refutes_nothing(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    host.path("/srv/bad.conf").write_text(
        f"error_log {MAIN_LOG};\nevents {{ }}\nhttp {{ server {{ listen 192.0.2.77:99; }} }}\n"
    )
    request = agent.plan({"conf/vhosts/a.conf": HERE})
    failing = "while :; do nginx -t -c /srv/bad.conf 2>/dev/null; done"
    with host.popen(["sh", "-c", failing]) as process:
        wait_until(lambda: "192.0.2.77:99" in host.error_log(), "it writes")
        count = host.error_log().count("192.0.2.77:99")
        answer = agent.transact(request)
        host.signal_to(process, signal.SIGKILL)
    assert answer["outcome"] == "applied", answer
    assert host.error_log().count("192.0.2.77:99") > count


@pytest.mark.parametrize("log", ["stderr", "syslog:server=127.0.0.1", "/dev/null", "/srv/pipe"])
def test_a_log_that_cannot_be_read_back_is_told(pair: Pair, agent: Agent, log: str) -> None:
    """The proof stands on the processes alone; a pipe would have its reader wait for ever."""
    host = pair.web2
    host.run(["mkfifo", "/srv/pipe"])
    agent.settings["rehearse"] = "live" if "pipe" in log else "overlay"
    conf = NGINX_CONF.replace("logs/error.log notice", log)
    with host.popen(["sh", "-c", "exec sleep 60 <>/srv/pipe"]) as keeper:
        answer = agent.transact(agent.plan({"conf/nginx.conf": conf}))
        again = agent.transact(agent.plan({"conf/vhosts/a.conf": HERE}))
        host.signal_to(keeper, signal.SIGKILL)
    for each in (answer, again):
        assert each["outcome"] == "applied", each
        assert f"error_log {log} cannot be read back: the proof stands on the processes alone" in each["warnings"]


def test_the_log_that_is_compiled_in(pair: Pair, agent: Agent) -> None:
    """Debian's nginx logs to standard error where its configuration names no log."""
    answer = agent.transact(agent.plan({"conf/nginx.conf": re.sub("error_log .*\n", "", NGINX_CONF)}))
    assert answer["outcome"] == "applied", answer
    assert "error_log stderr cannot be read back" in "".join(answer["warnings"])


def read_slowly(pair: Pair, agent: Agent) -> dict[str, Any]:
    """A request whose test passes and whose reload reads until somebody feeds the FIFO, which in a view would be another one."""
    host = pair.web2
    agent.settings["rehearse"] = "live"
    host.run(["mkfifo", FIFO])
    write_tree(host, ROOT, {"conf/vhosts/a.conf": HERE})
    host.run(["kill", "-HUP", str(host.nginx_main())])
    wait_until(lambda: host.reload_count() == 1 and serves(host, "here"), "the old configuration is served")
    agent.settings["prove_timeout_s"] = 0.5
    return agent.plan({"conf/vhosts/a.conf": HERE.replace("here", "new"), "conf/vhosts/zz.conf": READS_FIFO})


def serves(host: Host, body: str) -> bool:
    try:
        return host.get("/", port=81) == (200, body)
    except OSError:
        return False


def test_past_the_time_the_old_files_are_back_and_the_outcome_waits_for_idle(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    request = read_slowly(pair, agent)
    before = manifest_of(host)
    with started(lambda: agent.transact(request)) as answer:
        let_pass(host)
        wait_until(lambda: is_signalled(host), "the reload begins")
        wait_until(lambda: manifest_of(host) == before, "the old files are back")
        assert not answer.done(), "nginx still reads"
        let_pass(host)
        result = answer.result(60)
    assert_undone(host, result, before)
    assert serves(host, "here")


BUSY_FOR_A_MOMENT = """
import json, os, signal, sys, threading
from ngxsync.agent.nginx import find_nginx
from ngxsync.agent.recovery import reload_old

settings = json.loads(sys.argv[1])
nginx = find_nginx(settings)
os.kill(nginx.running.pid, signal.SIGSTOP)
threading.Timer(0.1, os.kill, (nginx.running.pid, signal.SIGCONT)).start()
print(reload_old(nginx, settings).outcome)
"""


def test_an_undo_waits_for_a_main_process_that_is_busy_for_a_moment(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    done = host.run([sys.executable, "-c", BUSY_FOR_A_MOMENT, json.dumps(agent.settings)])
    assert (done.stdout, host.reload_count()) == ("proven\n", 1), "it needs no second signal"


def test_where_nginx_never_becomes_idle_it_is_broken(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    request = read_slowly(pair, agent)
    agent.settings["idle_timeout_s"] = 1.0
    before = manifest_of(host)
    with started(lambda: agent.transact(request)) as answer:
        let_pass(host)
        result = answer.result(60)
    assert (result["outcome"], result["code"]) == ("broken", "broken")
    assert "did not become idle within 1 s" in result["message"]["what"]
    assert "ngxsync-agent recover" in result["message"]["next"]
    assert manifest_of(host) == before
    let_pass(host)
    wait_until(lambda: host.reload_count() == 3, "once it wakes it reads the old files by itself")
    wait_until(lambda: serves(host, "here"), "they are served")


def test_a_main_process_that_is_stopped(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    agent.settings.update(prove_timeout_s=0.5, idle_timeout_s=0.5)
    request = agent.plan({"conf/vhosts/a.conf": HERE})
    before, main = manifest_of(host), str(host.nginx_main())
    host.run(["kill", "-STOP", main])
    result = agent.transact(request)
    host.run(["kill", "-CONT", main])
    assert (result["outcome"], manifest_of(host)) == ("broken", before)


def test_a_main_process_killed_during_the_reload(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    request = read_slowly(pair, agent)
    agent.settings["prove_timeout_s"] = 10.0
    request["nginx"] = agent.settings
    before = manifest_of(host)
    with started(lambda: agent.transact(request)) as answer:
        let_pass(host)
        wait_until(lambda: is_signalled(host) and host.reload_count() == 2, "the reload begins")
        host.run(["kill", "-KILL", str(host.nginx_main())])
        result = answer.result(60)
    assert result["outcome"] == "broken"
    assert "nginx is down" in result["message"]["what"]
    assert manifest_of(host) == before


def test_old_workers_on_a_long_download_are_no_failure(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    host.path(f"{ROOT}/html/large").write_bytes(b"x" * 30_000_000)
    with host.socket() as client:
        client.connect(("127.0.0.1", 80))
        client.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        client.recv(1000)
        answer = agent.transact(agent.plan({"conf/vhosts/a.conf": HERE}))
        assert answer["outcome"] == "applied", answer
        assert answer["timings"]["prove"] > 0.2, "the new workers have to live so long"
        assert [title for title in host.commands().values() if "is shutting down" in title]


# the probe

ANSWERS = (
    DEFAULT_VHOST
    + "server { listen 82; location /ok { return 200; } location /moved { return 302 /x; } location /bad { return 500; } }\n"
    "server { listen 83 ssl; ssl_certificate /srv/own.pem; ssl_certificate_key /srv/own.pem; return 200 tls; }\n"
)


def probed(pair: Pair, agent: Agent, url: str, prove_timeout_s: float = 1.5) -> dict[str, Any]:
    host = pair.web2
    subject = ["-subj", "/CN=somebody.else", "-keyout", "/srv/own.pem", "-out", "/srv/own.pem"]
    host.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject])
    agent.settings.update(probe=url, prove_timeout_s=prove_timeout_s)
    return agent.transact(agent.plan({"conf/vhosts/default.conf": ANSWERS}))


@pytest.mark.parametrize("url", ["http://127.0.0.1:82/ok", "http://127.0.0.1:82/moved", "https://127.0.0.1:83/"])
def test_a_probe_that_answers(pair: Pair, agent: Agent, url: str) -> None:
    answer = probed(pair, agent, url, 20.0)
    assert answer["outcome"] == "applied", answer


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:82/bad", "probe http://127.0.0.1:82/bad answered 500"),
        ("http://127.0.0.1:84/", "Connection refused"),
        ("https://127.0.0.1:82/", "probe https://127.0.0.1:82/"),
    ],
)
def test_a_probe_that_does_not(pair: Pair, agent: Agent, url: str, reason: str) -> None:
    before = manifest_of(pair.web2)
    answer = probed(pair, agent, url)
    assert_undone(pair.web2, answer, before)
    assert reason in answer["message"]["what"]
    assert pair.web2.reload_count() == 2


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000])
def test_a_probe_of_a_server_that_hangs_is_bounded(pair: Pair, agent: Agent, drip: bytes) -> None:
    host = pair.web2
    before = manifest_of(host)
    over = threading.Event()

    def serve(listening: socket.socket) -> None:
        """A byte now and then: no time-out of a socket ever passes."""
        while not over.is_set():
            try:
                client, _ = listening.accept()
            except TimeoutError:
                continue
            with client:
                for number in range(len(drip)):
                    if over.wait(0.05):
                        return
                    try:
                        client.sendall(drip[number : number + 1])
                    except OSError:
                        break
                over.wait(0 if drip else 10)

    with host.socket() as listening:
        listening.bind(("127.0.0.1", 90))
        listening.listen()
        listening.settimeout(0.5)
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        try:
            answer = probed(pair, agent, "http://127.0.0.1:90/")
        finally:
            over.set()
            server.join()
    assert_undone(host, answer, before)
    assert "probe http://127.0.0.1:90/" in answer["message"]["what"]
    assert answer["timings"]["prove"] < 20


# a command instead of SIGHUP, and no reload at all


@pytest.mark.parametrize(
    "command",
    [
        f"/usr/sbin/nginx -p {ROOT} -c conf/nginx.conf -s reload",
        f"(sleep 0.5; kill -HUP $(cat {ROOT}/logs/nginx.pid)) >/dev/null 2>&1 &",  # as systemctl --no-block
    ],
)
def test_a_command_that_reloads(pair: Pair, agent: Agent, command: str) -> None:
    agent.settings["reload"] = command
    answer = agent.transact(agent.plan({"conf/vhosts/a.conf": HERE}))
    assert answer["outcome"] == "applied", answer
    assert pair.web2.get("/", port=81) == (200, "here")
    assert pair.web2.reload_count() == 1


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo not allowed; exit 3", "`echo not allowed; exit 3` exited with 3: not allowed"),
        ("sleep 60", "`sleep 60` did not end within 1 s"),
        ("true", "nginx refused the new configuration"),
    ],
)
def test_a_command_that_does_not(pair: Pair, agent: Agent, command: str, reason: str) -> None:
    host = pair.web2
    agent.settings.update(reload=command, prove_timeout_s=1.0 if "sleep" in command else 10.0)
    request = agent.plan({"conf/vhosts/a.conf": HERE})
    before = manifest_of(host)
    answer = agent.transact(request)
    assert_undone(host, answer, before)
    assert reason in answer["message"]["what"]
    assert host.reload_count() == 0
    assert "sleep 60" not in host.commands().values()


def test_a_command_that_reloads_and_then_fails_is_undone_with_a_second_reload(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    once = f"/usr/sbin/nginx -p {ROOT} -c conf/nginx.conf -s reload; mkdir /srv/once 2>/dev/null && exit 3 || true"
    agent.settings["reload"] = once
    request = agent.plan({"conf/vhosts/a.conf": HERE})
    before = manifest_of(host)
    answer = agent.transact(request)
    assert_undone(host, answer, before)
    assert host.reload_count() == 2
    with pytest.raises(ConnectionRefusedError):
        host.get("/", port=81)


def test_a_change_of_content_alone_needs_no_reload_and_stays_proven(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    assert agent.transact(agent.plan({"conf/vhosts/a.conf": HERE}))["proven"]
    answer = agent.transact({**agent.plan({"html/index.html": b"new"}), "reload": False})
    assert (answer["outcome"], answer["proven"], answer["reloaded"]) == ("applied", True, False)
    assert host.get("/") == (200, "new")
    assert host.reload_count() == 1


def test_a_change_of_content_while_nginx_is_down_is_not_proven(pair: Pair, agent: Agent) -> None:
    assert agent.transact(agent.plan({"conf/vhosts/a.conf": HERE}))["proven"]
    pair.web2.stop_nginx()
    answer = agent.transact({**agent.plan({"html/index.html": b"new"}), "reload": False})
    assert (answer["outcome"], answer["code"], answer["proven"]) == ("not-proven", "nginx-down", False)

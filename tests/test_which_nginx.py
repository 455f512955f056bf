"""Which nginx is tested and reloaded, where there are several, or none, or a strange one (TRANSACTION, which nginx)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ngxsync.agent.binary import parse_build
from ngxsync.agent.nginx import parse_title
from tests.agent import Agent
from tests.hosts import Host, wait_until
from tests.pair import BASE_TREE, NGINX_CONF, ROOT, Pair, manifest_of, write_tree

NGINX = ["/usr/sbin/nginx", "-p", ROOT, "-c", "conf/nginx.conf"]
HERE = {"conf/vhosts/a.conf": "server { listen 81; return 200 here; }\n"}
TITLE = f"nginx: master process /usr/sbin/nginx -p {ROOT} -c conf/nginx.conf -q"


@pytest.fixture
def agent(pair: Pair) -> Agent:
    return Agent(pair.web2)


def restart(host: Host, *before: str, options: tuple[str, ...] = ()) -> int:
    """nginx started anew by a command of its own; its process number."""
    host.stop_nginx()
    host.run([*before, *NGINX, *options])
    return wait_until(lambda: host.nginx_main() if host.nginx_workers() else None, "nginx runs")


def pretend(title: str, command: str = "sleep 60") -> list[str]:
    return ["bash", "-c", f'exec -a "$0" {command}', title]


def held(answer: dict[str, Any]) -> str:
    assert (answer.get("outcome"), answer["code"]) == ("held", "which-nginx"), answer
    return str(answer["message"]["what"])


def errors_of(answer: dict[str, Any]) -> list[str]:
    return [problem["text"] for problem in answer["problems"]]


@pytest.mark.parametrize(
    ("title", "program", "args"),
    [
        ("/usr/sbin/nginx", "/usr/sbin/nginx", []),
        ("nginx -p /srv/x -c conf/nginx.conf", "nginx", ["-p", "/srv/x", "-c", "conf/nginx.conf"]),
        ("nginx -c/etc/a.conf -q", "nginx", ["-c", "/etc/a.conf"]),
        ("nginx -g daemon on; master_process on;", "nginx", ["-g", "daemon on; master_process on;"]),
        ("nginx -g env A=-1; user x; -p /srv/a b", "nginx", ["-g", "env A=-1; user x;", "-p", "/srv/a b"]),
        ("nginx -e stderr -p /srv/odd:na,me\\x", "nginx", ["-e", "stderr", "-p", "/srv/odd:na,me\\x"]),
    ],
)
def test_the_title_tells_program_and_options(title: str, program: str, args: list[str]) -> None:
    assert parse_title(b"nginx: master process " + title.encode()) == (program, args)


def test_the_paths_that_are_compiled_in() -> None:
    build = parse_build(
        "/x", "configure arguments: --with-cc-opt='-a --prefix=/no' --prefix=/opt/n/ --pid-path='/run/a b'"
    )
    assert (build.conf_path, build.pid_path) == ("conf/nginx.conf", "/run/a b")


def test_the_mounts_of_the_running_nginx_are_used(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    private = f"mount -t tmpfs none /tmp && echo 'return 200 private;' >/tmp/private.inc && exec {' '.join(NGINX)}"
    host.stop_nginx()
    host.run(["unshare", "-m", "sh", "-c", private])
    answer = agent.transact(agent.plan({"conf/vhosts/a.conf": "server { listen 81; include /tmp/private.inc; }\n"}))
    assert answer["outcome"] == "applied", answer
    assert host.get("/", port=81) == (200, "private")
    host.path("/tmp/public.inc").write_text("return 200 public;")
    refused = agent.transact(agent.plan({"conf/vhosts/a.conf": "server { listen 81; include /tmp/public.inc; }\n"}))
    assert errors_of(refused) == ['open() "/tmp/public.inc" failed (2: No such file or directory)']


def test_the_network_of_the_running_nginx_is_used(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    host.stop_nginx()
    script = f"ip link set lo up && ip addr add 198.51.100.7/32 dev lo && exec {' '.join(NGINX)}"
    host.run(["unshare", "-n", "sh", "-c", script])
    answer = agent.transact(agent.plan({"conf/vhosts/a.conf": "server { listen 198.51.100.7:81; }\n"}))
    assert answer["outcome"] == "applied", answer
    refused = agent.transact(agent.plan({"conf/vhosts/a.conf": f"server {{ listen {host.address}:81; }}\n"}))
    assert f"bind() to {host.address}:81 failed" in errors_of(refused)[0]


def test_a_binary_that_was_replaced_is_tested_as_it_runs(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    host.stop_nginx()
    host.run(
        [
            "sh",
            "-c",
            "mkdir /srv/sbin && cp /usr/sbin/nginx /srv/sbin/nginx && printf '#!/bin/sh\\nexit 1\\n' >/srv/sbin/new",
        ]
    )
    host.run(["/srv/sbin/nginx", *NGINX[1:]])
    host.run(["sh", "-c", "chmod 755 /srv/sbin/new && mv /srv/sbin/new /srv/sbin/nginx"])
    answer = agent.transact(agent.plan(HERE))
    assert answer["outcome"] == "applied", answer
    assert agent.transact(agent.plan({"conf/vhosts/a.conf": "nonsense;\n"}))["outcome"] == "refused"


def test_a_binary_that_is_set_is_the_one_that_tests(pair: Pair, agent: Agent) -> None:
    wrapper = pair.web2.path("/srv/wrapper")
    says_no = 'case " $* " in *" -t "*) echo "nginx: [emerg] the wrapper says no"; exit 1 ;; esac'
    wrapper.write_text(f'#!/bin/sh\n{says_no}\nexec /usr/sbin/nginx "$@"\n')
    wrapper.chmod(0o755)
    agent.settings["binary"] = "/srv/wrapper"
    answer = agent.transact(agent.plan(HERE))
    assert answer.get("outcome") == "refused", answer
    assert errors_of(answer) == ["the wrapper says no"]


def test_the_options_of_the_running_nginx_are_used(pair: Pair, agent: Agent) -> None:
    """A pid in -g and another in the file are one too many: only a test with the same -g sees it."""
    host = pair.web2
    write_tree(host, ROOT, {"conf/nginx.conf": NGINX_CONF.replace("pid logs/nginx.pid;", "")})
    restart(host, options=("-g", "pid /srv/given.pid; worker_rlimit_nofile 999;"))
    refused = agent.transact(agent.plan({"conf/nginx.conf": NGINX_CONF}))
    assert errors_of(refused) == ['"pid" directive is duplicate']
    assert agent.transact(agent.plan(HERE))["outcome"] == "applied"


def test_debians_layout_with_nothing_in_the_title(pair: Pair) -> None:
    host = pair.web2
    host.stop_nginx()
    conf = NGINX_CONF.replace("logs/nginx.pid", "/run/nginx.pid").replace("logs/", "/var/log/nginx/")
    host.run(["sh", "-c", "mkdir /srv/etc && mount --bind /srv/etc /etc/nginx"])
    write_tree(host, "/etc/nginx", {"nginx.conf": conf, "mime.types": BASE_TREE["conf/mime.types"]})
    write_tree(host, "/etc/nginx", {"vhosts/default.conf": BASE_TREE["conf/vhosts/default.conf"]})
    agent = Agent(host, root="/etc/nginx")
    agent.settings["conf"] = "/etc/nginx/nginx.conf"
    wanted = {"vhosts/a.conf": HERE["conf/vhosts/a.conf"]}
    assert agent.transact(agent.plan({"vhosts/a.conf": "nonsense;\n"}))["outcome"] == "refused"
    assert agent.transact(agent.plan(wanted))["outcome"] == "not-proven"
    host.run(["nginx", "-g", "daemon on; master_process on;"])
    answer = agent.transact(agent.plan({"vhosts/a.conf": "server { listen 81; return 200 again; }\n"}))
    assert answer["outcome"] == "applied", answer
    assert host.get("/", port=81) == (200, "again")


def other_nginx(host: Host) -> int:
    """A second nginx with a tree of its own, on port 90; its process number."""
    tree = {**BASE_TREE, "conf/vhosts/default.conf": "server { listen 90; }\n"}
    write_tree(host, "/srv/other", tree)
    host.run(["nginx", "-p", "/srv/other", "-c", "conf/nginx.conf"])
    pid_file = host.path("/srv/other/logs/nginx.pid")
    return int(wait_until(lambda: pid_file.exists() and pid_file.read_text().strip(), "the other nginx runs"))


def reloads_of_the_other(host: Host) -> int:
    return host.path("/srv/other/logs/error.log").read_text().count("reconfiguring")


def test_a_pid_file_that_names_another_nginx_is_not_believed(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    other = other_nginx(host)
    host.path(f"{ROOT}/logs/nginx.pid").write_text(f"{other}\n")
    answer = agent.transact(agent.plan(HERE))
    assert answer["outcome"] == "applied", answer
    assert host.get("/", port=81) == (200, "here")
    assert reloads_of_the_other(host) == 0


@pytest.mark.parametrize("named", ["another nginx", "sshd", "nobody", "nonsense"])
def test_a_stale_pid_file_while_ours_does_not_run(pair: Pair, agent: Agent, named: str) -> None:
    host = pair.web2
    host.stop_nginx()
    other = other_nginx(host)
    texts = {"another nginx": str(other), "sshd": str(host.sshd_pid()), "nobody": "999999", "nonsense": "x"}
    host.path(f"{ROOT}/logs/nginx.pid").write_text(texts[named] + "\n")
    answer = agent.transact(agent.plan(HERE))
    assert (answer["outcome"], answer["code"], answer["proven"]) == ("not-proven", "nginx-down", False)
    assert host.path(f"{ROOT}/conf/vhosts/a.conf").exists()
    assert reloads_of_the_other(host) == 0
    assert host.sshd_pid()


def test_the_pid_file_deleted_under_a_running_nginx(pair: Pair, agent: Agent) -> None:
    pair.web2.path(f"{ROOT}/logs/nginx.pid").unlink()
    assert agent.transact(agent.plan(HERE))["outcome"] == "applied"
    assert pair.web2.get("/", port=81) == (200, "here")


def test_a_pid_path_that_the_plan_changes(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    main = host.nginx_main()
    answer = agent.transact(agent.plan({"conf/nginx.conf": NGINX_CONF.replace("logs/nginx.pid", "logs/new.pid")}))
    assert answer["outcome"] == "applied", answer
    assert agent.transact(agent.plan(HERE))["outcome"] == "applied"
    assert (host.nginx_main(), host.reload_count()) == (main, 2)


def test_the_main_configuration_deleted_under_a_running_nginx(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    host.path(f"{ROOT}/conf/nginx.conf").unlink()
    answer = agent.transact(agent.plan({"conf/nginx.conf": NGINX_CONF, **HERE}))
    assert answer["outcome"] == "applied", answer
    assert host.get("/", port=81) == (200, "here")


def test_an_upgrade_under_way_is_held(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    request = agent.plan(HERE)
    before = manifest_of(host)
    main = host.nginx_main()
    host.run(["kill", "-USR2", str(main)])
    wait_until(host.path(f"{ROOT}/logs/nginx.pid.oldbin").exists, "the new binary is started")
    assert f"{ROOT}/logs/nginx.pid.oldbin is there" in held(agent.transact(request))
    assert manifest_of(host) == before
    assert host.reload_count() == 0


def two_mains(host: Host) -> list[int]:
    mains = [pid for pid, title in host.commands().items() if title.startswith("nginx: master")]
    return mains if len(mains) == 2 else []


def test_two_candidates_are_held(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    host.run(["unshare", "-n", *NGINX])
    mains = wait_until(lambda: two_mains(host), "two main processes, and no child that still has their title")
    what = held(agent.transact(agent.plan(HERE)))
    assert all(str(pid) in what for pid in mains)
    assert not host.path(f"{ROOT}/conf/vhosts/a.conf").exists()
    assert host.reload_count() == 0


def test_a_child_that_still_has_its_parents_title_is_no_candidate(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    request = agent.plan(HERE)
    with host.popen(pretend(TITLE, "sleep 0.8")):
        wait_until(lambda: TITLE + " 0.8" in host.commands().values(), "it runs")
        answer = agent.transact(request)
    assert answer["outcome"] == "applied", answer
    assert host.get("/", port=81) == (200, "here")


def test_a_title_that_anybody_can_give_himself(pair: Pair, agent: Agent) -> None:
    """What an ordinary user runs under the name of nginx is neither executed by root nor in the way."""
    host = pair.web2
    request, main = agent.plan(HERE), host.nginx_main()
    user = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"]
    with host.popen([*user, *pretend(TITLE)]):
        wait_until(lambda: TITLE + " 60" in host.commands().values(), "it runs")
        answer = agent.transact(request)
        host.run(["kill", "-QUIT", str(main)])
        wait_until(lambda: not host.nginx_workers(), "the true nginx ended")
        down = agent.transact(agent.plan({"html/index.html": b"new"}))
        host.stop_nginx()
    assert answer["outcome"] == "applied", answer
    assert (down["outcome"], down["code"]) == ("not-proven", "nginx-down")


def test_nginx_in_a_chroot_is_held(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    host.stop_nginx()
    host.run(["sh", "-c", "mkdir /srv/jail && mount --rbind / /srv/jail"])
    host.run(["chroot", "/srv/jail", *NGINX])
    assert "runs in a chroot, /srv/jail" in held(agent.transact(agent.plan(HERE)))


def test_without_a_main_process(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    host.stop_nginx()
    write_tree(host, ROOT, {"conf/nginx.conf": "master_process off;\n" + NGINX_CONF})
    host.run(NGINX)
    wait_until(lambda: host.path(f"{ROOT}/logs/nginx.pid").exists(), "nginx runs")
    answer = agent.transact(agent.plan(HERE))
    assert (answer["outcome"], answer["code"], answer["proven"]) == ("not-proven", "not-proven", False)
    assert "master_process off" in "".join(answer["warnings"])


def test_no_nginx_on_this_host(pair: Pair, agent: Agent) -> None:
    agent.settings["binary"] = "/srv/none/nginx"
    assert "/srv/none/nginx" in held(agent.transact(agent.plan(HERE)))


def test_finding_it_costs_little_among_hundreds_of_processes(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    request = agent.plan(HERE)
    with host.popen(["sh", "-c", "for i in $(seq 500); do sleep 60 & done; echo up; wait"], stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        answer = agent.transact(request)
        host.run(["pkill", "-x", "sleep"])
    assert answer["outcome"] == "applied", answer
    assert answer["timings"]["which"] < 1.5, os.cpu_count()

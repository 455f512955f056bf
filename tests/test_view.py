"""The private view: nothing outside it changes, and what nginx says in it is what it would say live (TRANSACTION, rehearse)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ngxsync.agent.replay import replay
from tests.agent import STATE, Agent, agent_argv
from tests.hosts import Host
from tests.pair import BASE_TREE, NGINX_CONF, ROOT, Pair, manifest_of, snapshot_inodes, write_tree

# all that a test of nginx has ever written to, and more
EVERYWHERE = (ROOT, "/etc", "/run", "/srv", "/tmp", "/var/cache", "/var/lib/nginx", "/var/log")

# another user; compiled-in temporary paths, one below the tree, one elsewhere; logs, pid and a cache that do not exist yet
GREEDY = (
    NGINX_CONF.replace("user www-data;", "user daemon;")
    .replace("logs/nginx.pid", "/srv/new.pid")
    .replace("logs/error.log", "/var/log/nginx/new-error.log")
    .replace("logs/access.log", "/srv/new-access.log")
    .replace(
        "include mime",
        f"client_body_temp_path {ROOT}/body;\n    proxy_temp_path /srv/proxy;\n    proxy_cache_path /srv/cache keys_zone=a:1m;\n"
        "    include mime",
    )
)
HERE = "server { listen 81; return 200 here; }\n"


@contextmanager
def nothing_changes(host: Host) -> Iterator[None]:
    """What belongs to ngxsync itself apart."""

    def look() -> dict[str, tuple[int, ...]]:
        found = snapshot_inodes(host, *EVERYWHERE)
        return {path: inode for path, inode in found.items() if "/.ngxsync" not in path}

    before = look()
    yield
    after = look()
    assert {path for path in {*before, *after} if before.get(path) != after.get(path)} == set()


def errors_of(answer: dict[str, Any]) -> list[tuple[str, int, str]]:
    return [(p["file"], p["line"], p["text"]) for p in answer["problems"] if p["level"] == "error"]


@pytest.fixture
def agent(pair: Pair) -> Agent:
    return Agent(pair.web2)


def test_a_refused_rehearsal_changes_no_inode_outside_the_view(pair: Pair, agent: Agent) -> None:
    """The address is missing: nginx finds that only after it has made, and given away, all its directories."""
    request = agent.plan({"conf/nginx.conf": GREEDY, "conf/vhosts/a.conf": "server { listen 192.0.2.77:81; }\n"})
    before = manifest_of(pair.web2)
    with nothing_changes(pair.web2):
        answer = agent.transact(request)
    assert (answer["outcome"], answer["ok"]) == ("refused", False)
    assert "bind() to 192.0.2.77:81 failed" in errors_of(answer)[0][2]
    assert manifest_of(pair.web2) == before
    assert pair.web2.get("/hostname") == (200, "web2\n")


def test_a_passed_test_changes_no_inode_outside_the_view(pair: Pair, agent: Agent) -> None:
    write_tree(pair.web2, ROOT, {"conf/nginx.conf": GREEDY})
    with nothing_changes(pair.web2):
        answer = agent.call("validate")
    assert (answer["passed"], answer["problems"]) == (True, [])


def test_a_refusal_names_file_and_line(agent: Agent) -> None:
    answer = agent.transact(
        agent.plan({"conf/vhosts/a.conf": "server {\n    listen 81;\n    no_such_directive on;\n}\n"})
    )
    assert errors_of(answer) == [(f"{ROOT}/conf/vhosts/a.conf", 3, 'unknown directive "no_such_directive"')]


def test_a_mount_below_the_tree_is_neither_a_false_pass_nor_a_false_refusal(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    host.run(["mount", "-t", "tmpfs", "none", f"{ROOT}/conf/vhosts"])
    write_tree(host, ROOT, {"conf/vhosts/mounted.conf": HERE, "conf/vhosts/old.conf": "server { listen 82; }\n"})
    included = NGINX_CONF.replace("include vhosts/*.conf", "include vhosts/mounted.conf; include vhosts/*.new")
    before = manifest_of(host)

    bad = agent.transact(agent.plan({"conf/vhosts/bad.conf": "server { listen 83; nonsense; }\n"}))
    assert bad["outcome"] == "refused"
    assert errors_of(bad)[0][0] == f"{ROOT}/conf/vhosts/bad.conf"
    assert manifest_of(host) == before

    good = {
        "conf/nginx.conf": included,
        "conf/vhosts/b.new": "server { listen 84; return 200 b; }\n",
        "conf/vhosts/old.conf": None,
    }
    answer = agent.transact(agent.plan(good))
    assert answer.get("outcome") == "applied", answer
    assert host.get("/", port=81) == (200, "here")
    assert host.get("/", port=84) == (200, "b")
    assert not host.path(f"{ROOT}/conf/vhosts/old.conf").exists()
    assert (
        os.stat(host.path(f"{ROOT}/conf/vhosts/b.new")).st_dev != os.stat(host.path(f"{ROOT}/conf/nginx.conf")).st_dev
    )


def test_a_mount_point_that_the_plan_deletes_stays(pair: Pair, agent: Agent) -> None:
    pair.web2.path(f"{ROOT}/html/data").mkdir()
    pair.web2.run(["mount", "-t", "tmpfs", "none", f"{ROOT}/html/data"])
    answer = agent.transact(agent.plan({"html/data": None, "conf/vhosts/a.conf": HERE}))
    assert answer.get("outcome") == "applied", answer
    assert pair.web2.path(f"{ROOT}/html/data").is_dir()


def test_a_deletion_is_not_done_on_the_target_of_a_link(tmp_path: Path) -> None:
    for folder in ("elsewhere", "tree", "tree/old"):
        (tmp_path / folder).mkdir()
    for file in ("elsewhere/a", "elsewhere/b", "tree/old/b"):
        (tmp_path / file).write_text(file)
    (tmp_path / "tree/linked").symlink_to("../elsewhere")
    top = str(tmp_path.resolve())
    replay(
        [
            ["delete", f"{top}/tree/linked/a"],
            ["delete", f"{top}/tree/old/b"],
            ["link", f"{top}/tree/old", "../elsewhere"],
            ["delete", f"{top}/tree/old/a"],
        ]
    )
    assert os.readlink(tmp_path / "tree/old") == "../elsewhere"
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["a", "b"]


def test_a_directory_that_becomes_a_symlink(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    write_tree(host, ROOT, {"conf/snip/a.inc": "return 200 old;", "conf/snip/b.inc": ""})
    write_tree(host, "/srv/other", {"a.inc": "return 200 new;", "b.inc": ""})
    wanted = {
        "conf/vhosts/a.conf": "server { listen 81; include snip/*.inc; }\n",
        "conf/snip/a.inc": None,
        "conf/snip/b.inc": None,
        "conf/snip": ("link", "/srv/other"),
    }
    answer = agent.transact(agent.plan(wanted))
    assert answer.get("outcome") == "applied", answer
    assert host.get("/", port=81) == (200, "new")
    assert sorted(os.listdir(host.path("/srv/other"))) == ["a.inc", "b.inc", "logs"]


def test_a_directory_that_somebody_made_a_symlink_meanwhile(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    write_tree(host, ROOT, {"conf/snip/a.inc": ""})
    write_tree(host, "/srv/other", {"a.inc": ""})
    request = agent.plan({"conf/snip/a.inc": None})
    host.run(["sh", "-c", f"rm -r {ROOT}/conf/snip && ln -s /srv/other {ROOT}/conf/snip"])
    assert agent.transact(request)["code"] == "peer-changed"
    assert host.path("/srv/other/a.inc").exists()


def test_a_directory_that_keeps_excluded_files_is_held_not_called_impossible(pair: Pair) -> None:
    agent = Agent(pair.web2, ("*.keep",))
    write_tree(pair.web2, ROOT, {"conf/snip/a.keep": ""})
    answer = agent.transact(agent.plan({"conf/snip": ("link", "/srv")}))
    assert (answer["outcome"], answer["code"]) == ("held", "type-change")
    assert f"{ROOT}/conf/snip" in answer["message"]["what"]


def test_names_with_colons_commas_and_backslashes(pair: Pair) -> None:
    """nginx itself finds nothing by a pattern below such a directory: its files are named one by one."""
    host, root, page = pair.web2, "/srv/odd:na,me\\x", "html/b:a,d\\.html"
    host.stop_nginx()
    host.run(["sh", "-c", 'mkdir "$0" && mount -t tmpfs none "$0"', root])
    conf = NGINX_CONF.replace("include vhosts/*.conf", "include vhosts/c:d,e.conf")
    write_tree(host, root, {**BASE_TREE, "conf/nginx.conf": conf, "conf/vhosts/c:d,e.conf": HERE, page: "old"})
    host.run(["nginx", "-p", root, "-c", "conf/nginx.conf"])
    agent = Agent(host, root=root)
    bad = agent.transact(agent.plan({"conf/vhosts/c:d,e.conf": "server { nonsense; }\n", page: "new"}))
    assert errors_of(bad) == [(f"{root}/conf/vhosts/c:d,e.conf", 1, 'unknown directive "nonsense"')]
    assert host.path(f"{root}/{page}").read_text() == "old"
    good = {"conf/vhosts/c:d,e.conf": "server { listen 82; return 200 odd; }\n", page: None}
    answer = agent.transact(agent.plan(good))
    assert answer.get("outcome") == "applied", answer
    assert host.get("/", port=82) == (200, "odd")
    assert not host.path(f"{root}/{page}").exists()


def test_the_state_on_another_file_system(pair: Pair, agent: Agent) -> None:
    pair.web2.run(["mount", "-t", "tmpfs", "none", STATE])
    answer = agent.transact(agent.plan({"conf/vhosts/a.conf": HERE, "html/big.bin": os.urandom(300_000)}))
    assert answer.get("outcome") == "applied", answer
    assert pair.web2.get("/", port=81) == (200, "here")


def test_the_tree_may_lie_where_the_view_is_built(pair: Pair) -> None:
    host, root = pair.web2, "/tmp/nginx"
    host.stop_nginx()
    write_tree(host, root, BASE_TREE)
    host.run(["nginx", "-p", root, "-c", "conf/nginx.conf"])
    agent = Agent(host, root=root)
    assert agent.transact(agent.plan({"conf/vhosts/a.conf": "nonsense;\n"}))["outcome"] == "refused"
    assert agent.transact(agent.plan({"conf/vhosts/a.conf": HERE}))["outcome"] == "applied"


def test_a_mount_of_a_file_that_has_no_name_any_more(pair: Pair, agent: Agent) -> None:
    """As systemd-nspawn makes on /proc/kmsg: nothing can be mounted over it."""
    pair.web2.run(["sh", "-c", ": >/run/gone; mount --bind /run/gone /proc/kmsg; rm /run/gone"])
    answer = agent.call("validate")
    assert (answer["ok"], answer["passed"]) == (True, True), answer


def test_a_large_planned_file_is_read_by_the_test(agent: Agent) -> None:
    answer = agent.transact(agent.plan({"conf/vhosts/a.conf": "# comment\n" * 30_000 + "nonsense;\n"}))
    assert errors_of(answer) == [(f"{ROOT}/conf/vhosts/a.conf", 30_001, 'unknown directive "nonsense"')]


def test_a_planned_directory_and_what_is_in_it(pair: Pair, agent: Agent) -> None:
    conf = NGINX_CONF.replace("include vhosts", "include more/deep/*.conf; include vhosts")
    wanted = {"conf/more": "dir", "conf/more/deep": "dir", "conf/more/deep/a.conf": HERE, "conf/nginx.conf": conf}
    assert agent.transact(agent.plan(wanted))["outcome"] == "applied"
    assert pair.web2.get("/", port=81) == (200, "here")


def test_a_test_that_hangs_is_ended_in_time(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    host.run(["mkfifo", "/srv/fifo"])
    agent.settings["test_timeout_s"] = 0.5
    before = manifest_of(host)
    answer = agent.transact(agent.plan({"conf/vhosts/a.conf": "include /srv/fifo;\n"}))
    assert answer["outcome"] == "refused"
    assert "nginx -t did not end within 0.5 s" in errors_of(answer)[0][2]
    assert [line for line in host.commands().values() if " -t" in line] == []
    assert manifest_of(host) == before


def test_many_open_files_as_the_running_nginx_may_have(pair: Pair, agent: Agent) -> None:
    """The test runs with the limit of nginx, not with that of a login."""
    logs = "".join(f"access_log logs/access-{number}.log;\n" for number in range(100))
    request = agent.plan({"conf/vhosts/a.conf": f"server {{ listen 81; {logs} }}\n"})
    few = ["prlimit", "--nofile=64:", *agent_argv("transact")]
    done = pair.web2.run(few, input=json.dumps(request))
    assert json.loads(done.stdout)["outcome"] == "applied", done.stdout


def test_live_rehearsal_is_undone_where_nginx_refuses(pair: Pair, agent: Agent) -> None:
    host = pair.web2
    agent.settings["rehearse"] = "live"
    before = manifest_of(host)
    answer = agent.transact(agent.plan({"conf/vhosts/a.conf": "server { nonsense; }\n", "html/index.html": None}))
    assert (answer["outcome"], answer["code"]) == ("refused", "refused")
    assert errors_of(answer)[0][:2] == (f"{ROOT}/conf/vhosts/a.conf", 1)
    assert manifest_of(host) == before
    assert host.reload_count() == 0
    assert agent.transact(agent.plan({"conf/vhosts/a.conf": HERE}))["outcome"] == "applied"


# without root, or with a root that is none outside its container

MINE = "/srv/mine"
PORT_8080 = "server { listen 8080; return 200 mine; }\n"
OWN_TEMPORARY = "".join(
    f"{name}_temp_path {name}_temp;\n    " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)
MY_CONF = NGINX_CONF.replace("user www-data;\n", "").replace("include mime", OWN_TEMPORARY + "include mime")
MY_TREE = {**BASE_TREE, "conf/nginx.conf": MY_CONF, "conf/vhosts/default.conf": PORT_8080}
AS_1234 = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "--inh-caps=-all"]


class Unprivileged(Agent):
    """The agent of user 1234, with a tree and an nginx of its own."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, root=MINE)
        self.projection["owners"] = False
        host.path("/srv/state").mkdir()
        write_tree(host, MINE, MY_TREE)
        host.run(["chown", "-R", "1234:1234", MINE, "/srv/state"])
        host.run([*AS_1234, "nginx", "-p", MINE, "-c", "conf/nginx.conf"])

    def plan(self, wanted: dict[str, Any], run: str = "") -> dict[str, Any]:
        request = super().plan(wanted, run)
        self.host.run(["chown", "-R", "1234:1234", request["stages"][MINE]])
        return request

    def request(self, **more: Any) -> dict[str, Any]:
        return super().request(**{"state_dir": "/srv/state", **more})

    def call(self, verb: str, **request: Any) -> dict[str, Any]:
        argv = [*AS_1234, *agent_argv(verb)]
        return dict(json.loads(self.host.run(argv, input=json.dumps(self.request(**request))).stdout))

    def _entry(self, *arguments: Any) -> Any:
        entry = super()._entry(*arguments)
        return None if entry is None else entry._replace(owner="", group="")


def test_without_root(pair: Pair) -> None:
    host = pair.web2
    host.stop_nginx()
    agent = Unprivileged(host)
    agent.settings["test_timeout_s"] = 20
    request = agent.plan({"conf/vhosts/a.conf": "server { listen 8081; }\nserver { listen 192.0.2.77:8082; }\n"})
    before = manifest_of(host, MINE)
    with nothing_changes(host):
        answer = agent.call("validate")
    assert (answer["passed"], answer["problems"]) == (True, [])
    refused = agent.transact(request)
    assert refused.get("outcome") == "refused", refused
    assert "bind() to 192.0.2.77:8082 failed" in errors_of(refused)[0][2]
    assert manifest_of(host, MINE) == before
    applied = agent.transact(
        agent.plan({"conf/vhosts/a.conf": "server { listen 8081; return 200 new; }\n", "html/index.html": None})
    )
    assert applied["outcome"] == "applied", applied
    assert host.get("/", port=8081) == (200, "new")


def test_without_root_a_tree_below_a_tmp_that_is_no_mount_and_mounts_below_sys(pair: Pair) -> None:
    """As on a machine with /tmp on its root and cgroups of version 1: what stands in for / has to look below what it covers."""
    host, root = pair.web2, "/tmp/ngxsync-test-tree"
    host.stop_nginx()
    agent = Unprivileged(host)
    agent.settings.update(root=root, conf=f"{root}/conf/nginx.conf")
    script = f"""
        umount --recursive --lazy /tmp && cp -a {MINE} {root}
        cd /sys/fs/cgroup && mount -t tmpfs -o mode=755 none . && cd /sys/fs/cgroup
        ln -s one two && mkdir one && mount -t tmpfs none one
        exec "$@"
    """
    argv = ["unshare", "-m", "sh", "-ec", script, "sh", *AS_1234, *agent_argv("validate")]
    answer = json.loads(host.run(argv, input=json.dumps(agent.request())).stdout)
    assert answer.get("passed"), answer


def test_live_validation_makes_no_view(pair: Pair, agent: Agent) -> None:
    """What `nginx -t` makes is made for real then: a host that allows no view can still be a master."""
    write_tree(pair.web2, ROOT, {"conf/nginx.conf": GREEDY})
    assert agent.call("validate")["passed"]
    assert not pair.web2.path("/srv/cache").exists()
    agent.settings["rehearse"] = "live"
    assert agent.call("validate")["passed"]
    assert pair.web2.path("/srv/cache").exists()


def test_without_root_nginx_does_not_believe_that_it_is_root(pair: Pair) -> None:
    """As root it would give its directories away, which fails; as a user it warns that `user` makes no sense."""
    pair.web2.stop_nginx()
    agent = Unprivileged(pair.web2)
    answer = agent.transact(agent.plan({"conf/nginx.conf": "user daemon;\n" + MY_CONF}))
    assert answer.get("outcome") == "applied", answer


def test_a_root_that_is_none_outside_its_container(pair: Pair) -> None:
    host = pair.web2
    host.stop_nginx()
    write_tree(host, ROOT, {**MY_TREE, "conf/nginx.conf": "user root;\n" + MY_CONF})
    script = f'nginx -p {ROOT} -c conf/nginx.conf && exec "$@"'
    argv = ["unshare", "-Urm", "sh", "-c", script, "sh", *agent_argv("validate")]
    text = json.dumps(Agent(host).request())
    assert json.loads(host.run(argv, input=text).stdout)["passed"]
    write_tree(host, ROOT, {"conf/vhosts/a.conf": "server { listen 192.0.2.77:81; }\n"})
    host.stop_nginx()
    with nothing_changes(host):
        answer = json.loads(host.run(["unshare", "-Urm", *agent_argv("validate")], input=text).stdout)
    assert "bind() to 192.0.2.77:81 failed" in errors_of(answer)[0][2]


def test_where_no_view_can_be_made_the_run_is_held_and_says_why(pair: Pair) -> None:
    host = pair.web2
    agent = Agent(host)
    request = agent.plan({"conf/vhosts/a.conf": HERE})
    before = manifest_of(host)
    forbidden = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    answer = json.loads(host.run([*forbidden, *agent_argv("transact")], input=json.dumps(request)).stdout)
    assert (answer["outcome"], answer["code"]) == ("held", "rehearse")
    assert "make namespaces: Operation not permitted" in answer["message"]["what"]
    assert "rehearse = live" in answer["message"]["next"]
    assert manifest_of(host) == before

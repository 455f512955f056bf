"""The transaction's records, stage and apply on a real host: bytes, modes, owners, times and link targets of the whole tree."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ngxsync.agent.manifest import Entry, from_json, snapshot_id
from tests.agent import STATE, Agent, File, agent_argv
from tests.faults import DISK, Disk
from tests.hosts import Host, wait_until
from tests.pair import ROOT, Pair, manifest_of

Tree = dict[str, tuple[Any, ...]]
VHOST = "server { listen 81; return 200 one; }\n"


@pytest.fixture
def agent(pair: Pair) -> Agent:
    """The agent of web2, which has accepted its base tree."""
    agent = Agent(pair.web2)
    assert agent.transact(agent.plan({}))["outcome"] == "in-sync"
    return agent


def planned(request: dict[str, Any]) -> Tree:
    """The tree that a request asks for, as `manifest_of` sees it."""
    kinds = {"file": "-", "dir": "d", "link": "l"}
    found = {}
    for path, fields in request["delta"].items():
        kind, mode, owner, group, mtime_ns, _size, content = fields
        name = os.path.relpath(path, ROOT)
        if not name.startswith("logs"):
            found[name] = (kinds[kind], mode, uid(owner), gid(group), 0 if kind == "dir" else mtime_ns, content)
    return found


def uid(name: str) -> int:
    return int(name[1:]) if name.startswith("#") else pwd.getpwnam(name).pw_uid


def gid(name: str) -> int:
    return int(name[1:]) if name.startswith("#") else grp.getgrnam(name).gr_gid


def applied(agent: Agent, wanted: dict[str, Any]) -> dict[str, Any]:
    """Plans and applies, and the whole tree is then exactly the planned one."""
    request = agent.plan(wanted)
    answer = agent.transact(request)
    assert (answer["outcome"], answer["code"]) == ("applied", ""), answer
    assert manifest_of(agent.host) == planned(request)
    assert left_behind(agent.host) == []
    return answer


@contextmanager
def unchanged(host: Host) -> Iterator[None]:
    """Neither the tree nor the running nginx changes, and nothing is left."""
    before, reloads = manifest_of(host), host.reload_count()
    yield
    assert manifest_of(host) == before
    assert host.reload_count() == reloads
    assert left_behind(host) == []
    assert not host.path(f"{STATE}/peer/journal").exists()


def left_behind(host: Host) -> list[str]:
    return os.listdir(host.path(f"{ROOT}/.ngxsync"))


def live(host: Host, name: str) -> Path:
    return host.path(f"{ROOT}/{name}")


def blobs(host: Host) -> set[bytes]:
    """All contents in the store."""
    top = host.path(f"{STATE}/peer/blobs")
    return {Path(folder, name).read_bytes() for folder, _, names in os.walk(top) for name in names}


# what can be planned


def test_every_kind_of_change_is_applied_exactly(agent: Agent) -> None:
    applied(
        agent,
        {
            "conf/vhosts/a.conf": File(VHOST, 0o600, "www-data", "www-data"),
            "html/index.html": File("two\n", 0o4755, "root", "www-data", 1),
            "html/link": ("link", "index.html"),
            "html/gone/deep": "dir",
            "html/gone": "dir",
            "html/numeric": File("n\n", 0o644, "#4242", "#4343"),
            "html/folder": "dir",
            "html/folder/x": "x",
        },
    )
    applied(
        agent,
        {
            "conf/vhosts/a.conf": None,
            "html/link": ("link", "/nowhere"),
            "html/gone/deep": None,
            "html/gone": None,
            "html/numeric": Entry("dir", 0o2750, "#4343", "#4242", 0, 0, ""),
            "html/folder": ("link", "."),
        },
    )


NAMES = [
    "#hash",
    ";semicolon",
    "-dash",
    "with space",
    "new\nline",
    "t\tab",
    "n" * 255,
    "\udcff\udc80",
    "'\"$(id)`",
    "a=b",
    "*?[x]",
]


def test_odd_names_are_names(agent: Agent) -> None:
    files = {f"html/{name}/{name}": f"content of {number}" for number, name in enumerate(NAMES)}
    applied(agent, {**{f"html/{name}": "dir" for name in NAMES}, **files})
    applied(agent, {f"html/{name}/{name}": "another" for name in NAMES})
    applied(agent, {f"html/{name}": None for name in NAMES})


def test_a_very_deep_tree(agent: Agent) -> None:
    deep = ["html/" + "/".join(["d" * 100] * depth) for depth in range(1, 30)]
    applied(agent, {**dict.fromkeys(deep, "dir"), deep[-1] + "/file": "deep"})
    applied(agent, {deep[0]: None})


def test_attributes_acl_label_and_capabilities_survive_replace_and_undo(agent: Agent) -> None:
    file, name = live(agent.host, "html/index.html"), f"{ROOT}/html/index.html"
    os.chown(file, 33, 33)
    agent.host.run(["setcap", "cap_net_raw+ep", name])
    agent.host.run(["setfacl", "-m", "u:4242:r", name])
    os.setxattr(file, "user.note", b"mine")
    os.setxattr(file, "security.selinux", b"system_u:object_r:httpd_sys_content_t:s0\0")
    before = {key: os.getxattr(file, key) for key in os.listxattr(file)}
    assert {"security.capability", "security.selinux", "system.posix_acl_access", "user.note"} <= set(before)
    mode = stat.S_IMODE(file.stat().st_mode)

    applied(agent, {"html/index.html": File("replaced\n", mode, "www-data", "www-data")})
    assert {key: os.getxattr(file, key) for key in os.listxattr(file)} == before

    applied(agent, {"html/index.html": Entry("file", mode, "root", "root", 7, 9, agent.live()[name].content)})
    assert {key: os.getxattr(file, key) for key in os.listxattr(file)} == before, "a change of owner alone"

    refused = {
        "html/index.html": File("other\n", mode, "#99", "#99"),
        "conf/vhosts/taken.conf": "server { listen 8181; }\n",
    }
    tree = manifest_of(agent.host)
    with occupied(agent.host, 8181):
        assert agent.transact(agent.plan(refused))["outcome"] == "undone"
    assert manifest_of(agent.host) == tree
    assert {key: os.getxattr(file, key) for key in os.listxattr(file)} == before, "an undo"


@contextmanager
def occupied(host: Host, port: int) -> Iterator[None]:
    """A port that nginx -t in its view cannot see taken, since it tests without listening for long; the reload does."""
    with host.socket() as taken:
        taken.bind(("0.0.0.0", port))
        taken.listen()
        yield


def test_a_removed_directory_comes_back_with_its_attributes(agent: Agent) -> None:
    folder = live(agent.host, "html/private")
    folder.mkdir(mode=0o750)
    os.chown(folder, 33, 4242)
    folder.chmod(0o2750)
    os.setxattr(folder, "user.note", b"mine")
    tree = manifest_of(agent.host)
    with occupied(agent.host, 8181):
        answer = agent.transact(agent.plan({"html/private": None, "conf/vhosts/x.conf": "server { listen 8181; }\n"}))
    assert answer["outcome"] == "undone"
    assert manifest_of(agent.host) == tree
    assert os.getxattr(folder, "user.note") == b"mine"


def test_a_removed_directory_comes_back_also_where_the_disk_is_full_by_then(agent: Agent) -> None:
    folder = live(agent.host, "html/private")
    folder.mkdir(mode=0o750)
    disk = Disk(agent.host)
    tree = manifest_of(agent.host)
    write = f"dd if=/dev/zero of={DISK}/filler oflag=append conv=notrunc"
    fill = f"for bs in 1M 1k 1k 1k; do {write} bs=$bs; sync -f {DISK}; done 2> /dev/null"
    signal = f"kill -HUP $(cat {ROOT}/logs/nginx.pid)"
    agent.settings.update(reload=f"{fill}; {signal}", probe="http://127.0.0.1:1/", prove_timeout_s=2.0)
    answer = agent.transact(agent.plan({"html/private": None, "html/index.html": None}))
    assert answer["outcome"] == "undone", answer
    assert any("No space left on device" in warning for warning in answer["warnings"])
    assert manifest_of(agent.host) == tree
    disk.clear()
    assert agent.call("recover")["ok"]
    assert manifest_of(agent.host) == tree


def test_a_hard_link_is_broken_and_said(agent: Agent) -> None:
    os.link(live(agent.host, "html/index.html"), live(agent.host, "html/other.html"))
    answer = applied(agent, {"html/index.html": "new\n"})
    assert answer["warnings"] == [f"{ROOT}/html/index.html was a hard link: its other names keep the old content"]
    assert live(agent.host, "html/other.html").read_text() == "<h1>It works</h1>\n"


def test_sockets_and_pipes_are_reported_and_left_alone(agent: Agent) -> None:
    os.mkfifo(live(agent.host, "html/pipe"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(live(agent.host, "html/s")))
    scanned = agent.scan()
    assert scanned["specials"] == [f"{ROOT}/html/pipe", f"{ROOT}/html/s"]
    with unchanged(agent.host):
        answer = agent.transact(agent.plan({"html/pipe": "a file where the pipe is\n"}))
    assert (answer["outcome"], answer["code"]) == ("held", "type-change")


# what excluded entries keep


def test_a_directory_that_holds_excluded_entries_stays_and_does_not_count(agent: Agent) -> None:
    applied(agent, {"html/old": "dir", "html/old/page": "p"})
    live(agent.host, "html/old/.page.swp").write_text("an editor's")
    request = agent.plan({"html/old": None})
    answer = agent.transact(request)
    assert (answer["outcome"], answer["warnings"]) == (
        "applied",
        [f"{ROOT}/html/old stays: it holds excluded or special entries"],
    )
    assert os.listdir(live(agent.host, "html/old")) == [".page.swp"]
    assert agent.scan()["kept_apart"] == [f"{ROOT}/html/old/.page.swp", f"{ROOT}/logs/access.log"]
    again = {**request, "run": "again", "changes": [], "generation": agent.generation}
    answer = agent.transact(again)
    assert (answer["outcome"], answer["code"]) == ("in-sync", "")


def test_a_type_change_over_excluded_entries_is_held(agent: Agent) -> None:
    applied(agent, {"html/old": "dir", "html/old/page": "p"})
    live(agent.host, "html/old/.page.swp").write_text("an editor's")
    with unchanged(agent.host):
        answer = agent.transact(agent.plan({"html/old": "now a file\n"}))
    assert (answer["outcome"], answer["code"]) == ("held", "type-change")
    assert answer["message"]["where"] == f"{ROOT}/html/old"


# who may write


def test_the_generation_that_this_master_wrote_last_is_needed(agent: Agent) -> None:
    other = Agent(agent.host)
    stale = Agent(agent.host)
    stale.generation, other.generation = agent.generation, agent.generation
    other.number = 500
    applied(other, {"html/index.html": "by another\n"})
    stale.number = 600
    with unchanged(agent.host):
        answer = stale.transact(stale.plan({"html/index.html": "by a stale master\n"}))
    assert (answer["outcome"], answer["code"]) == ("held", "generation")
    assert re.match(
        r"web1 wrote here last \(run 000501-test, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\)", answer["message"]["what"]
    )

    with unchanged(agent.host):
        sneaked = {**stale.plan({"html/index.html": "by adoption\n"}), "adopt": True}
        assert stale.transact(sneaked)["code"] == "generation"
    equal = {**stale.plan({}), "adopt": True}
    live(agent.host, "html/index.html").write_text("edited since the comparison\n")
    with unchanged(agent.host):
        assert stale.transact(equal)["code"] == "peer-changed"
    forced = {**stale.plan({"html/index.html": "forced\n"}), "force": ["generation"]}
    assert stale.transact(forced)["outcome"] == "applied"
    assert stale.generation not in (other.generation, agent.generation)
    assert other.transact({**other.plan({}), "adopt": True})["outcome"] == "in-sync"


def test_without_a_record_in_common_it_is_first_contact(agent: Agent) -> None:
    stranger = Agent(agent.host)
    stranger.number = 700
    with unchanged(agent.host):
        answer = stranger.transact({**stranger.plan({"html/index.html": "x"}), "first_contact": False})
    assert (answer["outcome"], answer["code"]) == ("held", "first-contact")
    agent.host.path(f"{STATE}/peer/accepted.json").unlink()
    with unchanged(agent.host):
        assert agent.transact(agent.plan({"html/index.html": "x"}))["code"] == "first-contact"


@pytest.mark.parametrize(
    "mend",
    [
        {"id": "0" * 64},
        {"changes": [{"path": "/etc/passwd", "before": None, "after": ["dir", 0o755, "root", "root", 0, 0, ""]}]},
        {
            "changes": [
                {"path": f"{ROOT}/../../../etc/x", "before": None, "after": ["dir", 0o755, "root", "root", 0, 0, ""]}
            ]
        },
        {
            "changes": [
                {"path": f"{ROOT}/.ngxsync/x", "before": None, "after": ["dir", 0o755, "root", "root", 0, 0, ""]}
            ]
        },
        {"changes": [{"path": f"{ROOT}/html", "before": ["dir", 0o755, "root", "root", 0, 0, ""], "after": None}]},
        {
            "changes": [
                {
                    "path": f"{ROOT}/x",
                    "before": None,
                    "after": ["file", 0o644, "root", "root", 0, 1, "../../etc/shadow"],
                }
            ]
        },
        {"changes": [{"path": f"{ROOT}/x", "before": None, "after": ["device", 0o644, "root", "root", 0, 1, ""]}]},
        {"changes": None},
        {"run": "../../../tmp/x"},
        {"run": None},
        {"nginx": {}},
    ],
    ids=lambda mend: json.dumps(mend)[:60],
)
def test_a_request_that_no_plan_makes_changes_nothing(agent: Agent, mend: dict[str, Any]) -> None:
    request = {**agent.plan({}), **mend}
    with unchanged(agent.host):
        answer = agent.transact(request)
        assert (answer["ok"], answer["code"]) == (False, "agent"), answer
        agent.host.run(["rm", "-rf", f"{ROOT}/.ngxsync/{agent.number:06d}-test"])
    assert not Path(str(agent.host.path("/tmp/x"))).exists()


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"protocol": 99}', "[" * 100_000, '{"protocol": 1, "run"'])
def test_an_unclean_request_is_a_clear_failure(agent: Agent, text: str) -> None:
    with unchanged(agent.host):
        done = agent.host.run(agent_argv("transact"), input=text)
    answer = json.loads(done.stdout)
    assert (answer["ok"], answer["code"]) == (False, "protocol" if "99" in text else "agent")
    assert answer["message"]["what"]


def test_a_request_without_end_is_refused(agent: Agent) -> None:
    flood = ["sh", "-c", "head -c 300000000 /dev/zero | tr '\\0' ' ' | \"$@\"", "sh", *agent_argv("transact")]
    answer = json.loads(agent.host.run(flood).stdout)
    assert (answer["code"], answer["message"]["what"]) == (
        "agent",
        "the request is no JSON object of at most 268435456 bytes",
    )


def test_a_tree_that_is_absent_is_made_with_the_planned_mode(pair: Pair) -> None:
    agent = Agent(pair.web2, root="/srv/www/tree")
    agent.settings["conf"] = f"{ROOT}/conf/nginx.conf"
    scanned = agent.scan()
    assert (scanned["empty"], scanned["changed"]) == (True, {})
    request = agent.plan({"page": "new\n"})
    root = Entry("dir", 0o751, "www-data", "root", 0, 0, "")
    request["changes"].insert(0, {"path": agent.root, "before": None, "after": list(root)})
    request["delta"][agent.root] = list(root)
    request["id"] = snapshot_id(from_json(request["delta"]), agent.projection)
    assert agent.transact(request)["outcome"] == "applied"
    tree = manifest_of(agent.host, agent.root)
    assert tree["."] == ("d", 0o751, 33, 0, 0, "")
    assert agent.host.path("/srv/www").stat().st_mode & 0o777 == 0o755
    assert agent.scan()["id"] == request["id"]


def test_a_symlinked_root_is_followed_once(pair: Pair) -> None:
    real = pair.web2.path("/srv/real")
    real.mkdir()
    pair.web2.path("/srv/alias").symlink_to("real")
    agent = Agent(pair.web2, root="/srv/alias")
    agent.settings["conf"] = f"{ROOT}/conf/nginx.conf"
    answer = agent.transact(agent.plan({"page": "new\n", "folder": "dir", "folder/x": "x"}))
    assert answer["outcome"] == "applied", answer
    assert agent.scan()["roots"]["/srv/alias"]["real"] == "/srv/real"
    assert (real / "folder/x").read_text() == "x"
    assert os.listdir(real / ".ngxsync") == []


# the stage


def tampered(agent: Agent, name: str, wanted: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """(a request whose stage is filled, the staged file of that name)."""
    request = agent.plan(wanted)
    return request, agent.host.path(request["stages"][ROOT] + "/" + name)


def test_other_staged_content_is_noticed(agent: Agent) -> None:
    with unchanged(agent.host):
        for spoil in (
            lambda staged: staged.write_text("another!\n"),
            lambda staged: staged.unlink(),
            lambda staged: (staged.unlink(), staged.symlink_to("/etc/passwd")),
            lambda staged: (staged.unlink(), os.mkfifo(staged)),
            lambda staged: (staged.unlink(), staged.mkdir()),
            lambda staged: (staged.unlink(), staged.parent.rmdir(), staged.parent.symlink_to(f"{ROOT}/html")),
        ):
            request, staged = tampered(agent, "html/index.html", {"html/index.html": "planned!\n"})
            spoil(staged)
            answer = agent.transact(request)
            assert (answer["outcome"], answer["code"]) == ("failed", "stage-differs"), answer
            assert answer["message"]["next"]


def test_what_else_lies_in_the_stage_is_ignored(agent: Agent) -> None:
    request, staged = tampered(agent, "html/index.html", {"html/index.html": "planned\n"})
    staged.with_name("more.html").write_text("not planned")
    assert agent.transact(request)["outcome"] == "applied"
    assert manifest_of(agent.host) == planned(request)


def test_a_writer_that_has_the_staged_file_open_never_reaches_the_live_one(agent: Agent) -> None:
    request, staged = tampered(agent, "html/index.html", {"html/index.html": "planned\n"})
    with staged.open("r+") as slow:
        assert agent.transact(request)["outcome"] == "applied"
        slow.write("late!\n")
        slow.flush()
        assert manifest_of(agent.host) == planned(request)


def test_a_staged_file_with_another_name_elsewhere_is_copied(agent: Agent) -> None:
    request, staged = tampered(agent, "html/index.html", {"html/index.html": File("planned\n", 0o600, "www-data")})
    other = agent.host.path("/usr/local/nginx/.elsewhere.swp")
    os.link(staged, other)
    assert agent.transact(request)["outcome"] == "applied"
    other.write_text("written to the other name\n")
    assert other.stat().st_uid == 0
    assert manifest_of(agent.host, without=("logs", ".ngxsync", ".elsewhere.swp")) == planned(request)


def test_planted_folders_of_ours_are_not_followed(agent: Agent) -> None:
    outside = agent.host.path("/srv/outside")
    outside.mkdir()
    (outside / "keep").write_text("theirs\n")
    own = live(agent.host, ".ngxsync")
    request = agent.plan({"html/index.html": "planned\n"})
    subprocess.run(["rm", "-rf", own], check=True)
    own.symlink_to("/srv/outside")
    before = manifest_of(agent.host)
    answer = agent.transact(request)
    assert answer["code"] == "disk"
    assert f"{ROOT}/.ngxsync: is in the way" in answer["message"]["what"]
    assert agent.call("stage", run="r1", trees=[ROOT])["code"] == "disk"
    own.unlink()
    own.mkdir(mode=0o777)
    os.chown(own, 33, 33)
    assert agent.call("stage", run="r2", trees=[ROOT])["code"] == "disk"
    own.rmdir()
    assert agent.call("stage", run="r3", trees=[ROOT])["ok"]
    (own / "r3" / "prep").symlink_to("/srv/outside")
    (own / "other").symlink_to("/srv/outside")
    assert agent.call("stage", run="r4", trees=[ROOT])["ok"]
    assert os.listdir(own) == ["r4"]
    assert manifest_of(agent.host) == before
    assert (os.listdir(outside), (outside / "keep").read_text()) == (["keep"], "theirs\n")


# what changes meanwhile


def test_what_changed_since_the_plan_ends_the_run(agent: Agent) -> None:
    wanted = {"html/index.html": "planned\n", "html/created": "c\n", "html/gone": None, "html/link": ("link", "b")}
    applied(agent, {"html/gone": "g", "html/link": ("link", "a"), "html/folder": "dir"})
    changes = (
        lambda: live(agent.host, "html/index.html").write_text("edited\n"),
        lambda: live(agent.host, "html/index.html").unlink(),
        lambda: live(agent.host, "html/created").write_text("created here\n"),
        lambda: live(agent.host, "html/gone").write_text("edited\n"),
        lambda: live(agent.host, "html/link").unlink(),
        lambda: live(agent.host, "html/folder").chmod(0o700),
    )
    for change in changes:
        request = agent.plan({**wanted, "html/folder": Entry("dir", 0o711, "root", "root", 0, 0, "")})
        tree = {name: live(agent.host, name) for name in ("html/index.html", "html/created", "html/gone")}
        kept = {name: path.read_bytes() for name, path in tree.items() if path.exists()}
        change()
        with unchanged(agent.host):
            answer = agent.transact(request)
        assert (answer["outcome"], answer["code"]) == ("failed", "peer-changed"), answer
        for name, content in kept.items():
            tree[name].write_bytes(content)
        live(agent.host, "html/created").unlink(missing_ok=True)
        live(agent.host, "html/folder").chmod(0o755)
        if not live(agent.host, "html/link").is_symlink():
            live(agent.host, "html/link").symlink_to("a")


def test_a_directory_that_became_a_link_is_not_followed(agent: Agent) -> None:
    applied(agent, {"html/a": "dir", "html/a/victim": "v", "html/a/other": "o"})
    outside = agent.host.path("/srv/outside")
    outside.mkdir()
    for name in ("victim", "other"):
        (outside / name).write_bytes(live(agent.host, f"html/a/{name}").read_bytes())
        os.utime(outside / name, ns=(1, 1))
    request = agent.plan({"html/a/victim": None, "html/a/other": "replaced", "html/a/new": "n"})
    live(agent.host, "html/a").rename(live(agent.host, "html/b"))
    live(agent.host, "html/a").symlink_to("/srv/outside")
    with unchanged(agent.host):
        assert agent.transact(request)["code"] == "peer-changed"
    assert sorted(os.listdir(outside)) == ["other", "victim"]
    assert (outside / "other").read_text() == "o"


def test_an_edit_between_comparison_and_exchange_is_put_back_whole(agent: Agent) -> None:
    """Each kind of change is held up just before it is made; what was made before it goes too."""
    applied(agent, {"html/a": "1", "html/b": "1", "html/gone": "g", "html/link": ("link", "a")})
    wanted = {"html/a": "2", "html/b": "2", "html/gone": None, "html/link": ("link", "b"), "html/new": "n"}
    edits: dict[str, Callable[[Path], Any]] = {
        "html/b": lambda path: path.write_text("edited"),
        "html/gone": lambda path: path.write_text("edited"),
        "html/link": lambda path: (path.unlink(), path.write_text("a file now")),
        "html/new": lambda path: path.write_text("made here"),
    }
    for name, edit in edits.items():
        request = agent.plan(wanted)
        argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2"]
        slowed = [*argv, "-e", "inject=renameat2:delay_enter=400000:when=1", "--", *agent_argv("transact")]
        with agent.host.popen(slowed, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            wait_until(agent.host.path(f"{STATE}/peer/journal").exists, "the journal is open", every_s=0.001)
            edit(live(agent.host, name))
            expected = manifest_of(agent.host)
            answer = json.loads(process.communicate()[0])
        assert (answer["code"], answer["message"]["where"]) == ("peer-changed", f"{ROOT}/{name}")
        assert answer["message"]["state"] == "its old files are back"
        assert manifest_of(agent.host) == expected
        assert left_behind(agent.host) == []
        live(agent.host, "html/new").unlink(missing_ok=True)


SAVES = """
import ctypes, hashlib, os, random, sys, time
path, log, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
random.seed(1)
replaced = open(log, "w")
for number in range(count):
    text = "edit %d\\n" % number
    with open(path + "~", "w") as stream:
        stream.write(text)
    # as an editor's rename, but it tells what it replaced
    if libc.renameat2(-100, (path + "~").encode(), -100, path.encode(), 2):
        os.rename(path + "~", path)
        replaced.write("nothing\\n")
    else:
        replaced.write(open(path + "~").read())
    time.sleep(random.choice(PAUSES))
""".replace("PAUSES", repr([0.002] * 10 + [0.01] * 9 + [0.4]))


@pytest.mark.timeout(240)
def test_no_edit_of_an_editor_that_saves_by_rename_is_lost(agent: Agent) -> None:
    """Each edit was replaced by the editor's own next one, or is live, or is in the store.

    It saves in bursts with pauses between, so that transactions meet it at work, and some are done between two saves.
    """
    count, outcomes = 400, []
    log = agent.host.path("/tmp/replaced")
    argv = [sys.executable, "-c", SAVES, f"{ROOT}/html/index.html", "/tmp/replaced", str(count)]
    with agent.host.popen(argv) as editor:
        while editor.poll() is None:
            request = agent.plan({"html/index.html": f"planned {len(outcomes)}\n"})
            answer = agent.transact({**request, "reload": False})
            outcomes.append(answer["code"])
            assert answer["outcome"] in ("applied", "failed"), answer
    last = live(agent.host, "html/index.html").read_text()
    known = {*log.read_text().splitlines(), last.strip(), *(text.decode().strip() for text in blobs(agent.host))}
    missing = {f"edit {number}" for number in range(count)} - known
    assert not missing, (missing, outcomes)
    assert "peer-changed" in outcomes
    assert set(outcomes) <= {"", "peer-changed"}
    assert left_behind(agent.host) == []


LATE_WRITER = """
import os, sys
path = sys.argv[1]
stream = open(path, "r+")
stream.seek(0, 2)
print("open", flush=True)
while os.stat(path).st_ino == os.fstat(stream.fileno()).st_ino:
    pass
stream.write("written after the exchange\\n")
"""


def test_what_is_written_to_the_replaced_file_is_kept_and_said(agent: Agent) -> None:
    was = live(agent.host, "html/index.html").read_bytes()
    request = agent.plan({"html/index.html": "planned\n"})
    argv = [sys.executable, "-c", LATE_WRITER, f"{ROOT}/html/index.html"]
    with agent.host.popen(argv, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        answer = agent.transact(request)
    assert answer["outcome"] == "applied"
    assert answer["warnings"] == [
        f"{ROOT}/html/index.html was written to while it was replaced: what was written is kept"
    ]
    assert {was, was + b"written after the exchange\n"} <= blobs(agent.host)
    assert manifest_of(agent.host) == planned(request)


def test_who_still_has_the_replaced_file_open_is_told(agent: Agent) -> None:
    request = agent.plan({"html/index.html": "planned\n"})
    with live(agent.host, "html/index.html").open("a"):
        answer = agent.transact(request)
    assert answer["warnings"] == [
        f"{ROOT}/html/index.html: a process still writes to what was replaced; what it writes from now on is lost"
    ]


def test_the_store_shares_no_inode_with_a_live_file(agent: Agent) -> None:
    applied(agent, {"html/index.html": "two\n"})
    applied(agent, {"html/index.html": "<h1>It works</h1>\n"})
    with live(agent.host, "html/index.html").open("a") as stream:
        stream.write("appended\n")
    assert b"<h1>It works</h1>\n" in blobs(agent.host)


# users


def test_an_unknown_user_is_named_before_anything_changes(agent: Agent) -> None:
    with unchanged(agent.host):
        answer = agent.transact(agent.plan({"html/x": File("x", 0o644, "nosuch", "nogroup1"), "html/y": "y"}))
        assert (answer["outcome"], answer["code"]) == ("held", "missing-user")
        assert answer["message"]["what"] == f"{agent.host.name} has no group nogroup1, no user nosuch"
        entry = agent.live()[f"{ROOT}/html/index.html"]
        answer = agent.transact(agent.plan({"html/index.html": entry._replace(owner="nosuch")}))
        assert answer["code"] == "missing-user"


# without renameat2


@pytest.mark.parametrize("refused", [False, True])
def test_without_renameat2_link_and_rename_do_and_it_is_said(agent: Agent, refused: bool) -> None:
    first = {"html/a": "1", "html/b": "1", "html/folder": "dir", "html/link": ("link", "a"), "html/file": "f"}
    applied(agent, first)
    second = {"html/a": "2", "html/b": None, "html/c": "3", "html/new": "dir", "html/new/d": "4"}
    types = {"html/folder": "a file", "html/file": "dir", "html/link": "a file too"}
    request = agent.plan({**second, **types, "conf/vhosts/x.conf": "server { listen 8181; }\n"})
    before = manifest_of(agent.host)
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2", "-e", "inject=renameat2:error=ENOSYS"]
    with occupied(agent.host, 8181 if refused else 8282):
        done = agent.host.run([*argv, "--", *agent_argv("transact")], input=json.dumps(request))
    answer = json.loads(done.stdout)
    said = "renameat2 is missing here: an edit in the instant of replacing could have been lost"
    assert (answer["outcome"], answer["warnings"]) == ("undone" if refused else "applied", [said])
    assert manifest_of(agent.host) == (before if refused else planned(request))
    assert left_behind(agent.host) == []


def test_without_renameat2_an_edit_is_noticed_before_it_is_replaced(agent: Agent) -> None:
    request = agent.plan({"html/index.html": "planned\n", "html/made": "x"})
    argv = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=renameat2,linkat",
        "-e",
        "inject=renameat2:error=ENOSYS",
    ]
    slowed = [*argv, "-e", "inject=linkat:delay_enter=300000", "--", *agent_argv("transact")]
    with agent.host.popen(slowed, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        journal = agent.host.path(f"{STATE}/peer/journal")
        wait_until(journal.exists, "the journal is open")
        live(agent.host, "html/index.html").write_text("edited in the window\n")
        answer = json.loads(process.stdout.read())
    assert answer["code"] == "peer-changed"
    assert live(agent.host, "html/index.html").read_text() == "edited in the window\n"
    assert not live(agent.host, "html/made").exists()

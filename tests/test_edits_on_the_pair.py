"""Every kind of edit on the pair: it arrives exactly as it is, and nginx reads its configuration again only where it must.

One process serves all of them: each begins with the same two trees, brought back by a run of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.broken_cases import BROKEN
from tests.hosts import Host
from tests.pair import BASE_TREE, LONG_AGO_NS, ROOT, Pair, write_tree
from tests.resident import Resident, are_equal, raise_if_not_in_sync, resident, served, site

PAGE = "html/index.html"
ODD = "html/#odd\n name"


def live(host: Host, name: str) -> Path:
    return host.path(f"{ROOT}/{name}")


@pytest.fixture(scope="module")
def process(running_pair: Pair) -> Iterator[Resident]:
    running_pair.reset()
    running_pair.write_config(sync="max_delete = no")
    with resident(running_pair) as opened:
        assert opened.sync().exit == 0
        yield opened


@pytest.fixture
def furnished(process: Resident) -> Resident:
    """In sync: the base tree, and with it a directory, links and an odd name."""
    web1 = process.pair.web1
    for name in ("conf", "html"):
        shutil.rmtree(live(web1, name))
    write_tree(web1, ROOT, BASE_TREE)
    write_tree(web1, f"{ROOT}/html", {"shop/a.html": "a", "shop/b.html": "b", "#odd\n name": "odd"})
    link(web1, "html/current", "shop")
    link(web1, "html/a", "shop/a.html")
    run = process.sync()
    assert (run.exit, are_equal(process.pair)) == (0, True), run
    return process


def link(host: Host, name: str, target: str) -> None:
    live(host, name).unlink(missing_ok=True)
    live(host, name).symlink_to(target)


def replace_by_link(host: Host, name: str, target: str) -> None:
    place = live(host, name)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(target)


def replace_by_file(host: Host, name: str) -> None:
    place = live(host, name)
    place.unlink() if place.is_symlink() else shutil.rmtree(place)
    write_tree(host, ROOT, {name: "now a file"})


def replace_by_directory(host: Host, name: str) -> None:
    live(host, name).unlink()
    write_tree(host, ROOT, {f"{name}/inside.html": "now a directory"})


EDITS: dict[str, Callable[[Host], object]] = {
    "chmod": lambda web1: live(web1, PAGE).chmod(0o640),
    "chmod-directory": lambda web1: live(web1, "html/shop").chmod(0o750),
    "chmod-special-bits": lambda web1: live(web1, "html/shop").chmod(0o2775),
    "chown": lambda web1: web1.run(["chown", "www-data:adm", f"{ROOT}/{PAGE}"]),
    "chown-directory": lambda web1: web1.run(["chown", "www-data", f"{ROOT}/html/shop"]),
    "chown-link": lambda web1: web1.run(["chown", "-h", "www-data", f"{ROOT}/html/current"]),
    "retarget-link": lambda web1: link(web1, "html/a", "shop/b.html"),
    "dangling-link": lambda web1: link(web1, "html/nowhere", "../not/there"),
    "link-out-of-the-tree": lambda web1: link(web1, "html/outside", "/etc/hostname"),
    "new-directory": lambda web1: live(web1, "html/empty/below").mkdir(parents=True),
    "remove-directory": lambda web1: shutil.rmtree(live(web1, "html/shop")),
    "rename-directory": lambda web1: live(web1, "html/shop").rename(live(web1, "html/store")),
    "rename-file": lambda web1: live(web1, PAGE).rename(live(web1, "html/other.html")),
    "directory-to-file": lambda web1: replace_by_file(web1, "html/shop"),
    "directory-to-link": lambda web1: replace_by_link(web1, "html/shop", "."),
    "file-to-directory": lambda web1: replace_by_directory(web1, PAGE),
    "file-to-link": lambda web1: replace_by_link(web1, PAGE, "shop/a.html"),
    "link-to-file": lambda web1: replace_by_file(web1, "html/a"),
    "link-to-directory": lambda web1: replace_by_directory(web1, "html/current"),
    "odd-name-edited": lambda web1: write_tree(web1, ROOT, {ODD: "edited"}),
    "odd-name-deleted": lambda web1: live(web1, ODD).unlink(),
    "names-that-look-like-options": lambda web1: write_tree(
        web1, ROOT, {"html/-rf": "x", "html/;x": "y", "html/ ": "z"}
    ),
    "not-utf-8": lambda web1: Path(os.fsdecode(os.fsencode(live(web1, "html")) + b"/\xff\xfe.html")).write_bytes(
        b"\xff"
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_content_arrives_exactly_and_nginx_goes_on(furnished: Resident, edit: str) -> None:
    pair = furnished.pair
    workers = pair.web2.nginx_workers()
    EDITS[edit](pair.web1)

    run = furnished.sync()

    assert (run.exit, run.outcome, run.peer["reload"]) == (0, "applied", "not-needed"), run
    assert are_equal(pair)
    assert pair.web2.nginx_workers() == workers
    raise_if_not_in_sync(furnished)


def test_owners_go_by_name(furnished: Resident) -> None:
    pair = furnished.pair
    for host, number in ((pair.web1, "771"), (pair.web2, "772")):
        host.run(["useradd", "--system", "--uid", number, "editor"])
    try:
        pair.web1.run(["chown", "editor:editor", f"{ROOT}/{PAGE}"])
        assert furnished.sync().exit == 0
        assert [live(host, PAGE).stat().st_uid for host in pair.hosts] == [771, 772]
        raise_if_not_in_sync(furnished)
    finally:
        for host in pair.hosts:
            host.run(["userdel", "editor"])


def test_other_bytes_of_equal_size_and_mtime_are_seen(furnished: Resident) -> None:
    pair = furnished.pair
    other = BASE_TREE[PAGE].swapcase()
    write_tree(pair.web1, ROOT, {PAGE: other})
    assert live(pair.web1, PAGE).stat().st_mtime_ns == LONG_AGO_NS

    assert furnished.sync().exit == 0

    assert pair.web2.get("/") == (200, other)
    assert are_equal(pair)


def test_an_mtime_alone_is_furnished_quietly(furnished: Resident) -> None:
    pair = furnished.pair
    before, workers = live(pair.web2, "conf/nginx.conf").stat().st_ino, pair.web2.nginx_workers()
    os.utime(live(pair.web1, "conf/nginx.conf"), ns=(1, 1_600_000_000_123_456_789))

    run = furnished.sync()

    assert (run.exit, run.outcome, run.peer["reload"], run.peer["bytes_sent"]) == (0, "applied", "not-needed", 0), run
    assert run.changes == {f"{ROOT}/conf/nginx.conf": "mtime"}
    assert are_equal(pair)
    assert (live(pair.web2, "conf/nginx.conf").stat().st_ino, pair.web2.nginx_workers()) == (before, workers)


TLS = "server { listen 8443 ssl; ssl_certificate ../html/tls/one.crt; ssl_certificate_key ../html/tls/one.key; }\n"


def test_a_certificate_below_html_that_the_configuration_names_is_reloaded(furnished: Resident) -> None:
    pair = furnished.pair
    pem = {name: (BROKEN / "pem" / name).read_text() for name in ("one.crt", "one.key", "two.key")}
    write_tree(pair.web1, f"{ROOT}/html/tls", {name: pem[name] for name in ("one.crt", "one.key")})
    write_tree(pair.web1, ROOT, {"conf/vhosts/tls.conf": TLS})
    assert furnished.sync().exit == 0
    workers = pair.web2.nginx_workers()
    write_tree(pair.web1, f"{ROOT}/html/tls", {"two.key": pem["two.key"]})
    assert furnished.sync().peer["reload"] == "not-needed", "beside it lies what nobody names"
    assert pair.web2.nginx_workers() == workers

    write_tree(pair.web1, f"{ROOT}/html/tls", {"one.crt": "renewed\n" + pem["one.crt"]})
    run = furnished.sync()

    assert (run.exit, run.peer["reload"]) == (0, "reloaded"), run
    assert not set(workers) & set(pair.web2.nginx_workers())
    assert are_equal(pair)


@pytest.mark.parametrize("edit", ["new", "changed", "deleted", "renamed"])
def test_a_vhost_that_is(furnished: Resident, edit: str) -> None:
    pair = furnished.pair
    vhost = live(pair.web1, "conf/vhosts/site.conf")
    if edit != "new":
        write_tree(pair.web1, ROOT, site("before"))
        assert (furnished.sync().exit, served(pair.web2)) == (0, "before")
    if edit == "deleted":
        vhost.unlink()
    elif edit == "renamed":
        vhost.rename(vhost.with_name("renamed.conf"))
    else:
        write_tree(pair.web1, ROOT, site(edit))

    run = furnished.sync()

    assert (run.exit, run.outcome, run.peer["reload"]) == (0, "applied", "reloaded"), run
    assert served(pair.web2).strip() == {"deleted": BASE_TREE[PAGE].strip(), "renamed": "before"}.get(edit, edit)
    assert are_equal(pair)

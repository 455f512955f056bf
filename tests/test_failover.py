"""The pair as a whole, with real keepalived: who serves through the VIP after each kind of death, what is told, what is never lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.failover import NGINX, QUICK, TUTORIAL, VIP, Duo
from tests.hosts import Host, wait_until
from tests.pair import ROOT, write_tree
from tests.resident import SITE, kept_contents, site

SITE_NAME = "site.example.com"


@pytest.fixture(scope="module")
def running_duo() -> Iterator[Duo]:
    duo = Duo()
    yield duo
    duo.close()


@pytest.fixture
def duo(running_duo: Duo) -> Iterator[Duo]:
    yield running_duo
    for host in running_duo.hosts:  # shown where the test failed
        print(f"--- {host.name}\n{running_duo.logs(host)[-3000:]}")
    running_duo.end()


def break_nginx(host: Host) -> None:
    """It is dead, and cannot be started."""
    host.path(NGINX).chmod(0o644)
    host.stop_nginx()


def mend_nginx(host: Host) -> None:
    host.path(NGINX).chmod(0o755)
    host.start_nginx()


def edit(host: Host, text: str) -> None:
    """As an administrator: saved, tested, reloaded."""
    write_tree(host, ROOT, site(text))
    host.run(
        [
            "sh",
            "-c",
            "nginx -t -q -p /usr/local/nginx -c conf/nginx.conf && kill -HUP $(cat /usr/local/nginx/logs/nginx.pid)",
        ]
    )


def text_of(host: Host) -> str:
    """What is saved there, "" for nothing."""
    file = host.path(f"{ROOT}/{SITE}")
    return file.read_text().partition("return 200 '")[2].partition("'")[0] if file.exists() else ""


def test_the_tutorials_proof(duo: Duo) -> None:
    interval, fall = 2, 3
    limit = 3 * interval * fall + 5
    duo.set_up(vrrp=TUTORIAL)
    duo.start_mail()
    duo.start()
    duo.first_sync()
    wait_until(lambda: duo.page() == "node1", "the VIP shows node1")
    edit(duo.web1, "both")
    wait_until(lambda: text_of(duo.web2) == "both", "an edit goes over")

    begun = time.monotonic()
    break_nginx(duo.web1)
    wait_until(lambda: duo.page() == "node2", "the VIP shows node2", limit)
    assert duo.page("/", SITE_NAME) == "both"
    wait_until(lambda: any("192.0.2.2 change to master" in mail for mail in duo.mails()), "it is told", limit, 0.1)
    assert time.monotonic() - begun < limit
    told = next(mail for mail in duo.mails() if "192.0.2.2 change to master" in mail)
    assert VIP in told
    assert "Entering MASTER STATE" in duo.logs(duo.web2)
    wait_until(lambda: duo.status(duo.web2)["vrrp"][0]["role"] == "master", "status says so")

    mend_nginx(duo.web1)
    wait_until(lambda: duo.page() == "node1", "the VIP comes back to node1", limit)
    assert (duo.web1.path(f"{ROOT}/html/index.html").read_text(), text_of(duo.web1)) == ("node1", "both")


def test_the_masters_link_is_cut(duo: Duo) -> None:
    duo.set_up()
    duo.start()
    duo.first_sync()
    edit(duo.web1, "sent")
    wait_until(lambda: text_of(duo.web2) == "sent", "it goes over")
    duo.web1.run(["ip", "link", "set", "eth0", "down"])
    write_tree(duo.web1, ROOT, site("saved on a host that nobody reaches"))
    wait_until(lambda: duo.page() == "node2", "the backup serves")
    assert duo.page("/", SITE_NAME) == "sent"
    wait_until(lambda: duo.word(duo.web1) == "standby", "web1 knows that it is none", every_s=0.5)

    duo.web1.run(["ip", "link", "set", "eth0", "up"])
    wait_until(lambda: duo.page() == "node1", "it comes back")
    wait_until(lambda: text_of(duo.web2) == text_of(duo.web1), "nobody edited web2: what was saved goes over")


def test_keepalived_is_killed_and_leaves_the_address_behind(duo: Duo) -> None:
    """Then both have it: neither writes to the other, both say so, and a keepalived that comes back ends it."""
    duo.set_up()
    duo.start()
    duo.first_sync()
    duo.stop(duo.web1, "keepalived", 9)
    # on a busy machine one of its processes may live a moment longer than the other, and tidy up
    duo.web1.run(["ip", "address", "add", f"{VIP}/24", "dev", "eth0"], check=False)
    wait_until(lambda: duo.holders() == ["web1", "web2"], "both have the VIP", every_s=0.1)
    edit(duo.web1, "from web1")
    edit(duo.web2, "from web2")
    for host in duo.hosts:
        wait_until(lambda host=host: duo.word(host) == "held", f"{host.name} says that both have it", every_s=0.5)
        message = duo.message(host)
        assert f"carries the VIP {VIP}" in message["what"]
    assert (text_of(duo.web1), text_of(duo.web2)) == ("from web1", "from web2")
    duo.start(duo.web1, daemon=False)
    wait_until(lambda: duo.holders() == ["web1"], "one has it", every_s=0.1)
    decide_after_both_served(duo)


def decide_after_both_served(duo: Duo) -> None:
    """web1 has the VIP again, never having lost it: what was edited on web2 is held, and a person takes it or leaves it."""
    wait_until(lambda: "ngxsync pull" in duo.message(duo.web1)["next"], "web2's edit is held", 60.0, 0.1)
    message = duo.message(duo.web1)
    assert "--force" in message["next"]
    assert (text_of(duo.web1), text_of(duo.web2)) == ("from web1", "from web2")
    forced = duo.ngxsync("sync", "--force", "drift", "--force", "conflict")
    assert forced.returncode == 0, forced.stdout + forced.stderr
    assert text_of(duo.web2) == "from web1"
    assert any(b"from web2" in content for content in kept_contents(duo.web2))


def test_split_brain_with_ssh_open(duo: Duo) -> None:
    duo.set_up()
    duo.start()
    duo.first_sync()
    drop = "table inet t { chain i { type filter hook input priority 0; ip protocol 112 drop; }; }"
    for host in duo.hosts:
        host.run(["nft", drop])
    wait_until(lambda: duo.holders() == ["web1", "web2"], "both take the VIP", every_s=0.1)
    edit(duo.web1, "from web1")
    edit(duo.web2, "from web2")
    for host in duo.hosts:
        wait_until(lambda host=host: duo.word(host) == "held", f"{host.name} says that both have it", every_s=0.5)
    assert (text_of(duo.web1), text_of(duo.web2)) == ("from web1", "from web2")
    check = duo.ngxsync("keepalived", "check")
    assert check.returncode == 1
    assert "112" in check.stdout
    for host in duo.hosts:
        host.run(["nft", "delete", "table", "inet", "t"])
    wait_until(lambda: duo.holders() == ["web1"], "they hear each other again", every_s=0.1)
    decide_after_both_served(duo)


@pytest.mark.parametrize("first", ["keepalived", "daemon"])
def test_what_was_edited_on_the_backup_while_it_served_outlives_the_masters_return(duo: Duo, first: str) -> None:
    duo.set_up()
    duo.start_mail()
    duo.start()
    duo.first_sync()
    edit(duo.web1, "before")
    wait_until(lambda: text_of(duo.web2) == "before", "it goes over")
    duo.web1.run(["ip", "link", "set", "eth0", "down"])
    for what in ("daemon", "keepalived"):
        duo.stop(duo.web1, what, 15)
    wait_until(lambda: duo.holders() == ["web2"], "web2 takes over", every_s=0.1)
    edit(duo.web2, "made while web2 served")
    write_tree(duo.web1, ROOT, {"html/stale.html": "saved on the dead host"})

    duo.web1.run(["ip", "link", "set", "eth0", "up"])
    duo.start(duo.web1, keepalived=first == "keepalived", daemon=first == "daemon")
    if first == "keepalived":
        wait_until(lambda: duo.holders() == ["web1"], "web1 takes the VIP back", every_s=0.1)
        duo.start(duo.web1, keepalived=False)
    else:
        wait_until(lambda: duo.word(duo.web1) == "standby", "web1 waits", every_s=0.5)
        duo.start(duo.web1, daemon=False)
    wait_until(lambda: duo.holders() == ["web1"], "web1 holds the VIP", every_s=0.1)
    wait_until(lambda: duo.word(duo.web1) == "held", "what was edited on web2 is held", every_s=0.5)
    message = duo.message(duo.web1)
    assert "ngxsync pull" in message["next"]
    assert "ngxsync sync --force drift" in message["next"]
    assert text_of(duo.web2) == "made while web2 served"
    wait_until(lambda: any("ngxsync pull" in mail for mail in duo.mails()), "it is told with the command")

    pulled = duo.ngxsync("pull", "--yes")
    assert pulled.returncode == 0, pulled.stdout + pulled.stderr
    assert duo.page("/", SITE_NAME) == "made while web2 served"
    wait_until(lambda: duo.web2.path(f"{ROOT}/html/stale.html").exists(), "and what web1 had goes over")
    wait_until(lambda: duo.word(duo.web1) == "in-sync", "both are equal", every_s=0.5)


def test_a_returning_master_that_shall_not_take_the_vip_back_receives(duo: Duo) -> None:
    """nopreempt: web2 goes on serving; what nobody disputes is taken over, the rest waits for a person."""
    duo.set_up(vrrp=QUICK + "nopreempt = yes\n")
    duo.start(duo.web1)
    wait_until(lambda: duo.holders() == ["web1"], "web1 takes the VIP", every_s=0.1)
    duo.start(duo.web2)
    duo.first_sync()
    edit(duo.web1, "before")
    wait_until(lambda: text_of(duo.web2) == "before", "it goes over")
    duo.stop(duo.web1, "keepalived", 15)
    wait_until(lambda: duo.holders() == ["web2"], "web2 takes over", every_s=0.1)
    wait_until(lambda: duo.word(duo.web2) == "in-sync", "both are equal: web1 is taken over as a peer", every_s=0.5)
    edit(duo.web2, "from web2")
    wait_until(lambda: text_of(duo.web1) == "from web2", "an edit on the new master goes to the old one")
    duo.start(duo.web1, daemon=False)
    assert duo.holders() == ["web2"]
    assert duo.word(duo.web1) == "standby"
    refused = duo.ngxsync("sync")
    assert refused.returncode == 8, refused.stdout

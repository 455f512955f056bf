"""`ngxsync init` on a real pair: the crontab's line becomes a configuration that `sync` runs unchanged."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxsync.core.config import Config, load_config
from ngxsync.core.crontab import parse_crontab_line
from ngxsync.core.draft import Draft, DraftPeer, merge_jobs, place_nginx, render_draft
from ngxsync.core.errors import ConfigError
from ngxsync.core.outside import trees_for
from tests.pair import ROOT, Pair, manifest_of, snapshot_inodes

# the line of DESIGN 1, its address changed
LINE = "30 03 * * *   /usr/bin/rsync -avzP --exclude=logs /usr/local/nginx 192.0.2.2:/usr/local &> /dev/null"
WATCHED = ("/var/lib/ngxsync", "/usr/local/sbin", "/run", "/etc/systemd/system", "/root/.ssh", ROOT)
CONFIG = "/etc/ngxsync/config.ini"
MAILRC = "set from=web@example.com smtp=smtp.example.com smtp-auth-user=web@example.com smtp-auth-password=Secr3t\n"


@pytest.fixture
def cron_pair(pair: Pair) -> Iterator[Pair]:
    """The pair before ngxsync: the access is root's own, as the crontab's line uses it, and nothing of ours is there."""
    ours, roots = pair.web1.path("/etc/ngxsync"), pair.web1.path("/root/.ssh")
    for name in ("id_ed25519", "known_hosts"):
        shutil.copy2(ours / name, roots / name)
    shutil.rmtree(ours)
    yield pair
    ours.mkdir(exist_ok=True)  # `reset` expects it


def written(pair: Pair, file: str = CONFIG) -> Config:
    return load_config(pair.web1.path(file).read_text(), file)


def next_command(output: str) -> str:
    """The one next command, which the story ends with."""
    assert output.count("\nnext: ") == 1
    last = output.splitlines()[-1]
    assert last.startswith("next: ")
    return last.removeprefix("next: ")


def in_shell(pair: Pair, command: str) -> subprocess.CompletedProcess[str]:
    """A command that init told, as a person would run it who has compared the fingerprint and says yes."""
    agreed = command.replace("-o HashKnownHosts=no", "-o HashKnownHosts=no -o StrictHostKeyChecking=accept-new")
    script = f'ngxsync() {{ {sys.executable} -m ngxsync "$@"; }}; {agreed}'
    return pair.web1.run(["sh", "-c", script], check=False, env={"PYTHONPATH": str(Path(__file__).parent.parent)})


def test_the_line_of_the_tutorial_becomes_a_configuration_that_sync_runs_unchanged(cron_pair: Pair) -> None:
    pair = cron_pair
    pair.web1.path(f"{ROOT}/html/new.html").write_text("new")
    pair.web1.path("/run/mail.rc").write_text(MAILRC)
    done = pair.ngxsync("init", "--from-crontab", LINE, "--from-mail-rc", "/run/mail.rc")
    assert done.returncode == 0, done.stdout + done.stderr
    config = written(pair)
    (peer,) = config.peers
    password = pair.web1.path("/etc/ngxsync/mail-password")
    assert (config.mail.smtp_host, config.mail.user, str(config.mail.password_file)) == (
        "smtp.example.com",
        "web@example.com",
        "/etc/ngxsync/mail-password",
    )
    assert (password.read_text(), stat.S_IMODE(password.stat().st_mode)) == ("Secr3t\n", 0o600)
    assert "Secr3t" not in done.stdout + pair.web1.path(CONFIG).read_text()
    assert "clear text" in done.stdout
    assert (config.nginx.root, config.sync.trees, config.sync.exclude) == (ROOT, (ROOT,), ("logs",))
    assert (config.sync.schedule, peer.name, peer.host, peer.port, peer.user) == (
        "30 03 * * *",
        "web2",
        "192.0.2.2",
        22,
        "root",
    )
    assert peer.identity == Path("/root/.ssh/id_ed25519")
    assert next_command(done.stdout) == "ngxsync sync"
    assert "The first sync to web2: 1 path to send\n" in done.stdout

    synced = pair.ngxsync("sync")
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert manifest_of(pair.web1) == manifest_of(pair.web2)


def test_its_files_are_private_and_the_host_key_is_copied(cron_pair: Pair) -> None:
    pair = cron_pair
    pair.ngxsync("init", "--from-crontab", LINE)
    folder = pair.web1.path("/etc/ngxsync")
    assert sorted(file.name for file in folder.iterdir()) == ["config.ini", "known_hosts"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert (folder / "known_hosts").read_text().startswith("192.0.2.2 ssh-ed25519 ")


def test_it_counts_what_the_line_never_deleted(cron_pair: Pair) -> None:
    pair = cron_pair
    for number in range(41):
        pair.web2.path(f"{ROOT}/html/old-{number}.html").write_text("old")
    done = pair.ngxsync("init", "--from-crontab", LINE)
    assert done.returncode == 0
    assert (
        "  - it never deleted: 41 old paths on web2; the first sync shows them, asks, and removes them\n" in done.stdout
    )
    assert "The first sync to web2: 41 old paths to remove\n" in done.stdout


def test_it_says_where_the_line_was_surprising(cron_pair: Pair) -> None:
    told = cron_pair.ngxsync("init", "--from-crontab", LINE).stdout
    assert "--exclude=logs is not anchored" in told
    assert "&> does not redirect: it starts rsync in the background" in told
    assert "it copied broken configuration as well" in told
    assert "After the first sync take the line out of the crontab: 30 03 * * *" in told


def test_nothing_changes_on_the_peer_nor_in_the_records_here(cron_pair: Pair) -> None:
    pair = cron_pair
    before = snapshot_inodes(pair.web2, *WATCHED)
    temporary = [list(host.path("/tmp").iterdir()) for host in pair.hosts]
    done = pair.ngxsync("init", "--from-crontab", LINE)
    assert done.returncode == 0
    assert snapshot_inodes(pair.web2, *WATCHED) == before
    assert [list(host.path("/tmp").iterdir()) for host in pair.hosts] == temporary
    assert list(pair.web1.path("/var/lib/ngxsync").iterdir()) == []


def test_it_overwrites_no_configuration_unseen(cron_pair: Pair) -> None:
    pair = cron_pair
    pair.web1.path("/etc/ngxsync").mkdir()
    pair.web1.path(CONFIG).write_bytes(b"# mine, by Andr\xe9\r\n")
    done = pair.ngxsync("init", "--from-crontab", LINE)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{CONFIG}: there is a configuration already" in done.stderr
    assert "--replace" in done.stderr
    assert pair.web1.path(CONFIG).read_bytes() == b"# mine, by Andr\xe9\r\n"
    assert pair.ngxsync("init", "--replace", "--from-crontab", LINE).returncode == 0
    assert pair.web1.path(f"{CONFIG}.old").read_bytes() == b"# mine, by Andr\xe9\r\n"
    assert written(pair).peers[0].name == "web2"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("30 3 * * * rsync -a /usr/local/nginx 192.0.2.2:/opt", "/usr/local/nginx goes to /opt/nginx on the peer"),
        ("30 3 * * * rsync -a --include=a /usr/local/nginx 192.0.2.2:/usr/local", "an include has no like"),
        ("30 3 * * * rsync -a /srv/none 192.0.2.2:/srv", "/srv/none is not there"),
        ("30 3 * * * rsync -a /srv 192.0.2.2:/", "no nginx.conf lies in /srv"),
        ("30 3 * * * rsync -a /etc/hosts 192.0.2.2:/etc", "/etc/hosts is no directory"),
        ("rsync -a /usr/local/nginx 192.0.2.2:/usr/local", "five fields"),
    ],
)
def test_a_line_that_it_cannot_do_the_same_as_is_refused(cron_pair: Pair, line: str, why: str) -> None:
    done = cron_pair.ngxsync("init", "--from-crontab", line)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
    assert "nothing was written" in done.stderr
    assert not cron_pair.web1.path("/etc/ngxsync").exists()


# where the line comes from


def test_the_lines_of_all_crontabs_are_read_and_never_edited(cron_pair: Pair) -> None:
    pair = cron_pair
    other = "0 1 * * * root rsync -a /home nas:/backup\n"
    system = pair.web1.path("/etc/cron.d/pair-test")
    system.write_text(f"MAILTO=root\n{other}")
    pair.web1.run(["crontab", "-"], input=f"# sync\n{LINE}\n")
    try:
        done = pair.ngxsync("init", "--from-crontab")
        kept = pair.web1.run(["crontab", "-l"]).stdout, system.read_text()
    finally:
        system.unlink()
        pair.web1.run(["crontab", "-r"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert written(pair).peers[0].host == "192.0.2.2"
    assert "From the crontab of root (crontab -e):\n  30 03 * * *" in done.stdout
    assert "Left alone: 0 1 * * * root rsync -a /home nas:/backup: " in done.stdout
    assert kept == (f"# sync\n{LINE}\n", f"MAILTO=root\n{other}")


def test_no_line_at_all(cron_pair: Pair) -> None:
    done = cron_pair.ngxsync("init", "--from-crontab")
    assert done.returncode == 2
    assert "no line of a crontab sends nginx with rsync" in done.stderr
    assert "ngxsync init --peer HOST" in done.stderr


def test_standard_input(cron_pair: Pair) -> None:
    done = cron_pair.ngxsync("init", "--from-crontab", "-", input=f"MAILTO=ops\n\n{LINE}\n")
    assert done.returncode == 0, done.stderr
    assert written(cron_pair).sync.schedule == "30 03 * * *"
    done = cron_pair.ngxsync("init", "--replace", "--from-crontab", "-", input="")
    assert done.returncode == 2
    assert "nothing came on standard input" in done.stderr


def test_without_a_crontab(cron_pair: Pair) -> None:
    done = cron_pair.ngxsync("init", "--peer", "192.0.2.2", "--root", ROOT, "--name", "backup")
    assert done.returncode == 0, done.stdout + done.stderr
    config = written(cron_pair)
    assert (config.nginx.root, config.peers[0].name, config.sync.exclude) == (ROOT, "backup", ())
    assert next_command(done.stdout) == "ngxsync sync"


@pytest.mark.parametrize(
    "arguments", [(), ("--peer", "web2", "--from-crontab", LINE), ("--from-crontab", LINE, "--port", "23")]
)
def test_one_or_the_other(cron_pair: Pair, arguments: tuple[str, ...]) -> None:
    assert cron_pair.ngxsync("init", *arguments).returncode == 2


def test_the_nginx_that_runs_goes_before_what_is_compiled_in(cron_pair: Pair) -> None:
    done = cron_pair.ngxsync("init", "--peer", "192.0.2.2")
    config = written(cron_pair)
    assert (config.nginx.root, config.nginx.conf) == (ROOT, f"{ROOT}/conf/nginx.conf"), done.stdout + done.stderr
    cron_pair.ngxsync("init", "--replace", "--peer", "192.0.2.2", "--root", "/etc/nginx")
    assert written(cron_pair).nginx.conf == "/etc/nginx/nginx.conf"


def test_the_nginx_of_debian_works_unasked(cron_pair: Pair) -> None:
    cron_pair.web1.stop_nginx()
    done = cron_pair.ngxsync("init", "--peer", "192.0.2.2")
    assert "root = /etc/nginx\n" in cron_pair.web1.path(CONFIG).read_text(), done.stdout + done.stderr
    assert written(cron_pair).nginx.conf == "/etc/nginx/nginx.conf"
    line = "@daily rsync -a /etc/nginx/ root@192.0.2.2:/etc/nginx/"
    done = cron_pair.ngxsync("init", "--replace", "--from-crontab", line)
    config = written(cron_pair)
    assert (config.nginx.root, config.sync.trees, config.sync.schedule) == ("/etc/nginx", ("/etc/nginx",), "0 0 * * *")


def test_another_place_for_the_configuration(cron_pair: Pair) -> None:
    done = cron_pair.ngxsync("init", "--config", "/srv/pair/config.ini", "--from-crontab", LINE)
    assert done.returncode == 0, done.stderr
    assert next_command(done.stdout) == "ngxsync sync --config /srv/pair/config.ini"
    assert written(cron_pair, "/srv/pair/config.ini").peers[0].known_hosts == Path("/srv/pair/known_hosts")
    assert not cron_pair.web1.path("/etc/ngxsync").exists()
    assert in_shell(cron_pair, next_command(done.stdout)).returncode == 0


# access


def test_a_hashed_known_hosts_and_another_port(cron_pair: Pair) -> None:
    pair = cron_pair
    pair.web2.run(["/usr/sbin/sshd", "-f", "/etc/ssh/test_sshd_config", "-p", "2222", "-o", "PidFile=none"])
    known = pair.web1.path("/root/.ssh/known_hosts")
    known.write_text(known.read_text().replace("192.0.2.2,web2", "[192.0.2.2]:2222"))
    pair.web1.run(["ssh-keygen", "-q", "-H", "-f", "/root/.ssh/known_hosts"])
    line = LINE.replace("rsync -avzP", "rsync -avzP -e 'ssh -p 2222'")
    done = pair.ngxsync("init", "--from-crontab", line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert written(pair).peers[0].port == 2222
    assert pair.web1.path("/etc/ngxsync/known_hosts").read_text().startswith("[192.0.2.2]:2222 ssh-ed25519 ")


def test_a_name_that_only_ssh_config_knows(cron_pair: Pair) -> None:
    pair = cron_pair
    folder = pair.web1.path("/root/.ssh")
    (folder / "id_ed25519").rename(folder / "for-backup")
    (folder / "config").write_text("Host backup\n  HostName 192.0.2.2\n  IdentityFile ~/.ssh/for-backup\n")
    done = pair.ngxsync("init", "--from-crontab", LINE.replace("192.0.2.2", "backup"))
    assert done.returncode == 0, done.stdout + done.stderr
    (peer,) = written(pair).peers
    assert (peer.name, peer.host, peer.identity) == ("web2", "192.0.2.2", Path("/root/.ssh/for-backup"))
    assert pair.ngxsync("sync").returncode == 0


def test_a_peer_that_takes_no_key_gets_a_new_one_shown(cron_pair: Pair) -> None:
    pair = cron_pair
    pair.web2.path("/root/.ssh/authorized_keys").write_text("")
    done = pair.ngxsync("init", "--from-crontab", LINE)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "  /root/.ssh/id_ed25519 is no use: the peer does not let it in\n" in done.stdout
    fingerprint = pair.web2.run(["ssh-keygen", "-lf", "/etc/ssh/test_host_key.pub"]).stdout.split()[1]
    assert f"now pinned for ngxsync: {fingerprint} (ED25519)\n" in done.stdout
    public = pair.web1.path("/etc/ngxsync/id_ed25519.pub").read_text().strip()
    assert f"  {public}\n" in done.stdout
    assert stat.S_IMODE(pair.web1.path("/etc/ngxsync/id_ed25519").stat().st_mode) == 0o600
    assert next_command(done.stdout) == "ngxsync peer install peer1 && ngxsync check"

    pair.web2.path("/root/.ssh/authorized_keys").write_text(f"{public}\n")  # by whatever way
    checked = pair.ngxsync("check")
    assert checked.returncode == 0, checked.stdout
    again = pair.ngxsync("init", "--replace", "--from-crontab", LINE)
    assert again.returncode == 0
    assert pair.web1.path("/etc/ngxsync/id_ed25519.pub").read_text().strip() == public


def test_a_key_with_a_passphrase_is_passed_over(cron_pair: Pair) -> None:
    cron_pair.web1.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", "/root/.ssh/id_ed25519"])
    done = cron_pair.ngxsync("init", "--from-crontab", LINE)
    assert done.returncode == 1
    assert "  /root/.ssh/id_ed25519 is no use: it has a passphrase, which nobody is there to type\n" in done.stdout


def test_a_jump_host_is_kept_and_its_key_pinned(cron_pair: Pair) -> None:
    pair = cron_pair
    known = pair.web1.path("/root/.ssh/known_hosts")
    line = LINE.replace("rsync -avzP", "rsync -avzP -e 'ssh -J root@web2'").replace("192.0.2.2:", "127.0.0.1:")
    known.write_text(f"{known.read_text()}127.0.0.1 {known.read_text().partition(' ')[2]}")
    done = pair.ngxsync("init", "--from-crontab", line)
    assert done.returncode == 0, done.stdout + done.stderr
    (peer,) = written(pair).peers
    assert (peer.name, peer.host, peer.jump) == ("web2", "127.0.0.1", "root@web2:22")
    names = [line.split()[0] for line in pair.web1.path("/etc/ngxsync/known_hosts").read_text().splitlines()]
    assert names == ["127.0.0.1", "web2"]


def test_a_user_that_may_not_write_there(cron_pair: Pair) -> None:
    """Root without its right to write everywhere: this checkout may lie where no other user can read."""
    argv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-m", "ngxsync"]
    cron_pair.web1.run(["install", "-d", "-o", "www-data", "/etc/ngxsync"])
    try:
        environment = {"PYTHONPATH": str(Path(__file__).parent.parent)}
        done = cron_pair.web1.run([*argv, "init", "--from-crontab", LINE], check=False, env=environment)
    finally:
        cron_pair.web1.run(["chown", "root", "/etc/ngxsync"])
    assert done.returncode in (2, 4), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "permission denied" in done.stderr


def test_a_host_key_that_nobody_knows_is_shown_and_pinned_by_a_person(cron_pair: Pair) -> None:
    pair = cron_pair
    pair.web1.path("/root/.ssh/known_hosts").unlink()
    done = pair.ngxsync("init", "--from-crontab", LINE)
    assert done.returncode == 1, done.stdout + done.stderr
    fingerprint = pair.web2.run(["ssh-keygen", "-lf", "/etc/ssh/test_host_key.pub"]).stdout.split()[1]
    assert (
        f"its host key is not known here; what it shows now has the fingerprint {fingerprint} (ED25519)" in done.stdout
    )
    assert not pair.web1.path("/etc/ngxsync/known_hosts").exists()
    assert written(pair).peers[0].identity == Path("/root/.ssh/id_ed25519")
    finished = in_shell(pair, next_command(done.stdout))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "both ssh stacks: OK" in finished.stdout
    assert pair.ngxsync("sync").returncode == 0


def test_a_changed_host_key_stops_it(cron_pair: Pair) -> None:
    pair = cron_pair
    pair.web1.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/tmp/other"])
    other = pair.web1.path("/tmp/other.pub").read_text()
    pair.web1.path("/root/.ssh/known_hosts").write_text(f"192.0.2.2 {other}")
    done = pair.ngxsync("init", "--from-crontab", LINE)
    assert (done.returncode, done.stdout) == (4, "")
    assert "192.0.2.2 shows another host key than /root/.ssh/known_hosts has for it" in done.stderr
    assert "nothing was written" in done.stderr
    assert not pair.web1.path("/etc/ngxsync").exists()


def test_a_peer_that_does_not_answer(cron_pair: Pair) -> None:
    pair = cron_pair
    pair.web2.run(["kill", str(pair.web2.sshd_pid())])
    done = pair.ngxsync("init", "--from-crontab", LINE)
    assert (done.returncode, done.stdout) == (4, "")
    assert "no sshd listens there" in done.stderr
    assert not pair.web1.path("/etc/ngxsync").exists()


def test_a_check_that_fails_is_told_and_the_file_written(cron_pair: Pair) -> None:
    pair = cron_pair
    pair.web1.path(f"{ROOT}/conf/vhosts/bad.conf").write_text("lisen 80;\n")
    done = pair.ngxsync("init", "--from-crontab", LINE)
    assert done.returncode == 1
    assert f"nginx accepts its configuration: FAILED ({ROOT}/conf/vhosts/bad.conf:1: " in done.stdout
    assert next_command(done.stdout) == "ngxsync check"
    assert written(pair).peers[0].name == "web2"


# what the configuration names outside


def test_certificates_of_certbot_are_listed_with_the_trees_that_carry_them(cron_pair: Pair) -> None:
    pair = cron_pair
    live = "/etc/letsencrypt/live/shop.example"
    conf = f"server {{\n listen 443 ssl;\n ssl_certificate {live}/fullchain.pem;\n ssl_certificate_key {live}/privkey.pem;\n}}\n"
    pair.web1.path(f"{ROOT}/conf/vhosts/shop.conf").write_text(conf)
    done = pair.ngxsync("init", "--from-crontab", LINE)
    assert f"  {live}/fullchain.pem\n  {live}/privkey.pem\n" in done.stdout
    assert "    /etc/letsencrypt/archive\n    /etc/letsencrypt/live\n" in done.stdout
    text = pair.web1.path(CONFIG).read_text()
    assert f"#trees = {ROOT}\n#    /etc/letsencrypt/archive\n#    /etc/letsencrypt/live\n" in text
    for word in ("accounts", "renewal"):
        assert word not in text
    carried = load_config(text.replace("#trees", "trees").replace("#    /", "    /"), CONFIG)
    assert carried.sync.trees == (ROOT, "/etc/letsencrypt/archive", "/etc/letsencrypt/live")


@pytest.mark.parametrize(
    ("paths", "trees", "left"),
    [
        (["/etc/letsencrypt/live/a/key.pem"], ("/etc/letsencrypt/archive", "/etc/letsencrypt/live"), ()),
        (["/etc/letsencrypt/options-ssl-nginx.conf"], (), ("/etc/letsencrypt/options-ssl-nginx.conf",)),
        (["/etc/letsencrypt/accounts/x"], (), ("/etc/letsencrypt/accounts/x",)),
        (["/etc/ssl/private/a.key", "/etc/pair/tls/a.pem"], ("/etc/pair/tls",), ("/etc/ssl/private/a.key",)),
        (["/srv/tls/a.pem", "/srv/tls/more/b.pem"], ("/srv/tls",), ()),
        (["/etc/hosts", "/usr/share/nginx/x.conf"], (), ("/etc/hosts", "/usr/share/nginx/x.conf")),
    ],
)
def test_which_trees_would_carry_a_file(paths: list[str], trees: tuple[str, ...], left: tuple[str, ...]) -> None:
    assert trees_for(paths) == (trees, left)


# what needs no host


@pytest.mark.parametrize(
    ("trees", "prefix", "conf_path", "files", "found"),
    [
        ([ROOT], ROOT, f"{ROOT}/conf/nginx.conf", {f"{ROOT}/conf/nginx.conf"}, (ROOT, "conf/nginx.conf")),
        (
            ["/etc/nginx"],
            "/usr/share/nginx",
            "/etc/nginx/nginx.conf",
            {"/etc/nginx/nginx.conf"},
            ("/etc/nginx", "nginx.conf"),
        ),
        ([ROOT], "/usr/share/nginx", "/etc/nginx/nginx.conf", {f"{ROOT}/conf/nginx.conf"}, (ROOT, "conf/nginx.conf")),
        (["/usr/local"], ROOT, f"{ROOT}/conf/nginx.conf", {f"{ROOT}/conf/nginx.conf"}, (ROOT, "conf/nginx.conf")),
        (["/opt"], "", "", {"/opt/nginx/conf/nginx.conf"}, ("/opt/nginx", "conf/nginx.conf")),
    ],
)
def test_where_nginx_is(trees: list[str], prefix: str, conf_path: str, files: set[str], found: tuple[str, str]) -> None:
    assert place_nginx(trees, prefix, conf_path, files.__contains__) == found


def test_several_lines_are_one_job_or_none() -> None:
    lines = [f"0 3 * * * rsync -a {ROOT} {host}:/usr/local" for host in ("web2", "web3")]
    lines += [f"0 3 * * * rsync -a /srv/site {host}:/srv" for host in ("web3", "web2")]
    job = merge_jobs([parse_crontab_line(line) for line in lines], lines)
    assert (job.trees, [host.host for host in job.hosts]) == ((ROOT, "/srv/site"), ["web2", "web3"])
    for wrong in (lines[:3], [lines[0], lines[1].replace("0 3", "5 3")]):
        with pytest.raises(ConfigError, match="one configuration cannot do the same as these lines"):
            merge_jobs([parse_crontab_line(line) for line in wrong], wrong)


def test_what_is_written_reads_back_whole() -> None:
    peer = DraftPeer("web2", "192.0.2.2", "deploy", 2222, "/k/id", "/k/known_hosts", "admin@bastion:22")
    text = render_draft(
        Draft("/etc/nginx", "nginx.conf", ("/etc/nginx", "/srv/site"), ("/a b/", "\\#x"), "*/5 * * * *", (peer,))
    )
    config = load_config(text, "config.ini")
    assert (config.nginx.conf, config.sync.trees) == ("/etc/nginx/nginx.conf", ("/etc/nginx", "/srv/site"))
    assert (config.sync.exclude, config.sync.schedule) == (("/a b/", "\\#x"), "*/5 * * * *")
    (read,) = config.peers
    assert (read.user, read.port, str(read.known_hosts), read.jump) == (
        "deploy",
        2222,
        "/k/known_hosts",
        "admin@bastion:22",
    )

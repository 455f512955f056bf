"""Two hosts with real keepalived, nginx, sshd and daemon, one configuration for both, and a client that sees the VIP alone."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hosts import PROJECT, Host, wait_until
from tests.mailserver import PASSWORD, USER, HostMail
from tests.pair import ROOT, Pair, write_tree
from tests.resident import STATE

VIP = "192.0.2.100"
ROUTER = 88
NGINX = "/usr/sbin/nginx"
MAIL_PORT = 2525
TUTORIAL = "check_interval = 2s\ncheck_weight = -5\ncheck_fall = 3\ncheck_rise = 2\n"
# slower than the tutorial where nginx does not die: on a busy machine a check may well take more than a second
QUICK = "check_interval = 3s\ncheck_weight = -5\ncheck_fall = 3\ncheck_rise = 1\n"
PEERS = (("web1", "192.0.2.1", 100), ("web2", "192.0.2.2", 99))

CONFIG = """\
[nginx]
root = {root}

[sync]
{sync}

[vrrp]
vip = {vip}/24
virtual_router_id = {router}
advert_int = 1s
{vrrp}

[mail]
to = admin@example.org
smtp_host = 192.0.2.3
smtp_port = {port}
security = none
user = {user}
password_file = /etc/ngxsync/mail-password
from = {user}
"""
PEER = """
[peer {name}]
host = {host}
identity = /etc/ngxsync/id_ed25519
interface = eth0
priority = {priority}
exclude = /html/index.html
connect_timeout = 2s
"""


@dataclass
class Running:
    """What runs on one host."""

    keepalived: subprocess.Popen[str] | None = None
    daemon: subprocess.Popen[str] | None = None
    logs: list[Path] = field(default_factory=list)


class Duo(Pair):
    """web1 and web2 as one configuration has them; web3 is the client, and the mail server's host."""

    def __init__(self) -> None:
        super().__init__(3)
        self.client = self.hosts.pop()
        self.peers = [self.web2]
        self.running = {host.name: Running() for host in self.hosts}
        self.mail: HostMail | None = None

    def close(self) -> None:
        self.end()
        self.hosts.append(self.client)
        super().close()

    # setting up

    def set_up(self, *, vrrp: str = QUICK, sync: str = "", pages: bool = True) -> None:
        """Both in the base state, equal but for their pages ("node1", "node2"), the agent on both; nothing runs but nginx."""
        self.end()
        self.reset()
        self.client.empty()
        self.client.reset_network()
        self._share(CONFIG.format(root=ROOT, vip=VIP, router=ROUTER, port=MAIL_PORT, user=USER, vrrp=vrrp, sync=sync))
        for number, host in enumerate(self.hosts, 1):
            if pages:
                write_tree(host, ROOT, {"html/index.html": f"node{number}"})
            host.path("/etc/keepalived").mkdir(exist_ok=True)
            rendered = self.ngxsync("keepalived", "render", host.name, host=host)
            assert rendered.returncode == 0, rendered.stderr
            host.path("/etc/keepalived/keepalived.conf").write_text(rendered.stdout)
            host.path("/etc/keepalived/keepalived.conf").chmod(0o600)

    def _share(self, text: str) -> None:
        known = "".join(f"{host.address},{host.name} {self._host_keys[host.name]}\n" for host in self.hosts)
        text += "".join(PEER.format(name=name, host=host, priority=priority) for name, host, priority in PEERS)
        for host in self.hosts:
            files = {
                "config.ini": text,
                "known_hosts": known,
                "id_ed25519": self._private_key,
                "mail-password": PASSWORD,
            }
            for name, content in files.items():
                host.path(f"/etc/ngxsync/{name}").write_text(content)
                host.path(f"/etc/ngxsync/{name}").chmod(0o600)
            host.path("/root/.ssh/authorized_keys").write_text(self._public_key)
            host.path("/root/.ssh/authorized_keys").chmod(0o600)

    def start(self, *hosts: Host, keepalived: bool = True, daemon: bool = True) -> None:
        for host in hosts or self.hosts:
            if daemon:
                self._start(host, "daemon", [sys.executable, "-m", "ngxsync", "run"])
                agent = host.path("/usr/local/sbin/ngxsync-agent")
                wait_until(lambda agent=agent: agent.is_symlink(), f"the daemon put the agent onto {host.name}")
            if keepalived:
                self._start(host, "keepalived", ["keepalived", "--dont-fork", "--log-console", "--log-detail"])

    def _start(self, host: Host, what: str, argv: list[str]) -> None:
        running = self.running[host.name]
        log = host.folder / f"{what}-{len(running.logs)}.log"
        running.logs.append(log)
        with log.open("w") as stream:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
            setattr(running, what, host.popen(argv, env={"PYTHONPATH": str(PROJECT)}, **streams))

    def stop(self, host: Host, what: str, number: int = 15) -> None:
        """`what` is keepalived or daemon."""
        running = self.running[host.name]
        process = getattr(running, what)
        if process is not None:
            if number == 9 and what == "keepalived":
                # its child, which would end in good order at its parent's death, first
                host.run(["kill", "-KILL", *map(str, sorted(self.keepalived_pids(host), reverse=True))], check=False)
            host.signal_to(process, number)
            try:
                process.wait(45)
            finally:
                process.kill()
                setattr(running, what, None)

    def keepalived_pids(self, host: Host) -> list[int]:
        return [pid for pid, line in host.commands().items() if line.startswith("keepalived")]

    def end(self) -> None:
        for host in self.hosts:
            for what in ("keepalived", "daemon"):
                with suppress(AssertionError):
                    self.stop(host, what, 9)
            self.running[host.name] = Running()
            host.path(NGINX).chmod(0o755)
        if self.mail is not None:
            self.mail.close()
            self.mail = None

    def first_sync(self) -> None:
        """As an administrator makes it: web1 holds the VIP then."""
        wait_until(lambda: self.holders() == ["web1"], "web1 takes the VIP", every_s=0.1)
        wait_until(lambda: self.word(self.web1) == "in-sync", "the daemon took web2 over", every_s=0.5)

    # what is seen

    def holders(self) -> list[str]:
        return [host.name for host in self.hosts if self.holds(host)]

    def holds(self, host: Host) -> bool:
        return f"|-- {VIP}\n" in Path(f"/proc/{host.pid}/net/fib_trie").read_text()

    def page(self, path: str = "/", name: str = "localhost") -> str:
        """What the client gets through the VIP; "" where nobody answers."""
        try:
            return self.client.get(path, name, address=VIP)[1]
        except OSError:
            return ""

    def status(self, host: Host) -> dict[str, Any]:
        return dict(json.loads(self.ngxsync("status", "--json", host=host).stdout))

    def word(self, host: Host) -> str:
        """The status word of its peer, as the daemon wrote it down last: asked all the time, `status` itself would be dear."""
        return str(self._record(host).get("word", ""))

    def _record(self, host: Host) -> dict[str, Any]:
        records = list(host.path(f"{STATE}/master/peers").glob("web?.json"))
        return dict(json.loads(records[0].read_text())) if records else {}

    def message(self, host: Host) -> dict[str, str]:
        """What is said of its peer, in four parts; empty ones where there is nothing to say."""
        parts = dict.fromkeys(("what", "where", "state", "next"), "")
        return {**parts, **(self._record(host).get("message") or {})}

    def logs(self, host: Host) -> str:
        return "".join(log.read_text() for log in self.running[host.name].logs)

    # mail

    def start_mail(self) -> None:
        self.mail = HostMail(self.client, MAIL_PORT, self.client.address)

    def mails(self) -> list[str]:
        return [mail.as_string() for mail in self.mail.mails] if self.mail else []

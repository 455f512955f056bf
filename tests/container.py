"""A host with a systemd of its own as process 1: what a boot, a unit's limits and logind really do is seen only there.

systemd-nspawn over an overlay of this machine's root. Mounts and network are held by a small process, so that they
outlive a boot as a disk and a cable do; they end with it. Nothing is mounted, routed or registered on this machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.host import EMPTIED, ENVIRONMENT, ON_DISK, Host, wait_until
from tests.pair import BASE_TREE, ROOT, Pair, write_tree

SETUP = Path(__file__).with_name("container.sh")
UNITS = "/etc/systemd/system"
BOOT_S = 60.0
HELD = ("setpriv", "--pdeathsig", "KILL")  # ends with the tests, however they end

# Debian's units run /etc/nginx; the tests' tree is the tutorial's
NGINX_UNIT = """\
[Service]
PIDFile=/usr/local/nginx/logs/nginx.pid
ExecStartPre=
ExecStartPre=/usr/sbin/nginx -t -q -p /usr/local/nginx -c conf/nginx.conf
ExecStart=
ExecStart=/usr/sbin/nginx -p /usr/local/nginx -c conf/nginx.conf
ExecReload=
ExecStop=
"""
SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM yes
UseDNS no
PrintMotd no
MaxStartups 100
"""
# a backup that hears of no master for minutes: the address stays away
KEEPALIVED_CONF = """\
vrrp_instance test {
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority 100
    advert_int 200
    virtual_ipaddress {
        192.0.2.100
    }
}
"""


class Container(Host):
    """Made switched off: put what it needs onto its disk (`path`), then `boot`. `cut_power` and `boot` as often as wanted."""

    def __init__(self, name: str, address: str, folder: Path, shown: Sequence[str] = ()) -> None:
        self.name, self.address, self.folder, self._shown = name, address, folder, list(shown)
        self.machine: subprocess.Popen[bytes] | None = None
        self.boots = 0
        self.shown_at: dict[str, str] = {}  # where in the container further folders of this machine are seen, read-only
        for below in ("scratch", "disk"):
            (folder / below).mkdir(parents=True)
        self.process = subprocess.Popen(
            [*HELD, "unshare", "--mount", "--net", "--propagation", "private", "sh", str(SETUP), str(folder), name],
            env={**ENVIRONMENT, "ON_DISK": " ".join(ON_DISK), "EMPTIED": " ".join(EMPTIED)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "up\n":
            self.kill()
            raise AssertionError(f"{name} did not start; the reason is on standard error")
        self._configure()

    def _configure(self) -> None:
        self.path(f"{UNITS}/nginx.service.d").mkdir()
        self.path(f"{UNITS}/nginx.service.d/tree.conf").write_text(NGINX_UNIT)
        self.path("/etc/keepalived").mkdir(exist_ok=True)
        self.path("/etc/keepalived/keepalived.conf").write_text(KEEPALIVED_CONF)
        self.path("/etc/ssh/sshd_config").write_text(SSHD_CONFIG)
        key = self.path("/etc/ssh/ssh_host_ed25519_key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
        for unit in ("nginx", "keepalived", "ssh"):
            self.path(f"{UNITS}/multi-user.target.wants/{unit}.service").symlink_to(
                f"/lib/systemd/system/{unit}.service"
            )

    def path(self, path: str | Path) -> Path:
        """The same file while it runs and while it is off; only what lies on its own tmpfs is there while it runs alone."""
        if self.is_on():
            return super().path(path)
        return Path(f"/proc/{self.process.pid}/root{self.folder}/scratch/root{path}")

    def is_on(self) -> bool:
        return self.machine is not None and self.machine.poll() is None and self.pid != self.process.pid

    def boot(self, timeout_s: float = BOOT_S) -> None:
        """Until systemd has started all that it will; which units failed is the test's to ask."""
        self.switch_on()
        try:
            wait_until(self._is_up, f"{self.name} is up", timeout_s, 0.05)
        except AssertionError as error:
            jobs = self.run(["systemctl", "list-jobs"], check=False).stdout
            raise AssertionError(f"{error}\n{jobs}\n{self.console()}") from None

    def _is_up(self) -> bool:
        state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
        return state in ("running", "degraded")

    def switch_on(self) -> None:
        """Until systemd runs as its process 1; it has only begun."""
        assert not self.is_on()
        self.boots += 1
        binds = [f"--bind-ro={_escaped(folder)}" for folder in self._shown]
        binds += [f"--bind-ro={_escaped(folder)}:{place}" for place, folder in self.shown_at.items()]
        cgroup = f"{self.folder.parent.name}-{self.name}-{self.boots}"
        nspawn = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            f"--directory={self.folder}/scratch/root",
            f"--machine={self.name}",
            f"--hostname={self.name}",
            f"--network-namespace-path=/proc/{self.process.pid}/ns/net",
            "--capability=CAP_NET_ADMIN,CAP_NET_RAW",
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            "--console=pipe",
            *binds,
        ]
        enter = ["nsenter", "--target", str(self.process.pid), "--mount", "--"]
        self._console = (self.folder / f"console-{self.boots}").open("w")
        self.machine = subprocess.Popen(
            ["sh", "-c", JOIN_CGROUP, "sh", cgroup, *enter, *HELD, *nspawn],
            env={**ENVIRONMENT, "SYSTEMD_NSPAWN_LOCK": "0"},
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
        )
        self.pid = wait_until(self._init_pid, f"{self.name}: nspawn has its systemd")

    def _init_pid(self) -> int:
        assert self.machine is not None
        if self.machine.poll() is not None:
            raise AssertionError(f"{self.name} did not boot:\n{self.console()}")
        children = Path(f"/proc/{self.machine.pid}/task/{self.machine.pid}/children").read_text().split()
        return next((int(pid) for pid in children if _command_of(int(pid)) == "systemd"), 0)

    def console(self) -> str:
        """What this boot printed."""
        return (self.folder / f"console-{self.boots}").read_text(errors="replace")

    def cut_power(self) -> None:
        """Process 1 and everything with it is gone at once; what the kernel has in its cache stays (for that see loopdisk)."""
        assert self.machine is not None
        os.kill(self.pid, signal.SIGKILL)
        self._ended()

    def shut_down(self) -> None:
        """`systemctl poweroff`, to its end."""
        self.run(["systemctl", "poweroff"], check=False)
        self._ended()

    def _ended(self) -> None:
        assert self.machine is not None
        try:
            self.machine.wait(60)
        finally:
            self.machine.kill()
            self.machine.wait()
            self._console.close()
            self.pid = self.process.pid
            _remove_cgroups(f"{self.folder.parent.name}-{self.name}-{self.boots}")

    # units

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = 60.0) -> str:
        return self.run(["systemctl", *arguments], check=check, timeout=timeout).stdout.strip()

    def property_of(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--property", name, "--value", unit)

    def log_of(self, unit: str) -> str:
        """What the unit wrote, and systemd about it, since this boot."""
        return self.run(["journalctl", "--boot", "--output=cat", "--no-pager", f"--unit={unit}"]).stdout

    # what is another than in a host of namespaces

    def start_sshd(self) -> str:
        """Its public key; ssh.service is started by the boot."""
        return self.path("/etc/ssh/ssh_host_ed25519_key.pub").read_text().strip()

    def start_nginx(self) -> None:
        self.systemctl("start", "nginx")

    def reset_network(self) -> None:
        enter = ["nsenter", "--target", str(self.process.pid), "--net"]
        commands = f"ip addr flush dev eth0; ip addr add {self.address}/24 dev eth0; ip link set eth0 up"
        subprocess.run([*enter, "sh", "-c", commands], check=True)

    def empty(self) -> None:
        raise AssertionError("a container is not emptied: a module has one of its own, and its tests clean up")

    def kill(self) -> None:
        """Ends it at once, with its mounts and its network."""
        if self.is_on():
            self.cut_power()
        super().kill()


# systemd in the container owns the group that it is started in: each boot gets one of its own, in every hierarchy there is
JOIN_CGROUP = """
name=$1; shift
while read -r _ _ _ _ point _ rest; do
    case " $rest" in
        *" - cgroup2 "* | *name=systemd*) mkdir -p "$point/$name" && echo $$ >"$point/$name/cgroup.procs" || exit 1 ;;
    esac
done </proc/self/mountinfo
exec "$@"
"""


def _remove_cgroups(name: str) -> None:
    """Empty by now, apart from groups in it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point, rest = line.split()[4], line.split(" - ")[1]
        if rest.startswith("cgroup2 ") or "name=systemd" in rest:
            for folder, _, _ in os.walk(Path(point, name), topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _escaped(folder: str) -> str:
    return re.sub(r"([\\:])", r"\\\1", folder)


def make_container_pair(*kinds: type[Host], boot: bool = True) -> Pair:
    """Hosts of these kinds, up, with equal base trees, web1's key on the others and a minimal config.ini."""
    pair = Pair(len(kinds), kinds=kinds)
    for host in pair.hosts:
        write_tree(host, ROOT, BASE_TREE)
        pair.authorise(host)
    for host in pair.hosts:
        if not isinstance(host, Container):
            host.start_nginx()
        elif boot:
            host.boot()
    pair.write_config()
    return pair

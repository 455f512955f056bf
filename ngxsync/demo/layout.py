"""What lies in the demo's folder: the two trees and every file that the programs read, as text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
SHOP = "conf/vhosts/shop.conf"
WIKI = "conf/vhosts/wiki.conf"
PAGE = "html/index.html"
OWN = "conf/host"  # each host's own, never synced
OLD_PAGE, NEW_PAGE = "last night's page", "today's page"
HELLO = "location = /hello { return 200 'hello from the shop'; }"
HELLO_TEXT = "hello from the shop"
TYPO = "location = /hello { retrun 200 'hello from the shop'; }"
ONLY_WEB1 = "include host/payments.conf;"
DRIFT = "location = /hello { return 200 'changed by hand'; }"


@dataclass(frozen=True)
class Layout:
    """Paths below `folder`, and the loopback ports: web1's, web2's and that of web2's sshd.

    `tree` is the one path of both hosts' trees. In the view of web2 `backup_tree` lies over it.
    """

    folder: Path
    ports: tuple[int, int, int]
    user: str
    rehearse: str = "overlay"

    @property
    def tree(self) -> Path:
        return self.folder / "nginx"

    @property
    def backup(self) -> Path:
        return self.folder / "backup"

    @property
    def backup_tree(self) -> Path:
        return self.backup / "nginx"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def config(self) -> Path:
        return self.folder / "config.ini"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    @property
    def daemon_log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def web1(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def web2(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    @property
    def peer_state(self) -> Path:
        return self.backup / "state"


def config_ini(layout: Layout) -> str:
    return textwrap.dedent(f"""\
        # What `ngxsync demo` runs with: the same file that a real pair has in /etc/ngxsync/config.ini.
        [nginx]
        root = {layout.tree}
        rehearse = {layout.rehearse}

        [peer web2]
        host = 127.0.0.1
        port = {layout.ports[2]}
        user = {layout.user}
        identity = {layout.keys}/id
        known_hosts = {layout.keys}/known_hosts
        state_dir = {layout.peer_state}
        # the `listen` of each host is its own: on two machines it would be equal, and this line not needed
        exclude = /{OWN}/

        [ngxsync]
        state_dir = {layout.state}
        """)


def nginx_conf() -> str:
    temporary = "\n".join(f"    {name}_temp_path {name}_temp;" for name in TEMPORARY)
    return f"""\
worker_processes 1;
pid logs/nginx.pid;
error_log logs/error.log notice;

events {{
    worker_connections 64;
}}

http {{
    default_type text/html;
    access_log logs/access.log;
{temporary}
    include vhosts/*.conf;
}}
"""


def vhost(name: str, *lines: str) -> str:
    """A server block, `lines` from its fifth line on; the `listen` is the host's own."""
    own = ("include host/listen.conf;", f"server_name {name}.example;", "root html;", *lines)
    return "".join(f"{line}\n" for line in ("server {", *(f"    {line}" for line in own), "}"))


def listen_conf(port: int) -> str:
    return f"listen 127.0.0.1:{port};\n"


def trees() -> tuple[dict[str, str], dict[str, str]]:
    """The files of web1, and of web2 as last night's copy left it: path below the tree to text."""
    both = {"conf/nginx.conf": nginx_conf(), SHOP: vhost("shop")}
    web1 = {**both, WIKI: vhost("wiki"), f"{OWN}/payments.conf": "# only here\n", PAGE: f"{NEW_PAGE}\n"}
    web2 = {**both, PAGE: f"{OLD_PAGE}\n"}
    return web1, web2


def sshd_config(layout: Layout) -> str:
    """An sshd of our own, which asks nothing of the machine's: one key, no PAM, no start-up files of the user."""
    return textwrap.dedent(f"""\
        ListenAddress 127.0.0.1
        Port {layout.ports[2]}
        HostKey {layout.keys}/host_key
        AuthorizedKeysFile {layout.keys}/id.pub
        PidFile none
        StrictModes no
        UsePAM no
        PasswordAuthentication no
        KbdInteractiveAuthentication no
        PermitRootLogin prohibit-password
        PermitUserRC no
        UseDNS no
        SetEnv SHLVL=5
        """)


# Process 1 of web2, in mount and pid namespaces of its own, first as their root: web2's tree lies over web1's, since both
# have the same path. /run/sshd is sshd's, and absent where the machine's own never ran: /run is covered then, not written to.
WEB2_ROOT = """\
set -e  # mount -n: else mount makes /run/mount
mount -n --bind "$DEMO/backup/nginx" "$DEMO/nginx"
mount -n --bind "$DEMO/backup/passwd" /etc/passwd
if [ "$IS_ROOT" ]; then
    mount -n --bind "$DEMO/backup/shadow" /etc/shadow
    [ -d /run/sshd ] || { mount -n -t tmpfs none /run; mkdir -m 0755 /run/sshd; }
fi
cd /
exec "$@"
"""

# then as who runs the demo
WEB2_PROGRAMS = """\
"$WEB_SERVER" -p "$DEMO/nginx" -c conf/nginx.conf && exec "$SSHD" -D -e -f "$DEMO/keys/sshd_config"
"""


def passwd(machine: str, name: str, uid: int, gid: int, home: Path) -> str:
    """The machine's users, and the own one with a shell and a home here: neither `nologin` nor ~/.bashrc is in the way."""
    others = [
        line for line in machine.splitlines() if name != line.split(":")[0] and [str(uid)] != line.split(":")[2:3]
    ]
    return "\n".join([f"{name}:x:{uid}:{gid}::{home}:/bin/sh", *others]) + "\n"

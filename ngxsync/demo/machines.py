"""web1 and web2: two real nginx and a real sshd on this machine, in one new folder; nothing else of the machine is touched."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from ngxsync.core.errors import Message
from ngxsync.demo import layout as texts
from ngxsync.demo.layout import Layout
from ngxsync.demo.processes import (
    DemoFailed,
    Process,
    children_of,
    end_processes,
    fetch,
    free_ports,
    is_sshd,
    title_of,
    wait_for,
)

PREFIX = "ngxsync-demo-"
PROCESSES = "processes.json"
ALSO_SEARCHED = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find_program(name: str) -> str:
    """Its absolute path. Raises DemoFailed where it is not installed."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *ALSO_SEARCHED]))
    if found is None:
        hint = "`make demo` installs what is missing; or: apt-get install nginx openssh-server rsync util-linux"
        raise DemoFailed(Message(f"{name} is not installed here", state="nothing was started", next=hint))
    return os.path.abspath(found)


def raise_if_nameless() -> None:
    """ssh and ssh-keygen run for no user whose number has no name."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        what = f"ssh runs for users with a name only, and {os.getuid()} has none here"
        raise DemoFailed(Message(what, state="nothing was started", next="run it as another user")) from None


def own_account() -> tuple[str, int, int]:
    """(name, uid, gid) of who runs this, as web2 knows it: a name of its own, since the machine's may be one that may not log in."""
    uid = os.geteuid()
    return "demo" if uid else "root", uid, os.getegid()


class Machines:
    """The two hosts below one new folder: `start` them; `stop` ends every process and removes the folder."""

    def __init__(self) -> None:
        folder = _new_folder()
        folder.chmod(0o711)  # workers of nginx that are another user pass through to the pages; what is secret is 0700
        web1, web2, ssh = free_ports(3)
        self.layout = Layout(folder, (web1, web2, ssh), own_account()[0])
        self.processes: list[Process] = []
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Both nginx and the sshd answer when this returns. Raises DemoFailed with what they said."""
        raise_if_nameless()
        programs = {name: find_program(name) for name in ("nginx", "sshd", "ssh-keygen", "unshare", "rsync", "ssh")}
        self._write_files(programs["ssh-keygen"])
        self._start_web2(programs)
        self._start_web1(programs["nginx"])

    def _write_files(self, keygen: str) -> None:
        layout = self.layout
        yesterday = time.time() - 86400  # equal on both, so that only content differs
        layout.backup.mkdir(mode=0o711)
        for private in (layout.keys, layout.state, layout.runtime, layout.peer_state):
            private.mkdir(mode=0o700)
        for tree, port, files in zip((layout.tree, layout.backup_tree), layout.ports, texts.trees(), strict=False):
            for name, content in {**files, f"{texts.OWN}/listen.conf": texts.listen_conf(port)}.items():
                file = tree / name
                file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                file.write_text(content)
                os.utime(file, (yesterday, yesterday))
            (tree / "logs").mkdir()
        self._write_account()
        self._write_keys(keygen)
        (layout.keys / "sshd_config").write_text(texts.sshd_config(layout))
        layout.config.write_text(texts.config_ini(layout))

    def _write_account(self) -> None:
        name, uid, gid = own_account()
        backup = self.layout.backup
        machine = Path("/etc/passwd").read_text(errors="surrogateescape")
        (backup / "passwd").write_text(
            texts.passwd(machine, name, uid, gid, backup), encoding="utf-8", errors="surrogateescape"
        )
        (backup / "shadow").write_text(f"{name}:*:::::::\n")

    def _write_keys(self, keygen: str) -> None:
        layout = self.layout
        for name in ("id", "host_key"):
            command = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "ngxsync demo", "-f", str(layout.keys / name)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        kind, key = (layout.keys / "host_key.pub").read_text().split()[:2]
        (layout.keys / "known_hosts").write_text(f"[127.0.0.1]:{layout.ports[2]} {kind} {key}\n")

    def _start_web1(self, nginx: str) -> None:
        command = [nginx, "-p", str(self.layout.tree), "-c", "conf/nginx.conf"]
        log = self.layout.folder / "web1.log"
        with log.open("wb") as stream:
            status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream).returncode
        if status:
            raise DemoFailed(Message(f"nginx did not start: {last_line(log)}", "web1"))
        self.processes.append(Process.of(wait_for(self._nginx_of_web1, "nginx of web1 runs")))
        wait_for(lambda: fetch(self.layout.web1), "web1 answers")

    def _nginx_of_web1(self) -> int:
        """Its main process, 0 where there is none."""
        try:
            pid = int((self.layout.tree / "logs/nginx.pid").read_text())
        except (OSError, ValueError):
            return 0
        return pid if os.fsencode(self.layout.tree) in title_of(pid) else 0

    def _start_web2(self, programs: dict[str, str]) -> None:
        _name, uid, gid = own_account()
        namespaces = ["--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private"]
        inner: list[str] = []
        if uid:
            namespaces += ["--user", "--map-root-user"]
            # back to the own user, or nginx and sshd would believe that they are root
            inner = [programs["unshare"], "--user", f"--map-user={uid}", f"--map-group={gid}"]
        argv = [programs["unshare"], *namespaces, "sh", "-c", texts.WEB2_ROOT, "web2"]
        environment = {
            "DEMO": str(self.layout.folder),
            "WEB_SERVER": programs["nginx"],
            "SSHD": programs["sshd"],
            "IS_ROOT": "" if uid else "yes",
        }
        log = self.layout.backup / "web2.log"
        child = self.spawn([*argv, *inner, "sh", "-c", texts.WEB2_PROGRAMS], log, environment)
        wait_for(lambda: child.poll() is not None or self._answers_web2(), "web2 answers")
        if child.poll() is not None:
            hint = "it needs namespaces of its own (unshare): try it as root, or on a machine that allows them"
            raise DemoFailed(Message(f"it did not start: {last_line(log)}", "web2", "nothing is left of it", hint))
        # its process 1 takes all others of its namespace along
        self.processes += [Process.of(pid, signal.SIGKILL) for pid in children_of(child.pid)]

    def _answers_web2(self) -> bool:
        return bool(fetch(self.layout.web2)) and is_sshd(self.layout.ports[2])

    def spawn(self, argv: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A process in a session of its own: Ctrl-C reaches the demo alone, which then ends all in order."""
        with log.open("ab") as stream:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._children.append(child)
        self.processes.append(Process.of(child.pid))
        return child

    def reload_web1(self) -> None:
        """As its administrator does; the daemon never reloads the master's nginx."""
        os.kill(self._nginx_of_web1(), signal.SIGHUP)

    def end(self, child: subprocess.Popen[bytes]) -> None:
        """One that `spawn` started."""
        Process.of(child.pid).end()
        child.wait()

    def keep(self) -> None:
        """All goes on without this process; what `stop_kept` needs is written down."""
        known = [[process.pid, process.start, process.ends_by] for process in self.processes]
        (self.layout.folder / PROCESSES).write_text(json.dumps(known))

    def stop(self) -> None:
        """Every process has ended and the folder is gone when this returns, however far the start came."""
        unnoticed = [pid for child in self._children if child.poll() is None for pid in children_of(child.pid)]
        unnoticed += filter(None, [self._nginx_of_web1()])
        known = {process.pid for process in self.processes}
        end_processes([*(Process.of(pid, signal.SIGKILL) for pid in unnoticed if pid not in known), *self.processes])
        for child in self._children:
            child.wait()
        shutil.rmtree(self.layout.folder)


def stop_kept(folder: Path) -> None:
    """Ends a demo that was kept. Raises DemoFailed where the folder is none of ours."""
    folder = folder.resolve()
    try:
        known = [Process(*fields) for fields in json.loads((folder / PROCESSES).read_text())]
    except (OSError, ValueError, TypeError):
        known = []
    if not known or not folder.name.startswith(PREFIX):
        hint = f"the folder is the one that `ngxsync demo --keep` printed: {tempfile.gettempdir()}/{PREFIX}..."
        raise DemoFailed(Message("no demo was kept here", str(folder), "nothing was stopped", hint))
    end_processes(known)
    shutil.rmtree(folder)


def _new_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    except OSError as error:
        hint = "name a folder that you may write to, e.g. TMPDIR=/var/tmp ngxsync demo"
        raise DemoFailed(Message(f"no folder can be made: {error}", state="nothing was started", next=hint)) from error


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"

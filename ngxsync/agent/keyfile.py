"""Where sshd looks for a user's keys, and how that file is changed: whole or not at all, following nobody's link.

The file lies in a folder that its user may change at any time, and root works in it: so everything goes by descriptors.
"""

import errno
import os
import pwd
import re
import shutil
import stat
import subprocess
from typing import Callable, List, Optional

from . import kernel
from .answers import Failure
from .paths import Anchor

USUAL = [".ssh/authorized_keys"]
SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ASK_S = 10.0
LARGEST = 16 << 20
OTHERS_WRITE = 0o022


def account_of(user: str) -> pwd.struct_passwd:
    """Raises Failure."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise Failure(
            "user", "there is no user %s on %s" % (user, os.uname().nodename), next="create it, or see `user`"
        )
    if not os.path.isdir(account.pw_dir):
        raise Failure("keys", "the home of %s is not there" % user, where=account.pw_dir, next="create it")
    return account


def key_files(account: pwd.struct_passwd) -> List[str]:
    """The files that sshd reads for this user, first the one that gets new keys. Raises Failure where it reads none."""
    patterns = _asked_of_sshd(account.pw_name) or USUAL
    if patterns == ["none"]:
        hint = "let AuthorizedKeysFile in sshd_config name a file"
        raise Failure("keys", "sshd reads no file of keys for %s" % account.pw_name, next=hint)
    return [os.path.join(account.pw_dir, _expanded(pattern, account)) for pattern in patterns]


def _expanded(pattern: str, account: pwd.struct_passwd) -> str:
    values = {"%%": "%", "%h": account.pw_dir, "%u": account.pw_name, "%U": str(account.pw_uid)}
    return re.sub("%.", lambda found: values.get(found.group(), found.group()), pattern)


def _asked_of_sshd(user: str) -> List[str]:
    """AuthorizedKeysFile of the sshd that serves this login, by its own word; [] where it cannot be asked."""
    address = (os.environ.get("SSH_CONNECTION") or "127.0.0.1").split()[0]
    spec = "user=%s,host=%s,addr=%s" % (user, address, address)
    try:
        done = subprocess.run(
            _sshd() + ["-T", "-C", spec], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=ASK_S
        )
    except (OSError, subprocess.SubprocessError):
        return []
    found = re.findall(r"(?m)^authorizedkeysfile (.+)$", done.stdout.decode("utf-8", "replace"))
    return found[0].split() if found and done.returncode == 0 else []


def _sshd() -> List[str]:
    """The sshd above this process with its -f and -o, else the usual one."""
    words = _listener(os.getppid())
    if not words:
        return [shutil.which("sshd", path=SBIN) or "sshd"]
    kept = words[:1]
    for number, word in enumerate(words[:-1]):
        if word in ("-f", "-o"):
            kept += words[number : number + 2]
    return kept


def _listener(pid: int) -> List[str]:
    """The words of the listening sshd among the processes above; [] where there is none."""
    while pid > 1:
        try:
            with open("/proc/%d/cmdline" % pid, "rb") as stream:
                title = os.fsdecode(stream.read()).rstrip("\0")
            with open("/proc/%d/stat" % pid) as stream:
                parent = int(stream.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
        if title.startswith("sshd: /") and " [listener]" in title:
            return title[len("sshd: ") :].partition(" [listener]")[0].split()
        words = title.split("\0")
        if words[0].startswith("/") and os.path.basename(words[0]) == "sshd":
            return words
        pid = parent
    return []


class KeyFile:
    """One file of keys. `home` is the folder that is opened by name, once; below it no link is followed."""

    def __init__(self, path: str, account: pwd.struct_passwd) -> None:
        self.path, self.account = path, account
        self.is_at_home = path.startswith(account.pw_dir.rstrip("/") + "/")
        self._home = account.pw_dir if self.is_at_home else "/"

    def read(self) -> Optional[bytes]:
        """None where there is no such file. Raises Failure for one that is not to be trusted."""
        try:
            with Anchor.at(self._home) as anchor, anchor.parent(self.path) as (folder, name):
                self._raise_if_foreign(os.fstat(folder), os.path.dirname(self.path))
                return self._content(folder, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(error)

    def leftovers(self) -> List[str]:
        """What killed attempts left beside the file."""
        folder, name = os.path.split(self.path)
        begin = ".%s.ngxsync-" % name
        return [other for other in os.listdir(folder) if other.startswith(begin)] if os.path.isdir(folder) else []

    def bad_modes(self) -> List[str]:
        """What others may write to, which sshd therefore ignores (StrictModes)."""
        places = [self.path, os.path.dirname(self.path)] if self.is_at_home else [self.path]
        return [p for p in places if os.path.lexists(p) and os.lstat(p).st_mode & OTHERS_WRITE]

    def change(self, edit: Callable[[bytes], bytes]) -> None:
        """Puts `edit` of the content in its place, made anew where somebody else changes it meanwhile. Raises Failure."""
        try:
            if self.is_at_home:
                self._make_folder()
            with Anchor.at(self._home) as anchor, anchor.parent(self.path) as (folder, name):
                self._raise_if_foreign(os.fstat(folder), os.path.dirname(self.path))
                self._mend_mode(folder)
                while not self._replaced(folder, name, edit):
                    pass
        except OSError as error:
            raise self._failure(error)

    def _make_folder(self) -> None:
        with Anchor.at(self._home) as anchor, anchor.parent(os.path.dirname(self.path)) as (above, name):
            if os.path.dirname(self.path) == self._home.rstrip("/"):
                return
            try:
                os.mkdir(name, 0o700, dir_fd=above)
            except FileExistsError:
                return
            with anchor.folder(os.path.dirname(self.path)) as folder:
                os.fchown(folder, self.account.pw_uid, self.account.pw_gid)
            os.fsync(above)

    def _mend_mode(self, folder: int) -> None:
        info = os.fstat(folder)
        if self.is_at_home and info.st_mode & OTHERS_WRITE:
            os.fchmod(folder, stat.S_IMODE(info.st_mode) & ~OTHERS_WRITE)

    def _replaced(self, folder: int, name: str, edit: Callable[[bytes], bytes]) -> bool:
        before = self._content(folder, name)
        text = edit(before or b"")
        self._sweep(folder)
        if text == before and not self.bad_modes():
            return True
        temporary = ".%s.ngxsync-%d" % (name, os.getpid())
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            with os.fdopen(fd, "wb") as stream:
                stream.write(text)
                stream.flush()
                self._set_attributes(stream.fileno(), folder, name)
                os.fsync(stream.fileno())
            if not self._put(folder, temporary, name, before):
                return False
            os.fsync(folder)
            return True
        finally:
            try:
                os.unlink(temporary, dir_fd=folder)
            except FileNotFoundError:
                pass

    def _put(self, folder: int, new: str, name: str, before: Optional[bytes]) -> bool:
        """Exchanged, so that what somebody else wrote at that very moment is found, and put back: then False."""
        try:
            if before is None:
                kernel.renameat2(folder, new, folder, name, kernel.RENAME_NOREPLACE)
                return True
            kernel.renameat2(folder, new, folder, name, kernel.RENAME_EXCHANGE)
        except (FileExistsError, FileNotFoundError):
            return False
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EINVAL):
                raise
            os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            return True
        if self._content(folder, new) == before:
            return True
        kernel.renameat2(folder, new, folder, name, kernel.RENAME_EXCHANGE)
        return False

    def _sweep(self, folder: int) -> None:
        for name in self.leftovers():
            os.unlink(name, dir_fd=folder)

    def _set_attributes(self, fd: int, folder: int, name: str) -> None:
        """Of the file that is replaced, without what would make sshd ignore it; a new one is its user's alone."""
        try:
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            owner, group, mode = info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode) & ~OTHERS_WRITE
        except FileNotFoundError:
            owner, group, mode = self.account.pw_uid, self.account.pw_gid, 0o600
            if not self.is_at_home:
                owner, group, mode = 0, 0, 0o644
        os.fchown(fd, owner, group)
        os.fchmod(fd, mode)

    def _content(self, folder: int, name: str) -> Optional[bytes]:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise Failure("keys", "this is no plain file", where=self.path, next="see what it is, and move it away")
            self._raise_if_foreign(info, self.path)
            if info.st_nlink > 1:
                hint = "cp it to a file of its own: root would else put there what another file has"
                raise Failure("keys", "this file has a second name (a hard link)", where=self.path, next=hint)
            return stream.read(LARGEST)

    def _raise_if_foreign(self, info: os.stat_result, path: str) -> None:
        if info.st_uid not in (0, self.account.pw_uid):
            what = "this belongs to user %d, and sshd ignores it for %s" % (info.st_uid, self.account.pw_name)
            raise Failure("keys", what, where=path, next="chown %s %s" % (self.account.pw_name, path))

    def _failure(self, error: OSError) -> Failure:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            hint = "replace the link by what it leads to, or add the line there by hand"
            what = "a symlink on the way to the keys of %s is not followed" % self.account.pw_name
            return Failure("keys", what, where=self.path, next=hint)
        hint = "see the rights and the mount of that file system"
        return Failure("keys", "cannot be changed: %s" % error.strerror, where=self.path, next=hint)

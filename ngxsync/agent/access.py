"""Which of nginx's users has to read a file, and whether it may: by the stats along the path, as the kernel decides.

Nothing is opened. Access lists (setfacl) are not looked into: what has one counts as readable, since it may be.
"""

import grp
import os
import pwd
import re
from typing import Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Optional

from .directives import Directive
from .nginx import Nginx

READ, SEARCH = 4, 1  # of the permission bits
ACL = "system.posix_acl_access"

Account = NamedTuple("Account", [("name", str), ("uid", int), ("gids", FrozenSet[int])])
# who reads what is loaded at start, and who what is opened later; None where there is no such user here
Readers = NamedTuple("Readers", [("main", Optional[Account]), ("worker", Optional[Account])])


def allows(info: os.stat_result, account: Account, bit: int) -> bool:
    """Whether the owner's, the group's or the others' bits let this account in: the first that concerns it decides. Pure."""
    if account.uid == 0:
        return True
    if info.st_uid == account.uid:
        return bool(info.st_mode >> 6 & bit)
    if info.st_gid in account.gids:
        return bool(info.st_mode >> 3 & bit)
    return bool(info.st_mode & bit)


class Doors:
    """What stands in the way of one account; each directory is looked at once."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._known: Dict[str, bool] = {}

    @property
    def is_open(self) -> bool:
        """Whether nothing can stand in its way."""
        return self._account.uid == 0

    def blocked(self, path: str) -> str:
        """The first directory of this path, or the file, that keeps the account out; "" where none does, or it is not to be known."""
        if self.is_open:
            return ""
        for folder in _folders_to(path):
            if folder not in self._known:
                self._known[folder] = _lets_in(folder, self._account, SEARCH)
            if not self._known[folder]:
                return folder
        return "" if _lets_in(path, self._account, READ) else path


def _folders_to(path: str) -> Iterator[str]:
    """Those of the path as it is written, and those of where its links lead."""
    for each in dict.fromkeys([path, os.path.realpath(path)]):
        parts = each.split("/")[1:-1]
        yield "/"
        for end in range(1, len(parts) + 1):
            yield "/" + "/".join(parts[:end])


def _lets_in(path: str, account: Account, bit: int) -> bool:
    try:
        if allows(os.stat(path), account, bit):
            return True
    except OSError:
        return True  # who may not look knows nothing
    try:
        return bool(os.getxattr(path, ACL))
    except OSError:
        return False


def readers(nginx: Nginx, directives: Iterable[Directive]) -> Readers:
    """nginx's workers are whom `user` names, or what was compiled in, where its main process is root's."""
    uid = _uid_of(nginx)
    if uid != 0:
        mine = _account(uid)
        return Readers(mine, mine)
    named = next((list(d.args) for d in directives if d.name == "user" and not d.depth and d.args), [])
    name, group = (named + named[:1])[:2] if named else compiled_user(nginx.build.text)
    return Readers(_account(0), _worker(name, group))


def compiled_user(build: str) -> List[str]:
    """[user, group] of `nginx -V`."""
    found = [re.search(r"\s--%s=(\S+)" % word, build) for word in ("user", "group")]
    user, group = [match.group(1).strip("'") if match else "" for match in found]
    return [user or "nobody", group or user or "nobody"]


def _uid_of(nginx: Nginx) -> int:
    try:
        return os.stat("/proc/%d" % nginx.running.pid).st_uid if nginx.running else os.geteuid()
    except OSError:
        return os.geteuid()


def _account(uid: int) -> Optional[Account]:
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return Account(str(uid), uid, frozenset())
    return Account(found.pw_name, uid, frozenset(os.getgrouplist(found.pw_name, found.pw_gid)))


def _worker(name: str, group: str) -> Optional[Account]:
    """nginx takes the group that is named, and those whose member the user is (initgroups)."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        gid = found.pw_gid
    return Account(name, found.pw_uid, frozenset(os.getgrouplist(name, gid)))

"""The system calls that Python 3.6 does not offer, through ctypes. Every failure is an OSError with its errno."""

import ctypes
import errno
import os
import struct
from typing import Optional

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38

# Landlock: the same numbers on every machine
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_WRITES_HERE = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8  # write a file; remove and make directories and files
_WRITES_NOWHERE = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12  # make devices, sockets, pipes and links
_TRUNCATE = 1 << 14

# glibc has renameat2 since 2.28; RHEL 8's Python 3.6 has it, older systems are asked by number
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "armv7l": 382, "ppc64le": 357, "s390x": 347, "i686": 353, "riscv64": 276}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, name: Optional[str] = None) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def renameat2(source_fd: int, source: str, target_fd: int, target: str, flags: int) -> None:
    """Raises OSError; ENOSYS or EINVAL where kernel or file system lacks it."""
    number = _RENAMEAT2.get(os.uname().machine)
    args = (source_fd, os.fsencode(source), target_fd, os.fsencode(target), flags)
    if hasattr(_libc, "renameat2"):
        _checked(_libc.renameat2(*args), target)
    elif number is not None:
        _checked(_libc.syscall(number, *args), target)
    else:
        raise OSError(errno.ENOSYS, "renameat2 is not known for " + os.uname().machine, target)


def syncfs(fd: int) -> None:
    """All of the file system that holds fd is on disk when this returns."""
    _checked(_libc.syncfs(fd))


def mount(source: bytes, target: bytes, kind: bytes, flags: int = 0, data: bytes = b"") -> None:
    result = _libc.mount(source, target, kind, ctypes.c_ulong(flags), data)
    _checked(result, os.fsdecode(target))


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    _checked(_libc.setns(fd, kind))


def die_with_parent(signal_number: int) -> None:
    """The calling process gets the signal when its parent ends: nothing of ours outlives its transaction."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0))


def write_only_below(fd: int) -> None:
    """From now on, programs that are started included, files are written, made and removed below that directory alone.

    Plain files and directories, that is: no link, device or socket. By Landlock (Linux 5.13); does nothing where there is none.
    """
    abi = _libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        return
    truncate = _TRUNCATE if abi >= 3 else 0
    handled = ctypes.c_uint64(_WRITES_HERE | _WRITES_NOWHERE | truncate)
    ruleset = _checked(_libc.syscall(_LANDLOCK_CREATE, ctypes.byref(handled), 8, 0))
    try:
        rule = struct.pack("=Qi", _WRITES_HERE | truncate, fd)
        _checked(_libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0))
        _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)

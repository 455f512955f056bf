#!/bin/sh
# Makes a host (see host.py) out of the namespaces that this shell was started in, and becomes its process 1.
# Arguments: the name, its folder on disk, folders to show read-only. Environment: PRIVATE, ON_DISK, EMPTIED.
# Standard output: the process number as the tests see it (/proc is still theirs at first), then "up".
# It ends with its standard input, and the kernel then ends everything in the host.
set -eu
umask 022
name=$1 folder=$2
shift 2
read -r pid rest </proc/self/stat
hostname "$name"
mount -t tmpfs -o mode=0755 scratch "$folder/scratch"
cd "$folder/scratch"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
mount -t proc proc root/proc
mount -t sysfs sysfs root/sys
mount --rbind /dev root/dev
for path in $PRIVATE; do mount -t tmpfs -o mode=1777 tmpfs "root$path"; done
for path in $ON_DISK; do
    mkdir -p "root$path" "$folder/disk$path"
    mount --bind "$folder/disk$path" "root$path"
done
for path in "$@"; do
    mkdir -p "root$path"
    mount --bind "$path" "root$path"
    mount -o remount,bind,ro "root$path"
done
for path in $EMPTIED; do rm -rf "root$path"; mkdir -p "root$path"; done
chmod 0700 root/root root/root/.ssh
chmod 0755 root/run
mkdir -p root/run/sshd root/run/lock
rm -f root/root/.bashrc root/etc/ssh/ssh_known_hosts
: >root/root/.bashrc
# without PAM, sshd lets nobody in whose password begins with !
sed -i 's/^root:[^:]*:/root:*:/' root/etc/shadow
cd root
pivot_root . .
umount -l .
ip link set lo up
echo "$pid"
exec /usr/bin/python3 -I -S -c 'import os, signal, sys
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, reap)
print("up", flush=True)
sys.stdin.read()'

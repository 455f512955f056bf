#!/bin/sh
# Makes the disk of a container (see container.py) in the mount and network namespaces that this shell was started in,
# and holds both. Arguments: its folder on disk, the host's name. Environment: ON_DISK, EMPTIED.
# Standard output: "up". It ends with its standard input; the kernel then takes mounts and network away.
set -eu
umask 022
# nspawn keeps notes there, by the name of the container
mount -t tmpfs -o mode=0755 tmpfs /run
folder=$1 name=$2
mount -t tmpfs -o mode=0755 scratch "$folder/scratch"
cd "$folder/scratch"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
for path in $ON_DISK; do
    mkdir -p "root$path" "$folder/disk$path"
    mount --bind "$folder/disk$path" "root$path"
done
for path in $EMPTIED; do rm -rf "root$path"; mkdir -p "root$path"; done
rm -f root/root/.bashrc root/etc/ssh/ssh_known_hosts root/etc/ssh/ssh_host_* root/etc/resolv.conf
: >root/root/.bashrc
chmod 0700 root/root root/root/.ssh
echo "$name" >root/etc/hostname
cat /proc/sys/kernel/random/uuid | tr -d - >root/etc/machine-id
rm -rf root/var/lib/systemd/random-seed root/usr/local/sbin/ngxsync-agent

# Of the machine's own units only those that a test names; nothing that is slow, periodic, or would ask the network.
units=root/etc/systemd/system
rm -rf "$units" root/etc/systemd/network
mkdir -p "$units/multi-user.target.wants" root/var/log/journal
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer man-db.timer \
    logrotate.timer systemd-tmpfiles-clean.timer systemd-timesyncd.service systemd-networkd.service \
    systemd-resolved.service getty.target console-getty.service ldconfig.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-hwdb-update.service systemd-journal-catalog-update.service \
    systemd-random-seed.service systemd-firstboot.service systemd-sysusers.service e2scrub_reap.service \
    systemd-journal-flush.service rc-local.service sysstat.service ifupdown-pre.service networking.service; do
    ln -s /dev/null "$units/$unit"
done
ln -s /lib/systemd/system/multi-user.target "$units/default.target"

ip link set lo up
echo up
exec cat >/dev/null

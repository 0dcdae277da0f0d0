#!/bin/bash
# KIWI runs this inside the image's root, after the packages and the overlay root/ are in place.
set -euo pipefail

# --- the user that Vagrant logs in as ---------------------------------------------------------
install -d -m 0700 -o vagrant -g vagrant /home/vagrant/.ssh
install -m 0600 -o vagrant -g vagrant /var/lib/vagrant-kiwi-box/authorized_keys \
    /home/vagrant/.ssh/authorized_keys
install -m 0644 -o vagrant -g vagrant /dev/null /home/vagrant/.hushlogin
rm -r /var/lib/vagrant-kiwi-box
visudo -q -c
install -d -m 0755 /run/sshd
sshd -t

# --- name -------------------------------------------------------------------------------------
# sudo looks the name up each time: it must be found without asking the network.
name=debian-${kiwi_profiles:?}-libvirt
echo "$name" > /etc/hostname
rm -f /etc/hosts # a link to KIWI's copy of the host's
cat > /etc/hosts <<END
127.0.0.1 localhost
127.0.1.1 $name
::1 localhost ip6-localhost ip6-loopback
END

# --- services ---------------------------------------------------------------------------------
systemctl set-default multi-user.target
systemctl enable systemd-networkd.service systemd-resolved.service \
    vagrant-kiwi-grow.service vagrant-kiwi-hostkeys.service

# From Debian 13 on /tmp would be in memory, which is for what KIWI does.
systemctl mask tmp.mount

# Upkeep: the machine does not live that long.
systemctl mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer mdcheck_continue.timer mdcheck_start.timer \
    mdmonitor-oneshot.timer mdmonitor.service systemd-pstore.service \
    systemd-tmpfiles-clean.timer

# What ssh would wait for, or share the processor with, for nothing: consoles (no password works),
# a disk that is always clean, arrays and volumes that are not there, file systems that nobody
# looks into. systemd-repart would load the drivers of loop devices and of the device mapper, which
# come by themselves when something opens them.
systemctl mask \
    getty.target systemd-ask-password-console.path systemd-ask-password-wall.path \
    systemd-fsck-root.service systemd-fsckd.socket systemd-journal-flush.service \
    systemd-networkd-wait-online.service systemd-network-generator.service \
    systemd-repart.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    blk-availability.service lvm2-monitor.service dracut-shutdown.service mdadm-shutdown.service \
    dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount

# logind comes when something asks for it (shutdown does), not before.
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -s /dev/null /etc/systemd/system/multi-user.target.wants/systemd-logind.service

# From Debian 13 on it has sshd listen on a socket of its own too, and complains of missing vsock.
mkdir -p /etc/systemd/system-generators
ln -s /dev/null /etc/systemd/system-generators/systemd-ssh-generator

# It would refuse logins until some time after sshd accepts them.
ln -s /dev/null /etc/tmpfiles.d/systemd-nologin.conf

# A program at each login, which says what kernel this is.
rm -f /etc/update-motd.d/10-uname

# --- initrd -----------------------------------------------------------------------------------
# See post_bootstrap.sh.
dpkg-divert --local --rename --remove /usr/bin/dracut
# KIWI names its initrd as one that is there. It does not find Debian's name in the dracut of Debian
# 13, and some older ones (10.2) give up then.
for kernel in /boot/vmlinuz-*; do
    : > "/boot/initrd.img-${kernel#/boot/vmlinuz-}"
done

# --- what must not be shared between guests, and what is of no use in one ---------------------
rm -f /etc/ssh/ssh_host_*
# Empty, not missing: systemd then makes one at each machine's first boot, and keeps it.
: > /etc/machine-id
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed
# KIWI unpacked the packages of its bootstrap whole; dpkg leaves these files out of all others.
find /usr/share/doc -mindepth 1 ! -type d ! -name copyright -delete
find /usr/share/doc -mindepth 1 -type d -empty -delete
rm -rf /usr/share/info/* /usr/share/locale/* /usr/share/man/*
rm -rf /var/log/apt /var/log/*.log /var/lib/dpkg/*-old /var/cache/debconf/*-old
find /tmp /var/tmp -type f -delete

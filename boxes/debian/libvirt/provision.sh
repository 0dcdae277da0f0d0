#!/bin/sh
# Runs in the docker guest, as root, before KIWI builds the box there: puts into the description's
# overlay what both boxes share, so that the machine has KIWI and its settings exactly as this
# guest has them. The devices' helpers and the start-up of the container stay behind.
set -eu
umask 022
root=${VAGRANT_KIWI_DESCRIPTION:?}/root

# KIWI gives the image the permissions that root/ has, and in a checkout those come from an umask.
chmod -R u=rwX,go=rX "$root"

for path in \
    /opt/kiwi \
    /usr/local/bin/kiwi-ng \
    /etc/default/locale \
    /etc/locale.conf \
    /etc/ssh/sshd_config.d/vagrant-kiwi.conf \
    /etc/sudoers.d/vagrant
do
    mkdir -p "$root${path%/*}"
    cp -a "$path" "$root$path"
done

# Vagrant's insecure public key, brought by --sync; config.sh gives it to the user.
install -D -m 0644 /var/lib/vagrant-kiwi-box/authorized_keys \
    "$root/var/lib/vagrant-kiwi-box/authorized_keys"

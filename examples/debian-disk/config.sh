#!/bin/bash
# KIWI runs this inside the image's root, after the packages and the overlay root/ are in place.
set -euo pipefail

# What KIWI knows of the image is in the environment.
echo "${kiwi_iname:?} ${kiwi_iversion:?}" > /etc/vagrant-kiwi-built

# KIWI gives the image the permissions that root/ has in the checkout, and those come from an umask.
chmod 0755 / /etc
chmod 0644 /etc/vagrant-kiwi-example

echo "${kiwi_iname}" > /etc/hostname

# Shown on the console above the login prompt.
mkdir -p /etc/issue.d
{
    echo "Overlay: $(cat /etc/vagrant-kiwi-example)"
    echo "Built: $(cat /etc/vagrant-kiwi-built)"
} > /etc/issue.d/vagrant-kiwi.issue

# See post_bootstrap.sh.
dpkg-divert --local --rename --remove /usr/bin/dracut

# Logs and backups of the build itself.
rm -rf /var/log/apt /var/log/*.log /var/lib/dpkg/*-old /var/cache/debconf/*-old

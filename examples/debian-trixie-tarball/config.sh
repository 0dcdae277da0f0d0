#!/bin/bash
# KIWI runs this inside the image's root, after the packages and the overlay root/ are in place.
set -euo pipefail

# What KIWI knows of the image is in the environment.
echo "${kiwi_iname:?} ${kiwi_iversion:?}" > /etc/vagrant-kiwi-built

# KIWI gives the image the permissions that root/ has in the checkout, and those come from an umask.
chmod 0755 / /etc /etc/dpkg /etc/dpkg/dpkg.cfg.d
chmod 0644 /etc/vagrant-kiwi-example /etc/dpkg/dpkg.cfg.d/no-docs

# Documentation, manual pages and translations are a third of what is left. The overlay's
# /etc/dpkg/dpkg.cfg.d/no-docs tells dpkg the same for packages installed later.
find /usr/share/doc -mindepth 1 ! -type d ! -name copyright -delete
find /usr/share/doc -mindepth 1 -type d -empty -delete
rm -rf /usr/share/info/* /usr/share/locale/* /usr/share/man/*

# Logs and backups of the build itself.
rm -rf /var/log/apt /var/log/*.log /var/lib/dpkg/*-old /var/cache/debconf/*-old

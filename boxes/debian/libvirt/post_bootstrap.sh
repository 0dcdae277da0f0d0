#!/bin/bash
# KIWI runs this inside the image's root before it installs the packages of type "image".
set -euo pipefail

# Debian's packages make an initrd as soon as the kernel is there, twice, and KIWI makes its own at
# the end: under this name dracut is not found until config.sh.
dpkg-divert --local --rename --divert /usr/bin/dracut.later --add /usr/bin/dracut

# What is of no use in a build box; config.sh removes what is there already. KIWI's own
# rpm-excludedocs holds for the time of the build only. And no waiting for a disk that is thrown
# away.
cat > /etc/dpkg/dpkg.cfg.d/vagrant-kiwi <<'END'
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
force-unsafe-io
END

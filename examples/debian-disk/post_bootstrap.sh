#!/bin/bash
# KIWI runs this inside the image's root before it installs the packages of type "image".
set -euo pipefail

# Debian's packages make an initrd as soon as the kernel is there, twice, and KIWI makes its own at
# the end: under this name dracut is not found until config.sh, which saves half the build time.
dpkg-divert --local --rename --divert /usr/bin/dracut.later --add /usr/bin/dracut

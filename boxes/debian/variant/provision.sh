#!/bin/sh
# Runs after libvirt/provision.sh where --kiwi-version asks for another KIWI, which then also makes
# the box. Here and not in that folder, so that the default box stays as it is.
set -eu

# The description in words that an older KIWI knows; it uses nothing that came later.
sed -i 's/schemaversion="8\.5"/schemaversion="8.3"/' "${VAGRANT_KIWI_DESCRIPTION:?}/config.xml"

# See Dockerfile. The link is made at the machine's start: KIWI has its own cache in the place of the
# image's /var/cache/kiwi while it builds.
install -d -m 0700 "$VAGRANT_KIWI_DESCRIPTION/root/root/.gnupg"
echo 'L /var/cache/kiwi/apt-get/trusted.gpg.d/kiwi.gpg - - - - ../trusted.gpg' \
    >"$VAGRANT_KIWI_DESCRIPTION/root/etc/tmpfiles.d/vagrant-kiwi-variant.conf"

#!/bin/sh
# Turns a bare Debian into the build box. Runs once, as root, inside the box; /box holds the
# build context. Needs no network where the base already holds packages.txt.
set -eu
export DEBIAN_FRONTEND=noninteractive

: "${SUITE:?}" "${MIRROR:?}" "${SECURITY_MIRROR:?}"

# --- packages ---------------------------------------------------------------------------------
# The official image brings its own file, which names another mirror.
rm -f /etc/apt/sources.list.d/debian.sources
cat >/etc/apt/sources.list <<EOF
deb $MIRROR $SUITE main
deb $MIRROR $SUITE-updates main
deb $SECURITY_MIRROR $SUITE-security main
EOF

missing=
packages=$(sed 's/#.*//' /box/packages.txt)
for package in $packages; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || status=
    [ "$status" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "Installing:$missing"
    apt-get -q -o Acquire::Retries=3 update
    apt-get -q -y --no-install-recommends upgrade
    # shellcheck disable=SC2086  # a list of package names, split on purpose
    apt-get -q -y --no-install-recommends install $missing
fi
apt-get clean
rm -rf /var/lib/apt/lists/*

# --- KIWI, in an environment of its own -------------------------------------------------------
python3 -m venv /opt/kiwi
/opt/kiwi/bin/pip install -q --disable-pip-version-check --no-cache-dir --no-index --no-deps \
    /box/wheels/*.whl
# Dependencies are all there, or the box is not made.
/opt/kiwi/bin/pip check
/opt/kiwi/bin/pip uninstall -q -y pip setuptools
ln -s /opt/kiwi/bin/kiwi-ng /usr/local/bin/kiwi-ng
kiwi-ng --version

# --- the user that Vagrant logs in as ---------------------------------------------------------
useradd --create-home --uid 1000 --shell /bin/bash vagrant
# No password works, yet the account is not locked (a locked one may refuse keys, too).
usermod --password '*' vagrant
install -d -m 0700 -o vagrant -g vagrant /home/vagrant/.ssh
install -m 0600 -o vagrant -g vagrant /box/authorized_key /home/vagrant/.ssh/authorized_keys
install -m 0644 -o vagrant -g vagrant /dev/null /home/vagrant/.hushlogin
echo 'vagrant ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/vagrant
chmod 0440 /etc/sudoers.d/vagrant
visudo -q -c

# --- sshd -------------------------------------------------------------------------------------
install -m 0644 /box/sshd.conf /etc/ssh/sshd_config.d/vagrant-kiwi.conf
install -m 0755 /box/guest.sh /usr/local/sbin/vagrant-kiwi-guest

# --- loop devices without the host's /dev -------------------------------------------------------
install -m 0755 /box/devices.sh /usr/local/sbin/vagrant-kiwi-devices
install -m 0755 /box/partx.sh /usr/local/sbin/partx

# --- language -----------------------------------------------------------------------------------
# Where systemd looks, and where PAM does; from Debian 13 on systemd makes the same link.
echo 'LANG=C.UTF-8' >/etc/locale.conf
ln -sf ../locale.conf /etc/default/locale

# --- what must not be shared between guests, and what is of no use in one ---------------------
rm -f /etc/ssh/ssh_host_*
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
find /var/log /var/cache/apt /tmp /var/tmp -type f -delete
rm -rf /box

#!/bin/sh
# The guest's first process (under docker's --init): makes this guest's own host keys, runs sshd.
set -eu
ssh-keygen -A >/dev/null
install -d -m 0755 /run/sshd
exec /usr/sbin/sshd -D -e

#!/bin/sh
# Keeps the guest's own /dev in step with the loop devices that it may use. The host's /dev is never
# shared: KIWI binds /dev into the image root, and when it fails at a bad moment (a full disk) it
# removes that root with the bind in it, devices and all.
set -eu

node() { # path, type, major:minor
    [ -e "$1" ] || mknod -m 0600 "$1" "$2" "${3%:*}" "${3#*:}" 2>/dev/null || true
}

# mknod fails for devices of others: the device cgroup forbids them, which is as it should be.
node /dev/loop-control c 10:237
number=0
while [ "$number" -lt 64 ]; do
    node "/dev/loop$number" b "7:$number"
    number=$((number + 1))
done
# Partitions of a loop device that is bound to nothing are left from a build that ended badly (the
# kernel refuses to drop them while something holds them); the next image on it would fail.
for loop in /sys/block/loop*; do
    [ -e "$loop/loop/backing_file" ] && continue
    for partition in "$loop"/loop*p*; do
        [ -e "$partition/dev" ] || continue
        /usr/bin/partx --delete "/dev/${loop##*/}" || true
        break
    done
done
# Partition numbers are handed out anew each time, so a node of before may be another's now.
rm -f /dev/loop[0-9]*p[0-9]*
for partition in /sys/block/loop*/loop*p*; do
    [ -e "$partition/dev" ] || continue
    node "/dev/${partition##*/}" b "$(cat "$partition/dev")"
done

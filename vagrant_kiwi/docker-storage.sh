#!/bin/sh
# Gives the Docker daemon of this host a data root on btrfs, in a file of @{size}. Printed by
# vagrant-kiwi, which changes nothing itself. Read it, then run it as root: sh docker-storage.sh
#
# WHO NEEDS THIS? Few. Dice's guide asked for it because Docker kept containers on the device mapper,
# which clashed with KIWI's own use of it. Docker 25 has no such driver any more: it takes overlay2
# (a fresh Docker 29: containerd's overlayfs), and on ext4 or xfs images build there. btrfs helps
#   - where Docker fell back to vfs, which copies the whole box for each guest, or has zfs or
#     fuse-overlayfs below it, on which KIWI does not build: the data root lies on a file system that
#     overlay2 does not take, such as another overlay;
#   - an old Docker that has devicemapper;
#   - for container images with delta_root, for which KIWI mounts an overlay in the guest. For these
#     alone a volume is simpler: docker.create_args: ["--volume=/var/lib/vagrant-kiwi"].
# If the host's own file system is btrfs, no file is needed: "storage-driver": "btrfs" will do.
# Docker itself recommends overlay2 for most hosts, and still has btrfs in version 29, where naming
# it here means that containerd does not keep the images (its documentation, "Select a storage
# driver" and "BTRFS storage driver"; moby, daemon/image_store_choice.go).
#
@{advice}
#
# WHAT IT DOES. Makes the file, a btrfs in it, and an entry in fstab; mounts it on a NEW folder; puts
# "storage-driver" and "data-root" into daemon.json and leaves all else in it; restarts the daemon.
# NOTHING IS LOST: images, containers and volumes of before stay in the old data root, where the
# daemon does not see them until this is undone. To take images along:
#   docker save -o images.tar IMAGE...      before it, and      docker load -i images.tar      after it
# The build box need not be taken along: invoke box-add makes it.
# Run again, it finds everything in place. How to undo it stands at the end.
set -eu
umask 022

# --- where things are: the environment can name other places -------------------------------------
SIZE=@{size}
# The file takes room as it fills up; the host must have all of it, or btrfs breaks when it is full.
STORAGE_FILE=${STORAGE_FILE:-/var/lib/docker-storage.btrfs}
DATA_ROOT=${DATA_ROOT:-/var/lib/docker-btrfs}
DAEMON_JSON=${DAEMON_JSON:-/etc/docker/daemon.json}
FSTAB=${FSTAB:-/etc/fstab}
# How the daemon is restarted: auto (systemd or its init script), no (you do it), or a command.
RESTART=${RESTART:-auto}

BYTES=@{bytes}
RESERVE=1073741824
BACKUP=.before-docker-storage

say() { printf 'docker-storage: %s\n' "$*"; }

die() {
    printf 'docker-storage: %s\n' "$*" >&2
    exit 1
}

# --- looking, before anything is changed ---------------------------------------------------------
[ "$(id -u)" = 0 ] || die "run this as root: sudo sh $0"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# Each program with Debian's package.
for needed in mkfs.btrfs:btrfs-progs docker:docker.io python3:python3 blkid:util-linux \
    findmnt:util-linux losetup:util-linux mount:mount; do
    command -v "${needed%%:*}" >/dev/null ||
        die "${needed%%:*} is not there: apt-get install ${needed#*:}"
done

# fstab separates words by blanks, and mounts are found again by their real paths.
for path in "$STORAGE_FILE" "$DATA_ROOT" "$FSTAB" "$DAEMON_JSON"; do
    case $path in
        *[!A-Za-z0-9/._+-]*) die "$path: use letters, digits and / . _ + - only" ;;
    esac
done
for path in "$STORAGE_FILE" "$DATA_ROOT"; do
    [ "$(readlink -m "$path")" = "$path" ] || die "$path is in truth $(readlink -m "$path")"
done
[ -f "$FSTAB" ] || die "there is no $FSTAB"

if [ "$RESTART" = auto ] && [ ! -d /run/systemd/system ] && [ ! -x /etc/init.d/docker ]; then
    RESTART=no
fi

grep -qw btrfs /proc/filesystems || modprobe btrfs || die "this kernel has no btrfs"

daemon_json() { # check: 0 if all is in place, 3 if not; write: puts it there
    python3 - "$1" "$DAEMON_JSON" "$DATA_ROOT" <<'PYTHON'
import json
import os
import sys

task, path, root = sys.argv[1:]
path = os.path.realpath(path)
wanted = {"storage-driver": "btrfs", "data-root": root}
try:
    with open(path, encoding="utf-8") as file:
        config = json.loads(file.read().strip() or "{}")
except FileNotFoundError:
    config = {}
except ValueError as error:
    sys.exit(f"docker-storage: {path} is no JSON: {error}")
if not isinstance(config, dict):
    sys.exit(f"docker-storage: {path} holds no JSON object")
if (config.get("features") or {}).get("containerd-snapshotter"):
    sys.exit(f"docker-storage: {path} has images kept by containerd (features, "
             "containerd-snapshotter): take that out, or put /var/lib/containerd on btrfs instead")
if "graph" in config:
    sys.exit(f'docker-storage: {path} has "graph", the old word for data-root: take it out')
if config.get("storage-opts") and config.get("storage-driver") != "btrfs":
    sys.exit(f"docker-storage: the storage-opts in {path} are another driver's: take them out")
if all(config.get(key) == value for key, value in wanted.items()):
    sys.exit(0)
if task == "check":
    sys.exit(3)
new = f"{path}.new"
with open(new, "w", encoding="utf-8") as file:
    json.dump(config | wanted, file, indent=2)
    file.write("\n")
    os.fsync(file.fileno())
os.chmod(new, os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o644)
os.replace(new, path)
PYTHON
}

state=0
daemon_json check || state=$?
case $state in 0 | 3) ;; *) exit 1 ;; esac

daemon_is() { docker info --format '{{.Driver}} {{.DockerRootDir}}' 2>/dev/null; }

before=$(daemon_is) || before=
if [ "$state" = 3 ] || [ "$before" != "btrfs $DATA_ROOT" ]; then restart=yes; else restart=no; fi
if [ "$restart" = yes ] && [ "$RESTART" != no ] && [ -n "$(docker ps --quiet 2>/dev/null)" ]; then
    die "containers are running (docker ps): end them first, for the daemon is restarted"
fi

entry=$(awk -v root="$DATA_ROOT" '$1 !~ /^#/ && $2 == root { print $1 }' "$FSTAB")
[ -z "$entry" ] || [ "$entry" = "$STORAGE_FILE" ] || die "$FSTAB mounts $entry on $DATA_ROOT"

mounted=
if mountpoint -q "$DATA_ROOT"; then
    device=$(findmnt -n -o SOURCE --mountpoint "$DATA_ROOT" | tail -n 1)
    mounted=$(losetup -n -O BACK-FILE "$device" 2>/dev/null || true)
    [ "$mounted" = "$STORAGE_FILE" ] || die "$device is mounted on $DATA_ROOT: name a new folder"
elif [ -e "$DATA_ROOT" ] && [ -n "$(ls -A "$DATA_ROOT")" ]; then
    die "$DATA_ROOT holds data, which a mount would hide: name a new folder (DATA_ROOT=...)"
fi

# --- the file, with btrfs in it ------------------------------------------------------------------
if [ -e "$STORAGE_FILE" ]; then
    [ "$(blkid -p -o value -s TYPE "$STORAGE_FILE")" = btrfs ] ||
        die "$STORAGE_FILE is there and holds no btrfs: it stays as it is; name another file"
    say "$STORAGE_FILE is there"
else
    folder=$(dirname "$STORAGE_FILE")
    [ -d "$folder" ] || die "there is no folder $folder"
    [ "$(stat -f -c %T "$folder")" != btrfs ] ||
        die "$folder is on btrfs already: no file is needed, see above"
    free=$(df --output=avail -B1 "$folder" | tail -n 1)
    [ "$free" -gt $((BYTES + RESERVE)) ] ||
        die "$folder has $((free / 1048576)) MiB free: too little for $SIZE and 1 GiB for the host"
    # Under another name until it is whole, in case this is interrupted.
    rm -f "$STORAGE_FILE.new"
    (umask 077 && truncate -s "$SIZE" "$STORAGE_FILE.new")
    mkfs.btrfs -q -L docker-storage "$STORAGE_FILE.new" >/dev/null
    mv "$STORAGE_FILE.new" "$STORAGE_FILE"
    say "made $STORAGE_FILE, $SIZE"
fi

# --- mounted, now and at each start --------------------------------------------------------------
if [ -n "$entry" ]; then
    say "$FSTAB has it"
else
    [ -e "$FSTAB$BACKUP" ] || cp -p "$FSTAB" "$FSTAB$BACKUP"
    # nofail: if it cannot be mounted, Docker does not start (wrong file system), but the host does.
    # Such a mount is waited for by nobody but those who are named.
    options=loop,noatime,nofail,x-systemd.before=docker.service
    [ -z "$(tail -c 1 "$FSTAB")" ] || echo >>"$FSTAB"
    echo "$STORAGE_FILE $DATA_ROOT btrfs $options 0 0" >>"$FSTAB"
    say "entered it in $FSTAB"
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
fi
if [ -n "$mounted" ]; then
    say "$DATA_ROOT is mounted"
else
    mkdir -p "$DATA_ROOT"
    # By its entry, so that this is known to work.
    mount --fstab "$FSTAB" "$DATA_ROOT"
    say "mounted it on $DATA_ROOT"
fi

# --- the daemon ----------------------------------------------------------------------------------
restart_daemon() {
    case $RESTART in
        auto)
            if [ -d /run/systemd/system ]; then
                systemctl restart docker
            else
                /etc/init.d/docker restart
            fi
            ;;
        *) sh -c "$RESTART" ;;
    esac
}

daemon_comes() { # Waits up to a minute for a daemon that says this.
    waited=0
    until [ "$(daemon_is)" = "$1" ]; do
        waited=$((waited + 1))
        [ "$waited" -le 120 ] || return 1
        sleep 0.5
    done
}

if [ "$state" = 3 ]; then
    mkdir -p "$(dirname "$DAEMON_JSON")"
    if [ -e "$DAEMON_JSON" ]; then
        [ -e "$DAEMON_JSON$BACKUP" ] || cp -p "$DAEMON_JSON" "$DAEMON_JSON$BACKUP"
        cp -p "$DAEMON_JSON" "$DAEMON_JSON.old"
    fi
    daemon_json write
    say "set storage-driver and data-root in $DAEMON_JSON"
else
    say "$DAEMON_JSON has it"
fi

if [ "$restart" = no ]; then
    say "the daemon uses it: nothing is left to do"
elif [ "$RESTART" = no ]; then
    say "now restart the daemon"
elif restart_daemon && daemon_comes "btrfs $DATA_ROOT"; then
    say "the daemon uses it"
    [ -z "$before" ] || say "what it had stays where it is: ${before#* }, driver ${before%% *}"
else
    # Back to what worked; file, entry and mount stay, for they do no harm.
    if [ -e "$DAEMON_JSON.old" ]; then
        mv "$DAEMON_JSON.old" "$DAEMON_JSON"
    elif [ "$state" = 3 ]; then
        rm "$DAEMON_JSON"
    else
        die "the daemon does not come up with btrfs, though $DAEMON_JSON says so; look at its log"
    fi
    restart_daemon || true
    die "the daemon does not come up with btrfs; $DAEMON_JSON is as it was. Its log says why" \
        "(journalctl -u docker): a flag of dockerd for the same thing, such as --data-root?"
fi
rm -f "$DAEMON_JSON.old"

cat <<UNDO

To undo it, as root:
  systemctl stop docker docker.socket        # or as the daemon is stopped here
  take "storage-driver" and "data-root" out of $DAEMON_JSON
                                             # as it was, if it was there: $DAEMON_JSON$BACKUP
  umount $DATA_ROOT
  take the line of $DATA_ROOT out of $FSTAB  # as it was: $FSTAB$BACKUP
  systemctl start docker
  rm $STORAGE_FILE                           # with the images and containers in it
UNDO

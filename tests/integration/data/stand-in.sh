#!/bin/sh
# Replaces kiwi-ng in the guest by a stand-in, so that failures can be tested cheaply. The build
# proper does what the file ./behave in the description says.
set -eu
rm -f /usr/local/bin/kiwi-ng
cat >/usr/local/bin/kiwi-ng <<'KIWI'
#!/bin/sh
set -eu
command=build
while [ $# -gt 0 ]; do
    case "$1" in
    --description) description=$2; shift ;;
    --description=*) description=${1#*=} ;;
    --target-dir) target=$2; shift ;;
    --target-dir=*) target=${1#*=} ;;
    --bundle-dir) bundle=$2; shift ;;
    --bundle-dir=*) bundle=${1#*=} ;;
    bundle) command=bundle ;;
    esac
    shift
done
if [ "$command" = bundle ]; then
    mkdir -p "$bundle"
    cp "$target"/*.tar "$bundle"
    exit 0
fi
mkdir -p "$target/build/image-root"
echo "[ INFO    ]: 12:00:00 | stand-in builds $description"
. "$description/behave"
echo image >"$target/image.tar"
KIWI
chmod 755 /usr/local/bin/kiwi-ng

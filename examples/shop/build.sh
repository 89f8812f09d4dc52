#!/bin/sh
# Builds podium-shop-web:1 and podium-shop-api:1 from nothing but Debian's static busybox: no registry, no network.
# Options for the docker program can be given, e.g. `build.sh --host unix:///run/other.sock`.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
busybox=$(command -v busybox) || { echo "busybox is missing: apt install busybox-static" >&2; exit 1; }
if ldd "$busybox" >/dev/null 2>&1; then
    echo "$busybox needs libraries that an empty image lacks: apt install busybox-static" >&2
    exit 1
fi

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir -p "$context/root/bin" "$context/root/etc" "$context/root/tmp"
cp "$busybox" "$context/root/bin/busybox"
for applet in sh httpd wget timeout nc sleep echo cat ls ps; do
    ln -s busybox "$context/root/bin/$applet"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$context/root/etc/passwd"
echo 'root:x:0:' >"$context/root/etc/group"
cp -r "$here/web" "$here/api" "$context/"

for image in web api; do
    docker "$@" build --quiet --tag "podium-shop-$image:1" --file "$context/$image/Dockerfile" "$context"
done

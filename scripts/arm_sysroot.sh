#!/bin/sh
# Makes a folder with Debian's arm64 libraries to cross-compile against and to run with qemu: apt downloads the packages, which are unpacked
# there; nothing is installed on this machine, and its own packages and lists stay as they are.
#
# Usage: scripts/arm_sysroot.sh FOLDER
set -eu

[ $# -eq 1 ] || { echo "usage: scripts/arm_sysroot.sh FOLDER" >&2; exit 2; }
command -v apt-get >/dev/null 2>&1 || {
    echo "arm_sysroot.sh: needs apt-get; elsewhere give CMake a root of your own: -DCMAKE_SYSROOT=FOLDER" >&2
    exit 1
}
mkdir -p "$1"
root=$(cd "$1" && pwd)
[ ! -e "$root/complete" ] || exit 0

packages="libc6-dev libgcc-12-dev libstdc++-12-dev libgomp1 libjansson-dev libsentencepiece-dev libutf8proc-dev libjpeg62-turbo-dev libpng-dev libtiff-dev
          libwebp-dev libheif-dev libcurl4-openssl-dev libcmocka-dev"

apt="$root/apt"
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
: >"$apt/status"
as_arm64() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$apt/state" -o Dir::State::status="$apt/status" \
            -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root -o Debug::NoLocking=1 \
            -o APT::Keep-Downloaded-Packages=true -o DPkg::Post-Invoke= -o APT::Update::Post-Invoke= "$@"
}
# A source without arm64 packages is no error if the packages come.
as_arm64 update >"$apt/log" 2>&1 || true
# shellcheck disable=SC2086 # a list of words
as_arm64 install -y --no-install-recommends --download-only $packages >>"$apt/log" 2>&1 || {
    tail -n 5 "$apt/log" >&2
    echo "arm_sysroot.sh: the arm64 packages could not be downloaded (the list of sources has to offer arm64)" >&2
    exit 1
}
for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$root"
done
# Absolute links lead out of the folder.
find "$root/usr" "$root/etc" -type l -lname '/*' 2>/dev/null | while read -r link; do
    ln -sfn "$root$(readlink "$link")" "$link"
done
rm -rf "$apt"
: >"$root/complete"

#!/bin/sh
# Installs the Debian packages the project needs, as far as they are missing: as root, or with sudo.
#
# Usage: scripts/deps.sh [GROUP...]     groups: build (default), fuzz, tsan, lint, coverage, reference
set -eu

packages_of() {
    case $1 in
    build) # compilers, build tools, one library per job, the test framework
        echo gcc g++ libc6-dev make cmake ninja-build pkg-config libjansson-dev libsentencepiece-dev libutf8proc-dev libjpeg62-turbo-dev \
             libpng-dev libtiff-dev libwebp-dev libheif-dev libcurl4-openssl-dev libcmocka-dev libopenmpi-dev openmpi-bin ;;
    fuzz | tsan) echo clang libclang-rt-14-dev llvm libomp-dev ;;
    lint) echo clang-tidy clang-format cppcheck shellcheck ;;
    coverage) echo gcovr ;;
    reference) echo python3 python3-venv python3-pip python3-torch python3-torchvision python3-numpy python3-pil python3-psutil python3-yaml python3-sklearn \
             libopenblas0-pthread ;; # forty times faster than the plain BLAS that PyTorch falls back to
    *) echo "deps.sh: unknown group \"$1\"" >&2; exit 2 ;;
    esac
}

[ $# -gt 0 ] || set -- build
wanted=
for group in "$@"; do
    wanted="$wanted $(packages_of "$group")"
done

if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    # Not Debian: say what is needed and let CMake judge.
    echo "deps.sh: this is no Debian system, so nothing is installed. The packages are called there:" >&2
    echo "  $wanted" >&2
    exit 0
fi

missing=
for package in $wanted; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "deps.sh: packages are missing, and this user is neither root nor has sudo. As root, run:" >&2
    echo "  apt-get update && apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi

echo "Installing missing packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# The lists may be old or absent on a new machine; a source that cannot be reached is not fatal if the packages still come.
$as_root apt-get update -qq || echo "deps.sh: apt-get update had errors; trying with the lists that are there" >&2
# shellcheck disable=SC2086 # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null || {
    echo "deps.sh: apt-get could not install:$missing" >&2
    echo "deps.sh: run it by hand to see why: apt-get install$missing" >&2
    exit 1
}

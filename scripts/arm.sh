#!/bin/sh
# Builds for 64-bit Arm with a cross compiler and runs the tests under qemu: everything on a processor that has all extensions the kernels use,
# then what depends on the kernels on one that has none and on one that has only the dot products.
#
# Usage: scripts/arm.sh BUILD_FOLDER [JOBS]
set -eu

[ $# -ge 1 ] || { echo "usage: scripts/arm.sh BUILD_FOLDER [JOBS]" >&2; exit 2; }
source=$(cd "$(dirname "$0")/.." && pwd)
build=$1
jobs=${2:-$(nproc)}

missing=
command -v aarch64-linux-gnu-gcc >/dev/null 2>&1 || missing="$missing gcc-aarch64-linux-gnu"
command -v aarch64-linux-gnu-g++ >/dev/null 2>&1 || missing="$missing g++-aarch64-linux-gnu"
command -v qemu-aarch64-static >/dev/null 2>&1 || command -v qemu-aarch64 >/dev/null 2>&1 || missing="$missing qemu-user-static"
command -v ninja >/dev/null 2>&1 || missing="$missing ninja-build"
if [ -n "$missing" ]; then
    echo "arm.sh: the cross compiler or the emulator is missing. On Debian, as root:" >&2
    echo "  apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

mkdir -p "$build"
"$source/scripts/arm_sysroot.sh" "$build/root"
root=$(cd "$build/root" && pwd)
cmake -S "$source" -B "$build" -G Ninja --toolchain "$source/cmake/aarch64-linux-gnu.cmake" -DFS_ARM_ROOT="$root" -DCMAKE_BUILD_TYPE=Release \
    >"$build/configure.log" 2>&1 || { cat "$build/configure.log"; exit 1; }
cmake --build "$build" -j "$jobs"

kernels='^unit_(kernels|packed|packed_long|ops|ops_rules|stem|tape_vision)$|^parity_(clip|llama|projector|resnet|sam)$|^e2e_bundle$'
cd "$build"
export OMP_WAIT_POLICY=passive # threads that wait must sleep: the tests share the cores
QEMU_CPU=max ctest --output-on-failure --timeout 1800 -j "$jobs"
for cpu in cortex-a53 cortex-a76; do # Advanced SIMD alone; with dot products
    echo "== the kernels' tests on $cpu"
    QEMU_CPU=$cpu ctest --output-on-failure --timeout 1800 -j "$jobs" -R "$kernels"
done

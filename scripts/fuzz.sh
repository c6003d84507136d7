#!/bin/sh
# Runs every libFuzzer harness for a while, as many at a time as there are cores. New inputs are kept outside the tree; a crash is kept with its
# harness's name and ends with exit code 1.
#
# Usage: scripts/fuzz.sh BUILD_DIR SECONDS [HARNESS...]      harness: name without fuzz_, e.g. safetensors
set -eu

build=$1
seconds=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$build/found"
if [ $# -eq 0 ]; then
    for program in "$build"/tests/fuzz_*; do
        [ -x "$program" ] && set -- "$@" "$(basename "$program" | sed 's/^fuzz_//')"
    done
fi
[ $# -gt 0 ] || { echo "fuzz.sh: no harness in $build/tests" >&2; exit 1; }
echo "$# harnesses, $seconds s each"

export root build seconds
# shellcheck disable=SC2016 # expanded by the inner shell
printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} sh -c '
    corpus=$root/tests/fuzz/corpus/$1
    mkdir -p "$build/inputs/$1"
    [ -d "$corpus" ] || corpus=
    if OMP_NUM_THREADS=1 "$build/tests/fuzz_$1" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=2560 -print_final_stats=1 \
        -artifact_prefix="$build/found/$1-" "$build/inputs/$1" $corpus >"$build/inputs/$1.log" 2>&1; then
        echo "$1: nothing found, $(grep -o "stat::number_of_executed_units: *[0-9]*" "$build/inputs/$1.log" | tr -dc 0-9) runs"
    else
        echo "$1: FAILED, see $build/inputs/$1.log and $build/found/$1-*"
        tail -n 20 "$build/inputs/$1.log"
        exit 1
    fi' sh {}

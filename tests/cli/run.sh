#!/bin/sh
# Runs the command-line tests.
#
# Usage: tests/cli/run.sh FAKESHIELD [test_NAME...]      UPDATE=1 writes expected/*.txt anew (then read the diff)
set -u

FAKESHIELD=$(realpath "$1") || exit 2
shift
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
export FAKESHIELD ROOT
unset NO_COLOR
FAKESHIELD_MODEL= # no demonstration model either
export FAKESHIELD_MODEL
LC_ALL=C.UTF-8
OMP_WAIT_POLICY=passive
export LC_ALL OMP_WAIT_POLICY
[ $# -gt 0 ] || set -- "$ROOT"/tests/cli/test_*.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0
for path in "$@"; do
    name=$(basename "$path" .sh)
    mkdir "$work/$name"
    if (cd "$work/$name" && script=$name sh -eu "$ROOT/tests/cli/$name.sh"); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
    fi
    rm -rf "${work:?}/$name"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

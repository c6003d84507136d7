#!/bin/sh
# Do adapters that the C test trained on the tiny checkpoint (ten steps of each recipe) mean the same to peft? Prints the gaps; fails above 1e-4.
#
#   tools/reference/check_trained.sh BUILD      a build folder with tests/parity_train
set -eu

here=$(cd "$(dirname "$0")" && pwd)
env_dir=${FAKESHIELD_REF_ENV:-$HOME/.cache/fakeshield-reference}
[ -x "${1:-}/tests/parity_train" ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
case $(uname -m) in x86_64) export OPENBLAS_CORETYPE="${OPENBLAS_CORETYPE:-SkylakeX}" ;; esac
export PYTHONDONTWRITEBYTECODE=1

FS_TEST_ADAPTER_OUT=$out "$1/tests/parity_train"
"$env_dir/tf437/bin/python" "$here/check_adapter.py" "$out/dte"
"$env_dir/tf428/bin/python" "$here/check_adapter.py" --mflm "$out/mflm"

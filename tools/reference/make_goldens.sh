#!/bin/sh
# Makes every golden file of tests/golden with the reference environments (see make_env.sh).
#
#   tools/reference/make_goldens.sh             replaces the committed files
#   tools/reference/make_goldens.sh --check     compares with them: ids, texts and masks exactly, numbers closely
#   tools/reference/make_goldens.sh --no-full   either way, leaves out the full-size networks (about 6 GB of memory)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
golden=$here/../../tests/golden
env_dir=${FAKESHIELD_REF_ENV:-$HOME/.cache/fakeshield-reference}
out=$golden
full=yes
for arg in "$@"; do
    case $arg in
    --check) out=$(mktemp -d) && trap 'rm -rf "$out"' EXIT ;;
    --no-full) full=no ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
for e in tf437 tf428; do
    [ -x "$env_dir/$e/bin/python" ] || { echo "$0: no environment in $env_dir; run tools/reference/make_env.sh" >&2; exit 1; }
done
case $(uname -m) in x86_64) export OPENBLAS_CORETYPE="${OPENBLAS_CORETYPE:-SkylakeX}" ;; esac
export PYTHONDONTWRITEBYTECODE=1

"$env_dir/tf437/bin/python" "$here/weightgen.py" "$out/weightgen.safetensors"
"$env_dir/tf437/bin/python" "$here/make_op_goldens.py" "$out/ops.safetensors"
"$env_dir/tf437/bin/python" "$here/make_grad_goldens.py" "$out"
"$env_dir/tf437/bin/python" "$here/make_net_grad_goldens.py" "$out/grads_net.safetensors"
"$env_dir/tf437/bin/python" "$here/make_goldens.py" dte "$out"
"$env_dir/tf428/bin/python" "$here/make_goldens.py" mflm "$out"
"$env_dir/tf437/bin/python" "$here/make_train_goldens.py" dte "$out"
"$env_dir/tf428/bin/python" "$here/make_train_goldens.py" mflm "$out"
[ $full = no ] || "$env_dir/tf437/bin/python" "$here/fullsize.py" "$out"
[ "$out" = "$golden" ] || "$env_dir/tf437/bin/python" "$here/compare.py" "$out" "$golden"

# The folders below have programs of their own, which write and check in place.
check=
[ "$out" = "$golden" ] || check=--check
for e in tf437 tf428; do "$env_dir/$e/bin/python" "$here/make_image_goldens.py" $check "$golden/image"; done
"$env_dir/tf437/bin/python" "$here/make_format_goldens.py" $check "$golden/format"
"$env_dir/tf437/bin/python" "$here/make_gguf_goldens.py" $check "$golden/gguf"
"$env_dir/tf437/bin/python" "$here/make_llava_gguf.py" $check "$golden/gguf"
FAKESHIELD_REF_ENV=$env_dir "$env_dir/tf437/bin/python" "$here/make_text_goldens.py" $check

#!/bin/sh
# One picture through both stages, as the original's scripts/cli_demo.sh: same variables, same files. Unlike the original's, the
# variables are taken from the environment.
#
#   WEIGHT_PATH      checkpoint                     ./weight/fakeshield-v1-22b
#   IMAGE_PATH       the picture                    ./playground/image/Sp_D_CRN_A_ani0043_ani0041_0373.jpg
#   DTE_FDM_OUTPUT   stage 1's record (one JSON object, no newline)   ./playground/DTE-FDM_output.jsonl
#   MFLM_OUTPUT      folder for the mask            ./playground/MFLM_output
#
# More than the original: SEED (0), UPSTREAM_NAMES=1 (mask as MFLM_OUTPUT/<name of the picture>, three channels, in the picture's format,
# instead of PNG, overlay and JSON), GREEDY=1 (no sampling), FAKESHIELD (the program), FAKESHIELD_FLAGS (more options for both commands).
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
fakeshield=${FAKESHIELD:-$root/build/fakeshield}
weights=${WEIGHT_PATH:-./weight/fakeshield-v1-22b}
image=${IMAGE_PATH:-./playground/image/Sp_D_CRN_A_ani0043_ani0041_0373.jpg}
records=${DTE_FDM_OUTPUT:-./playground/DTE-FDM_output.jsonl}
masks=${MFLM_OUTPUT:-./playground/MFLM_output}
flags=${FAKESHIELD_FLAGS:-}
seed=${SEED:-0}
sampling=--sample
[ -z "${GREEDY:-}" ] || sampling=
naming=
[ -z "${UPSTREAM_NAMES:-}" ] || naming=--upstream-names

mkdir -p "$(dirname "$records")"
# shellcheck disable=SC2086 # lists of options
"$fakeshield" explain -m "$weights" --precision upstream --max-new-tokens 4096 $sampling --seed "$seed" --upstream-cli $flags \
    -o "$records" "$image"
# shellcheck disable=SC2086
"$fakeshield" localize -m "$weights" --precision upstream --prompt demo --seed "$seed" $naming $flags --from "$records" --first -o "$masks"

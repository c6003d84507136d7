#!/bin/sh
# A file of questions through both stages, as the original's scripts/test.sh: same variables, same files. Unlike the original's, the
# variables are taken from the environment, and a record that fails does not end the run (exit code 1 at the end).
#
#   WEIGHT_PATH      checkpoint                              ./weight/fakeshield-v1-22b
#   QUESTION_PATH    JSON Lines {"image": ..., "text": ...}  ./playground/test.jsonl
#   DTE_FDM_OUTPUT   stage 1's records, JSON Lines           ./playground/DTE-FDM_output.jsonl
#   MFLM_OUTPUT      folder for the masks                    ./playground/MFLM_output
#
# More than the original: SEED (0; also draws stage 2's question, which the original draws unseeded), UPSTREAM_NAMES=1 (masks as
# MFLM_OUTPUT/<name of the picture>, grey, in the picture's format, instead of PNG, overlay and JSON), GREEDY=1 (no sampling),
# FAKESHIELD (the program), FAKESHIELD_FLAGS (more options for both commands). Pictures' paths are taken as they are written.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
fakeshield=${FAKESHIELD:-$root/build/fakeshield}
weights=${WEIGHT_PATH:-./weight/fakeshield-v1-22b}
questions=${QUESTION_PATH:-./playground/test.jsonl}
records=${DTE_FDM_OUTPUT:-./playground/DTE-FDM_output.jsonl}
masks=${MFLM_OUTPUT:-./playground/MFLM_output}
flags=${FAKESHIELD_FLAGS:-}
seed=${SEED:-0}
sampling="--sample --top-p 1"
[ -z "${GREEDY:-}" ] || sampling=
naming=
[ -z "${UPSTREAM_NAMES:-}" ] || naming=--upstream-names

mkdir -p "$(dirname "$records")"
failed=0
# shellcheck disable=SC2086 # lists of options
"$fakeshield" explain -m "$weights" --precision upstream --max-new-tokens 1024 $sampling --seed "$seed" $flags \
    --questions "$questions" -o "$records" || { failed=$?; [ "$failed" -eq 1 ] || exit "$failed"; }
# shellcheck disable=SC2086
"$fakeshield" localize -m "$weights" --precision upstream --prompt test --question-index -1 --seed "$seed" $naming $flags \
    --from "$records" -o "$masks" || failed=$?
exit "$failed"

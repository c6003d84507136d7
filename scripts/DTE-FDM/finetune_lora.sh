#!/bin/sh
# Fine-tunes stage 1 (DTE-FDM) by low-rank adapters, with the original script's variables and settings.
#
#   OUTPUT_DIR   results (default playground/DTE-FDM_train_result)
#   DATA_PATH    conversations in one JSON file (default playground/MMTD-Set-34k.json)
#   WEIGHT_PATH  the released weights (default weight/fakeshield-v1-22b)
#   PROCESSES    more than 1: that many, started by mpirun
#
# Usage: OUTPUT_DIR=... DATA_PATH=... WEIGHT_PATH=... scripts/DTE-FDM/finetune_lora.sh [options of fakeshield train]
set -eu

OUTPUT_DIR=${OUTPUT_DIR:-playground/DTE-FDM_train_result}
DATA_PATH=${DATA_PATH:-playground/MMTD-Set-34k.json}
WEIGHT_PATH=${WEIGHT_PATH:-weight/fakeshield-v1-22b}
PROCESSES=${PROCESSES:-1}
FAKESHIELD=${FAKESHIELD:-$(dirname "$0")/../../build/fakeshield}
[ -x "$FAKESHIELD" ] || FAKESHIELD=fakeshield

# The original names the stage's own folder; a checkpoint is the folder around it.
WEIGHT_PATH=${WEIGHT_PATH%/}
WEIGHT_PATH=${WEIGHT_PATH%/DTE-FDM}

start=$FAKESHIELD
[ "$PROCESSES" -le 1 ] || start="mpirun -n $PROCESSES $FAKESHIELD"
# shellcheck disable=SC2086 # a program and its arguments
exec $start train dte-fdm -m "$WEIGHT_PATH" --data "$DATA_PATH" -o "$OUTPUT_DIR" "$@"

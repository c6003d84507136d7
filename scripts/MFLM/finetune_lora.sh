#!/bin/sh
# Fine-tunes stage 2 (MFLM) by low-rank adapters, with the original script's variables and settings.
#
#   OUTPUT_DIR         results (default playground/MFLM_train_result)
#   DATA_PATH          root of the data sets: TYPE/SET/{image,mask}, lisa_*_output.json (default data)
#   WEIGHT_PATH        the released weights (default weight/fakeshield-v1-22b)
#   TRAIN_DATA_CHOICE  "type|set1,set2" (default ps|CASIA2)
#   VAL_DATA_CHOICE    likewise; empty: no validation (default ps|CASIA1+)
#   PROCESSES    more than 1: that many, started by mpirun
#
# Usage: OUTPUT_DIR=... DATA_PATH=... TRAIN_DATA_CHOICE=... scripts/MFLM/finetune_lora.sh [options of fakeshield train]
set -eu

OUTPUT_DIR=${OUTPUT_DIR:-playground/MFLM_train_result}
DATA_PATH=${DATA_PATH:-data}
WEIGHT_PATH=${WEIGHT_PATH:-weight/fakeshield-v1-22b}
TRAIN_DATA_CHOICE=${TRAIN_DATA_CHOICE:-ps|CASIA2}
VAL_DATA_CHOICE=${VAL_DATA_CHOICE-ps|CASIA1+}
[ -z "$VAL_DATA_CHOICE" ] || set -- --val-sets "$VAL_DATA_CHOICE" "$@"
PROCESSES=${PROCESSES:-1}
FAKESHIELD=${FAKESHIELD:-$(dirname "$0")/../../build/fakeshield}
[ -x "$FAKESHIELD" ] || FAKESHIELD=fakeshield

# The original names the stage's own folder; a checkpoint is the folder around it.
WEIGHT_PATH=${WEIGHT_PATH%/}
WEIGHT_PATH=${WEIGHT_PATH%/MFLM}

start=$FAKESHIELD
[ "$PROCESSES" -le 1 ] || start="mpirun -n $PROCESSES $FAKESHIELD"
# shellcheck disable=SC2086 # a program and its arguments
exec $start train mflm -m "$WEIGHT_PATH" --data "$DATA_PATH" --train-sets "$TRAIN_DATA_CHOICE" -o "$OUTPUT_DIR" "$@"

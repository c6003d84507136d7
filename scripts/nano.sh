#!/bin/sh
# make nano: the demonstration model, from photos to bundle. Everything is seeded; stopped, the same command goes on where it was.
#
# Usage: scripts/nano.sh FAKESHIELD PHOTOS OUT
# PHOTOS: authentic photos with free licences (docs/forge.md says which object masks are used). OUT gets tower/, stage1/, stage2/, tag/ (runs),
# forged/ (pictures of validation and test), bundle/ and eval/. Hours: docs/nano.md. Variables, mainly to try the path quickly:
#   TOWER_STEPS STAGE1_STEPS STAGE2_STEPS TAG_STEPS  optimizer steps    TYPES  as dataset forge --types    BATCH  records a step
#   PICTURES  forged for calibration and test together
#   CONFIG  another config than models/nano/nano.json    TYPE  of the bundle (q8_0)    THREADS  0 = one per core
set -eu

[ $# -eq 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fakeshield=$1
photos=$2
out=$3
root=$(cd "$(dirname "$0")/.." && pwd)
config=${CONFIG:-$root/models/nano/nano.json}
tower=${TOWER_STEPS:-16000}
stage1=${STAGE1_STEPS:-4000}
stage2=${STAGE2_STEPS:-6000}
tag=${TAG_STEPS:-1500}
batch=${BATCH:-16}
pictures=${PICTURES:-4000}
type=${TYPE:-q8_0}
types=${TYPES:-splice=5,copy-move=1.5,removal=1.5,color=1,blur=0.5,resample=0.5}
threads=${THREADS:-0}
mkdir -p "$out"

step() {
    echo "+ $*"
    "$@"
}
tokenizer=$(dirname "$config")/tokenizer.model
[ -s "$tokenizer" ] || step "$root/scripts/nano_tokenizer.sh" "$fakeshield" "$photos" "$tokenizer"

# What every stage shares: all pictures fresh, 256 pixels, AdamW with cosine decay.
common="--forge-types $types --forge-size 256 --forge-square --accumulate 1 --epochs 0 --warmup-ratio 0.02 --schedule cosine --weight-decay 0.01 --clip-norm 1 --no-recompute --seed 1 --keep 2 --save-every 500"
# shellcheck disable=SC2086
{
    # CLIP first, shown the masks: words and a verdict alone are a weak teacher for a tower that starts from nothing
    step "$fakeshield" train dte-fdm --from-scratch "$config" --forge "$photos" $common --dense 1 --ce-weight 0 --batch "$batch" --max-steps "$tower" \
        --rate 1e-3 --beta2 0.99 --forge-val 0 -t "$threads" -o "$out/tower"
    step "$fakeshield" train dte-fdm -m "$out/tower/model" --all-weights --freeze clip --forge "$photos" $common --inference-prompt --focus 8 --batch "$batch" \
        --max-steps "$stage1" --rate 1e-3 --projector-rate 1e-3 --beta2 0.99 --val-every 1000 -t "$threads" -o "$out/stage1"
    # texts that mostly say no place: stage 1's words can be wrong (docs/training.md)
    step "$fakeshield" train mflm -m "$out/tower/model" --all-weights --freeze clip --sam-from-clip --forge "$photos" $common --text-dropout 0.9 --batch "$batch" \
        --max-steps "$stage2" --rate 5e-4 --beta2 0.99 --val-every 1000 -t "$threads" -o "$out/stage2"
    step "$fakeshield" train dtg -m "$out/tower/model" --forge "$photos" $common --batch 32 --max-steps "$tag" --rate 1e-3 --val-every 500 \
        -t "$threads" -o "$out/tag"
}
[ -s "$out/bundle/vision.gguf" ] || step "$fakeshield" requantize "$out/stage1/model" --stage2 "$out/stage2/model" --tag "$out/tag/model" --type "$type" \
    -o "$out/uncalibrated"

# Pictures of photos that no training saw: val for the calibration, test for the figures.
step "$fakeshield" dataset forge -n "$pictures" --seed 1 --size 256 --square --types "$types" --val 0.1 --test 0.1 -o "$out/forged" "$photos"
sets() { # validation or test, both classes
    printf 'photoshop|%s,%s_authentic;aigc|%s,%s_authentic' "$1" "$1" "$1" "$1"
}
if [ ! -s "$out/bundle/vision.gguf" ]; then
    step "$fakeshield" eval "$out/forged" --sets "$(sets val)" -m "$out/uncalibrated" --verdict-only --resume --no-html -t "$threads" -o "$out/val"
    step "$fakeshield" calibrate -m "$out/uncalibrated" --eval "$out/val" -o "$out/bundle"
fi
step "$fakeshield" eval "$out/forged" --sets "$(sets test)" -m "$out/bundle" --resume -t "$threads" -o "$out/eval"
echo "$out/bundle: $(du -k "$out/bundle" | cut -f1) kB; figures: $out/eval/report.html"

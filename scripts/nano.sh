#!/bin/sh
# make nano: the demonstration model, from photos to bundle. Everything is seeded; stopped, the same command goes on where it was.
#
# Usage: scripts/nano.sh FAKESHIELD PHOTOS OUT
# PHOTOS: authentic photos with free licences (docs/forge.md says which object masks are used). OUT gets tower/, small/, plain/, half/, mask/, clip/, easy/,
# stage1/, stage2/, tag/ (runs), forged/ (pictures of validation and test), bundle/ and eval/. Hours: docs/nano.md. Variables, mainly to try the path quickly:
#   LAUNCH  in front of each training but the last: LAUNCH="mpirun -n 2" THREADS=1, a process on each core, is a little faster than threads
#   TOWER_STEPS SMALL_STEPS PLAIN_STEPS HALF_STEPS MASK_STEPS CLIP_STEPS EASY_STEPS STAGE1_STEPS STAGE2_STEPS TAG_STEPS  optimizer steps (models/nano/README.md: those of
#           the model there)
#   BATCH  records a step    TYPES  as dataset forge --types
#   PICTURES  forged for calibration and test together
#   CONFIG, SMALL  other configs than models/nano/nano.json and small.json    TYPE  of the bundle (q8_0)    THREADS  0 = one per core
set -eu

[ $# -eq 3 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fakeshield=$1
photos=$2
out=$3
root=$(cd "$(dirname "$0")/.." && pwd)
config=${CONFIG:-$root/models/nano/nano.json}
small=${SMALL:-$root/models/nano/small.json}
tower=${TOWER_STEPS:-8000}
before=${SMALL_STEPS:-6000}
plain=${PLAIN_STEPS:-1100}
half=${HALF_STEPS:-1000}
mask=${MASK_STEPS:-3500}
clip=${CLIP_STEPS:-600}
easy=${EASY_STEPS:-1000}
stage1=${STAGE1_STEPS:-3000}
stage2=${STAGE2_STEPS:-1000}
tag=${TAG_STEPS:-250}
batch=${BATCH:-16}
pictures=${PICTURES:-6000}
type=${TYPE:-q8_0}
types=${TYPES:-splice=5,copy-move=1.5,removal=1.5,color=1,blur=0.5,resample=0.5}
threads=${THREADS:-0}
launch=${LAUNCH:-}
mkdir -p "$out"

step() {
    echo "+ $*"
    "$@"
}
tokenizer=$(dirname "$config")/tokenizer.model
[ -s "$tokenizer" ] || step "$root/scripts/nano_tokenizer.sh" "$fakeshield" "$photos" "$tokenizer"

# What every stage shares: all pictures fresh, square, AdamW. Begun on small pictures, of which a step costs half.
common="--forge-types $types --forge-square --forge-val 0 --epochs 0 --no-recompute --weight-decay 0.01 --clip-norm 1 --beta2 0.99 --keep 2 --save-every 250"
at256="$common --forge-size 256"
at512="$common --forge-size 512 --forge-vary"
# shellcheck disable=SC2086
{
    # CLIP first, shown the masks: words and a verdict alone are a weak teacher for a tower that starts from nothing
    step $launch "$fakeshield" train dte-fdm --from-scratch "$small" --forge "$photos" $at256 --dense 1 --ce-weight 0 --batch "$((batch / 2))" --accumulate 2 \
        --max-steps "$tower" --rate 1e-3 --schedule cosine --warmup-steps 200 --seed 1 -t "$threads" -o "$out/tower"
    # SAM and its decoder, begun as CLIP; without the language model, which has nothing to say yet
    step $launch "$fakeshield" train mflm -m "$out/tower/model" --all-weights --freeze clip,lm --sam-from-clip --ce-weight 0 --text-dropout 1 --forge "$photos" $at256 \
        --batch "$((batch / 2))" --accumulate 2 --max-steps "$before" --rate 5e-4 --schedule cosine --warmup-steps 30 --seed 3 -t "$threads" -o "$out/small"
    # the same on pictures of twice the side, as the edits left them: copies, fills and resampling are learnt there in minutes, behind the chain hardly at all
    step $launch "$fakeshield" train mflm --from-scratch "$config" --begin-with "$out/small/model" --freeze clip,lm --ce-weight 0 --text-dropout 1 --forge "$photos" $at512 \
        --forge-clean 1 --batch "$((batch / 2))" --accumulate 2 --max-steps "$plain" --rate 6e-4 --schedule cosine --warmup-steps 50 --seed 101 -t "$threads" -o "$out/plain"
    # then half of them through the chain, then most
    step $launch "$fakeshield" train mflm -m "$out/plain/model" --all-weights --freeze clip,lm --ce-weight 0 --text-dropout 1 --forge "$photos" $at512 \
        --forge-clean 0.5 --batch "$((batch / 2))" --accumulate 2 --max-steps "$half" --rate 6e-4 --schedule constant --warmup-steps 20 --seed 103 -t "$threads" -o "$out/half"
    step $launch "$fakeshield" train mflm -m "$out/half/model" --all-weights --freeze clip,lm --ce-weight 0 --text-dropout 1 --forge "$photos" $at512 \
        --forge-clean 0.15 --batch "$((batch / 2))" --accumulate 2 --max-steps "$mask" --rate 5.5e-4 --schedule cosine --warmup-steps 10 --seed 104 -t "$threads" -o "$out/mask"
    # CLIP takes over what SAM has learnt since, and is shown the masks once more
    step $launch "$fakeshield" train dte-fdm --from-scratch "$config" --begin-with "$out/mask/model" --clip-from-sam --forge "$photos" $at512 --dense 1 --ce-weight 0 \
        --batch "$((batch / 2))" --accumulate 2 --max-steps "$clip" --rate 5e-4 --schedule cosine --warmup-steps 30 --seed 51 -t "$threads" -o "$out/clip"
    # To read from CLIP where something lies is learnt where that can be seen: on splices as they are pasted. Words about faint traces alone stay guesses
    step $launch "$fakeshield" train dte-fdm -m "$out/clip/model" --all-weights --dense 1 --forge "$photos" $at512 --forge-types splice --forge-clean 1 \
        --inference-prompt --focus 20 --batch "$((batch / 2))" --accumulate 2 --max-steps "$easy" --rate 8e-4 --projector-rate 8e-4 --schedule cosine \
        --warmup-steps 20 --seed 83 -t "$threads" -o "$out/easy"
    # then on everything; CLIP goes on too
    step $launch "$fakeshield" train dte-fdm -m "$out/easy/model" --all-weights --dense 1 --forge "$photos" $at512 --forge-clean 0.3 --inference-prompt --focus 10 \
        --batch "$((batch / 2))" --accumulate 2 --max-steps "$stage1" --rate 6e-4 --projector-rate 6e-4 --schedule cosine --warmup-ratio 0.02 --seed 52 -t "$threads" -o "$out/stage1"
    # together with the language model that asks for the mask. Texts mostly say no place: stage 1's words can be wrong
    step $launch "$fakeshield" train mflm -m "$out/stage1/model" --begin-with "$out/mask/model" --all-weights --freeze clip --text-dropout 0.9 --forge "$photos" $at512 \
        --batch "$((batch / 2))" --accumulate 2 --max-steps "$stage2" --rate 2e-4 --schedule cosine --warmup-ratio 0.02 --seed 53 -t "$threads" -o "$out/stage2"
    step "$fakeshield" train dtg -m "$out/stage1/model" --forge "$photos" $common --forge-size 512 --batch 32 --max-steps "$tag" --rate 1e-3 --seed 1 -t "$threads" -o "$out/tag"
}
[ -s "$out/bundle/vision.gguf" ] || step "$fakeshield" requantize "$out/stage1/model" --stage2 "$out/stage2/model" --tag "$out/tag/model" --type "$type" \
    -o "$out/uncalibrated"

# Pictures of photos that no training saw: val for the calibration, test for the figures.
step "$fakeshield" dataset forge -n "$pictures" --seed 1 --size 512 --square --types "$types" --val 0.1 --test 0.1 -o "$out/forged" "$photos"
sets() { # those of the names that there are: few pictures may leave one without any
    list=
    for kind in photoshop aigc; do
        names=
        for set in "$@"; do [ ! -d "$out/forged/$kind/$set/image" ] || names=${names:+$names,}$set; done
        [ -z "$names" ] || list="${list:+$list;}$kind|$names"
    done
    printf %s "$list"
}
if [ ! -s "$out/bundle/vision.gguf" ]; then
    step "$fakeshield" eval "$out/forged" --sets "$(sets val val_authentic)" -m "$out/uncalibrated" --verdict-only --resume --no-html -t "$threads" -o "$out/val"
    step "$fakeshield" calibrate -m "$out/uncalibrated" --eval "$out/val" -o "$out/bundle"
fi
step "$fakeshield" eval "$out/forged" --sets "$(sets test test_authentic)" -m "$out/bundle" --resume -t "$threads" -o "$out/eval"
# The mask branch for itself: told that there is something to find, and not where.
told='1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with.'
step "$fakeshield" eval "$out/forged" --sets "$(sets test)" -m "$out/bundle" --text "$told" --resume -t "$threads" -o "$out/eval-masks"
# What is had without looking at the picture.
step "$fakeshield" dataset places --sets "$(sets train)" -o "$out/places.png" "$out/forged"
step "$fakeshield" eval "$out/forged" --sets "$(sets test)" --maps "$out/places.png" -o "$out/eval-places"
echo "$out/bundle: $(du -k "$out/bundle" | cut -f1) kB; figures: $out/eval/report.html, $out/eval-masks/report.html"

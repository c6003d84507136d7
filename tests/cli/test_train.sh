# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# Training on the command line: what it says and leaves, going on, two processes like one, the scripts with the original's names, wrong usage.
. "$ROOT/tests/cli/lib.sh"
pictures=$ROOT/tests/golden

# eight conversations about four pictures
{
    echo "["
    n=0
    for name in large square tall wide large square tall wide; do
        [ $n -eq 0 ] || echo ","
        printf '{"id": %d, "image": "e2e_%s.png", "conversations": [{"from": "human", "value": "<image>\\nWhat of this?"}, {"from": "gpt", "value": "It is the %s, number %d."}]}\n' \
            $n "$name" "$name" $n
        n=$((n + 1))
    done
    echo "]"
} >conversations.json
small="--data conversations.json --image-folder $pictures --lora-rank 4 --lora-alpha 8 --batch 2 --accumulate 2 --epochs 2 --rate 1e-3 --threads 1"

begin "a run"
run train dte-fdm -m "$TINY" $small -o run
expect_code 0; expect_out '^run: trained'; expect_err 'step 4/4'; expect_err '8 records, 4 steps of 2 x 2'
for file in adapter/adapter_config.json adapter/adapter_model.safetensors adapter/non_lora_trainables.bin log.csv settings.json checkpoint-4/training.safetensors; do
    pass; [ -s "run/$file" ] || fail "run/$file is not there"
done
pass; [ "$(wc -l <run/log.csv)" -eq 5 ] || fail "log.csv: $(wc -l <run/log.csv) lines, expected 5"
run detect -m "$TINY" --adapter run/adapter --max-new-tokens 4 --no-times "$pictures/e2e_tall.png"
expect_code 0; expect_out 'adapter    stage 1'

begin "again: nothing left to do"
run train dte-fdm -m "$TINY" $small -o run
expect_code 0; expect_err 'going on behind step 4 of 4'

begin "other settings are another run"
run train dte-fdm -m "$TINY" $small --rate 2e-3 -o run
expect_code 8; expect_err 'rate'; expect_err 'fresh'
run train dte-fdm -m "$TINY" $small --rate 2e-3 --fresh -q -o run
expect_code 0; expect_no_error

begin "summary as JSON"
run train dte-fdm -m "$TINY" $small --json -q -o again
expect_code 0; expect_out '"recipe":"dte-fdm"'; expect_out '"steps":4'

begin "report"
run train report again -o page.html
expect_code 0; expect_out '^page.html$'
pass; grep -q '<svg' page.html || fail "no curve in the page"
run train report nowhere
expect_code 3

begin "two processes are one"
if command -v mpirun >/dev/null 2>&1 && [ -z "${FS_TEST_EMULATED:-}" ]; then
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
    export OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM PRTE_MCA_rmaps_default_mapping_policy
    run_as env ASAN_OPTIONS=detect_leaks=0 mpirun --oversubscribe -n 2 "$FAKESHIELD" train dte-fdm -m "$TINY" $small -q -o two
    if grep -q 'built without MPI' err; then
        pass # each of them trained alone, and said so
    else
        expect_code 0
        # losses to 1e-5: sums of gradients are made in another order
        pass
        awk -F, 'NR == FNR { loss[FNR] = $2; next }
            FNR > 1 { n++; d = $2 - loss[FNR]; if (d < 0) d = -d; if (d > 1e-5 * loss[FNR]) bad++ }
            END { exit bad > 0 || n != 4 }' again/log.csv two/log.csv || fail "losses differ: $(cut -d, -f2 again/log.csv two/log.csv | tr '\n' ' ')"
    fi
    run_as env ASAN_OPTIONS=detect_leaks=0 mpirun --oversubscribe -n 2 "$FAKESHIELD" train dte-fdm -m "$TINY" $small --accumulate 1 -q -o three
    expect_failure; expect_err 'cannot be divided among 2 processes'
fi

begin "with the original's names"
OUTPUT_DIR=upstream DATA_PATH=conversations.json WEIGHT_PATH=$TINY/DTE-FDM run_as sh "$ROOT/scripts/DTE-FDM/finetune_lora.sh" --image-folder "$pictures" \
    --max-steps 1 --batch 2 --accumulate 1 --lora-rank 2 -q
expect_code 0
pass; [ -s upstream/adapter/adapter_config.json ] || fail "no adapter"
mkdir -p data/ps/A/image data/ps/A/mask
cp "$pictures/e2e_tall.png" data/ps/A/image/a.png
cp "$pictures/e2e_tall_test0_mask.png" data/ps/A/mask/a.png
echo '[{"image": "a.png", "query": "", "outputs": "The picture has been tampered with."}]' >data/ps/A/lisa_train_output.json
cp data/ps/A/lisa_train_output.json data/ps/A/lisa_val_output.json
OUTPUT_DIR=stage2 DATA_PATH=data WEIGHT_PATH=$TINY TRAIN_DATA_CHOICE='ps|A' VAL_DATA_CHOICE='ps|A' run_as sh "$ROOT/scripts/MFLM/finetune_lora.sh" \
    --max-steps 1 --batch 1 --accumulate 1 --json
expect_code 0; expect_out '"giou":'
pass; [ -s stage2/results/step_1/a.png_GT_mask.png ] && [ -s stage2/results/step_1/a.png_output_mask.png ] || fail "validation left no masks"

begin "forged while training"
mkdir photos
for name in large square wide tall; do cp "$pictures/e2e_$name.png" photos; done
forged="--forge photos --forge-size 96 --forge-count 4 --forge-val 1 --batch 1 --accumulate 1 --lora-rank 2 --max-steps 2 --threads 1"
run train mflm -m "$TINY" $forged --text-dropout 1 -o forged
expect_code 0; expect_err '4 records, 2 steps of 1 x 1'
pass; [ -s forged/results/step_2/val_000000_output_mask.png ] || fail "validation left no mask"
run train mflm -m "$TINY" $forged --text-dropout 1 --fresh -q -o forged2
expect_code 0
pass; [ "$(cut -d, -f2,4 forged/log.csv)" = "$(cut -d, -f2,4 forged2/log.csv)" ] || fail "the same settings gave other losses"
run train mflm -m "$TINY" $forged --text-dropout 0.5 -o forged
expect_code 8; expect_err 'text_dropout'
run train dte-fdm -m "$TINY" $forged --seed 1 -q -o forged3
expect_code 0
for flag in pairs mirror vary clean=1; do # each gives other pictures, is noted, and a run without it is another run
    run train dte-fdm -m "$TINY" $forged --seed 1 --forge-$flag -q -o "forged-$flag"
    expect_code 0
    pass; [ "$(cut -d, -f2 forged3/log.csv)" != "$(cut -d, -f2 "forged-$flag/log.csv")" ] || fail "--forge-$flag changed no loss"
    run train dte-fdm -m "$TINY" $forged --seed 1 -q -o "forged-$flag"
    expect_failure
done
for flag in pairs mirror vary square clean=0.5 types=splice; do # of no use without --forge
    run train dte-fdm -m "$TINY" $small --forge-$flag -q -o x
    expect_code 2; expect_one_error 'give --forge PHOTOS too'; expect_no_file x
done
run train mflm -m "$TINY" $forged --forge-pairs -q -o x
expect_code 2; expect_one_error 'untouched one has no mask'; expect_no_file x
run train dtg -m "$TINY" $forged -q -o forged4
expect_code 0
run train dtg -m "$TINY" $forged --data photos -o x
expect_code 2; expect_err 'one of the two'
run train dtg -m "$TINY" $forged --forge-size 20 -o x
expect_code 2; expect_err 'forge-size'

begin "a new model: CLIP is shown the masks, SAM's encoder begins with it"
cat >own.json <<END
{"name": "own", "tokenizer": "$TINY/DTE-FDM/tokenizer.model", "region_encoder": false,
 "dte_fdm": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
 "mflm": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
 "clip": {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 96, "patch_size": 16,
          "hidden_act": "gelu", "stem": 4, "residual": true},
 "sam": {"embed_dim": 32, "depth": 2, "num_heads": 2, "image_size": 96, "window_size": 3, "global_every": 1, "out_chans": 32, "decoder_mlp": 64,
         "stem": 4, "residual": true},
 "dtg": {"width": 8}}
END
some="--forge photos --forge-size 96 --forge-square --forge-count 4 --forge-val 0 --batch 4 --accumulate 1 --epochs 0 --schedule constant --rate 1e-2 --threads 1"
run train dte-fdm --from-scratch own.json $some --dense 1 --ce-weight 0 --max-steps 24 -q -o tower
expect_code 0
pass; awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "loss/bce") c = i } NR > 1 { b[NR] = $c } END { exit !(c && b[NR] < 0.7 * b[2]) }' tower/log.csv ||
    fail "the masks were not learnt: $(tail -n 1 tower/log.csv)"
run train mflm -m tower/model --all-weights --sam-from-clip --freeze clip --ce-weight 0 --text-dropout 1 $some --max-steps 2 -q -o branch
expect_code 0
run verify branch/model
expect_code 0
run requantize branch/model --type f16 -q -o remade; expect_code 0
cp remade/vision.gguf before.gguf
run requantize branch/model --type f16 -v -o remade; expect_code 0; expect_err 'finished already'
run train mflm -m tower/model --all-weights --sam-from-clip --freeze clip --ce-weight 0 --text-dropout 1 $some --max-steps 3 --fresh -q -o branch
expect_code 0
run requantize branch/model --type f16 -v -o remade; expect_code 0 # other weights: nothing of the first is taken for the second
pass; ! cmp -s before.gguf remade/vision.gguf || fail "requantize kept the weights of the run before"
run train mflm -m tower/model --all-weights --sam-from-clip --freeze sam $some --max-steps 2 -q -o x
expect_failure; expect_err 'not trained'
run train mflm -m tower/model --sam-from-clip $some --max-steps 2 -q -o x
expect_code 2; expect_err 'give --all-weights'
run train mflm -m tower/model --all-weights --dense 1 $some --max-steps 2 -q -o x
expect_code 2; expect_err 'dense supervision'
run train mflm -m tower/model --all-weights --focus 3 $some --max-steps 2 -q -o x
expect_code 2; expect_err 'which words matter'
run train dte-fdm -m tower/model --all-weights --ce-weight 0 $some --max-steps 2 -q -o x
expect_code 2; expect_err 'nothing is learnt'
# adapters learn from the masks too: the language model is run, so the text matters
for p in 0 1; do
    run train mflm -m "$TINY" --ce-weight 0 --lora-rank 2 --text-dropout $p $some --max-steps 1 -q -o adapters$p
    expect_code 0
done
pass; [ "$(cut -d, -f8 adapters0/log.csv)" != "$(cut -d, -f8 adapters1/log.csv)" ] || fail "the texts had no part in the masks"
sed 's/"intermediate_size": 128/"intermediate_size": 64/' own.json >other.json
run train mflm --from-scratch other.json --sam-from-clip $some --max-steps 2 -q -o x
expect_failure; expect_err 'the blocks differ'
sed 's/"patch_size": 16/"patch_size": 12/' own.json >other.json
run train mflm --from-scratch other.json $some --max-steps 2 -q -o x
expect_failure; expect_err 'a multiple of 8'
sed 's/"stem": 4/"stem": 4, "stem_step": 12/' own.json >other.json
run train mflm --from-scratch other.json $some --max-steps 2 -q -o x
expect_failure; expect_err '8 or 16, not 12'
sed 's/"stem": 4/"stem": 4, "stem_blocks": 5/' own.json >other.json
run train mflm --from-scratch other.json $some --max-steps 2 -q -o x
expect_failure; expect_err 'stem_blocks'
sed 's/"stem": 4, "residual": true/"stem_blocks": 1/' own.json >other.json
run train mflm --from-scratch other.json $some --max-steps 2 -q -o x
expect_failure; expect_err '"stem_blocks" is for a stem'

begin "twice the pixels, begun with what the small one knows"
sed 's/"image_size": 96/"image_size": 192/g; s/"patch_size": 16/"patch_size": 32/; s/"window_size": 3/"patch_size": 32, "window_size": 3/; s/"stem": 4/"stem": 4, "stem_step": 16/g' \
    own.json >large.json
first_loss() { awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "loss/bce") c = i } NR == 2 { print $c }' "$1/log.csv"; }
one="$some --rate 1e-9 --max-steps 1 -q"
run train mflm -m branch/model --all-weights $some --max-steps 24 -q --ce-weight 0 --text-dropout 1 -o taught
expect_code 0
run train mflm -m taught/model --all-weights $one --ce-weight 0 --text-dropout 1 -o small
expect_code 0
run train mflm --from-scratch large.json $one --ce-weight 0 --text-dropout 1 -o new
expect_code 0
run train mflm --from-scratch large.json --begin-with taught/model $one --ce-weight 0 --text-dropout 1 -o wide
expect_code 0
# the same pictures, made twice as large: all but the same losses as the small one's, not those of a new one
pass; awk -v s="$(first_loss small)" -v w="$(first_loss wide)" -v n="$(first_loss new)" 'BEGIN { d = w - s; d = d < 0 ? -d : d; e = n - s; e = e < 0 ? -e : e; exit !(d < 0.02 * e) }' ||
    fail "losses: small $(first_loss small), wide $(first_loss wide), new $(first_loss new)"
run train dte-fdm --from-scratch large.json --begin-with wide/model --clip-from-sam $some --dense 1 --ce-weight 0 --max-steps 2 -v -o clip
expect_code 0; expect_err 'CLIP as its SAM'
run train dte-fdm --from-scratch large.json --begin-with branch/model --clip-from-sam $one -o x
expect_failure; expect_err 'sizes differ'
run train dte-fdm -m "$TINY" --all-weights --begin-with branch/model $one -o x
expect_failure
run train dte-fdm --from-scratch large.json --clip-from-sam $one -o x
expect_code 2; expect_err 'give --begin-with'
run train dtg -m tower/model --begin-with branch/model $one -o x
expect_code 2; expect_err 'stages 1 and 2'
run train dte-fdm --from-scratch large.json --begin-with nothing $one -o x
expect_failure; expect_err 'nothing'

begin "wrong usage"
run train
expect_code 2; expect_err 'train what'
run train dtefdm
expect_code 2; expect_err 'did you mean dte-fdm'
run train dte-fdm -m "$TINY" -o x
expect_code 2; expect_err 'give --data'
run train dte-fdm -m "$TINY" $small --rate fast -o x
expect_code 2; expect_err 'rate'
run train dte-fdm -m "$TINY" $small --lora-targets q_proj,x_proj -o x
expect_code 2; expect_err 'x_proj'
run train dte-fdm -m "$TINY" $small --data nowhere.json -o x
expect_code 3; expect_err 'nowhere.json'
run train mflm -m "$TINY" --data data --train-sets 'ps|B' -o x
expect_code 3
run train dte-fdm -m "$TINY" $small --all-weights -o x
expect_code 2; expect_err 'fakeshield convert'
pass; [ ! -e x/adapter ] || fail "a failed run left an adapter"
finish

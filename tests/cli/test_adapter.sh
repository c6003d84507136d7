# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# Adapters on the command line: over the model, in results and reports, merged, and every way to get them wrong.
. "$ROOT/tests/cli/lib.sh"
PEFT=$ROOT/tests/golden/train/peft_dte
WIDE=$ROOT/tests/golden/e2e_wide.png
quick="--max-new-tokens 8 --no-times"

begin "detect with an adapter"
run detect -m "$TINY" --adapter "$PEFT" $quick -o with "$WIDE"
expect_code 0; expect_out '^  adapter    stage 1: peft_dte$'; expect_nothing_half with
run detect -m "$TINY" $quick -o without "$WIDE"
expect_code 0; expect_not_out 'adapter'
pass; ! grep -q '"adapters"' without/e2e_wide.json || fail "adapters where there are none"
pass; grep -q '"stage1": "peft_dte"' with/e2e_wide.json || fail "the JSON does not name the adapter"
pass; [ "$(grep fingerprint with/e2e_wide.json)" != "$(grep fingerprint without/e2e_wide.json)" ] || fail "same fingerprint with and without"

begin "resume does not mix"
run detect -m "$TINY" $quick --resume -o with "$WIDE"
expect_code 0; expect_not_out 'kept from an earlier run'
run detect -m "$TINY" --adapter "$PEFT" $quick --resume -o without "$WIDE"
expect_code 0; expect_not_out 'kept from an earlier run'
run detect -m "$TINY" --adapter "$PEFT" $quick --resume -o without "$WIDE"
expect_code 0; expect_out 'kept from an earlier run'; expect_out '^  adapter    stage 1: peft_dte$'

begin "explain and localize"
run explain -m "$TINY" --adapter "$PEFT" --max-new-tokens 8 "$WIDE"
expect_code 0; expect_out '"outputs"'
cp out one
run explain -m "$TINY" --adapter "$PEFT" --max-new-tokens 8 "$WIDE"
expect_same out one
run localize -m "$TINY" --adapter "$PEFT" --text 'the sky' -o masks "$WIDE"
expect_code 0 # stage 1's adapter has no part in it

begin "info"
run info "$PEFT"
expect_code 0; expect_no_error; expect_out '^  rank 8, lora_alpha 16, 37.9 k parameters trained$'; expect_out '^  21 matrices of 3 layers: q_proj, k_proj'
run info --json "$PEFT"
expect_code 0; expect_out '"kind":"adapter"'; expect_out '"modules":21'

begin "merge"
run merge -m "$TINY" --adapter "$PEFT" -o merged
expect_code 0; expect_no_error; expect_out '^merged: merged. Use it: fakeshield detect -m merged IMAGE$'
expect_file merged/DTE-FDM/model.safetensors; expect_file merged/DTE-FDM/config.json; expect_file merged/MFLM/pytorch_model.bin.index.json; expect_file merged/DTG.pth
pass; [ -z "$(find merged -name '.*' -type d)" ] || fail "a hidden folder was left"
run detect -m merged $quick --no-files "$WIDE"
expect_code 0; expect_not_out 'adapter'
run merge -q -m "$TINY" --adapter "$PEFT" -o merged # again, into the same folder
expect_code 0; expect_no_output; expect_no_error

begin "merge into a bundle"
run merge -m "$TINY" --adapter "$PEFT" -o bundle --type q8_0
expect_code 0; expect_no_error; expect_file bundle/dte-fdm.gguf
run verify bundle
expect_code 0
run detect -m bundle --adapter "$PEFT" $quick --no-files "$WIDE" # over packed weights
expect_code 0; expect_out '^  adapter    stage 1: peft_dte$'

begin "one clear line each"
run detect -m "$TINY" --adapter nowhere "$WIDE"
expect_code 3; expect_one_error 'nowhere: no such folder (an adapter'; expect_no_output
mkdir empty
run detect -m "$TINY" --adapter empty "$WIDE"
expect_code 3; expect_one_error 'holds no adapter_config.json'
run detect -m "$TINY" --adapter "$PEFT" --adapter "$PEFT" "$WIDE"
expect_code 2; expect_one_error 'are both for stage 1 (DTE-FDM); give one adapter for each stage'
run detect -m "$TINY" --adapter "$WIDE" "$WIDE"
expect_code 5; expect_one_error 'e2e_wide.png'
cp -r "$PEFT" other && chmod -R u+w other
echo '{"peft_type": "IA3"}' >other/adapter_config.json
run detect -m "$TINY" --adapter other "$WIDE"
expect_code 6; expect_one_error 'peft_type is "IA3"; only LORA adapters can be applied'
cp "$PEFT/adapter_config.json" other/ && echo '{"stage": "mflm"}' >other/fakeshield.json
run detect -m "$TINY" --adapter other "$WIDE"
expect_code 8; expect_one_error 'stage 2 (MFLM)'
rm other/fakeshield.json && head -c 5000 "$PEFT/adapter_model.safetensors" >other/adapter_model.safetensors
run detect -m "$TINY" --adapter other "$WIDE"
expect_code 5; expect_one_error 'other/adapter_model.safetensors'
run explain -m "$TINY" --adapter "" "$WIDE"
expect_code 2; expect_one_error 'adapter'

begin "merge: one clear line each"
run merge -m "$TINY" -o out1
expect_code 2; expect_one_error 'give --adapter DIR (see: fakeshield merge --help)'
run merge -m "$TINY" --adapter "$PEFT"
expect_code 2; expect_one_error 'give -o OUT'
run merge --adapter "$PEFT" -o out1
expect_code 2; expect_one_error 'no model: give the checkpoint'
run merge -m "$TINY" --adapter "$PEFT" -o out1 more
expect_code 2; expect_one_error '"more": unexpected'
run merge -m "$TINY" --adapter "$PEFT" -o "$TINY"
expect_code 2; expect_one_error 'is the base itself, which stays as it is'
run merge -m bundle --adapter "$PEFT" -o out1
expect_code 2; expect_one_error 'is no checkpoint; merge into the checkpoint it was made of'
run merge -m "$TINY" --adapter "$PEFT" -o out1 --type q9
expect_code 2; expect_one_error 'type "q9" is none of'
expect_no_file out1
mkdir -p mine/DTE-FDM && echo x >mine/DTE-FDM/thesis.doc
run merge -m "$TINY" --adapter "$PEFT" -o mine
expect_code 2; expect_one_error 'holds thesis.doc, which would be lost'
expect_file mine/DTE-FDM/thesis.doc; expect_no_file mine/DTE-FDM/model.safetensors
finish

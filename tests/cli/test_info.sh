# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# info: what a checkpoint holds.
. "$ROOT/tests/cli/lib.sh"

begin "a checkpoint"
run info "$TINY"
expect_code 0; expect_no_error
for word in DTE-FDM MFLM DTG; do expect_out "$word"; done
pass; [ "$(wc -l <out)" -le 60 ] || fail "longer than a screen or two"

begin "as JSON"
run info --json "$TINY"
expect_code 0; expect_no_error
pass; [ "$(head -c 1 out)" = "{" ] || fail "no object"

begin "one file, every tensor"
run info --tensors "$TINY/DTE-FDM/model-00001-of-00002.safetensors"
expect_code 0; expect_out 'model.layers.0.self_attn.q_proj.weight'
run info --tensors "$TINY/DTG.pth"
expect_code 0; expect_out 'layer1.0.conv1.weight'

begin "what is no checkpoint"
run info nowhere
expect_code 3; expect_one_error 'nowhere'
: >empty
run info empty
expect_failure; expect_one_error 'empty'
echo text >text
run info text
expect_failure; expect_one_error 'text'
run info "$TINY" nowhere
expect_code 1; expect_out DTE-FDM; expect_one_error 'nowhere'
finish

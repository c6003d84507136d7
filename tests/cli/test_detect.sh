# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# detect on single pictures: the report, the files, the exit code.
. "$ROOT/tests/cli/lib.sh"
dark dark.bmp
bright bright.bmp

begin "a picture the tiny checkpoint calls tampered"
run detect -m "$TINY" -o out1 dark.bmp
expect_code 0; expect_no_error
pass; [ "$(sed -n 1p out)" = dark.bmp ] && [ -z "$(sed -n 2p out)" ] || fail "the report does not begin with the picture's name"
expect_out '^    .*has been tampered with'
expect_out '^  verdict    tampered   score [01]\.[0-9][0-9][0-9] (0 authentic, 1 tampered)$'
expect_out '^  kind       [A-Z]'
expect_out '^  mask       [0-9.]* % of 64 x 48 pixels, [0-9]* regions\{0,1\}$'
expect_out '^  files      out1/dark.json$'
expect_out '^             out1/dark_mask.png$'
expect_out '^             out1/dark_overlay.png$'
expect_out '^No finding is not proof of authenticity'
expect_not_out "$(printf '\033')"
for f in dark.json dark_mask.png dark_overlay.png; do expect_file out1/$f; done
expect_no_file out1/dark_soft.png
expect_nothing_half out1
pass; [ "$(head -c 4 out1/dark_mask.png | tail -c 3)" = PNG ] || fail "the mask is no PNG"

begin "a picture it calls authentic"
run detect -m "$TINY" -o out2 bright.bmp
expect_code 0; expect_no_error
expect_out 'has not been tampered with'
expect_out '^  verdict    authentic   score'
expect_out '^  mask       none: the answer says that the picture has not been tampered with$'
expect_file out2/bright.json
expect_no_file out2/bright_mask.png; expect_no_file out2/bright_overlay.png

begin "environment and default folder"
FAKESHIELD_MODEL=$TINY run_as "$FAKESHIELD" detect dark.bmp
expect_code 0; expect_file fakeshield-out/dark.json

begin "soft mask"
run detect -m "$TINY" -o out3 --soft-mask dark.bmp
expect_code 0; expect_file out3/dark_soft.png; expect_out 'out3/dark_soft.png'

begin "no files"
mkdir empty
(cd empty && "$FAKESHIELD" detect -m "$TINY" --no-files ../dark.bmp >../out 2>../err)
expect_out 'verdict    tampered'; expect_not_out '^  files'
pass; [ -z "$(ls empty)" ] || fail "something was written"

begin "verdict only"
run detect -m "$TINY" -o out4 --verdict-only dark.bmp
expect_code 0; expect_out '^  verdict    tampered   score'; expect_not_out 'has been tampered'
expect_no_file out4/dark_mask.png
pass; grep -q '"explanation": null' out4/dark.json || fail "explanation is not null"
pass; grep -q '"status": "none"' out4/dark.json || fail "mask status is not none"

begin "quiet: a line a picture"
run detect -m "$TINY" -q -o out5 dark.bmp bright.bmp
expect_code 0; expect_no_error
pass; [ "$(wc -l <out)" -eq 2 ] || fail "not two lines"
expect_out "^tampered	[01]\.[0-9]*	[0-9.]*%	dark.bmp$"
expect_out "^authentic	[01]\.[0-9]*	authentic	bright.bmp$"

begin "sampling: the seed decides"
for seed in 7 7 8; do
    run detect -m "$TINY" --json --no-times --no-files --sample --temperature 1.5 --seed $seed dark.bmp
    expect_code 0
    [ -e "sampled$seed" ] && expect_same out "sampled$seed"
    cp out "sampled$seed"
done
run detect -m "$TINY" --json --no-times --no-files dark.bmp
cp out greedy
for seed in 7 8; do # the score does not depend on sampling
    pass
    [ "$(sed 's/.*"score":\([0-9.e-]*\),.*/\1/' "sampled$seed")" = "$(sed 's/.*"score":\([0-9.e-]*\),.*/\1/' greedy)" ] ||
        fail "the score of seed $seed differs from greedy's"
done

begin "full standard output"
run_as sh -c '"$FAKESHIELD" detect -m "$1" -o out6 dark.bmp >/dev/full' sh "$TINY"
expect_code 4; expect_one_error 'standard output: No space left'

begin "closed pipe"
run_as sh -c '{ "$FAKESHIELD" detect -m "$1" -o out7 dark.bmp; echo $? >code7; } | true; cat code7' sh "$TINY"
expect_out '^4$'; expect_nothing_half out7
finish

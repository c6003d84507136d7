# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# explain and localize: the original's records in and out, masks under the original's names, boxes.
. "$ROOT/tests/cli/lib.sh"
dark d.bmp
bright b.bmp

begin "records on standard output"
run explain -m "$TINY" d.bmp b.bmp
expect_code 0; expect_no_error
pass; [ "$(wc -l <out)" -eq 2 ] || fail "not two lines"
pass; sed -n 1p out | grep -q '^{"image": "d.bmp", "outputs": "1\..*has been tampered with.*"}$' || fail "line 1"
pass; sed -n 2p out | grep -q '^{"image": "b.bmp", "outputs": "1\..*has not been tampered with.*"}$' || fail "line 2"
cp out records

begin "records in a file, the explanation on the screen"
run explain -m "$TINY" -o rec.jsonl d.bmp b.bmp
expect_code 0; expect_same rec.jsonl records; expect_out '^  verdict    tampered'; expect_out '^2 records in rec.jsonl$'

begin "as the original's one-picture program: leading space, no newline"
run explain -m "$TINY" --upstream-cli -o one.jsonl d.bmp
expect_code 0
pass; [ "$(tail -c 1 one.jsonl)" = "}" ] || fail "ends in something else"
pass; [ "$(wc -l <one.jsonl)" -eq 0 ] || fail "there is a newline"
pass; grep -q '"outputs": " 1\.' one.jsonl || fail "no leading space"

begin "a question file; a bad line does not stop the rest"
cat >q.jsonl <<'Q'
{"image": "d.bmp", "text": "Is it real?"}
this is no JSON
{"image": "d.bmp"}

{"text": "Is it real?", "image": "b.bmp", "more": 1}
Q
run explain -m "$TINY" --questions q.jsonl
expect_code 1
pass; [ "$(wc -l <out)" -eq 2 ] || fail "not two records"
expect_err '^fakeshield: q.jsonl:2: '; expect_err '^fakeshield: q.jsonl:3: .*needs "image" and "text"'
run explain -m "$TINY" --questions missing.jsonl
expect_code 3; expect_one_error 'missing.jsonl'

begin "non-ASCII paths are escaped as Python does"
cp d.bmp "$(printf 'sm\303\270r \360\237\247\210.bmp')"
run explain -m "$TINY" sm*.bmp
expect_code 0; expect_out '^{"image": "sm\\u00f8r \\ud83e\\uddc8.bmp", '

begin "localize from records"
run localize -m "$TINY" -o masks --from records
expect_code 0; expect_no_error
expect_file masks/d_mask.png; expect_file masks/d_overlay.png; expect_file masks/d.json
expect_no_file masks/b_mask.png
expect_out '^The image has not been tampered with\.$'; expect_out '^No mask generated\.$'
run detect -m "$TINY" -o both d.bmp
expect_same masks/d_mask.png both/d_mask.png
pass; grep -q '"score": null' masks/d.json && grep -q '"domain": null' masks/d.json || fail "a score without stage 1"

begin "only the first record; no newline at its end"
{ cat one.jsonl; } >first.jsonl
run localize -m "$TINY" -o masks2 --prompt demo --first --from first.jsonl
expect_code 0; expect_file masks2/d_mask.png
cat records records >four.jsonl
run localize -m "$TINY" -o masks3 --first -q --from four.jsonl
expect_code 0
pass; [ "$(wc -l <out)" -eq 1 ] || fail "more than one record was read"

begin "bad records"
printf 'garbage\n{"outputs": "x"}\n{"image": "gone.bmp", "outputs": "The dog"}\n' >bad.jsonl
sed -n 1p records >>bad.jsonl
run localize -m "$TINY" -o masks4 --from bad.jsonl
expect_code 1; expect_file masks4/d_mask.png
expect_err 'bad.jsonl:1: '; expect_err 'bad.jsonl:2: the record names no image'; expect_err 'gone.bmp'

begin "the original's names"
mkdir -p pics
cp both/d_overlay.png pics/x.png
printf '{"image": "pics/x.png", "outputs": "The dog"}\n' >up.jsonl
run localize -m "$TINY" -o up --upstream-names --from up.jsonl
expect_code 0; expect_out 'files      up/x.png'
pass; [ "$(ls up)" = x.png ] || fail "more than the mask was written"
pass; [ "$(od -An -tu1 -j25 -N1 up/x.png | tr -d ' ')" = 0 ] || fail "the test mask is not grey"
run localize -m "$TINY" -o up --upstream-names --prompt demo --from up.jsonl
expect_code 0; expect_err 'up/x.png is overwritten'
pass; [ "$(od -An -tu1 -j25 -N1 up/x.png | tr -d ' ')" = 2 ] || fail "the demo mask is not RGB"
run localize -m "$TINY" -o pics --upstream-names --from up.jsonl
expect_code 2; expect_one_error 'pics/x.png is one of the pictures'
run localize -m "$TINY" -o up --upstream-names --text "The dog" d.bmp
expect_failure; expect_err 'upstream-names'

begin "the short cut needs no weights of stage 2"
run localize -m "$TINY" -o auth --text "It has not been tampered with." d.bmp
expect_code 0; expect_out '^No mask generated\.$'; expect_no_file auth/d_mask.png

begin "boxes"
run localize -m "$TINY" -o box --text "Look at <bbox>" --box 4,4,40,30 d.bmp
expect_code 0; expect_file box/d_mask.png
run localize -m "$TINY" -o box2 --text "Look there" --box 4,4,40,30 d.bmp
expect_failure; expect_one_error 'bbox'; expect_no_file box2/d_mask.png
finish

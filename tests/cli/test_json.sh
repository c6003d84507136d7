# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# The result object: its keys and their order, one line per picture on standard output, the same bytes for every number of threads.
. "$ROOT/tests/cli/lib.sh"
dark dark.bmp
bright bright.bmp

begin "keys and order"
run detect -m "$TINY" -o res dark.bmp bright.bmp
expect_code 0
grep -o '^ *"[A-Za-z0-9_ ]*":' res/dark.json | tr -d ' ":' >keys
cat >expected <<'KEYS'
schema
program
name
version
image
sha256
width
height
domain
label
probabilities
AIGCinpainting
DeepFake
Photoshop
verdict
score
explanation
text
area
basis
truncated
mask
status
path
overlay_path
area_fraction
region_count
regions
KEYS
grep -v -x -e box keys | awk '!(($0 == "area_fraction") && seen++)' >plain
cat >>expected <<'KEYS'
model
name
fingerprint
settings
precision
kv_cache
temperature
top_k
top_p
seed
max_new_tokens
prompt_style
question_index
exif_both
verdict_only
question
warnings
times
threads
KEYS
head -n "$(wc -l <expected)" plain >top
expect_same top expected

begin "values"
pass; grep -q "\"sha256\": \"$(sha256sum dark.bmp | cut -c1-64)\"" res/dark.json || fail "sha256"
pass; grep -q '"width": 64,' res/dark.json && grep -q '"height": 48,' res/dark.json || fail "size"
pass; grep -q '"path": "dark_mask.png"' res/dark.json || fail "the mask's path is not relative to the file"
pass; grep -q '"overlay_path": "dark_overlay.png"' res/dark.json || fail "the overlay's path is not relative to the file"
pass; grep -q '"path": null' res/bright.json || fail "an authentic picture has a mask path"
pass; grep -q '"status": "authentic"' res/bright.json || fail "mask status of an authentic picture"
pass; ! grep -q -i -e nan -e infinity res/dark.json || fail "not a number"

begin "one object a line, in the order of the pictures"
run detect -m "$TINY" -o res --json bright.bmp dark.bmp
expect_code 0; expect_no_error
pass; [ "$(wc -l <out)" -eq 2 ] || fail "not two lines"
pass; sed -n 1p out | grep -q '"image":"bright.bmp"' || fail "line 1"
pass; sed -n 2p out | grep -q '"image":"dark.bmp".*"path":"res/dark_mask.png"' || fail "line 2"

begin "the same bytes on every run and for 1 to 4 threads"
run detect -m "$TINY" -o t0 --json --no-times -t 1 dark.bmp bright.bmp
expect_code 0
sed 's:t0/:T/:g' out >reference
pass; ! grep -q times reference || fail "--no-times left times"
for n in 1 2 3 4; do
    run detect -m "$TINY" -o "t$n" --json --no-times -t $n dark.bmp bright.bmp
    expect_code 0
    sed "s:t$n/:T/:g" out >this
    expect_same this reference
    for f in dark.json bright.json dark_mask.png dark_overlay.png; do expect_same "t$n/$f" "t0/$f"; done
done
finish

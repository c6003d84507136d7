# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# dataset forge: what it prints, writes and refuses. (tests/unit/test_forge*.c look at the pictures.)
. "$ROOT/tests/cli/lib.sh"

mkdir photos
for name in e2e_large e2e_square e2e_wide e2e_tall; do cp "$ROOT/tests/golden/$name.png" photos; done
forge() { run dataset forge --size 96-128 "$@"; }

begin "help"
run dataset forge --help
expect_code 0; expect_no_error; expect_golden help_dataset_forge
pass
[ "$(wc -L <out)" -le 100 ] || fail "$(wc -L <out) columns"
pass
[ "$(wc -l <out)" -le 40 ] || fail "$(wc -l <out) lines"

begin "a set is made, whole and checked"
forge -n 12 --val 0.25 --test 0.25 -o set photos
expect_code 0; expect_no_error
printf 'set: 12 pictures, with manifest.csv and manifest.jsonl\n' >want
expect_same out want
for file in forge.json manifest.csv manifest.jsonl conversations_train.json conversations_val.json conversations_test.json; do expect_file "set/$file"; done
expect_nothing_half set/records
pass; [ "$(wc -l <set/manifest.csv)" -eq 13 ] || fail "manifest.csv has $(wc -l <set/manifest.csv) lines"
pass; [ "$(wc -l <set/manifest.jsonl)" -eq 12 ] || fail "manifest.jsonl has $(wc -l <set/manifest.jsonl) lines"
pass; [ "$(find set -path '*/image/*.jpg' | wc -l)" -eq 12 ] || fail "not 12 pictures"
pass; [ "$(find set -path '*/mask/*.png' | wc -l)" -eq "$(grep -c '"mask": "' set/manifest.jsonl)" ] || fail "masks and tampered pictures differ in number"
run dataset check set
expect_code 0; expect_out '0 errors'

begin "the same seed gives the same files on any number of threads; again, nothing changes"
for threads in 1 2 3 4; do
    forge -n 12 --val 0.25 --test 0.25 -t $threads -q -o "set$threads" photos
    expect_code 0; expect_no_output; expect_no_error
    pass; diff -r set "set$threads" >diff_out || fail "$(head -n 3 diff_out)"
done
forge -n 12 --val 0.25 --test 0.25 -o set photos
expect_code 0
pass; diff -r set set1 >diff_out || fail "$(head -n 3 diff_out)"

begin "kinds, shares, format"
forge -n 6 --types removal=1 --authentic 0 --format png --square --val 0 --test 0 -o removals photos
expect_code 0; expect_no_error
pass; [ "$(find removals/aigc/train/image -name '*_removal.png' | wc -l)" -eq 6 ] || fail "not six removals as PNG"
forge -n 4 --authentic 1 --val 0 --test 0 -o real photos
expect_code 0
pass; [ "$(find real -name '*_authentic.jpg' | wc -l)" -eq 4 ] || fail "not four authentic pictures"
expect_no_file real/photoshop/train/mask
forge -n 2 --authentic 0 --no-chain --val 0 --test 0 -o plain photos
expect_code 0
pass; grep -q '"chain": "none"' plain/manifest.jsonl || fail "a chain in spite of --no-chain"

begin "pairs, and a folder of them is no other"
forge -n 8 --pairs --val 0 --test 0 -o pairs photos
expect_code 0; expect_no_error
pass; [ "$(find pairs -name '*_authentic.jpg' | wc -l)" -eq 4 ] || fail "not four authentic pictures"
forge -n 8 --val 0 --test 0 -o pairs photos
expect_code 2; expect_one_error 'other settings (pairs)'

begin "varied, and some without the chain"
forge -n 8 --vary --clean 0.5 --val 0 --test 0 -o varied photos
expect_code 0; expect_no_error
pass; [ "$(grep -c '"do": "turn"' varied/manifest.jsonl)" -eq 8 ] || fail "not all were turned"
pass; [ "$(grep -c '"chain": "none"' varied/manifest.jsonl)" -lt 8 ] || fail "none has a chain"
forge -n 8 --vary --val 0 --test 0 -o varied photos
expect_code 2; expect_one_error 'other settings (clean)'
forge -n 8 --vary --clean 0.25 --val 0 --test 0 -o varied photos
expect_code 2; expect_one_error 'other settings (clean)'
forge -n 8 --clean 0.5 --val 0 --test 0 -o varied photos
expect_code 2; expect_one_error 'other settings (vary)'
forge -n 9 --vary --clean 0.5 --val 0 --test 0 -o varied photos
expect_code 0

begin "own texts"
cat >texts.json <<'END'
{"rules": {"tampered": ["1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with, {size}, {position}\n\n2. Judgment basis: none."],
           "authentic": ["1. Whether ...: The picture has not been tampered with.\n\n2. Judgment basis: none."]}}
END
forge -n 2 --texts texts.json --val 0 --test 0 -o own photos
expect_code 0
pass; grep -q 'Judgment basis: none' own/conversations_train.json || fail "the grammar was not used"
sed 's/{size}/{colour}/' texts.json >bad.json
forge -n 2 --texts bad.json -o own2 photos
expect_code 5; expect_one_error '{colour} is no fact'
expect_no_file own2

begin "photos that cannot be used are named and left out"
mkdir mixed
cp photos/e2e_large.png mixed
printf 'no picture' >mixed/broken.jpg
forge -n 2 --val 0 --test 0 -o left mixed
expect_code 0; expect_err 'left out: mixed/broken.jpg'
rm mixed/e2e_large.png
forge -n 2 -o none mixed
expect_code 5; expect_err 'none of the 1 photos can be read'
expect_no_file none
mkdir flat
bright flat/one.bmp
bmp flat/two.bmp 100 100 90
forge -n 2 --types copy-move --authentic 0 --val 0 --test 0 -o flat_out flat
expect_code 1; expect_err 'could not be made'; expect_err 'two.bmp'

begin "an interrupted run goes on"
forge -n 40 --val 0 --test 0 -o whole photos
expect_code 0
"$FAKESHIELD" dataset forge --size 96-128 -n 40 --val 0 --test 0 -t 1 -o cut photos >out 2>err &
id=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do # until the first pictures are there, or it is done
    [ -e cut/records/train_000001.json ] && break
    sleep 0.1
done
kill -INT $id 2>/dev/null || true
wait $id || true
forge -n 40 --val 0 --test 0 -o cut photos
expect_code 0
pass; diff -r whole cut >diff_out || fail "$(head -n 3 diff_out)"

begin "what makes no sense"
forge -n 4 photos
expect_code 2; expect_one_error '-o DIR'
forge -n 4 -o new
expect_code 2; expect_one_error 'photos'
forge -n 0 -o new photos
expect_code 2; expect_one_error 'at least 1'
forge -n 4 -o new nowhere
expect_code 3; expect_one_error 'nowhere'
mkdir empty
forge -n 4 -o new empty
expect_code 3; expect_one_error 'no photo found'
run dataset forge --size 12 -o new photos
expect_code 2; expect_one_error '--size'
run dataset forge --size 200-100 -o new photos
expect_code 2; expect_one_error '--size'
forge --types swap -o new photos
expect_code 2; expect_one_error 'swap'
forge --val 0.8 --test 0.8 -o new photos
expect_code 2; expect_one_error 'shares'
forge --format gif -o new photos
expect_code 2; expect_one_error 'jpg, png'
expect_no_file new
forge -n 12 --seed 2 --val 0.25 --test 0.25 -o set photos
expect_code 2; expect_one_error 'other settings (seed)'
forge -n 4 -o photos photos
expect_code 2; expect_one_error 'not made by forge'
run dataset forg
expect_code 2; expect_one_error 'did you mean dataset forge'
finish

# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# eval: figures that can be worked out by hand, every source of answers, what is refused and how, parts joined, runs compared.
. "$ROOT/tests/cli/lib.sh"

# Three forged pictures whose upper half is tampered, two authentic ones.
mkdir -p data/photoshop/S_Tp/image data/photoshop/S_Tp/mask data/photoshop/S_Au/image maps
for k in 1 2 3; do
    bmp data/photoshop/S_Tp/image/t$k.bmp 64 48 2$k 60
    bmp data/photoshop/S_Tp/mask/t$k.bmp 64 48 0 255
done
bmp data/photoshop/S_Au/image/a1.bmp 64 48 235 200
bmp data/photoshop/S_Au/image/a2.bmp 64 48 236 200
bmp maps/t1.bmp 64 48 0 255   # right: IoU 1
bmp maps/t2.bmp 64 48 255 255 # all of it: IoU 1/2, F1 2/3
bmp maps/t3.bmp 64 48 255 0   # the wrong half: 0
bmp maps/a1.bmp 64 48 0 0
bmp maps/a2.bmp 64 48 0 255   # half an authentic picture

begin "maps by hand"
run eval data --maps maps --image-score max -o o1 --resamples 0
expect_code 0; expect_no_error
expect_golden eval_maps
for f in run.json images.jsonl images.csv summary.json report.html; do expect_file o1/$f; done
expect_nothing_half o1
pass; [ "$(cut -d, -f4,5,7,11-16 o1/images.csv | sed -n 2,6p | tr '\n' ' ')" = \
    "S,a1.bmp,authentic,0,0,0,3072,, S,a2.bmp,authentic,0,1536,0,1536,, S,t1.bmp,tampered,1536,0,0,1536,1,1 S,t2.bmp,tampered,1536,1536,0,0,0.5,0.666666667 S,t3.bmp,tampered,0,1536,1536,0,0,0 " ] ||
    fail "images.csv: $(cut -d, -f4,5,7,11-16 o1/images.csv)"
pass; ! grep -q -e 'http:' -e 'https:' -e '<script' -e '<link' o1/report.html || fail "the report needs something from elsewhere"
pass; grep -q 'always tampered' o1/report.html || fail "no trivial row in the report"
cp o1/summary.json first.json
run eval data --maps maps --image-score max -o o1 --resamples 0
expect_same o1/summary.json first.json

begin "intervals repeat, and the seed decides"
for seed in 5 5 6; do
    run eval data --maps maps -o o2 --resamples 50 --seed $seed --no-html -q
    expect_code 0; expect_no_output; expect_no_file o2/report.html
    [ -e "seed$seed" ] && expect_same o2/summary.json "seed$seed"
    cp o2/summary.json "seed$seed"
done
pass; ! cmp -s seed5 seed6 || fail "another seed, the same intervals"

begin "scores from a file"
printf 'name,score\nt1,0.9\nt2.bmp,0.8\nt3,0.2\na1,0.3\nS_Au/image/a2.bmp,0.1\n' >scores.csv
run eval data --maps maps --scores scores.csv -o o3 --resamples 0
expect_code 0
expect_out 'score > 0.5         ACC 0.8000  F1 0.8000  precision 1.0000  recall 0.6667  specificity 1.0000  balanced 0.8333'
expect_out 'AUC 0.8333  AP 0.9167' # 5 of 6 pairs; (1 + 1 + 3/4) / 3
printf 't1,0.9\nt2,nan\nt3,0.2\na1,0.3\na2,0.1\n' >nan.csv
run eval data --scores nan.csv -o o4 --resamples 0
expect_code 10; expect_one_error 't2.bmp: its score is no number (NaN); --nan exclude'
run eval data --scores nan.csv -o o4 --resamples 0 --nan exclude
expect_code 0; expect_out 'AUC 0.7500'; expect_out 'left out of the ranking for a NaN score: 1 pictures'
printf 't1,0.9\nt2,high\n' >bad.csv
run eval data --scores bad.csv -o o5; expect_code 5; expect_one_error 'bad.csv:2: "high" is no number'; expect_no_file o5
printf 't1,0.9\n' >few.csv
run eval data --scores few.csv -o o5; expect_code 3; expect_one_error 'few.csv has no score of it'; expect_no_file o5
expect_no_file o5/summary.json

begin "one answer for all: where the edits of other pictures are"
run dataset places --sets 'photoshop|S_Tp' --side 16 -o places.png data
expect_code 0; expect_no_error; expect_out 'the mean of 3 masks'
run eval data --maps places.png -o o9 --resamples 0
expect_code 0; expect_out 'resized to their masks: 3 maps' # authentic pictures have no mask to fit
run eval data --maps maps/t1.bmp -o o10 --resamples 0
expect_code 0; expect_out 'pixels              AUC 1.0000' # all three have this mask
run dataset places --sets 'photoshop|S_Au' -o none.png data
expect_failure; expect_one_error 'nothing is marked'; expect_no_file none.png
run eval data --maps nothing.png -o o11
expect_failure; expect_err 'nothing.png'

begin "maps of another size"
mkdir small; cp maps/* small
bmp small/t2.bmp 32 24 0 255
run eval data --maps small -o o6
expect_code 8; expect_one_error 'small/t2.bmp: the map is 32 x 24 pixels, the mask data/photoshop/S_Tp/mask/t2.bmp 64 x 48; they must agree, or give --resize-mask'
run eval data --maps small -o o6 --resize-mask --resamples 0
expect_code 0; expect_out 'resized to their masks: 1 maps'; expect_out 'fixed               IoU 0.6667'

# npy FILE TYPE ROWS COLUMNS: zeros
npy() {
    header="{'descr': '$2', 'fortran_order': False, 'shape': ($3, $4), }"
    { printf '\223NUMPY\001\000'; little 2 $((${#header} + 1)); printf '%s\n' "$header"; head -c $(($3 * $4 * 4)) /dev/zero; } >"$1"
}
begin "npy"
mkdir arrays; cp maps/* arrays; rm arrays/t1.bmp
npy arrays/t1.npy '<f4' 48 64
run eval data --maps arrays -o o7 --resamples 0
expect_code 0; expect_out 'fixed               IoU 0.1667' # 0, 1/2 and 0
npy arrays/t1.npy '<f4' 48 63
run eval data --maps arrays -o o7; expect_code 8; expect_one_error 'the map is 63 x 48 pixels'
npy arrays/t1.npy '<c8' 48 64
run eval data --maps arrays -o o7; expect_code 6; expect_one_error "t1.npy: numbers of type '<c8'"
head -c 40 arrays/t1.npy >"cut" && mv "cut" arrays/t1.npy
run eval data --maps arrays -o o7; expect_code 5; expect_one_error 't1.npy: '
cp maps/t1.bmp arrays/t1.png; npy arrays/t1.npy '<f4' 48 64
run eval data --maps arrays -o o7; expect_code 5; expect_one_error 'both fit t1.bmp'

begin "missing maps"
mkdir few; cp maps/t1.bmp maps/t2.bmp few
run eval data --maps few -o o8
expect_code 3; expect_one_error 't3.bmp: no map of it in few'
run eval data --maps few -o o8 --missing exclude --resamples 0
expect_code 0; expect_out 'left out for want of an answer: 1 pictures'; expect_out 'fixed               IoU 0.7500'

begin "inverted truth"
run eval data --maps maps -o o9 --invert-truth --resamples 0
expect_code 0; expect_out 'fixed               IoU 0.5000' # the same three in another order

begin "what the original wrote"
yes='The picture has been tampered with.'
no='The picture has not been tampered with.'
for x in "S_Tp/image/t1.bmp|$yes" "S_Tp/image/t2.bmp|$yes" "S_Tp/image/t3.bmp|$no" "S_Au/image/a1.bmp|$no" "S_Au/image/a2.bmp|It is authentic."; do
    printf '{"image": "/elsewhere/%s", "outputs": "1. Whether the picture has been tampered with: %s"}\n' "${x%%|*}" "${x#*|}"
done >up.jsonl
run eval data --upstream up.jsonl --masks maps -o o10 --resamples 0
expect_code 0
expect_out 'verdict, literal    ACC 0.6000' # a2 lacks the original's words
expect_out 'verdict, tolerant   ACC 0.8000'
expect_out 'localization: 3 tampered pictures, 1 of them judged authentic (nothing marked)'
expect_out 'fixed               IoU 0.5000'
echo '{"image": 5}' >broken.jsonl
run eval data --upstream broken.jsonl --masks maps -o o11; expect_code 5; expect_one_error 'broken.jsonl:1: '
echo 'no json' >broken.jsonl
run eval data --upstream broken.jsonl --masks maps -o o11; expect_code 5; expect_one_error 'broken.jsonl:1: '
head -n 4 up.jsonl >short.jsonl
run eval data --upstream short.jsonl --masks maps -o o11; expect_code 3; expect_one_error 't3.bmp\|a2.bmp.*short.jsonl has no record of it'
{ cat up.jsonl; sed 's/not been/never been/' up.jsonl; } >twice.jsonl
run eval data --upstream twice.jsonl --masks maps -o o11; expect_code 5; expect_one_error 'fit .* equally well and differ'

begin "explanations: place and size in words"
# the truth is the upper half: upper middle, very large
for x in 't1|A very large area in the upper middle.' 't2|A large area in the upper left.' 't3|Somewhere.' 'a1|A small area in the center.' "a2|$no"; do
    printf '{"image": "%s.bmp", "outputs": "Whether the picture has been tampered with: %s"}\n' "${x%%|*}" "${x#*|}"
done >words.jsonl
run eval data --upstream words.jsonl --masks maps -o w0
expect_code 0; expect_golden eval_words
grep -A 4 '^  words for' out >words
pass; [ "$(cut -d, -f6,28-31 w0/images.csv | sed 's/.*S_..\/image.//' | tr '\n' ' ')" = \
    "image,true_position,true_size,said_position,said_size a1.bmp,,,center,small a2.bmp,,,, t1.bmp,upper middle,very large,upper middle,very large t2.bmp,upper middle,very large,upper left,large t3.bmp,upper middle,very large,, " ] ||
    fail "images.csv: $(cut -d, -f6,28-31 w0/images.csv)"
pass; grep -q '<td>3</td><td>1</td><td>1</td>' w0/report.html || fail "no words in the report"
pass; ! grep -q 'in words</h2>' o1/report.html || fail "words in a report of maps"
run eval data --upstream words.jsonl -o w2 --no-html # the masks are read for the words alone
expect_code 0; grep -A 4 '^  words for' out >without; expect_same without words
run eval data --upstream words.jsonl --invert-truth -o w3 --no-html --resamples 0
expect_code 0; expect_out 'words               position and size 0.0000  position 0.0000  size 0.3333'
for i in 1 2; do run eval data --upstream words.jsonl --masks maps -o "wp$i" --shard $i/2 -q; expect_code 0; done
run eval merge wp1 wp2 -o wp
expect_code 0; for f in summary.json images.csv report.html; do expect_same wp/$f w0/$f; done

begin "explanations: embeddings from files"
for i in t1 t2 t3 a1 a2; do printf '{"image": "%s.bmp", "embedding": [1, 0, 2]}\n' $i; done >e1.jsonl
for i in t1 t2 t3 a1 a2; do printf '{"image": "%s.bmp", "embedding": [1, 0, 0]}\n' $i; done >e2.jsonl
run eval data --upstream up.jsonl --masks maps -o o12 --resamples 0 --embeddings e1.jsonl --reference-embeddings e2.jsonl
expect_code 0; expect_out 'CSS 0.4472  (5 texts)' # 1 / sqrt 5
run eval data --upstream up.jsonl --masks maps -o o12 --embeddings e1.jsonl
expect_code 2; expect_one_error 'embeddings of the explanations are given but not of the other'
sed 's/, 0\]/]/' e2.jsonl >e3.jsonl
run eval data --upstream up.jsonl --masks maps -o o12 --embeddings e1.jsonl --reference-embeddings e3.jsonl
expect_code 8; expect_one_error 'embeddings of 3 numbers, e3.jsonl: of 2'

begin "explanations: a sentence encoder"
run eval data --upstream up.jsonl --masks maps -o o13 --resamples 0 --encoder "$ROOT/tests/golden/bert" --references up.jsonl
expect_code 0; expect_out "CSS 1.0000  to other pictures' references 0.9[0-9]*  (5 texts)" # of each text with itself
pass; grep -q '"encoder": "bert, 2 layers, 32 wide, mean of at most 24 tokens"' o13/summary.json || fail "the encoder is not named"
run eval data --upstream up.jsonl --masks maps -o o13 --encoder "$TINY/DTE-FDM" --references up.jsonl
expect_failure; expect_one_error 'BERT'

begin "a checkpoint, its kept results, and resuming"
run eval data -m "$TINY" -o m1 --resamples 0 --no-html
expect_code 0; expect_no_error
expect_out '^S: 5 pictures, 3 tampered, 2 authentic$'
expect_out 'verdict, literal    ACC 1.0000'
cp out first
expect_file m1/results/photoshop/S_Tp/t1.json; expect_file m1/results/photoshop/S_Tp/t1_soft.png
run eval data --results m1/results -o m2 --resamples 0 --no-html
expect_code 0; expect_same out first
rm m1/results/photoshop/S_Tp/t2.json m1/results/photoshop/S_Tp/t3_soft.png m1/summary.json
cp m1/results/photoshop/S_Tp/t1.json kept
run eval data -m "$TINY" -o m1 --resamples 0 --no-html --resume
expect_code 0; expect_same out first; expect_same m1/results/photoshop/S_Tp/t1.json kept
run detect -m "$TINY" -o det --soft-mask --no-times -q data/photoshop/S_Tp/image data/photoshop/S_Au/image
run eval data --results det -o m3 --resamples 0 --no-html
expect_code 0; expect_same out first
run detect -m "$TINY" --json --no-files data/photoshop/S_Au/image
cp out au.jsonl
run eval data/photoshop/S_Au --results au.jsonl -o m4 --resamples 0 --no-html
expect_code 0; expect_out 'note: only authentic pictures here'
run eval data --results au.jsonl -o m5
expect_code 3; expect_one_error 'no result about this picture in au.jsonl (compared by the bytes. SHA-256)'

begin "a broken picture"
cp -r data broken; echo junk >broken/photoshop/S_Au/image/a2.bmp
run eval broken -m "$TINY" -o b1 --no-html
expect_failure; expect_one_error 'a2.bmp'
run eval broken -m "$TINY" -o b1 --no-html --missing exclude --resume --resamples 0
expect_code 0; expect_out 'left out for want of an answer: 1 pictures'

begin "a sweep"
run eval data -m "$TINY" -o s1 --resamples 0 --sweep 'jpeg=70 noise=3 resize=0.5 blur=1' --resume
expect_code 0
for c in jpeg=70 noise=3 resize=0.5 blur=1; do expect_out "^S, $c: 5 pictures"; done
expect_file s1/sweep/jpeg=70/photoshop/S_Tp/t1.jpg
pass; grep -q '<h2>Robustness</h2>' s1/report.html || fail "no robustness in the report"
cp s1/sweep/noise=3/photoshop/S_Tp/t1.png noise
run eval data -m "$TINY" -o s2 --resamples 0 --sweep 'noise=3' --no-html -q
expect_same s2/sweep/noise=3/photoshop/S_Tp/t1.png noise
run eval data -m "$TINY" -o s3 --sweep 'jpeg=0'; expect_code 2; expect_one_error 'jpeg 1 to 100'
run eval data --maps maps -o s3 --sweep 'jpeg=50'; expect_code 2; expect_one_error 'results that are there already cannot be swept'

begin "parts joined are the whole"
for i in 1 2 3; do run eval data --maps maps --image-score max -o "p$i" --shard $i/3 -q --resamples 0; expect_code 0; done
run eval merge p3 p1 p2 -o joined --resamples 0
expect_code 0
for f in summary.json images.csv images.jsonl report.html run.json; do expect_same joined/$f o1/$f; done
run eval merge p1 p2 -o joined2; expect_code 3; expect_one_error 'part 3 of 3 is not among the folders given'
run eval merge p1 p2 p2 -o joined2; expect_code 8; expect_one_error 'part 2 of 3 is there twice'
run eval data --maps maps -o p4 --shard 1/3 -q; run eval merge p4 p2 p3 -o joined2; expect_code 8; expect_one_error 'the settings differs from that of the first part'
run eval merge data -o joined2; expect_code 3; expect_one_error 'no run.json in it'
head -c 900 p2/images.jsonl >"cut"; cp "cut" p2/images.jsonl
run eval merge p1 p2 p3 -o joined2; expect_code 5; expect_one_error 'p2/images.jsonl:[12]: no valid JSON; was the file cut off'
expect_no_file joined2

begin "two processes are one"
if command -v mpirun >/dev/null 2>&1 && [ -z "${FS_TEST_EMULATED:-}" ]; then
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM
    run eval data --maps maps --image-score max -o alone -q; expect_code 0
    run_as env ASAN_OPTIONS=detect_leaks=0 mpirun --oversubscribe -n 2 "$FAKESHIELD" eval data --maps maps --image-score max -o both -q
    expect_code 0
    pass; [ ! -d both/part-2 ] || cmp -s alone/images.csv both/images.csv || fail "images.csv is not that of one process"
fi

begin "two runs compared"
run eval compare o1 o1 --resamples 100
expect_code 0; expect_out 'accuracy           0.8000   0.8000  +0.0000   \[+0.0000, +0.0000\]   1.0000'
mkdir worse; cp maps/* worse; cp maps/t3.bmp worse/t1.bmp
run eval data --maps worse --image-score max -o w1 --resamples 0 -q --name worse
run eval compare o1 w1 -o c1 --resamples 200
expect_code 0; expect_golden eval_compare
expect_file c1/compare.json; expect_file c1/compare.html
run eval compare o1 m4; expect_code 0
run eval compare o1; expect_code 2; expect_one_error 'give the output folders of two runs'
cp -r data other; bmp other/photoshop/S_Tp/image/t1.bmp 64 48 99 60
run eval other --maps maps -o x1 -q
run eval compare o1 x1; expect_code 8; expect_one_error 't1.bmp: picture, mask or label are not the same in the two runs'

begin "stage 2 alone, told one text about every picture"
told='1. The picture has been tampered with in the upper part.'
run eval data -m "$TINY" --text "$told" -o t1 --resamples 0 --no-html
expect_code 0
expect_out 'localization: 3 tampered pictures'
expect_not_out 'judged authentic' # stage 1 is not asked, the bright ones get a map too
expect_not_out 'verdict, literal'; expect_not_out 'ranking'; expect_not_out 'words for place'
for f in S_Tp/t1 S_Tp/t3 S_Au/a1; do expect_file t1/results/photoshop/${f}_mask.png; done
run localize -m "$TINY" --text "$told" -o t2 -q data/photoshop/S_Au/image/a1.bmp
expect_same t2/a1_mask.png t1/results/photoshop/S_Au/a1_mask.png
cp t1/summary.json told.json
touch -d '2020-01-01' t1/results/photoshop/S_Tp/t1_mask.png
run eval data -m "$TINY" --text "$told" -o t1 --resamples 0 --no-html --resume -q; expect_code 0
expect_same t1/summary.json told.json
pass; [ -z "$(find t1/results/photoshop/S_Tp/t1_mask.png -newer told.json)" ] || fail "--resume made a mask anew that was there"
run eval data -m "$TINY" --text 'Something else.' -o t1 --resamples 0 --no-html --resume -q; expect_code 0
pass; [ -n "$(find t1/results/photoshop/S_Tp/t1_mask.png -newer told.json)" ] || fail "--resume kept a mask that another text made"
run eval data -m "$TINY" -o t1 --resamples 0 --no-html --resume; expect_code 0 # both stages: the text was no answer of the model's
run eval data -m "$TINY" -o t4 --resamples 0 --no-html -q; expect_code 0
expect_same t1/summary.json t4/summary.json
run eval data -m "$TINY" --text "$told" -o t1 --resamples 0 --no-html --resume -q; expect_code 0 # and back
expect_same t1/summary.json told.json
pass; ! grep -q '"undetermined":true' t1/images.jsonl || fail "pictures are called undetermined that nobody judged"
run eval data -m "$TINY" --text '' -o t3; expect_code 2; expect_one_error 'an empty value'
run eval data -m "$TINY" --text x --verdict-only -o t3; expect_code 2; expect_one_error 'masks are not asked for'
run eval data --maps maps --text x -o t3; expect_code 2; expect_one_error 'no checkpoint is run'
expect_no_file t3/summary.json

begin "usage"
run eval; expect_code 2; expect_one_error 'give one folder of data, and -o OUT'
run eval data --maps maps; expect_code 2; expect_one_error 'give one folder of data, and -o OUT'
run eval data -o u1; expect_code 2; expect_one_error 'no model'
run eval data -o u1 --maps maps --upstream up.jsonl; expect_code 2; expect_one_error 'exclude one another'
run eval data -o u1 --maps maps --shard 4/3; expect_code 2; expect_one_error 'expected I/N'
run eval data -o u1 --maps maps --nan maybe; expect_code 2; expect_one_error 'none of error, exclude'
run eval nowhere -o u1 --maps maps; expect_code 3; expect_one_error 'nowhere'
run eval data -o u1 --maps nowhere; expect_code 3; expect_one_error 'nowhere'
run eval data -o u1 --maps maps --join 'S'; expect_code 2; expect_one_error 'expected NAME=SET'
expect_no_file u1/summary.json

begin "sets joined under a name"
run eval data --maps maps -o j1 --resamples 0 --join 'CASIA1+=S_Tp,S_Au'
expect_out '^CASIA1+: 5 pictures'
pass; grep -q '<td>this run</td><td class="group">0.500</td><td>0.556</td>' j1/report.html || fail "no row of this run beside the paper's"
pass; ! grep -q '<td>this run</td><td class="group">' o1/report.html || fail "a row beside the paper's for a set that is none of them"
run eval data --maps maps -o j2 --resamples 0 --join 'X=S_Tp'
expect_out '^X: 3 pictures'; expect_out '^S_Au: 2 pictures'; expect_out '^all: 5 pictures'
finish

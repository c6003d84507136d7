# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# calibrate: a bundle with the calibration in it, what detect then says, once more on top, and what is refused.
. "$ROOT/tests/cli/lib.sh"

# The test checkpoint calls dark pictures tampered and bright ones authentic.
mkdir -p data/photoshop/S_Tp/image data/photoshop/S_Tp/mask data/photoshop/S_Au/image
for k in 10 11 12 13 14 15 16 17 18 19 20 21; do
    bmp data/photoshop/S_Tp/image/t$k.bmp 32 24 $k 60
    bmp data/photoshop/S_Tp/mask/t$k.bmp 32 24 0 255
    bmp data/photoshop/S_Au/image/a$k.bmp 32 24 2$k 200
done
run convert "$TINY" --type f32 -q -o bundle
expect_code 0
score() { sed -n 's/.*"score":\([0-9.e-]*\).*/\1/p' out; }

begin "fit"
run eval data -m bundle --verdict-only --resamples 0 --no-html -q -o val
expect_code 0
run calibrate -m bundle --eval val -o calibrated
expect_code 0; expect_no_error; expect_out '24 pictures: log-odds x'; expect_out 'undetermined from 0.40 to 0.60'
for f in dte-fdm mflm vision; do expect_file calibrated/$f.gguf; done
expect_nothing_half calibrated
run detect -m bundle --json --no-times --verdict-only --no-files data/photoshop/S_Tp/image/t10.bmp
expect_code 0; expect_not_out calibration
before=$(score)
run detect -m calibrated --json --no-times --verdict-only --no-files data/photoshop/S_Tp/image/t10.bmp
expect_code 0; expect_out "\"raw_score\":$before"; expect_out '"method":"platt","pictures":24,"ece_before":[0-9.e-]*,"ece_after":0\.[0-9]*}'; expect_out '"undetermined_from":0.4'; expect_out '"verdict":"tampered"'
pass; [ "$(score)" != "$before" ] || fail "the score is as before: $before"
run detect -m calibrated --verdict-only --no-files data/photoshop/S_Tp/image/t10.bmp
expect_code 0
expect_out 'calibrated from 1.000 (platt on 24 pictures, calibration error 0\.[0-9]* before, 0\.[0-9]* after); undetermined between 0.40 and 0.60'

begin "the band"
run calibrate -m bundle --eval val -o open --band 0.5
expect_code 0; expect_out '100.0 % of them'
run detect -m open --no-files data/photoshop/S_Tp/image/t10.bmp
expect_code 0; expect_out 'verdict *undetermined'; expect_out 'tampered with'
run detect -m open --verdict-only --json --no-files data/photoshop/S_Tp/image/t10.bmp
expect_code 0; expect_out '"verdict":"undetermined"'

begin "kept by requantize, and by --resume"
run requantize calibrated --type q8_0 -q -o small
expect_code 0
run detect -m small -o kept --max-new-tokens 4 data/photoshop/S_Tp/image/t10.bmp
expect_code 0; expect_out 'calibrated from'
cp kept/t10.json first.json
run detect -m small -o kept --max-new-tokens 4 --resume data/photoshop/S_Tp/image/t10.bmp
expect_code 0; expect_same kept/t10.json first.json

begin "once more"
run calibrate -m calibrated --eval val -o again
expect_code 8; expect_one_error 'an evaluation of another model'
run eval data -m calibrated --verdict-only --resamples 0 -o val2
expect_code 0; expect_out 'score: calibrated, method platt, on 24 pictures; expected calibration error there 0\.[0-9]* before, 0\.[0-9]* after; undetermined between 0.40 and 0.60$'
said=$(sed -n 's/^score: //p' out)
pass; [ "$(grep -o "$said" val2/report.html | wc -l)" -eq 2 ] || fail "the report does not say how the score was calibrated"
for f in run.json summary.json; do pass; grep -q '"method": "platt"' val2/$f || fail "$f lacks the method"; done
run eval merge val2 -o val3 --resamples 0 # read back
expect_code 0; expect_out "$said"; expect_same val3/run.json val2/run.json
sed 's/"method": "platt"/"method": "guess"/' val2/run.json >run.json; cp run.json val2/run.json
run eval merge val2 -o val4; expect_code 5; expect_one_error 'calibration.method: "guess"'
cp val3/run.json val2/run.json
sed -e '/"ece_after"/d' -e '/"pictures"/d' -e '/"method"/d' -e 's/\("ece_before": \).*/\1null,/' val3/run.json >val2/run.json
run eval merge val2 -o val4 --resamples 0 # a bundle that does not say
expect_code 0; expect_out 'score: calibrated, method not recorded; undetermined between 0.40 and 0.60$'
cp val3/run.json val2/run.json
run eval data -m bundle --verdict-only --resamples 0 --no-html -o val7
expect_code 0; expect_out '^score: not calibrated'; pass; grep -q '"calibration": null' val7/run.json || fail "run.json does not say that the score is not calibrated"
run calibrate -m calibrated --eval val2 -o again
expect_code 0; expect_file again/dte-fdm.gguf

begin "refused"
run calibrate -m bundle --eval val -o bundle
expect_code 2; expect_one_error 'another folder'
run calibrate -m bundle --eval nowhere -o x
expect_code 3
run calibrate -m "$TINY" --eval val -o x
expect_code 3; expect_one_error 'bundle'
run calibrate -m bundle -o x
expect_code 2; expect_one_error 'give --eval'
run calibrate -m bundle --eval val -o x --band 0.7
expect_code 2; expect_one_error 'band'
run eval data -m bundle --sets 'photoshop|S_Tp' --verdict-only --resamples 0 --no-html -q -o half
run calibrate -m bundle --eval half -o x
expect_code 2; expect_one_error '0 authentic'
expect_no_file x
finish

# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# eval --sheet: which pictures are on the contact sheet, how large it is, what is drawn, what is refused.
. "$ROOT/tests/cli/lib.sh"

# Three forged pictures whose upper half is tampered, two authentic ones; 64 x 48 pixels become 360 x 270.
mkdir -p data/photoshop/S_Tp/image data/photoshop/S_Tp/mask data/photoshop/S_Au/image maps
for k in 1 2 3; do
    bmp data/photoshop/S_Tp/image/t$k.bmp 64 48 2$k 60
    bmp data/photoshop/S_Tp/mask/t$k.bmp 64 48 0 255
done
bmp data/photoshop/S_Au/image/a1.bmp 64 48 235 200
bmp data/photoshop/S_Au/image/a2.bmp 64 48 236 200
bmp maps/t1.bmp 64 48 0 255
bmp maps/t2.bmp 64 48 255 255
bmp maps/t3.bmp 64 48 255 0
bmp maps/a2.bmp 64 48 0 255

# size_of PNG: "WIDTH HEIGHT", of its header
size_of() { od -An -tu1 -j16 -N8 "$1" | awk '{ print ($1 * 256 + $2) * 65536 + $3 * 256 + $4, ($5 * 256 + $6) * 65536 + $7 * 256 + $8 }'; }
expect_size() { pass; [ "$(size_of "$1")" = "$2" ] || fail "$1 has $(size_of "$1") pixels, expected $2"; }
width=1524 # 2 x 24 + 4 x 360 + 3 x 12; a picture adds 38 + its height + 14 to the 84 of the head

begin "as many as asked for"
run eval data --maps maps --image-score max -o o2 --resamples 0 --no-html --sheet 2
expect_code 0; expect_no_error
expect_out '^The contact sheet is o2/sheet.png$'
expect_size o2/sheet.png "$width $((84 + 2 * 322))"
expect_no_file o2/report.html
expect_nothing_half o2
run eval data --maps maps --image-score max -o again --resamples 0 --no-html --sheet 2 -q
expect_no_output; expect_same again/sheet.png o2/sheet.png

begin "no more than there are"
run eval data --maps maps --image-score max -o o100 --resamples 0 --no-html --sheet 100
expect_code 0; expect_size o100/sheet.png "$width $((84 + 5 * 322))"
run eval data --maps maps --image-score max -o none --resamples 0 --no-html
expect_code 0; expect_no_file none/sheet.png; expect_not_out 'contact sheet'

begin "both classes"
run eval data --maps maps --image-score max -o one --resamples 0 --no-html --sheet 1 -q
bmp data/photoshop/S_Au/image/a1.bmp 64 48 10 20 # the first of five
run eval data --maps maps --image-score max -o one-first --resamples 0 --no-html --sheet 1 -q
pass; ! cmp -s one/sheet.png one-first/sheet.png || fail "another first picture, the same sheet"
run eval data --maps maps --image-score max -o o2-first --resamples 0 --no-html --sheet 2 -q
bmp maps/t1.bmp 64 48 255 255 # the third, which is the second of two
run eval data --maps maps --image-score max -o o2-third --resamples 0 --no-html --sheet 2 -q
pass; ! cmp -s o2-first/sheet.png o2-third/sheet.png || fail "another map of the third picture, the same sheet"
bmp maps/t3.bmp 64 48 0 0 # the last one is not on it
run eval data --maps maps --image-score max -o o2-last --resamples 0 --no-html --sheet 2 -q
expect_same o2-last/sheet.png o2-third/sheet.png

begin "proportions, and a picture that is gone"
bmp data/photoshop/S_Tp/image/t1.bmp 30 60 20 60
bmp data/photoshop/S_Tp/mask/t1.bmp 30 60 0 255
bmp maps/t1.bmp 30 60 0 255
run eval data --maps maps --image-score max -o tall --resamples 0 --no-html --sheet 5
expect_code 0; expect_size tall/sheet.png "$width $((84 + 4 * 322 + 38 + 360 + 14))"
mv data/photoshop/S_Au/image/a2.bmp away
run eval merge tall -o made-anew --resamples 0 --no-html --sheet 5
expect_code 0; expect_size made-anew/sheet.png "$width $((84 + 3 * 322 + 38 + 360 + 14 + 38 + 48 + 14))"
mv away data/photoshop/S_Au/image/a2.bmp

begin "parts"
for i in 1 2; do run eval data --maps maps --image-score max -o "p$i" --shard $i/2 -q --resamples 0 --no-html; expect_code 0; done
run eval merge p1 p2 -o joined --resamples 0 --no-html --sheet 5
expect_code 0; expect_out '^The contact sheet is joined/sheet.png$'; expect_same joined/sheet.png tall/sheet.png

begin "a few pictures come before the figures of the report, and every one of them"
run eval data --maps maps --image-score max -o few --resamples 0
expect_code 0
pass; [ "$(grep -c '<article>' few/report.html)" -eq 5 ] || fail "$(grep -c '<article>' few/report.html) cards, expected 5"
pass; [ "$(grep -n -m 1 'Single pictures' few/report.html | cut -d: -f1)" -lt "$(grep -n -m 1 'Detection in full' few/report.html | cut -d: -f1)" ] ||
    fail "the figures come first"
run eval data --maps maps --image-score max -o many --resamples 0 --gallery 2
pass; [ "$(grep -o '<h3>Best localized\|<h3>Worst localized\|<h3>Forgeries missed\|<h3>False alarms\|<h3>Left alone' many/report.html | cut -c5- | tr '\n' ,)" = \
    "Best localized,Worst localized,Forgeries missed,False alarms," ] || fail "albums: $(grep -o '<h3>[A-Za-z ]*' many/report.html | tr '\n' ' ')"

printf 't1,0.9\nt2,0.8\nt3,0.2\na1,0.3\na2,0.1\n' >scores.csv
run eval data --scores scores.csv -o scored --resamples 0 --gallery 2 --sheet 5
expect_code 0 # no maps at all
pass; grep -q '<h3>Left alone <small>2 of 2</small>' scored/report.html || fail "authentic pictures called authentic are not shown"

begin "a verdict that is left open is neither right nor wrong"
run detect -m "$TINY" -o results --soft-mask -q data/photoshop/S_Tp/image/t2.bmp data/photoshop/S_Au/image/a2.bmp
mkdir -p two/photoshop; cp -r data/photoshop/S_Tp data/photoshop/S_Au two/photoshop
for f in S_Tp/image/t1.bmp S_Tp/mask/t1.bmp S_Tp/image/t3.bmp S_Tp/mask/t3.bmp S_Au/image/a1.bmp; do rm "two/photoshop/$f"; done
run eval two --results results -o called --resamples 0 --sheet 2
expect_code 0
pass; grep -q 'called <b>tampered</b> &#1000[37];' called/report.html || fail "no verdict that is right or wrong"
sed -i 's/"verdict": "[a-z]*"/"verdict": "undetermined"/' results/*.json
run eval two --results results -o open --resamples 0 --sheet 2
expect_code 0
pass; [ "$(grep -o 'called <b>[a-z]*</b>[^<]' open/report.html | wc -l)" -eq 0 ] && grep -q 'called <b>undetermined</b><' open/report.html || fail "open verdicts are judged"
pass; ! cmp -s called/sheet.png open/sheet.png || fail "the sheet says the same"
run eval merge open -o open2 --resamples 0 --sheet 2
expect_same open2/sheet.png open/sheet.png; expect_same open2/report.html open/report.html

begin "refused"
for bad in 0 101 -3 two 2.5; do
    run eval data --maps maps -o u1 --sheet=$bad
    expect_code 2; expect_one_error 'sheet'
done
expect_no_file u1
run eval compare tall few --sheet 3
expect_code 2; expect_one_error 'unknown option.*sheet'
finish

# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# scripts/demo.sh: a photograph and a forgery made from it, examined, evaluated and shown side by side; which model it takes.
. "$ROOT/tests/cli/lib.sh"
photo=$ROOT/tests/golden/e2e_wide.png
demo() { run_as env OUT="$1" sh "$ROOT/scripts/demo.sh" "$FAKESHIELD" "$2"; }

begin "without a trained model"
demo d1 "$photo" # the tests' FAKESHIELD_MODEL is empty: no demonstration model
expect_code 0
expect_out 'models/tiny, a toy with random weights'
for f in report/report.html report/sheet.png results/photograph.json results/photograph_overlay.png results/forgery.json \
    pictures/photoshop/splice/mask/forgery.png forged/manifest.csv; do
    expect_file "d1/$f"
done
expect_same d1/pictures/photoshop/photograph/image/photograph.png "$photo"
pass; [ "$(tail -n 4 out | cut -c1-14 | tr '\n' '|')" = 'photograph    |forgery       |side by side  |report        |' ] || fail "the end: $(tail -n 4 out)"
pass; tail -n 4 out | head -n 2 | grep -c '^[a-z]* *\(tampered\|authentic\|undetermined\) *score [01]\.[0-9]*' | grep -q 2 || fail "the verdicts: $(tail -n 4 out)"
pass; grep -q '"pictures": 2, *$' d1/report/summary.json || fail "not two pictures"

begin "run again: the same, and nothing of the former run counted in"
cp d1/pictures/photoshop/splice/image/forgery.jpg forgery
cp d1/report/sheet.png sheet
demo d1 "$photo"
expect_code 0
expect_same d1/pictures/photoshop/splice/image/forgery.jpg forgery; expect_same d1/report/sheet.png sheet
run_as env OUT=d1 SEED=7 sh "$ROOT/scripts/demo.sh" "$FAKESHIELD" "$photo"
expect_code 0
pass; ! cmp -s d1/pictures/photoshop/splice/image/forgery.jpg forgery || fail "another seed, the same forgery"
pass; grep -q '"pictures": 2, *$' d1/report/summary.json || fail "not two pictures"

begin "a model given"
run_as env OUT=d2 MODEL="$TINY" sh "$ROOT/scripts/demo.sh" "$FAKESHIELD" "$photo"
expect_code 0; expect_out "detect -m $TINY "
run_as env OUT=d3 FAKESHIELD_MODEL="$TINY" sh "$ROOT/scripts/demo.sh" "$FAKESHIELD" "$photo"
expect_code 0; expect_not_out 'detect -m'; expect_not_out 'a toy'

begin "no such picture"
demo d4 nowhere.jpg
expect_failure; expect_err 'nowhere.jpg is not there'; expect_no_file d4
finish

# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# --resume: complete results are kept as they are, partial ones finished, others done anew.
. "$ROOT/tests/cli/lib.sh"
mkdir in
dark in/a.bmp; bmp in/b.bmp 48 64 30 70; bright in/c.bmp
go() { run detect -m "$TINY" -o res --resume "$@" in; }

begin "nothing there yet"
go
expect_code 0
cp -r res first

begin "all complete: nothing is computed, the report is the same"
go
expect_code 0; expect_out 'kept from an earlier run'; expect_out '^3 pictures: 2 tampered, 1 authentic, 0 undetermined (3 kept'
for f in first/*; do expect_same "res/$(basename "$f")" "$f"; done

begin "kept results in --json are the same bytes"
run detect -m "$TINY" -o fresh --json --no-times in
sed 's:fresh/:R/:g' out >want
run detect -m "$TINY" -o res --resume --json --no-times in
expect_code 0
sed 's:res/:R/:g' out >got
expect_same got want

begin "a partial result is finished, not begun again"
sed -e 's/"status": "present"/"status": "none"/' -e 's/"path": "[^"]*"/"path": null/' -e 's/"overlay_path": "[^"]*"/"overlay_path": null/' \
    -e 's/tampered with/TAMPERED WITH/' first/a.json >res/a.json
rm res/a_mask.png res/a_overlay.png
go
expect_code 0; expect_file res/a_mask.png; expect_file res/a_overlay.png
expect_out '(2 kept from an earlier run)'
pass; grep -q 'TAMPERED WITH' res/a.json || fail "stage 1 ran again"
pass; grep -q '"status": "present"' res/a.json || fail "still pending"

begin "a mask that is gone"
cp first/* res/
rm res/b_mask.png
go
expect_code 0; expect_same res/b_mask.png first/b_mask.png; expect_out '(2 kept'

begin "another picture under the same name"
bmp in/b.bmp 48 64 31 71
go
expect_code 0; expect_out '(2 kept'
pass; grep -q "$(sha256sum in/b.bmp | cut -c1-64)" res/b.json || fail "the old result is still there"

begin "other settings"
go --max-new-tokens 900
expect_code 0; expect_not_out 'kept from'
pass; grep -q '"max_new_tokens": 900' res/a.json || fail "the old result is still there"

begin "a result that is no JSON"
echo 'broken' >res/a.json
go --max-new-tokens 900
expect_code 0; expect_out '(2 kept'
pass; grep -q '"max_new_tokens": 900' res/a.json || fail "not done anew"

begin "a result of localize, to somebody's description"
go; expect_code 0
run localize -m "$TINY" --text '1. The picture has been tampered with.' -o res -q in/a.bmp
expect_code 0
pass; grep -q '"score": null' res/a.json || fail "a score out of nothing"
go
expect_code 0; expect_out '(2 kept'
pass; ! grep -q '"score": null' res/a.json || fail "localize's result was kept as detect's"
finish

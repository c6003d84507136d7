# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# Pictures that are broken, odd or missing: one clear line and the right exit code, never a crash; the batch goes on.
. "$ROOT/tests/cli/lib.sh"
dark good.bmp
go() { run detect -m "$TINY" -o res "$@"; }

begin "missing"
go nothere.bmp
expect_code 3; expect_no_output; expect_one_error 'nothere.bmp: No such file'

begin "empty"
: >empty.jpg
go empty.jpg
expect_code 5; expect_err 'empty.jpg'; expect_no_file res/empty.json
pass; [ "$(wc -l <err)" -eq 1 ] || fail "more than one line"

begin "no picture at all"
echo "hello, I am text" >text.png
go text.png
expect_failure; expect_no_output; expect_one_error 'text.png'; expect_no_file res/text.json

begin "a picture that ends early"
head -c 2000 good.bmp >short.bmp
go short.bmp
expect_code 5; expect_one_error 'short.bmp'

begin "a header that promises a bomb"
{ head -c 18 good.bmp; little 4 100000; little 4 100000; tail -c +27 good.bmp; } >bomb.bmp
go bomb.bmp
expect_failure; expect_one_error 'bomb.bmp'

begin "a device"
go /dev/null
expect_failure; expect_one_error '/dev/null'

begin "one pixel"
bmp dot.bmp 1 1 40
go --json dot.bmp
expect_code 0; expect_out '"width":1,"height":1'

begin "30,000 pixels wide"
bmp wide.bmp 30000 8 20 60
go --json wide.bmp
expect_code 0; expect_out '"width":30000,"height":8'; expect_file res/wide_mask.png

begin "one bad of three: the others are done, the exit code says so"
rm -rf res
go -q good.bmp empty.jpg dot.bmp
expect_code 1; expect_one_error 'empty.jpg'
pass; [ "$(wc -l <out)" -eq 2 ] || fail "not two results"
expect_file res/good.json; expect_file res/dot.json; expect_no_file res/empty.json
go good.bmp empty.jpg dot.bmp nothere.bmp
expect_code 1; expect_out '^4 pictures: .* 2 failed'
expect_nothing_half res
finish

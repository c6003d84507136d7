# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# convert, verify, and running from a bundle.
. "$ROOT/tests/cli/lib.sh"

begin "a bundle is written, verified, described and run"
run convert "$TINY" --type q8_0 -o bundle
expect_code 0; expect_no_error; expect_out 'detect -m bundle'
run verify bundle bundle/vision.gguf
expect_code 0; expect_no_error
run info bundle
expect_code 0; expect_no_error
for word in dte-fdm.gguf mflm.gguf vision.gguf 'language model' 'SAM image encoder' Q8_0; do expect_out "$word"; done
run detect -m bundle --no-files "$ROOT/tests/golden/e2e_wide.png"
expect_code 0; expect_no_error; expect_out 'tampered'

cp out plain
run detect -m bundle --mlock --prefetch --no-files "$ROOT/tests/golden/e2e_wide.png"
expect_code 0; expect_same out plain
run detect -m "$TINY" --mlock --prefetch --no-files "$ROOT/tests/golden/e2e_wide.png"
expect_code 0; expect_out 'tampered'

begin "a limit on locked memory is a warning"
run_as sh -c 'ulimit -l 0 && exec "$FAKESHIELD" detect -m bundle --mlock --no-files --verdict-only "$ROOT/tests/golden/e2e_wide.png"'
expect_code 0; expect_out 'tampered'

begin "flipped bytes are found"
cp -r bundle broken
printf 'X' | dd of=broken/mflm.gguf bs=1 seek=200000 conv=notrunc 2>/dev/null
run verify broken
expect_code 5; expect_one_error 'mflm.gguf'
head -c 100000 bundle/dte-fdm.gguf >broken/dte-fdm.gguf
run detect -m broken --no-files "$ROOT/tests/golden/e2e_wide.png"
expect_failure; expect_one_error 'dte-fdm.gguf'

begin "another type of a bundle; a finished one is kept"
run requantize bundle --type q4_0 -o smaller
expect_code 0; expect_out 'detect -m smaller'; expect_err 'rounded once already'
run verify smaller
expect_code 0; expect_no_error
run detect -m smaller --no-files --verdict-only "$ROOT/tests/golden/e2e_wide.png"
expect_code 0
run requantize bundle --type q4_0 -o smaller -v
expect_code 0; expect_err 'vision.gguf: finished already'
run requantize bundle --type f16 -o other
expect_code 2; expect_one_error 'lost stays lost'
run requantize bundle
expect_code 2; expect_one_error '-o'
run requantize "$TINY" -o other
expect_code 3; expect_one_error 'holds none of'

begin "Ctrl-C in a conversion"
rm -rf stopped
env --default-signal=INT "$FAKESHIELD" convert "$TINY" --type f32 -o stopped -t 1 >out 2>err </dev/null &
pid=$!
until [ -e stopped/dte-fdm.gguf.partial ] || [ -e stopped/dte-fdm.gguf ] || ! kill -0 $pid 2>/dev/null; do :; done
kill -INT $pid 2>/dev/null || true
code=0
wait $pid || code=$?
pass; [ "$code" -eq 130 ] || [ "$code" -eq 0 ] || fail "exit code $code"
pass; [ -z "$(find stopped -name '*.partial' 2>/dev/null)" ] || fail "half a file is left"
run convert "$TINY" --type f32 -o stopped
expect_code 0; expect_no_error

begin "what makes no sense"
run convert "$TINY"
expect_code 2; expect_one_error '-o'
run convert "$TINY" --type q9 -o other
expect_code 2; expect_one_error 'q9'
pass; [ ! -e other/vision.gguf ] || fail "something was written"
run convert nowhere -o other
expect_code 3; expect_one_error 'nowhere'
run verify
expect_code 2; expect_one_error 'bundle'
run verify "$TINY/DTG.pth"
expect_failure; expect_one_error 'DTG.pth'
finish

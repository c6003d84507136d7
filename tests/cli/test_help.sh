# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# Help and version: what they print, and that it fits a screen.
. "$ROOT/tests/cli/lib.sh"

fits() { # lines (at most $1, or a screen) and columns of ./out
    pass
    [ "$(wc -l <out)" -le "${1:-40}" ] || fail "$(wc -l <out) lines"
    [ "$(wc -L <out)" -le 100 ] || fail "$(wc -L <out) columns"
    expect_out '^Example: fakeshield '
}

begin "main help"
run --help
expect_code 0; expect_no_error; fits; expect_golden help_main
cp out main
for form in help -h; do
    run $form
    expect_code 0; expect_same out main
done

for command in detect explain localize info convert requantize verify merge pull dataset eval calibrate train synth bench; do
    begin "help of $command"
    run $command --help
    lines=40
    [ $command != train ] || lines=64 # an option for every setting, and what each recipe has it at
    expect_code 0; expect_no_error; fits $lines; expect_golden "help_$command"
    cp out this
    run help $command
    expect_code 0; expect_same out this
    run $command -h some.jpg
    expect_code 0; expect_same out this
    grep -q "^  $command " main || fail "main help does not name it"
done

begin "version"
run version
expect_code 0; expect_no_error; expect_out '^fakeshield [0-9]*\.[0-9]*\.[0-9]*$'
cp out this
run --version
expect_same out this

begin "help of nothing"
run help frobnicate
expect_code 2; expect_one_error 'unknown command "frobnicate"'

begin "full standard output"
run_as sh -c '"$FAKESHIELD" --help >/dev/full'
expect_code 4; expect_one_error 'No space left'
finish

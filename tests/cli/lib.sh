# Helpers of the command-line tests; sourced by every test_*.sh. Each test script gets FAKESHIELD (the program), ROOT (the project) and runs
# in an empty folder of its own. `run` executes and captures; the expect_* functions compare and count.
# shellcheck shell=sh disable=SC2034,SC2154

TINY=$ROOT/models/tiny
HERE=$ROOT/tests/cli
checks=0
failures=0
what="(start)"
code=

fail() {
    failures=$((failures + 1))
    echo "FAILED: $script: $what: $*"
    echo "--- exit code $code; standard output (head):"
    head -n 12 out 2>/dev/null
    echo "--- standard error (head):"
    head -n 12 err 2>/dev/null
    echo "---"
}
pass() { checks=$((checks + 1)); }

# case "what is tested"
begin() { what=$1; }

# run ARGS...: the program; results in ./out, ./err, $code
run() {
    code=0
    "$FAKESHIELD" "$@" >out 2>err </dev/null || code=$?
}
# run_as COMMAND...: any command
run_as() {
    code=0
    "$@" >out 2>err </dev/null || code=$?
}

expect_code() { pass; [ "$code" -eq "$1" ] || fail "exit code $code, expected $1"; }
expect_failure() { pass; [ "$code" -ne 0 ] || fail "exit code 0, expected a failure"; }
expect_no_output() { pass; [ ! -s out ] || fail "standard output is not empty"; }
expect_no_error() { pass; [ ! -s err ] || fail "standard error is not empty"; }
expect_out() { pass; grep -q -e "$1" out || fail "standard output lacks: $1"; }
expect_not_out() { pass; ! grep -q -e "$1" out || fail "standard output has: $1"; }
expect_err() { pass; grep -q -e "$1" err || fail "standard error lacks: $1"; }
# One line on standard error, of this pattern; the sanitizers would add lines.
expect_one_error() {
    pass
    [ "$(wc -l <err)" -eq 1 ] || fail "standard error has $(wc -l <err) lines, expected 1"
    grep -q -e '^fakeshield: ' err || fail "standard error does not begin with fakeshield:"
    grep -q -e "$1" err || fail "standard error lacks: $1"
}
# expect_same FILE EXPECTED
expect_same() { pass; cmp -s "$1" "$2" || { fail "$1 and $2 differ"; diff "$1" "$2" | head -n 20; }; }
expect_file() { pass; [ -s "$1" ] || fail "$1 is missing or empty"; }
expect_no_file() { pass; [ ! -e "$1" ] || fail "$1 is there"; }
# Nothing temporary, and every JSON whole.
expect_nothing_half() {
    pass
    left=$(find "$1" -name "*.tmp*" -o -name "*.part" -o -name "*.probe*" 2>/dev/null || :) # a folder that nothing came into is gone
    [ -z "$left" ] || fail "left behind: $left"
    for json in "$1"/*.json; do
        [ -e "$json" ] || continue
        [ "$(tail -n 1 "$json")" = "}" ] || fail "$json is not whole"
    done
}
# expect_golden NAME: ./out against expected/NAME.txt (written anew with UPDATE=1)
expect_golden() {
    pass
    if [ -n "${UPDATE:-}" ]; then
        cp out "$HERE/expected/$1.txt"
    else
        cmp -s out "$HERE/expected/$1.txt" || { fail "differs from expected/$1.txt"; diff out "$HERE/expected/$1.txt" | head -n 20; }
    fi
}
skip() { echo "SKIPPED: $script: $what: $*"; }

# little FORMAT-BYTES NUMBER: little-endian bytes
little() {
    n=$2
    i=0
    while [ "$i" -lt "$1" ]; do
        # shellcheck disable=SC2059 # the format is made here
        printf "\\$(printf '%03o' $((n % 256)))"
        n=$((n / 256))
        i=$((i + 1))
    done
}
# bmp FILE WIDTH HEIGHT LEVEL [LEVEL2]: a grey picture; with LEVEL2 the upper half has that level. 24 bits, rows padded to 4 bytes.
bmp() {
    stride=$((($2 * 3 + 3) / 4 * 4))
    size=$((stride * $3))
    lower=$((($3 + 1) / 2 * stride))
    {
        printf 'BM'
        little 4 $((54 + size)); little 4 0; little 4 54
        little 4 40; little 4 "$2"; little 4 "$3"; little 2 1; little 2 24
        little 4 0; little 4 "$size"; little 4 2835; little 4 2835; little 4 0; little 4 0
        head -c "$lower" /dev/zero | tr '\0' "\\$(printf '%03o' "$4")"
        head -c $((size - lower)) /dev/zero | tr '\0' "\\$(printf '%03o' "${5:-$4}")"
    } >"$1"
}
dark() { bmp "$1" 64 48 20 60; }    # the tiny checkpoint calls dark pictures tampered
bright() { bmp "$1" 64 48 235 200; } # and bright ones authentic
# copy_tiny DIR: a checkpoint to spoil; CLIP comes along because the configs name it relative to the checkpoint
copy_tiny() { cp -r "$TINY" "$1" && chmod -R u+w "$1"; }

finish() {
    echo "$script: $checks checks, $failures failed"
    [ "$failures" -eq 0 ]
}

# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# Output that cannot be written: one line, exit code 4, nothing half-written.
. "$ROOT/tests/cli/lib.sh"
dark a.bmp
bmp big.bmp 900 700 20 60

begin "a file where the folder should be"
: >file
run detect -m "$TINY" -o file a.bmp
expect_code 4; expect_one_error 'file'
run detect -m "$TINY" -o file/sub a.bmp
expect_code 4; expect_one_error 'file/sub: cannot make this output folder'

begin "a folder for nothing does not stay, one that was there does"
mkdir there nothing
run detect -m nothing -o new a.bmp
expect_failure; expect_no_file new
run localize -m nothing --text tampered -o new a.bmp
expect_failure; expect_no_file new
run detect -m nothing -o there a.bmp
expect_failure; expect_file there/.

begin "a folder that takes no files"
run detect -m "$TINY" -o /proc/self/fdinfo a.bmp
expect_code 4; expect_one_error '/proc/self/fdinfo'
if [ "$(id -u)" -ne 0 ]; then
    mkdir locked && chmod 555 locked
    run detect -m "$TINY" -o locked a.bmp
    expect_code 4; expect_one_error 'locked: cannot write to this output folder: Permission denied'
else
    skip "a folder without write permission: root may write everywhere"
fi

begin "a full disk"
mkdir disk
if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=16k tmpfs disk 2>/dev/null; then
    head -c 14000 /dev/zero >disk/ballast
    run detect -m "$TINY" -o disk/res big.bmp
    expect_code 4; expect_one_error 'disk/res.*No space left'
    expect_nothing_half disk/res
    umount disk
else
    skip "a small tmpfs cannot be mounted here"
fi

if [ -n "${FS_TEST_NO_LIMITS:-}" ]; then # the files of coverage and ThreadSanitizer would be cut with the rest
    begin "files may not grow"
    skip "FS_TEST_NO_LIMITS is set"
    finish
    exit
fi

begin "files may not grow: the JSON does not fit"
run_as sh -c 'ulimit -f 1; exec "$FAKESHIELD" detect -m "$1" -o r1 a.bmp' sh "$TINY"
expect_code 4; expect_err 'fakeshield: r1/a.json: writing failed: File too large'
expect_no_file r1/a.json; expect_nothing_half r1

begin "files may not grow: the overlay does not fit"
run_as sh -c 'ulimit -f 12; exec "$FAKESHIELD" detect -m "$1" -o r2 big.bmp' sh "$TINY"
if [ "$code" -eq 0 ]; then
    skip "the overlay is small enough"
else
    expect_code 4; expect_nothing_half r2; expect_no_file r2/big_overlay.png
    pass; grep -q '"status": "none"' r2/big.json || fail "the JSON speaks of a mask that was not written whole"
fi

begin "explain: FILE is as it was"
echo "old" >rec.jsonl
run_as sh -c 'ulimit -f 1; exec "$FAKESHIELD" explain -q -m "$1" -o rec.jsonl a.bmp a.bmp a.bmp' sh "$TINY"
expect_code 4; expect_one_error 'rec.jsonl'
pass; [ "$(cat rec.jsonl)" = old ] || fail "the old file is gone"
expect_no_file rec.jsonl.part
finish

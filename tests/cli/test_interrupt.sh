# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# Ctrl-C and SIGTERM: the run stops soon, what is there is whole, --resume goes on. No clock is asked: the signal is sent when the first
# result is there, and hundreds are still to come.
. "$ROOT/tests/cli/lib.sh"
dark a.bmp
i=0
while [ $i -lt 400 ]; do
    echo a.bmp
    i=$((i + 1))
done >many.txt

stop() { # signal, expected exit code
    rm -rf res
    # a shell without job control starts background jobs with SIGINT ignored; env undoes that
    env --default-signal=INT,TERM "$FAKESHIELD" detect -m "$TINY" -q -o res --list many.txt >out 2>err </dev/null &
    pid=$!
    until [ -e res/a-3.json ] || ! kill -0 $pid 2>/dev/null; do sleep 0.02; done
    kill "-$1" $pid
    code=0
    wait $pid || code=$?
    expect_code "$2"
    expect_err 'interrupted; nothing is half-written, and --resume goes on from here'
    expect_nothing_half res
    n=$(find res -name '*.json' | wc -l)
    pass; [ "$n" -ge 1 ] && [ "$n" -lt 400 ] || fail "$n results"
}
begin "SIGINT"
stop INT 130
begin "SIGTERM"
stop TERM 143

begin "resume after it"
head -n 4 many.txt >few.txt
run detect -m "$TINY" -o res --resume --list few.txt
expect_code 0; expect_out '^4 pictures: 4 tampered'
expect_nothing_half res

begin "explain keeps whole records"
env --default-signal=INT,TERM "$FAKESHIELD" explain -m "$TINY" -q -o rec.jsonl --list many.txt >out 2>err </dev/null &
pid=$!
until [ -s rec.jsonl.part ] || ! kill -0 $pid 2>/dev/null; do sleep 0.02; done
kill -INT $pid
code=0
wait $pid || code=$?
expect_code 130; expect_err 'interrupted after [0-9]* of 400 records'
expect_no_file rec.jsonl.part; expect_file rec.jsonl
pass; [ "$(grep -c -v '^{"image": "a.bmp", "outputs": ".*"}$' rec.jsonl)" -eq 0 ] || fail "a record is not whole"
finish

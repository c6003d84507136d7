# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# Options that make no sense: one line that says what, exit code 2, nothing on standard output.
. "$ROOT/tests/cli/lib.sh"
dark a.bmp

bad() { # pattern, arguments
    pattern=$1
    shift
    begin "$*"
    run "$@"
    expect_code 2; expect_no_output; expect_one_error "$pattern"
}

bad 'no command given'
bad 'unknown command "detcet"; did you mean detect?' detcet
bad 'to examine a picture: fakeshield detect' photo.jpg
bad 'unknown option --threds; did you mean --threads?' detect --threds 3 a.bmp
bad 'unknown option --seeds; did you mean --seed?' detect --seeds=3 a.bmp
bad 'unknown option --zebra (see' detect --zebra a.bmp
bad 'unknown option -x in "-x"' detect -x a.bmp
bad 'did you mean --verdict-only?' detect --verdict a.bmp
bad '"4x" is not a whole number from 0 to 1024' detect -t 4x a.bmp
bad '"" is not a whole number' detect --threads= a.bmp
bad '" 4" is not a whole number' detect -t ' 4' a.bmp
bad '"-1" is not a whole number' detect -t-1 a.bmp
bad '"99999999999999999999" is not a whole number' detect -t 99999999999999999999 a.bmp
bad '"0x10" is not a whole number' detect --seed 0x10 a.bmp
bad '"-5" is not a whole number' detect --seed -5 a.bmp
bad '"9223372036854775808" is not a whole number' detect --seed 9223372036854775808 a.bmp
bad '"nan" is not a number' detect --sample --temperature nan a.bmp
bad '"0.2.1" is not a number' detect --sample --temperature 0.2.1 a.bmp
bad '"1.5" is not a number from 0 to 1' detect --sample --top-p 1.5 a.bmp
bad '"f8" is none of f32, bf16, f16, upstream' detect --precision f8 a.bmp
bad '"tset" is none of test, demo' detect --prompt tset a.bmp
bad '"3" is not a whole number from -1 to 2' detect --question-index 3 a.bmp
bad '--threads needs a value' detect a.bmp --threads
bad '-m needs a value' detect a.bmp -m
bad '--resume takes no value' detect --resume=yes a.bmp
bad '--model: an empty value' detect --model= a.bmp
bad '--temperature needs --sample' detect --temperature 0.5 a.bmp
bad '--quiet and --verbose contradict' detect -qv a.bmp
bad '--no-files and --resume contradict' detect --no-files --resume a.bmp
bad '--no-files and --out contradict' detect --no-files -o x a.bmp
bad 'no picture given' detect -m "$TINY"
bad 'no model: give the checkpoint directory with -m DIR or in FAKESHIELD_MODEL' detect -o o1 a.bmp
bad 'no picture given' explain -m "$TINY"
bad '--questions names the pictures itself' explain -m "$TINY" --questions q.jsonl a.bmp
bad '--upstream-cli writes one record, but there are 2 pictures' explain -m "$TINY" --upstream-cli a.bmp a.bmp
bad 'either --from FILE or --text TEXT' localize -m "$TINY"
bad 'either --from FILE or --text TEXT' localize -m "$TINY" --from x --text y a.bmp
bad 'exactly one IMAGE' localize -m "$TINY" --text y
bad '"1,2,3" is not x0,y0,x1,y1' localize -m "$TINY" --text y --box 1,2,3 a.bmp
bad '"1,2,3,4,5" is not x0,y0,x1,y1' localize -m "$TINY" --text y --box 1,2,3,4,5 a.bmp
bad '"5,2,3,4" is not x0,y0,x1,y1' localize -m "$TINY" --text y --box 5,2,3,4 a.bmp
bad '"1,2,3,nan" is not x0,y0,x1,y1' localize -m "$TINY" --text y --box 1,2,3,nan a.bmp
bad 'no path given' info
finish

# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# dataset check, questions: trees made of small pictures; the question file against the original's own generator
# (tools/reference/make_questions_golden.py).
. "$ROOT/tests/cli/lib.sh"

# white FILE WIDTH HEIGHT: a mask whose upper half is marked
mask() { bmp "$1" "$2" "$3" 0 255; }
set_of() { mkdir -p "$1/image" "$1/mask"; }

begin "help"
for command in check questions convert describe places; do
    run dataset $command --help
    expect_code 0; expect_no_error; expect_golden "help_dataset_$command"
    pass; [ "$(wc -L <out)" -le 100 ] || fail "$(wc -L <out) columns"
done

begin "words"
run dataset check
expect_code 2; expect_one_error 'the folder of one data set'
run dataset check a b
expect_code 2; expect_one_error 'the folder of one data set'
run dataset check none
expect_code 3; expect_one_error 'none: no such folder'
run dataset check --near 17 x
expect_code 2; expect_one_error 'from -1 to 16'
mkdir empty
run dataset check empty
expect_code 3; expect_one_error 'expected <type>/<set>/image/'
run dataset questions empty
expect_code 2; expect_one_error 'give -o FILE'
run dataset questions -o q.jsonl
expect_code 2; expect_one_error 'give -o FILE'
run dataset questions -o q.jsonl none
expect_code 3; expect_one_error 'none: '
run dataset questions -o q.jsonl empty
expect_code 3; expect_no_file q.jsonl
run dataset places -o p.png
expect_code 2; expect_one_error 'give one data set'
run dataset places --side 0 -o p.png empty
expect_code 2; expect_no_file p.png
run dataset chek
expect_code 2; expect_one_error 'did you mean dataset check'

begin "a sound data set"
set_of data/ps/A_Tp
bmp data/ps/A_Tp/image/a.bmp 64 48 20 60
bmp data/ps/A_Tp/image/b.bmp 40 40 90 30
mask data/ps/A_Tp/mask/a_gt.bmp 64 48
mask data/ps/A_Tp/mask/b_gt.bmp 40 40
mkdir -p data/ps/A_Au/image
bmp data/ps/A_Au/image/c.bmp 30 30 200 10
run dataset check data
expect_code 0; expect_no_error; expect_golden dataset_check_good
run dataset check --quiet data
expect_code 0; expect_no_error; expect_no_output
run dataset check --json data
expect_code 0; expect_no_error; expect_out '"errors": 0'

begin "findings"
cp data/ps/A_Tp/image/a.bmp data/ps/A_Au/image/again.bmp
bmp data/ps/A_Tp/image/lonely.bmp 20 20 7 8
bmp data/ps/A_Tp/mask/b_gt.bmp 41 40 0 1
echo nothing >data/ps/A_Au/image/broken.jpg
echo '[{"image": "a.bmp", "outputs": "The picture has not been tampered with."}]' >data/ps/A_Tp/lisa_train_gt.json
run dataset check data
expect_code 1; expect_no_error; expect_golden dataset_check_bad
run dataset check --test A_Au --all data
expect_code 1; expect_out 'pictures that are in training and in testing: 1'
run dataset check --test A_Au,B data
expect_code 3; expect_one_error 'no set "B" here'
run dataset check --names-only data
expect_code 1; expect_out 'no picture was read'; expect_not_out 'broken.jpg'
run dataset check --quiet data
expect_code 1; expect_no_error; expect_no_output

begin "upstream's question file"
mkdir pics more
for name in b.jpg a.PNG 'with space.jpeg' 'quo"te.bmp' 'back\slash.png' ünïcode.webp 😀.tif "$(printf 'tab\there.jpg')"; do
    : >"pics/$name"
done
: >more/1.jpg; : >more/2.jpg; : >more/3.jpg
run dataset questions -o all.jsonl pics more/
expect_code 0; expect_no_error; expect_out 'all.jsonl: 11 questions'
expect_same all.jsonl "$ROOT/tests/golden/data/questions.jsonl"
run dataset questions --limit 2 -o two.jsonl pics more/
expect_code 0; expect_same two.jsonl "$ROOT/tests/golden/data/questions_limit2.jsonl"
run dataset questions --absolute -o absolute.jsonl more
expect_code 0
pass; [ "$(grep -c "\"image\": \"$(pwd -P)/more/" absolute.jsonl)" -eq 3 ] || fail "no full paths"
: >more/notes.txt
run dataset questions -o all.jsonl more
expect_code 0; expect_err '1 files that are no pictures'
run dataset questions --question 'Real?' -o tree.jsonl data
expect_code 0; expect_out ' 6 questions'
pass; grep -q '^{"image": "data/ps/A_Au/image/again.bmp", "text": "Real?"}$' tree.jsonl || fail "a tree's picture"
bad=$(printf 'caf\351.jpg')
if : >"more/$bad" 2>/dev/null; then
    run dataset questions -o bad.jsonl more
    expect_code 6; expect_one_error 'not UTF-8'; expect_no_file bad.jsonl
fi

begin "convert"
run dataset convert -o tree SRC
expect_code 2; expect_one_error 'give --from FORM'
run dataset convert --from casia3 -o tree SRC
expect_code 2; expect_one_error 'casia, columbia, coverage'
run dataset convert --from coverage -o tree SRC
expect_code 3; expect_one_error 'SRC: no such folder'
mkdir -p COVERAGE/image COVERAGE/mask
bmp COVERAGE/image/1.bmp 64 48 20 60
bmp COVERAGE/image/1t.bmp 64 48 20 90
mask COVERAGE/mask/1forged.bmp 64 48
bmp COVERAGE/image/2t.bmp 64 48 70 20
run dataset convert --from coverage --dry-run -o tree COVERAGE
expect_code 0; expect_no_error; expect_golden dataset_convert_dry; expect_no_file tree
run dataset convert --from coverage -o tree COVERAGE
expect_code 0; expect_no_error; expect_golden dataset_convert
expect_nothing_half tree
expect_same tree/photoshop/coverage_Tp/image/1t.bmp COVERAGE/image/1t.bmp
run dataset check tree
expect_code 0; expect_out '^0 errors, 0 warnings'
run dataset convert --from coverage -o tree tree/..
expect_code 2; expect_one_error 'lies in the folder'

begin "describe"
unset FAKESHIELD_API_KEY OPENAI_API_KEY http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY
nobody=http://127.0.0.1:1/v1
run dataset describe tree
expect_code 2; expect_one_error 'give --url, --model'
run dataset describe --url host --model m tree
expect_code 2; expect_one_error 'does not begin with https'
run dataset describe --url $nobody --model m --key-env NO_SUCH_VARIABLE tree
expect_code 2; expect_one_error 'no variable NO_SUCH_VARIABLE'
run dataset describe --url $nobody --model m --price-in 1 tree
expect_code 2; expect_one_error 'belong together'
run_as env OPENAI_API_KEY=verysecret "$FAKESHIELD" dataset describe --url http://example.invalid --model m tree
expect_code 2; expect_one_error 'readable for all'
pass; ! grep -q verysecret err || fail "the key is shown"
run_as env FAKESHIELD_API_KEY=verysecret "$FAKESHIELD" dataset describe --url $nobody --model seer-1 --price-in 2.5 --price-out 10 --dry-run tree
expect_code 0; expect_no_error
pass; ! grep -q verysecret out || fail "the key is shown"
sed -i 's/([0-9]* bytes)/(N bytes)/' out # the PNG's size is the library's matter
expect_golden dataset_describe_dry
expect_no_file tree/answers.jsonl
run dataset describe --quiet --url $nobody --model seer-1 --retries 0 tree
expect_code 1; expect_err 'no answer: http://127.0.0.1:1/v1/chat/completions: '; expect_err '2 of 2 pictures have no answer'
expect_nothing_half tree

begin "explain reads it"
mkdir shots
dark shots/dark.bmp; bright shots/bright.bmp
run dataset questions -o shots.jsonl shots
run explain -m "$TINY" --questions shots.jsonl -o explained.jsonl
expect_code 0
pass; [ "$(wc -l <explained.jsonl)" -eq 2 ] || fail "$(wc -l <explained.jsonl) answers"
finish

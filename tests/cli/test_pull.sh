# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# pull: what is wrong with its words. Nothing here reaches a network: port 1 of this machine answers nobody. Downloads are tested in
# tests/unit/test_pull.c, with a server of its own.
. "$ROOT/tests/cli/lib.sh"
unset HF_ENDPOINT http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY
nobody=http://127.0.0.1:1

begin "what to download"
for what in nonsense ../x a/b/c 'a b/c' "a/b?c" /etc/passwd https://huggingface.co/a/b; do
    run pull "$what"
    expect_code 2; expect_no_output; expect_one_error 'is nothing to download'
done
run pull fakeshield clip
expect_code 2; expect_one_error 'one thing at a time'
run pull --list --check
expect_code 2; expect_one_error 'give one'

begin "values"
for n in 0 33 x 1.5 ''; do
    run pull --jobs "$n"
    expect_code 2; expect_one_error 'whole number from 1 to 32'
done
for option in out revision mirror token-env; do
    run pull --$option ''
    expect_code 2; expect_one_error 'an empty value'
done
run pull --mirrors x
expect_code 2; expect_one_error 'did you mean --mirror'
run pull --revision 'a b' --mirror $nobody
expect_code 2; expect_one_error 'no revision'

begin "the hub's address"
for url in huggingface.co ftp://h file:///etc https:// https://user:secret@h 'https://h/?x'; do
    run pull --mirror "$url"
    expect_code 2; expect_one_error 'address of a hub'
    HF_ENDPOINT=$url run pull
    expect_code 2; expect_one_error 'address of a hub'
done

begin "tokens"
run pull --token-env NO_SUCH_VARIABLE
expect_code 2; expect_one_error 'no variable NO_SUCH_VARIABLE'
EMPTY='' run pull --token-env EMPTY
expect_code 2; expect_one_error 'or it is empty'
TOKEN=verysecret run pull --token-env TOKEN --mirror http://example.invalid
expect_code 2; expect_one_error 'readable for all'
pass; ! grep -q verysecret err || fail "the token is shown"
TOKEN='two words' run pull --token-env TOKEN --mirror $nobody
expect_code 2; expect_one_error 'the token'

begin "nobody there"
for mode in '' --list --check; do
    # shellcheck disable=SC2086 # empty or one word
    run pull $mode --mirror $nobody -o w clip
    expect_code 4; expect_no_output; expect_one_error 'is there a network'
    expect_no_file w
done
HF_ENDPOINT=$nobody run pull o/n
expect_code 4; expect_one_error '127.0.0.1:1/api/models/o/n/tree/main'
expect_no_file weight
finish

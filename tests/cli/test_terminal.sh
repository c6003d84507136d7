# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# On a terminal: progress line, colours, wrapped text. `script` gives the program a terminal of 80 columns.
. "$ROOT/tests/cli/lib.sh"
dark a.bmp
cp a.bmp "$(printf 'un ours \360\237\220\273 dans un jardin \347\206\212\347\214\253 au nom tres long, si long que la ligne ne suffit pas.bmp')"
if ! command -v script >/dev/null 2>&1; then
    begin "terminal"; skip "there is no script(1) here"
    finish
    exit
fi
on_terminal() { # command line; what the terminal got is in ./out
    : >err
    code=0
    TERM=xterm script -qec "stty cols 80 && exec $1" /dev/null >raw </dev/null || code=$?
    tr -d '\r' <raw >out
}
escape=$(printf '\033')
return=$(printf '\r')

begin "progress, colours, wrapping"
on_terminal "'$FAKESHIELD' detect -m '$TINY' -o res *.bmp"
expect_code 0
expect_out "${escape}\[1ma.bmp${escape}\[0m  (1 of 2)"
expect_out "verdict    ${escape}\[1;31mtampered${escape}\[0m   score"
pass; grep -q "${return}.*1/2 a.bmp: .*${escape}\[K" raw || fail "no progress line of stage 1"
pass; grep -q "${return}.*/2 .*: stage 2" raw || fail "no progress line of stage 2"
pass; grep -q 'Whether the picture has been tampered with' out && ! grep -q 'tampered area: The picture has been tampered with, and' out || fail "not wrapped"
# every screen line fits: progress lines between returns, text lines between newlines (wc counts wide characters twice)
sed "s/${escape}\[[0-9;]*[mK]//g" raw | tr '\r' '\n' | grep '^    [^ ]\|[12]/2 ' >lines
pass; [ "$(wc -l <lines)" -ge 14 ] && grep -q '/2 un ours' lines && [ "$(wc -L <lines)" -le 80 ] || { cat lines; fail "$(wc -l <lines) lines, the longest of $(wc -L <lines) columns"; }

begin "no colours when asked"
on_terminal "'$FAKESHIELD' detect -m '$TINY' -o res --no-color -q a.bmp"
expect_code 0; expect_not_out "$escape"
NO_COLOR=1 on_terminal "'$FAKESHIELD' detect -m '$TINY' -o res a.bmp 2>/dev/null"
expect_code 0; expect_not_out "$escape\[1"

begin "no progress line when standard error is no terminal"
on_terminal "'$FAKESHIELD' detect -m '$TINY' -o res a.bmp 2>err"
expect_code 0; expect_no_error
finish

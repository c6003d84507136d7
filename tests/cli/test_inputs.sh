# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# Which pictures: folders, globs, lists, names that collide, results that would overwrite pictures. --verdict-only keeps it quick.
. "$ROOT/tests/cli/lib.sh"
mkdir -p shots/more shots/.hidden other
dark shots/b.bmp; dark shots/a.bmp; dark shots/more/c.bmp; dark shots/.hidden/d.bmp; dark other/a.bmp; dark shots/.e.bmp
echo "no picture" >shots/readme.txt
images() { sed 's/.*	//' out; }
go() { run detect -m "$TINY" --verdict-only -q "$@"; }

begin "a folder: its pictures, sorted, one level"
go --no-files shots
expect_code 0; expect_no_error
images >got; printf 'shots/a.bmp\nshots/b.bmp\n' >want; expect_same got want

begin "recursive"
go --no-files -r shots/
expect_code 0
images >got; printf 'shots/a.bmp\nshots/b.bmp\nshots/more/c.bmp\n' >want; expect_same got want

begin "a quoted glob"
go --no-files 'shots/?.bmp' 'oth*/a.bmp'
expect_code 0
images >got; printf 'shots/a.bmp\nshots/b.bmp\nother/a.bmp\n' >want; expect_same got want
go --no-files 'nothing*.bmp'
expect_code 3; expect_one_error 'nothing matches this pattern'

begin "a file that is named like a glob"
dark 'odd[1].bmp'
go --no-files 'odd[1].bmp'
expect_code 0; expect_out 'odd\[1\].bmp'

begin "lists"
printf 'shots/b.bmp\r\n\nshots/a.bmp' >list.txt
go --no-files --list list.txt other/a.bmp
expect_code 0
images >got; printf 'shots/b.bmp\nshots/a.bmp\nother/a.bmp\n' >want; expect_same got want
run_as sh -c '"$FAKESHIELD" detect -m "$1" --verdict-only -q --no-files - <list.txt' sh "$TINY"
expect_code 0
images >got; printf 'shots/b.bmp\nshots/a.bmp\n' >want; expect_same got want
go --no-files --list nolist.txt
expect_code 3; expect_one_error 'nolist.txt: cannot read this list'
head -c 100 /dev/zero >binary
go --no-files --list binary
expect_code 5; expect_one_error 'is it a text file'

begin "names that begin with a dash"
dark ./-x.bmp
go --no-files -- -x.bmp
expect_code 0; expect_out '	-x.bmp$'

begin "an empty folder"
mkdir void
go --no-files void
expect_code 3; expect_one_error 'void: no picture in this folder (subfolders are searched with -r)'

begin "the same name twice"
run detect -m "$TINY" --verdict-only -o res shots/a.bmp other/a.bmp
expect_code 0
expect_err 'another picture is called "a"; the results of other/a.bmp are named "a-2"'
expect_file res/a.json; expect_file res/a-2.json
pass; grep -q '"image": "other/a.bmp"' res/a-2.json || fail "a-2.json is of another picture"

begin "results of an earlier run are no pictures"
mkdir mixed
dark mixed/p.bmp
run detect -m "$TINY" -o mixed mixed
expect_code 0; expect_file mixed/p_mask.png
go --no-files mixed
images >got; printf 'mixed/p.bmp\n' >want; expect_same got want

begin "a result never overwrites a picture"
cp mixed/p_overlay.png clash.png
mkdir trap
cp mixed/p.bmp trap/q.bmp
cp clash.png trap/q_mask.png
cp trap/q_mask.png before.png
go -o trap trap/q.bmp trap/q_mask.png
expect_code 2; expect_one_error 'trap/q_mask.png is one of the pictures'
expect_same trap/q_mask.png before.png; expect_no_file trap/q.json

begin "control characters in a name"
nasty=$(printf 'red\033[31m.bmp')
dark "$nasty"
go --no-files "$nasty"
expect_code 0; expect_not_out "$(printf '\033')"; expect_out 'red?\[31m.bmp'
finish

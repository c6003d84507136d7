#!/bin/sh
# make demo: a photograph, and a forgery that is made from it here and now; both are examined, and truth and answer shown side by side.
#
# Usage: scripts/demo.sh FAKESHIELD [IMAGE]
# Without IMAGE it takes the two photographs that Debian's package python3-sklearn carries (china.jpg, flower.jpg, CC BY 2.0; credits are in its
# README.txt), and the forgery has a piece of one in the other; a single IMAGE gives the piece itself. The package is unpacked into the user's cache, not
# installed.
# From the environment: MODEL, another checkpoint or bundle (else FAKESHIELD_MODEL, else models/nano, else the toy models/tiny); OUT, the folder for
# everything (out/demo); SEED, another forgery.
set -eu

fakeshield=$1
image=${2:-}
given=$image
root=$(cd "$(dirname "$0")/.." && pwd)
model=${MODEL:-}
out=${OUT:-out/demo}
seed=${SEED:-35}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/fakeshield
inside=usr/lib/python3/dist-packages/sklearn/datasets/images

no_photo() {
    echo "demo: no photograph at hand: $1" >&2
    echo "demo: use one of yours: make demo IMAGE=photo.jpg" >&2
    exit 1
}

fetch_photo() {
    command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || no_photo "this is no Debian system"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo "Fetching a photograph (Debian package python3-sklearn, 2 MB, into $cache)"
    if ! (cd "$work" && apt-get -q -o APT::Sandbox::User=root download python3-sklearn >log 2>&1); then
        # a new machine has no package lists yet
        if [ "$(id -u)" -eq 0 ]; then apt-get update -qq || true
        elif command -v sudo >/dev/null 2>&1; then sudo apt-get update -qq || true; fi
        (cd "$work" && apt-get -q -o APT::Sandbox::User=root download python3-sklearn >log 2>&1) ||
            no_photo "apt-get download python3-sklearn: $(tail -n 1 "$work/log")"
    fi
    dpkg-deb -x "$work"/python3-sklearn_*.deb "$work/x"
    mkdir -p "$cache"
    for photo in flower china; do
        [ -s "$work/x/$inside/$photo.jpg" ] || no_photo "python3-sklearn no longer carries $photo.jpg"
        mv "$work/x/$inside/$photo.jpg" "$cache/$photo.jpg"
    done
}

if [ -n "$image" ]; then
    [ -s "$image" ] || no_photo "$image is not there"
    set -- "$image"
else
    photos=/$inside
    if [ ! -s "$photos/china.jpg" ] || [ ! -s "$photos/flower.jpg" ]; then
        photos=$cache
        { [ -s "$photos/china.jpg" ] && [ -s "$photos/flower.jpg" ]; } || fetch_photo
    fi
    set -- "$photos/china.jpg" "$photos/flower.jpg"
fi

# Without -m the program finds FAKESHIELD_MODEL (set but empty: none at all) or the demonstration model by itself.
if [ -z "$model" ] && [ -z "${FAKESHIELD_MODEL:-}" ]; then
    for file in dte-fdm mflm vision; do
        [ -s "$root/models/nano/$file.gguf" ] && [ -z "${FAKESHIELD_MODEL+set}" ] || model=$root/models/tiny
    done
fi
if [ "$model" = "$root/models/tiny" ]; then
    echo "demo: there is no trained model in models/nano, so this is models/tiny, a toy with random weights. It shows that all runs; what it says means NOTHING."
fi

step() {
    echo "+ $*"
    "$@"
}
examine() { # PICTURE WHAT-IT-IS
    echo
    echo "==== $2"
    if [ -n "$model" ]; then
        step "$fakeshield" detect -m "$model" --soft-mask -o "$results" "$1"
    else
        step "$fakeshield" detect --soft-mask -o "$results" "$1"
    fi
}
# verdict_of NAME: "tampered, score 0.93, mask 2.1 % of the picture" from its JSON
verdict_of() {
    field() { sed -n "s/^ *\"$1\": \"\\{0,1\\}\\([^\",]*\\)\"\\{0,1\\},\\{0,1\\}\$/\\1/p" "$results/$2.json" | head -n 1; }
    verdict=$(field verdict "$1")
    score=$(field score "$1")
    area=$(field area_fraction "$1")
    LC_ALL=C awk -v v="$verdict" -v s="$score" -v a="$area" 'BEGIN {
        printf "%-12s  score %s", v, s == "" || s == "null" ? "none" : sprintf("%.3f", s)
        if (a != "" && a != "null") printf "  %.1f %% of the picture marked", 100 * a
    }'
}

# The data set of two: the photograph as it is, and a forgery of it. What an earlier run has left would be counted in, so it is taken away.
pictures=$out/pictures results=$out/results
rm -rf "$pictures" "$results"
photograph=$pictures/photoshop/photograph forgery=$pictures/photoshop/splice
mkdir -p "$photograph/image" "$forgery/image" "$forgery/mask"
echo "Making a forgery"
step "$fakeshield" dataset forge -q -n 1 --authentic 0 --val 0 --test 0 --types splice --size 640 --seed "$seed" --overwrite -o "$out/forged" "$@"
# Which photograph did it take? The manifest's 13th column; no name of theirs has a comma or a quotation mark before it.
[ $# -eq 1 ] || case $(tail -n 1 "$out/forged/manifest.csv" | cut -d , -f 13) in *flower.jpg*) shift ;; esac
image=$1
name=$(basename "$image")
case $name in *.*) ending=${name##*.} ;; *) ending=jpg ;; esac
cp "$image" "$photograph/image/photograph.$ending"
cp "$out"/forged/photoshop/train/image/train_000000_splice.jpg "$forgery/image/forgery.jpg"
cp "$out"/forged/photoshop/train/mask/train_000000_splice.png "$forgery/mask/forgery.png"

examine "$photograph/image/photograph.$ending" "the photograph, $image"
examine "$forgery/image/forgery.jpg" "the forgery made of it"

echo
step "$fakeshield" eval "$pictures" --results "$results" --resamples 0 --sheet 2 --name "make demo" --join "demo=photograph,splice" -q -o "$out/report"
cat <<END

photograph    $(verdict_of photograph)
forgery       $(verdict_of forgery)
side by side  $out/report/sheet.png
report        $out/report/report.html
END
[ -n "$model${SEED:-}$given" ] || echo "
This forgery is one that the small model marks well; of 48 seeds it called 24 tampered. Others: make demo SEED=9"

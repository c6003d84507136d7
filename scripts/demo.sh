#!/bin/sh
# make demo: both stages on one photograph, with the tiny checkpoint of models/tiny.
#
# Usage: scripts/demo.sh FAKESHIELD [IMAGE]
# Without IMAGE it takes a photograph that Debian's package python3-sklearn carries (flower.jpg, CC BY 2.0; credits are in its README.txt). The package is
# unpacked into the user's cache, not installed. MODEL chooses another checkpoint, OUT another folder for the results.
set -eu

fakeshield=$1
image=${2:-}
root=$(cd "$(dirname "$0")/.." && pwd)
model=${MODEL:-$root/models/tiny}
out=${OUT:-out/demo}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/fakeshield
inside=usr/lib/python3/dist-packages/sklearn/datasets/images/flower.jpg

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
    [ -s "$work/x/$inside" ] || no_photo "python3-sklearn no longer carries flower.jpg"
    mkdir -p "$cache"
    mv "$work/x/$inside" "$cache/flower.jpg"
}

if [ -z "$image" ]; then
    if [ -s "/$inside" ]; then
        image=/$inside
    else
        [ -s "$cache/flower.jpg" ] || fetch_photo
        image=$cache/flower.jpg
    fi
fi

if [ "$model" = "$root/models/tiny" ]; then
    cat <<'NOTE'
------------------------------------------------------------------------------------------------------------------------
This demo uses models/tiny: a checkpoint of the real architecture and file layout, but of toy size. Its weights are
random, and its language models were taught a few sentences by rote. What it says about the picture, its score and
its mask mean NOTHING; they show that both stages run. For real answers: make demo MODEL=/path/to/fakeshield-v1-22b
------------------------------------------------------------------------------------------------------------------------
NOTE
fi
echo "+ $fakeshield detect -m $model -o $out $image"
"$fakeshield" detect -m "$model" -o "$out" "$image"
name=$(basename "$image")
name=${name%.*}
echo
for part in "$name.json:report" "${name}_mask.png:mask" "${name}_overlay.png:overlay"; do
    if [ -s "$out/${part%%:*}" ]; then
        printf '%-8s %s\n' "${part##*:}" "$out/${part%%:*}"
    else
        printf '%-8s none: see the report\n' "${part##*:}"
    fi
done

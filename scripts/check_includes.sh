#!/bin/sh
# Checks that includes between the rooms of src/ run in the allowed directions only (docs/architecture.md).
#
# Usage: scripts/check_includes.sh [PROJECT_DIR]      one line per offence: file:line: what; exit 1 if there is any
set -eu

cd "${1:-$(dirname "$0")/..}"
find src \( -name '*.c' -o -name '*.h' -o -name '*.cc' \) | LC_ALL=C sort | xargs awk '
    BEGIN {
        # room -> rooms whose headers it may include; "tensor/tensor.h" stands for that one header
        may["cli"] = ""
        may["pipeline"] = "model text image format tensor base"
        may["model"] = "tensor base"
        may["tensor"] = "backend base"
        may["backend"] = "base tensor/tensor.h"
        may["format"] = "base tensor/tensor.h"
        may["image"] = "base"
        may["text"] = "base"
        may["base"] = ""
        may["net"] = "format base"
        may["data"] = "net text image format base tensor/tensor.h"
        may["train"] = "net data pipeline model text image format tensor base"
        may["eval"] = "net data pipeline model text image format tensor base"
        may["serve"] = "base" # and fakeshield.h
    }
    FNR == 1 { split(FILENAME, part, "/"); room = part[2]; files++ }
    /^[ \t]*#[ \t]*include[ \t]*["<]/ {
        match($0, /["<][^">]*[">]/)
        header = substr($0, RSTART + 1, RLENGTH - 2)
        quoted = substr($0, RSTART, 1) == "\""
        if (!(room in may)) { offence("src/" room " is not a room that scripts/check_includes.sh knows"); next }
        if (header == "fakeshield.h") next
        if (room == "cli") {
            if (quoted && header != "cli.h") offence("cli may include only fakeshield.h and its own cli.h, not \"" header "\"")
            if (!quoted && header ~ /^(omp|jansson|sentencepiece|png|jpeglib|tiff|tiffio|webp|libheif|dnnl|curl)/)
                offence("cli may not use <" header ">")
            next
        }
        if (!quoted) next
        n = split(header, piece, "/")
        if (n == 1) next # a header of the same folder
        target = piece[1]
        if (target == ".." || index(header, "/../")) { offence("write the room, not a relative path: \"" header "\""); next }
        if (target == room) next
        if ((" " may[room] " ") ~ (" " target " ") || (" " may[room] " ") ~ (" " header " ")) next
        offence(room " may not include \"" header "\"" (may[room] == "" ? "" : " (allowed: " may[room] ")"))
    }
    function offence(text) { printf "%s:%d: %s\n", FILENAME, FNR, text; bad++ }
    END {
        if (!files) { print "check_includes.sh: no source found"; exit 1 }
        if (bad) exit 1
        printf "%d files, all includes in order\n", files
    }' || exit 1

#!/bin/sh
# Makes models/nano/tokenizer.model: a SentencePiece model in LLaMA's manner for the texts that `dataset forge` writes and the prompts around them.
#
# Usage: scripts/nano_tokenizer.sh FAKESHIELD PHOTOS OUT.model [VOCABULARY]
# Needs spm_train (Debian: sentencepiece). The same photos give the same file.
set -eu

fakeshield=$1
photos=$2
out=$3
size=${4:-900}
prompts=$(cd "$(dirname "$0")/.." && pwd)/models/nano/prompts.txt
command -v spm_train >/dev/null 2>&1 || { echo "nano_tokenizer.sh: no spm_train; on Debian: apt-get install sentencepiece" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Small pictures: only their texts count. A few that cannot be made are no loss.
"$fakeshield" dataset forge -q -n 3000 --seed 7 --size 96 --val 0 --test 0 --authentic 0.15 -o "$work/data" "$photos" || [ -s "$work/data/manifest.jsonl" ]
# one line of text a line: JSON's \n ends one
sed -n 's/.*"answer": *"\(\([^"\\]\|\\.\)*\)".*/\1/p' "$work/data/manifest.jsonl" | sed 's/\\n/\n/g; s/\\"/"/g' | grep . >"$work/texts"
i=0
while [ $i -lt 40 ]; do
    cat "$prompts" >>"$work/texts"
    i=$((i + 1))
done
[ "$(wc -l <"$work/texts")" -gt 1000 ] || { echo "nano_tokenizer.sh: too few texts came out of the forge" >&2; exit 1; }

# As LLaMA's: byte-pair pieces, no normalization, digits apart, bytes for what has no piece, <unk> <s> </s> first.
# The names of both files are kept in the model, so they are the same everywhere.
(cd "$work" && spm_train --input=texts --model_prefix=tokenizer --model_type=bpe --vocab_size="$size" --byte_fallback=true --split_digits=true \
    --normalization_rule_name=identity --add_dummy_prefix=true --remove_extra_whitespaces=false --character_coverage=1.0 \
    --unk_id=0 --bos_id=1 --eos_id=2 --pad_id=-1 --num_threads=1) >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; exit 1; }
mkdir -p "$(dirname "$out")"
cp "$work/tokenizer.model" "$out.part"
mv "$out.part" "$out"
echo "$out: $(wc -c <"$out") bytes, $size pieces"

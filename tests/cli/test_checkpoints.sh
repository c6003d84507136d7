# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# Checkpoints that lack something or are spoilt: one line that names the part, the file or the tensor; nothing is written.
. "$ROOT/tests/cli/lib.sh"
dark a.bmp
shard=model-00001-of-00002.safetensors
torch=pytorch_model-00001-of-00002.bin
copy_tiny whole

spoil() { # a fresh copy in ./m
    rm -rf m res
    cp -r whole m
}
refused() { # exit code, pattern
    run detect -m m -o res a.bmp
    expect_code "$1"; expect_one_error "$2"; expect_no_output
    expect_no_file res/a.json; expect_no_file res/a_mask.png
}

begin "no directory"
run detect -m nowhere -o res a.bmp
expect_code 3; expect_one_error 'nowhere'

begin "a file instead of a directory"
run detect -m a.bmp -o res a.bmp
expect_failure; expect_one_error 'a.bmp'

begin "an empty directory: what is it, where to get it"
mkdir none
run detect -m none -o res a.bmp
expect_code 3; expect_one_error 'none: .*zhipeixu/fakeshield-v1-22b'

for part in DTE-FDM MFLM DTG.pth; do
    begin "without $part: named before anything is computed"
    spoil; rm -r m/$part
    refused 3 "$part.*zhipeixu/fakeshield-v1-22b"
done
begin "without CLIP"
spoil; rm -r m/clip-vit-tiny
refused 3 'CLIP'
begin "without the tokenizer"
spoil; rm m/DTE-FDM/tokenizer.model
refused 3 'tokenizer.model'
begin "without a config"
spoil; rm m/MFLM/config.json
refused 3 'MFLM/config.json'
begin "without a shard"
spoil; rm m/DTE-FDM/$shard
refused 3 "$shard"

begin "explain needs no MFLM, localize needs no DTE-FDM"
spoil; rm -r m/MFLM
run explain -m m a.bmp
expect_code 0; expect_out '^{"image": "a.bmp", "outputs": '
run detect -m m --verdict-only --no-files a.bmp
expect_code 0
spoil; rm -r m/DTE-FDM m/DTG.pth
run localize -m m -o res --text "The dog" a.bmp
expect_code 0; expect_file res/a_mask.png

begin "a config that is no JSON"
spoil; echo '{"hidden_size": 64,' >m/DTE-FDM/config.json
refused 5 'DTE-FDM/config.json'
begin "a config that does not fit the tensors"
spoil; sed -i 's/"intermediate_size": 176/"intermediate_size": 192/' m/DTE-FDM/config.json
refused 8 'model.layers.0.mlp.*192'

for cut in 4 1000 60000; do
    begin "a safetensors shard cut to $cut bytes"
    spoil; head -c $cut whole/DTE-FDM/$shard >m/DTE-FDM/$shard
    refused 5 "$shard"
    begin "a PyTorch shard cut to $cut bytes"
    spoil; head -c $cut whole/MFLM/$torch >m/MFLM/$torch
    refused 5 "$torch"
    begin "DTG.pth cut to $cut bytes"
    spoil; head -c $cut whole/DTG.pth >m/DTG.pth
    refused 5 'DTG.pth'
done
begin "an empty shard"
spoil; : >m/DTE-FDM/$shard
refused 5 "$shard"

begin "NaN weights (f16): said, not computed with"
spoil
data=$(($(head -c 8 whole/DTE-FDM/$shard | od -An -tu8 | tr -d ' ') + 8))
size=$(($(wc -c <whole/DTE-FDM/$shard) - data))
yes "$(printf '\377\176')" | tr -d '\n' | head -c $((size / 2 * 2)) >nan
dd if=nan of=m/DTE-FDM/$shard bs=1M seek=$data oflag=seek_bytes conv=notrunc status=none
run detect -m m -o res a.bmp
expect_code 10; expect_one_error 'NaN\|nan\|not finite\|infinite'
expect_no_file res/a.json

begin "NaN weights in stage 2: the explanation stays, pending"
spoil
# storages of the zip are stored uncompressed: everything between the pickle and the directory becomes NaN (bf16 0x7fc0 or f32 alike)
for f in m/MFLM/pytorch_model-0000*.bin; do
    size=$(wc -c <"$f")
    [ "$size" -gt 40000 ] || continue
    # only the middle half, which lies inside tensor data of this checkpoint
    yes "$(printf '\300\177')" | tr -d '\n' | head -c $((size / 4 * 2)) >nan
    dd if=nan of="$f" bs=1M seek=$((size / 4 / 2 * 2)) oflag=seek_bytes conv=notrunc status=none
done
run detect -m m -o res a.bmp
expect_failure
pass; [ "$(wc -l <err)" -eq 1 ] || fail "more than one line"
expect_no_file res/a_mask.png; expect_nothing_half res
finish

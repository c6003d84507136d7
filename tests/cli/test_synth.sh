# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# synth: bundles of random weights. bench: measuring with them.
. "$ROOT/tests/cli/lib.sh"

picture=$ROOT/tests/golden/e2e_wide.png

begin "a bundle of random weights is whole, and says what it is"
run synth --arch tiny --type q4_k --threads 1 -o random
expect_code 0; expect_no_error; expect_out 'bench -m random'
run verify random
expect_code 0; expect_no_error
run info random
expect_code 0; expect_no_error; expect_out 'random weights'
for word in dte-fdm.gguf mflm.gguf vision.gguf 'language model' 'SAM image encoder' 'region encoder' ResNet-50 Q4_K; do expect_out "$word"; done
run detect -m random --no-files --max-new-tokens 4 "$picture"
expect_code 0; expect_no_error; expect_out 'warning .*random'
run detect -m random --json --no-files --max-new-tokens 4 "$picture"
expect_code 0; expect_out 'are random (made by synth)'

begin "the same seed gives the same bytes on any number of threads, another seed others"
run synth --arch tiny --type q4_k --threads 2 -o again
expect_code 0
for file in dte-fdm.gguf mflm.gguf vision.gguf; do expect_same "random/$file" "again/$file"; done
run synth --arch tiny --type q4_k --seed 1 -o again
expect_code 0
pass; ! cmp -s random/dte-fdm.gguf again/dte-fdm.gguf || fail "seed 1 gives the bytes of seed 0"

begin "every type runs, with fewer layers too"
for type in f32 f16 bf16 q8_0 q4_0 mixed; do
    run synth --arch tiny --type $type --layers 1 -o "type_$type"
    expect_code 0; expect_no_error
    run detect -m "type_$type" --no-files --max-new-tokens 2 "$picture"
    expect_code 0; expect_no_error
done

begin "real weights are not written over, and what is left is a whole bundle or nothing"
run convert "$TINY" --type q8_0 -o real
expect_code 0
cp real/mflm.gguf kept
run synth --arch tiny -o real
expect_code 2; expect_one_error 'not made by synth'
expect_same real/mflm.gguf kept
mkdir -p locked/vision.gguf.partial # the last of the three cannot be written
run synth --arch tiny -o locked
expect_failure; expect_one_error 'vision.gguf'
for file in dte-fdm.gguf mflm.gguf vision.gguf dte-fdm.gguf.partial; do expect_no_file "locked/$file"; done

begin "what makes no sense"
run synth --arch tiny
expect_code 2; expect_one_error '-o'
run synth --arch 99b -o other
expect_code 2; expect_one_error '99b'
run synth --arch tiny --type q9 -o other
expect_code 2; expect_one_error 'q9'
run synth --arch tiny --layers 0 -o other
expect_code 2; expect_one_error 'layers'
expect_no_file other
run synth --arch tiny -o other surplus
expect_code 2; expect_one_error '-o'

begin "bench runs every stage"
run bench -m random --runs 2 --prompt-tokens 20 --tokens 3 --stage dtg,clip,prefill,decode,decode8,score,sam,mask,picture --threads 1
expect_code 0; expect_no_error
for word in 'roofs: reading memory' '^dtg ' '^clip ' '^prefill ' '^decode ' '^decode8 ' '^score ' '^sam ' '^mask ' '^picture ' 'guessing ahead; mask present' 'memory plan' 'peak memory'; do expect_out "$word"; done
expect_not_out 'not run'
run bench -m "$TINY" --runs 1 --prompt-tokens 9 --tokens 2 --stage decode,sam,picture --image "$picture" --json
expect_code 0; expect_no_error
for key in version model synthetic threads kernels int8_kernels processor runs roofs read_gb_per_second loads stages what seconds median min max tokens tokens_per_second \
    gb_per_second gop_per_second roof share peak_bytes parts guessed_tokens memory; do expect_out "\"$key\":"; done
if command -v python3 >/dev/null 2>&1; then
    cp out report.json
    run_as python3 -c 'import json; r = json.load(open("report.json")); assert [s["stage"] for s in r["stages"]] == ["decode", "sam", "picture"]; assert r["stages"][0]["runs"] == 1; assert r["stages"][2]["parts"]["new_tokens"] == 2; assert not r["synthetic"]'
    expect_code 0
fi

begin "bench says what it cannot run"
run synth --arch tiny --type q8_0 -o whole
expect_code 0
mkdir half && cp whole/mflm.gguf whole/vision.gguf half
run bench -m half --runs 1 --prompt-tokens 9 --tokens 2 --stage dtg,decode,picture
expect_code 0; expect_out '^dtg .*not run: .*stage 1'; expect_out "stage 2's language model"; expect_out '^picture .*not run'
run bench -m random --stage dtg,swim
expect_code 2; expect_one_error 'swim'
run bench -m random --runs 0
expect_code 2; expect_one_error 'runs'
run bench -m random --stage ''
expect_code 2; expect_one_error 'stage'
run bench -m nowhere --stage dtg
expect_code 3; expect_one_error 'nowhere'
run bench -m random --stage picture --image nowhere.png
expect_code 3; expect_one_error 'nowhere.png'
run bench random
expect_code 2; expect_one_error '-m'
finish

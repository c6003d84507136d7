# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# detect without -m: the demonstration model is found where it is installed or lies in a source tree, and said to be one.
. "$ROOT/tests/cli/lib.sh"
picture=$ROOT/tests/golden/e2e_tall.png
short="--max-new-tokens 4 --no-files $picture"
bare() { run_as env -u FAKESHIELD_MODEL "$@"; }

if [ -z "${FS_TEST_EMULATED:-}" ]; then # /proc/self/exe is the emulator's there
    mkdir -p prefix/bin tree/build tree/models/nano
    cp "$FAKESHIELD" prefix/bin/fakeshield
    cp "$FAKESHIELD" tree/build/fakeshield

    begin "none there"
    bare prefix/bin/fakeshield detect $short
    expect_code 2; expect_one_error 'no model: give the checkpoint directory with -m DIR or in FAKESHIELD_MODEL'

    begin "a recipe alone is no model"
    echo '{}' >tree/models/nano/nano.json
    bare tree/build/fakeshield detect $short
    expect_code 2; expect_one_error 'no model'

    begin "in the prefix"
    run convert "$TINY" --type q8_0 -q -o prefix/share/fakeshield/nano
    expect_code 0
    bare prefix/bin/fakeshield detect $short
    expect_code 0; expect_err 'small demonstration model'; expect_err 'share/fakeshield/nano'; expect_out 'score'
    bare prefix/bin/fakeshield detect --json --no-times $short
    expect_code 0; expect_out '"name":"nano"'

    begin "a small bundle takes one thread unless it is told otherwise"
    bare prefix/bin/fakeshield detect --json $short
    expect_code 0; expect_out '"threads":1[,}]'
    bare prefix/bin/fakeshield detect --json --threads 2 $short
    expect_code 0; expect_out '"threads":2[,}]'

    begin "a part of a bundle is no model"
    cp prefix/share/fakeshield/nano/dte-fdm.gguf prefix/share/fakeshield/nano/mflm.gguf tree/models/nano
    bare tree/build/fakeshield detect $short
    expect_code 2; expect_one_error 'no model'

    begin "in a source tree"
    cp prefix/share/fakeshield/nano/*.gguf tree/models/nano
    bare tree/build/fakeshield detect $short
    expect_code 0; expect_err 'tree/models/nano'

    begin "another one given"
    bare prefix/bin/fakeshield detect -m "$TINY" $short
    expect_code 0; pass; ! grep -q 'demonstration' err || fail "the model given is called a demonstration"
    FAKESHIELD_MODEL=$TINY run_as prefix/bin/fakeshield detect $short
    expect_code 0; pass; ! grep -q 'demonstration' err || fail "the model of FAKESHIELD_MODEL is called a demonstration"

    begin "FAKESHIELD_MODEL names the demonstration model"
    cat >own.json <<END
{"name": "our demonstration model", "tokenizer": "$TINY/DTE-FDM/tokenizer.model", "region_encoder": false,
 "dte_fdm": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
 "mflm": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
 "clip": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 16},
 "sam": {"embed_dim": 32, "depth": 1, "num_heads": 2, "image_size": 64, "window_size": 2, "global_every": 1, "out_chans": 32, "decoder_mlp": 64},
 "dtg": {"width": 8}}
END
    run train dte-fdm --from-scratch own.json --forge "$picture" --forge-size 64 --forge-count 2 --forge-val 0 --batch 1 --accumulate 1 --epochs 0 --max-steps 1 \
        --threads 1 -q -o own
    expect_code 0
    mv own/model titled
    FAKESHIELD_MODEL=titled run_as prefix/bin/fakeshield detect $short
    expect_code 0; expect_err 'FAKESHIELD_MODEL is the small demonstration model, titled'
    FAKESHIELD_MODEL=titled run_as prefix/bin/fakeshield detect -m titled $short
    expect_code 0; pass; ! grep -q 'demonstration' err || fail "said of a model that was named on the command line"

    begin "FAKESHIELD_MODEL empty: none at all"
    FAKESHIELD_MODEL='' run_as prefix/bin/fakeshield detect $short
    expect_code 2; expect_one_error 'no model'
fi
finish

# shellcheck shell=sh disable=SC1091,SC2154,SC2034
# The original's two scripts, with its variables, and the includes' checker.
. "$ROOT/tests/cli/lib.sh"
dark d.bmp
bright b.bmp
WEIGHT_PATH=$TINY
export WEIGHT_PATH

begin "cli_demo.sh"
IMAGE_PATH=d.bmp DTE_FDM_OUTPUT=demo/rec.jsonl MFLM_OUTPUT=demo/masks run_as "$ROOT/scripts/cli_demo.sh"
expect_code 0
pass; [ "$(wc -l <demo/rec.jsonl)" -eq 0 ] || fail "the record ends in a newline"
pass; grep -q '^{"image": "d.bmp", "outputs": " ' demo/rec.jsonl || fail "no leading space"
expect_file demo/masks/d_mask.png
pass; grep -q '"precision": "upstream"' demo/masks/d.json && grep -q '"prompt_style": "demo"' demo/masks/d.json || fail "settings"

begin "cli_demo.sh on an authentic picture"
IMAGE_PATH=b.bmp GREEDY=1 DTE_FDM_OUTPUT=demo/rec.jsonl MFLM_OUTPUT=demo/masks run_as "$ROOT/scripts/cli_demo.sh"
expect_code 0; expect_out '^The image has not been tampered with\.$'; expect_out '^No mask generated\.$'
expect_no_file demo/masks/b_mask.png

begin "test.sh"
cat >q.jsonl <<'Q'
{"image": "d.bmp", "text": "Was this photo taken directly from the camera without any processing?"}
{"image": "gone.bmp", "text": "And this?"}
{"image": "b.bmp", "text": "Was this photo taken directly from the camera without any processing?"}
Q
cp d.bmp d2.bmp
QUESTION_PATH=q.jsonl GREEDY=1 DTE_FDM_OUTPUT=t/rec.jsonl MFLM_OUTPUT=t/masks run_as "$ROOT/scripts/test.sh"
expect_code 1; expect_err 'gone.bmp'
pass; [ "$(wc -l <t/rec.jsonl)" -eq 2 ] || fail "not two records"
pass; ! grep -q '"outputs": " ' t/rec.jsonl || fail "a leading space"
expect_file t/masks/d_mask.png

begin "no weights"
WEIGHT_PATH=nowhere IMAGE_PATH=d.bmp DTE_FDM_OUTPUT=n/rec.jsonl MFLM_OUTPUT=n/masks run_as "$ROOT/scripts/cli_demo.sh"
expect_code 3; expect_one_error 'nowhere'

begin "the includes' checker finds what is wrong"
mkdir -p p/src/model p/src/base p/src/backend p/src/cli p/src/text
printf '#include "tensor/ops.h"\n#include "model/model.h"\n#include <stdio.h>\n' >p/src/model/ok.c
run_as "$ROOT/scripts/check_includes.sh" p
expect_code 0
printf '\n#include "format/archive.h"\n' >p/src/model/bad.c
printf '#include "tensor/tensor.h"\n' >p/src/base/bad.h
printf '#include "tensor/tensor.h"\n#include "tensor/ops.h"\n' >p/src/backend/bad.c
printf '#include "base/base.h"\n#include <jansson.h>\n#include "cli.h"\n#include "fakeshield.h"\n' >p/src/cli/bad.c
printf '#include "../base/base.h"\n' >p/src/text/bad.cc
run_as "$ROOT/scripts/check_includes.sh" p
expect_code 1
expect_out '^src/model/bad.c:2: model may not include "format/archive.h"'
expect_out '^src/base/bad.h:1: base may not include'
expect_out '^src/backend/bad.c:2: backend may not include "tensor/ops.h"'
expect_out '^src/cli/bad.c:1: '; expect_out '^src/cli/bad.c:2: cli may not use <jansson.h>'
expect_out '^src/text/bad.cc:1: write the room'
pass; [ "$(wc -l <out)" -eq 6 ] || fail "not six offences"
finish

/* Timing the pipeline stage by stage. Private to this room: bench.c opens, chooses and reports, bench_stages.c runs the stages, bench_count.c
 * counts their work, bench_text.c makes a table of the report.
 *
 * The report: {version, model, synthetic, threads, kernels, processor, runs, prompt_tokens, roofs: {read_gb_per_second, int8_gop_per_second,
 * f32_gflop_per_second, int8_by, f32_by}, loads: [{stage, seconds}], stages: [stage], memory: [as in fs_describe], peak_bytes}
 * stage run:     {stage, what, runs, seconds: {median, min, max}, tokens, tokens_per_second, gb_per_second, gop_per_second, roof, share, peak_bytes}
 *                and of "picture" also parts: {...}; a number that makes no sense for a stage is null
 * stage not run: {stage, skipped: why} */
#ifndef FS_BENCH_H
#define FS_BENCH_H

#include <jansson.h>

#include "pipeline/pipeline.h"
#include "tensor/roof.h"

enum { FS_BENCH_MAX_RUNS = 1000 };

typedef enum fs_bench_roof { FS_BENCH_NO_ROOF = 0, FS_BENCH_READ, FS_BENCH_INT8, FS_BENCH_F32 } fs_bench_roof;

/* One stage's measurement. What a run does is in tokens, bytes (of weights, and of the key/value cache where one token at a time is
 * written) and ops; 0 = not stated. */
typedef struct fs_bench_row {
    char what[200], skipped[300];
    int runs;
    double seconds[FS_BENCH_MAX_RUNS];
    double shares[FS_BENCH_MAX_RUNS]; /* of the reading roof, measured beside each run; only where that is the roof */
    double tokens, bytes, ops;
    fs_bench_roof roof; /* what limits it */
    json_t *parts;      /* of a picture; owned */
} fs_bench_row;

typedef struct fs_bench_run {
    const fs_bench_options *o;
    fs_options opt; /* callbacks without text; threads resolved */
    const char *model_dir;
    fs_layout layout;
    fs_dte_fdm *stage1;
    fs_mflm *stage2;
    json_t *loads;
} fs_bench_run;

/* Opens stage 1 or 2 and closes the other; what it took is added to loads. */
fs_status fs_bench_open(fs_bench_run *b, int stage, fs_error *err);

int64_t fs_bench_resident(void); /* bytes of this program that are in memory now; 0 if the system does not say */

/* The stages. A stage that this model or machine cannot run says so in row->skipped. */
typedef fs_status (*fs_bench_fn)(fs_bench_run *b, fs_bench_row *row, fs_error *err);
fs_status fs_bench_dtg(fs_bench_run *b, fs_bench_row *row, fs_error *err);
fs_status fs_bench_clip(fs_bench_run *b, fs_bench_row *row, fs_error *err);
fs_status fs_bench_prefill(fs_bench_run *b, fs_bench_row *row, fs_error *err);
fs_status fs_bench_decode(fs_bench_run *b, fs_bench_row *row, fs_error *err);
fs_status fs_bench_decode8(fs_bench_run *b, fs_bench_row *row, fs_error *err);
fs_status fs_bench_score(fs_bench_run *b, fs_bench_row *row, fs_error *err);
fs_status fs_bench_sam(fs_bench_run *b, fs_bench_row *row, fs_error *err);
fs_status fs_bench_mask(fs_bench_run *b, fs_bench_row *row, fs_error *err);
fs_status fs_bench_picture(fs_bench_run *b, fs_bench_row *row, fs_error *err);

/* Work: operations (two a multiply-add) and bytes of weights. */
double fs_bench_bytes(const fs_tensor *t); /* as it lies in memory; 0 for NULL */
bool fs_bench_is_block(const fs_tensor *t); /* 4 to 8 bits: multiplied by the integer kernels */
double fs_bench_llama_bytes(const fs_llama *m);
/* `rows` new tokens behind `before` others; logits of `heads` of them. */
double fs_bench_llama_ops(const fs_llama *m, int64_t rows, int64_t before, int64_t heads);
double fs_bench_resnet_ops(const fs_resnet *m, int64_t side);
double fs_bench_clip_ops(const fs_clip *m, int select_layer);
double fs_bench_sam_ops(const fs_sam_encoder *m);

char *fs_bench_text(const json_t *report); /* malloc'ed; NULL when out of memory */

#endif

/* A checkpoint of a middle size for tests of quantization: the language models' rows are whole blocks of 256, which the tiny checkpoint's are
 * not, and their weights are drawn by formula with heavy tails and outlier channels; everything else is the tiny checkpoint's. Its texts are
 * gibberish, but stage 2 always answers [SEG], so that it runs through to a mask. */
#ifndef FS_TEST_MIDSIZE_H
#define FS_TEST_MIDSIZE_H

#include "base/base.h"

typedef struct fs_midsize {
    int64_t hidden, intermediate, heads, kv_heads, layers[2]; /* of both stages */
    bool tails;   /* Student's t with four degrees of freedom and outlier channels; else uniform */
    float sharp;  /* standard deviation of the logits: 3 gives next-token distributions of about 2 nats over 640 pieces */
    float memory; /* how strongly a token calls for the next one (token 7t + 3 after t): 0, or as `sharp`, which no rounding then drowns out */
} fs_midsize;
fs_midsize fs_midsize_defaults(void);
/* tiny: models/tiny; dir: an existing empty folder. */
fs_status fs_midsize_write(const char *tiny, const char *dir, const fs_midsize *size, fs_error *err);
void fs_midsize_remove(const char *dir); /* the folder and what fs_midsize_write or fs_convert put into it */

/* Uniform weights of fs_test_weight with variance 1/fan_in made into ones with the same variance and the tails of Student's t(4). */
void fs_heavy_tails(float *x, int64_t n, int64_t fan_in);

#endif

/* What a training step is fed: samples made of records (picture, texts, mask), in an order, by worker threads ahead of the step. */
#ifndef FS_TRAIN_DATA_H
#define FS_TRAIN_DATA_H

#include "text/text.h"

/* One record, decoded and preprocessed. Everything is owned; what a recipe has no use for is NULL or 0. */
typedef struct fs_sample {
    int64_t index;        /* of the record */
    fs_ids ids;           /* rendered conversation; FS_IMAGE_TOKEN where the picture goes */
    int32_t *labels;      /* [ids.count], FS_IGNORE (-100) where there is no loss: what position i itself should be, not yet shifted */
    float *clip;          /* [3, clip_size, clip_size]; NULL: a text without picture */
    float *sam;           /* [3, sam_size, sam_size] (MFLM) */
    int64_t sam_h, sam_w; /* the resized picture's size within it */
    uint8_t *mask;        /* [height, width], 0 or 1 (MFLM) */
    int64_t height, width;
    float *dtg;           /* [3, 224, 224] (DTG) */
    int32_t domain;       /* 0..2 (DTG), -1: none */
} fs_sample;
void fs_sample_free(fs_sample *s);

/* Where samples come from. load is called by several threads at once and must give the same sample for the same (index, draw); draw numbers
 * the times a record is used (epoch), for augmentation and for questions drawn at random. */
typedef struct fs_samples fs_samples;
struct fs_samples {
    int64_t count;
    fs_status (*load)(fs_samples *s, int64_t index, uint64_t draw, fs_sample *out, fs_error *err);
    int64_t (*length)(fs_samples *s, int64_t index); /* for batching by length (spec 6.5): words, negative without a picture; NULL: all alike */
    const char *(*name)(fs_samples *s, int64_t index); /* of the record's picture, for messages and validation files */
    void (*close)(fs_samples *s);
};
static inline void fs_samples_close(fs_samples *s) {
    if (s) s->close(s);
}

#endif

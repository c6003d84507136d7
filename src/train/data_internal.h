/* What the three kinds of samples share. Private to src/train/data_*.c. */
#ifndef FS_TRAIN_DATA_INTERNAL_H
#define FS_TRAIN_DATA_INTERNAL_H

#include "train/data.h"

/* The picture as CLIP is fed, malloc'ed [3, size, size]. */
fs_status fs_data_clip(const fs_image *im, bool pad, int64_t size, float **out, fs_error *err);
/* Appends a formatted part to a warning that may grow to several, "; " between. */
void fs_data_warn(fs_buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The warning with the record's name in front, for the sample; NULL where there is none. Frees b. */
char *fs_data_take_warning(fs_buffer *b, const char *where);
/* Problems that reading the data set noted, through the log. */
void fs_data_log_problems(const fs_dataset *d, const fs_callbacks *cb);
/* Leaves out the records marked; those kept move down. */
void fs_data_drop_records(fs_dataset *d, const uint8_t *bad);
/* The conversation as text: the picture in front of its turn, template, roles. malloc'ed. */
fs_status fs_data_render_conversation(const fs_data_record *r, const fs_conversation_options *opt, char **out, fs_error *err);
/* What is asked in one use of a record with a mask. placeless: FS_DATA_PLACELESS stands in for what is said of the picture. */
typedef struct fs_segm_draw { int question, answer; bool placeless; } fs_segm_draw;
#define FS_DATA_PLACELESS "1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with."
fs_segm_draw fs_data_segm_draw(const fs_segm_options *opt, bool described, int64_t record, uint64_t draw);
/* Question and answer as ids and labels. description NULL: a question that does without. */
fs_status fs_data_segm_ids(const fs_segm_options *opt, const char *description, fs_segm_draw draw, fs_sample *out, fs_buffer *warning, fs_error *err);
bool fs_data_no_labels(const int32_t *labels, size_t n);

#endif

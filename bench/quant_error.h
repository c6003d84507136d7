/* Shared by the parts of quant_error: a source of weights that passes them through other storage types, and how far results are apart. */
#ifndef FS_BENCH_QUANT_ERROR_H
#define FS_BENCH_QUANT_ERROR_H

#include "pipeline/bundle.h"
#include "tensor/tensor.h"

/* Which type the weight of that (upstream) name is to be stored in; FS_DTYPE_F32: left as it is. */
typedef struct variant variant;
typedef fs_dtype (*choose_fn)(const variant *v, const char *part, const char *name, const fs_tensor *t);
struct variant {
    char name[48];
    choose_fn choose;       /* NULL: the reference, every weight as it is */
    fs_bundle_type type;    /* a bundle's table: choose_table */
    const char *const *in;  /* choose_role: names that hold any of these words ... */
    fs_dtype as;            /* ... get this type */
    bool exact;             /* multiplied with activations as they are, instead of packed with activations of 8 bits */
    int64_t layers;         /* of the language model in hand, for the table; set by who binds it */
};
fs_dtype choose_table(const variant *v, const char *part, const char *name, const fs_tensor *t);
fs_dtype choose_role(const variant *v, const char *part, const char *name, const fs_tensor *t);
/* Any of the seven of a bundle, and q6_k, which is none by itself. False for another name. */
bool variant_of_type(const char *type, variant *out);

/* `inner` through the variant. part: as in fs_bundle_prefixes, "lm" for a language model. Ends the program where a weight cannot be stored. */
typedef struct stored stored;
stored *stored_create(const fs_tensor_source *inner, const char *part, const variant *v, int threads);
fs_tensor_source stored_source(stored *s);
void stored_free(stored *s);

/* Numbers kept after the arena is gone. */
typedef struct numbers { float *data; int64_t rows, cols; } numbers;
numbers numbers_keep(const fs_tensor *t); /* cols: the last dimension */
void numbers_free(numbers *x);

/* Squared sums over any number of results: the relative error is the root of error over size. */
typedef struct distance { double error, size; } distance;
void distance_add(distance *d, const numbers *x, const numbers *reference);
double distance_relative(const distance *d);

/* Kullback-Leibler divergences of next-token distributions, in nats, and how often the likeliest token is the same. */
typedef struct divergence { double *values; size_t count, capacity, same; } divergence;
void divergence_add(divergence *d, const numbers *logits, const numbers *reference, int64_t from, int64_t to); /* rows [from, to) */
typedef struct divergence_summary { double mean, p99, most, agree; } divergence_summary;
divergence_summary divergence_end(divergence *d); /* and frees it */

typedef struct overlap { int64_t both, either, changed, pixels; } overlap; /* of masks: logits above 0 */
void overlap_add(overlap *o, const numbers *logits, const numbers *reference);

_Noreturn void stop(const char *format, ...) __attribute__((format(printf, 1, 2)));
void check(fs_status status, const fs_error *err);
fs_exec begin_context(int threads);
void check_context(fs_exec *c);

/* The two modes. */
typedef struct settings { int threads, tokens; bool roles, plain; const char *clip_dir, *sam_file, *text; const char *const *types; size_t n_types; } settings;
void measure_checkpoint(const char *dir, const char *const *pictures, size_t n, const settings *s);
bool measure_full(const char *network, const settings *s); /* false: no such network */

#endif
